"""Tests and intervals where the variance of an estimate is a sum of parts, each estimated on its own."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special
from scipy.interpolate import RegularGridInterpolator

Array = NDArray[Any]

VARIANCE_NODES = {2: 64, 3: 32}
"""Of each quadrature over how the parts share their uncertainty, by the number of parts."""

HALVINGS = 24


def p_value(estimate: Any, parts: Sequence[Any], dfs: Sequence[Any]) -> Array:
    """Two-sided p of H0: mean 0, for an estimate whose variance is the sum of two or three parts.

    Each part_i ~ σ_i² χ²(df_i)/df_i; all broadcast; parts of few degrees of freedom first. The p is that of
    √(Σ part_i/W_i)·Z, W_i = χ²(df_i)/df_i (Behrens 1929; Fisher 1935; as a generalised p-value: Tsui & Weerahandi
    1989). Given the shares of the χ²s in their sum, which are Dirichlet(df/2), this is Student's t with Σ df_i degrees
    of freedom, so a quadrature over the shares is all. With one part only it is Student's t, exactly. NaN where a part
    is.

    Satterthwaite's t, with degrees of freedom that are themselves estimated, rejects too often in the tails that a
    correction for many tests looks at: docs/statistics.md has the figures. This does not.
    """
    columns = [np.asarray(df, dtype=float)[..., None] for df in dfs]
    return _average(estimate, parts, columns, _shares(columns))


def critical(parts: Sequence[Any], dfs: Sequence[float], level: float) -> Array:
    """c with p_value(c, parts, dfs) = level, for parts that add up to 1: half an interval's width in standard errors.

    By bisection on log c, which lies between that of the normal and that of Student's t of the fewest degrees of
    freedom.
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
    """`critical` of one or two parts with these shares (Q,), and a last one with the rest, from a table of its values.

    Linear between nodes that crowd where a part vanishes; off by less than 1 %.
    """
    if len(shares) == 1:
        return np.interp(shares[0], *_curve(dfs, level))
    rest = 1 - shares[0]
    second = np.divide(shares[1], rest, out=np.zeros_like(rest), where=rest > 0)
    nodes, table = _surface(dfs, level)
    found: Array = RegularGridInterpolator((nodes, nodes), table)(np.stack([shares[0], np.clip(second, 0, 1)], -1))
    return found


@lru_cache(maxsize=256)
def _curve(dfs: tuple[float, ...], level: float, points: int = 41) -> tuple[Array, Array]:
    """Shares of the first of two parts, and critical values."""
    shares = _nodes(points)
    return shares, critical([shares, 1 - shares], dfs, level)


@lru_cache(maxsize=16)
def _surface(dfs: tuple[float, ...], level: float, points: int = 13) -> tuple[Array, Array]:
    """Shares of the first of three parts, and of the second in what is left; critical values (first, second)."""
    nodes = _nodes(points)
    first, second = np.meshgrid(nodes, nodes, indexing="ij")
    parts = [first, (1 - first) * second, (1 - first) * (1 - second)]
    return nodes, critical(parts, dfs, level)


def _nodes(points: int) -> Array:
    """From 0 to 1, crowded at both ends."""
    nodes: Array = np.sin(np.linspace(0, np.pi / 2, points)) ** 2
    return nodes


@cache
def crowded_nodes(count: int) -> tuple[Array, Array]:
    """Nodes and weights of a quadrature over (0, 1), Gauss–Legendre in the cube root: crowded at 0, where tails lie."""
    x, weight = np.polynomial.legendre.leggauss(count)
    root = (x + 1) / 2
    return root**3, weight / 2 * 3 * root**2


def _average(estimate: Any, parts: Sequence[Any], dfs: Sequence[Array], nodes: tuple[list[Array], Array]) -> Array:
    """Student's p over the nodes of the shares; df (…, 1), the rest (…)."""
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
    """Nodes (…, Q) of the share of each part, and their weights: sticks broken in turn, the first from the whole."""
    u, weight = crowded_nodes(VARIANCE_NODES[len(dfs)])
    first, rest = _broken(dfs[0], sum(dfs[2:], dfs[1]), u)
    if len(dfs) == 2:
        return [first, rest], weight
    second, third = (x[..., None, :] * rest[..., :, None] for x in _broken(dfs[1], dfs[2], u))
    shares = [np.broadcast_to(first[..., :, None], second.shape), second, third]
    return [share.reshape(*share.shape[:-2], -1) for share in shares], np.outer(weight, weight).ravel()


def _broken(df: Array, others: Array, u: Array) -> tuple[Array, Array]:
    """Quantiles of B ~ Beta(df/2, others/2), and 1 − B without cancellation."""
    return special.betaincinv(df / 2, others / 2, u), special.betaincinv(others / 2, df / 2, 1 - u)
