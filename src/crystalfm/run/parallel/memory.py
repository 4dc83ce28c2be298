"""What becomes of memory that a process has freed."""

from __future__ import annotations

import ctypes
import os
import sys

OF_THE_USER = ("GLIBC_TUNABLES", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_", "MALLOC_TRIM_THRESHOLD_")
"""Variables of the environment that say what glibc's allocator does."""

# Parameters of mallopt(3).
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3

_LARGEST_ON_THE_HEAP = 32 * 2**20
"""Bytes; glibc takes no more."""

_KEPT = 2**31 - 1
_STEP = 64 * 2**20


def keep_freed_memory() -> bool:
    """Let arrays take the place of those that were freed before, where the C library is glibc.

    By default it returns freed memory to the system when a few arrays of some megabytes are free, as after every step
    of a training, and the system clears each page of the next ones (``python benchmarks/freed_memory.py``). Up to
    2 GiB are kept. Settings of the environment go first.

    Returns:
        whether anything was set.
    """
    if sys.platform != "linux" or any(name in os.environ for name in OF_THE_USER):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    wanted = ((_MMAP_THRESHOLD, _LARGEST_ON_THE_HEAP), (_TRIM_THRESHOLD, _KEPT), (_TOP_PAD, _STEP))
    return all(bool(mallopt(parameter, value)) for parameter, value in wanted)
