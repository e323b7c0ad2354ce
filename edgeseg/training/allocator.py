"""The C library's allocator, told to keep what a training step frees.

A step allocates and frees the same large tensors again and again. glibc takes each from the kernel
and gives it back, and the kernel hands out every page anew, filled with zeros.
"""

from __future__ import annotations

import ctypes

TRIM_THRESHOLD, TOP_PAD, MMAP_MAX = -1, -2, -4
"""Parameters of glibc's mallopt(3)."""
NEVER = -1
PAD = 64 << 20
"""Bytes taken from the kernel at a time."""


def keep_freed_memory() -> None:
    """From now on this process keeps the memory that it frees, until it ends.

    Other C libraries have no mallopt: with them nothing changes.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    for parameter, value in ((MMAP_MAX, 0), (TRIM_THRESHOLD, NEVER), (TOP_PAD, PAD)):
        mallopt(parameter, value)
