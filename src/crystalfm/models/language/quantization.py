"""Weights of 8 and 4 bits through bitsandbytes: what transformers is told, and what has to be kept from happening."""

from __future__ import annotations

import importlib.util
import logging
from typing import TYPE_CHECKING, Any, Literal

from crystalfm.contracts import UserError

if TYPE_CHECKING:
    import torch


def packing(quantization: Literal["8bit", "4bit"], dtype: torch.dtype) -> Any:
    """Return the configuration with which transformers packs linear layers: LLM.int8 or NF4 (arXiv 2305.14314).

    Args:
        quantization: how many bits.
        dtype: type in which 4-bit weights compute.

    Raises:
        UserError: bitsandbytes is missing.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(
            f"llm.quantization={quantization} needs the package bitsandbytes",
            remedy="pip install 'crystalfm[generate]'",
        )
    from transformers import BitsAndBytesConfig

    quiet_bitsandbytes()
    build: Any = BitsAndBytesConfig
    if quantization == "8bit":
        return build(load_in_8bit=True)
    return build(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)


def keep_packing(model: Any) -> None:
    """Keep 4-bit weights as they were packed, in place.

    On some CPUs bitsandbytes packs them anew, with coarser scales, in the first forward pass in evaluation mode. That
    form has no backward pass: a training would go on after its first validation with wrong gradients.
    """
    for layer in model.modules():
        if type(layer).__name__ == "Linear4bit":
            layer.support_avx512bf16_for_cpu = False


def is_quantized(model: Any) -> bool:
    """Say whether a model's linear layers are held in 8 or 4 bits."""
    return any(type(layer).__name__ in {"Linear8bitLt", "Linear4bit"} for layer in model.modules())


def quiet_bitsandbytes() -> None:
    """Silence its remark, whenever peft imports it, on a kernel that nothing here needs."""
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
