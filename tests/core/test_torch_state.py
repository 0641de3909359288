"""What other people's code sets for the whole process is undone when it has run."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from bdlbench.core.torch_state import kept, usual


def flushed() -> bool:
    """The processor compares as it computes: what is flushed is told by its text."""
    return str((torch.full((), 1e-310, dtype=torch.float64) * 1).item()) == "0.0"


STATE: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "dtype": (torch.get_default_dtype, lambda: torch.set_default_dtype(torch.float64)),
    "device": (torch.get_default_device, lambda: torch.set_default_device("meta")),
    "gradients": (torch.is_grad_enabled, lambda: torch.set_grad_enabled(False)),
    "inference": (torch.is_inference_mode_enabled, lambda: guards.append(entered(torch.inference_mode()))),
    "no_grad": (torch.is_grad_enabled, lambda: guards.append(entered(torch.no_grad()))),
    "threads": (torch.get_num_threads, lambda: torch.set_num_threads(torch.get_num_threads() + 1)),
    "deterministic": (
        torch.are_deterministic_algorithms_enabled,
        lambda: torch.use_deterministic_algorithms(True, warn_only=True),
    ),
    "precision": (torch.get_float32_matmul_precision, lambda: torch.set_float32_matmul_precision("medium")),
    "denormal": (flushed, lambda: torch.set_flush_denormal(True)),
    "anomaly": (torch.is_anomaly_enabled, lambda: torch.autograd.set_detect_anomaly(True)),
    "onednn": (lambda: torch.backends.mkldnn.enabled, lambda: setattr(torch.backends.mkldnn, "enabled", False)),
    "cudnn": (lambda: torch.backends.cudnn.benchmark, lambda: setattr(torch.backends.cudnn, "benchmark", True)),
    "seed": (lambda: torch.random.get_rng_state().sum().item(), lambda: torch.manual_seed(3)),
    "numpy_seed": (lambda: int(np.random.get_state()[1].sum()), lambda: np.random.seed(3)),  # noqa: NPY002
    "python_seed": (random.getstate, lambda: random.seed(3)),
    "numpy_errors": (np.geterr, lambda: np.seterr(all="raise")),
    "warnings": (lambda: list(warnings.filters), lambda: warnings.simplefilter("ignore")),
}
guards: list[Any] = []


def entered(guard: Any) -> Any:
    """A guard that is entered and never left, and that something still holds."""
    guard.__enter__()
    return guard


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled")
@pytest.mark.parametrize("name", STATE)
@pytest.mark.parametrize("ends", ["well", "by an error", "by an exit"])
def test_what_was_set_is_as_before(name: str, ends: str) -> None:
    read, change = STATE[name]
    before = read()
    ending = {"well": (), "by an error": (ValueError,), "by an exit": (SystemExit,)}[ends]
    try:
        with kept():
            change()
            assert read() != before  # it does set something
            if ending:
                raise ending[0]("as planned")
    except (ValueError, SystemExit):
        assert ends != "well"
    assert read() == before


def test_what_the_caller_had_set_stays() -> None:
    """It restores what it found, not what torch starts with; and it changes nothing within."""
    with kept():
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)
        torch.set_flush_denormal(True)
        with kept():
            assert torch.get_default_dtype() == torch.float64 and not torch.is_grad_enabled() and flushed()
            torch.set_default_dtype(torch.float32)
            torch.set_grad_enabled(True)
            torch.set_flush_denormal(False)
        assert torch.get_default_dtype() == torch.float64 and not torch.is_grad_enabled() and flushed()
    assert torch.get_default_dtype() == torch.float32 and torch.is_grad_enabled() and not flushed()


UNUSUAL = ("dtype", "device", "gradients", "inference", "deterministic", "precision", "denormal", "anomaly", "onednn")


@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled")
@pytest.mark.parametrize("name", UNUSUAL)
def test_whatever_a_caller_has_set_does_not_hold_within(name: str) -> None:
    read, change = STATE[name]
    fresh = read()
    with kept():
        change()
        theirs = read()
        with usual():
            assert read() == fresh != theirs
        assert read() == theirs
    assert read() == fresh


def test_a_callers_device_is_theirs_alone() -> None:
    with torch.device("meta"):
        with kept():
            assert torch.ones(1).device.type == "meta"
        with usual():
            assert torch.ones(1).device.type == "cpu"
        assert torch.ones(1).device.type == "meta"
    assert torch.ones(1).device.type == "cpu"


def test_a_callers_autocast_does_not_hold_within() -> None:
    x = torch.ones(2, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with usual():
            assert (x @ x).dtype == torch.float32
        assert (x @ x).dtype == torch.bfloat16
