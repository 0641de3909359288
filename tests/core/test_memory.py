import gc
import subprocess
import sys

import pytest

from bdlbench.core import memory

PROGRAM = """
import resource, sys
import torch
from bdlbench.core.memory import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    torch.ones(3 << 20)
before = faults()
for _ in range(20):
    torch.ones(3 << 20)  # 12 MiB, 3072 pages
print(faults() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="a setting of glibc")
def test_freed_memory_is_used_again():
    kept = subprocess.run([sys.executable, "-c", PROGRAM, "keep"], capture_output=True, text=True, check=True)
    assert int(kept.stdout) < 10 * 3072  # else 20 × 3072


def test_the_collector_of_cycles_is_left_as_it_was() -> None:
    for before in (True, False):
        (gc.enable if before else gc.disable)()
        try:
            with memory.cycles_kept():
                assert not gc.isenabled()
                with memory.cycles_kept():
                    pass
                assert not gc.isenabled()
            with pytest.raises(ZeroDivisionError), memory.cycles_kept():
                raise ZeroDivisionError
            assert gc.isenabled() is before
        finally:
            gc.enable()
