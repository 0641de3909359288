"""The only place that measures time and memory."""

from __future__ import annotations

import resource
import sys
import time

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


def now() -> float:
    """Monotonic seconds, for deciding when something is due."""
    return time.monotonic()


def peak_memory_bytes(device: torch.device) -> int:
    """The most memory held so far: by the device's allocator on a GPU, by this process elsewhere."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    kilo = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * kilo
