"""Rank tests: methods compared with each other over several data sets."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from scipy import optimize, special, stats

from bdlbench.stats.behrens_fisher import Array

TIE = 1e-9
"""How close to the estimate the end of an interval is searched for."""


def mean_ranks(values: Array) -> Array:
    """Return the mean over blocks of the rank of each method; equal values share their mean rank.

    Args:
        values: (blocks, k), lower is better.

    Returns:
        Mean ranks from 1 to k, (k,).
    """
    ranks: Array = stats.rankdata(values, axis=1).mean(0)
    return ranks


def friedman(values: Array) -> float:
    """Return the p of H0: all k ≥ 3 methods are alike, by the χ² of their rank sums. Friedman 1937.

    Args:
        values: (blocks, k), lower is better.

    Returns:
        p; NaN for k < 3.
    """
    if values.shape[1] < 3:
        return float("nan")
    if not np.ptp(stats.rankdata(values, axis=1), axis=1).any():
        return 1.0  # every block is one tie
    return float(stats.friedmanchisquare(*values.T).pvalue)


def wilcoxon(a: Array, b: Array) -> float:
    """Return the two-sided p of the signed-rank test over blocks, exact for up to 50 without ties. Wilcoxon 1945.

    With n blocks it cannot be below 2/2ⁿ: 1/16 for five.

    Args:
        a: Values of the first method, (n,).
        b: Values of the second, (n,).

    Returns:
        p.
    """
    gaps = a - b
    if not gaps.any():
        return 1.0
    gaps = gaps[gaps != 0]
    tied = len(np.unique(np.abs(gaps))) < len(gaps)
    if tied and len(gaps) <= 12:
        return _exact_signed_rank(gaps)
    return float(stats.wilcoxon(gaps).pvalue)


def cliques(order: Sequence[int], apart: set[frozenset[int]]) -> list[tuple[int, ...]]:
    """Return the longest runs of at least two methods, in the order of ranks, in which no two methods are told apart.

    Args:
        order: Methods by rank.
        apart: Pairs of methods that are told apart.

    Returns:
        The runs, each in the order of ranks.
    """
    runs: list[tuple[int, ...]] = []
    for start in range(len(order)):
        end = start + 1
        while end < len(order) and all(frozenset((order[end], i)) not in apart for i in order[start:end]):
            end += 1
        run = tuple(order[start:end])
        if len(run) > 1 and not any(set(run) <= set(known) for known in runs):
            runs.append(run)
    return runs


def pairs(count: int) -> list[tuple[int, int]]:
    """List all pairs of indices below `count`.

    Args:
        count: How many there are.

    Returns:
        (i, j) with i < j.
    """
    return list(combinations(range(count), 2))


def probability_of_improvement(
    a: Sequence[Array], b: Sequence[Array], level: float = 0.05
) -> tuple[float, float, float]:
    """Return the mean over K data sets of P(a run of a is better, thus lower, than a run of b), and its interval.

    Ties count ½. Agarwal et al. 2021 (arXiv:2108.13264), §4.3. The interval speaks of new seeds on these data sets: all
    θ with (θ̂ − θ)² ≤ z² Σ_k Var_k(θ)/K², where Var_k is the variance of a Mann–Whitney estimate at its own θ (Newcombe
    2006, method 5). A bootstrap over few seeds would have width 0 where all runs of one side win, and would cover only
    41 % of the time at a true .95 with two data sets and three seeds (docs/statistics.md).

    Args:
        a: Values of the runs of a, (R,) for each data set; lower is better.
        b: Values of the runs of b, (R,) for each data set.
        level: Two-sided level of the interval.

    Returns:
        (estimate, low, high).
    """
    alike: dict[tuple[int, int], list[int]] = {}  # data sets by their numbers of runs, to be counted at once
    for k, (x, y) in enumerate(zip(a, b, strict=True)):
        alike.setdefault((len(x), len(y)), []).append(k)
    means = np.empty(len(a))
    for places in alike.values():
        x, y = np.stack([a[k] for k in places])[:, :, None], np.stack([b[k] for k in places])[:, None, :]
        means[places] = ((x < y) + 0.5 * (x == y)).mean((1, 2))
    mean = float(means.mean())
    z = float(special.ndtri(1 - level / 2))

    def beyond(theta: float) -> float:
        variances = (len(places) * _mann_whitney_variance(theta, *runs) for runs, places in alike.items())
        variance = sum(variances) / len(a) ** 2
        return float((mean - theta) ** 2 - z**2 * variance)

    low = optimize.brentq(beyond, 0, mean - TIE) if mean > TIE else 0.0
    high = optimize.brentq(beyond, mean + TIE, 1) if mean < 1 - TIE else 1.0
    return mean, float(low), float(high)


def _mann_whitney_variance(theta: float, m: int, n: int) -> float:
    """Return the variance of the share of m·n pairs.

    Its shape is that of exponential runs (Hanley & McNeil 1982; Newcombe 2006).
    """
    middle = (m + n) / 2 - 1
    return theta * (1 - theta) * (1 + middle * ((1 - theta) / (2 - theta) + theta / (1 + theta))) / (m * n)


def _exact_signed_rank(gaps: Array) -> float:
    """Enumerate all 2ⁿ signs, with midranks: SciPy's tables do not handle ties."""
    ranks = stats.rankdata(np.abs(gaps))
    signs = (np.arange(2 ** len(gaps))[:, None] >> np.arange(len(gaps)) & 1) * 2 - 1
    sums = np.abs(signs @ ranks)
    return float((sums >= abs(np.sign(gaps) @ ranks) - 1e-9).mean())
