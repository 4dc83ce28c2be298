"""Low-rank adapters (LoRA, arXiv 2106.09685) of a language model, through peft."""

from __future__ import annotations

import importlib.util
import warnings
from typing import TYPE_CHECKING, Any

from crystalfm.contracts import UserError
from crystalfm.models.language.quantization import is_quantized, quiet_bitsandbytes
from crystalfm.models.pretrained import linear_layers, require_targets

if TYPE_CHECKING:
    from pathlib import Path

    from crystalfm.models.pretrained import PretrainedSettings


def add_adapters(model: Any, settings: PretrainedSettings, rank: int) -> Any:
    """Wrap a causal language model in adapters of float32; its own weights are frozen.

    Args:
        model: causal language model of transformers, changed in place.
        settings: scale, dropout and targets of the adapters.
        rank: rank of each adapter.

    Returns:
        a ``peft.PeftModel`` around ``model``.

    Raises:
        UserError: peft is missing, or a target is no linear layer below the head.
    """
    if importlib.util.find_spec("peft") is None:
        raise UserError("llm.lora_rank needs the package peft", remedy="pip install 'crystalfm[generate]'")
    quiet_bitsandbytes()
    import peft

    # The head is left out: it often shares its weights with the embedding, which a merge would tear apart.
    targets = settings.lora_targets or linear_layers(model.base_model)
    require_targets(model.base_model, targets)
    alpha = settings.lora_alpha
    build: Any = peft.LoraConfig
    config = build(
        r=rank,
        lora_alpha=int(alpha) if float(alpha).is_integer() else alpha,  # some readers know whole numbers only
        lora_dropout=settings.lora_dropout,
        target_modules=targets,
        bias="none",
        fan_in_fan_out=model.config.model_type == "gpt2",  # its linear layers are Conv1D, stored transposed
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():
        # peft asks for a property under a name that transformers has replaced.
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing")
        wrapped = peft.get_peft_model(model, config, autocast_adapter_dtype=False)
    for name, parameter in wrapped.named_parameters():
        if "lora_" in name:  # small updates would be lost in bfloat16; peft casts around the adapters
            parameter.data = parameter.data.float()
    return wrapped


def has_adapters(model: Any) -> bool:
    """Say whether a model is wrapped by peft."""
    return hasattr(model, "peft_config")


def save_adapters(model: Any, folder: Path, *, base_name: str | None) -> None:
    """Write a model's adapters in peft's own format (``adapter_config.json``, ``adapter_model.safetensors``).

    Args:
        model: a model with adapters.
        folder: where the files are written.
        base_name: how others know the base, or ``None``.

    Raises:
        UserError: the model has no adapters.
    """
    if not has_adapters(model):
        raise UserError(
            "the model has no adapters: all its weights were trained",
            remedy="export the whole model (adapter=false), or train with llm.lora_rank",
        )
    for config in model.peft_config.values():
        config.base_model_name_or_path = base_name
    # The embedding is as in the base; peft would look the base up in the hub to find that out.
    model.save_pretrained(folder, save_embedding_layers=False)


def merge_adapters(model: Any) -> Any:
    """Add the adapters to the weights they adapt, in place, and return the plain model of transformers.

    A model without adapters is returned as it is.

    Raises:
        UserError: the weights are quantised, or a merged one is not finite.
    """
    if not has_adapters(model):
        return model
    if is_quantized(model):
        raise UserError(
            "adapters of an 8- or 4-bit model cannot be merged without rounding them to so few bits",
            remedy="export the adapters alone (adapter=true) and load them on the base, quantised as in training",
        )
    try:
        return model.merge_and_unload(safe_merge=True)
    except ValueError as error:
        raise UserError(
            f"the adapters cannot be merged: {error}", remedy="the training diverged; use an earlier checkpoint"
        ) from error
