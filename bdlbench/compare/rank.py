"""Rank the methods of one results folder. Blocks are data sets, never seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from bdlbench.compare.differences import LEVEL, Better
from bdlbench.core.errors import BadInput, unknown
from bdlbench.core.options import spell
from bdlbench.core.spec import Choice
from bdlbench.records.cells import Result, columns_named
from bdlbench.records.record import Unread
from bdlbench.stats.behrens_fisher import Array
from bdlbench.stats.holm import holm
from bdlbench.stats.rank_tests import cliques, friedman, mean_ranks, pairs, probability_of_improvement, wilcoxon

if TYPE_CHECKING:
    from pandas import DataFrame

ENOUGH_BLOCKS = 6
"""The smallest number of data sets with which a signed-rank test of one pair can reach 5 %."""


@dataclass(frozen=True)
class Duel:
    """The comparison of two methods over data sets.

    Attributes:
        first: The name of the first method.
        second: The name of the second method.
        p_value: The p-value of the signed-rank test over data sets.
        corrected_p: The same, corrected over all pairs.
        improvement: The probability that a run of the first method beats a run of the second.
        interval: The 95 % interval of that probability.
    """

    first: str
    second: str
    p_value: float
    corrected_p: float
    improvement: float
    interval: tuple[float, float]


@dataclass(frozen=True, repr=False)
class Ranking:
    """Methods, the best mean rank first.

    Attributes:
        metric: The column.
        unit: The metric's unit.
        better: The direction in which the metric improves.
        methods: The names of the methods.
        blocks: The data sets.
        means: Means over seeds, (blocks, methods).
        mean_ranks: The mean rank of each method.
        friedman_p: The p-value of Friedman's test over all methods.
        duels: All pairs of methods.
        groups: Groups of methods that are not told apart, by their places.
        notes: Lines on what was left out, and on the limits of the tests.
        unread: Records that are left out, because they cannot be read.
    """

    metric: str
    unit: str
    better: Better
    methods: tuple[str, ...]
    blocks: tuple[str, ...]
    means: Array
    mean_ranks: tuple[float, ...]
    friedman_p: float
    duels: tuple[Duel, ...]
    groups: tuple[tuple[int, ...], ...]
    notes: tuple[str, ...] = ()
    unread: tuple[Unread, ...] = ()

    def frame(self) -> DataFrame:
        """Return one row for each method, the best mean rank first, with its mean in each block."""
        from pandas import DataFrame

        means = {block: self.means[i] for i, block in enumerate(self.blocks)}
        return DataFrame({"method": self.methods, "mean_rank": self.mean_ranks, **means})

    def __repr__(self) -> str:
        """Return the mean ranks, the groups that are not told apart, and every duel."""
        lines = [f"{self.metric} ({self.unit}, {self.better} is better) over {', '.join(self.blocks)}"]
        ranked = zip(self.methods, self.mean_ranks, strict=True)
        lines += [f"{name}: mean rank {place:.4g}" for name, place in ranked]
        lines.append(f"Friedman's test: p {self.friedman_p:.4g}")
        lines += [
            f"{d.first} against {d.second}: p {d.corrected_p:.4g}, better in {d.improvement:.4g}" for d in self.duels
        ]
        alike = [", ".join(self.methods[i] for i in group) for group in self.groups if len(group) > 1]
        return "\n".join([*lines, *(f"not told apart: {names}" for names in alike), *self.notes])

    @property
    def has_diagram(self) -> bool:
        """Whether there are enough data sets for a critical-difference diagram."""
        return len(self.blocks) >= ENOUGH_BLOCKS


def rank(results: Sequence[Result], metric: str, methods: Sequence[str] = ()) -> Ranking:
    """Run Friedman's test, then Wilcoxon's signed-rank test on every pair, Holm-corrected (Benavoli et al. 2016).

    Nemenyi's mean-rank test is not used: its verdict on a pair depends on the other methods in the table.

    Args:
        results: The cells of a folder.
        metric: The column, or a metric with a single column.
        methods: The methods to rank, on the data sets that have all of them. By default all methods that are on every
            data set with at least two methods.

    Returns:
        The ranking.

    Raises:
        BadInput: The metric is unknown or has several columns, or fewer than two methods or two data sets are left.
    """
    (column,) = _one_column(results, metric)
    scored = [result for result in results if column in result.scores and result.scores[column].values]
    table, notes = _contenders(scored)
    for name in methods:
        if not any(name in row for row in table.values()):
            raise unknown("method", name, {method for row in table.values() for method in row})
    names, blocks, dropped = _complete(table, methods)
    if len(names) < 2 or len(blocks) < 2:
        raise BadInput(f"{column}: {len(names)} methods share {len(blocks)} data sets: rank needs at least two of each")
    score = scored[0].scores[column]
    sign = 1 if score.better == "lower" else -1
    values = {(b, n): np.array([*table[b][n].scores[column].values.values()]) for b in blocks for n in names}
    broken = [f"{n} on {b}" for (b, n), runs in values.items() if not np.isfinite(runs).all()]
    if broken:
        raise BadInput(f"{column} of {broken[0]} is not finite, so it cannot be ranked")
    means = np.array([[values[b, n].mean() for n in names] for b in blocks])
    order = np.argsort(mean_ranks(sign * means), kind="stable")
    ordered = [names[i] for i in order]
    duels = _duels(ordered, sign * means[:, order], [[sign * values[b, n] for b in blocks] for n in ordered])
    apart = {frozenset((ordered.index(d.first), ordered.index(d.second))) for d in duels if d.corrected_p <= LEVEL}
    return Ranking(
        column,
        score.unit,
        score.better,
        tuple(ordered),
        tuple(blocks),
        means[:, order],
        tuple(mean_ranks(sign * means[:, order]).tolist()),
        friedman(sign * means),
        tuple(duels),
        tuple(cliques(range(len(ordered)), apart)),
        (*notes, *dropped, *_caveats(len(blocks), len(names))),
    )


def _one_column(results: Sequence[Result], metric: str) -> list[str]:
    columns = columns_named(results, [metric])
    if len(columns) > 1:
        raise BadInput(f"--metric {metric} has several columns: name one of {', '.join(columns)}")
    return columns


def _contenders(results: Sequence[Result]) -> tuple[dict[str, dict[str, Result]], list[str]]:
    """Return {data set: {method: result}}, and notes.

    Only the model that most methods share is used. The names of methods with several cells include their options.
    """
    notes: list[str] = []
    table: dict[str, dict[str, Result]] = {}
    by_block: dict[str, list[Result]] = {}
    datasets, methods = _spellings(results, "dataset"), _spellings(results, "method")
    for result in results:
        by_block.setdefault(datasets[result.cell.dataset], []).append(result)
    for block, members in by_block.items():
        models = [repr(member.cell.model) for member in members]
        chosen = max(dict.fromkeys(models), key=models.count)
        kept = [member for member, model in zip(members, models, strict=True) if model == chosen]
        if len(kept) < len(members):
            model = kept[0].cell.model.name
            notes.append(f"{block}: only methods on {model} are ranked, the model that most of them share")
        table[block] = {methods[member.cell.method]: member for member in kept}
    return table, notes


def _spellings(results: Sequence[Result], kind: Literal["method", "dataset"]) -> dict[Choice, str]:
    """Return the name of each entry, with the options that differ between its cells on one data set."""
    first: dict[tuple[str, str], Mapping[str, object]] = {}
    differing: dict[str, set[str]] = {}
    for result in results:
        choice: Choice = getattr(result.cell, kind)
        options = choice.flat
        alike = (choice.name, repr(result.cell.protocol()) if kind == "method" else "")
        other = first.setdefault(alike, options)
        keys = differing.setdefault(choice.name, set())
        keys |= {key for key in options if options[key] != other.get(key)}
    found = {}
    for choice in dict.fromkeys(getattr(result.cell, kind) for result in results):
        options = choice.flat
        words = ", ".join(f"{key} {spell(options[key])}" for key in sorted(differing[choice.name]) if key in options)
        found[choice] = f"{choice.name} ({words})" if words else choice.name
    return found


def _complete(table: dict[str, dict[str, Result]], methods: Sequence[str]) -> tuple[list[str], list[str], list[str]]:
    """Return the methods and data sets without gaps, and lines on those that were left out."""
    rows = {block: row for block, row in table.items() if (set(methods) <= set(row) if methods else len(row) > 1)}
    absent = {m: [b for b, row in rows.items() if m not in row] for row in rows.values() for m in row}
    names = list(dict.fromkeys(methods)) or [m for m, on in absent.items() if not on]
    lines = [f"{m} is left out: not on {', '.join(on)}" for m, on in absent.items() if on and not methods]
    lines += [f"{block} is left out: it has too few of the methods" for block in table if block not in rows]
    return names, list(rows), lines


def _duels(names: Sequence[str], means: Array, runs: Sequence[Sequence[Array]]) -> list[Duel]:
    """Compare all pairs of methods; means (blocks, k) and runs [method][block] (R,), lower is better."""
    places = pairs(len(names))
    p_values = [wilcoxon(means[:, i], means[:, j]) for i, j in places]
    found = []
    for (i, j), p, corrected in zip(places, p_values, holm(p_values), strict=True):
        improvement, low, high = probability_of_improvement(runs[i], runs[j])
        found.append(Duel(names[i], names[j], p, float(corrected), improvement, (low, high)))
    return found


def _caveats(blocks: int, methods: int) -> list[str]:
    tests = methods * (methods - 1) // 2
    smallest = min(1.0, 2 / 2**blocks)
    if blocks < ENOUGH_BLOCKS:
        reason = f"a signed-rank test over {blocks} cannot reach p = {LEVEL} (its smallest p is {smallest:.3g})"
        return [f"no critical-difference diagram below {ENOUGH_BLOCKS} data sets: {reason}"]
    if smallest * tests > LEVEL:
        needed = math.ceil(math.log2(2 * tests / LEVEL))
        return [f"with {tests} pairs to correct for, no pair can be told apart on {blocks} data sets; {needed} could"]
    return []
