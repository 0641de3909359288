"""Does a hypothesis hold? Statements about means, each shown, refuted or left open, and a verdict on all of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special
from scipy.stats import binomtest

from bdlbench.stats.holm import holm

ERROR_RATE = 0.05
"""The probability that a true hypothesis is said not to hold, and at most that a false one is said to hold."""

ClaimVerdict = Literal["holds", "does not hold", "inconclusive"]


class AnyEstimate(Protocol):
    """What was measured of a true mean, and what that says of it."""

    @property
    def value(self) -> float:
        """The estimate."""
        ...

    @property
    def known(self) -> bool:
        """Whether anything says how far the true mean may be from it. If not, nothing is shown or refuted."""
        ...

    def p_above(self, bound: float) -> float:
        """Return the p-value of the true mean being at or below a bound: small where it is shown to be above.

        Args:
            bound: A finite number.

        Returns:
            The p-value; NaN where nothing is known.
        """
        ...

    def p_below(self, bound: float) -> float:
        """Return the p-value of the true mean being at or above a bound: small where it is shown to be below.

        Args:
            bound: A finite number.

        Returns:
            The p-value; NaN where nothing is known.
        """
        ...

    def interval(self, level: float) -> tuple[float, float]:
        """Return the two-sided confidence interval of the true mean.

        Args:
            level: One minus its confidence.

        Returns:
            Its ends; NaN where nothing is known.
        """
        ...


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

    @property
    def known(self) -> bool:
        """Whether there is a variance above 0: equal numbers show nothing."""
        return self.variance > 0

    def p_above(self, bound: float) -> float:
        """Return P(T ≥ (value − bound) / standard error) of Student's T.

        Args:
            bound: A finite number.

        Returns:
            The p-value; NaN without a variance above 0.
        """
        return self._tail(self.value - bound)

    def p_below(self, bound: float) -> float:
        """Return P(T ≥ (bound − value) / standard error) of Student's T.

        Args:
            bound: A finite number.

        Returns:
            The p-value; NaN without a variance above 0.
        """
        return self._tail(bound - self.value)

    def interval(self, level: float) -> tuple[float, float]:
        """Return value ± t · standard error.

        Args:
            level: One minus its confidence.

        Returns:
            Its ends; NaN where nothing is known of the variance.
        """
        width = -float(special.stdtrit(self.df, level / 2)) if self.df > 0 else math.nan
        half = width * self.standard_error
        return self.value - half, self.value + half

    def _tail(self, gap: float) -> float:
        return float(special.stdtr(self.df, -gap / self.standard_error)) if self.known else math.nan


@dataclass(frozen=True)
class ShareEstimate:
    """A share of independent trials, whose count is binomial: its tests and its interval are exact.

    Attributes:
        count: Trials in which it happened.
        trials: All of them, at least one.
        known: True: a share of none or of all says how rare the opposite is.
    """

    count: int
    trials: int
    known: bool = True

    @property
    def value(self) -> float:
        """The share."""
        return self.count / self.trials

    def p_above(self, bound: float) -> float:
        """Return P(X ≥ count) where the true share is the bound.

        Args:
            bound: From 0 to 1.

        Returns:
            The p-value.
        """
        return float(binomtest(self.count, self.trials, bound, alternative="greater").pvalue)

    def p_below(self, bound: float) -> float:
        """Return P(X ≤ count) where the true share is the bound.

        Args:
            bound: From 0 to 1.

        Returns:
            The p-value.
        """
        return float(binomtest(self.count, self.trials, bound, alternative="less").pvalue)

    def interval(self, level: float) -> tuple[float, float]:
        """Return the interval of Clopper & Pearson 1934.

        Args:
            level: One minus its confidence.

        Returns:
            Its ends.
        """
        found = binomtest(self.count, self.trials).proportion_ci(1 - level, "exact")
        return float(found.low), float(found.high)


def over_trials(happened: ArrayLike) -> ShareEstimate:
    """Estimate how often something happens, from replicates that share nothing.

    Args:
        happened: Whether it happened in each replicate, (R,) bool, R ≥ 1.

    Returns:
        The share.
    """
    given = np.asarray(happened, dtype=bool)
    return ShareEstimate(int(given.sum()), len(given))


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
    estimate: AnyEstimate
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
        above = self.estimate.p_above(self.low) if math.isfinite(self.low) else 0.0
        below = self.estimate.p_below(self.high) if math.isfinite(self.high) else 0.0
        return float(np.max([above, below]))

    @property
    def p_inside(self) -> float:
        """The p-value of the true mean being between the bounds: small where the statement is refuted."""
        bounds = math.isfinite(self.low) + math.isfinite(self.high)
        below = self.estimate.p_below(self.low) if math.isfinite(self.low) else 1.0
        above = self.estimate.p_above(self.high) if math.isfinite(self.high) else 1.0
        return float(np.minimum(1.0, bounds * np.min([below, above])))

    def interval(self, level: float = ERROR_RATE) -> tuple[float, float]:
        """Return the two-sided confidence interval of the true mean.

        Args:
            level: One minus its confidence.

        Returns:
            Its ends; NaN where nothing is known of the variance.
        """
        return self.estimate.interval(level)


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
