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
is simulated in docs/statistics.md. A protocol that leaves nothing to chance is reproduced by every printed digit of the
mean and of its spread, or not at all. Papers seldom say whether a standard deviation divides by n or by n − 1: either
will do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Literal, get_args

import numpy as np

from bdlbench.stats.behrens_fisher import Array
from bdlbench.stats.crossed import Difference, seed_part
from bdlbench.stats.holm import holm
from bdlbench.stats.power import detectable

ALPHA = 0.05
"""How often a table of equal truths may hold a "not reproduced"."""

MARGIN_POWER = 0.95
"""The power with which a difference of the margin is refused."""

Spread = Literal["standard error", "standard deviation", "none"]
SPREADS: tuple[Spread, ...] = get_args(Spread)

Reproduced = Literal["reproduced", "not reproduced", "inconclusive"]


@dataclass(frozen=True)
class Published:
    """A mean as it was printed.

    Attributes:
        value: The mean, in the metric's unit.
        half_digit: Half a unit of its last printed digit.
        count: The splits or runs that the mean is over; 1 beside a standard deviation where their number is not stated.
        spread: The number behind the ±, in the metric's unit; NaN for none.
        spread_half: Half a unit of the last digit of the spread: one printed as 0.00 may be as large.
        kind: Which spread it is: the standard error of the mean, the standard deviation of one split or run, or none.
    """

    value: float
    half_digit: float
    count: int
    spread: float = math.nan
    spread_half: float = 0.0
    kind: Spread = "none"

    @property
    def variance(self) -> float:
        """The variance of the mean; NaN where no spread was published, or of how many runs is not stated."""
        if self.kind == "none" or self.count < 2:
            return math.nan
        error = max(self.spread, self.spread_half)
        return error**2 if self.kind == "standard error" else error**2 / self.count


def published(value: str, count: int, spread: str = "", kind: Spread = "none") -> Published:
    """Read numbers as they are printed, for their last digits.

    Args:
        value: The mean, such as "2.97".
        count: The splits or runs that it is over.
        spread: What stands behind the ±, such as "0.19"; "" for nothing.
        kind: Which spread that is.

    Returns:
        The mean with its rounding.

    Raises:
        ValueError: A text is no finite number, a spread is negative, or there is a spread without its kind or a kind
            without its spread.
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
    """Parse a number, and half a unit of its last digit."""
    try:
        number = Decimal(text)
    except InvalidOperation:
        raise ValueError(f"{text} is no number") from None
    exponent = number.as_tuple().exponent
    if not isinstance(exponent, int) or not math.isfinite(float(number)):  # 1e400 is more than a float holds
        raise ValueError(f"{text} is no finite number")
    return float(number), 0.5 * float(f"1e{exponent}")


@dataclass(frozen=True)
class Limits:
    """The range of a margin, in the metric's unit.

    Attributes:
        immaterial: A difference that does not matter to anyone.
        coarse: A margin above which "reproduced" would say nothing.
    """

    immaterial: float
    coarse: float


@dataclass(frozen=True)
class PublishedRow:
    """One row of a paper's table, and what its protocol gave here.

    Attributes:
        published: The printed mean.
        ours: Our values by split or run, (n,).
        limits: The range of the margin.
        by_split: Published values of the same splits, (n,), where there are any.
        exact: Whether nothing is left to chance, the splits included.
    """

    published: Published
    ours: Array
    limits: Limits
    by_split: Array | None = None
    exact: bool = False

    @property
    def half_digit(self) -> float:
        """Half a unit of the last printed digit; 0 where values by split make the printed mean superfluous."""
        return self.published.half_digit if self.by_split is None else 0.0

    @property
    def difference(self) -> Difference:
        """Ours − theirs with the variance of both; its parts are NaN where neither side says how much a run varies.

        Each side's splits are drawn anew from one data set, so each mean has the variance of its splits, and the
        overlap of training sets inflates neither. Papers that share their splits are closer to each other than this
        says: an error on the safe side for "not reproduced", which only the published values of single splits remove.
        Values of the same splits are paired: training and test rows are then the same on both sides, and what is left
        in a gap is the noise of our training and of theirs, which is independent from split to split, however much
        the splits overlap.
        Where no spread was published, theirs is one more run like ours: the interval is a prediction interval. So it is
        where a standard deviation was published and not of how many runs: a run then varies as ours or as theirs,
        whichever varies more. Where we have one run, ours is one more like theirs.
        """
        n, theirs, nothing = len(self.ours), self.published, np.array(0.0)
        if self.by_split is not None:
            gaps = self.ours - self.by_split
            return Difference(gaps.mean(), (seed_part(_sample_variance(gaps) / n, max(n - 1.0, 1.0)),), nothing)
        estimate = np.array(np.mean(self.ours) - theirs.value)
        if self.exact:
            return Difference(estimate, (seed_part(nothing, 1.0),), nothing)
        other = np.array(theirs.variance)
        if np.isnan(other):
            own = _sample_variance(self.ours)
            printed = max(theirs.spread, theirs.spread_half) if theirs.kind == "standard deviation" else 0.0
            one_more = np.maximum(own, printed**2) / theirs.count  # NaN where ours is one run
            return Difference(estimate, (seed_part(own / n + one_more, max(n - 1.0, 1.0)),), nothing)
        if n == 1:
            alone = other * (theirs.count + 1)  # of one run, and of their mean
            return Difference(estimate, (seed_part(alone, theirs.count - 1.0),), nothing)
        own = _sample_variance(self.ours) / n
        return Difference(estimate, (seed_part(own, n - 1.0),), other, theirs.count - 1.0)


@dataclass(frozen=True)
class Agreement:
    """The verdict on a row. A number that cannot be known is NaN.

    Attributes:
        row: The row.
        difference: Ours − theirs.
        half_width: Half the width of the 95 % interval of the difference, for this row alone, with rounding.
        margin: The margin that the module's docstring describes.
        corrected_p: p of δ = 0, Holm-corrected over the rows.
        verdict: One of the three.
    """

    row: PublishedRow
    difference: Difference
    half_width: float
    margin: float
    corrected_p: float
    verdict: Reproduced

    @property
    def standard_errors(self) -> float:
        """The difference in combined standard errors."""
        error = float(self.difference.standard_error)
        return abs(float(self.difference.estimate)) / error if error > 0 else math.nan


def judge(rows: Sequence[PublishedRow]) -> list[Agreement]:
    """Judge all rows of one paper's table together.

    Args:
        rows: The rows.

    Returns:
        An agreement for each row, in order.
    """
    found = [row.difference for row in rows]
    halves = [row.half_digit for row in rows]
    level = ALPHA / max(sum(bool(d.standard_error > 0) for d in found), 1)
    margins = [
        max(detectable(d, level, MARGIN_POWER) + 2 * half, row.limits.immaterial)  # NaN first: it stays
        for row, d, half in zip(rows, found, halves, strict=True)
    ]
    apart = _corrected(Difference.p_value, found, halves)
    close, immaterial = (
        _corrected(
            Difference.equivalence_p_value, found, [max(b - half, 0.0) for b, half in zip(bounds, halves, strict=True)]
        )
        <= ALPHA
        for bounds in (margins, [row.limits.immaterial for row in rows])
    )
    return [
        _judged(row, d, margins[i], float(apart[i]), bool(close[i]), bool(immaterial[i]))
        for i, (row, d) in enumerate(zip(rows, found, strict=True))
    ]


def _corrected(
    test: Callable[[Difference, float], Array], found: Sequence[Difference], bounds: Iterable[float]
) -> Array:
    """Return the Holm-corrected p of every row; a row that cannot be tested stays NaN and does not count."""
    pairs = zip(found, bounds, strict=True)
    return holm([float(test(d, bound)) if d.standard_error > 0 else math.nan for d, bound in pairs])


def _judged(row: PublishedRow, found: Difference, margin: float, p: float, close: bool, immaterial: bool) -> Agreement:
    half = row.half_digit
    verdict: Reproduced = "inconclusive"
    if row.exact:
        same = abs(float(found.estimate)) <= half * (1 + 1e-9) and _has_printed_spread(row)
        return Agreement(row, found, half, half, math.nan, "reproduced" if same else "not reproduced")
    if immaterial or (close and p > ALPHA and margin <= row.limits.coarse):
        verdict = "reproduced"
    elif p <= ALPHA:
        verdict = "not reproduced"
    return Agreement(row, found, float(found.half_width(ALPHA)) + half, margin, p, verdict)


def _has_printed_spread(row: PublishedRow) -> bool:
    theirs, n = row.published, len(row.ours)
    if theirs.kind == "none":
        return True
    roots = math.sqrt(n) if theirs.kind == "standard error" else 1.0
    spreads = [float(np.std(row.ours, ddof=ddof)) / roots for ddof in (0, 1) if n > ddof]
    return min(abs(spread - theirs.spread) for spread in spreads) <= theirs.spread_half * (1 + 1e-9)


def _sample_variance(values: Array) -> Array:
    return np.asarray(np.var(values, ddof=1)) if len(values) > 1 else np.array(math.nan)
