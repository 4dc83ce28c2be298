"""What W&B wrote for an offline run, read from its data store with W&B's own message types."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_BLOCK_BYTES = 32768
_FILE_HEADER_BYTES = 7
_RECORD_HEADER_BYTES = 7
_FULL, _FIRST, _LAST = 1, 2, 4


def _messages(data: bytes) -> list[bytes]:
    """Split a data store (LevelDB's log format behind a header of its own) into messages."""
    assert data[:4] == b":W&B"
    found, parts, offset = [], b"", _FILE_HEADER_BYTES
    while offset + _RECORD_HEADER_BYTES <= len(data):
        if _BLOCK_BYTES - offset % _BLOCK_BYTES < _RECORD_HEADER_BYTES:
            offset += _BLOCK_BYTES - offset % _BLOCK_BYTES
            continue
        _, length, kind = struct.unpack("<IHB", data[offset : offset + _RECORD_HEADER_BYTES])
        if kind == 0:
            break
        offset += _RECORD_HEADER_BYTES
        parts = (b"" if kind in {_FULL, _FIRST} else parts) + data[offset : offset + length]
        offset += length
        if kind in {_FULL, _LAST}:
            found.append(parts)
    return found


def _key(item: Any) -> str:
    return item.key or ".".join(item.nested_key)


@dataclass
class OfflineRun:
    """An offline run.

    Attributes:
        folder: ``offline-run-...``.
        run: first message of the run: id, project, group, tags.
        config: configuration.
        history: rows of the curves.
        summary: final values.
        artifacts: files (name in the artifact: path here) by name of the artifact.
        aliases: aliases by name of the artifact.
        exit_code: how the run ended, ``None`` when it never did.
    """

    folder: Path
    run: Any = None
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    artifacts: dict[str, dict[str, Path]] = field(default_factory=dict)
    aliases: dict[str, list[str]] = field(default_factory=dict)
    preempting: bool = False
    exit_code: int | None = None

    def curve(self, name: str) -> list[tuple[int, float]]:
        """Return the points of a curve."""
        return [(row["trainer/global_step"], row[name]) for row in self.history if name in row]


def read_offline_run(folder: Path) -> OfflineRun:
    """Read one ``offline-run-...`` folder."""
    from wandb.proto.wandb_internal_pb2 import Record

    result = OfflineRun(folder)
    (store,) = folder.glob("*.wandb")
    for message in _messages(store.read_bytes()):
        record = Record.FromString(message)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            result.run = record.run
            result.config |= {_key(item): json.loads(item.value_json) for item in record.run.config.update}
        elif kind == "history":
            result.history.append({_key(item): json.loads(item.value_json) for item in record.history.item})
        elif kind == "summary":
            result.summary |= {_key(item): json.loads(item.value_json) for item in record.summary.update}
        elif kind == "artifact" or (kind == "request" and record.request.HasField("log_artifact")):
            artifact = record.artifact if kind == "artifact" else record.request.log_artifact.artifact
            entries = artifact.manifest.contents
            result.artifacts[artifact.name] = {entry.path: Path(entry.local_path) for entry in entries}
            result.aliases[artifact.name] = list(artifact.aliases)
        elif kind == "preempting":
            result.preempting = True
        elif kind == "exit":
            result.exit_code = record.exit.exit_code
    return result


def offline_runs(run_folder: Path) -> list[OfflineRun]:
    """Read the offline runs of a run folder, oldest first."""
    return [read_offline_run(path) for path in sorted((run_folder / "wandb").glob("offline-run-*"))]
