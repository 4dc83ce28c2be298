"""The embedding cache: a frozen encoder sees each distinct string once, ever."""

from __future__ import annotations

import json
import logging
import os
import time
import uuid
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from crystalfm.contracts import UserError
from crystalfm.encoders.segments import (
    RETIRED_SUFFIX,
    Segment,
    SegmentedRows,
    SegmentError,
    digest_strings,
    open_segment,
    write_segment,
)
from crystalfm.io.files import file_lock, sha256_json, write_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    Encode = Callable[[list[str]], NDArray[Any]]
    Progress = Callable[[int, int], None]

_log = logging.getLogger(__name__)

FORMAT_VERSION = 1
"""Version of the cache's layout; a change makes every key new."""

SEGMENT_ROWS = 4096
"""Rows committed at once: what a killed build can lose."""

_MERGED_ROWS = 65_536
_MERGE_AT = 16
"""So many segments below `_MERGED_ROWS` rows are merged."""

_MAX_NAMED_DIFFERENCES = 4
"""An identity that differs in more than this from every cached one is simply another encoder."""

_RETIRED_SECONDS = 14 * 24 * 3600
"""How long merged segments are kept for runs on other machines that may still read them."""


@dataclass(frozen=True)
class CachedLookup:
    """Where the vectors of a list of strings lie.

    Attributes:
        vectors: (K, D) rows of the whole cache entry, read from disk as they are asked for.
        index: (N,) int64, row of ``vectors`` for each string.
        hits: distinct strings found in the cache.
        misses: distinct strings that were encoded.
        reason: why there were misses; empty without any.
    """

    vectors: SegmentedRows
    index: NDArray[np.int64]
    hits: int
    misses: int
    reason: str


class EmbeddingCache:
    """Vectors of strings on disk, by the content hash of what made them; shared by runs and processes.

    One folder a key, the key being the SHA-256 of the encoder's identity. In it lie immutable segments: sorted
    digests of the strings, and their vectors. A segment appears whole or not at all, so a killed build loses
    the segment in the making and no more; size and checksum are verified at every opening, and a damaged
    segment is removed and made again. Who builds holds the key's lock: a second process waits and then finds
    the work done. Looking up needs no lock and no right to write.

    Args:
        root: folder of all keys.
        segment_rows: strings encoded and committed at once.
    """

    def __init__(self, root: Path, *, segment_rows: int = SEGMENT_ROWS) -> None:
        self.root = root
        self._segment_rows = segment_rows

    def vectors(
        self,
        identity: Mapping[str, Any],
        values: Sequence[str],
        encode: Encode,
        width: int | None = None,
        *,
        dtype: str = "float32",
        progress: Progress | None = None,
    ) -> CachedLookup:
        """Return the vectors of ``values``, encoding those that were never encoded before.

        Args:
            identity: all that determines a vector besides its string, as plain JSON-able values.
            values: N strings; equal ones share a row.
            encode: maps at most ``segment_rows`` distinct strings to an array (n, D); called for misses only.
            width: length D of a vector, or ``None`` to take it from the cache or from ``encode``.
            dtype: NumPy type in which vectors are kept.
            progress: called with (strings done, strings to do) after each segment.

        Raises:
            UserError: the cache cannot be written, or ``encode`` returned a number that is not finite.
            ValueError: ``encode`` returned an array of another shape, or ``width`` is not the cache's.
        """
        entry = _Entry(self.root, dict(identity), np.dtype(dtype), width)
        digests, first, inverse = np.unique(digest_strings(values), return_index=True, return_inverse=True)
        segments, damaged = entry.open_segments(repair=False)
        rows = _find(digests, segments)
        misses, reason = 0, ""
        if (rows < 0).any():
            reason = entry.miss_reason(damaged=damaged)
            with _build_lock(entry.folder):
                # While this process waited for the lock, another may have done the work.
                entry.read_manifest()
                segments, _ = entry.open_segments(repair=True)
                strings = [values[place] for place in first[_find(digests, segments) < 0]]
                misses = len(strings)
                for num_done in entry.build(strings, encode, self._segment_rows):
                    _log.info("embedding cache %s: %d of %d encoded", entry.key[:12], num_done, misses)
                    if progress is not None:
                        progress(num_done, misses)
                segments = entry.merge_small()
                rows = _find(digests, segments)
        hits, reason = len(digests) - misses, reason if misses else ""
        why = f" ({reason})" if reason else ""
        _log.info("embedding cache %s: %d hits, %d misses%s", entry.key[:12], hits, misses, why)
        found = SegmentedRows(segments, entry.width or 0, entry.dtype)
        return CachedLookup(found, rows[inverse.reshape(-1)], hits, misses, reason)


def _find(digests: NDArray[np.bytes_], segments: Sequence[Segment]) -> NDArray[np.int64]:
    """Return the row of each digest over all segments (N,), -1 where absent."""
    rows = np.full(len(digests), -1, dtype=np.int64)
    start = 0
    for segment in segments:
        held = segment.digests()
        place = np.searchsorted(held, digests)
        place[place == len(held)] = 0
        found = held[place] == digests if len(held) else np.zeros(len(digests), dtype=bool)
        rows[found] = start + place[found]
        start += segment.num_rows
    return rows


class _Entry:
    """The folder of one key."""

    def __init__(self, root: Path, identity: dict[str, Any], dtype: np.dtype[Any], width: int | None) -> None:
        described = {"identity": identity, "dtype": dtype.name, "format": FORMAT_VERSION}
        self.identity = identity
        self.dtype = dtype
        self.key = sha256_json(described)[:32]
        self.folder = root / self.key
        self.width = width
        self.is_new = True
        self.read_manifest()

    def read_manifest(self) -> None:
        """Learn from the folder whether the key exists, and its width.

        Raises:
            ValueError: the width is not the one asked for.
        """
        manifest = _read_manifest(self.folder)
        if manifest is None:
            return
        known = int(manifest["width"])
        if self.width not in (None, known):
            raise ValueError(f"vectors of width {self.width} asked for, {self.folder} holds width {known}")
        self.width, self.is_new = known, False

    def segment_paths(self) -> list[Path]:
        """Return the segment files in order of their names, which is the order of their making."""
        return sorted(self.folder.glob("*.segment"))

    def open_segments(self, *, repair: bool) -> tuple[list[Segment], bool]:
        """Return the whole segments, and whether there are damaged ones, which ``repair`` removes."""
        whole: list[Segment] = []
        damaged = False
        for path in self.segment_paths():
            try:
                whole.append(open_segment(path, self.dtype, self.width))
                self.width = whole[-1].width
            except FileNotFoundError:
                continue  # merged into another by a process that builds; what is not found is looked for again
            except SegmentError as error:
                damaged = True
                if repair:
                    _log.warning("embedding cache: removed the damaged segment %s: %s", path, error)
                    path.unlink(missing_ok=True)
        return whole, damaged

    def miss_reason(self, *, damaged: bool) -> str:
        """Say why strings are not in the cache."""
        if damaged:
            return "a segment is damaged"
        if not self.is_new:
            return "strings new"
        nearest = _nearest_identity(self.folder.parent, self.identity)
        return f"identity new{nearest}"

    def build(self, strings: list[str], encode: Encode, segment_rows: int) -> Iterator[int]:
        """Encode and commit ``strings`` a segment at a time; yield how many are done."""
        # Strings of like length go together: an encoder then pads little. The longest come first, so that a
        # lack of memory shows at once.
        strings = sorted(strings, key=len, reverse=True)
        for start in range(0, len(strings), segment_rows):
            chunk = strings[start : start + segment_rows]
            vectors = self._checked(chunk, encode(chunk))
            if self.is_new:
                self._write_manifest(vectors.shape[1])
            digests = digest_strings(chunk)
            self._commit(digests, vectors, np.argsort(digests))
            yield start + len(chunk)

    def _checked(self, strings: list[str], vectors: NDArray[Any]) -> NDArray[Any]:
        width = self.width if self.width is not None else vectors.shape[-1]
        if vectors.shape != (len(strings), width):
            raise ValueError(f"the encoder returned shape {vectors.shape} instead of {(len(strings), width)}")
        with np.errstate(over="ignore"):
            kept = vectors.astype(self.dtype, copy=False)
        if np.issubdtype(self.dtype, np.floating):
            bad = ~np.isfinite(kept).all(axis=1)
            if bad.any():
                raise UserError(
                    f"the encoder returned numbers that are not finite in {self.dtype} for "
                    f"{int(bad.sum())} strings, the first of them {strings[int(bad.argmax())]!r}",
                    remedy="use precision=float32 and storage=float32, or another encoder",
                )
        return kept

    def _write_manifest(self, width: int) -> None:
        self.width = width
        self.is_new = False
        manifest = {
            "format": FORMAT_VERSION,
            "identity": self.identity,
            "dtype": self.dtype.name,
            "width": width,
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        write_json(self.folder / "manifest.json", manifest)

    def _commit(
        self, digests: NDArray[np.bytes_], rows: NDArray[Any] | SegmentedRows, order: NDArray[np.int64]
    ) -> None:
        name = f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.segment"
        try:
            write_segment(self.folder / name, digests, rows, order)
        except OSError as error:
            raise _not_writable(self.folder, error) from error

    def merge_small(self) -> list[Segment]:
        """Merge small segments once there are many, and return the segments that now hold everything."""
        segments, _ = self.open_segments(repair=True)
        small = [segment for segment in segments if segment.num_rows < _MERGED_ROWS]
        if len(small) < _MERGE_AT:
            return segments
        self._remove_retired()
        digests = np.concatenate([segment.digests() for segment in small])
        _, order = np.unique(digests, return_index=True)
        rows = SegmentedRows(small, self.width or 0, self.dtype)
        for start in range(0, len(order), _MERGED_ROWS):
            self._commit(digests, rows, order[start : start + _MERGED_ROWS])
        for segment in small:
            retired = segment.path.with_suffix(RETIRED_SUFFIX)
            segment.path.replace(retired)
            os.utime(retired)
        return self.open_segments(repair=True)[0]

    def _remove_retired(self) -> None:
        for path in self.folder.glob(f"*{RETIRED_SUFFIX}"):
            if time.time() - path.stat().st_mtime > _RETIRED_SECONDS:
                path.unlink(missing_ok=True)


@contextmanager
def _build_lock(folder: Path) -> Iterator[None]:
    """Hold a key's lock, in which segments may be added and removed; clear away what killed builders left."""
    from filelock import Timeout

    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = file_lock(folder)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            _log.info("embedding cache %s: waiting for another process", folder.name[:12])
            lock.acquire()
    except OSError as error:
        raise _not_writable(folder, error) from error
    try:
        for path in folder.glob(".*.tmp"):
            path.unlink(missing_ok=True)  # nobody else can be writing while the lock is held
        yield
    finally:
        lock.release()


def _not_writable(folder: Path, error: OSError) -> UserError:
    return UserError(
        f"the embedding cache cannot be written in {folder}: {error.strerror or error}",
        remedy="free some space or point paths.cache (or CRYSTALFM_CACHE) at a folder of yours",
    )


def _read_manifest(folder: Path) -> dict[str, Any] | None:
    """Return a key's manifest, or ``None`` when there is none that can be read."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return None
    return manifest if isinstance(manifest, dict) and "width" in manifest else None


def _nearest_identity(root: Path, identity: Mapping[str, Any]) -> str:
    """Say in which settings the nearest cached identity of the same encoder differs; empty when there is none."""
    nearest: list[str] | None = None
    for path in root.glob("*/manifest.json"):
        manifest = _read_manifest(path.parent) or {}
        other = manifest.get("identity", {})
        if other.get("encoder") != identity.get("encoder"):
            continue
        keys = sorted(identity.keys() | other.keys())
        differing = [key for key in keys if identity.get(key) != other.get(key)]
        if differing and (nearest is None or len(differing) < len(nearest)):
            nearest = differing
    if nearest is None or len(nearest) > _MAX_NAMED_DIFFERENCES:
        return ""
    return f": other {', '.join(nearest)} than before"
