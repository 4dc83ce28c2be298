"""Checkpoint files: where they lie in a run folder, and how they are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from crystalfm.contracts import UserError

SCHEMA_VERSION = 1
"""Version of the ``crystalfm`` section of a checkpoint."""

PAYLOAD_KEY = "crystalfm"
"""Key of the section that holds what evaluation needs beside the weights."""

LAST_CHECKPOINT = "last.ckpt"
"""Newest complete state; training resumes from it."""

BEST_CHECKPOINT = "best.ckpt"
"""Weights with the lowest monitored validation loss; evaluation and prediction use them."""

REFERENCE_FILE = "reference.json"
"""In the exported folder of a predictor: predictions that are repeated when it is loaded."""

HUB_SCHEME = "hf://"
"""Start of the address of an exported folder in the Hugging Face hub, ``hf://owner/name[@revision]``."""

WRITER_FILE = "crystalfm.json"
"""In the exported folder of a generator: how prompts and crystals are worded."""


def find_checkpoint(location: str | Path, *, prefer: str = BEST_CHECKPOINT, key: str = "ckpt") -> Path:
    """Return the checkpoint file of a run folder, or the file itself.

    Args:
        location: run folder, its ``checkpoints`` folder, or a checkpoint file.
        prefer: which of the two standard checkpoints to take where both exist.
        key: setting that names the location, for messages.

    Raises:
        UserError: there is no checkpoint at ``location``.
    """
    path = Path(location).expanduser()
    if path.is_file():
        return path
    if not path.exists():
        raise UserError(f"{key}={location}: no such file or folder", remedy="give a run folder or a .ckpt file")
    names = [prefer, *(name for name in (BEST_CHECKPOINT, LAST_CHECKPOINT) if name != prefer)]
    for folder in (path / "checkpoints", path):
        for name in names:
            if (folder / name).is_file():
                return folder / name
    found, remedy = _what_is_there(path)
    raise UserError(f"{key}={location}: {found}", remedy=remedy)


def _what_is_there(path: Path) -> tuple[str, str]:
    """Say what a folder without a checkpoint is, and what would fit."""
    members = sorted(path.glob("members/*/checkpoints/*.ckpt"))
    inner = sorted(path.glob("*/checkpoints/*.ckpt"))
    if (path / REFERENCE_FILE).is_file():
        return "the folder is an exported predictor and holds no checkpoint", "give the run it was exported from"
    if (path / WRITER_FILE).is_file():
        return "the folder is an exported generator", "generate.py ckpt=FOLDER samples from it; else give its run"
    if members:
        return (
            "the folder is an ensemble, and one model is needed",
            f"give a member, such as {members[0].parent.parent}",
        )
    if inner:
        return "the folder holds no checkpoint", f"did you mean {inner[-1].parent.parent}?"
    return (
        "the folder holds no checkpoint",
        "give a run folder that has checkpoints/best.ckpt or checkpoints/last.ckpt",
    )


def read_checkpoint(path: Path, map_location: Any | None = "cpu") -> dict[str, Any]:
    """Read a checkpoint file of this framework.

    Raises:
        UserError: the file is damaged, was not written by crystalfm, or has a newer schema.
    """
    import pickle
    import zipfile

    import torch

    try:
        loaded = torch.load(path, map_location=map_location, weights_only=True, mmap=False)
    except (RuntimeError, EOFError, OSError, ValueError, zipfile.BadZipFile, pickle.UnpicklingError) as error:
        reason = (str(error).splitlines() or ["the file is empty"])[0]
        raise UserError(
            f"{path} cannot be read as a checkpoint: {reason}",
            remedy="the file is cut short, damaged or not a crystalfm checkpoint; use another one",
        ) from error
    if not isinstance(loaded, dict) or PAYLOAD_KEY not in loaded:
        raise UserError(
            f"{path} is not a crystalfm checkpoint",
            remedy="give a run folder or a file from its checkpoints folder",
        )
    schema = loaded[PAYLOAD_KEY].get("schema_version")
    if schema != SCHEMA_VERSION:
        raise UserError(
            f"{path} has checkpoint schema {schema}; this version of crystalfm reads schema {SCHEMA_VERSION}",
            remedy="use the crystalfm version that wrote it (see crystalfm.version inside the file)",
        )
    checkpoint: dict[str, Any] = loaded
    return checkpoint
