"""A published number and the same protocol run here: is it reproduced?

Three words, and a margin that is stated with each. With δ the true difference of the two means:

- *not reproduced*: δ = 0 is refused, by a two-sided test at 5 % that is corrected for all rows of the paper's table
  (Holm 1979), and δ is not shown to be immaterial. The published number was rounded, so only what lies beyond half its
  last digit counts.
- *reproduced*: δ = 0 is not refused and |δ| is shown to be below the margin, by two one-sided tests (Schuirmann 1987)
  with the same correction. That the difference was not refused is not enough.
- *inconclusive*: neither, or the two papers' splits are too few for a margin that deserves the word.

The margin is the difference that this comparison refuses with 95 % power, but never less than what is immaterial in
the metric. So a difference of the margin is found; how often, and how often equal truths are called "not reproduced",
is simulated in docs/statistics.md. A protocol that leaves nothing to chance is reproduced by every printed digit or
not at all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from typing import Literal, get_args

import numpy as np

from bdlbench.stats.behrens_fisher import Array
from bdlbench.stats.crossed import Difference
from bdlbench.stats.holm import holm
from bdlbench.stats.power import detectable

LEVEL, POWER = 0.05, 0.95

Spread = Literal["standard error", "standard deviation", "none"]
SPREADS: tuple[str, ...] = get_args(Spread)

Verdict = Literal["reproduced", "not reproduced", "inconclusive"]


@dataclass(frozen=True)
class Published:
    """A mean as it was printed.

    half_digit: half a unit of the last printed digit. spread: what stands behind the ±, in the metric's unit, and which
    spread it is: the standard error of the mean, the standard deviation of one split or run, or none (NaN). spread_half
    is half a unit of ITS last digit: a spread printed as 0.00 may be as large. count: the splits or runs that the mean
    is over.
    """

    value: float
    half_digit: float
    count: int
    spread: float = math.nan
    spread_half: float = 0.0
    kind: Spread = "none"

    @property
    def variance(self) -> float:
        """Of the mean; NaN where no spread was published, or a spread of one run alone."""
        if self.kind == "none" or self.count < 2:
            return math.nan
        error = max(self.spread, self.spread_half)
        return error**2 if self.kind == "standard error" else error**2 / self.count


def published(value: str, count: int, spread: str = "", kind: Spread = "none") -> Published:
    """Read numbers as they are printed, for their last digits.

    Args:
        value: the mean, such as "2.97".
        count: the splits or runs that it is over.
        spread: what stands behind the ±, such as "0.19"; "" for nothing.
        kind: which spread that is.

    Returns:
        The mean with its rounding.

    Raises:
        ValueError: where a number is none, or is not finite, a spread is negative, or there is a spread without its
            kind or a kind without its spread.
    """
    if (kind == "none") != (spread == ""):
        raise ValueError(f"a spread of {spread or 'nothing'} is no {kind}")
    if count < 1:
        raise ValueError(f"a mean over {count}")
    mean, half = _printed(value)
    if not spread:
        return Published(mean, half, count)
    size, spread_half = _printed(spread)
    if size < 0:
        raise ValueError(f"a spread of {spread}")
    return Published(mean, half, count, size, spread_half, kind)


def _printed(text: str) -> tuple[float, float]:
    """A number and half a unit of its last digit."""
    try:
        number = Decimal(text)
    except InvalidOperation:
        raise ValueError(f"{text} is no number") from None
    exponent = number.as_tuple().exponent
    if not isinstance(exponent, int):
        raise ValueError(f"{text} is no finite number")
    return float(number), 0.5 * 10.0**exponent


@dataclass(frozen=True)
class Limits:
    """What a margin may be, in the metric's unit.

    immaterial: a difference that nobody minds. coarse: a margin above which "reproduced" would say nothing.
    """

    immaterial: float
    coarse: float


@dataclass(frozen=True)
class Agreement:
    """Ours against theirs in one row of a paper's table. Numbers that cannot be known are NaN.

    difference: ours − theirs. half_width: of its 95 % interval, for this row alone, rounding included. margin: as the
    module says. corrected_p: of δ = 0, Holm-corrected over the rows. exact: nothing was left to chance.
    """

    published: Published
    ours: float
    count: int
    difference: Difference
    half_width: float
    margin: float
    corrected_p: float
    verdict: Verdict
    exact: bool = False

    @property
    def standard_errors(self) -> float:
        """The difference in combined standard errors."""
        error = float(self.difference.standard_error)
        return abs(float(self.difference.estimate)) / error if error > 0 else math.nan


def difference(ours: Array, theirs: Published, theirs_by_split: Array | None = None) -> Difference:
    """Ours − theirs with the variance of both.

    Each side's splits are drawn anew from one data set, so each mean has the variance of its splits, and the overlap of
    training sets inflates neither. Papers that share their splits are closer to each other than this says: an error on
    the safe side for "not reproduced", which only the published values of single splits remove. Where no spread was
    published, theirs is one more run like ours: the interval is a prediction interval. Where we have one run, ours is
    one more like theirs.

    Args:
        ours: (n,) values by split or run.
        theirs: the published mean.
        theirs_by_split: (n,) published values of the same splits, where there are any; then splits are paired.

    Returns:
        The difference; its parts are NaN where neither side says how much a run varies.
    """
    n = len(ours)
    zero, one = np.array(0.0), np.array(1.0)
    if theirs_by_split is not None:
        gaps = np.asarray(ours) - np.asarray(theirs_by_split)
        spread = np.var(gaps, ddof=1) / n if n > 1 else np.array(math.nan)
        return Difference(np.array(gaps.mean()), spread, float(n - 1) or one, zero, 1.0)
    estimate = np.array(np.mean(ours) - theirs.value)
    own = np.var(ours, ddof=1) if n > 1 else np.array(math.nan)
    if math.isnan(theirs.variance):
        return Difference(estimate, own * (1 / n + 1 / theirs.count), float(max(n - 1, 1)), zero, 1.0)
    other = np.array(theirs.variance)
    if n == 1:
        alone = other * (theirs.count + 1)  # of one run, and of their mean
        return Difference(estimate, alone, float(theirs.count - 1), zero, 1.0)
    return Difference(estimate, own / n, float(n - 1), other, float(theirs.count - 1))


def judge(
    rows: Sequence[tuple[Array, Published, Limits]],
    by_split: Sequence[Array | None] | None = None,
    exact: bool = False,
) -> list[Agreement]:
    """Judge all rows of one paper's table together.

    Args:
        rows: our values (n,), the published mean, and what a margin may be; one for each row.
        by_split: published values of our splits for each row, None where there are none.
        exact: whether the protocol leaves nothing to chance, the splits included.

    Returns:
        An agreement for each row, in order.
    """
    pairs = [None] * len(rows) if by_split is None else by_split
    found = [difference(ours, theirs, split) for (ours, theirs, _), split in zip(rows, pairs, strict=True)]
    if exact:
        return [_by_digits(*row, difference) for row, difference in zip(rows, found, strict=True)]
    tests = max(sum(float(d.standard_error) > 0 for d in found), 1)
    halves = [theirs.half_digit for _, theirs, _ in rows]
    margins = [
        max(detectable(d, LEVEL / tests, POWER) + 2 * half, limits.immaterial)  # NaN first: it stays
        for (_, _, limits), d, half in zip(rows, found, halves, strict=True)
    ]

    def corrected(test: Callable[[Difference, float], Array], bounds: Iterable[float]) -> Array:
        """Holm-corrected p of every row; what cannot be tested stays NaN and costs the others nothing."""
        pairs = zip(found, bounds, strict=True)
        return holm([float(test(d, bound)) if d.standard_error > 0 else math.nan for d, bound in pairs])

    apart = corrected(Difference.p_value, halves)
    within, immaterial = (
        corrected(
            Difference.equivalence_p_value, [max(bound - half, 0.0) for bound, half in zip(bounds, halves, strict=True)]
        )
        for bounds in (margins, [limits.immaterial for *_, limits in rows])
    )
    judged = []
    for (ours, theirs, limits), d, margin, *tests in zip(rows, found, margins, apart, within, immaterial, strict=True):
        refused, close, same = (p <= LEVEL for p in tests)
        verdict: Verdict = "inconclusive"
        if same or (close and not refused and margin <= limits.coarse):
            verdict = "reproduced"
        elif refused:
            verdict = "not reproduced"
        width = float(d.half_width(LEVEL)) + theirs.half_digit
        judged.append(Agreement(theirs, float(np.mean(ours)), len(ours), d, width, margin, float(tests[0]), verdict))
    return judged


def _by_digits(ours: Array, theirs: Published, limits: Limits, found: Difference) -> Agreement:
    del limits  # a digit is a digit
    mean = float(np.mean(ours))
    same = abs(mean - theirs.value) <= theirs.half_digit * (1 + 1e-9)
    sure = replace(found, seed=np.array(0.0), example=np.array(0.0))
    verdict: Verdict = "reproduced" if same else "not reproduced"
    return Agreement(theirs, mean, len(ours), sure, theirs.half_digit, theirs.half_digit, math.nan, verdict, exact=True)
