"""How much memory there is, and how the C library hands it out.

By default, on Linux, each large tensor gets new pages from the kernel.
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from bdlbench.core.errors import BadInput

# The names of <malloc.h>.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
SETTINGS = {M_MMAP_THRESHOLD: 1 << 25, M_TRIM_THRESHOLD: 1 << 30, M_TOP_PAD: 1 << 26}
"""Bytes. Blocks up to 32 MiB, glibc's limit, come from the heap; up to 1 GiB of freed heap is not given back."""


@cache
def keep_freed_memory() -> bool:
    """Let this process keep the memory that it frees.

    A training step frees all its activations and asks for them again. If they are given back, each comes as new pages
    that the kernel has to clear: a tenth to a fifth of a step's time where tensors have a megabyte or more.

    Returns:
        Whether that was possible: it needs glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    return mallopt is not None and all(mallopt(name, value) == 1 for name, value in SETTINGS.items())


@contextmanager
def cycles_kept() -> Iterator[None]:
    """Do without Python's collector of cyclic garbage meanwhile; also as a decorator.

    While many objects are made that all stay, it looks at all of them again and again, which took two thirds of the
    time of reading 10,000 records.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@cache
def total_bytes() -> int:
    """Return the memory that this process can have: the machine's, or a limit of it; 1 TiB if unknown.

    The limit is a container's, or that of `ulimit -v`.
    """
    found = [1 << 40]
    if sys.platform != "win32":
        import resource

        found.append(resource.getrlimit(resource.RLIMIT_AS)[0])  # -1 where there is none
    with suppress(AttributeError, OSError, ValueError):  # Windows has no sysconf
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):  # no such file, or the word "max"
            found.append(int(Path(limit).read_text("ascii")))
    return min(number for number in found if number > 0)


def refuse(needed: int, what: str) -> None:
    """Refuse work that needs more memory than there is.

    An allocation that fails can be reported; one that the system grants and cannot keep kills the process without a
    word.

    Args:
        needed: A lower bound in bytes, so that nothing that could run is refused.
        what: What would need it, for the message.

    Raises:
        BadInput: There is less memory.
    """
    if needed > total_bytes():
        there = total_bytes() / 2**30
        raise BadInput(f"{what} would take at least {needed / 2**30:,.0f} GiB of memory; there are {there:,.0f} here")
