"""The only place that measures time and memory."""

from __future__ import annotations

import importlib
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
    works: Mapping[str, Callable[[], object]],
    rounds: int = 20,
    device: torch.device = CPU,
    calls: int = 1,
    warmup: int = 1,
) -> dict[str, list[float]]:
    """Seconds per call of each work, one number for each of `rounds` rounds; `warmup` more go before them.

    A round runs every work `calls` times before the next begins, so that what disturbs the machine for longer than a
    round disturbs all of them: numbers of one round may be divided by each other, those of different calls of this
    function may not. What the thread waited for a core that others held is taken off where the system (Linux) tells it,
    but for a GPU's seconds, which are its own.
    Raises ValueError for fewer than one round.
    """
    if rounds < 1:
        raise ValueError(f"{rounds} rounds give no time: at least 1")
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(warmup + rounds):
        for name, work in works.items():
            watch = Stopwatch(device)
            waited = _waited()
            for _ in range(calls):
                work()
            # inside the watch: what is not seen makes a block longer, never shorter
            waited = _waited() - waited if device.type != "cuda" else 0.0
            seconds[name].append((watch.seconds() - waited) / calls)
    return {name: values[warmup:] for name, values in seconds.items()}


def _waited() -> float:
    """Seconds that this thread was ready to run and no core was free, since it began; 0 where nobody counts."""
    try:
        return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0


def now() -> float:
    """Monotonic seconds, for deciding when something is due."""
    return time.monotonic()


def reset_peak_memory(device: torch.device) -> None:
    """From now on `peak_memory_bytes` counts anew, where the system can: on a GPU, and on Linux."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory_bytes(device: torch.device) -> int | None:
    """The most memory held since `reset_peak_memory`: by the device's allocator on a GPU, by this process elsewhere.

    Where the count cannot be reset (neither a GPU nor Linux), since the process began; None where nobody counts
    (Windows, whose Python has no module `resource`).
    """
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    try:
        resource = importlib.import_module("resource")
    except ImportError:
        return None
    kilo = 1 if sys.platform == "darwin" else 1024
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * kilo
