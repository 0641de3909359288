"""Where numbers were made: versions, processor, device, threads, commit."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from bdlbench.core import instructions

PACKAGES = ("bdlbench", "torch", "numpy", "scikit-learn", "scipy")


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch work on one thread within the block.

    Many small tensors gain nothing from two threads, and lose on a busy machine: comparing two folders of `quick` took
    20 seconds on one, and beside two other jobs more than ten minutes on two.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def describe(device: str, threads: int) -> dict[str, Any]:
    """Describe, for a record, all that may explain why two runs of the same cell differ."""
    return {
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "processor": _processor(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),  # what is in force
        "instructions": instructions.asked(),  # what was asked for; torch does not tell what oneDNN uses
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else "cpu",
        "threads": threads,
        "commit": _commit(),
    }


@cache
def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


@cache
def _processor() -> str:
    """Return the model name of the processor where the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


@cache
def _commit() -> str:
    """Return the commit of the source tree, with `+changes` where it was edited; empty for an installed package."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return ""
    try:
        commit = _git(root, "rev-parse", "HEAD")
        # `describe --dirty` would lock the index to refresh it: a run killed meanwhile would leave the lock behind
        edited = _git(root, "--no-optional-locks", "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return ""
    return commit + ("+changes" if edited else "")


def _git(root: Path, *arguments: str) -> str:
    asked = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, timeout=10, check=True)
    return asked.stdout.strip()
