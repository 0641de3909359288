"""What an objective is made of: said where it is computed, heard by whoever audits it, and free for everyone else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal, NamedTuple

from torch import Tensor

TermKind = Literal["likelihood", "divergence", "local"]
"""An example's elbo ([M,] R, B); what a prior adds, KL(q(w) ‖ p(w)) or −log p(w), (R,); a latent's own KL, in an elbo.

All in nats and with factor one: tempering, ramps and 1/N come after.
"""


class Term(NamedTuple):
    """One part of an objective; several of one name add up."""

    kind: TermKind
    name: str
    value: Tensor


_heard: ContextVar[list[Term] | None] = ContextVar("heard", default=None)


def term(kind: TermKind, value: Tensor, name: str = "") -> Tensor:
    """`value` itself, made known as a part of the objective that is being computed."""
    heard = _heard.get()
    if heard is not None:
        heard.append(Term(kind, name or kind, value))
    return value


@contextmanager
def listening() -> Iterator[list[Term]]:
    """Within the block, every `term` is added to the list, in the order of computation."""
    heard: list[Term] = []
    token = _heard.set(heard)
    try:
        yield heard
    finally:
        _heard.reset(token)
