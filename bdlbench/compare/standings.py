"""Compare the rows of one table column by column: the leaders, the pairs told apart, and the intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bdlbench.compare.differences import Apart, half_width, leaders, told_apart
from bdlbench.compare.measured import Contributions, aligned, contributions, layout_of, predictions_of
from bdlbench.records.cells import Result


@dataclass(frozen=True)
class Standing:
    """One column of a table, with rows by their keys.

    Attributes:
        leaders: The rows that no other row is shown to be better than; empty where all means are the same.
        apart: All pairs of rows that are told apart.
        half_widths: Half the 95 % interval of each mean, for new seeds and, where predictions were kept, new test
            examples; {} unless intervals were requested.
    """

    leaders: frozenset[str] = frozenset()
    apart: tuple[Apart, ...] = ()
    half_widths: Mapping[str, float] = field(default_factory=dict)


def standings(results: Sequence[Result], columns: Sequence[str], intervals: bool = False) -> dict[str, Standing]:
    """Compare all pairs of rows of one data set in each column, by the same test as `compare`.

    Stored predictions are read only where test examples matter: for intervals, and for columns in which rows differ, if
    rows have several replicates that share their test examples.

    Args:
        results: The rows, all of one data set.
        columns: The names of the columns.
        intervals: Whether to compute intervals.

    Returns:
        {column: standing}.
    """
    layout = layout_of(results)
    means = {column: [r.scores[column].mean for r in results if column in r.scores] for column in columns}
    differ = {column for column, found in means.items() if len(set(found)) > 1}
    repeated = sum(len(result.replicates) > 1 for result in results)
    explained = differ if repeated > 1 else set()
    if intervals and repeated:
        explained = set(columns)
    known: dict[str, dict[str, Contributions]] = {column: {} for column in columns}
    for result in results:
        asked = [column for column in columns if column in result.scores]
        wanted = [column for column in asked if column in explained and layout.nested is None]
        told = contributions(result, wanted, predictions_of(result) if wanted else (), of_samples=False)
        for column in asked:
            known[column][result.key] = told.get(column) or Contributions(result.scores[column].values)
    better = {name: score.better for result in results for name, score in result.scores.items()}
    found = {}
    for column, rows in known.items():
        widths = {key: half_width(aligned(one)[0], layout) for key, one in rows.items()} if intervals else {}
        measured = dict(zip(rows, aligned(*rows.values()), strict=True)) if column in differ else {}
        apart = told_apart(measured, better[column], layout) if measured else ()
        found[column] = Standing(leaders(measured, apart), apart, widths)
    return found
