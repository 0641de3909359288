"""What was minimised, measured from the objective itself.

That is the factor of every named term, and the part that no term accounts for. Nobody has to say which method it was:
an objective names its terms (`bdlbench.training.terms`), and autograd tells how they entered it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bdlbench.data.task import Examples
from bdlbench.training.loop import Fit
from bdlbench.training.plan import Moment
from bdlbench.training.terms import Term, TermKind, listening

CHUNKS = 20
"""The parts of training among which a ramp is searched for."""


@dataclass(frozen=True)
class Audit:
    """The objective at the last step of training: (R,) float64 each, for the rows of the fit.

    Attributes:
        named: Whether it names a likelihood; without one nothing else can be told.
        temperature: By divergence, N · ∂objective/∂KL over −Σ_b ∂objective/∂elbo_b: 1 where the factor is 1/N, below 1
            where the posterior is cold (Wenzel et al. 2020, §2.3: the KL alone is tempered).
        ramp: By divergence, the part of training after which its temperature is the final one; 0 where nothing ramps.
        local: By divergence of a latent, its factor in an example's ELBO.
        undeclared: The norm of the gradient that no term accounts for, over that of the objective.
        values: The mean of each term over its elements.
        objective: The value of the whole objective.
        gradient_norm: The norm of its gradient.
    """

    named: bool
    temperature: Mapping[str, Tensor]
    ramp: Mapping[str, Tensor]
    local: Mapping[str, Tensor]
    undeclared: Tensor
    values: Mapping[str, Tensor]
    objective: Tensor
    gradient_norm: Tensor


def audit(fit: Fit) -> Audit:
    """Measure the objective of a fit at its latest state, on its first examples in place of a batch."""
    size = min(fit.plan.batch_size, fit.data.num_data)
    batch = fit.data.batch(torch.arange(size, device=fit.data.x.device).expand(fit.data.rows, size))
    flat = (fit.initial if fit.state is None else fit.state.flat).detach().clone().requires_grad_()
    loss, terms = _computed(fit, flat, batch, fit.steps - 1)
    factors = _factors(loss, terms)
    known = [term.value * factor for term, factor in zip(terms, factors, strict=True) if term.kind != "local"]
    rest = loss - sum(map(_row_sums, known))  # the divergence of a latent is part of a likelihood already
    whole, left = (_gradient_norm(value, flat) for value in (loss, rest))
    temperature = _temperature(fit, terms, factors)
    return Audit(
        named=any(term.kind == "likelihood" for term in terms),
        temperature=temperature,
        ramp=_ramp(fit, flat, batch, temperature),
        local=_relative(terms, factors, "local"),
        undeclared=left / whole.clamp_min(torch.finfo(torch.float64).tiny),
        values=_by_name((term.name, _row_sums(term.value.detach().double()) / term.value[0].numel()) for term in terms),
        objective=loss.detach().double(),
        gradient_norm=whole,
    )


def _computed(fit: Fit, flat: Tensor, batch: Examples, step: int) -> tuple[Tensor, list[Term]]:
    """Return the objective (R,) before a step, and the terms that it named and that depend on parameters."""
    with torch.enable_grad(), listening() as heard:
        loss = fit.objective(flat, batch, fit.rng.child("audit"), Moment(step, fit.steps))
    return loss, [term for term in heard if term.value.requires_grad]


def _factors(loss: Tensor, terms: Sequence[Term]) -> list[Tensor]:
    """Return ∂loss/∂term, in the shape of each term."""
    if not terms:
        return []
    values = [term.value for term in terms]
    grad: Any = torch.autograd.grad  # with allow_unused it may return None, which its annotation omits
    found = grad(loss.sum(), values, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(v) if factor is None else factor for v, factor in zip(values, found, strict=True)]


def _temperature(fit: Fit, terms: Sequence[Term], factors: Sequence[Tensor]) -> dict[str, Tensor]:
    return {name: fit.data.num_data * v for name, v in _relative(terms, factors, "divergence").items()}


def _relative(terms: Sequence[Term], factors: Sequence[Tensor], kind: TermKind) -> dict[str, Tensor]:
    """Return Σ ∂loss/∂term over −Σ ∂loss/∂elbo of each row, by the name of the terms of a kind."""
    sums = [(term, _row_sums(factor.double())) for term, factor in zip(terms, factors, strict=True)]
    likelihood = [-total for term, total in sums if term.kind == "likelihood"]
    if not likelihood:
        return {}
    return _by_name((term.name, total / sum(likelihood)) for term, total in sums if term.kind == kind)


def _ramp(fit: Fit, flat: Tensor, batch: Examples, final: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return, by divergence, the part of training after which its temperature stays at its final value."""
    since = {name: torch.zeros_like(value) for name, value in final.items()}
    for part in range(CHUNKS) if final else ():
        loss, terms = _computed(fit, flat, batch, part * fit.steps // CHUNKS)
        there = _temperature(fit, terms, _factors(loss, terms))
        for name, value in final.items():
            other = ~torch.isclose(there.get(name, torch.zeros_like(value)), value, rtol=1e-5)
            since[name] = torch.where(other, (part + 1) / CHUNKS, since[name])
    return since


def _gradient_norm(value: Tensor, flat: Tensor) -> Tensor:
    """Return the norm of ∂value/∂flat of each row (R, Q): (R,) float64."""
    if not value.requires_grad:
        return flat.new_zeros(len(flat), dtype=torch.float64)
    # the gradient is None without a path to the rows; the product with zero makes it zeros
    (rows,) = torch.autograd.grad((value + 0 * flat.sum()).sum(), flat, retain_graph=True)
    return torch.stack([row.double().norm() for row in rows])


def _row_sums(values: Tensor) -> Tensor:
    """Sum each row, (R, …) -> (R,)."""
    return values.reshape(len(values), -1).sum(1)


def _by_name(pairs: Iterator[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """Add up what has one name."""
    found: dict[str, Tensor] = {}
    for name, value in pairs:
        found[name] = found[name] + value if name in found else value
    return found
