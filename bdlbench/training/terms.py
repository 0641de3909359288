"""The terms of an objective: named where they are computed, and collected by an audit; they cost nothing otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal, NamedTuple

from torch import Tensor

TermKind = Literal["likelihood", "divergence", "local"]
"""What a term is, in nats and with factor one: tempering, ramps and 1/N come after.

likelihood: an example's elbo, ([M,] R, B). divergence: what a prior adds, KL(q(w) ‖ p(w)) or −log p(w), (R,). local: a
latent's own KL, inside an elbo.
"""


class Term(NamedTuple):
    """One part of an objective; several of one name add up."""

    kind: TermKind
    name: str
    value: Tensor


_heard: ContextVar[list[Term] | None] = ContextVar("heard", default=None)


def term(kind: TermKind, value: Tensor, name: str = "") -> Tensor:
    """Name a part of the objective that is being computed, and return it unchanged.

    Args:
        kind: "likelihood": an example's elbo, ([M,] R, B). "divergence": what a prior adds, KL(q(w) ‖ p(w)) or −log
            p(w), (R,). "local": a latent's own KL, inside an elbo.
        value: The part, in nats and with factor one: tempering, ramps and 1/N come after.
        name: Its name; parts of one name add up.

    Returns:
        `value` itself.
    """
    heard = _heard.get()
    if heard is not None:
        heard.append(Term(kind, name or kind, value))
    return value


@contextmanager
def listening() -> Iterator[list[Term]]:
    """Collect every `term` within the block, in the order of computation."""
    heard: list[Term] = []
    token = _heard.set(heard)
    try:
        yield heard
    finally:
        _heard.reset(token)
