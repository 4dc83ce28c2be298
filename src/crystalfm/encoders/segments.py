"""Segments of the embedding cache: immutable files of digests and rows, and a view over many of them."""

from __future__ import annotations

import hashlib
import mmap
import os
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from crystalfm.io.files import atomic_write

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

DIGEST_BYTES = 16
"""Length of a string's digest (BLAKE2b)."""

DIGEST_DTYPE = np.dtype(f"S{DIGEST_BYTES}")
"""Type in which digests are sorted and searched; equal length makes its padding rule harmless."""

RETIRED_SUFFIX = ".retired"
"""Name's end of a segment that was merged into a larger one and is kept for who still reads it."""

_MAGIC = b"CFMROWS1"
_HEADER = struct.Struct("<8sQQ8s32s")  # magic, rows, width, dtype, SHA-256 of what follows the header
_DATA_ALIGNMENT = 64
_READ_BYTES = 1 << 20
_WRITE_ROWS = 4096

_ROW_COST_BYTES = 1 << 16
"""What one row may pull into memory: the kernel maps up to sixteen pages around a fault."""

_RESIDENT_LIMIT_BYTES = 64 << 20
"""Mapped pages are let go once this much may have been pulled in."""


class SegmentError(Exception):
    """A segment file that is truncated, corrupt or of another kind."""


def digest_strings(values: Iterable[str]) -> NDArray[np.bytes_]:
    """Return the digest of each string (N,) as `DIGEST_DTYPE`."""
    joined = b"".join(
        hashlib.blake2b(value.encode("utf-8", "surrogatepass"), digest_size=DIGEST_BYTES).digest() for value in values
    )
    return np.frombuffer(joined, dtype=DIGEST_DTYPE)


@dataclass(frozen=True)
class Segment:
    """A verified segment file.

    Attributes:
        path: the file.
        num_rows: number of rows.
        width: length of a row.
        dtype: type of its numbers.
    """

    path: Path
    num_rows: int
    width: int
    dtype: np.dtype[Any]

    @property
    def data_offset(self) -> int:
        """Byte at which the rows begin."""
        return _data_offset(self.num_rows)

    def digests(self) -> NDArray[np.bytes_]:
        """Read the sorted digests (num_rows,)."""
        with open_kept(self.path) as stream:
            stream.seek(_HEADER.size)
            return np.frombuffer(stream.read(self.num_rows * DIGEST_BYTES), dtype=DIGEST_DTYPE)


def open_kept(path: Path) -> BinaryIO:
    """Open a segment, by its other name if it was merged into a larger one since it was found."""
    try:
        return path.open("rb")
    except FileNotFoundError:
        return path.with_suffix(RETIRED_SUFFIX).open("rb")


def _data_offset(num_rows: int) -> int:
    end = _HEADER.size + num_rows * DIGEST_BYTES
    return -(-end // _DATA_ALIGNMENT) * _DATA_ALIGNMENT


def _dtype_name(dtype: np.dtype[Any]) -> bytes:
    """Return a type's name in a header, little-endian."""
    return dtype.newbyteorder("<").str.encode()


def write_segment(
    path: Path, digests: NDArray[np.bytes_], rows: NDArray[Any] | SegmentedRows, order: NDArray[np.int64]
) -> None:
    """Write a segment atomically: after a crash it is there whole or not at all.

    Args:
        path: the new file.
        digests: (K,) digests.
        rows: (K, D) rows that belong to them; read a few thousand at a time.
        order: (K',) rows to keep, in ascending order of their digests.
    """
    data_offset = _data_offset(len(order))
    dtype = np.dtype(rows.dtype).newbyteorder("<")
    checksum = hashlib.sha256()
    with atomic_write(path) as stream:
        stream.write(bytes(_HEADER.size))
        index = digests[order].tobytes()
        padding = bytes(data_offset - _HEADER.size - len(index))
        for block in (index, padding):
            checksum.update(block)
            stream.write(block)
        for start in range(0, len(order), _WRITE_ROWS):
            part = np.ascontiguousarray(rows[order[start : start + _WRITE_ROWS]], dtype=dtype)
            data = part.tobytes()
            checksum.update(data)
            stream.write(data)
        stream.seek(0)
        stream.write(_HEADER.pack(_MAGIC, len(order), rows.shape[1], _dtype_name(dtype), checksum.digest()))


def open_segment(path: Path, dtype: np.dtype[Any], width: int | None) -> Segment:
    """Check a segment's header, size and checksum.

    The file is read once in small pieces, so the check costs time in proportion to its size but no memory.

    Args:
        path: the file.
        dtype: type its numbers must have.
        width: length its rows must have, or ``None`` for any.

    Raises:
        SegmentError: the file is not a whole segment.
        FileNotFoundError: there is no such file.
    """
    with path.open("rb") as stream:
        header = stream.read(_HEADER.size)
        if len(header) < _HEADER.size:
            raise SegmentError("its header is cut off")
        magic, num_rows, columns, name, expected = _HEADER.unpack(header)
        if magic != _MAGIC:
            raise SegmentError("it is not a segment of this version")
        if name.rstrip(b"\0") != _dtype_name(dtype) or width not in (None, columns):
            raise SegmentError(f"it holds rows of {columns} numbers of type {name!r}")
        size = _data_offset(num_rows) + num_rows * columns * dtype.itemsize
        actual = os.fstat(stream.fileno()).st_size
        if actual != size:
            raise SegmentError(f"it has {actual} bytes instead of {size}")
        checksum = hashlib.sha256()
        while chunk := stream.read(_READ_BYTES):
            checksum.update(chunk)
    if checksum.digest() != expected:
        raise SegmentError("its checksum does not match")
    return Segment(path=path, num_rows=num_rows, width=columns, dtype=dtype)


class _MappedRows:
    """Rows of one segment, mapped into memory."""

    def __init__(self, segment: Segment) -> None:
        with open_kept(segment.path) as stream:
            self._map = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        flat = np.frombuffer(self._map, segment.dtype, segment.num_rows * segment.width, offset=segment.data_offset)
        self.rows: NDArray[Any] = flat.reshape(segment.num_rows, segment.width)

    def release(self) -> None:
        """Let go of the pages; they stay in the system's page cache and come back at the next access."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)


class SegmentedRows:
    """The rows of several segments as one array that is read, a batch at a time, from mapped files.

    Only the rows asked for are copied, and mapped pages are let go before they add up, so that a process's
    memory does not grow with the cache. Instances can be sent to worker processes; the files are mapped there.

    Args:
        segments: verified segments of one width and type.
        width: length D of a row.
        dtype: type of the numbers.
    """

    def __init__(self, segments: Sequence[Segment], width: int, dtype: np.dtype[Any]) -> None:
        self._segments = tuple(segments)
        self._maps = [_MappedRows(segment) for segment in self._segments]
        ends = np.cumsum([0, *(segment.num_rows for segment in self._segments)], dtype=np.int64)
        self._starts = ends[:-1]
        self._touched_bytes = 0
        self.shape = (int(ends[-1]), width)
        self.dtype = dtype

    def __reduce__(self) -> tuple[Any, ...]:
        return SegmentedRows, (self._segments, self.shape[1], self.dtype)

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def starts(self) -> NDArray[np.int64]:
        """First row of each segment."""
        return self._starts

    def __getitem__(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Return a copy of ``rows`` (B,) as (B, D).

        Raises:
            IndexError: a row is not in ``[0, len(self))``.
        """
        rows = np.asarray(rows, dtype=np.int64)
        if len(rows) and (rows.min() < 0 or rows.max() >= self.shape[0]):
            raise IndexError(f"rows must lie in [0, {self.shape[0]})")
        if len(self._maps) == 1:
            gathered: NDArray[Any] = self._maps[0].rows[rows]
        else:
            gathered = np.empty((len(rows), self.shape[1]), dtype=self.dtype)
            owner = np.searchsorted(self._starts, rows, side="right") - 1
            for number in np.unique(owner):
                mine = owner == number
                gathered[mine] = self._maps[number].rows[rows[mine] - self._starts[number]]
        self._touched_bytes += gathered.nbytes + len(rows) * _ROW_COST_BYTES
        if self._touched_bytes > _RESIDENT_LIMIT_BYTES:
            self.release()
        return gathered

    def release(self) -> None:
        """Let go of every mapped page."""
        for mapped in self._maps:
            mapped.release()
        self._touched_bytes = 0
