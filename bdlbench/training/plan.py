"""The plan of a fit: steps over shuffled batches, the step rule with its rate over time, and what regularises it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from bdlbench.core.layout import PerRow
from bdlbench.core.streams import Streams
from bdlbench.data.task import Data

Decay = Literal["constant", "linear", "second_half", "cosine", "step"]
"""How the learning rate changes over time: `DECAYS` has the formulas."""

LastBatch = Literal["dropped", "kept"]
"""What becomes of an epoch's last batch where it is incomplete."""

Optimiser = Literal["adam", "adamw", "sgd", "nesterov"]
"""The step rule: `training.optimisers.OPTIMISERS` has the functions."""

Augment = Callable[[Tensor, Streams], Tensor]
"""(inputs (R, B, *S), streams (R,) of this batch) -> inputs of the same shape, moved as each row's stream says."""


@dataclass(frozen=True)
class Moment:
    """The progress of training before a step.

    Attributes:
        step: Steps done.
        steps: Steps in all.
        reported: Whether the value of the loss is read after this step. If not, an objective may leave out terms whose
            gradient is known without their value.
    """

    step: int
    steps: int
    reported: bool = True

    @property
    def progress(self) -> float:
        """The fraction of training that is done."""
        return self.step / self.steps


@dataclass(frozen=True)
class Plan:
    """How to train: by steps over shuffled batches.

    Attributes:
        epochs: Passes over the training data; `steps` replaces them.
        batch_size: B, examples in a batch.
        learning_rate: The step size of the optimiser, or the rate that another step rule receives; a number or (R,).
        decay: How the rate changes over time.
        last_batch: Whether the last batch of an epoch is dropped or kept where it is incomplete; if kept, its examples
            weigh more than others.
        steps: Steps in all, the last epoch cut short where they are no multiple of an epoch's; 0: as many as `epochs`
            take.
        optimiser: The step rule.
        momentum: μ of SGD, a number or (R,).
        weight_decay: λ of the optimiser, in units of its gradient, which is of nats per example; a number or (R,).
        origin: Where weight decay pulls the first columns of a row, (P,): to 0, a gain, which is stored minus one, to
            −1, and NaN where it does not reach, as in buffers; nor does it reach further columns. None: all to 0.
        warmup: The fraction of training in which the rate rises to its full value, a number or (R,).
        milestones: After which percent of training decay=step multiplies the rate.
        milestone_factor: By what, a number or (R,).
        clip_norm: The largest norm of a row's gradient, in nats per example; a number or (R,), 0: any.
        label_smoothing: ε, the part of the target that is spread over all classes; a number or (R,).
        validation: Held-out rows, by which each row's best epoch is chosen; None: the last epoch is.
        patience: Epochs without an improvement on `validation` after which a row is done; 0: it trains to the end.
        augment: How the inputs of a batch are moved; None: not at all.
        mixed_precision: Whether the objective is computed in bfloat16 where that is safe (torch's autocast).
    """

    epochs: int
    batch_size: int
    learning_rate: PerRow
    decay: Decay = "constant"
    last_batch: LastBatch = "dropped"
    steps: int = 0
    optimiser: Optimiser = "adam"
    momentum: PerRow = 0.9
    weight_decay: PerRow = 0.0
    origin: Tensor | None = None
    warmup: PerRow = 0.0
    milestones: Sequence[int] = (50, 75)
    milestone_factor: PerRow = 0.1
    clip_norm: PerRow = 0.0
    label_smoothing: PerRow = 0.0
    validation: Data | None = None
    patience: int = 0
    augment: Augment | None = None
    mixed_precision: bool = False

    def steps_per_epoch(self, num_data: int) -> int:
        """Return the steps of a whole epoch over `num_data` examples."""
        batch_size = min(self.batch_size, num_data)
        return -(-num_data // batch_size) if self.last_batch == "kept" else num_data // batch_size

    def total_steps(self, num_data: int) -> int:
        """Return the steps of all training on `num_data` examples."""
        return self.steps or self.epochs * self.steps_per_epoch(num_data)

    def total_epochs(self, num_data: int) -> int:
        """Return the epochs on `num_data` examples, one that is cut short included."""
        return -(-self.total_steps(num_data) // self.steps_per_epoch(num_data))

    def rate(self, moment: Moment) -> PerRow:
        """Return the learning rate of the step after `moment`, a number or (R,) float64.

        It is learning_rate · decay(progress) · min(1, (steps done + 1) / (warmup · all steps)).
        """
        rate = self.learning_rate * DECAYS[self.decay](moment.progress, self)
        if isinstance(self.warmup, Tensor):
            rising = (moment.step + 1) / (self.warmup.double() * moment.steps)  # ∞ where nothing rises
            return rate * rising.clamp(max=1.0)
        return rate * min(1.0, (moment.step + 1) / (self.warmup * moment.steps)) if self.warmup else rate


def _by_steps(progress: float, plan: Plan) -> PerRow:
    """Return milestone_factor to the power of the milestones that have passed: a product, whose bits rows share."""
    factor: PerRow = 1.0
    for percent in plan.milestones:
        if 100 * progress >= percent:
            factor = factor * plan.milestone_factor
    return factor


DECAYS: dict[Decay, Callable[[float, Plan], PerRow]] = {
    "constant": lambda progress, plan: 1.0,
    "linear": lambda progress, plan: 1.0 - progress,
    "second_half": lambda progress, plan: min(1.0, 2.0 - 2.0 * progress),
    "cosine": lambda progress, plan: 0.5 * (1.0 + math.cos(math.pi * progress)),
    "step": _by_steps,
}
"""The factor of the learning rate at a fraction `progress` of the steps. Cosine: Loshchilov & Hutter 2017, eq. 5."""


def asked(value: PerRow) -> bool:
    """Tell whether an option whose 0 means nothing is asked for, in any row.

    Args:
        value: A number, or one for each row (R,).

    Returns:
        False where all is 0.
    """
    return bool(value.count_nonzero()) if isinstance(value, Tensor) else value != 0
