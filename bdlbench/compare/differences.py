"""One metric of one cell on two sides: the difference, what its uncertainty is made of, and a verdict."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal, NamedTuple

import numpy as np

from bdlbench.compare.measured import ExampleLayout, Measured
from bdlbench.core.spec import Replicate
from bdlbench.stats.crossed import Difference, Side, crossed, resampled, seed_part
from bdlbench.stats.holm import holm
from bdlbench.stats.jackknife import jackknife_variance
from bdlbench.stats.power import detectable, seeds_to_settle

LEVEL = 0.05
"""How often a test, or all tests of one table together, may call equal things different."""

SKEWED = 0.1
"""Skewness of a mean over examples from which on its interval covers too rarely."""

CARRIED = 0.2
"""Share of the variance from which on the example part matters."""

FLOAT32_ROUNDING = 8 * np.finfo(np.float32).eps
"""Relative difference of two means that is rounding, however surely it is not 0: predictions are float32."""

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
    """B against A in one metric. Numbers that cannot be known are NaN; `judge` fills in what depends on all findings.

    interval: half the width of the 95 % interval of the difference. monte_carlo: the part of `seed_variance` that more
    posterior samples would remove. detectable: the smallest difference that would have been shown, 80 % power at the
    corrected level. seeds: how many replicates a side a fresh comparison needs to settle an inconclusive verdict.
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
    identical: bool = False  # replicates, predictions and values are the same, byte for byte: nothing is tested

    @property
    def estimate(self) -> float:
        """Mean of B − mean of A."""
        return float(self.difference.estimate)

    @property
    def testable(self) -> bool:
        """Whether there is a claim about new training runs that could be tested: not where nothing varies."""
        return not (self.identical or math.isnan(self.interval) or math.isnan(float(self.difference.seed)))

    @property
    def is_rounding(self) -> bool:
        """Whether the means are the same but for rounding."""
        return bool(abs(self.estimate) <= FLOAT32_ROUNDING * max(abs(self.mean_a), abs(self.mean_b)))

    @property
    def rests_on_few(self) -> bool:
        """Whether the mean over test examples is so skewed, by few of them, that its interval covers too rarely.

        A limit of any interval for a mean (Bahadur & Savage 1956); how rarely: docs/statistics.md.
        """
        seed, example = float(self.difference.seed), float(self.difference.example)
        return float(self.difference.skewness) > SKEWED and example > CARRIED * (seed + example)


class Apart(NamedTuple):
    """Two of a column, one better than the other.

    tested: a test says so of new runs. Else one of them has a single replicate, and the order of their means is all.
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
    """The difference and its parts, before any verdict. margin: how much worse is still as good, in the unit."""
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
    """The Monte-Carlo variance as the part of the seed variance that it is: two estimates, so it may come out larger.

    Where one training run is all there is (seed is NaN), as it was found.
    """
    return monte_carlo if math.isnan(seed) else min(monte_carlo, seed)


def judge(findings: Sequence[Finding]) -> list[Finding]:
    """The same with verdicts; each of its three kinds of test is corrected for all of the table (Holm 1979).

    worse, better: the difference is beyond the margin, by a test that survives the correction. equivalent: it is within
    the margin, by two one-sided tests that survive it. So any one word, read alone, holds for the table.
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
    """Compare every two of a column by `compare`'s test, Holm-corrected over the column.

    measured: one metric, by the name of who reached it; on the same test examples. Methods that are equal in truth all
    lead with probability 95 % at least. Comparisons with the best alone (Hsu 1981) promise that of one of them only.
    Values that do not vary at all over replicates count as they are; what is not finite is told from nothing.
    """
    means = {name: m.mean if better == "higher" else -m.mean for name, m in measured.items() if math.isfinite(m.mean)}
    pairs = list(combinations(sorted(means, key=means.__getitem__), 2))  # the worse mean first
    found = [_difference(measured[worse], measured[above], layout)[0] for worse, above in pairs]
    sure = [bool(d.without_spread) and float(d.estimate) != 0 for d in found]
    corrected = holm([math.nan if known else float(d.p_value()) for d, known in zip(found, sure, strict=True)])
    return tuple(
        Apart(worse, above, tested=bool(known or p <= LEVEL))
        for (worse, above), p, known in zip(pairs, corrected, sure, strict=True)
        if known or p <= LEVEL or (math.isnan(p) and means[worse] < means[above])
    )


def leaders(measured: Mapping[str, Measured], apart: Iterable[Apart]) -> frozenset[str]:
    """Those of a column that no other is better than; of what is not finite, none."""
    return frozenset(name for name, m in measured.items() if math.isfinite(m.mean)) - {pair.worse for pair in apart}


def half_width(measured: Measured, layout: ExampleLayout) -> float:
    """Half the 95 % interval of a metric's mean: as of its difference from a method that scores 0 for sure."""
    nothing = Measured(
        dict.fromkeys(measured.values, 0.0),
        {r: tuple(np.zeros_like(x) for x in parts) for r, parts in measured.examples.items()},
        {},
    )
    return float(_difference(nothing, measured, layout)[0].half_width(LEVEL))


def monte_carlo_variance(a: Measured, b: Measured) -> float:
    """What the finite number of posterior samples adds to the variance of the difference; NaN where it is not known.

    The jackknife over the groups of samples, of each pair's difference where both sides have as many groups (they may
    share their noise), else of each side.
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


def _difference(a: Measured, b: Measured, layout: ExampleLayout) -> tuple[Difference, Population, int]:
    """The difference, to whom its interval speaks, and how many pairs of replicates there are."""
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
    """Without examples on both sides where they are not known, or not as many, for all replicates."""
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
