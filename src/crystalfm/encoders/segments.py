"""Segments of the embedding cache: immutable files of digests and rows, and a view over many of them."""

from __future__ import annotations

import hashlib
import os
import struct
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from crystalfm.io.files import atomic_write

if TYPE_CHECKING:
    from collections.abc import Sequence
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
_CHUNK_ROWS = 4096


class SegmentError(Exception):
    """A segment file that is truncated, corrupt or of another kind."""


def digest_strings(values: Sequence[str]) -> NDArray[np.bytes_]:
    """Return the digest of each string (N,) as `DIGEST_DTYPE`."""
    digests = np.empty(len(values), dtype=DIGEST_DTYPE)
    for start in range(0, len(values), _CHUNK_ROWS):  # in pieces, so that few of Python's objects live at once
        chunk = values[start : start + _CHUNK_ROWS]
        joined = b"".join(
            hashlib.blake2b(value.encode("utf-8", "surrogatepass"), digest_size=DIGEST_BYTES).digest()
            for value in chunk
        )
        digests[start : start + len(chunk)] = np.frombuffer(joined, dtype=DIGEST_DTYPE)
    return digests


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
        for start in range(0, len(order), _CHUNK_ROWS):
            part = np.ascontiguousarray(rows[order[start : start + _CHUNK_ROWS]], dtype=dtype)
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


class SegmentedRows:
    """The rows of several segments as one array of which a batch at a time is read from disk.

    Rows are read at their place in the file (`os.preadv`): the system's page cache, shared by all processes, holds
    what is used often, and nothing of it counts as this process's memory. A memory map would: the kernel maps up to
    two megabytes around every row that is touched, so that a shuffled epoch makes the whole cache resident.
    Instances can be sent to worker processes; the files are opened anew there.

    Args:
        segments: verified segments of one width and type.
        width: length D of a row.
        dtype: type of the numbers.
    """

    def __init__(self, segments: Sequence[Segment], width: int, dtype: np.dtype[Any]) -> None:
        self._segments = tuple(segments)
        self._descriptors = np.array([_open_descriptor(self, item.path) for item in segments], dtype=np.int64)
        self._data_offsets = np.array([item.data_offset for item in segments], dtype=np.int64)
        ends = np.cumsum([0, *(item.num_rows for item in segments)], dtype=np.int64)
        self._starts = ends[:-1]
        self.shape = (int(ends[-1]), width)
        self.dtype = dtype

    def __reduce__(self) -> tuple[Any, ...]:
        return SegmentedRows, (self._segments, self.shape[1], self.dtype)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Return a copy of ``rows`` (B,) as (B, D).

        Raises:
            IndexError: a row is not in ``[0, len(self))``.
            SegmentError: a file was cut off while it was in use.
        """
        rows = np.asarray(rows, dtype=np.int64)
        if len(rows) and (rows.min() < 0 or rows.max() >= self.shape[0]):
            raise IndexError(f"rows must lie in [0, {self.shape[0]})")
        gathered = np.empty((len(rows), self.shape[1]), dtype=self.dtype)
        if not gathered.size:
            return gathered
        size = gathered.itemsize * self.shape[1]
        owner = np.searchsorted(self._starts, rows, side="right") - 1
        offsets = self._data_offsets[owner] + (rows - self._starts[owner]) * size
        view = gathered.data.cast("B")
        end = 0
        for descriptor, offset in zip(self._descriptors[owner].tolist(), offsets.tolist(), strict=True):
            start, end = end, end + size
            if os.preadv(descriptor, (view[start:end],), offset) != size:
                raise SegmentError("a segment of the embedding cache was cut off while it was in use")
        return gathered


def _open_descriptor(owner: SegmentedRows, path: Path) -> int:
    """Open a segment until ``owner`` is gone."""
    with open_kept(path) as stream:
        descriptor = os.dup(stream.fileno())
    weakref.finalize(owner, os.close, descriptor)
    return descriptor
