"""The forward pass of small LLaMAs on packed rows, without what transformers' modules cost each time they are called.

For networks of this size the work between two matrix products weighs as much as one: here the projections that share
an input are one product, and keys and queries are turned together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import linear, rms_norm, silu

from crystalfm.generation.engines.slots import attend

if TYPE_CHECKING:
    from torch import Tensor

    from crystalfm.generation.engines.slots import SlotCache

_MODEL_TYPE = "llama"
_MOST_PARAMETERS = 1_000_000_000
"""In larger networks modules cost next to nothing, and the joined weights would take memory."""


@dataclass(frozen=True)
class _Layer:
    """Weights of a layer.

    Attributes:
        attention_norm: (width,).
        projections: weight and bias of queries, keys and values.
        output: weight and bias of the attention's output.
        mlp_norm: (width,).
        gates: weight and bias of the two inner projections.
        down: weight and bias of the outer one.
    """

    attention_norm: Tensor
    projections: tuple[Tensor, Tensor | None]
    output: tuple[Tensor, Tensor | None]
    mlp_norm: Tensor
    gates: tuple[Tensor, Tensor | None]
    down: tuple[Tensor, Tensor | None]


class PackedLlama:
    """A LLaMA on rows of tokens of many texts.

    Args:
        network: ``LlamaModel`` of transformers with plain linear layers; see ``fits``.
    """

    def __init__(self, network: Any) -> None:
        config = network.config
        self._embeddings = network.embed_tokens.weight.detach()
        self._rotary = network.rotary_emb
        self._norm = network.norm.weight.detach()
        self._eps = float(config.rms_norm_eps)
        attention = network.layers[0].self_attn
        self._head_width = int(attention.head_dim)
        self._num_heads = int(config.num_attention_heads)
        self._num_key_heads = int(config.num_key_value_heads)
        self._scaling = float(attention.scaling)
        self._layers = [_layer(layer) for layer in network.layers]

    @staticmethod
    def fits(model: Any) -> bool:
        """Return whether a causal language model is a small LLaMA without quantised, adapted or other linear layers."""
        if model.config.model_type != _MODEL_TYPE or model.config.hidden_act != "silu":
            return False
        network = getattr(model, model.base_model_prefix)
        types = {type(module).__name__ for module in network.modules()}
        known = {
            "LlamaModel", "Embedding", "ModuleList", "LlamaDecoderLayer", "LlamaAttention", "LlamaMLP", "Linear",
            "LlamaRMSNorm", "LlamaRotaryEmbedding", "SiLU", "SiLUActivation",
        }  # fmt: skip
        plain = all(
            type(module) is torch.nn.Linear for module in network.modules() if type(module).__name__ == "Linear"
        )
        hooked = any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())  # noqa: SLF001
        size = sum(parameter.numel() for parameter in network.parameters())
        return types <= known and plain and not hooked and size <= _MOST_PARAMETERS

    def __call__(self, ids: Tensor, cache: SlotCache) -> Tensor:
        """Return the last hidden states (S, width) of each slot's last new token.

        Args:
            ids: (T,) new tokens.
            cache: keys and values, with the step's layout.
        """
        layout = cache.require_layout()
        hidden = self._embeddings[ids]
        width = (hidden.shape[1],)
        cosine, sine = self._rotary(hidden[None], position_ids=layout.positions[None])
        cosine, sine = cosine[0, :, None], sine[0, :, None]
        half = self._head_width // 2
        # Turning by halves: the sine's sign is put into it once for all layers.
        sine = torch.cat([-sine[..., :half], sine[..., half:]], dim=-1)
        turned_heads = self._num_heads + self._num_key_heads
        for index, layer in enumerate(self._layers):
            normed = rms_norm(hidden, width, layer.attention_norm, self._eps)
            heads = linear(normed, *layer.projections).view(len(ids), -1, self._head_width)
            plain = heads[:, :turned_heads]
            swapped = torch.cat([plain[..., half:], plain[..., :half]], dim=-1)
            turned = torch.addcmul(plain * cosine, swapped, sine)
            cache.store(index, turned[:, self._num_heads :], heads[:, turned_heads:])
            mixed = attend(turned[:, : self._num_heads], *cache.layer(index), layout, self._scaling)
            hidden = hidden + linear(mixed.flatten(1), *layer.output)
            normed = rms_norm(hidden, width, layer.mlp_norm, self._eps)
            gate, up = linear(normed, *layer.gates).chunk(2, dim=-1)
            hidden = hidden + linear(silu(gate) * up, *layer.down)
        return rms_norm(hidden[layout.last], width, self._norm, self._eps)


def _layer(layer: Any) -> _Layer:
    attention, mlp = layer.self_attn, layer.mlp
    return _Layer(
        attention_norm=layer.input_layernorm.weight.detach(),
        projections=_joined(attention.q_proj, attention.k_proj, attention.v_proj),
        output=_joined(attention.o_proj),
        mlp_norm=layer.post_attention_layernorm.weight.detach(),
        gates=_joined(mlp.gate_proj, mlp.up_proj),
        down=_joined(mlp.down_proj),
    )


def _joined(*modules: Any) -> tuple[Tensor, Tensor | None]:
    """Return weight and bias of several linear layers as one."""
    first = modules[0]
    if len(modules) == 1:
        return first.weight.detach(), None if first.bias is None else first.bias.detach()
    weight = torch.cat([module.weight.detach() for module in modules])
    return weight, None if first.bias is None else torch.cat([module.bias.detach() for module in modules])
