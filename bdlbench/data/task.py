"""What a data set is: a `Task` is one split as it was loaded; a `Problem` is R of them side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from bdlbench.core.errors import BadInput

Likelihood = Literal["categorical", "semi_categorical", "gaussian", "bernoulli", "discretised"]
"""What is modelled: the target given the input, as a class or number; or the input itself, as binary or grey pixels."""

StandardisedOn = Literal["training", "all"]
"""The rows whose statistics inputs and real targets were standardised by. "all" includes the test rows, a leak."""


@dataclass(frozen=True)
class Signature:
    """What a model must fit: the shape of one input, the number of outputs, and the likelihood of the target.

    Attributes:
        input_shape: The shape S of one input.
        outputs: How many numbers the network returns for one input: the classes, or 1.
        likelihood: "categorical": the target is a class. "semi_categorical": the same, but a training example may lack
            its class, which is then −1. "gaussian": the target is a number. "bernoulli" and "discretised": the input
            itself is the target, as pixels from 0 to 1 of which the model takes a binary draw each time it sees them,
            or as 256 grey levels, level/255; labels then serve metrics only, and `outputs` is their number.
    """

    input_shape: tuple[int, ...]
    outputs: int
    likelihood: Likelihood


@dataclass(frozen=True)
class Examples:
    """Inputs and targets of one set of examples. Stacked rows have the replicate axis R in front of both.

    Attributes:
        x: Inputs (N, *S) float32.
        y: Targets (N,): int64 classes, or float32 on the scale the model sees.
    """

    x: Tensor
    y: Tensor


@dataclass(frozen=True)
class Shift:
    """A shifted test set with labels. Stacked rows have the replicate axis R in front.

    Attributes:
        x: Inputs (N, *S) float32, preprocessed as the training set is.
        y: Targets (N,) as in `Examples`, of a set with examples of its own. None where the examples are the test
            examples, shifted and in their order: they keep their targets, and each is one example with what it was
            shifted from.
    """

    x: Tensor
    y: Tensor | None = None


@dataclass(frozen=True)
class RawInputs:
    """How inputs as they were measured come to the scale of the training inputs, for sets that a person adds.

    Attributes:
        kind: What `scaled` takes: "pixels", images (N, C, H, W) of bytes; "numbers", (N, *S) in the data set's own
            units; "table", a `data.tables.Table` with the columns of the training rows.
        scaled: It returns inputs (N, *S) float32 for the model.
        columns: The columns of a table.
        target: The column of a table that is predicted.
        classes: The names of the classes, in order; () where they are called by their numbers.
        read: How a csv file of the same layout is read, if otherwise than by default.
    """

    kind: Literal["pixels", "numbers", "table"]
    scaled: Callable[[Any], Tensor]
    columns: tuple[str, ...] = ()
    target: str = ""
    classes: tuple[Any, ...] = ()
    read: Callable[[Any], Any] | None = None


@dataclass(frozen=True)
class Task:
    """One split of a data set, without a replicate axis.

    Attributes:
        signature: What a model must fit.
        train: The training examples.
        test: The test examples.
        ood: Inputs (N, *S) of each out-of-distribution set, preprocessed as the training set is.
        shifts: Shifted test sets, such as "rotation 3": a kind, and a severity from 1 where there are several.
        sources: SHA-256 of each file or array that the data were made from.
        y_mean: Mean of the targets in original units; the model sees (original − y_mean) / y_sd.
        y_sd: Standard deviation of the targets in original units.
        statistics: Numbers that preprocessing computed from the TRAINING data, by name, for the record.
        standardised: Where x was standardised by means and standard deviations of the training inputs, the axes over
            which these were taken: (0,) for each column of a table, (0, 2, 3) for each channel of images.
        standardised_on: "all" where statistics are of all rows on purpose, since a published protocol has that leak.
            The lint then says it, and refuses nothing.
        validation: Examples held out of the training data for choosing options, where the data set does so.
        raw: How raw inputs come to the scale of the training inputs; None where no set can be added.
        truth: What the process that drew the data predicts for the test inputs, where it is known, by the names of a
            record's arrays: `log_probs` (N, C) in nats of classes, or `mean` and `sd` (N,) of a real target in original
            units; float64. {} where it is not known.
    """

    signature: Signature
    train: Examples
    test: Examples
    ood: dict[str, Tensor] = field(default_factory=dict)
    shifts: dict[str, Shift] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    y_mean: float = 0.0
    y_sd: float = 1.0
    statistics: dict[str, float] = field(default_factory=dict)
    standardised: tuple[int, ...] = ()
    standardised_on: StandardisedOn = "training"
    validation: Examples | None = None
    raw: RawInputs | None = None
    truth: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Data:
    """The training data of R replicates: all that a method's `fit` may see.

    Where all rows share a split, both tensors are stride-0 views.

    Attributes:
        x: Inputs (R, N, *S).
        y: Targets (R, N).
    """

    x: Tensor
    y: Tensor

    @property
    def rows(self) -> int:
        """R, the number of replicates."""
        return self.x.shape[0]

    @property
    def num_data(self) -> int:
        """N, the number of training examples of one replicate."""
        return self.x.shape[1]

    def batch(self, index: Tensor) -> Examples:
        """Take examples of each row.

        Args:
            index: Which examples, (R, B) int64.

        Returns:
            x (R, B, *S) and y (R, B).
        """
        return Examples(_gather(self.x, index), _gather(self.y, index))

    def row(self, r: int) -> Data:
        """Return replicate r alone.

        Args:
            r: Which one, from 0.

        Returns:
            Data of one row, (1, N, …).
        """
        return Data(self.x[r : r + 1], self.y[r : r + 1])

    def repeat(self, times: int) -> Data:
        """Repeat each row, in the order r0 r0 … r1 r1 …; data that rows share stay shared.

        Args:
            times: How often.

        Returns:
            Data of R·times rows.
        """
        return Data(_repeat(self.x, times), _repeat(self.y, times))


@dataclass(frozen=True)
class Problem:
    """R tasks side by side. The problem owns evaluation: methods see `train` only.

    `standardised` are the axes of `Task.standardised` where the statistics are of the training rows, else ().
    """

    signature: Signature
    train: Data
    test: Data
    ood: dict[str, Tensor]  # (R, N, *S)
    y_mean: Tensor  # (R,) float64
    y_sd: Tensor  # (R,) float64
    standardised: tuple[int, ...] = ()
    shifts: dict[str, Shift] = field(default_factory=dict)  # (R, N, *S) and (R, N)
    calibration: Data | None = None  # rows like the test rows, which no method sees
    ood_scores: tuple[str, ...] = ()  # scores that are made after training, by name
    joint: int = 0  # functions that are drawn for joint likelihoods
    truth: dict[str, Tensor] = field(default_factory=dict)  # (R, N, …), as in `Task`

    def repeat(self, times: int) -> Problem:
        """Repeat each row, in the order r0 r0 … r1 r1 …; data that rows share stay shared."""
        return replace(
            self,
            train=self.train.repeat(times),
            test=self.test.repeat(times),
            ood={name: _repeat(x, times) for name, x in self.ood.items()},
            y_mean=self.y_mean.repeat_interleave(times),
            y_sd=self.y_sd.repeat_interleave(times),
            shifts={
                name: Shift(_repeat(shift.x, times), None if shift.y is None else _repeat(shift.y, times))
                for name, shift in self.shifts.items()
            },
            calibration=None if self.calibration is None else self.calibration.repeat(times),
            truth={name: _repeat(value, times) for name, value in self.truth.items()},
        )


def stack(tasks: Sequence[Task], rows: Sequence[int]) -> Problem:
    """Return the problem whose row r is `tasks[rows[r]]`. One task shared by all rows costs no copy.

    Raises:
        BadInput: The splits have different sizes, so they cannot be rows of one batch.
    """
    for part, sizes in {"training": [len(t.train.y) for t in tasks], "test": [len(t.test.y) for t in tasks]}.items():
        if len(set(sizes)) > 1:
            words = f"its splits have {min(sizes)} to {max(sizes)} {part} examples"
            raise BadInput(
                f"{words}, and rows of one batch need equally many: run each split by itself, as --seeds 3-3"
            )
    return Problem(
        signature=tasks[0].signature,
        train=Data(_rows([t.train.x for t in tasks], rows), _rows([t.train.y for t in tasks], rows)),
        test=Data(_rows([t.test.x for t in tasks], rows), _rows([t.test.y for t in tasks], rows)),
        ood={name: _rows([t.ood[name] for t in tasks], rows) for name in tasks[0].ood},
        y_mean=torch.tensor([tasks[i].y_mean for i in rows], dtype=torch.float64),
        y_sd=torch.tensor([tasks[i].y_sd for i in rows], dtype=torch.float64),
        standardised=tasks[0].standardised if tasks[0].standardised_on == "training" else (),
        shifts={name: _stacked([t.shifts[name] for t in tasks], rows) for name in tasks[0].shifts},
        truth={name: _rows([t.truth[name] for t in tasks], rows) for name in tasks[0].truth},
    )


def to_device(problem: Problem, device: torch.device) -> Problem:
    """Return the same problem on `device`; shared rows are copied once and stay shared."""
    if device.type == "cpu":
        return problem
    train, test = (Data(_move(d.x, device), _move(d.y, device)) for d in (problem.train, problem.test))
    ood = {name: _move(x, device) for name, x in problem.ood.items()}
    y_mean, y_sd = problem.y_mean.to(device), problem.y_sd.to(device)
    shifts = {
        name: Shift(_move(shift.x, device), None if shift.y is None else _move(shift.y, device))
        for name, shift in problem.shifts.items()
    }
    truth = {name: _move(value, device) for name, value in problem.truth.items()}
    return replace(problem, train=train, test=test, ood=ood, y_mean=y_mean, y_sd=y_sd, shifts=shifts, truth=truth)


def shared(x: Tensor) -> bool:
    """Tell whether all rows of (R, …) are the same memory."""
    return x.shape[0] == 1 or x.stride(0) == 0


def _rows(tensors: Sequence[Tensor], rows: Sequence[int]) -> Tensor:
    if len(set(rows)) == 1:
        return tensors[rows[0]].expand(len(rows), *tensors[rows[0]].shape)
    return torch.stack([tensors[i] for i in rows])


def _stacked(shifts: Sequence[Shift], rows: Sequence[int]) -> Shift:
    targets = [shift.y for shift in shifts if shift.y is not None]
    return Shift(_rows([shift.x for shift in shifts], rows), _rows(targets, rows) if targets else None)


def _move(x: Tensor, device: torch.device) -> Tensor:
    return x[0].to(device).expand_as(x) if shared(x) else x.to(device)


def _repeat(x: Tensor, times: int) -> Tensor:
    if shared(x):
        return x[0].expand(x.shape[0] * times, *x.shape[1:])
    return x.repeat_interleave(times, dim=0)


def _gather(x: Tensor, index: Tensor) -> Tensor:
    if shared(x):
        return x[0].index_select(0, index.reshape(-1)).reshape(*index.shape, *x.shape[2:])
    rows = torch.arange(x.shape[0], device=x.device)
    return x[rows[:, None], index]
