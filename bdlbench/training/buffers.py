"""What a network remembers of its batches: told where it is computed, written into the rows when the step is done.

A forward cannot write there itself: its rows may be leaves of a graph, or a noisy copy of them, and what it kept
elsewhere would be in no checkpoint. So it is said through a context, as the terms of an objective are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor

_remembered: ContextVar[dict[int, Tensor] | None] = ContextVar("remembered", default=None)


def remember(start: int, value: Tensor) -> None:
    """Say the new value of a buffer. Outside a step of training nobody keeps it; the last word of a step counts.

    Args:
        start: Where the buffer begins in a row of parameters, which come first in the rows of every method.
        value: Its value, (R, n).
    """
    remembered = _remembered.get()
    if remembered is not None:
        remembered[start] = value.detach()


@contextmanager
def remembering() -> Iterator[dict[int, Tensor]]:
    """Collect the new values of buffers within the block, by where they begin."""
    remembered: dict[int, Tensor] = {}
    token = _remembered.set(remembered)
    try:
        yield remembered
    finally:
        _remembered.reset(token)


def keep(remembered: Mapping[int, Tensor], flat: Tensor) -> None:
    """Write what was remembered in a step into the rows (R, Q) after it, in place."""
    for start, value in remembered.items():
        flat[:, start : start + value.shape[1]] = value
