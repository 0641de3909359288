"""One metric of one cell on two sides: the difference, the parts of its variance, and a verdict."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bdlbench.compare.measured import ExampleLayout, Measured
from bdlbench.core.spec import Replicate
from bdlbench.stats.behrens_fisher import Array
from bdlbench.stats.crossed import Difference, Side, crossed, resampled, seed_part
from bdlbench.stats.holm import holm
from bdlbench.stats.jackknife import jackknife_variance
from bdlbench.stats.power import detectable, seeds_to_settle

LEVEL = 0.05
"""The probability that a test, or all tests of one table together, may call equal methods different."""

SKEWED = 0.1
"""With a larger skewness of the mean over examples, its interval covers too rarely."""

CARRIED = 0.2
"""The example part matters where it is more than this share of the variance."""

FLOAT32_ROUNDING = 8 * np.finfo(np.float32).eps
"""A relative difference of two means up to this size is rounding, whatever its p-value: predictions are float32."""

Indices = NDArray[np.intp]

Better = Literal["higher", "lower"]
Verdict = Literal["better", "worse", "equivalent", "inconclusive"]
Population = Literal[
    "new seeds and new test examples",
    "new seeds, these test examples",
    "new test examples, these trained networks",
    "new splits of this data set",
    "nothing beyond these numbers",
]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The comparison of B with A in one metric.

    Numbers that cannot be known are NaN. `judge` fills in the fields that depend on all findings of a comparison.

    Attributes:
        metric: The column, such as `ood_auroc[near]`.
        unit: The metric's unit.
        better: The direction in which the metric improves.
        mean_a: Mean over the replicates of A.
        mean_b: Mean over the replicates of B.
        replicates: The number of replicates in A and in B.
        pairs: The number of replicates that both sides have.
        population: The population that the interval is for.
        difference: The difference B − A with the parts of its variance.
        interval: Half the width of the 95 % interval of the difference.
        monte_carlo: The part of the seed variance that more posterior samples would remove.
        margin: The loss that still counts as equally good, in the metric's unit.
        p_value: The p-value of no difference, without correction.
        corrected_p: The same p-value, corrected for all tests of the comparison.
        verdict: "inconclusive" until `judge` finds another one.
        detectable: The smallest difference that would have been shown with 80 % power at the corrected level.
        seeds: The number of replicates on each side that a fresh comparison needs to settle an inconclusive verdict.
        identical: Whether replicates, predictions and values are the same, byte for byte. Then nothing is tested.
    """

    metric: str
    unit: str
    better: Better
    mean_a: float
    mean_b: float
    replicates: tuple[int, int]
    pairs: int
    population: Population
    difference: Difference
    interval: float
    monte_carlo: float
    margin: float
    p_value: float
    corrected_p: float = math.nan
    verdict: Verdict = "inconclusive"
    detectable: float = math.nan
    seeds: float = math.nan
    identical: bool = False

    @property
    def estimate(self) -> float:
        """Mean of B − mean of A."""
        return float(self.difference.estimate)

    @property
    def testable(self) -> bool:
        """Whether a claim about new training runs can be tested. It cannot where nothing varies."""
        return not (self.identical or math.isnan(self.interval) or math.isnan(float(self.difference.seed)))

    @property
    def is_rounding(self) -> bool:
        """Whether the two means differ by rounding only."""
        return bool(abs(self.estimate) <= FLOAT32_ROUNDING * max(abs(self.mean_a), abs(self.mean_b)))

    @property
    def rests_on_few(self) -> bool:
        """Whether few test examples make the mean so skewed that its interval covers too rarely.

        Every interval for a mean has this limit (Bahadur & Savage 1956). docs/statistics.md shows how rarely it covers.
        """
        seed, example = float(self.difference.seed), float(self.difference.example)
        return float(self.difference.skewness) > SKEWED and example > CARRIED * (seed + example)


class Apart(NamedTuple):
    """Two rows of a column, one better than the other.

    Attributes:
        worse: The key of the worse row.
        better: The key of the better row.
        tested: Whether a test shows it for new runs. If not, one row has a single replicate, and only the order of the
            means is known.
    """

    worse: str
    better: str
    tested: bool


def find(
    metric: str,
    unit: str,
    better: Better,
    a: Measured,
    b: Measured,
    layout: ExampleLayout,
    margin: float = 0.0,
) -> Finding:
    """Return the difference of B and A and its parts, before any verdict.

    Args:
        metric: The column.
        unit: The metric's unit.
        better: The direction in which the metric improves.
        a: The metric on the first side.
        b: The metric on the second side.
        layout: How replicates share test examples.
        margin: The loss that still counts as equally good, in the metric's unit.

    Returns:
        A finding whose verdict is "inconclusive".
    """
    difference, population, pairs = _difference(a, b, layout)
    shown = difference
    if population == "new test examples, these trained networks":
        shown = replace(difference, seeds=(seed_part(np.zeros(()), 1.0),))
    return Finding(
        metric=metric,
        unit=unit,
        better=better,
        mean_a=a.mean,
        mean_b=b.mean,
        replicates=(len(a.values), len(b.values)),
        pairs=pairs,
        population=population,
        difference=difference,
        interval=float(shown.half_width(LEVEL)),
        monte_carlo=_within(monte_carlo_variance(a, b), float(difference.seed)),
        margin=margin,
        p_value=float(difference.p_value()),
    )


def _within(monte_carlo: float, seed: float) -> float:
    """Return the Monte-Carlo variance, at most the seed variance that contains it.

    Both are estimates, so the part may come out larger than the whole. It is returned as it is where `seed` is NaN,
    that is, where there is a single training run.
    """
    return monte_carlo if math.isnan(seed) else min(monte_carlo, seed)


def judge(findings: Sequence[Finding]) -> list[Finding]:
    """Return the findings with verdicts. Each kind of test is corrected over all findings (Holm 1979).

    A verdict is "worse" or "better" where a test shows, after the correction, that the difference is beyond the margin.
    It is "equivalent" where two one-sided tests show, after the correction, that the difference is within the margin.
    So any single verdict, read alone, holds at the level of the whole table.

    Args:
        findings: All findings of one comparison.

    Returns:
        The findings in the same order.
    """
    corrected = holm([f.p_value if f.testable else math.nan for f in findings])
    beyond, within = (
        holm([float(test(f.difference, f.margin)) if f.testable else math.nan for f in findings])
        for test in (Difference.p_value, Difference.equivalence_p_value)
    )
    tests = sum(f.testable for f in findings)
    return [
        _judged(finding, float(p), float(p_beyond), float(p_within), LEVEL / max(tests, 1))
        for finding, p, p_beyond, p_within in zip(findings, corrected, beyond, within, strict=True)
    ]


def told_apart(measured: Mapping[str, Measured], better: Better, layout: ExampleLayout) -> tuple[Apart, ...]:
    """Compare all pairs of rows in a column as `compare` does, Holm-corrected over the column.

    Rows that are equal in truth all lead with a probability of at least 95 %. Comparisons with the best alone (Hsu
    1981) promise that for one of them only. Values that do not vary over replicates are compared as they are. A mean
    that is not finite is not told apart from any other.

    Args:
        measured: One metric by row, on the same test examples.
        better: The direction in which the metric improves.
        layout: How replicates share test examples.

    Returns:
        The pairs of rows that are told apart. Of the rows that only the order of the means puts above another, there is
        one pair: with the best of them.
    """
    means = {name: m.mean if better == "higher" else -m.mean for name, m in measured.items() if math.isfinite(m.mean)}
    names = sorted(means, key=means.__getitem__)
    order = np.array([means[name] for name in names])
    rows = [measured[name] for name in names]
    worse, above = np.triu_indices(len(rows), 1)  # all pairs, the worse mean first
    least, sure = np.full(len(worse), np.nan), np.zeros(len(worse), bool)
    for at, difference in differences_of(rows, rows, worse, above, layout):
        sure[at] = difference.without_spread & (difference.estimate != 0)
        least[at] = np.where(sure[at], np.nan, difference.least_p_value())
    # what a bound below p does not reject, p does not: the quadrature is for few pairs in place of all
    p = np.where(np.isnan(least), np.nan, 1.0)
    close = np.flatnonzero(holm(least) <= LEVEL)
    for at, difference in differences_of(rows, rows, worse[close], above[close], layout):
        p[close[at]] = difference.p_value()
    tested = sure | (holm(p) <= LEVEL)
    ordered = ~tested & np.isnan(p) & (order[worse] < order[above])
    best = dict(zip(worse[ordered].tolist(), above[ordered].tolist(), strict=True))  # the last of a row is the best
    found = [(i, j, True) for i, j in zip(worse[tested].tolist(), above[tested].tolist(), strict=True)]
    found += [(i, j, False) for i, j in best.items()]
    return tuple(Apart(names[i], names[j], known) for i, j, known in sorted(found))


def leaders(measured: Mapping[str, Measured], apart: Iterable[Apart]) -> frozenset[str]:
    """Return the rows with a finite mean that no other row is better than."""
    return frozenset(name for name, m in measured.items() if math.isfinite(m.mean)) - {pair.worse for pair in apart}


def half_width(measured: Measured, layout: ExampleLayout) -> float:
    """Return half the width of the 95 % interval of a metric's mean.

    It is the interval of the difference from a method that scores 0 with certainty.
    """
    nothing = Measured(
        dict.fromkeys(measured.values, 0.0),
        {r: tuple(np.zeros_like(x) for x in parts) for r, parts in measured.examples.items()},
        {},
    )
    return float(_difference(nothing, measured, layout)[0].half_width(LEVEL))


def monte_carlo_variance(a: Measured, b: Measured) -> float:
    """Return the variance of the difference that the finite number of posterior samples causes.

    The jackknife leaves out one group of samples at a time. Where both sides have the same number of groups, it is
    applied to the difference of each pair, because the sides may share their noise; otherwise to each side.

    Args:
        a: The metric on the first side.
        b: The metric on the second side.

    Returns:
        The variance in the metric's squared unit, NaN where it is not known.
    """
    if not (a.left_out.keys() >= a.values.keys() and b.left_out.keys() >= b.values.keys()):
        return math.nan
    total = 0.0
    for replicate in sorted(a.values.keys() | b.values.keys()):
        parts = [
            side.left_out[replicate] * sign / len(side.values)
            for side, sign in ((a, -1), (b, 1))
            if replicate in side.values and len(side.left_out[replicate])
        ]
        together = len(parts) == 2 and len(parts[0]) == len(parts[1])
        total += sum(float(jackknife_variance(part)) for part in ([parts[0] + parts[1]] if together else parts))
    return total


def _judged(finding: Finding, corrected_p: float, p_beyond: float, p_within: float, level: float) -> Finding:
    judged = replace(finding, corrected_p=corrected_p)
    if finding.identical:
        return replace(judged, verdict="equivalent")
    if not finding.testable:
        return judged
    verdict: Verdict = "inconclusive"
    if p_beyond <= LEVEL and not finding.is_rounding:
        verdict = "better" if (finding.estimate > 0) == (finding.better == "higher") else "worse"
    elif p_within <= LEVEL:
        verdict = "equivalent"
    seeds = math.nan
    if verdict == "inconclusive":
        seeds = seeds_to_settle(finding.difference, min(finding.replicates), finding.margin, level)
    return replace(judged, verdict=verdict, seeds=seeds, detectable=detectable(finding.difference, level))


NUMBERS_AT_ONCE = 1 << 21
"""The most numbers of one side in the pairs that are compared at once: 16 MiB."""


def differences_of(
    a: Sequence[Measured], b: Sequence[Measured], i: Indices, j: Indices, layout: ExampleLayout
) -> Iterator[tuple[Indices, Difference]]:
    """Find the differences b[j] − a[i] of many pairs: pairs that are alike in replicates and examples at once.

    Args:
        a: One metric of the first sides.
        b: The same of the second sides.
        i: The place of each pair's first side in `a`, (P,).
        j: That of its second side in `b`, (P,).
        layout: How replicates share test examples.

    Yields:
        The places (K,) of some pairs in `i` and `j`, and their differences, with axes (K,). Each pair comes once, but
        for pairs of which a side is empty or not finite: these do not come.
    """
    kinds: dict[_Kind | None, int] = {None: 0}

    def codes_of(side: Sequence[Measured], at: Indices) -> Indices:
        found = np.zeros(len(side), dtype=int)
        for k in np.unique(at).tolist():
            found[k] = kinds.setdefault(_kind(side[k]), len(kinds))
        return found

    of_a = codes_of(a, i if a is not b else np.concatenate([i, j]))
    of_b = of_a if a is b else codes_of(b, j)
    known = list(kinds)
    codes = of_a[i] * len(known) + of_b[j]
    for code in np.unique(codes).tolist():
        one, other = known[code // len(known)], known[code % len(known)]
        if one is None or other is None:
            continue
        alike = np.flatnonzero(codes == code)
        size = len(one.replicates) * max([1, *(shape[0] for shape in one.examples or () if shape)])
        step = max(1, NUMBERS_AT_ONCE // size)
        for at in (alike[start : start + step] for start in range(0, len(alike), step)):
            yield at, _alike_pairs((a, i[at], one), (b, j[at], other), layout)


class _Kind(NamedTuple):
    """What decides by which formulas a row is compared.

    Attributes:
        replicates: Its replicates, in order.
        examples: The shapes of each replicate's contributions; None where replicates differ in them.
        whole: Whether all values are whole numbers.
        large: Whether they are whole and one is beyond 1 in size.
        binary: Whether all contributions are 0 or 1.
    """

    replicates: tuple[Replicate, ...]
    examples: tuple[tuple[int, ...], ...] | None
    whole: bool
    large: bool
    binary: bool


def _kind(row: Measured) -> _Kind | None:
    """Return the kind of a row; None where it is empty or not finite."""
    values = [*row.values.values()]
    if not values or not all(map(math.isfinite, values)):
        return None
    shapes = {tuple(x.shape for x in row.examples.get(r, ())) for r in row.values} if row.examples else {()}
    whole = all(value % 1 == 0 for value in values)
    large = whole and any(abs(value) > 1 for value in values)
    binary = bool(row.examples) and all(((x == 0) | (x == 1)).all() for parts in row.examples.values() for x in parts)
    return _Kind(tuple(sorted(row.values)), shapes.pop() if len(shapes) == 1 else None, whole, large, binary)


_OfKind = tuple[Sequence[Measured], Indices, _Kind]
"""Rows, the places (K,) of some of them, and their kind."""


def _alike_pairs(a: _OfKind, b: _OfKind, layout: ExampleLayout) -> Difference:
    """Return the differences of K pairs, whose first sides are of one kind and second sides of another."""
    one, other = a[2], b[2]
    shared = sorted({*one.replicates} & {*other.replicates})
    if layout.nested is not None:
        splits = sorted({r.split for r in shared})

        def of_splits(row: Measured) -> list[float]:
            return [_split_mean(row.values, shared, split) for split in splits]

        return resampled(_by_row(a, of_splits), _by_row(b, of_splits), layout.nested)
    populations = len(one.examples or ()) if one.examples == other.examples else 0
    places = [(one.replicates.index(r), other.replicates.index(r)) for r in shared]
    return crossed(_sides(a, populations), _sides(b, populations), places)


def _sides(some: _OfKind, populations: int) -> Side:
    """Return the values (K, R) of rows, and what examples contribute, (K, R, N) for each population."""
    replicates = some[2].replicates

    def of_examples(population: int) -> Array:
        return _by_row(some, lambda row: [row.examples[r][population] for r in replicates])

    values = _by_row(some, lambda row: [row.values[r] for r in replicates])
    return Side(values, tuple(map(of_examples, range(populations))))


def _by_row(some: _OfKind, of: Callable[[Measured], Any]) -> Array:
    """Return an array (K, …) of what `of` says of the rows at these places; each row is asked once."""
    rows, at, _ = some
    asked, places = np.unique(at, return_inverse=True)
    found: Array = np.array([of(rows[k]) for k in asked])[places]
    return found


def _difference(a: Measured, b: Measured, layout: ExampleLayout) -> tuple[Difference, Population, int]:
    """Return the difference, the population that its interval is for, and the number of pairs of replicates."""
    shared = sorted(a.values.keys() & b.values.keys())
    if a.undefined or b.undefined or not (a.values and b.values):
        nan = np.array(math.nan)
        unknown = Difference(np.array(b.mean - a.mean), (seed_part(nan, 1.0),), nan)
        return unknown, "nothing beyond these numbers", len(shared)
    if layout.nested is not None:
        splits = sorted({r.split for r in shared})
        left, right = (np.array([_split_mean(m.values, shared, split) for split in splits]) for m in (a, b))
        return resampled(left, right, layout.nested), "new splits of this data set", len(shared)
    sides = [_side(measured) for measured in _alike(a, b)]
    places = [(sorted(a.values).index(r), sorted(b.values).index(r)) for r in shared]
    found = crossed(sides[0], sides[1], places)
    return found, _population(found, bool(sides[0].examples)), len(shared)


def _alike(a: Measured, b: Measured) -> tuple[Measured, Measured]:
    """Return both sides, without examples unless all replicates of both know the same numbers of examples."""
    shapes = {tuple(x.shape for x in m.examples.get(r, ())) for m in (a, b) for r in m.values}
    return (a, b) if len(shapes) == 1 else (replace(a, examples={}), replace(b, examples={}))


def _side(measured: Measured) -> Side:
    rows = sorted(measured.values)
    columns = zip(*(measured.examples.get(r, ()) for r in rows), strict=True)
    return Side(np.array([measured.values[r] for r in rows]), tuple(np.stack(column) for column in columns))


def _split_mean(values: Mapping[Replicate, float], shared: Sequence[Replicate], split: int) -> float:
    of_split = [values[r] for r in shared if r.split == split]
    return math.fsum(of_split) / len(of_split)


def _population(found: Difference, with_examples: bool) -> Population:
    if np.isnan(found.seed):
        return "new test examples, these trained networks" if with_examples else "nothing beyond these numbers"
    return "new seeds and new test examples" if with_examples else "new seeds, these test examples"
