"""Language models that fuse modality vectors: a small one from scratch, and those of transformers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

import torch
from torch import Tensor, nn

from crystalfm.contracts import UserError
from crystalfm.encoders.transformer_block import TransformerBlock, attention_bias
from crystalfm.models import pretrained
from crystalfm.models.settings import check_choice, check_range

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path


class FusionBackbone(nn.Module, ABC):
    """A language model that reads one vector a modality.

    Args:
        width: length D of the vectors it reads and returns.
        causal: whether a modality sees only those before it.
    """

    def __init__(self, width: int, *, causal: bool) -> None:
        super().__init__()
        self.width = width
        self.causal = causal

    @abstractmethod
    def forward(self, inputs_embeds: Tensor, mask: Tensor) -> Tensor:
        """Return the last hidden states.

        Args:
            inputs_embeds: (B, M, D) modality vectors.
            mask: (B, M) bool, true where the row has the modality.

        Returns:
            (B, M, D), finite everywhere; what stands where ``mask`` is false means nothing.
        """

    @abstractmethod
    def attention(self, inputs_embeds: Tensor, mask: Tensor) -> Tensor:
        """Return the attention weights with which ``forward`` mixes the modalities, without dropout.

        Args:
            inputs_embeds: (B, M, D) modality vectors.
            mask: (B, M) bool, true where the row has the modality.

        Returns:
            (B, L, H, M, M) for L layers of H heads, queries along the fourth axis.
        """

    @abstractmethod
    def architecture(self) -> dict[str, Any]:
        """Return a plain dictionary from which `backbone_from_architecture` rebuilds the module."""


def attention_mask(mask: Tensor, *, causal: bool) -> Tensor:
    """Return which position may look at which.

    Every position may look at itself, absent ones too: a softmax over nothing would be NaN and, through the
    shared weights, poison the gradients of the whole batch.

    Args:
        mask: (B, M) bool, true where the row has the modality.
        causal: whether a modality sees only those before it.

    Returns:
        (B, 1, M, M) bool, queries along the third axis.
    """
    size = mask.shape[1]
    own = torch.eye(size, dtype=torch.bool, device=mask.device)
    allowed = mask[:, None, None, :].expand(-1, 1, size, size)
    if causal:
        allowed = allowed & torch.ones(size, size, dtype=torch.bool, device=mask.device).tril()
    return allowed | own


class TinyBackbone(FusionBackbone):
    """A small pre-norm transformer, trained from scratch.

    Args:
        width: length D of the vectors.
        num_layers: number of blocks.
        num_heads: attention heads; divides ``width``.
        dropout: dropout in attention and on the residual branches.
        mlp_ratio: width of the hidden layer of a block over ``width``.
        causal: whether a modality sees only those before it, as in GPT-2.

    Raises:
        UserError: a setting is out of range.
    """

    def __init__(
        self,
        *,
        width: int = 128,
        num_layers: int = 2,
        num_heads: int = 4,
        dropout: float = 0.0,
        mlp_ratio: float = 4.0,
        causal: bool = False,
    ) -> None:
        super().__init__(width, causal=causal)
        for key, number in (("width", width), ("num_layers", num_layers), ("num_heads", num_heads)):
            check_range(f"llm.{key}", number, low=1)
        check_range("llm.dropout", dropout, low=0, high=1, high_open=True)
        check_range("llm.mlp_ratio", mlp_ratio, low=0, low_open=True)
        if width % num_heads:
            raise UserError(
                f"llm.num_heads={num_heads} does not divide llm.width={width}",
                remedy="choose a width that is a multiple of the number of heads",
            )
        self._settings = {
            "width": width,
            "num_layers": num_layers,
            "num_heads": num_heads,
            "dropout": dropout,
            "mlp_ratio": mlp_ratio,
            "causal": causal,
        }
        hidden = max(int(width * mlp_ratio), 1)
        self.blocks = nn.ModuleList(TransformerBlock(width, num_heads, hidden, dropout) for _ in range(num_layers))
        self.norm = nn.LayerNorm(width)
        self._shrink_residuals(num_layers)

    def _shrink_residuals(self, num_layers: int) -> None:
        # GPT-2: the residual stream of a deep stack starts no wider than that of a shallow one.
        scale = (2 * num_layers) ** -0.5
        with torch.no_grad():
            for name, parameter in self.blocks.named_parameters():
                if name.endswith(("attention_output.weight", "mlp_output.weight")):
                    parameter.mul_(scale)

    def forward(self, inputs_embeds: Tensor, mask: Tensor) -> Tensor:
        """Return the last hidden states (B, M, D)."""
        bias = attention_bias(attention_mask(mask, causal=self.causal), inputs_embeds.dtype)
        hidden = inputs_embeds
        for block in self.blocks:
            hidden = block(hidden, bias)
        output: Tensor = self.norm(hidden)
        return output

    def attention(self, inputs_embeds: Tensor, mask: Tensor) -> Tensor:
        """Return the attention weights (B, L, H, M, M)."""
        bias = attention_bias(attention_mask(mask, causal=self.causal), inputs_embeds.dtype)
        hidden, found = inputs_embeds, []
        for block in cast("Iterable[TransformerBlock]", self.blocks):
            found.append(block.attention(hidden, bias))
            hidden = block(hidden, bias)
        return torch.stack(found, dim=1)

    def architecture(self) -> dict[str, Any]:
        """Return the constructor's settings and ``kind``."""
        return {"kind": "tiny", **self._settings}


class TransformersBackbone(FusionBackbone):
    """A decoder of transformers, fed through ``inputs_embeds``; `PretrainedBackbone` says how it is changed.

    Args:
        model: a supported model of transformers; it is changed in place.
        settings: what to change.

    Raises:
        UserError: the model has fewer layers than asked for, or peft is missing.
    """

    def __init__(self, model: nn.Module, settings: pretrained.PretrainedSettings) -> None:
        super().__init__(pretrained.hidden_size(model), causal=settings.causal)
        self._settings = settings
        self._config = pretrained.plain_config(model)
        self.model = pretrained.adapt_model(model, settings)

    @staticmethod
    def from_architecture(architecture: Mapping[str, Any]) -> TransformersBackbone:
        """Rebuild the module without the asset, its weights untrained; a checkpoint's weights come after.

        Args:
            architecture: what `architecture` returned.

        Raises:
            UserError: the dictionary names a model type that is not supported.
        """
        settings = pretrained.PretrainedSettings(**architecture["settings"])
        return TransformersBackbone(pretrained.empty_model(architecture["config"]), settings)

    def forward(self, inputs_embeds: Tensor, mask: Tensor) -> Tensor:
        """Return the last hidden states (B, M, D) in the type of ``inputs_embeds``."""
        hidden: Tensor = self._run(inputs_embeds, mask).last_hidden_state
        return hidden.to(inputs_embeds.dtype)

    def attention(self, inputs_embeds: Tensor, mask: Tensor) -> Tensor:
        """Return the attention weights (B, L, H, M, M)."""
        # The fused kernel of ``forward`` never has them; transformers' plain attention computes the same with them.
        with pretrained.plain_attention(self.model):
            return torch.stack(self._run(inputs_embeds, mask, output_attentions=True).attentions, dim=1)

    def _run(self, inputs_embeds: Tensor, mask: Tensor, *, output_attentions: bool = False) -> Any:
        """Return what the language model says."""
        dtype = getattr(torch, self._settings.weights_dtype)
        allowed = attention_mask(mask, causal=self.causal)
        # A mask of our own in additive form: transformers passes four axes on as they are.
        bias = torch.zeros(allowed.shape, dtype=dtype, device=mask.device)
        bias = bias.masked_fill(~allowed, torch.finfo(dtype).min)
        places = torch.arange(mask.shape[1], device=mask.device)
        if self._settings.positions == "zero":
            places = torch.zeros_like(places)
        return self.model(
            inputs_embeds=inputs_embeds.to(dtype),
            attention_mask=bias,
            position_ids=places[None, :].expand(mask.shape[0], -1),
            use_cache=False,
            output_attentions=output_attentions,
        )

    def architecture(self) -> dict[str, Any]:
        """Return the settings, the language model's configuration and ``kind``: enough to rebuild offline."""
        return {"kind": "pretrained", "settings": self._settings.plain(), "config": self._config}


class _FetchedAsset(Protocol):
    @property
    def folder(self) -> Path: ...


class Store(Protocol):
    """What a backbone needs of the asset store."""

    def fetch(self, name: str) -> _FetchedAsset:
        """Return a complete, verified asset."""
        ...


class PretrainedBackbone(TransformersBackbone):
    """A pretrained decoder of transformers, fed through ``inputs_embeds``.

    Modality m always stands at position m, so that an absent modality shifts no other. What the language
    model's own positions do on top of LLM-Fusion's modality positions is set by ``positions``:

    * GPT-2 adds a learned vector (``wpe[m]``) to each input. ``keep`` leaves it in place, trained like the
      other weights; ``zero`` sets the table to zero and freezes it.
    * LLaMA and its kin rotate queries and keys by their position, so only the distance between two modalities
      matters. ``keep`` leaves the rotation at position m; ``zero`` gives all modalities the same position,
      which makes every relative rotation the identity.

    The token embedding is never used and is removed: it is neither trained, nor counted, nor saved.

    Args:
        store: asset store that holds the weights (runtime).
        asset: name of the asset, a folder in Hugging Face format.
        gguf_file: name of a GGUF file in the asset to read instead of ``config.json`` and its weights.
        positions: ``keep`` or ``zero`` the language model's own positions.
        causal: whether a modality sees only those before it, as the decoder was trained.
        trainable: which pretrained weights learn: ``all``, ``norms`` (norms and kept position vectors) or
            ``none``. Unset means ``all`` without LoRA and ``none`` with it.
        lora_rank: rank of low-rank adapters (LoRA, arXiv 2106.09685) on every linear layer, or ``None``.
        lora_alpha: the adapters' output is scaled by ``lora_alpha / lora_rank``.
        lora_dropout: dropout on the adapters' input.
        num_layers: keep only the first layers, or ``None`` for all.
        dropout: replaces every dropout rate of the language model, or ``None`` to keep them.
        gradient_checkpointing: recompute activations in the backward pass to save memory.
        weights_dtype: type in which the language model's weights are held.
        lora_targets: names of the linear layers that get adapters, or ``None`` for all.
        quantization: of a generator's frozen weights; a backbone that fuses modalities refuses it.

    Raises:
        UserError: the asset does not fit, a setting is out of range, or an optional package is missing.
    """

    def __init__(
        self,
        *,
        store: Store,
        asset: str,
        gguf_file: str | None = None,
        positions: Literal["keep", "zero"] = "keep",
        causal: bool = True,
        trainable: Literal["all", "norms", "none"] | None = None,
        lora_rank: int | None = None,
        lora_alpha: float = 16.0,
        lora_dropout: float = 0.0,
        num_layers: int | None = None,
        dropout: float | None = None,
        gradient_checkpointing: bool = False,
        weights_dtype: Literal["float32", "bfloat16"] = "float32",
        lora_targets: list[str] | None = None,
        quantization: Literal["8bit", "4bit"] | None = None,
    ) -> None:
        settings = pretrained.PretrainedSettings(
            asset=asset,
            positions=positions,
            causal=causal,
            trainable=trainable,
            lora_rank=lora_rank,
            lora_alpha=lora_alpha,
            lora_dropout=lora_dropout,
            num_layers=num_layers,
            dropout=dropout,
            gradient_checkpointing=gradient_checkpointing,
            weights_dtype=weights_dtype,
            lora_targets=None if lora_targets is None else list(lora_targets),
            quantization=quantization,
        )
        if quantization is not None:
            raise UserError(
                f"llm.quantization={quantization} is for model=crystal_llm; fusion needs the weights as they are",
                remedy="llm.quantization=null, and llm.weights_dtype=bfloat16 to save memory",
            )
        model = pretrained.load_model(store.fetch(asset).folder, asset=asset, gguf_file=gguf_file)
        super().__init__(model, settings)


def backbone_from_architecture(architecture: Mapping[str, Any]) -> FusionBackbone:
    """Rebuild a backbone from what its ``architecture`` returned; its weights come from a checkpoint.

    Raises:
        UserError: the kind is not known.
    """
    kind = str(architecture.get("kind"))
    check_choice("llm.kind", kind, ("tiny", "pretrained"))
    if kind == "pretrained":
        return TransformersBackbone.from_architecture(architecture)
    return TinyBackbone(**{key: value for key, value in architecture.items() if key != "kind"})
