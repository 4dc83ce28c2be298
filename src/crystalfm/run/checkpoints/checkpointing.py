"""Checkpoints: plain tensors and plain containers, written whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from crystalfm.io.checkpoints import PAYLOAD_KEY, SCHEMA_VERSION, read_checkpoint
from crystalfm.io.files import atomic_write

__all__ = ["PAYLOAD_KEY", "SCHEMA_VERSION", "AtomicCheckpointIO", "read_checkpoint", "require_plain"]

_TENSORS = (torch.Tensor, torch.nn.Parameter)
_PLAIN = (str, int, float, bool, type(None))


def require_plain(value: object, where: str = "checkpoint") -> None:
    """Check that ``value`` is made of tensors, numbers, strings, lists, tuples, sets and dicts alone.

    Raises:
        TypeError: something else is inside; such a file would not open with ``weights_only=True``.
    """
    # Not a tensor of another class: a part of one that is shared among processes would not open alone.
    if type(value) in _TENSORS or isinstance(value, _PLAIN):
        return
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, _PLAIN):
                raise TypeError(f"{where}: key {key!r} of type {type(key).__name__} is not plain")
            require_plain(item, f"{where}[{key!r}]")
        return
    if isinstance(value, (list, tuple, set)):
        for index, item in enumerate(value):
            require_plain(item, f"{where}[{index}]")
        return
    raise TypeError(f"{where} holds a {type(value).__name__}, which a safe checkpoint cannot hold")


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its final place and renames it there once it is on disk.

    Lightning's own writer goes through the system's temporary folder, and a rename across file systems is a copy
    that can be cut short. The weights are streamed to disk and never buffered whole in memory.

    Args:
        payload: section added to every checkpoint under ``crystalfm``.
    """

    def __init__(self, payload: dict[str, Any]) -> None:
        self._payload = payload

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write ``checkpoint`` and the payload to ``path``, atomically.

        Raises:
            TypeError: the checkpoint holds something that ``weights_only=True`` would refuse.
        """
        if storage_options is not None:
            raise TypeError("storage options are not supported by the atomic checkpoint writer")
        complete = {**checkpoint, PAYLOAD_KEY: self._payload}
        require_plain(complete)
        with atomic_write(path) as stream:
            torch.save(complete, stream)

    def load_checkpoint(
        self, path: str | Path, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint with ``weights_only=True``, whatever is asked for."""
        del weights_only
        return read_checkpoint(Path(path), map_location=map_location)
