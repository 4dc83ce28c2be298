"""Atomic writes, file locks and content hashes: the only place that writes files meant to last."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from filelock import BaseFileLock

_CHUNK_BYTES = 1 << 20


def fsync_folder(folder: Path) -> None:
    """Flush a folder's entries to disk, so that a rename in it survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic_write(path: Path | str, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a temporary file beside ``path``; on success flush it and rename it into place.

    A reader sees the old file or the whole new one, never a part. After an exception ``path`` is untouched
    and the temporary file is gone.

    Args:
        path: final location; its folder is made if absent.
        mode: ``"wb"`` or ``"w"`` (UTF-8).
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, mode, encoding=None if "b" in mode else "utf-8") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        # mkstemp makes private files; results are meant to be read by the group, as umask allows.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(target)
        fsync_folder(target.parent)
    finally:
        temporary.unlink(missing_ok=True)  # absent after the rename


def write_text(path: Path | str, text: str) -> None:
    """Write ``text`` atomically as UTF-8."""
    with atomic_write(path, "w") as stream:
        stream.write(text)


def write_json(path: Path | str, value: object) -> None:
    """Write ``value`` atomically as indented JSON with sorted keys."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def append_lines(path: Path | str, lines: Iterable[str]) -> None:
    """Append lines to a file in one write and flush it to disk.

    What is there is never touched. A crash in the middle leaves at most a beginning of what was to be written, which
    ``whole_lines`` leaves out as far as its last line is not complete.

    Args:
        path: file; made if absent, as is its folder.
        lines: without newlines.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("ab") as stream:
        stream.write("".join(f"{line}\n" for line in lines).encode())
        stream.flush()
        os.fsync(stream.fileno())


def whole_lines(path: Path | str) -> list[str]:
    """Return the complete lines of a file of ``append_lines``, and cut off a last one that is not complete.

    Returns:
        the lines without newlines; none where the file is absent.
    """
    target = Path(path)
    if not target.is_file():
        return []
    content = target.read_bytes()
    size = content.rfind(b"\n") + 1
    if size < len(content):
        os.truncate(target, size)
    # Not splitlines, which splits at other characters too.
    return content[:size].decode().split("\n")[:-1]


def sha256_file(path: Path | str) -> str:
    """Return the SHA-256 of a file's content as hexadecimal digits."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def sha256_json(value: object) -> str:
    """Return the SHA-256 of a JSON-able value, independent of the order of its keys."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def file_lock(path: Path | str, timeout_seconds: float = -1) -> BaseFileLock:
    """Return an inter-process lock kept in ``path`` + ``.lock`` (use it as a context manager).

    Args:
        path: the file or folder to guard.
        timeout_seconds: how long to wait; negative waits for ever.
    """
    from filelock import FileLock

    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(str(target) + ".lock", timeout=timeout_seconds)
