"""Tests and intervals for an estimate whose variance is a sum of parts, each estimated on its own."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

Array = NDArray[Any]

VARIANCE_NODES = {2: 64, 3: 32}
"""Nodes of each quadrature over the shares of the parts, by the number of parts."""

HALVINGS = 24
"""Steps of the bisection for a critical value."""


def p_value(estimate: Any, parts: Sequence[Any], dfs: Sequence[Any]) -> Array:
    """Return the two-sided p of H0: mean 0, for an estimate whose variance is the sum of two or three parts.

    Each part_i ~ σ_i² χ²(df_i)/df_i. The p is that of √(Σ part_i/W_i)·Z with W_i = χ²(df_i)/df_i (Behrens 1929; Fisher
    1935; as a generalised p-value: Tsui & Weerahandi 1989). Given the shares of the χ²s in their sum, which are
    Dirichlet(df/2), this is Student's t with Σ df_i degrees of freedom, so one quadrature over the shares is enough.
    With a single part it is exactly Student's t.

    Satterthwaite's t, whose degrees of freedom are themselves estimated, rejects too often in the tails that a
    correction for many tests looks at (figures in docs/statistics.md). This test does not.

    Args:
        estimate: The estimates (…).
        parts: The parts of their variance, (…) each, those of few degrees of freedom first. All arguments broadcast.
        dfs: The degrees of freedom of each part.

    Returns:
        p (…); NaN where a part is NaN.
    """
    columns = [np.asarray(df, dtype=float)[..., None] for df in dfs]
    return _average(estimate, parts, columns, _shares(columns))


def critical(parts: Sequence[Any], dfs: Sequence[float], level: float) -> Array:
    """Return c with p_value(c, parts, dfs) = level: half the width of an interval, in standard errors.

    By bisection on log c, which lies between the value of the normal distribution and that of Student's t with the
    fewest degrees of freedom.

    Args:
        parts: Shares of the parts in the variance, (…) each; they add up to 1.
        dfs: The degrees of freedom of each part.
        level: Two-sided level, such as 0.05.

    Returns:
        Critical values (…), in standard errors.
    """
    columns = [np.array([df]) for df in dfs]
    nodes = _shares(columns)
    low = np.full(np.broadcast_shapes(*(np.shape(part) for part in parts)), np.log(-special.ndtri(level / 2)) - 0.02)
    high = np.full_like(low, np.log(-special.stdtrit(min(dfs), level / 2)) + 0.02)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        above = _average(np.exp(middle), parts, columns, nodes) > level
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    return np.exp((low + high) / 2)


def critical_at(shares: Sequence[Array], dfs: tuple[float, ...], level: float) -> Array:
    """Look `critical` up in a table of its values, for two or three parts of which the last has the remaining share.

    Linear between nodes that crowd where a part vanishes; off by less than 1 %.

    Args:
        shares: Shares of the first one or two parts, (Q,) each.
        dfs: The degrees of freedom of all parts.
        level: Two-sided level, such as 0.05.

    Returns:
        Critical values (Q,), in standard errors.
    """
    if len(shares) == 1:
        return np.interp(shares[0], *_curve(dfs, level))
    from scipy.interpolate import RegularGridInterpolator  # a third of a second, in every process that reads records

    rest = 1 - shares[0]
    second = np.divide(shares[1], rest, out=np.zeros_like(rest), where=rest > 0)
    nodes, table = _surface(dfs, level)
    found: Array = RegularGridInterpolator((nodes, nodes), table)(np.stack([shares[0], np.clip(second, 0, 1)], -1))
    return found


@lru_cache(maxsize=256)
def _curve(dfs: tuple[float, ...], level: float, points: int = 41) -> tuple[Array, Array]:
    """Tabulate shares of the first of two parts, and critical values."""
    shares = _nodes(points)
    return shares, critical([shares, 1 - shares], dfs, level)


@lru_cache(maxsize=16)
def _surface(dfs: tuple[float, ...], level: float, points: int = 13) -> tuple[Array, Array]:
    """Tabulate shares of the first of three parts, and of the second in the rest; critical values (first, second)."""
    nodes = _nodes(points)
    first, second = np.meshgrid(nodes, nodes, indexing="ij")
    parts = [first, (1 - first) * second, (1 - first) * (1 - second)]
    return nodes, critical(parts, dfs, level)


def _nodes(points: int) -> Array:
    """Return points from 0 to 1, crowded at both ends."""
    nodes: Array = np.sin(np.linspace(0, np.pi / 2, points)) ** 2
    return nodes


@cache
def crowded_nodes(count: int) -> tuple[Array, Array]:
    """Return a Gauss–Legendre quadrature over (0, 1) in the cube root: its nodes crowd at 0, where tails lie.

    Args:
        count: The number of nodes.

    Returns:
        (nodes, weights), (count,) each.
    """
    x, weight = np.polynomial.legendre.leggauss(count)
    root = (x + 1) / 2
    return root**3, weight / 2 * 3 * root**2


def _average(estimate: Any, parts: Sequence[Any], dfs: Sequence[Array], nodes: tuple[list[Array], Array]) -> Array:
    """Average Student's p over the nodes of the shares; df (…, 1), all else (…)."""
    shares, weights = nodes
    estimate, *parts = (np.asarray(x, dtype=float)[..., None] for x in (estimate, *parts))
    total = sum(dfs[1:], dfs[0])
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = [part * df / share for part, df, share in zip(parts, dfs, shares, strict=True)]
        scaled = np.abs(estimate) * np.sqrt(total / sum(terms[1:], terms[0]))
    p = (2 * special.stdtr(total, -np.where(estimate == 0, 0.0, scaled)) * weights).sum(-1)
    known = ~np.isnan(estimate + sum(parts[1:], parts[0]))[..., 0]
    return np.where(known, np.minimum(p, 1.0), np.nan)


def _shares(dfs: Sequence[Array]) -> tuple[list[Array], Array]:
    """Return nodes (…, Q) of the share of each part, and their weights.

    Shares are drawn by stick breaking: the first part from the whole, the next from the rest.
    """
    u, weight = crowded_nodes(VARIANCE_NODES[len(dfs)])
    first, rest = _broken(dfs[0], sum(dfs[2:], dfs[1]), u)
    if len(dfs) == 2:
        return [first, rest], weight
    second, third = (x[..., None, :] * rest[..., :, None] for x in _broken(dfs[1], dfs[2], u))
    shares = [np.broadcast_to(first[..., :, None], second.shape), second, third]
    return [share.reshape(*share.shape[:-2], -1) for share in shares], np.outer(weight, weight).ravel()


def _broken(df: Array, others: Array, u: Array) -> tuple[Array, Array]:
    """Return quantiles of B ~ Beta(df/2, others/2), and of 1 − B without cancellation."""
    return special.betaincinv(df / 2, others / 2, u), special.betaincinv(others / 2, df / 2, 1 - u)
