"""Each replicate chooses options by itself: a grid is trained as rows, and scored on rows held out of training.

    problem → hold out → fit (R·G rows) → log-likelihood of the held-out rows → the best point of each replicate

No test row takes part: `hold_out` gives the methods nothing but the replicate's own training rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from bdlbench import catalog
from bdlbench.core.spec import Cell, Tuning
from bdlbench.core.streams import Streams
from bdlbench.data.task import Problem
from bdlbench.data.validation import hold_out
from bdlbench.protocols import HasTargetUnits, Method, Model
from bdlbench.training.loop import Session, session

CHOSEN_POINT = "chosen"
"""The fact of a record that says which point of the grid each replicate chose, from 0."""


class Built(NamedTuple):
    """The problem, model and method of a batch, before training."""

    problem: Problem
    model: Model
    method: Method


def assembled(problem: Problem, cells: Sequence[Cell]) -> Built:
    """Build the model and the method whose row r has the options of cells[r], for row r of the problem."""
    model = catalog.build_model([cell.model for cell in cells], problem.signature)
    if isinstance(model, HasTargetUnits):
        model = model.with_target_sd(problem.y_sd)
    return Built(problem, model, catalog.build_method([cell.method for cell in cells]))


class Choices(NamedTuple):
    """What R replicates chose.

    Attributes:
        tuning: What there was to choose from.
        points: The point that each replicate chose, (R,).
        scores: Mean log-likelihood of its validation rows for each point in nats, original units, (R, G) float64.
        seconds: How long it took.
    """

    tuning: Tuning
    points: tuple[int, ...]
    scores: Tensor
    seconds: float

    @property
    def undecided(self) -> tuple[bool, ...]:
        """Whether no point of a replicate has a finite score, so that it has chosen nothing."""
        return tuple((~self.scores.isfinite().any(1)).tolist())

    @property
    def facts(self) -> dict[str, tuple[float, ...]]:
        """For the record: the chosen point, its options, and the score of each point, by replicate."""
        values = [self.tuning.points[point] for point in self.points]
        found = {CHOSEN_POINT: tuple(map(float, self.points))}
        found |= {
            f"{CHOSEN_POINT}[{name}]": tuple(float(value[i]) for value in values)
            for i, name in enumerate(self.tuning.options)
        }
        return found | {
            f"validation_log_likelihood[{i}]": tuple(column.tolist()) for i, column in enumerate(self.scores.T)
        }


def choose(cells: Sequence[Cell], tuning: Tuning, seeds: Sequence[int], problem: Problem, current: Session) -> Choices:
    """Train every point of the grid for every replicate, as rows of one batch, and choose by the validation rows.

    A replicate's points share its streams, those of its own final fit: they differ in their options alone.

    Args:
        cells: The cell of each replicate, (R,).
        tuning: What there is to choose from.
        seeds: The seed of each replicate, (R,).
        problem: The problem of the R replicates.
        current: The session of the fit.

    Returns:
        The choices.
    """
    points = [cell.at(point) for cell in cells for point in range(len(tuning.points))]
    scores = scores_on_held_out(points, seeds, problem, tuning.validation, tuning.samples, current)
    return Choices(tuning, best_of(scores), scores, current.seconds)


def scores_on_held_out(
    points: Sequence[Cell], seeds: Sequence[int], problem: Problem, validation: float, samples: int, current: Session
) -> Tensor:
    """Train G cells for each of R replicates, as rows of one batch, and score them on rows held out of training.

    Args:
        points: The cells, those of the first replicate first, (R·G,). They differ in options that rows may differ in.
        seeds: The seed of each replicate, (R,).
        problem: The problem of the R replicates.
        validation: The share of each replicate's training rows that is held out.
        samples: M, posterior samples of the predictive.
        current: The session of the fit.

    Returns:
        Mean log-likelihood of the held-out rows in nats, original units, (R, G) float64.
    """
    grid = len(points) // len(seeds)
    part, held_out = hold_out(problem, seeds, validation)
    rows = replace(part, test=held_out, ood={}).repeat(grid)
    built = assembled(rows, points)
    rng = Streams.of_seeds([seed for seed in seeds for _ in range(grid)])
    with session(current):
        posterior = built.method.fit(built.model, rows.train, rng)
    predictive = posterior.predict(rows.test.x, samples, rng.child("predict validation"))
    y = rows.test.y
    if y.is_floating_point():
        y = y * rows.y_sd[:, None] + rows.y_mean[:, None]
    log_prob = predictive.in_units(rows.y_mean, rows.y_sd).log_prob(y)  # (R·G, n)
    return torch.stack([row.double().contiguous().mean() for row in log_prob]).reshape(-1, grid).cpu()


def best_of(scores: Tensor) -> tuple[int, ...]:
    """Return the point with the highest score of each row of (R, G): the first of equal ones, or where none is finite.

    A replicate without a finite score fails (`Choices.undecided`); the point stands for none.
    """
    return tuple(torch.where(scores.isfinite(), scores, -torch.inf).argmax(1).tolist())
