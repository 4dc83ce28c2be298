"""The model of a generation at work: on its device, in its precision, behind the engine asked for."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from crystalfm.contracts import UserError
from crystalfm.io.checkpoints import WRITER_FILE
from crystalfm.io.files import sha256_file
from crystalfm.run.exporting.folder import is_exported_predictor
from crystalfm.run.exporting.generator import Origin, export_writer
from crystalfm.run.folder import find_checkpoint

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from crystalfm.generation.sampling import Engine
    from crystalfm.generation.writer import CrystalWriter

_PRECISIONS: dict[str, Literal["auto", "bf16", "fp32"]] = {
    "auto": "auto",
    "32-true": "fp32",
    "bf16-true": "bf16",
    "bf16-mixed": "bf16",
}


_VLLM_TYPES = {"auto": "auto", "fp32": "float32", "bf16": "bfloat16"}


def checkpoint_digest(location: str) -> str:
    """Return the SHA-256 of a checkpoint file, or of the files of an exported folder.

    Raises:
        UserError: there is no checkpoint.
    """
    folder = Path(location).expanduser()
    if not ((folder / WRITER_FILE).is_file() or is_exported_predictor(folder)):
        return sha256_file(find_checkpoint(location))
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.iterdir() if path.is_file()):
        digest.update(f"{file.name} {sha256_file(file)}\n".encode())
    return digest.hexdigest()


def sampling_precision(cfg: DictConfig) -> Literal["auto", "bf16", "fp32"]:
    """Return the precision of the sampling.

    Raises:
        UserError: no sampler offers it.
    """
    found = _PRECISIONS.get(str(cfg.trainer.precision))
    if found is None:
        raise UserError(
            f"trainer.precision={cfg.trainer.precision} is not offered for sampling",
            remedy=f"trainer.precision={', '.join(_PRECISIONS)}",
        )
    return found


def device_of(cfg: DictConfig) -> str:
    """Return the device that ``trainer`` asks for: the first of several."""
    import torch

    wanted = str(cfg.trainer.accelerator)
    has_cuda, has_mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if wanted == "mps" or (wanted in {"auto", "gpu"} and has_mps and not has_cuda):
        return "mps"
    if wanted == "cpu" or (wanted == "auto" and not has_cuda):
        return "cpu"
    if not has_cuda:
        raise UserError(f"trainer.accelerator={wanted}: there is no GPU here", remedy="trainer.accelerator=cpu")
    devices = cfg.trainer.devices
    return "cuda" if isinstance(devices, (int, str)) else f"cuda:{devices[0]}"


def make_engine(cfg: DictConfig, writer: CrystalWriter, folder: Path) -> Engine:
    """Return the engine that the configuration asks for.

    Args:
        cfg: configuration with ``ckpt``, ``engine`` and ``trainer``.
        writer: the model; moved to its device and turned to its precision, or its adapters merged.
        folder: folder of the generation; for vLLM the model is written into it.

    Raises:
        UserError: the device or precision is not there, or the engine cannot run the model.
    """
    precision = sampling_precision(cfg)
    if cfg.engine == "vllm":
        from crystalfm.generation.engines.vllm_engine import VllmEngine

        return VllmEngine(_model_folder(cfg, writer, folder), writer.prompts, dtype=_VLLM_TYPES[precision])
    from crystalfm.generation.engines.transformers_engine import TransformersEngine

    move_to_device(cfg, writer)
    return TransformersEngine(writer, precision)


def move_to_device(cfg: DictConfig, writer: CrystalWriter) -> None:
    """Move the model to the device that ``trainer`` asks for; a quantised one stays where its weights were packed.

    Raises:
        UserError: there is no such device here.
    """
    if not getattr(writer.model, "is_quantized", False):
        writer.model.to(device_of(cfg))


def _model_folder(cfg: DictConfig, writer: CrystalWriter, folder: Path) -> Path:
    """Return a folder in Hugging Face format: the one given, else one exported beside the samples."""
    given, exported = Path(cfg.ckpt).expanduser(), folder / "model"
    if (given / WRITER_FILE).is_file():
        return given
    if not (exported / WRITER_FILE).is_file():
        export_writer(writer, exported, Origin())
    return exported
