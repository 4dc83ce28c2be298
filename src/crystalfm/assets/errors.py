"""How fetching can fail: one place did not deliver, a sum is wrong, the disk is full."""

from __future__ import annotations

import errno
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING

from crystalfm.contracts import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_FORBIDDEN = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})


class PlaceFailedError(Exception):
    """One place did not deliver; the next one may.

    Args:
        reason: why, as one line for the list of places tried.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class ChecksumError(UserError):
    """A file's SHA-256 is not the expected one.

    Args:
        what: the file, with where it came from.
        expected: SHA-256 by the registry (or recorded at the first fetch).
        found: SHA-256 of the file's content.
        remedy: what to do.
    """

    def __init__(self, what: str, *, expected: str, found: str, remedy: str) -> None:
        super().__init__(
            f"wrong checksum of {what}\n  expected sha256 {expected}\n  found    sha256 {found}",
            remedy=remedy,
        )
        self.expected = expected
        self.found = found


class DiskFullError(UserError):
    """The file system of the cache has no room for an asset.

    Args:
        folder: where room is needed.
        needed_bytes: bytes the whole asset needs while it is fetched, or ``None`` where unknown.
    """

    def __init__(self, folder: Path, needed_bytes: int | None) -> None:
        needed = "unknown" if needed_bytes is None else f"{needed_bytes:,} bytes"
        super().__init__(
            f"no space left in {folder}: needed {needed}, free {free_bytes(folder):,} bytes",
            remedy="free some space or choose another cache: --cache DIR or the variable CRYSTALFM_CACHE",
        )


def existing_parent(folder: Path) -> Path:
    """Return ``folder`` or its nearest parent that exists."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def is_storage_error(error: BaseException) -> bool:
    """Whether an error says that the disk is full or may not be written (and not, say, that a line broke)."""
    return isinstance(error, OSError) and error.errno in _FULL | _FORBIDDEN


def free_bytes(folder: Path) -> int:
    """Return the bytes free on the file system that holds (or would hold) ``folder``."""
    return shutil.disk_usage(existing_parent(folder)).free


@contextmanager
def storage_errors(folder: Path, needed_bytes: int | None = None) -> Iterator[None]:
    """Turn a full disk and a forbidden folder into errors the user can mend.

    Args:
        folder: the cache folder being written.
        needed_bytes: bytes the work needs; checked against the free space before it begins.

    Raises:
        DiskFullError: there is too little space, now or in the middle.
        UserError: the folder may not be written.
    """
    if needed_bytes is not None and needed_bytes > free_bytes(folder):
        raise DiskFullError(folder, needed_bytes)
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise DiskFullError(folder, needed_bytes) from error
        if error.errno in _FORBIDDEN:
            raise UserError(
                f"cannot write the cache folder {folder}: {error.strerror}",
                remedy="choose another cache: --cache DIR or the variable CRYSTALFM_CACHE",
            ) from error
        raise
