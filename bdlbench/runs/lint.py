"""The protocol lint: it finds what makes a table unfair, in the data, the spec and the records.

A `refused` fault makes the numbers useless, so the run stops before training. A `flagged` fault is something that a
reader must know. The lint never looks at the name of a method, model or data set.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from hashlib import blake2b
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from bdlbench import catalog
from bdlbench.core.errors import BadInput
from bdlbench.core.options import short
from bdlbench.core.spec import Cell, Choice, Replicate, Spec
from bdlbench.data.task import Task
from bdlbench.records.contents import ObjectiveFactors
from bdlbench.records.record import Record
from bdlbench.runs import loading
from bdlbench.training.recipe import Recipe

Severity = Literal["refused", "flagged"]

FEWEST_SEEDS = 3
"""Fewer replicates than this make a standard error useless: with two, a 95 % interval is ± 13 standard errors."""

STANDARD = 1e-4
"""How far standardised data may be from mean 0 and standard deviation 1, in float32."""

BY_CHANCE = 1e-5
"""Data this close to mean 0 and standard deviation 1 in every column were standardised, not close by chance."""

FACTOR = 1e-4
"""The relative error allowed in a measured factor: float32 makes 1e-7."""

SHARED = (0.01, 0.5)
"""Shares of a set's inputs that recur in another set: flagged from the first on, refused from the second on."""


@dataclass(frozen=True)
class Fault:
    """One fault of a protocol.

    Attributes:
        severity: How bad it is.
        where: The run, cell or data set.
        message: What is wrong.
        detail: The part of the description that differs between splits.
    """

    severity: Severity
    where: str
    message: str
    detail: str = ""

    @property
    def text(self) -> str:
        """The message, with its detail in brackets."""
        return f"{self.message} ({self.detail})" if self.detail else self.message

    def __str__(self) -> str:
        return f"{self.severity}: {self.where}: {self.text}"


def of_replicates(title: str, replicates: Sequence[Replicate]) -> list[Fault]:
    """Check that there are enough replicates for an error bar."""
    return list(_of_seeds(replicates, title))


def of_spec(spec: Spec) -> list[Fault]:
    """Check the cells and replicates of a spec."""
    found = list(_of_seeds(spec.replicates))
    found += _of_selection(spec.selection)
    if not all(cell.tuning for cell in spec.cells):
        found += _of_shared_choice(spec.selection, spec.replicates)
    found += _of_sweeps(spec.cells)
    for cell in spec.cells:
        for choice in _nested(cell.method):
            declared = choice.get("prior_sd") is not None
            found += [Fault("flagged", choice.name, message) for message in _of_recipe(choice, declared)]
    return list(dict.fromkeys(found))


def of_data(dataset: Choice, splits: Iterable[int]) -> list[Fault]:
    """Load splits of a data set, and check each as `of_task` does. Raises DataUnavailable if they are not at hand."""
    entry = catalog.load("datasets", dataset.name)
    return of_splits(dataset.name, {split: _of_split(entry, dataset, split) for split in splits})


@lru_cache(maxsize=64)
def _of_split(entry: type, dataset: Choice, split: int) -> tuple[Fault, ...]:
    """Check a split once in a process: a run asks before and after training. An edited plugin has another class."""
    return tuple(of_task(dataset.name, loading.load_task(dataset, split)))


def of_task(name: str, task: Task) -> list[Fault]:
    """Check one split of a data set: whose statistics standardise it, and whether its sets share examples."""
    return [*_of_inputs(name, task), *_of_targets(name, task), *_of_overlaps(name, task)]


def of_splits(name: str, found: Mapping[int, Sequence[Fault]]) -> list[Fault]:
    """Merge the faults of `of_task` over the splits of a data set: one for each kind, with the first split's detail."""
    groups: dict[tuple[Severity, str], dict[int, str]] = {}
    for split, findings in sorted(found.items()):
        for finding in findings:
            groups.setdefault((finding.severity, finding.message), {})[split] = finding.detail
    return [
        Fault(severity, _with_splits(name, list(details), len(found)), message, next(iter(details.values())))
        for (severity, message), details in groups.items()
    ]


def _with_splits(name: str, splits: Sequence[int], count: int) -> str:
    """Name a data set and its splits: "wine, split 3", or "wine, 8 of 20 splits, the first 2"."""
    if len(splits) == 1:
        return f"{name}, split {splits[0]}" if splits[0] else name
    return f"{name}, {len(splits)} of {count} splits, the first {splits[0]}"


def of_record(title: str, record: Record) -> list[Fault]:
    """Check the audit of a record: factors other than 1, and terms that no prior declares."""
    found = list(_of_selection(record.environment.selection, title))
    if not record.cell.tuning:
        found += _of_shared_choice(record.environment.selection, record.replicates, title)
    audits = record.values.objective
    messages = [message for audit in audits for message in _of_audit(audit)]
    declared = any(audit.temperature for audit in audits)
    messages += [message for choice in _nested(record.cell.method) for message in _of_recipe(choice, declared)]
    return found + [Fault("flagged", title, message) for message in dict.fromkeys(messages)]


def refuse(findings: Iterable[Fault]) -> list[Fault]:
    """Return the flagged faults. Raises BadInput for the first refused one."""
    kept = list(findings)
    for finding in kept:
        if finding.severity == "refused":
            raise BadInput(f"{finding.where}: {finding.text}")
    return kept


# Seeds and selection


def _of_seeds(replicates: Sequence[Replicate], title: str = "this run") -> Iterator[Fault]:
    if 0 < len(replicates) < FEWEST_SEEDS:
        count = f"{len(replicates)} replicate" + "s" * (len(replicates) > 1)
        yield Fault("flagged", title, f"{count}: a standard error needs at least {FEWEST_SEEDS} seeds")


def _of_selection(selection: str, title: str = "the suite") -> Iterator[Fault]:
    if selection in ("test", "ood"):
        words = "test" if selection == "test" else "out-of-distribution"
        better = 'choose on training or validation data, and say so: selection = "validation"'
        yield Fault("refused", title, f"its options were chosen on {words} data: {better}")
    if selection == "test_as_published":
        words = "its options were chosen with test rows in view, one choice for all splits"
        yield Fault("flagged", title, f"{words}: a leak of the published protocol, and so of its numbers")


def _of_shared_choice(selection: str, replicates: Sequence[Replicate], title: str = "the suite") -> Iterator[Fault]:
    """Find options that held-out or training rows chose once for several splits, whose test rows train other splits."""
    if selection in ("training", "validation") and len({replicate.split for replicate in replicates}) > 1:
        words = "its options were chosen once for all splits, and what tests one split trains another"
        yield Fault("flagged", title, f"{words}: let each split choose on rows of its own, by [grid.choose]")


def _of_sweeps(cells: Sequence[Cell]) -> Iterator[Fault]:
    """Find cells that differ only in options of a method: a table invites readers to take the best of them."""
    groups: dict[Any, list[Choice]] = {}
    for cell in cells:
        rest = (cell.method.name, cell.model, cell.dataset, cell.samples, cell.device, cell.threads)
        groups.setdefault(rest, []).append(cell.method)
    for methods in groups.values():
        if len(methods) > 1:
            tables = [dict(method.options) for method in methods]
            names = {name for table in tables for name in table}
            swept = sorted(name for name in names if any(table.get(name) != tables[0].get(name) for table in tables))
            what = f"{len(methods)} settings of {', '.join(swept)}"
            better = "to take the best by these columns is selection on test data; choose on held-out training data"
            yield Fault("flagged", methods[0].name, f"{what}: {better}")


def _nested(choice: Choice) -> Iterator[Choice]:
    """Yield a choice and the choices nested in it."""
    yield choice
    for _, value in choice.options:
        if isinstance(value, Choice):
            yield from _nested(value)


READ_ONLY_BY = {
    "momentum": ("optimiser", ("sgd", "nesterov")),
    "milestones": ("decay", ("step",)),
    "milestone_factor": ("decay", ("step",)),
}
"""Options of a recipe that only some values of another option read."""


def _of_recipe(choice: Choice, declared: bool) -> Iterator[str]:
    """Describe what in a method's recipe does nothing, or is at odds with a prior that its objective declares."""
    usual = {f.name: f.default for f in fields(Recipe)}
    for name, (by, readers) in READ_ONLY_BY.items():
        if (value := choice.get(name, usual[name])) != usual[name] and (of := choice.get(by, usual[by])) not in readers:
            yield f"{name}={short(value)} does nothing with {by}={of}: {' and '.join(readers)} alone read it"
    if not declared:
        return
    if decay := choice.get("weight_decay", 0.0):
        better = "take one of the two: a prior N(0, s²) is a weight decay of 1/(N s²) in the gradient"
        yield f"weight_decay={short(decay)} pulls weights beside the declared prior, and no ELBO knows of it: {better}"
    if smoothing := choice.get("label_smoothing", 0.0):
        yield (
            f"label_smoothing={short(smoothing)} trains on targets that are no data, under a declared prior: what is "
            "learnt is no posterior of the data"
        )


# Statistics


def _of_inputs(name: str, task: Task) -> Iterator[Fault]:
    """Check that inputs are standardised by the training part as declared, and by no other part."""
    train, test = task.train.x, task.test.x
    if task.standardised:
        far = _off_standard(train, task.standardised)
        if far.distance > STANDARD:
            yield _off(name, "inputs", far, task, train, test, task.standardised)
        return
    for axes in dict.fromkeys([(0,), (0, *range(2, train.ndim))]):
        if found := list(_standardised_elsewhere(name, "inputs", train, test, axes)):
            yield from found
            return


def _of_targets(name: str, task: Task) -> Iterator[Fault]:
    """Check that real targets are shifted and scaled by the training part as declared, and by no other part."""
    train, test = task.train.y[:, None], task.test.y[:, None]
    if not train.is_floating_point():
        return
    if (task.y_mean, task.y_sd) == (0.0, 1.0):
        yield from _standardised_elsewhere(name, "targets", train, test, (0,))
        return
    far = _off_standard(train, (0,))
    if far.distance > STANDARD:
        yield _off(name, "targets", far._replace(place=()), task, train, test, (0,))


def _standardised_elsewhere(
    name: str, what: str, train: Tensor, test: Tensor, axes: tuple[int, ...]
) -> Iterator[Fault]:
    """Find data that are not declared to be standardised, but are, by statistics that include the test part."""
    for whose, x in (("the test data", test), ("training and test data together", torch.cat([train, test]))):
        distances = [_off_standard(part, axes).distance for part in (x, train)]
        if len(x) > FEWEST_SEEDS and distances[0] < BY_CHANCE < distances[1]:
            yield Fault("refused", name, f"its {what} are standardised by the statistics of {whose}")
            return


def _off(name: str, what: str, far: _Off, task: Task, train: Tensor, test: Tensor, axes: tuple[int, ...]) -> Fault:
    """Say which data's statistics were used, if that is known; else how far off the training data are, and where.

    Standardisation by all rows is only flagged if the task declares it, because a published protocol has that leak.
    """
    asked = task.standardised_on == "all"
    told: tuple[tuple[str, Tensor, Severity], ...] = (
        ("the test data", test, "refused"),
        ("training and test data together", torch.cat([train, test]), "flagged" if asked else "refused"),
    )
    for whose, x, severity in told:
        if _off_standard(x, axes).distance < STANDARD:
            return Fault(severity, name, f"its {what} are standardised by the statistics of {whose}", far.words)
    whose = "all rows" if asked else "the training data"
    declared = f"its {what} are declared to be standardised by {whose}, and are not"
    return Fault("refused", name, declared, far.words)


class _Off(NamedTuple):
    """The mean and standard deviation at the place where data are farthest from being standardised."""

    mean: float
    sd: float
    distance: float
    place: tuple[int, ...]

    @property
    def words(self) -> str:
        """For example: column 8, from 0, has mean 1 and standard deviation 0."""
        where = "they have"
        if self.place:
            where = f"{'column' if len(self.place) == 1 else 'position'} {'-'.join(map(str, self.place))}, from 0, has"
        return f"{where} mean {self.mean:.4g} and standard deviation {self.sd:.4g}"


def _off_standard(x: Tensor, axes: tuple[int, ...]) -> _Off:
    """Return the largest distance from mean 0 and sd 1, with statistics taken along `axes`; ∞ for constant data."""
    count, mean, square = 0, torch.zeros(()), torch.zeros(())
    for part in x.split(2000):
        values = part.double()
        size = part.numel() // max(1, int(torch.tensor([n for a, n in enumerate(part.shape) if a not in axes]).prod()))
        count, mean, square = count + size, mean + values.sum(axes), square + values.square().sum(axes)
    mean, sd = mean / count, (square / count - (mean / count).square()).clamp_min(0).sqrt()
    varies = sd > BY_CHANCE
    distance = torch.maximum(mean.abs(), torch.where(varies, (sd - 1).abs(), 0.0))
    worst = int(distance.nan_to_num(math.inf).argmax())
    place = tuple(int(i) for i in np.unravel_index(worst, distance.shape))  # torch's own imports sympy: half a second
    far = math.inf if not varies.any() else float(distance.flatten()[worst])
    return _Off(float(mean.flatten()[worst]), float(sd.flatten()[worst]), math.inf if math.isnan(far) else far, place)


# Sets that share examples


def _of_overlaps(name: str, task: Task) -> Iterator[Fault]:
    """Find examples of one set that recur in another."""
    known = {"training": _inputs(task.train.x), "test": _inputs(task.test.x)}
    held = {} if task.validation is None else {"validation": _inputs(task.validation.x)}
    far = {f"out-of-distribution ({ood})": _inputs(x) for ood, x in task.ood.items()}
    pairs = [("test", "training"), *((a, b) for a in held for b in ("test", "training"))]
    pairs += [(a, b) for a in far for b in ("test", "training")]
    shifts = {f"shifted test ({shift})": _inputs(found.x) for shift, found in task.shifts.items()}
    pairs += [(a, "training") for a in shifts]  # a mild shift may leave a test example as it is
    sets = known | held | far | shifts
    for a, b in pairs:
        share = _share(sets[a], sets[b])
        if share >= SHARED[0]:
            # examples of a few categories are alike by nature: then training examples are, too
            by_nature = 2 * _recurring(sets[b]) > share
            severity: Severity = "refused" if share >= SHARED[1] and not by_nature else "flagged"
            there = set(sets[b])
            i = next(i for i, one in enumerate(sets[a]) if one in there)
            which = f"such as example {i}, from 0, which is {b} example {sets[b].index(sets[a][i])}"
            message = f"its {a} data are {'all' if share == 1 else 'in part'} {b} data"
            yield Fault(severity, name, message, which if share == 1 else f"{100 * share:.0f} %, {which}")


def _inputs(x: Tensor) -> list[bytes]:
    """Return a short hash of each input (N, *S)."""
    rows = x.contiguous().numpy().reshape(len(x), -1)
    return [blake2b(row.tobytes(), digest_size=12).digest() for row in rows]


def _share(a: Sequence[bytes], b: Sequence[bytes]) -> float:
    """Return the share of the inputs `a` that are among `b`; 0 if most of `a` repeat, which makes it meaningless."""
    distinct = set(a)
    if len(distinct) < 0.5 * len(a) or not a:
        return 0.0
    return len(distinct.intersection(b)) / len(distinct)


def _recurring(inputs: Sequence[bytes]) -> float:
    """Return the share of distinct inputs that occur more than once."""
    counts = Counter(inputs)
    return sum(count > 1 for count in counts.values()) / max(1, len(counts))


# Objectives


def _of_audit(audit: ObjectiveFactors) -> Iterator[str]:
    """Describe the faults of one row's objective."""
    if audit.failed:
        yield f"its objective could not be audited, so neither prior nor temperature can be checked: {audit.failed}"
        return
    if not audit.named:
        yield "its objective names no term (bdlbench.training.terms), so neither prior nor temperature can be checked"
        return
    for name, temperature in audit.temperature.items():
        if _is_off(temperature):
            ramp = audit.ramp.get(name) or 0
            when = f"; it ramps for {100 * ramp:.0f} % of training" if ramp else ""
            found = "unknown" if temperature is None else f"{temperature:.4g}/N"
            yield f"the final factor of its {name} is {found}, not 1/N: that is the effective temperature{when}"
    for name, factor in audit.local.items():
        if _is_off(factor):
            number = "an unknown factor" if factor is None else f"a factor of {factor:.4g}"
            yield f"the latent's {name} has {number} in an example's ELBO, not 1"
    if audit.undeclared is None or audit.undeclared > FACTOR:
        beside = "beside its declared prior" if audit.temperature else "that no prior declares"
        share = "" if audit.undeclared is None else f" ({100 * audit.undeclared:.2g} % of the gradient)"
        yield f"the objective has a penalty {beside}, such as L2{share}"


def _is_off(factor: float | None) -> bool:
    return factor is None or abs(factor - 1) > FACTOR


def factors(record: Record) -> dict[str, float | None]:
    """Return the factors of a record's audit by name: for each, the replicate's value farthest from the right one."""
    found: dict[str, float | None] = {}
    for audit in record.values.objective:
        rows = {f"effective temperature of its {name}": (value, 1.0) for name, value in audit.temperature.items()}
        rows |= {f"factor of the latent's {name}": (value, 1.0) for name, value in audit.local.items()}
        rows |= {f"ramp of its {name}": (value, 0.0) for name, value in audit.ramp.items()}
        rows["undeclared part of its gradient"] = (audit.undeclared, 0.0)
        for name, (value, right) in rows.items():
            known = found.setdefault(name, value)
            if value is None or (known is not None and abs(value - right) > abs(known - right)):
                found[name] = value
    return found


def same_factor(a: float | None, b: float | None) -> bool:
    """Return whether two factors are equal up to the rounding of float32."""
    return a == b if a is None or b is None else math.isclose(a, b, rel_tol=FACTOR / 10, abs_tol=FACTOR / 10)


def temperature(record: Record) -> str:
    """Return the effective temperature of a record in words, with ramps; "" if no prior is declared."""
    audits = record.values.objective
    words = []
    for name in dict.fromkeys(name for audit in audits for name in audit.temperature):
        found = [audit.temperature[name] for audit in audits if name in audit.temperature]
        values = sorted({f"{math.nan if value is None else value:.4g}" for value in found})
        end = max(audit.ramp.get(name) or 0.0 for audit in audits)
        words.append(f"T = {' … '.join(values)}" + (f" after a ramp of {100 * end:.0f} % of training" if end else ""))
    return ", ".join(words)
