"""Predictions as a record keeps them, as something that metrics can score again: whole, in part, by example."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import cast

import numpy as np
import torch
from torch import Tensor

from bdlbench.environment import one_thread
from bdlbench.predictive import MAX_GROUPS, Predicted, group_sizes, log_at
from bdlbench.protocols import Evaluation, MeanOverExamples, Metric
from bdlbench.records import Record
from bdlbench.stats.behrens_fisher import Array
from bdlbench.stats.jackknife import pseudo_values

TEST = "test"
"""The population of test examples; each out-of-distribution set is one of its own name."""


@dataclass(frozen=True)
class Kept:
    """What a record keeps of a predictive of R replicates on N inputs.

    kept: (R, N, …) by name, such as probs, or mean and sd, and the scores; groups: (G, R, N) log probability of the
    targets by each group of samples, with its weight.
    """

    samples: int
    kept: Mapping[str, Tensor]
    groups: Tensor | None = None
    weights: tuple[float, ...] = ()

    @property
    def scores(self) -> dict[str, Tensor]:
        """All that is one number for each example, (R, N)."""
        return {name: value for name, value in self.kept.items() if value.ndim == 2}

    @property
    def facts(self) -> Mapping[str, Tensor]:
        """The same: which of them is which was not kept."""
        return self.scores

    def arrays(self) -> dict[str, Tensor]:
        """All that was kept."""
        return dict(self.kept)

    def log_prob(self, y: Tensor) -> Tensor:
        """(R, N) nats: from class probabilities, a density, the groups of a mixture, or one Gaussian."""
        if "probs" in self.kept:
            return log_at(self.kept["probs"], y)
        if "log_density" in self.kept:
            return self.kept["log_density"]
        if self.groups is not None:
            weights = torch.tensor(self.weights, dtype=self.groups.dtype)
            return torch.logsumexp(self.groups + (weights / weights.sum()).log()[:, None, None], 0)
        gap = (y - self.kept["mean"]) / self.kept["sd"]
        return -0.5 * gap.square() - self.kept["sd"].log() - 0.5 * math.log(2 * math.pi)

    def group_log_prob(self, y: Tensor) -> Tensor:
        """(G, R, N) nats, of the targets that were kept with them."""
        return self.log_prob(y).unsqueeze(0) if self.groups is None else self.groups


def read(record: Record, arrays: Mapping[str, Tensor]) -> Evaluation | None:
    """The test and out-of-distribution predictions beside a record; None where it has none.

    What the posterior stated of itself, and any exact posterior, are not among them: metrics of those are undefined.
    """
    if "test.y" not in arrays:
        return None
    sets: dict[str, dict[str, Tensor]] = {}
    for name, value in arrays.items():
        where, _, what = name.rpartition(".")
        sets.setdefault(where.removeprefix("ood."), {})[what] = value
    test = sets.pop(TEST)
    y, groups = test.pop("y"), test.pop("group_log_prob", None)
    samples = drawn(record, len(groups)) if groups is not None else 1
    weights = tuple(map(float, group_sizes(samples, len(groups)))) if groups is not None else ()
    ood: dict[str, Predicted] = {name: Kept(samples, kept) for name, kept in sets.items()}
    targets = y if y.is_floating_point() else y.long()
    return Evaluation(Kept(samples, test, groups, weights), targets, ood, {}, 0)


def drawn(record: Record, groups: int) -> int:
    """M, of which so many groups were kept: a method or a file may have fewer than the protocol.

    Older records do not say it: with as many groups as there can be it is the protocol's, with fewer their number.
    """
    stated = record.values.get("samples")
    if stated:
        return int(stated[0])
    return int(record.cell["protocol"]["samples"]) if groups >= MAX_GROUPS else max(1, groups)


@one_thread()
def by_example(metric: Metric, evaluation: Evaluation) -> dict[str, tuple[Array, ...]]:
    """What each example contributes to the metric: for each key an array (R, N) for each population that has a say.

    A mean over test examples tells it itself. Any other statistic is jackknifed, over blocks of test examples and of
    each out-of-distribution set: pseudo-values (R, blocks).
    """
    if isinstance(metric, MeanOverExamples):
        return {key: (value.double().numpy(),) for key, value in metric.by_example(evaluation).items()}
    whole = {key: value.double().numpy() for key, value in metric(evaluation).items()}
    found: dict[str, tuple[Array, ...]] = {key: () for key in whole}
    for population in [TEST, *evaluation.ood] if whole else []:
        size = evaluation.y.shape[1] if population == TEST else _size(_kept(evaluation, population))
        rows = pseudo_values(partial(_values, metric, evaluation, population), size, np.stack(list(whole.values())))
        for key, values in zip(whole, rows, strict=True):
            found[key] = (*found[key], values)
    return found


def has_groups(evaluation: Evaluation) -> bool:
    """Whether the test predictions were averaged over posterior samples, in groups that were kept."""
    return isinstance(evaluation.test, Kept) and evaluation.test.groups is not None


@one_thread()
def left_out(metric: Metric, evaluation: Evaluation) -> dict[str, Array]:
    """The metric without each group of posterior samples, (G, R) by key: {} where the groups do not tell it."""
    test = evaluation.test
    if not isinstance(test, Kept) or test.groups is None or len(test.groups) < 2:
        return {}
    columns: dict[str, list[Array]] = {}
    for g in range(len(test.groups)):
        rest = [i for i in range(len(test.groups)) if i != g]
        part = Kept(test.samples, {}, test.groups[rest], tuple(test.weights[i] for i in rest))
        for key, value in metric(replace(evaluation, test=part, ood={})).items():
            columns.setdefault(key, []).append(value.double().numpy())
    return {key: np.stack(column) for key, column in columns.items()}


def _values(metric: Metric, evaluation: Evaluation, population: str, index: Array) -> Array:
    """(keys, R) of these examples of one population only."""
    values = metric(_part(evaluation, population, torch.from_numpy(index)))
    return torch.stack([value.double() for value in values.values()]).numpy()


def _part(evaluation: Evaluation, population: str, index: Tensor) -> Evaluation:
    """With these examples of one population only."""
    if population == TEST:
        return replace(evaluation, test=_taken(evaluation.test, index), y=evaluation.y[:, index])
    return replace(evaluation, ood={**evaluation.ood, population: _taken(_kept(evaluation, population), index)})


def _kept(evaluation: Evaluation, name: str) -> Predicted:
    """What was predicted of an out-of-distribution set, whose arrays records keep."""
    return cast(Predicted, evaluation.ood[name])


def _taken(predicted: Predicted, index: Tensor) -> Kept:
    kept = {name: value[:, index] for name, value in predicted.arrays().items()}
    groups = predicted.groups[:, :, index] if isinstance(predicted, Kept) and predicted.groups is not None else None
    weights = predicted.weights if isinstance(predicted, Kept) else ()
    return Kept(predicted.samples, kept, groups, weights)


def _size(predicted: Predicted) -> int:
    return next(iter(predicted.arrays().values())).shape[1]
