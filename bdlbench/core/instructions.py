"""Which vector instructions torch may use: AVX2 on every processor that has them, so that all give the same bits.

torch and oneDNN take the widest vectors of the processor, and a sum over wider vectors rounds in another order. Both
read the environment when they first compute, so this module imports nothing heavy and `import bdlbench` calls it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

LIMITS = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
"""What torch (docs.pytorch.org: threading environment variables) and oneDNN (CPU dispatcher control) read."""

NATIVE = "BDLBENCH_NATIVE"
"""The environment variable that leaves the choice to the processor. `--native` sets it, worker processes inherit it."""


def choose() -> None:
    """Limit torch to AVX2 through the environment, or lift that limit where `BDLBENCH_NATIVE` is set.

    A value that the user has set to something else stays. Nothing is set where AVX2 is absent: torch would believe that
    it is there, and stop with an illegal instruction. The call has no effect on torch after torch has computed.
    """
    if os.environ.get(NATIVE, "0") not in ("", "0"):
        for name, value in LIMITS.items():
            if os.environ.get(name) == value:
                del os.environ[name]
    elif has_avx2():
        for name, value in LIMITS.items():
            os.environ.setdefault(name, value)


def asked() -> dict[str, str]:
    """Return what the environment asks for, by variable; "native" where it asks for nothing."""
    return {name: os.environ.get(name, "native") for name in LIMITS}


def has_avx2(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Tell whether the processor has AVX2 and FMA, as far as the system says (Linux, Windows; not macOS on Intel)."""
    if sys.platform == "win32":
        import ctypes

        return bool(ctypes.windll.kernel32.IsProcessorFeaturePresent(40))  # PF_AVX2_INSTRUCTIONS_AVAILABLE
    try:
        with cpuinfo.open() as lines:
            flags = next((line for line in lines if line.startswith("flags")), "")
    except OSError:
        return False
    return {"avx2", "fma"} <= set(flags.split())
