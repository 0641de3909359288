"""How much memory there is, and how the C library hands it out: on Linux a large tensor is new pages from the kernel
unless told otherwise.
"""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path

from bdlbench.core.errors import BadInput

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


@cache
def total_bytes() -> int:
    """The memory that this process can have: the machine's, or a container's limit. Where neither is told, 1 TiB."""
    found = [1 << 40]
    with suppress(AttributeError, OSError, ValueError):  # Windows has no sysconf
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):  # no such file, or the word "max"
            found.append(int(Path(limit).read_text("ascii")))
    return min(number for number in found if number > 0)


def refuse(needed: int, what: str) -> None:
    """Raises BadInput where `what` would hold `needed` bytes at the least, and there are not that many.

    An allocation that fails can be told from its error; one that the system grants and cannot keep ends the process
    without a word. needed: a lower bound, so that nothing that could run is refused.
    """
    if needed > total_bytes():
        there = total_bytes() / 2**30
        raise BadInput(f"{what} would take at least {needed / 2**30:,.0f} GiB of memory; there are {there:,.0f} here")
