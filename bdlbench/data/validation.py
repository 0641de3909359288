"""Validation rows: some training rows of each replicate held out, and the rest standardised anew by themselves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from bdlbench.core.errors import BadInput
from bdlbench.core.streams import Streams
from bdlbench.data.task import Data, Problem, Shift


class HeldOut(NamedTuple):
    """The problem whose training rows are those that were not held out, and the validation rows on its scale."""

    problem: Problem
    validation: Data


def hold_out(problem: Problem, seeds: Sequence[int], share: float, purpose: str = "validation") -> HeldOut:
    """Hold out a share of each replicate's training rows, by the order of its own stream, and never a test row.

    Where training rows had standardised inputs and real targets, the rows that are left now do, and everything else is
    brought to their scale: what follows sees of the validation rows as little as of test rows.

    Args:
        problem: R replicates.
        seeds: The seed of each, (R,).
        share: The share that is held out, between 0 and 1; the rest is rounded down.
        purpose: The name of the stream, and of the option in messages.

    Returns:
        The problem without these rows, and these rows.

    Raises:
        BadInput: No row is left on one side.
    """
    count = problem.train.num_data
    kept = math.floor(round((1 - share) * count, 9))  # 1 − 0.9 is a little less than 0.1
    if not 0 < kept < count:
        raise BadInput(f"{purpose} = {share:g} of {count} training rows leaves none on one side: choose another share")
    order = Streams.of_seeds(seeds).child(purpose).permutation(count).to(problem.train.x.device)  # (R, N)
    left, out = (problem.train.batch(index) for index in (order[:, :kept], order[:, kept:]))
    x_mean, x_sd = _statistics(left.x, problem.standardised)
    real = problem.signature.likelihood == "gaussian"
    y_mean, y_sd = _statistics(left.y, (0,) if real and problem.standardised else ())

    def inputs(x: Tensor) -> Tensor:
        return x if not problem.standardised else ((x.double() - x_mean) / x_sd).to(x.dtype)

    def targets(y: Tensor) -> Tensor:
        return y if not (real and problem.standardised) else ((y.double() - y_mean) / y_sd).to(y.dtype)

    rest, validation, test = (Data(inputs(part.x), targets(part.y)) for part in (left, out, problem.test))
    others = problem.calibration
    return HeldOut(
        replace(
            problem,
            train=rest,
            test=test,
            ood={name: inputs(x) for name, x in problem.ood.items()},
            shifts={
                name: Shift(inputs(shift.x), None if shift.y is None else targets(shift.y))
                for name, shift in problem.shifts.items()
            },
            calibration=None if others is None else Data(inputs(others.x), targets(others.y)),
            y_mean=problem.y_mean + problem.y_sd * y_mean[:, 0],
            y_sd=problem.y_sd * y_sd[:, 0],
        ),
        validation,
    )


def _statistics(values: Tensor, axes: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of each row of (R, n, *S) along `axes` of a row, float64 with these axes 1.

    They are 0 and 1 without axes, and the deviation is 1 where values are all the same. Each row is reduced by itself,
    so that its bits do not depend on R.
    """
    means, sds = [], []
    for row in values:
        if not axes:
            means.append(torch.zeros(1, dtype=torch.float64, device=row.device))
            sds.append(torch.ones(1, dtype=torch.float64, device=row.device))
            continue
        wide = row.double().contiguous()
        varies = wide.amax(axes, keepdim=True) > wide.amin(axes, keepdim=True)
        sd = wide.var(axes, correction=0, keepdim=True).sqrt()
        means.append(wide.mean(axes, keepdim=True))
        sds.append(torch.where(varies, sd, 1.0))
    return torch.stack(means), torch.stack(sds)
