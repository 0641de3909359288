"""Protocol lint: what would make a table unfair, found in the data, the spec and the records themselves.

`refused` is what no reading of the numbers can mend (the run stops before it trains); `flagged` is what a reader must
know. No name of a method, model or data set is ever asked for.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Literal

import torch
from torch import Tensor

from bdlbench.data import Task
from bdlbench.errors import BadInput
from bdlbench.records import Record
from bdlbench.spec import Cell, Choice, Replicate, Spec

Severity = Literal["refused", "flagged"]

FEWEST_SEEDS = 3
"""Replicates below which a standard error says next to nothing: with two, a 95 % interval is ± 13 of them."""

STANDARD = 1e-4
"""How far from mean 0 and standard deviation 1 data may be that were standardised by their own, in float32."""

BY_CHANCE = 1e-5
"""Nothing comes this near to mean 0 and standard deviation 1 in every column by chance."""

FACTOR = 1e-4
"""Relative error of a measured factor: float32 makes 1e-7."""

SHARED = (0.01, 0.5)
"""The share of a set's inputs that recur in another: from the first on it is flagged, from the second refused."""


@dataclass(frozen=True)
class Finding:
    """One fault of a protocol: how bad, where, what."""

    severity: Severity
    where: str
    message: str

    def __str__(self) -> str:
        return f"{self.severity}: {self.where}: {self.message}"


def of_replicates(title: str, replicates: Sequence[Replicate]) -> list[Finding]:
    """Whether there are enough of them for an error bar."""
    return list(_of_seeds(replicates, title))


def of_spec(spec: Spec) -> list[Finding]:
    """What the cells and replicates asked for say by themselves."""
    found = list(_of_seeds(spec.replicates))
    found += _of_selection(spec.selection)
    found += _of_sweeps(spec.cells)
    return found


def of_task(name: str, task: Task) -> list[Finding]:
    """What one split of a data set shows: statistics of other than the training data, sets that share examples."""
    return [*_of_inputs(name, task), *_of_targets(name, task), *_of_overlaps(name, task)]


def of_record(title: str, record: Record) -> list[Finding]:
    """What was minimised, as the record's own audit says: factors that are not 1, terms that no prior declares."""
    found = list(_of_selection(record.environment.get("selection", ""), title))
    audits = record.values.get("objective", [])
    for message in dict.fromkeys(message for audit in audits for message in _of_audit(audit)):
        found.append(Finding("flagged", title, message))
    return found


def refuse(findings: Iterable[Finding]) -> list[Finding]:
    """The findings that are flagged. Raises BadInput for the first that is refused."""
    kept = list(findings)
    for finding in kept:
        if finding.severity == "refused":
            raise BadInput(f"{finding.where}: {finding.message}")
    return kept


# Seeds and selection


def _of_seeds(replicates: Sequence[Replicate], title: str = "this run") -> Iterator[Finding]:
    if 0 < len(replicates) < FEWEST_SEEDS:
        count = f"{len(replicates)} replicate" + "s" * (len(replicates) > 1)
        yield Finding("flagged", title, f"{count}: a standard error needs at least {FEWEST_SEEDS} seeds")


def _of_selection(selection: str, title: str = "the suite") -> Iterator[Finding]:
    if selection in ("test", "ood"):
        words = "test" if selection == "test" else "out-of-distribution"
        better = 'choose on training or validation data, and say so: selection = "validation"'
        yield Finding("refused", title, f"its options were chosen on {words} data: {better}")


def _of_sweeps(cells: Sequence[Cell]) -> Iterator[Finding]:
    """Cells that differ in nothing but a method's options: a table invites to take the best of them."""
    groups: dict[Any, list[Choice]] = {}
    for cell in cells:
        rest = (cell.method.name, cell.model, cell.dataset, cell.samples, cell.device, cell.threads)
        groups.setdefault(rest, []).append(cell.method)
    for methods in groups.values():
        if len(methods) > 1:
            swept = sorted(
                {name for m in methods for name, value in m.options if dict(methods[0].options)[name] != value}
            )
            what = f"{len(methods)} settings of {', '.join(swept)}"
            better = "to take the best by these columns is selection on test data; choose on held-out training data"
            yield Finding("flagged", methods[0].name, f"{what}: {better}")


# Statistics


def _of_inputs(name: str, task: Task) -> Iterator[Finding]:
    """Inputs: standardised by the training part as declared, and by no other part."""
    train, test = task.train.x, task.test.x
    if task.standardised:
        far = _off_standard(train, task.standardised)
        if far > STANDARD:
            whose = _whose(train, test, task.standardised)
            yield Finding("refused", name, f"its inputs are standardised by the statistics of {whose} ({far:.1g} off)")
        return
    for axes in dict.fromkeys([(0,), (0, *range(2, train.ndim))]):
        for whose, x in (("the test data", test), ("training and test data together", torch.cat([train, test]))):
            if len(x) > FEWEST_SEEDS and _off_standard(x, axes) < BY_CHANCE < _off_standard(train, axes):
                yield Finding("refused", name, f"its inputs are standardised by the statistics of {whose}")
                return


def _whose(train: Tensor, test: Tensor, axes: tuple[int, ...]) -> str:
    if _off_standard(test, axes) < STANDARD:
        return "the test data"
    if _off_standard(torch.cat([train, test]), axes) < STANDARD:
        return "training and test data together"
    return "other than the training data"


def _of_targets(name: str, task: Task) -> Iterator[Finding]:
    """Targets that were shifted and scaled: by the training part."""
    if (task.y_mean, task.y_sd) == (0.0, 1.0) or not task.train.y.is_floating_point():
        return
    far = _off_standard(task.train.y[:, None], (0,))
    if far > STANDARD:
        whose = _whose(task.train.y[:, None], task.test.y[:, None], (0,))
        yield Finding("refused", name, f"its targets are standardised by the statistics of {whose} ({far:.1g} off)")


def _off_standard(x: Tensor, axes: tuple[int, ...]) -> float:
    """The largest distance from mean 0 and standard deviation 1 over what does not lie along `axes`; ∞ if constant."""
    count, mean, square = 0, torch.zeros(()), torch.zeros(())
    for part in x.split(2000):
        values = part.double()
        size = part.numel() // max(1, int(torch.tensor([n for a, n in enumerate(part.shape) if a not in axes]).prod()))
        count, mean, square = count + size, mean + values.sum(axes), square + values.square().sum(axes)
    mean, sd = mean / count, (square / count - (mean / count).square()).clamp_min(0).sqrt()
    varies = sd > BY_CHANCE
    if not varies.any():
        return float("inf")
    return float(torch.maximum(mean.abs(), torch.where(varies, (sd - 1).abs(), 0.0)).max())


# Sets that share examples


def _of_overlaps(name: str, task: Task) -> Iterator[Finding]:
    """Examples that recur where they must not."""
    known = {"training": _inputs(task.train.x), "test": _inputs(task.test.x)}
    held = {} if task.validation is None else {"validation": _inputs(task.validation.x)}
    far = {f"out-of-distribution ({ood})": _inputs(x) for ood, x in task.ood.items()}
    pairs = [("test", "training"), *((a, b) for a in held for b in ("test", "training"))]
    pairs += [(a, b) for a in far for b in ("test", "training")]
    sets = known | held | far
    for a, b in pairs:
        share = _share(sets[a], sets[b])
        if share >= SHARED[0]:
            severity: Severity = "refused" if share >= SHARED[1] else "flagged"
            words = "are all" if share == 1 else f"are, by {100 * share:.0f} %,"
            yield Finding(severity, name, f"its {a} data {words} {b} data")


def _inputs(x: Tensor) -> list[bytes]:
    """A short hash of each input (N, *S)."""
    rows = x.contiguous().numpy().reshape(len(x), -1)
    return [blake2b(row.tobytes(), digest_size=12).digest() for row in rows]


def _share(a: Sequence[bytes], b: Sequence[bytes]) -> float:
    """The share of the inputs `a` that are among `b`; 0 where most of `a` repeat each other and so tell nothing."""
    distinct = set(a)
    if len(distinct) < 0.5 * len(a) or not a:
        return 0.0
    return len(distinct.intersection(b)) / len(distinct)


# Objectives


def _of_audit(audit: Mapping[str, Any]) -> Iterator[str]:
    """What one row's objective shows."""
    if not audit["named"]:
        yield "its objective names no term (bdlbench.terms), so neither prior nor temperature can be checked"
        return
    for name, temperature in audit["temperature"].items():
        if _off(temperature):
            ramp = audit["ramp"].get(name) or 0
            when = f"; it ramps for {100 * ramp:.0f} % of training" if ramp else ""
            factor = "unknown" if temperature is None else f"{temperature:.4g}/N"
            yield f"the final factor of its {name} is {factor}, not 1/N: that is the effective temperature{when}"
    for name, factor in audit["local"].items():
        if _off(factor):
            number = "an unknown factor" if factor is None else f"a factor of {factor:.4g}"
            yield f"the latent's {name} has {number} in an example's ELBO, not 1"
    if audit["undeclared"] is None or audit["undeclared"] > FACTOR:
        beside = "beside its declared prior" if audit["temperature"] else "that no prior declares"
        share = "" if audit["undeclared"] is None else f" ({100 * audit['undeclared']:.2g} % of the gradient)"
        yield f"the objective has a penalty {beside}, such as L2{share}"


def _off(factor: float | None) -> bool:
    return factor is None or abs(factor - 1) > FACTOR


def factors(record: Record) -> dict[str, float | None]:
    """What a record's audit measured, by name: of all replicates the value farthest from what it should be."""
    found: dict[str, float | None] = {}
    for audit in record.values.get("objective", []):
        rows = {f"effective temperature of its {name}": (value, 1.0) for name, value in audit["temperature"].items()}
        rows |= {f"factor of the latent's {name}": (value, 1.0) for name, value in audit["local"].items()}
        rows |= {f"ramp of its {name}": (value, 0.0) for name, value in audit["ramp"].items()}
        rows["undeclared part of its gradient"] = (audit["undeclared"], 0.0)
        for name, (value, right) in rows.items():
            known = found.setdefault(name, value)
            if value is None or (known is not None and abs(value - right) > abs(known - right)):
                found[name] = value
    return found


def same_factor(a: float | None, b: float | None) -> bool:
    """Whether two factors are one, to float32."""
    return a == b if a is None or b is None else math.isclose(a, b, rel_tol=FACTOR / 10, abs_tol=FACTOR / 10)


def temperature(record: Record) -> str:
    """The effective temperature of a record in words, ramps named; "" where no prior is declared."""
    audits = record.values.get("objective", [])
    words = []
    for name in dict.fromkeys(name for audit in audits for name in audit["temperature"]):
        found = [audit["temperature"][name] for audit in audits if name in audit["temperature"]]
        values = sorted({f"{math.nan if value is None else value:.4g}" for value in found})
        end = max(audit["ramp"].get(name) or 0.0 for audit in audits)
        words.append(f"T = {' … '.join(values)}" + (f" after a ramp of {100 * end:.0f} % of training" if end else ""))
    return ", ".join(words)
