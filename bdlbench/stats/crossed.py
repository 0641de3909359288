"""The difference of two methods, and its variance, where every replicate predicts the same test examples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
from scipy import special

from bdlbench.stats.behrens_fisher import Array, critical, p_value

SPREAD_ROUNDING = 1e-12
"""A standard error below this fraction of the difference comes from rounding alone."""

FAR_TAIL = 1e-8
"""Below this p the quadrature over the shares of the parts has no correct digit left."""

LEAST_OF_COUNTS = 0.25
"""The least variance of a whole number, however alike a few of them are: that of two neighbours in equal shares."""

WILSON_STEPS = 12
"""Steps of the fixed point of an interval whose variance depends on its own end."""


@dataclass(frozen=True)
class Side:
    """One metric of one method. Leading axes hold other tables, which are analysed alike.

    Attributes:
        values: The metric by replicate, (…, R).
        examples: For each population of test examples an array (…, R, N) of what each example contributes: its mean
            over N is the value. For a metric that is no such mean, jackknife pseudo-values. () where nothing is known
            of them.
    """

    values: Array
    examples: tuple[Array, ...] = ()


class SeedPart(NamedTuple):
    """What training again adds to the variance of a difference, by replicates that enter it alike.

    Attributes:
        variance: The larger of `seen` and `least`, in the metric's unit squared.
        df: Its degrees of freedom.
        seen: What the replicates showed.
        least: What no sample of them can undercut.
    """

    variance: Array
    df: float | Array
    seen: Array
    least: Array


@dataclass(frozen=True)
class Difference:
    """The difference B − A, and the two parts of its variance with their degrees of freedom. Arrays (…).

    Attributes:
        estimate: B − A, in the metric's unit.
        seeds: The variance that training again would bring (with the Monte-Carlo noise of the predictive, and a seed's
            own pattern of errors): one part or, where not all replicates are pairs, two, the one of fewer degrees of
            freedom first. NaN where it cannot be known.
        example: The variance that other test examples would bring. NaN where it cannot be known.
        example_df: Its degrees of freedom.
        binary: N where each of N examples contributes 0 or 1 on both sides, else 0.
        skewness: Size of the skewness of the mean over examples, |Σ g³|/(Σ g²)^(3/2) of its N centred terms g: 1/√k
            where k of many examples differ alike; NaN where none does.
    """

    estimate: Array
    seeds: tuple[SeedPart, ...]
    example: Array
    example_df: float | Array = 1.0
    binary: int = 0
    skewness: Array = field(default_factory=lambda: np.array(np.nan))

    @property
    def seed(self) -> Array:
        """The variance that training again would bring, of all parts."""
        return sum((part.variance for part in self.seeds[1:]), self.seeds[0].variance)

    @property
    def standard_error(self) -> Array:
        """√(seed + example), in the metric's unit."""
        error: Array = np.sqrt(self.seed + self.example)
        return error

    @property
    def without_spread(self) -> Array:
        """Whether all differences agree up to rounding: such a sample says nothing about how they would vary."""
        alike: Array = self.standard_error <= SPREAD_ROUNDING * np.abs(self.estimate)
        return alike

    def p_value(self, margin: float = 0.0) -> Array:
        """Return the two-sided p of H0: the true difference is at most `margin` from 0.

        Args:
            margin: In the metric's unit; 0 tests for any difference.

        Returns:
            p (…); NaN where there is a difference but no variance to hold it against.
        """
        return self._p_of(np.maximum(np.abs(self.estimate) - margin, 0.0), margin)

    def least_p_value(self) -> Array:
        """Return a number that `p_value()` is never below, at a hundredth of its cost.

        The mixture of t distributions has heavier tails than the normal (Jensen: its p is convex in the χ²s). If all
        parts but one are 0, it is the t of this part. Half of that is returned, and 0 below 1e-8, because the
        quadrature of `p_value()` errs on the low side in far tails: by 40 % there, by more beyond.

        Returns:
            Bounds (…); NaN where p is.
        """
        parts, dfs = self._parts()
        total = sum(parts[1:], parts[0])
        spread = np.sqrt(total) > SPREAD_ROUNDING * np.abs(self.estimate)
        with np.errstate(divide="ignore", invalid="ignore"):
            size = -np.abs(self.estimate) / np.sqrt(total)
            bound = 2 * special.ndtr(size)
            for part, df in zip(parts, dfs, strict=True):
                bound = np.where(part == total, 2 * special.stdtr(df, size), bound)
        untested = np.where(self.estimate != 0, np.nan, 1.0)
        bound = np.where(bound < FAR_TAIL, 0.0, bound / 2)
        found: Array = np.where(spread, bound, np.where(np.isnan(total), np.nan, untested))
        return found

    def equivalence_p_value(self, margin: float) -> Array:
        """Return the p of H0: the true difference is at least `margin` from 0.

        It is twice the larger p of two one-sided tests (Schuirmann 1987), so that p ≤ 5 % where the whole 95 % interval
        lies within the margin.

        Args:
            margin: In the metric's unit.

        Returns:
            p (…); 1 where the estimate is not within the margin, NaN where there is no variance to hold it against.
        """
        return self._p_of(np.maximum(margin - np.abs(self.estimate), 0.0), margin)

    def half_width(self, level: float = 0.05) -> Array:
        """Return half the width of the interval with confidence 1 − level, of a single table (axes ()).

        Where contributions are 0 or 1, the interval is wide enough to hold every difference that a test at `level`
        would not refuse. Without any discordant example that is c²/(N + c²), Wilson's bound (1927).

        Args:
            level: Two-sided level.

        Returns:
            In the metric's unit, (); NaN where nothing varies.
        """
        if np.isnan(self.standard_error) or (bool(self.without_spread) and not self.binary):
            return np.array(np.nan)
        width = np.array(0.0)
        for _ in range(WILSON_STEPS if self.binary else 1):
            ends = [float(np.clip(abs(self.estimate) + side * width, 0, 1)) for side in (-1, 1)]
            parts, dfs = self._parts(max(ends, key=lambda end: end * (1 - end)))
            total = sum(parts[1:], parts[0])
            if not total > 0:  # nothing is discordant: start from the rule of three
                width = np.array(3 / self.binary)
                continue
            width = critical([part / total for part in parts], [float(df) for df in dfs], level) * np.sqrt(total)
        return width

    def example_at(self, difference: float) -> Array:
        """Return the example part that holds if the true difference is `difference`.

        With contributions 0 or 1, a true difference δ needs at least |δ| discordant examples. Their variance is at
        least |δ|(1 − |δ|)/N, whether or not the sample holds any: the variance of a score test (Tango 1998).

        Args:
            difference: In the metric's unit.

        Returns:
            Variances (…).
        """
        size = min(abs(difference), 1.0)
        return np.maximum(self.example, size * (1 - size) / self.binary) if self.binary else self.example

    def _p_of(self, distance: Array, null: float) -> Array:
        """Return the two-sided p of a distance from a null difference."""
        parts, dfs = self._parts(null)
        with np.errstate(divide="ignore", invalid="ignore"):
            p = p_value(distance, parts, dfs)
        spread = np.sqrt(sum(parts[1:], parts[0])) > SPREAD_ROUNDING * np.abs(self.estimate)
        untested = np.where(distance > 0, np.nan, 1.0)
        return np.where(spread | np.isnan(self.standard_error), p, untested)

    def _parts(self, null: float = 0.0) -> tuple[list[Array], list[float | Array]]:
        """Return the variances and their degrees of freedom at a null difference, as `p_value` takes them."""
        parts = [*((part.variance, part.df) for part in self.seeds), (self.example_at(null), self.example_df)]
        return [part for part, _ in parts], [df for _, df in parts]


@dataclass(frozen=True)
class _Stratum:
    """`count` replicates that enter the difference in the same way; the rows, at least two, show how they vary."""

    values: Array  # (…, K), already divided by R
    examples: tuple[Array, ...]  # (…, K, N) each
    count: int
    least: float = 0.0  # the least variance of a value

    @cached_property
    def residuals(self) -> list[Array]:
        """MS_residual/N for each population: how a row's own pattern over those examples varies its mean."""
        return [_residual(rows) for rows in self.examples]

    @property
    def seen(self) -> Array:
        """The variance of one row times the number of replicates, as the rows show it."""
        variance: Array = self.values.var(-1, ddof=1) * self.count
        return variance

    @property
    def floor(self) -> Array:
        """The least variance that a row's own pattern over examples, or the grid of its values, allows."""
        variance: Array = (sum(self.residuals, np.zeros(self.values.shape[:-1])) + self.least) * self.count
        return variance


def crossed(a: Side, b: Side, shared: Sequence[tuple[int, int]]) -> Difference:
    """Compare the means of two sides, with seeds and test examples crossed.

    Where all replicates are pairs, with d_rs = b_rs − a_rs = μ + a_r + b_s + ε_rs, this is the two-way random-effects
    analysis of variance, Var(μ̂) = (MS_seed + MS_example − MS_residual)/(R·N) (Searle, Casella & McCulloch 1992, §4.3).
    The seed part is MS_seed/(R·N); the example part is the rest, taken as 0 where it is negative. Since E MS_seed ≥ E
    MS_residual, the seed part is MS_residual/(R·N) where MS_seed comes out smaller: otherwise a few seeds with equally
    many errors would have a variance of 0. For the same reason whole numbers without examples (counts) have a variance
    of at least ¼, that of two neighbouring numbers in equal shares. Replicates without a partner, or with the only
    partner, enter unpaired, by the variance of their own side; test examples stay paired.

    Args:
        a: The first side.
        b: The second side.
        shared: The replicates (i of a, j of b) that are pairs.

    Returns:
        b − a. Where a side has one replicate, the seed part is NaN and the example part speaks of these networks only.
    """
    estimate = b.values.mean(-1) - a.values.mean(-1)
    strata = list(_strata(a, b, shared))
    known = all(stratum.values.shape[-1] > 1 for stratum in strata)
    unknown = np.full_like(estimate, np.nan)
    seeds = _seed_parts(strata) if known else [SeedPart(unknown, 1.0, unknown, unknown)]
    parts, sizes, skewness = [], [], []
    for k, (left, right) in enumerate(zip(a.examples, b.examples, strict=True)):
        terms = right.mean(-2) - left.mean(-2)  # (…, N)
        count = terms.shape[-1]
        raw = terms.var(-1, ddof=1) / count if count > 1 else np.full_like(estimate, np.nan)  # one has no spread
        residual = sum(stratum.residuals[k] * stratum.count for stratum in strata) if known else 0.0
        parts.append(np.maximum(raw - residual, 0.0))
        sizes.append(terms.shape[-1] - 1)
        skewness.append(_skewness(terms))
    example, example_df = pooled(parts, sizes) if parts else (np.zeros_like(estimate), 1.0)
    return Difference(
        estimate,
        tuple(seeds),
        example,
        example_df,
        _binary(a, b),
        np.max(skewness, axis=0) if skewness else np.full_like(estimate, np.nan),
    )


def resampled(a: Array, b: Array, test_over_train: float) -> Difference:
    """Compare two methods over J splits of one data set, whose training sets overlap.

    Var = (1/J + N_test/N_train)·s² with J − 1 degrees of freedom: the corrected resampled t-test of Nadeau & Bengio
    2003, §3. All of it is seed part, because the test examples change with the split too.

    Args:
        a: Values of the first method by split, (…, J).
        b: Values of the second, (…, J).
        test_over_train: N_test / N_train.

    Returns:
        The mean of b − a, with a variance that is NaN for J < 2.
    """
    gaps = b - a
    splits = gaps.shape[-1]
    estimate = gaps.mean(-1) if splits else np.full(gaps.shape[:-1], np.nan)
    variance = (1 / splits + test_over_train) * gaps.var(-1, ddof=1) if splits > 1 else np.full_like(estimate, np.nan)
    return Difference(estimate, (seed_part(variance, max(splits - 1, 1)),), np.zeros_like(estimate))


def seed_part(variance: Array, df: float | Array) -> SeedPart:
    """Make a seed part of which only the variance is known that the replicates showed.

    Args:
        variance: The variance (…), in the metric's squared unit.
        df: Its degrees of freedom.

    Returns:
        The part, without a least variance.
    """
    return SeedPart(variance, df, variance, np.zeros_like(variance))


def _strata(a: Side, b: Side, shared: Sequence[tuple[int, int]]) -> Iterator[_Stratum]:
    count_a, count_b = a.values.shape[-1], b.values.shape[-1]
    values = np.concatenate([a.values, b.values], -1)
    whole = not a.examples and not (values % 1).any() and bool((np.abs(values) > 1).any())  # no shares
    if len(shared) == 1 and max(count_a, count_b) > 1:
        shared = ()
    if shared:
        left, right = (np.array(index) for index in zip(*shared, strict=True))
        both = zip(a.examples, b.examples, strict=True)
        gaps = tuple(y.take(right, -2) / count_b - x.take(left, -2) / count_a for x, y in both)
        values = b.values[..., right] / count_b - a.values[..., left] / count_a
        yield _Stratum(values, gaps, len(shared), whole * LEAST_OF_COUNTS / max(count_a, count_b) ** 2)
    for side, count in ((a, count_a), (b, count_b)):
        if alone := count - len(shared):
            examples = tuple(x / count for x in side.examples)
            yield _Stratum(side.values / count, examples, alone, whole * LEAST_OF_COUNTS / count**2)


def _seed_parts(strata: Sequence[_Stratum]) -> list[SeedPart]:
    """Return one part for each stratum, the fewest degrees of freedom first; of three, pool the last two.

    Two are never pooled: Welch's t (1938) takes estimated degrees of freedom as known, and raises false alarms where
    few seeds meet unequal variances or unequal numbers (docs/statistics.md).
    """
    parts = [
        SeedPart(np.maximum(seen, floor), stratum.values.shape[-1] - 1, seen, floor)
        for stratum in strata
        for seen, floor in [(stratum.seen, stratum.floor)]
    ]
    parts.sort(key=lambda part: float(part.df))
    if len(parts) < 3:
        return parts
    first, *rest = parts
    variance, df = pooled([part.variance for part in rest], [part.df for part in rest])
    return [first, SeedPart(variance, df, rest[0].seen + rest[1].seen, rest[0].least + rest[1].least)]


def _binary(a: Side, b: Side) -> int:
    """Return N where there is one population and every contribution is 0 or 1, else 0."""
    if len(a.examples) != 1 or any(((x != 0) & (x != 1)).any() for x in (*a.examples, *b.examples)):
        return 0
    return int(a.examples[0].shape[-1])


def _skewness(terms: Array) -> Array:
    """Return the size of the skewness of the mean of terms (…, N)."""
    gaps = terms - terms.mean(-1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        skewness: Array = np.abs((gaps**3).sum(-1)) / np.square(gaps).sum(-1) ** 1.5
    return skewness


def pooled(parts: Sequence[Array], df: Sequence[float | Array]) -> tuple[Array, float | Array]:
    """Return the sum of independent variances, and its degrees of freedom: Satterthwaite 1946.

    Args:
        parts: Variances (…) each.
        df: The degrees of freedom of each.

    Returns:
        (sum, degrees of freedom).
    """
    total = sum(parts[1:], parts[0])
    if len(parts) == 1:
        return total, df[0]
    spread = sum(part**2 / n for part, n in zip(parts, df, strict=True))
    with np.errstate(invalid="ignore"):
        return total, np.where(total > 0, total**2 / np.where(total > 0, spread, 1.0), df[0])


def _residual(rows: Array) -> Array:
    """Return MS_residual/N of (…, K, N): what a row's own pattern over examples adds to the variance of its mean.

    NaN for N = 1.
    """
    size, count = rows.shape[-1], rows.shape[-2]
    if size < 2:
        return np.full(rows.shape[:-2], np.nan)
    gaps = rows - rows.mean(-1, keepdims=True)
    gaps -= gaps.mean(-2, keepdims=True)
    squares: Array = np.einsum("...kn,...kn->...", gaps, gaps)
    variance: Array = squares / ((count - 1) * (size - 1) * size)
    return variance
