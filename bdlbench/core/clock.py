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
    """Measures seconds of work on a device: by device events on a GPU, by the monotonic clock elsewhere."""

    def __init__(self, device: torch.device) -> None:
        """Start at once."""
        self._events = (
            (torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True))
            if device.type == "cuda"
            else None
        )
        self._start = time.perf_counter()
        if self._events:
            self._events[0].record()

    def seconds(self) -> float:
        """Return the seconds since the start, once all work asked for is done."""
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
    """Return the seconds per call of each work, one number for each of `rounds` rounds, after `warmup` more rounds.

    A round runs every work `calls` times before the next work begins, so a disturbance of the machine that outlasts a
    round hits all of them. Numbers of one round may therefore be divided by each other; those of different calls of
    this function may not. Time that the thread spent waiting for a core is subtracted where the system (Linux) reports
    it, but not from a GPU's seconds, which are its own.

    Raises:
        ValueError: There is less than one round.
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
            # inside the watch: an unseen wait makes a block longer, never shorter
            waited = _waited() - waited if device.type != "cuda" else 0.0
            seconds[name].append((watch.seconds() - waited) / calls)
    return {name: values[warmup:] for name, values in seconds.items()}


def _waited() -> float:
    """Return the seconds that this thread was ready to run while no core was free; 0 where nothing counts them."""
    try:
        return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0


def now() -> float:
    """Return monotonic seconds, for deciding when something is due."""
    return time.monotonic()


def reset_peak_memory(device: torch.device) -> None:
    """Restart the count of `peak_memory_bytes`, where the system can: on a GPU, and on Linux."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory_bytes(device: torch.device) -> int | None:
    """Return the most memory held since `reset_peak_memory`, by the device's allocator on a GPU, else by this process.

    Where the count cannot be reset (neither a GPU nor Linux) it covers the whole life of the process. None where
    nothing counts (Windows, whose Python has no module `resource`).
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
