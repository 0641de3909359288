"""What a comparison could have shown, and what it would take to settle it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import special

from bdlbench.stats.behrens_fisher import Array, critical_at, crowded_nodes
from bdlbench.stats.crossed import Difference

POWER = 0.8
"""The chance of a verdict that a plan aims at."""
MOST_SEEDS = 1000
"""A larger number of seeds is not reported."""

POWER_NODES = {1: 24, 2: 10}
"""Nodes of the quadrature over each of two χ², by the number of seed parts."""


def detectable(found: Difference, level: float, power: float = POWER) -> float:
    """Return the smallest true difference that a repetition of this comparison finds with probability `power`.

    The seed parts are known from a few replicates only, here and in the repetition. The probability is taken over both,
    so it is what a reader who plans by this number will meet. With many replicates it is the textbook's (t_{1−level/2}
    + t_{power}) standard errors.

    Args:
        found: The comparison.
        level: Two-sided level, corrected for the number of tests.
        power: The probability of finding the difference.

    Returns:
        In the metric's unit; NaN where the standard error is unknown or nothing varies.
    """
    error = float(found.standard_error)
    if not error > 0:
        return math.nan
    half_width, sd, weight = _repeated(found, float(found.example), level)

    def chance(true: float) -> float:
        shown = special.ndtr((true - half_width) / sd) + special.ndtr((-true - half_width) / sd)
        return float((weight * shown).sum())

    low, high = 0.0, error
    while chance(high) < power:
        low, high = high, 2 * high
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if chance(middle) >= power else (middle, high)
    return high


def seeds_to_settle(found: Difference, replicates: int, margin: float, level: float, power: float = POWER) -> float:
    """Return how many replicates on each side a fresh comparison needs to reach a verdict with probability `power`.

    It is planned for a true difference of 0 that is to be called equivalent; a true difference of twice the margin is
    called worse or better at least as often. A difference between the two takes more, and at the margin itself no
    number of seeds settles anything. The observed difference is not used: planning by it would be betting on noise.

    Args:
        found: The comparison.
        replicates: Its number of replicates on each side.
        margin: In the metric's unit.
        level: Level of the verdict, corrected for the number of tests.
        power: The probability of a verdict.

    Returns:
        A whole number as a float. ∞ where there is no margin, or where the test examples leave the question open even
        with
        MOST_SEEDS; NaN where nothing is known of the seeds.
    """
    if math.isnan(float(found.seed)):
        return math.nan
    if not margin > 0 or _chance_of_equivalence(found, replicates, MOST_SEEDS, margin, level) < power:
        return math.inf
    low, high = 1, MOST_SEEDS
    while high - low > 1:
        middle = (low + high) // 2
        enough = _chance_of_equivalence(found, replicates, middle, margin, level) >= power
        low, high = (low, middle) if enough else (middle, high)
    return float(high)


def _chance_of_equivalence(found: Difference, now: int, then: int, margin: float, level: float) -> float:
    """Return the chance that a comparison with `then` replicates a side says equivalent, if the difference is 0."""
    half_width, sd, weight = _repeated(found, float(found.example_at(margin)), level, now, then)
    room = np.maximum(margin - half_width, 0.0) / np.where(sd > 0, sd, 1.0)
    return float((weight * np.where(sd > 0, special.ndtr(room) - special.ndtr(-room), half_width < margin)).sum())


def _repeated(
    found: Difference, example: float, level: float, now: int = 1, then: int = 1
) -> tuple[Array, Array, Array]:
    """Return half the interval, the standard deviation and the weights of a repetition.

    The repetition has then/now times the replicates; `example` is its example part where it judges. All are arrays over
    nodes of what the seed parts may truly be, given what was seen of them, and of what the repetition will see.
    """
    dfs = [float(part.df) for part in found.seeds]
    first = [float(part.seen) * now / then for part in found.seeds]
    least = [float(part.least) * now / then for part in found.seeds]
    later = [df * max(then - 1, 1) / max(now - 1, 1) for df in dfs]
    nodes, weight = _repetitions(dfs, later)
    true = [np.maximum(part / known, low) for part, low, (known, _) in zip(first, least, nodes, strict=True)]
    seen = [np.maximum(part * again, low) for part, low, (_, again) in zip(true, least, nodes, strict=True)]
    total = sum(seen, np.array(example))
    with np.errstate(invalid="ignore"):
        shares = [np.where(total > 0, part / total, 0.0) for part in seen]
    half_width = critical_at(shares, tuple(map(_rounded, [*later, float(found.example_df)])), level) * np.sqrt(total)
    return half_width, np.sqrt(sum(true, np.array(float(found.example)))), weight


def _rounded(df: float) -> float:
    """Round to two decimals, or beyond 100 to two digits, so that tables of critical values are shared."""
    return round(df, 2) if df < 100 else float(f"{df:.2g}")


def _repetitions(now: Sequence[float], later: Sequence[float]) -> tuple[list[tuple[Array, Array]], Array]:
    """Return nodes of χ²(df)/df for each seed part, as seen and as it will be, and joint weights; (Q,) each."""
    u, weight = crowded_nodes(POWER_NODES[len(now)])
    axes = [2 * special.gammaincinv(df / 2, u) / df for pair in zip(now, later, strict=True) for df in pair]
    grid = [axis.ravel() for axis in np.meshgrid(*axes, indexing="ij")]
    weights = np.prod([axis.ravel() for axis in np.meshgrid(*[weight] * len(axes), indexing="ij")], axis=0)
    return list(zip(grid[::2], grid[1::2], strict=True)), weights
