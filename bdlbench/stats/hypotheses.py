"""Does a hypothesis hold? Statements about means, each shown, refuted or left open, and a verdict on all of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from bdlbench.stats.holm import holm

ERROR_RATE = 0.05
"""The probability that a true hypothesis is said not to hold, and at most that a false one is said to hold."""

ClaimVerdict = Literal["holds", "does not hold", "inconclusive"]


@dataclass(frozen=True)
class MeanEstimate:
    """A mean over independent replicates with the variance of that mean.

    Attributes:
        value: The mean.
        variance: Of the mean; NaN where a single replicate tells nothing of it.
        df: Its degrees of freedom.
    """

    value: float
    variance: float
    df: int

    @property
    def standard_error(self) -> float:
        """The standard error of the mean."""
        return math.sqrt(self.variance)


def over_replicates(values: ArrayLike) -> MeanEstimate:
    """Estimate a mean from replicates that share nothing: data drawn anew, or seeds on one data set.

    Args:
        values: One number for each replicate, (R,).

    Returns:
        The mean, with variance s²/R and R − 1 degrees of freedom.
    """
    return over_splits(values, 0.0)


def over_splits(values: ArrayLike, test_over_train: float) -> MeanEstimate:
    """Estimate a mean from splits of one data set, whose training sets overlap.

    Var = (1/R + N_test/N_train)·s² with R − 1 degrees of freedom: Nadeau & Bengio 2003, §3.

    Args:
        values: One number for each split, (R,).
        test_over_train: N_test / N_train.

    Returns:
        The mean with that variance.
    """
    given: NDArray[Any] = np.asarray(values, dtype=float)
    if not len(given):
        return MeanEstimate(math.nan, math.nan, 0)
    spread = float(given.var(ddof=1)) if len(given) > 1 else math.nan
    return MeanEstimate(float(given.mean()), (1 / len(given) + test_over_train) * spread, len(given) - 1)


@dataclass(frozen=True)
class Statement:
    """A part of a hypothesis: that the true mean lies between two bounds.

    Attributes:
        words: What is between the bounds, such as "slope of log spread against log N".
        estimate: What was measured of it.
        low: The lower bound, −inf for none.
        high: The upper bound, inf for none.
        unit: The unit of all three.

    Raises:
        ValueError: The lower bound is not below the upper one, or there is no bound, so that nothing is stated.
    """

    words: str
    estimate: MeanEstimate
    low: float = -math.inf
    high: float = math.inf
    unit: str = ""

    def __post_init__(self) -> None:
        """Refuse bounds that state nothing, or that no number is between."""
        if not self.low < self.high or (math.isinf(self.low) and math.isinf(self.high)):
            raise ValueError(
                f"bounds {self.low:g} and {self.high:g} of {self.words!r}: a lower one, an upper one, or both"
            )

    @property
    def p_outside(self) -> float:
        """The p-value of the true mean being outside the bounds or on one: small where the statement is shown."""
        return float(np.max([self._tail(self.estimate.value - self.low), self._tail(self.high - self.estimate.value)]))

    @property
    def p_inside(self) -> float:
        """The p-value of the true mean being between the bounds: small where the statement is refuted."""
        bounds = math.isfinite(self.low) + math.isfinite(self.high)
        p = np.min([self._tail(self.low - self.estimate.value), self._tail(self.estimate.value - self.high)])
        return float(np.minimum(1.0, bounds * p))

    def interval(self, level: float = ERROR_RATE) -> tuple[float, float]:
        """Return the two-sided confidence interval of the true mean.

        Args:
            level: One minus its confidence.

        Returns:
            Its ends; NaN where nothing is known of the variance.
        """
        width = -float(special.stdtrit(self.estimate.df, level / 2)) if self.estimate.df > 0 else math.nan
        half = width * self.estimate.standard_error
        return self.estimate.value - half, self.estimate.value + half

    def _tail(self, gap: float) -> float:
        """Return P(T ≥ gap / standard error) of Student's T. NaN without a variance above 0, which shows nothing."""
        if gap == math.inf:
            return 0.0
        if gap == -math.inf:
            return 1.0
        if not self.estimate.variance > 0:
            return math.nan
        return float(special.stdtr(self.estimate.df, -gap / self.estimate.standard_error))


@dataclass(frozen=True)
class Judged:
    """A verdict, with the statement that decided it.

    Attributes:
        verdict: holds, does not hold, or inconclusive.
        deciding: The index of the statement that refutes the hypothesis, or is farthest from being shown.
        refuted: The Holm-corrected p-value by which each statement is refuted.
    """

    verdict: ClaimVerdict
    deciding: int
    refuted: tuple[float, ...]


def judge(statements: Sequence[Statement]) -> Judged:
    """Decide whether all statements of a hypothesis are true.

    It holds where every statement is shown at ERROR_RATE: a hypothesis that is false in any part passes with at most
    that probability, and needs no correction (intersection–union test, Berger 1982). It does not hold where any
    statement is refuted at ERROR_RATE after Holm's correction, so that a true hypothesis is refused with at most that
    probability, however many parts it has. Otherwise it is inconclusive, as it is where a statement has no variance.

    Args:
        statements: The parts, at least one.

    Returns:
        The verdict.

    Raises:
        ValueError: There are none.
    """
    if not statements:
        raise ValueError("a hypothesis has at least one statement")
    shown = np.array([statement.p_outside for statement in statements])
    refuted = holm([statement.p_inside for statement in statements])
    told = tuple(refuted.tolist())
    if np.nanmin(np.append(refuted, 1.0)) <= ERROR_RATE:
        return Judged("does not hold", int(np.nanargmin(refuted)), told)
    worst = int(np.argmax(np.where(np.isnan(shown), np.inf, shown)))
    return Judged("holds" if shown[worst] <= ERROR_RATE else "inconclusive", worst, told)
