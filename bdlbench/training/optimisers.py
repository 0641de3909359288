"""Optimisers as step rules: each is one function of the plan, and all that it keeps is tensors (R, Q).

Every step is elementwise, so no row knows of another, and a checkpoint of the tensors is all of an optimiser's state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bdlbench.core.layout import PerRow, per_row
from bdlbench.core.streams import Streams
from bdlbench.core.torch_private import adam_
from bdlbench.training.plan import Moment, Optimiser, Plan, asked

Tensors = Mapping[str, Tensor]
"""Tensors by name, (R, …) each, that are kept from step to step and in the checkpoint."""


@dataclass(frozen=True)
class Update:
    """A step rule, such as that of an optimiser or a sampler. Its tensors hold all that it keeps from step to step.

    Attributes:
        start: start(flat) returns the tensors that it keeps, (R, …) each, before the first step.
        step: step(flat, gradient, kept, rate, moment, noise) returns (flat, kept) after the step. flat and gradient are
            (R, Q); rate is the plan's after its decay, a number or (R,); moment is before the step; noise are the
            streams that the objective draws from, whose position is in the checkpoint. No operation may mix rows.
    """

    start: Callable[[Tensor], Tensors]
    step: Callable[[Tensor, Tensor, Tensors, PerRow, Moment, Streams], tuple[Tensor, Tensors]]


def optimiser_of(plan: Plan) -> Update:
    """Return the step rule that a plan names."""
    return OPTIMISERS[plan.optimiser](plan)


def adam(plan: Plan) -> Update:
    """Adam (Kingma & Ba 2015); weight decay is an L2 penalty: λ w joins the gradient, and so its moments."""

    def step(
        flat: Tensor, gradient: Tensor, kept: Tensors, rate: PerRow, moment: Moment, noise: Streams
    ) -> tuple[Tensor, Tensors]:
        adam_step(flat, with_decay(flat, gradient, plan), kept["mean"], kept["square"], moment.step + 1, rate)
        return flat, kept

    return Update(lambda flat: {"mean": torch.zeros_like(flat), "square": torch.zeros_like(flat)}, step)


def adamw(plan: Plan) -> Update:
    """Adam with weight decay apart from its moments: w ← w − rate · λ w before the step (Loshchilov & Hutter 2019)."""
    plain = adam(replace(plan, weight_decay=0.0))

    def step(
        flat: Tensor, gradient: Tensor, kept: Tensors, rate: PerRow, moment: Moment, noise: Streams
    ) -> tuple[Tensor, Tensors]:
        shrunk = flat - per_row(rate, flat, 2) * with_decay(flat, torch.zeros_like(flat), plan)
        return plain.step(shrunk, gradient, kept, rate, moment, noise)

    return Update(plain.start, step)


def sgd(plan: Plan) -> Update:
    """SGD with momentum: v ← μ v + gradient + λ w, w ← w − rate · v (Sutskever et al. 2013, in torch's form)."""

    def step(
        flat: Tensor, gradient: Tensor, kept: Tensors, rate: PerRow, moment: Moment, noise: Streams
    ) -> tuple[Tensor, Tensors]:
        velocity = per_row(plan.momentum, flat, 2) * kept["velocity"] + with_decay(flat, gradient, plan)
        return flat - per_row(rate, flat, 2) * velocity, {"velocity": velocity}

    return Update(lambda flat: {"velocity": torch.zeros_like(flat)}, step)


def nesterov(plan: Plan) -> Update:
    """SGD with Nesterov's momentum: v as in `sgd`, w ← w − rate · (gradient + λ w + μ v)."""

    def step(
        flat: Tensor, gradient: Tensor, kept: Tensors, rate: PerRow, moment: Moment, noise: Streams
    ) -> tuple[Tensor, Tensors]:
        momentum, slope = per_row(plan.momentum, flat, 2), with_decay(flat, gradient, plan)
        velocity = momentum * kept["velocity"] + slope
        return flat - per_row(rate, flat, 2) * (slope + momentum * velocity), {"velocity": velocity}

    return Update(lambda flat: {"velocity": torch.zeros_like(flat)}, step)


OPTIMISERS: dict[Optimiser, Callable[[Plan], Update]] = {
    "adam": adam,
    "adamw": adamw,
    "sgd": sgd,
    "nesterov": nesterov,
}
"""The step rule of a plan, by the name that options have for it."""


def with_decay(flat: Tensor, gradient: Tensor, plan: Plan) -> Tensor:
    """Return gradient + λ (w − origin) on the parameters of the network, and the gradient elsewhere.

    Args:
        flat: Rows (R, Q).
        gradient: Their gradient (R, Q).
        plan: λ is its `weight_decay`.

    Returns:
        (R, Q); the gradient itself where λ is 0.
    """
    if not asked(plan.weight_decay):
        return gradient
    origin = flat.new_zeros(flat.shape[1]) if plan.origin is None else plan.origin.to(flat)
    width, decay = len(origin), per_row(plan.weight_decay, flat, 2)
    weights, slope = flat[:, :width], gradient[:, :width]
    reached = ~origin.isnan() & (torch.as_tensor(decay) != 0)  # a row whose λ is 0 has the bits that it has alone
    pulled = torch.where(reached, slope + decay * (weights - origin), slope)
    return torch.cat([pulled, gradient[:, width:]], 1) if width < flat.shape[1] else pulled


def clipped(gradient: Tensor, largest: PerRow) -> Tensor:
    """Return the gradient of each row, scaled down where its own norm is larger, as torch's `clip_grad_norm_` does.

    Args:
        gradient: (R, Q).
        largest: The largest norm, a number or (R,); 0: any.

    Returns:
        (R, Q).
    """
    if not asked(largest):
        return gradient
    limit = torch.as_tensor(largest, dtype=torch.float64).to(gradient).reshape(-1, 1)  # (1 or R, 1)
    norm = torch.stack([row.norm() for row in gradient]).unsqueeze(1)  # row by row: a norm's bits do not depend on R
    return torch.where(limit > 0, gradient * (limit / (norm + 1e-6)).clamp(max=1.0), gradient)


def adam_step(
    flat: Tensor, gradient: Tensor, mean: Tensor, square: Tensor, step: int, rate: PerRow, factor: float = 1.0
) -> None:
    """Take one step of Adam in place on rows (R, Q), with β = (0.9, 0.999) and ε = 1e-8.

    The fused kernel rounds the last elements, which do not fill a whole vector, differently: rows are padded to the
    width of a vector, so a row's bits do not depend on where it lies.

    Args:
        flat: Rows (R, Q).
        gradient: Their gradient (R, Q).
        mean: First moments (R, Q).
        square: Second moments (R, Q).
        step: The number of the step, from 1.
        rate: The step size, a number or (R,).
        factor: What the rate is multiplied by.
    """
    if isinstance(rate, Tensor):
        for row, value in enumerate(rate.tolist()):
            adam_step(flat[row], gradient[row], mean[row], square[row], step, value, factor)
        return
    adam_(flat, gradient, mean, square, step, rate * factor)
