"""A paper's rows against the records of its suite."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from bdlbench import catalog
from bdlbench.core.errors import BadInput
from bdlbench.core.options import spell
from bdlbench.core.spec import Choice
from bdlbench.records.cells import Result
from bdlbench.report.tables import later_defaults
from bdlbench.reproduce.papers import Paper, PaperRow
from bdlbench.stats.reproduction import Agreement, PublishedRow, Reproduced, judge

PaperVerdict = Reproduced | Literal["not comparable", "not run"]
PAPER_VERDICTS: tuple[PaperVerdict, ...] = (
    "reproduced",
    "not reproduced",
    "inconclusive",
    "not comparable",
    "not run",
)


@dataclass(frozen=True)
class Line:
    """A published number, ours beside it where there is one, and the verdict with its reason; the row's note says more.

    ours: our mean in the paper's unit, NaN where there is none; standard_error: of it; count: our splits or runs;
    seconds: training and prediction of the cell.
    """

    row: PaperRow
    verdict: PaperVerdict
    reason: str
    ours: float = math.nan
    standard_error: float = math.nan
    count: int = 0
    agreement: Agreement | None = None
    seconds: float = math.nan


def of(paper: Paper, results: Sequence[Result]) -> list[Line]:
    """Judge every row of a paper.

    Args:
        paper: with its rows.
        results: what there is of its suite, complete or not.

    Returns:
        A line for each row, in the paper's order. The rows that have numbers on both sides are judged together.

    Raises:
        BadInput: where more than one cell fits a row.
    """
    found = [_cell(paper, row, results) for row in paper.rows]
    values = [_values(row, cell) for row, cell in zip(paper.rows, found, strict=True)]
    both = [i for i, ours in enumerate(values) if len(ours)]
    told = []
    for i in both:
        row, theirs = paper.rows[i], _same_splits(paper.rows[i], found[i])
        told.append(PublishedRow(row.number, values[i], row.limits, theirs, paper.exact))
    judged = dict(zip(both, judge(told), strict=True))
    return [_line(paper, row, found[i], values[i], judged.get(i)) for i, row in enumerate(paper.rows)]


def _cell(paper: Paper, row: PaperRow, results: Sequence[Result]) -> Result | None:
    """Return the cell that a row names."""
    fitting = [] if row.cause else [result for result in results if _fits(row, result)]
    if len(fitting) > 1:
        titles = ", ".join(result.title for result in fitting)
        raise BadInput(
            f"{paper.name}: {row.method} on {row.dataset} fits {len(fitting)} cells ({titles}): "
            "its settings must tell them apart"
        )
    return fitting[0] if fitting else None


def _fits(row: PaperRow, result: Result) -> bool:
    cell = result.cell
    if (cell.method.name, cell.dataset.name) != (row.treatment, row.dataset) or row.model not in ("", cell.model.name):
        return False
    entries: list[tuple[catalog.Kind, Choice]] = [
        ("methods", cell.method),
        ("models", cell.model),
        ("datasets", cell.dataset),
    ]
    given = {
        f"{entry.name}.{option}": spell(value)
        for kind, entry in entries
        for option, value in (later_defaults(kind, entry) | dict(entry.flat)).items()
    }
    return row.settings.items() <= given.items()


def _values(row: PaperRow, cell: Result | None) -> np.ndarray:
    """(n,) ours by replicate in the paper's unit; empty where there are none."""
    metric, scale, offset = row.ours
    if cell is None or metric not in cell.scores:
        return np.empty(0)
    by_replicate = cell.scores[metric].values
    return scale * np.array([by_replicate[replicate] for replicate in sorted(by_replicate)]) + offset


def _same_splits(row: PaperRow, cell: Result | None) -> np.ndarray | None:
    """(n,) the published values of the splits of ours, in the same order; None where one of ours has none.

    Several seeds of one split would share its published value, so such splits are not paired.
    """
    splits = [] if cell is None else [replicate.split for replicate in sorted(cell.scores[row.ours.metric].values)]
    if not row.by_split or len(set(splits)) < len(splits) or not set(splits) <= set(range(len(row.by_split))):
        return None
    return np.array([row.by_split[split] for split in splits])


def _line(paper: Paper, row: PaperRow, cell: Result | None, values: np.ndarray, found: Agreement | None) -> Line:
    if row.cause:
        return Line(row, "not comparable", row.cause)
    if not row.ours.metric:
        return Line(row, "not run", "no metric of it yet")
    if cell is None or found is None:
        missing = "no record of it" if paper.suite else "no suite of it yet"
        return Line(row, "not run", missing if cell is None else f"no {row.ours.metric}")
    error = abs(row.ours.scale) * cell.scores[row.ours.metric].standard_error
    seconds = math.fsum(record.seconds or 0.0 for record in cell.records)
    return Line(row, found.verdict, _reason(found), float(values.mean()), error, len(values), found, seconds)


def _reason(found: Agreement) -> str:
    limits, count = found.row.limits, len(found.row.ours)
    if found.row.exact:
        return "every printed digit" if found.verdict == "reproduced" else "nothing is left to chance: digits differ"
    gap, width = float(found.difference.estimate), found.half_width
    if math.isnan(found.margin):
        return "one run on each side and no published spread: nothing says how much runs vary"
    if not math.isfinite(gap):
        return "ours is not finite"
    splits = "" if found.row.published.kind == "none" else ", unpaired"
    if found.row.by_split is not None:
        splits = ", paired by split"
    if found.verdict == "reproduced":
        basis = "published without a spread, within our interval; " if found.row.published.kind == "none" else ""
        return f"{basis}off by less than {_two_digits(found.margin)}{splits}"
    if found.verdict == "not reproduced":
        off = f"off by {'+' if gap > 0 else ''}{_two_digits(gap)} ± {_two_digits(width)} (95 %)"
        return f"{off}, {found.standard_errors:.1f} standard errors{splits}"
    if found.margin > limits.coarse:
        seen = f"our {count} cannot show less than {_two_digits(found.margin)}"
        return f"{seen}, which is more than the {_two_digits(limits.coarse)} that the word may cover{splits}"
    return f"neither refused nor shown to be within {_two_digits(found.margin)}{splits}"


def _two_digits(number: float) -> str:
    """Round to two digits and write them out: 100, where g alone gives 1e+02."""
    return f"{float(f'{number:.2g}'):.15g}"
