"""What a copy of an asset holds: sizes and checksums of its files, and the manifest that records them."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from crystalfm.assets.registry import MANIFEST, Asset, is_safe_name
from crystalfm.io.files import sha256_file, sha256_json, write_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

_MEMO_FIELDS = 3


@dataclass(frozen=True)
class FileRecord:
    """Size in bytes and SHA-256 of one file."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """Description of a cached copy.

    Attributes:
        asset: name of the asset.
        licence: licence of the content.
        citation: what to cite.
        place: where it came from, with the exact revision where there is one.
        fetched_at: UTC time in ISO 8601.
        files: record of every file by its relative name.
    """

    asset: str
    licence: str
    citation: str
    place: str
    fetched_at: str
    files: Mapping[str, FileRecord]

    @property
    def sha256(self) -> str:
        """Content hash over the files."""
        return content_hash(self.files)


def content_hash(files: Mapping[str, FileRecord]) -> str:
    """Return the SHA-256 over the sorted names and checksums of files."""
    return sha256_json(sorted((name, record.sha256) for name, record in files.items()))


def record_file(path: Path) -> FileRecord:
    """Measure and hash a file."""
    return FileRecord(path.stat().st_size, sha256_file(path))


def new_manifest(asset: Asset, place: str, files: Mapping[str, FileRecord]) -> Manifest:
    """Describe a copy that was just fetched."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return Manifest(asset.name, asset.licence, asset.citation, place, now, dict(files))


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest into an asset's folder."""
    write_json(folder / MANIFEST, {**asdict(manifest), "sha256": manifest.sha256})


def read_manifest(folder: Path) -> Manifest | None:
    """Read an asset folder's manifest; ``None`` where there is none or it cannot be understood."""
    try:
        raw = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        files = {name: FileRecord(int(entry["size"]), str(entry["sha256"])) for name, entry in raw["files"].items()}
        manifest = Manifest(
            asset=str(raw["asset"]),
            licence=str(raw["licence"]),
            citation=str(raw["citation"]),
            place=str(raw["place"]),
            fetched_at=str(raw["fetched_at"]),
            files=files,
        )
        declared = raw["sha256"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return manifest if manifest.sha256 == declared and all(map(is_safe_name, files)) else None


def size_problems(folder: Path, files: Mapping[str, FileRecord]) -> list[str]:
    """Say which files are missing or of another size than recorded; cheap, reads no content."""
    problems = []
    for name, record in files.items():
        try:
            size = (folder / name).stat().st_size
        except OSError:
            problems.append(f"{name} is missing")
            continue
        if size != record.size:
            problems.append(f"{name} has {size:,} bytes, {record.size:,} expected")
    return problems


class HashMemo:
    """Checksums of files used in place, remembered by path, size and modification time.

    Large weights in a mirror are hashed once, not at every run. Where the cache cannot be written the
    checksums are computed each time.

    Args:
        root: folder of the memos.
        folder: the folder whose files are hashed.
    """

    def __init__(self, root: Path, folder: Path) -> None:
        self._folder = folder.resolve()
        self._path = root / f"{hashlib.sha256(str(self._folder).encode()).hexdigest()[:32]}.json"

    def records(self, names: Iterable[str], *, fresh: bool = False) -> dict[str, FileRecord]:
        """Return the record of each file.

        Args:
            names: relative names below the folder.
            fresh: compute every checksum again.
        """
        known = {} if fresh else self._read()
        records: dict[str, FileRecord] = {}
        entries: dict[str, list[int | str]] = {}
        for name in names:
            status = (self._folder / name).stat()
            entry = known.get(name)
            if entry is not None and entry[:2] == [status.st_size, status.st_mtime_ns]:
                records[name] = FileRecord(status.st_size, str(entry[2]))
            else:
                records[name] = FileRecord(status.st_size, sha256_file(self._folder / name))
            entries[name] = [status.st_size, status.st_mtime_ns, records[name].sha256]
        if entries != known:
            with suppress(OSError):  # a read-only cache: only speed is lost
                write_json(self._path, {"folder": str(self._folder), "files": entries})
        return records

    def _read(self) -> dict[str, list[int | str]]:
        try:
            files = json.loads(self._path.read_text(encoding="utf-8"))["files"].items()
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}
        return {name: entry for name, entry in files if isinstance(entry, list) and len(entry) == _MEMO_FIELDS}
