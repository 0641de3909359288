"""The options of training that all methods share: a block of a method's fields, and the plan that they make."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any, get_args

from bdlbench.core.errors import BadInput
from bdlbench.core.layout import Layout, PerRow
from bdlbench.core.options import option
from bdlbench.core.streams import Streams
from bdlbench.data.task import Data
from bdlbench.protocols import Model
from bdlbench.training.augmentation import augmentation
from bdlbench.training.optimisers import OPTIMISERS
from bdlbench.training.plan import DECAYS, Decay, LastBatch, Optimiser, Plan, asked


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a network is trained. A method that has these options is a dataclass derived from this one.

    `with_plan` makes the plan of them; an option that means something else in a method is declared there again, by
    `recipe_option`.
    """

    epochs: int = option(60, "passes over the training data", low=1)
    batch_size: int = option(64, "examples in a batch", low=1)
    learning_rate: PerRow = option(1e-3, "the optimiser's step size", low=0, open_ends=True, search=(1e-4, 0.1))
    decay: Decay = option("constant", "learning rate over time", choices=tuple(DECAYS))
    last_batch: LastBatch = option(
        "dropped",
        "an epoch's last batch, where it is incomplete: its mean is over fewer examples",
        choices=get_args(LastBatch),
        later=True,
    )
    steps: int = option(0, "steps of training, which replace the epochs; 0: as many as they take", low=0, later=True)
    optimiser: Optimiser = option("adam", "the step rule", choices=tuple(OPTIMISERS), later=True)
    momentum: PerRow = option(0.9, "momentum of sgd and nesterov", low=0, high=1, open_ends="high", later=True)
    weight_decay: PerRow = option(
        0.0,
        "λ: the optimiser pulls weights towards 0, which is no prior: adamw by rate · λ · w, others by λ · w in the "
        "gradient of nats per example",
        low=0,
        later=True,
    )
    warmup: PerRow = option(
        0.0, "fraction of training in which the learning rate rises to its full value", low=0, high=1, later=True
    )
    milestones: tuple[int, ...] = option(
        (50, 75), "percent of training after which decay=step multiplies the rate", low=1, high=99, later=True
    )
    milestone_factor: PerRow = option(
        0.1, "by what decay=step multiplies the rate", low=0, high=1, open_ends="low", later=True
    )
    clip_norm: PerRow = option(
        0.0, "largest norm of a row's own gradient, in nats per example; 0: any", low=0, later=True
    )
    label_smoothing: PerRow = option(
        0.0,
        "part of a target that is spread over all classes (Szegedy et al. 2016)",
        low=0,
        high=1,
        open_ends="high",
        later=True,
    )
    validation: float = option(
        0.0,
        "share of the training rows that is held out, and by whose log-likelihood each row's best epoch is chosen",
        low=0,
        high=0.99,
        later=True,
    )
    patience: int = option(
        0, "epochs without an improvement on the held-out rows that end training; 0: none do", low=0, later=True
    )
    augmentation: str = option(
        "none",
        "torchvision's transforms of each image, such as RandomCrop size=32 padding=4 + RandomHorizontalFlip",
        later=True,
    )
    mixed_precision: bool = option(
        False, "compute the objective in bfloat16 where that is safe (torch's autocast), on CUDA", later=True
    )

    def __post_init__(self) -> None:
        """Refuse with BadInput what cannot be trained by, before anything is."""
        if self.augmentation != "none":
            augmentation(self.augmentation)
        if self.patience and not self.validation:
            raise BadInput(f"patience={self.patience} counts epochs on held-out rows: hold some out, as validation=0.1")

    def untrainable(self, model: Model) -> str | None:
        """Say why these options cannot train a model.

        Args:
            model: The model.

        Returns:
            The reason, or None where they can.
        """
        likelihood, shape = model.signature.likelihood, model.signature.input_shape
        if asked(self.label_smoothing) and likelihood != "categorical":
            return f"label_smoothing spreads a target over classes, and this one is {likelihood}"
        if self.augmentation != "none" and len(shape) != 3:
            return f"augmentation moves images (C, H, W), and an input has the shape {shape}"
        if self.validation and likelihood == "semi_categorical":
            return "validation needs the class of every held-out row, and training rows may lack theirs"
        return None

    def with_plan(self, model: Model, data: Data, rng: Streams) -> tuple[Data, Plan]:
        """Return the data to train on, and how.

        Where `validation` is asked for, a share of each row's examples is held out by its own stream; all that a method
        computes of training data is of the rest.

        Args:
            model: The model.
            data: The training data.
            rng: Streams (R,) of the fit.

        Returns:
            The data without the held-out rows, and the plan, which has them.

        Raises:
            BadInput: No row is left on one side, or mixed precision is asked for on a CPU.
        """
        if self.mixed_precision and data.x.device.type == "cpu":
            raise BadInput("mixed_precision=true is for CUDA, and this run is on the CPU: take --device cuda, or false")
        values = {f.name: getattr(self, f.name) for f in fields(Plan) if f.name in _SAME}
        plan = Plan(
            **values,
            origin=Layout(model.leaves()).fill(lambda leaf: -1.0 if leaf.role == "scale" else 0.0, padding=math.nan),
            augment=None if self.augmentation == "none" else augmentation(self.augmentation),
        )
        if not self.validation:
            return data, plan
        count = data.num_data
        kept = math.floor(round((1 - self.validation) * count, 9))  # 1 − 0.9 is a little less than 0.1
        if not 0 < kept < count:
            share = f"validation={self.validation:g} of {count} training rows"
            raise BadInput(f"{share} leaves none on one side: choose another share")
        order = rng.child("validation").permutation(count).to(data.x.device)  # (R, N)
        rest, held = (data.batch(index) for index in (order[:, :kept].contiguous(), order[:, kept:].contiguous()))
        return Data(rest.x, rest.y), replace(plan, validation=Data(held.x, held.y))


_SAME = {f.name for f in fields(Plan)} & {f.name for f in fields(Recipe)} - {"validation"}
"""The options that a plan has as they are."""


def recipe_option(name: str, **changes: Any) -> Any:
    """Return an option of `Recipe` for a field that is declared again, or for a method that is no `Recipe`.

    Args:
        name: The name of the option.
        **changes: What is different, by the names of `option`: its default, its help, its range.

    Returns:
        A dataclass field.

    Raises:
        KeyError: There is no option of this name.
    """
    known = {f.name: f for f in fields(Recipe)}[name]
    return option(**{"default": known.default, **known.metadata, **changes})
