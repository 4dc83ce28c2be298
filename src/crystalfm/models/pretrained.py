"""Pretrained decoders of transformers: loading, and what is changed in them before they fuse modalities."""

from __future__ import annotations

import importlib.util
import json
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from crystalfm.contracts import UserError
from crystalfm.encoders.pretrained import quiet
from crystalfm.models.settings import check_choice, check_range

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

_ATTENTION = "sdpa"  # transformers' name of PyTorch's fused kernels
_LORA_TARGETS: Mapping[str, tuple[str, ...]] = {
    "gpt2": ("c_attn", "c_proj", "c_fc"),
    "llama": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    "mistral": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    "qwen2": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
}
# The token embedding is removed anyway; a vocabulary of one spares its memory when a model is rebuilt.
_NO_VOCABULARY: Mapping[str, Any] = {
    "vocab_size": 1,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
}
SUPPORTED_TYPES = tuple(_LORA_TARGETS)
"""Model types of transformers that can fuse modalities."""


@dataclass(frozen=True)
class PretrainedSettings:
    """How a pretrained language model is changed; see `PretrainedBackbone` for each setting.

    Raises:
        UserError: a value is out of range, or ``trainable`` and ``lora_rank`` contradict each other.
    """

    asset: str
    positions: Literal["keep", "zero"]
    causal: bool
    trainable: Literal["all", "norms", "none"] | None
    lora_rank: int | None
    lora_alpha: float
    lora_dropout: float
    num_layers: int | None
    dropout: float | None
    gradient_checkpointing: bool
    weights_dtype: Literal["float32", "bfloat16"]
    lora_targets: list[str] | None = None
    quantization: Literal["8bit", "4bit"] | None = None

    def __post_init__(self) -> None:
        """Check every value."""
        check_choice("llm.positions", self.positions, ("keep", "zero"))
        check_choice("llm.weights_dtype", self.weights_dtype, ("float32", "bfloat16"))
        if self.trainable is not None:
            check_choice("llm.trainable", self.trainable, ("all", "norms", "none"))
        if self.lora_rank is not None:
            check_range("llm.lora_rank", self.lora_rank, low=1)
            if self.trainable == "all":
                raise UserError(
                    "llm.trainable=all and llm.lora_rank contradict each other",
                    remedy="LoRA keeps pretrained matrices frozen: leave llm.trainable unset, or set 'norms'",
                )
        if self.num_layers is not None:
            check_range("llm.num_layers", self.num_layers, low=1)
        if self.dropout is not None:
            check_range("llm.dropout", self.dropout, low=0, high=1, high_open=True)
        check_range("llm.lora_alpha", self.lora_alpha, low=0, low_open=True)
        check_range("llm.lora_dropout", self.lora_dropout, low=0, high=1, high_open=True)
        if self.quantization is not None:
            check_choice("llm.quantization", self.quantization, ("8bit", "4bit"))
        if self.lora_targets is not None and not self.lora_targets:
            raise UserError(
                "llm.lora_targets=[] leaves nothing to adapt", remedy="name layers ([q_proj,v_proj]), or null for all"
            )

    @property
    def trained_part(self) -> Literal["all", "norms", "none"]:
        """Which pretrained weights learn, with the default filled in."""
        if self.trainable is not None:
            return self.trainable
        return "all" if self.lora_rank is None else "none"

    def plain(self) -> dict[str, Any]:
        """Return the settings as a plain dictionary."""
        return asdict(self)


def _check_type(model_type: str | None, asset: str) -> None:
    if model_type not in SUPPORTED_TYPES:
        raise UserError(
            f"asset '{asset}' holds a language model of type {model_type!r}, which cannot fuse modalities",
            remedy=f"supported types: {', '.join(SUPPORTED_TYPES)}",
        )


def load_model(folder: Path, *, asset: str, gguf_file: str | None) -> nn.Module:
    """Read a decoder from a folder; nothing is downloaded and no code of the folder is run.

    Args:
        folder: folder in Hugging Face format, or one that holds ``gguf_file``.
        asset: name for messages.
        gguf_file: GGUF file in the folder, or ``None``.

    Raises:
        UserError: a file is missing or unreadable, the type is not supported, or gguf is not installed.
    """
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoModel

    wanted = gguf_file or "config.json"
    if not (folder / wanted).is_file():
        raise UserError(
            f"asset '{asset}' has no file {wanted} in {folder}",
            remedy="it needs config.json and model.safetensors (Hugging Face format), or llm.gguf_file",
        )
    if gguf_file is not None and importlib.util.find_spec("gguf") is None:
        raise UserError("reading a GGUF file needs the package gguf", remedy="pip install 'crystalfm[llm]'")
    options = {"gguf_file": gguf_file} if gguf_file is not None else {}
    with quiet():
        try:
            config = AutoConfig.from_pretrained(folder, local_files_only=True, **options)
            _check_type(config.model_type, asset)
            model, report = AutoModel.from_pretrained(
                folder, local_files_only=True, attn_implementation=_ATTENTION, output_loading_info=True, **options
            )
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise UserError(
                f"asset '{asset}' in {folder} cannot be read: {error}",
                remedy="fetch it again (python -m crystalfm.fetch) or mend the mirror",
            ) from error
    missing = sorted(report["missing_keys"])
    if missing:  # transformers would train on with random values
        raise UserError(
            f"the weights of asset '{asset}' in {folder} lack {len(missing)} tensors: {', '.join(missing[:3])}",
            remedy="the files do not belong to this config.json; fetch the asset again or mend the mirror",
        )
    loaded: nn.Module = model
    return loaded


def empty_model(config: Mapping[str, Any]) -> nn.Module:
    """Build a decoder from its plain configuration, weights untrained.

    Raises:
        UserError: the type is not supported.
    """
    from transformers import AutoConfig, AutoModel

    values = dict(config)
    model_type = values.pop("model_type", None)
    _check_type(model_type, "checkpoint")
    values |= _NO_VOCABULARY
    builder: Any = AutoModel
    with quiet():
        model: nn.Module = builder.from_config(
            AutoConfig.for_model(model_type, **values), attn_implementation=_ATTENTION
        )
    return model


def plain_config(model: nn.Module) -> dict[str, Any]:
    """Return a transformers model's configuration as plain containers, without what tells of its vocabulary."""
    config: Any = model.config
    plain: dict[str, Any] = json.loads(config.to_json_string(use_diff=False))
    dropped = {"auto_map", "transformers_version", *_NO_VOCABULARY}
    return {key: value for key, value in plain.items() if not key.startswith("_") and key not in dropped}


def hidden_size(model: nn.Module) -> int:
    """Return the width of a transformers model's hidden states."""
    config: Any = model.config
    return int(config.hidden_size)


def adapt_model(model: nn.Module, settings: PretrainedSettings) -> nn.Module:
    """Change a decoder in place so that it fuses modalities as the settings say, and return it.

    Args:
        model: a supported model of transformers, fresh or loaded.
        settings: what to change.

    Raises:
        UserError: more layers asked for than there are, or peft is missing.
    """
    transformers_model: Any = model
    transformers_model.set_input_embeddings(nn.Identity())
    if settings.num_layers is not None:
        truncate_layers(model, settings.num_layers)
    if settings.dropout is not None:
        set_dropout(model, settings.dropout)
    model.to(getattr(torch, settings.weights_dtype))
    if settings.lora_rank is not None:
        _add_lora(model, settings, settings.lora_rank)
    _freeze(model, settings)
    model.train()  # from_pretrained leaves it in evaluation mode, and the trainer keeps what it finds
    if settings.gradient_checkpointing:
        transformers_model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model


@contextmanager
def plain_attention(model: nn.Module) -> Iterator[None]:
    """Let a model of transformers compute its attention without a fused kernel, which would not tell its weights."""
    transformers_model: Any = model
    transformers_model.set_attn_implementation("eager")
    try:
        yield
    finally:
        transformers_model.set_attn_implementation(_ATTENTION)


def truncate_layers(model: nn.Module, num_layers: int) -> None:
    """Keep the first layers of a decoder without a head, in place.

    Raises:
        UserError: it has fewer.
    """
    name = "h" if hasattr(model, "h") else "layers"
    layers: Any = getattr(model, name)
    if num_layers > len(layers):
        raise UserError(
            f"llm.num_layers={num_layers}, but the language model has {len(layers)} layers",
            remedy=f"use at most {len(layers)}",
        )
    setattr(model, name, layers[:num_layers])
    config: Any = model.config
    config.num_hidden_layers = num_layers


def set_dropout(model: nn.Module, rate: float) -> None:
    """Replace every dropout rate of a model of transformers, in place."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = rate
        attention: Any = module
        if isinstance(getattr(module, "attention_dropout", None), float):  # LLaMA keeps a bare number
            attention.attention_dropout = rate


def _add_lora(model: nn.Module, settings: PretrainedSettings, rank: int) -> None:
    if importlib.util.find_spec("peft") is None:
        raise UserError("llm.lora_rank needs the package peft", remedy="pip install 'crystalfm[llm]'")
    import peft

    config: Any = model.config
    targets = settings.lora_targets or list(_LORA_TARGETS[config.model_type])
    require_targets(model, targets)
    build: Any = peft.LoraConfig  # annotates alpha as int, divides it as any number
    adapters = build(
        r=rank,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules=targets,
        fan_in_fan_out=config.model_type == "gpt2",  # its linear layers are Conv1D, stored transposed
    )
    peft.inject_adapter_in_model(adapters, model)
    for name, parameter in model.named_parameters():
        if "lora_" in name:  # small updates would be lost in bfloat16; peft casts around the adapters
            parameter.data = parameter.data.float()


def linear_layers(model: nn.Module) -> list[str]:
    """Return the names of a model's linear layers, each the last part of its path, sorted."""
    # GPT-2's Conv1D and quantised layers count as linear too.
    kinds = ("Linear", "Conv1D", "Linear4bit", "Linear8bitLt")
    return sorted({name.rpartition(".")[2] for name, layer in model.named_modules() if type(layer).__name__ in kinds})


def require_targets(model: nn.Module, targets: Sequence[str]) -> None:
    """Refuse names of layers that a model does not have, or that are no linear layers.

    Raises:
        UserError: names those that fit.
    """
    linear = linear_layers(model)
    unknown = [name for name in targets if name not in linear]
    if unknown:
        raise UserError(
            f"llm.lora_targets: the language model has no linear layer {', '.join(unknown)}",
            remedy=f"its linear layers: {', '.join(linear)}",
        )


def _freeze(model: nn.Module, settings: PretrainedSettings) -> None:
    part = settings.trained_part
    freeze_weights(model, part)
    table = getattr(model, "wpe", None)
    if isinstance(table, nn.Embedding):
        if settings.positions == "zero":
            nn.init.zeros_(table.weight)
        table.requires_grad_(requires_grad=settings.positions == "keep" and part != "none")


def freeze_weights(model: nn.Module, part: Literal["all", "norms", "none"]) -> None:
    """Say which pretrained weights of a model learn, in place; adapters are left as they are."""
    for name, parameter in model.named_parameters():
        if "lora_" not in name:
            parameter.requires_grad_(part == "all")
    if part == "norms":
        for module in model.modules():
            if isinstance(module, nn.LayerNorm) or type(module).__name__.endswith("RMSNorm"):
                module.requires_grad_(requires_grad=True)
