"""Tests and intervals where the variance of an estimate is a sum of two parts, each estimated on its own."""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

Array = NDArray[Any]

NODES = 64
"""Of the quadrature over how the two parts share their uncertainty."""

HALVINGS = 50


def p_value(estimate: Any, part_1: Any, df_1: Any, part_2: Any, df_2: Any) -> Array:
    """Two-sided p of H0: mean 0, for an estimate with variance part_1 + part_2; each part_i ~ σ_i² χ²(df_i)/df_i.

    All broadcast. The p is that of √(part_1/W_1 + part_2/W_2)·Z, W_i = χ²(df_i)/df_i (Behrens 1929; Fisher 1935; as a
    generalised p-value: Tsui & Weerahandi 1989). Given the share B ~ Beta(df_1/2, df_2/2) of the first in the χ²s this
    is Student's t with df_1 + df_2, so one quadrature over B is all. With one part only it is Student's t, exactly.
    NaN where a part is.

    Satterthwaite's t, with degrees of freedom that are themselves estimated, rejects too often in the tails that a
    correction for many tests looks at: docs/statistics.md has the figures. This does not.
    """
    df_1, df_2 = (np.asarray(df, dtype=float)[..., None] for df in (df_1, df_2))
    return _average(estimate, part_1, df_1, part_2, df_2, _shares(df_1, df_2))


def _average(estimate: Any, part_1: Any, df_1: Array, part_2: Any, df_2: Array, shares: tuple[Array, ...]) -> Array:
    """Student's p over the nodes of the share; df (…, 1), the rest (…)."""
    estimate, part_1, part_2 = (np.asarray(x, dtype=float)[..., None] for x in (estimate, part_1, part_2))
    small, large, weights = shares
    total = df_1 + df_2
    with np.errstate(divide="ignore", invalid="ignore"):
        scaled = np.abs(estimate) * np.sqrt(total / (part_1 * df_1 / small + part_2 * df_2 / large))
    scaled = np.where(estimate == 0, 0.0, scaled)
    p = (2 * special.stdtr(total, -scaled) * weights).sum(-1)
    return np.where(np.isnan(estimate + part_1 + part_2)[..., 0], np.nan, np.minimum(p, 1.0))


def critical(share: Any, df_1: float, df_2: float, level: float) -> Array:
    """c with p_value(c, share, df_1, 1 − share, df_2) = level: half an interval's width in standard errors.

    share: the part that the first has in the variance. By bisection on log c.
    """
    share = np.asarray(share, dtype=float)
    df = [np.array([df]) for df in (df_1, df_2)]
    nodes = _shares(*df)
    low, high = np.full(share.shape, -3.0), np.full(share.shape, 40.0)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        above = _average(np.exp(middle), share, df[0], 1 - share, df[1], nodes) > level
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    return np.exp((low + high) / 2)


@lru_cache(maxsize=256)
def critical_curve(df_1: float, df_2: float, level: float, points: int = 41) -> tuple[Array, Array]:
    """(shares, critical values) to interpolate between: nodes crowd at both ends, where the curve is steep."""
    shares = np.sin(np.linspace(0, np.pi / 2, points)) ** 2
    return shares, critical(shares, df_1, df_2, level)


@cache
def crowded_nodes(count: int) -> tuple[Array, Array]:
    """Nodes and weights of a quadrature over (0, 1), Gauss–Legendre in the cube root: crowded at 0, where tails lie."""
    x, weight = np.polynomial.legendre.leggauss(count)
    root = (x + 1) / 2
    return root**3, weight / 2 * 3 * root**2


def _shares(df_1: Array, df_2: Array) -> tuple[Array, Array, Array]:
    """Nodes of B and of 1 − B, and their weights."""
    u, weight = crowded_nodes(NODES)
    small = special.betaincinv(df_1 / 2, df_2 / 2, u)
    large = special.betaincinv(df_2 / 2, df_1 / 2, 1 - u)  # 1 − B, without cancellation
    return small, large, weight
