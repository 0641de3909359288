"""What a comparison could have shown, and what it would take to settle it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from scipy import special

from bdlbench.stats.behrens_fisher import Array, critical_curve, crowded_nodes
from bdlbench.stats.crossed import Difference

POWER = 0.8
MOST_SEEDS = 1000
"""More is not worth saying."""

NODES = 24


def detectable(found: Difference, level: float, power: float = POWER) -> float:
    """The smallest true difference that a repetition of this comparison calls different with this chance.

    level: two-sided, corrected for the number of tests. The seed part is known from a few replicates only, here and in
    the repetition; the chance is taken over both, so it is what a reader who plans by this number will meet. With many
    replicates it is the textbook's (t_{1−level/2} + t_{power}) standard errors. NaN where the error is, 0 without any.
    """
    error = float(found.standard_error)
    if not error > 0 or math.isnan(error):
        return error
    known, again, weight = _repetitions(float(found.seed_df))
    seed = float(found.seed) / known  # the true seed part, given what was seen
    new = seed * again  # and what a repetition sees
    total = new + float(found.example)
    shares, curve = critical_curve(round(float(found.seed_df), 2), round(float(found.example_df), 2), level)
    half_width = np.interp(new / total, shares, curve) * np.sqrt(total)
    sd = np.sqrt(seed + float(found.example))

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


def seeds_to_settle(found: Difference, replicates: int, margin: float, level: float) -> float:
    """How many replicates a side would settle the verdict, were the difference and the parts' sizes as they are now.

    Settled: the interval at `level` lies wholly beyond the margin, or the 95 % interval wholly within it. ∞ where the
    test examples, or a difference of just the margin, leave it open with MOST_SEEDS too.
    """
    if math.isnan(float(found.seed)) or not _settled(_with_seeds(found, replicates, MOST_SEEDS), margin, level):
        return math.inf
    low, high = 1, MOST_SEEDS
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _settled(_with_seeds(found, replicates, middle), margin, level) else (middle, high)
    return float(high)


def _with_seeds(found: Difference, now: int, then: int) -> Difference:
    df = float(found.seed_df) * max(then - 1, 1) / max(now - 1, 1)
    return replace(found, seed=found.seed * now / then, seed_df=df, strata=())


def _settled(found: Difference, margin: float, level: float) -> bool:
    size = abs(float(found.estimate))
    return size - float(found.half_width(level)) > margin or size + float(found.half_width()) < margin


def _repetitions(df: float) -> tuple[Array, Array, Array]:
    """(Q, 1) and (1, Q) nodes of χ²(df)/df, and their joint weights: of what was seen, and of what will be."""
    u, weight = crowded_nodes(NODES)
    scaled = 2 * special.gammaincinv(df / 2, u) / df
    return scaled[:, None], scaled[None, :], weight[:, None] * weight[None, :]
