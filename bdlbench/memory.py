"""How the C library hands memory out: on Linux a large tensor is new pages from the kernel unless told otherwise."""

from __future__ import annotations

import ctypes
import sys
from functools import cache

# The names of <malloc.h>.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
SETTINGS = {M_MMAP_THRESHOLD: 1 << 25, M_TRIM_THRESHOLD: 1 << 30, M_TOP_PAD: 1 << 26}
"""Bytes. Up to 32 MiB, glibc's largest, come from the heap; up to 1 GiB of it stays when freed."""


@cache
def keep_freed_memory() -> bool:
    """Let this process keep what it frees; whether that was possible: it takes glibc.

    A training step frees and asks again for all its activations. Given back, each comes as pages that the kernel has
    to clear: a tenth to a fifth of a step's time where tensors have a megabyte or more.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    return mallopt is not None and all(mallopt(name, value) == 1 for name, value in SETTINGS.items())
