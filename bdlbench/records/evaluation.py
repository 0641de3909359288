"""Stored predictions in the form that metrics score: whole, in part, and by example."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from bdlbench.core.environment import one_thread
from bdlbench.core.foreign import Broken, is_foreign
from bdlbench.predictives.mixtures import (
    MAX_GROUPS,
    Predicted,
    group_sizes,
    log_at,
    normal_log_prob,
    ordered_sum,
    with_probs,
)
from bdlbench.protocols import (
    ALL_SHIFTS,
    TEST,
    Calibration,
    Evaluation,
    MeanOverExamples,
    Metric,
    ShiftedTest,
    Truth,
    UnderShift,
    WithoutBlocks,
)
from bdlbench.records.record import Record
from bdlbench.stats.behrens_fisher import Array
from bdlbench.stats.jackknife import blocks, pseudo_values
from bdlbench.stats.ood_scores import AFTER_TRAINING

FACTS = ("halted_depth", "flops", "full_flops")
"""Facts kept beside the prediction of a network of uncertain depth: the depth of the mode of q, and its cost."""

SCORES = (
    *("entropy", "mutual_information", "max_probability", "depth"),
    *("density", "negative_elbo", "likelihood_regret"),
    *AFTER_TRAINING,
)
"""Names of the out-of-distribution scores in files; `depth` is E_q z, which differs from `halted_depth`."""

CALIBRATION = "calibration"
"""What the names of the calibration rows' arrays begin with: `calibration.log_probs`."""

FUNCTIONS = "joint.function_log_prob"
"""The name of `Evaluation.functions` in a file."""

CLASS_FUNCTIONS = "joint.function_log_probs"
"""The name of `Truth.functions` in a file."""

TRUTH = "truth"
"""What the names of the arrays of `Truth.predicted` begin with: `truth.log_probs`."""

SHIFT = "shift."
"""What the names of a shifted test set's arrays begin with: `shift.rotation 3.log_probs`."""


@dataclass(frozen=True)
class Kept:
    """The part of a predictive of R replicates on N inputs that a record keeps.

    Attributes:
        samples: M, the number of posterior samples.
        kept: (R, N, …) by name, such as log_probs, or mean and sd, and the scores.
        groups: (G, R, N) log probability of the targets under each group of samples; None if there are no groups.
        weights: The number of samples in each group.
    """

    samples: int
    kept: Mapping[str, Tensor]
    groups: Tensor | None = None
    weights: tuple[float, ...] = ()

    @property
    def scores(self) -> dict[str, Tensor]:
        """Arrays with one number for each example, (R, N), except those named in `FACTS`."""
        return {name: value for name, value in self.kept.items() if value.ndim == 2 and name not in FACTS}

    @property
    def facts(self) -> Mapping[str, Tensor]:
        """Arrays with one number for each example, (R, N), except those named in `SCORES`.

        Files do not tell facts from scores, so an array with any other name is returned as both.
        """
        return {name: value for name, value in self.kept.items() if value.ndim == 2 and name not in SCORES}

    def arrays(self) -> dict[str, Tensor]:
        """Return all kept arrays."""
        return dict(self.kept)

    def log_prob(self, y: Tensor) -> Tensor:
        """Return log p(y | x), (R, N) nats: by class probabilities, a density, a mixture's groups, or one Gaussian."""
        if "log_probs" in self.kept:
            return log_at(self.kept["log_probs"], y)
        if "probs" in self.kept:  # a record older than 0.3
            return log_at(self.kept["probs"].log(), y)
        if "log_density" in self.kept:
            return self.kept["log_density"]
        if self.groups is not None:
            weights = torch.tensor(self.weights, dtype=self.groups.dtype)
            return torch.logsumexp(self.groups + (weights / weights.sum()).log()[:, None, None], 0)
        return normal_log_prob(self.kept["mean"], self.kept["sd"], y)

    def cdf(self, y: Tensor) -> Tensor | None:
        """Return P(target ≤ y | x) of the targets stored with the predictions, (R, N); None if it was not stored."""
        return self.kept.get("cdf")

    def crps(self, y: Tensor) -> Tensor | None:
        """Return the CRPS of the targets stored with the predictions, (R, N); None if it was not stored."""
        return self.kept.get("crps")

    def group_log_prob(self, y: Tensor) -> Tensor:
        """Return (G, R, N) nats, for the targets stored with the groups."""
        return self.log_prob(y).unsqueeze(0) if self.groups is None else self.groups


def read(record: Record, arrays: Mapping[str, Tensor]) -> Evaluation | None:
    """Return the predictions stored beside a record, of the test set and the others; None if there are none.

    The posterior's facts and an exact posterior are not stored, so metrics that need them are undefined.
    """
    if "test.y" not in arrays:
        return None
    functions, of_classes = arrays.get(FUNCTIONS), arrays.get(CLASS_FUNCTIONS)
    sets: dict[str, dict[str, Tensor]] = {}
    held: dict[str, Tensor] = {}
    known: dict[str, Tensor] = {}
    for name, value in sorted(with_probs(arrays).items()):  # the order of arrays differs between files
        where, _, what = name.rpartition(".")
        if name in (FUNCTIONS, CLASS_FUNCTIONS):
            continue
        if where in (CALIBRATION, TRUTH):
            (held if where == CALIBRATION else known)[what] = value
            continue
        sets.setdefault(where.removeprefix("ood."), {})[what] = value
    test = sets.pop(TEST)
    y, groups = test.pop("y"), test.pop("group_log_prob", None)
    if (full := _full_flops(record)) is not None and "flops" in test and len(full) == len(y):
        test["full_flops"] = full.to(test["flops"]).unsqueeze(1).expand_as(test["flops"])
    samples = drawn(record, len(groups)) if groups is not None else 1
    weights = tuple(map(float, group_sizes(samples, len(groups)))) if groups is not None else ()
    targets = y if y.is_floating_point() else y.long()
    shifts, ood = dict[str, ShiftedTest](), dict[str, Predicted]()
    for name, kept in sets.items():
        if name.startswith(SHIFT):
            own = kept.pop("y", None)
            of_set = targets if own is None else own if own.is_floating_point() else own.long()
            shifts[name.removeprefix(SHIFT)] = ShiftedTest(Kept(samples, kept), of_set, own is None)
        else:
            ood[name] = Kept(samples, kept)
    calibration = Calibration(Kept(samples, held), held.pop("y").long()) if held else None
    kept_test = Kept(samples, test, groups, weights)
    seen = Evaluation(kept_test, targets, ood, {}, None, shifts=shifts)
    truth = Truth(Kept(1, known), of_classes) if known else None
    return replace(seen, calibration=calibration, functions=functions, truth=truth)


def _full_flops(record: Record) -> Tensor | None:
    """Compute the FLOPs of the whole network, (R,), as mean FLOPs over their fraction: no file holds them directly."""
    flops, share = (record.values.metrics.get(name) for name in ("flops", "flops_fraction"))
    if flops is None or share is None:
        return None
    whole = torch.tensor(flops.numbers, dtype=torch.float64) / torch.tensor(share.numbers, dtype=torch.float64)
    return whole.round()  # a count


def drawn(record: Record, groups: int) -> int:
    """Return M, the number of posterior samples behind the `groups` stored groups; it may be below the protocol's.

    Older records do not state M. For them it is the protocol's M if the number of groups is the maximum, else the
    number of groups.
    """
    if record.values.samples:
        return record.values.samples[0]
    return record.cell.samples if groups >= MAX_GROUPS else max(1, groups)


def under(evaluation: Evaluation, shift: str) -> Evaluation:
    """Return what a metric sees that is asked of a shifted test set: this set in the place of the test set."""
    found = evaluation.shifts[shift]
    return Evaluation(found.predicted, found.y, {}, {}, None, calibration=evaluation.calibration)


def shift_means(shifts: Mapping[str, ShiftedTest]) -> dict[str, list[str]]:
    """Return which shifts of the test set each mean of a metric is over: those of one kind, by its name, and all.

    A test example has one contribution to such a mean, the mean of what its shifts contribute, because they are not
    independent. A set with examples of its own is in no mean, nor is there a mean over a single set.
    """
    names = [name for name, shift in shifts.items() if shift.of_test]
    kinds: dict[str, list[str]] = {}
    for name in names:
        kind, _, severity = name.rpartition(" ")
        if severity.isdigit():
            kinds.setdefault(kind, []).append(name)
    found = {kind: members for kind, members in kinds.items() if len(members) > 1}
    return found | ({ALL_SHIFTS: names} if len(names) > 1 and names not in found.values() else {})


KEY = re.compile(r"(\w[\w.-]*( \w[\w.-]*)*)?")
"""Allowed keys of a metric: "" for a single value, else a text that can stand in the brackets of `name[key]`."""


def asked(metric: Metric, evaluation: Evaluation) -> dict[str, Tensor]:
    """Compute the metric's values: (R,) by key, with a key for each shifted test set where the metric is asked of them.

    Means over shifts have the keys of `shift_means`. Raises Broken if a metric of a plugin returns anything else.
    """
    shifted = {}
    for name in _asked_shifts(metric, evaluation):
        if (value := _of_itself(metric, under(evaluation, name)).get("")) is not None:
            shifted[name] = value
    means = {
        mean: ordered_sum([shifted[name] for name in members]) / len(members)
        for mean, members in shift_means(evaluation.shifts).items()
        if all(name in shifted for name in members)
    }
    return {**_of_itself(metric, evaluation), **shifted, **means}


def _asked_shifts(metric: Metric, evaluation: Evaluation) -> list[str]:
    """Return the shifted test sets that a metric is asked of."""
    return list(evaluation.shifts) if isinstance(metric, UnderShift) and metric.under_shift else []


def _of_itself(metric: Metric, evaluation: Evaluation) -> dict[str, Tensor]:
    """Compute the values that the metric itself returns."""
    found = metric(evaluation)
    return _well_formed(found, (len(evaluation.y),), "R") if is_foreign(metric) else found


def _well_formed(found: Any, shape: tuple[int, ...], axes: str) -> dict[str, Tensor]:
    """Check that a metric returned floating tensors of this shape, by keys that a table can show. Raises Broken."""
    if not isinstance(found, dict):
        raise Broken(f'it returned a {type(found).__name__}, not a dict such as {{"": values}}')
    for key, value in found.items():
        if not isinstance(key, str) or not KEY.fullmatch(key):
            raise Broken(f"it returned the key {key!r}: letters, digits, _, -, . and single blanks only")
        if not isinstance(value, Tensor):
            raise Broken(f"it returned a {type(value).__name__} for the key {key!r}, not a tensor ({axes},)")
        if tuple(value.shape) != shape:
            raise Broken(f"it returned {tuple(value.shape)} for the key {key!r}, not ({axes},) = {shape}")
        if not value.is_floating_point():
            raise Broken(f"it returned {value.dtype} for the key {key!r}, not floating-point numbers: add .double()")
    return found


@one_thread()
def by_example(
    metric: Metric, evaluation: Evaluation, keys: Collection[str] | None = None
) -> dict[str, dict[str, Array]]:
    """Compute each example's contribution to the metric: by key, (R, N) of each population that this key uses.

    A metric that is a mean over test examples has its own `by_example`. Any other statistic is jackknifed, over blocks
    of test examples and of each other population: pseudo-values (R, blocks). What a test example contributes to a mean
    over shifts is the mean of what it contributes to each, so that it counts once, however often it was shifted.

    Args:
        metric: The metric.
        evaluation: What was predicted.
        keys: The keys that are wanted; None for all. Others may be left out.

    Returns:
        {key: {population: contributions}}.
    """
    found = _contributions(metric, evaluation)
    means = shift_means(evaluation.shifts)
    known = asked(metric, evaluation).keys() - found.keys()
    wanted = known if keys is None else known & set(keys)
    of_shifts: dict[str, Array] = {}
    for name in _asked_shifts(metric, evaluation):
        if name in wanted or any(name in means.get(key, ()) for key in wanted):
            of_shifts[name] = _contributions(metric, under(evaluation, name))[""][TEST]
    for key in wanted:
        population = TEST if key in means or evaluation.shifts[key].of_test else key
        members = means.get(key, [key])
        found[key] = {population: np.mean([of_shifts[name] for name in members], 0)}
    return found


def _contributions(metric: Metric, evaluation: Evaluation) -> dict[str, dict[str, Array]]:
    """Compute contributions to the values that the metric itself returns."""
    if isinstance(metric, MeanOverExamples):
        told = metric.by_example(evaluation)
        if is_foreign(metric):
            _well_formed(told, tuple(evaluation.y.shape), "R, N")
            if told.keys() != _of_itself(metric, evaluation).keys():
                raise Broken(f"by_example has the keys {sorted(told)}, the metric itself others")
        return {key: {TEST: value.double().numpy()} for key, value in told.items()}
    whole = {key: value.double().numpy() for key, value in _of_itself(metric, evaluation).items()}
    found: dict[str, dict[str, Array]] = {key: {} for key in whole}
    own = [name for name, shift in evaluation.shifts.items() if not shift.of_test]
    for population in [TEST, *evaluation.ood, *own] if whole else []:
        block = blocks(num_examples(evaluation, population))
        for key, left_out in without_blocks(metric, evaluation, population, torch.from_numpy(block)).items():
            found[key][population] = pseudo_values(whole[key], left_out.double().numpy(), block)
    return found


def without_blocks(metric: Metric, evaluation: Evaluation, population: str, block: Tensor) -> dict[str, Tensor]:
    """Compute the metric without each block (N,) of a population's examples: (R, blocks) by key that uses them.

    A metric without a faster way of its own is computed anew for each block.
    """
    if isinstance(metric, WithoutBlocks):
        found = metric.without_blocks(evaluation, population, block)
        shape = (len(evaluation.y), int(block.max()) + 1)
        return _well_formed(found, shape, "R, blocks") if is_foreign(metric) else found
    keys = using(metric, evaluation, population)
    count = int(block.max()) + 1 if keys else 0
    parts = (_part(evaluation, population, (block != b).nonzero().flatten()) for b in range(count))
    values = [_of_itself(metric, part) for part in parts]
    if lost := [key for key in keys if any(key not in value for value in values)]:
        raise Broken(f"without some examples of {population} it returns no value of the key {lost[0]!r}")
    return {key: torch.stack([value[key] for value in values], 1) for key in keys}


def using(metric: Metric, evaluation: Evaluation, population: str) -> list[str]:
    """Return the metric's keys that change, vanish or raise when everything known of a population becomes NaN.

    Keys whose value is NaN already are returned too, because nothing can be told about them.
    """
    whole = metric(evaluation)
    try:
        spoilt = metric(_spoilt(evaluation, population))
    except (Exception, SystemExit):  # an error of any kind shows that the metric used the population
        return list(whole)
    return [key for key, value in whole.items() if key not in spoilt or not torch.equal(spoilt[key], value)]


def num_examples(evaluation: Evaluation, population: str) -> int:
    """Return N of a population: the test set, an out-of-distribution set, or a shifted test set of its own examples."""
    if population == TEST:
        return evaluation.y.shape[1]
    return next(iter(_predicted(evaluation, population).arrays().values())).shape[1]


def has_groups(evaluation: Evaluation) -> bool:
    """Return whether the test predictions average over posterior samples whose groups were kept."""
    return isinstance(evaluation.test, Kept) and evaluation.test.groups is not None


@one_thread()
def left_out(metric: Metric, evaluation: Evaluation) -> dict[str, Array]:
    """Compute the metric without each group of posterior samples: (G, R) by key; {} if groups do not suffice for it."""
    test = evaluation.test
    if not isinstance(test, Kept) or test.groups is None or len(test.groups) < 2:
        return {}
    columns: dict[str, list[Array]] = {}
    for g in range(len(test.groups)):
        rest = [i for i in range(len(test.groups)) if i != g]
        part = Kept(test.samples, {}, test.groups[rest], tuple(test.weights[i] for i in rest))
        try:
            kept = replace(evaluation, test=part, ood={}, shifts={}, functions=None)
            if evaluation.truth is not None:
                kept = replace(kept, truth=replace(evaluation.truth, functions=None))
            values = _of_itself(metric, kept)
        except (Exception, SystemExit):
            if is_foreign(metric):  # it needs something that a group lacks
                return {}
            raise
        for key, value in values.items():
            columns.setdefault(key, []).append(value.double().numpy())
    return {key: np.stack(column) for key, column in columns.items()}


def _part(evaluation: Evaluation, population: str, index: Tensor) -> Evaluation:
    """Keep only these examples of one population. Without a test example there are none of its shifts."""

    def of_shift(shift: ShiftedTest) -> ShiftedTest:
        return replace(shift, predicted=_taken(shift.predicted, index), y=shift.y[:, index])

    evaluation = _of_shifts(evaluation, population, of_shift)
    if population == TEST:
        functions = None if evaluation.functions is None else evaluation.functions[:, :, index]
        taken, truth = _taken(evaluation.test, index), evaluation.truth
        if truth is not None:
            of_classes = None if truth.functions is None else truth.functions[:, :, index]
            truth = Truth(_taken(truth.predicted, index), of_classes)
        return replace(evaluation, test=taken, y=evaluation.y[:, index], functions=functions, truth=truth)
    if population in evaluation.shifts:
        return evaluation
    return replace(evaluation, ood={**evaluation.ood, population: _taken(_predicted(evaluation, population), index)})


def _spoilt(evaluation: Evaluation, population: str) -> Evaluation:
    """Replace everything known of one population by NaN, and integers by −1."""

    def unknown(predicted: Predicted) -> Kept:
        spoilt = Kept(predicted.samples, {name: _unknown(value) for name, value in predicted.arrays().items()})
        if isinstance(predicted, Kept) and predicted.groups is not None:
            spoilt = replace(spoilt, groups=_unknown(predicted.groups), weights=predicted.weights)
        return spoilt

    def of_shift(shift: ShiftedTest) -> ShiftedTest:
        return replace(shift, predicted=unknown(shift.predicted), y=_unknown(shift.y))

    evaluation = _of_shifts(evaluation, population, of_shift)
    if population == TEST:
        functions = None if evaluation.functions is None else _unknown(evaluation.functions)
        truth = evaluation.truth
        if truth is not None:
            of_classes = None if truth.functions is None else _unknown(truth.functions)
            truth = Truth(unknown(truth.predicted), of_classes)
        spoilt = replace(evaluation, test=unknown(evaluation.test), y=_unknown(evaluation.y), functions=functions)
        return replace(spoilt, truth=truth)
    if population in evaluation.shifts:
        return evaluation
    return replace(evaluation, ood={**evaluation.ood, population: unknown(_predicted(evaluation, population))})


def _of_shifts(evaluation: Evaluation, population: str, change: Callable[[ShiftedTest], ShiftedTest]) -> Evaluation:
    """Change the shifted test sets whose examples are of a population."""
    return replace(
        evaluation,
        shifts={
            name: change(shift) if population == (TEST if shift.of_test else name) else shift
            for name, shift in evaluation.shifts.items()
        },
    )


def _unknown(values: Tensor) -> Tensor:
    return torch.full_like(values, math.nan if values.is_floating_point() else -1)


def _predicted(evaluation: Evaluation, population: str) -> Predicted:
    """Return the predictive of a population, whose arrays records keep."""
    if population in evaluation.shifts:
        return evaluation.shifts[population].predicted
    return evaluation.test if population == TEST else cast(Predicted, evaluation.ood[population])


def _taken(predicted: Predicted, index: Tensor) -> Kept:
    kept = {name: value[:, index] for name, value in predicted.arrays().items()}
    groups = predicted.groups[:, :, index] if isinstance(predicted, Kept) and predicted.groups is not None else None
    weights = predicted.weights if isinstance(predicted, Kept) else ()
    return Kept(predicted.samples, kept, groups, weights)
