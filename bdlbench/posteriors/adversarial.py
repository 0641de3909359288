"""Adversarial training: half of the loss is of inputs moved so that the loss grows (Goodfellow et al. 2015)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from bdlbench.core.layout import PerRow, per_row
from bdlbench.data.task import Data, shared
from bdlbench.protocols import Model

ReachUnit = Literal["range", "sd"]


def unsupported(model: Model, epsilon: PerRow) -> str | None:
    """Say why inputs cannot be moved away from their targets; None where they can, or where no row asks for it."""
    none = torch.as_tensor(epsilon).count_nonzero() == 0
    if none or model.signature.likelihood in ("categorical", "gaussian"):
        return None
    return "the target of this model is the input itself, which adversarial training would move: take adversarial=0"


def reach(data: Data, epsilon: PerRow, unit: ReachUnit) -> Tensor | None:
    """Return how far each input is moved: ε times its range, or its standard deviation, over a row's training data.

    Args:
        data: The training data.
        epsilon: ε, a number or (R,).
        unit: Whether ε counts in ranges (Lakshminarayanan et al. 2017, §2.3) or in standard deviations.

    Returns:
        (R, 1, *S), or None where ε is the number 0.
    """
    if not isinstance(epsilon, Tensor) and epsilon == 0:
        return None
    rows = data.x[:1] if shared(data.x) else data.x
    if unit == "range":
        spreads = [row.amax(0) - row.amin(0) for row in rows]
    else:
        spreads = [row.double().std(0, correction=0).to(row) for row in rows]
    return torch.stack(spreads).unsqueeze(1) * per_row(epsilon, data.x, data.x.ndim)


def adversarial_elbo(elbo_of: Callable[[Tensor], Tensor], x: Tensor, reach: Tensor) -> Tensor:
    """Return the mean of an example's elbo at its input and at x − reach · sign(∂elbo/∂x), the fast gradient sign.

    The moved input is a constant: no gradient passes through it.

    Args:
        elbo_of: Inputs (R, B, *S) -> nats (R, B).
        x: The batch's inputs (R, B, *S).
        reach: How far each input is moved, (R, 1, *S).

    Returns:
        Nats, (R, B). Halves are exact in floating point, so a row with a reach of 0 has the bits of plain training.
    """
    here = x.detach().clone().requires_grad_()
    elbo = elbo_of(here)
    (slope,) = torch.autograd.grad(elbo.sum(), here, retain_graph=True)
    return (elbo + elbo_of(x - reach * slope.sign())) / 2
