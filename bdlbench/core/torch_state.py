"""State that torch, NumPy and Python keep for the whole process, put back after foreign code has run."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import torch


@contextmanager
def kept() -> Iterator[None]:
    """Put the state of the process back at the end of the block, whatever was set within and even after an error.

    Of torch: default dtype and device, gradients and inference mode, threads, deterministic algorithms, matmul
    precision, oneDNN and cuDNN switches, anomaly detection, denormal numbers. Of all three: generators, NumPy's
    handling of floating-point errors, filters of warnings. The number of interop threads cannot be put back: torch
    takes it once.
    """
    threads, dtype, device = torch.get_num_threads(), torch.get_default_dtype(), torch.get_default_device()
    algorithms = torch.get_deterministic_debug_mode()
    precision, flushed = torch.get_float32_matmul_precision(), _flushes()
    anomalies = torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()
    mkldnn, cudnn, switches = torch.backends.mkldnn, torch.backends.cudnn, ("enabled", "deterministic", "benchmark")
    onednn, cuda = mkldnn.enabled, {name: getattr(cudnn, name) for name in switches}
    drawn, shuffled, filters = np.random.get_state(), random.getstate(), warnings.filters[:]  # noqa: NPY002
    graded = torch.is_grad_enabled()
    try:
        # leaving a guard also undoes a mode that foreign code entered and never left
        with (
            torch.inference_mode(torch.is_inference_mode_enabled()),
            torch.set_grad_enabled(graded),
            torch.random.fork_rng(devices=[]),
            np.errstate(),
        ):
            yield
    finally:
        torch.set_num_threads(threads)
        torch.set_default_dtype(dtype)
        if torch.get_default_device() != device:  # else it may be that of a caller's `with torch.device(…)`
            none = device == torch.device("cpu")  # setting None costs nothing
            torch.set_default_device(None if none else device)
        torch.set_deterministic_debug_mode(algorithms)  # `use_deterministic_algorithms` imports the compiler: 1 s
        torch.set_float32_matmul_precision(precision)
        torch.set_flush_denormal(flushed)
        torch.autograd.set_detect_anomaly(*anomalies)
        mkldnn.enabled = onednn
        for name, value in cuda.items():
            setattr(cudnn, name, value)
        np.random.set_state(drawn)  # noqa: NPY002 - other people's code may draw from it
        random.setstate(shuffled)
        if warnings.filters != filters:
            warnings.filters[:] = filters  # type: ignore[index]


@contextmanager
def usual() -> Iterator[None]:
    """Let torch compute as in a new process within the block, whatever the caller has set; afterwards all is as before.

    Otherwise a caller who has set float64, another device or bfloat16 would get other bits here, or errors.
    """
    with (
        kept(),
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast("cpu", enabled=False),
        ExitStack() as devices,
    ):
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
        if torch.get_default_device() != torch.device("cpu"):  # a `with torch.device(…)`; each such costs time
            devices.enter_context(torch.device("cpu"))
        torch.set_deterministic_debug_mode("default")
        torch.set_float32_matmul_precision("highest")
        torch.set_flush_denormal(False)
        torch.autograd.set_detect_anomaly(False)
        torch.backends.mkldnn.enabled = True  # type: ignore[assignment]
        yield


@contextmanager
def stirred(seed: int) -> Iterator[None]:
    """Put the generators of the process elsewhere within the block, to see by two seeds which code draws from them."""
    with kept():
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        random.seed(seed)
        yield


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Let torch draw from this seed within the block, for functions that take no generator; None changes nothing."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _flushes() -> bool:
    """Tell whether denormal numbers count as 0: torch can set this, but cannot report it."""
    return bool((torch.full((), 1e-310, dtype=torch.float64, device="cpu") * 1).item() == 0)
