"""The only place that measures time and memory."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import torch


class Stopwatch:
    """Seconds of work on a device: device events on a GPU, the monotonic clock elsewhere."""

    def __init__(self, device: torch.device) -> None:
        """Starts at once."""
        self._events = (
            (torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True))
            if device.type == "cuda"
            else None
        )
        self._start = time.perf_counter()
        if self._events:
            self._events[0].record()

    def seconds(self) -> float:
        """Since the start, once all the work that was asked for is done."""
        if not self._events:
            return time.perf_counter() - self._start
        self._events[1].record()
        self._events[1].synchronize()
        return float(self._events[0].elapsed_time(self._events[1])) / 1e3


CPU = torch.device("cpu")


def timed_in_turn(
    works: Mapping[str, Callable[[], object]], rounds: int, device: torch.device = CPU, warmup: int = 1
) -> dict[str, list[float]]:
    """Seconds of each work in each of `rounds` rounds, in which every work has its turn; `warmup` more go before them.

    What slows the machine for a while slows the works of a round alike, so ratios within a round hold where seconds
    do not. Raises ValueError for fewer than one round.
    """
    if rounds < 1:
        raise ValueError(f"{rounds} rounds give no time: at least 1")
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(-warmup, rounds):
        for name, work in works.items():
            watch = Stopwatch(device)
            work()
            spent = watch.seconds()
            if turn >= 0:
                seconds[name].append(spent)
    return seconds


def now() -> float:
    """Monotonic seconds, for deciding when something is due."""
    return time.monotonic()


def reset_peak_memory(device: torch.device) -> None:
    """From now on `peak_memory_bytes` counts anew, where the system can: on a GPU, and on Linux."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory_bytes(device: torch.device) -> int:
    """The most memory held since `reset_peak_memory`: by the device's allocator on a GPU, by this process elsewhere.

    Where the count cannot be reset (neither a GPU nor Linux), since the process began.
    """
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    kilo = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * kilo
