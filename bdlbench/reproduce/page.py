"""Verdicts for people: a table of one paper, and the page of all of them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from bdlbench.report.text_table import Field, Sheet, escape_markdown, markdown, terminal
from bdlbench.reproduce.papers import Paper
from bdlbench.reproduce.verdicts import PAPER_VERDICTS, Line
from bdlbench.stats.reproduction import Published

PAPER_HEADINGS = (
    *("data set", "method", "quantity", "published", "ours"),
    *("n", "ours − theirs", "SE", "verdict", "reason"),
)
SPREAD_SIGNS = {"standard error": "±", "standard deviation": "sd", "none": ""}


def text(paper: Paper, lines: Sequence[Line], color: bool = False) -> str:
    """Return a paper's table for a terminal, with its remarks and counts below."""
    return terminal(_sheet(paper, lines), color) + "\n".join(["", *_below(paper, lines), ""])


def page(papers: Sequence[tuple[Paper, Sequence[Line]]]) -> str:
    """Return the Markdown page of several papers: counts, then every row of each with its reason.

    Args:
        papers: the lines of each paper, complete: no row is left out because of its verdict.

    Returns:
        The page. It holds nothing that differs from one making to the next but for the records themselves.
    """
    head = "# Published numbers, reproduced or not\n\nMade by `python -m bdlbench reproduce --page` from records.\n\n"
    names = [word for word in PAPER_VERDICTS if any(line.verdict == word for _, lines in papers for line in lines)]
    rows = [
        (Field(paper.name), Field(paper.citation), *(Field(str(_counts(lines)[word])) for word in names))
        for paper, lines in papers
    ]
    whole = Counter(line.verdict for _, lines in papers for line in lines)
    rows.append((Field("all"), Field(""), *(Field(str(whole[word])) for word in names)))
    parts = [head, markdown(Sheet("Rows by verdict", ("paper", "", *names), tuple(rows), left=2))]
    for paper, lines in papers:
        parts += [f"## {escape_markdown(paper.title)}\n\n", markdown(_sheet(paper, lines))]
        parts += [f"- {escape_markdown(line)}\n" for line in _below(paper, lines)]
        parts.append(f"- Run it: `python -m bdlbench reproduce {paper.name}`\n\n")
    return "".join(parts).rstrip("\n") + "\n"


def counted(lines: Sequence[Line]) -> str:
    """Return the counts of each verdict, such as "9 reproduced, 2 inconclusive"."""
    return ", ".join(f"{count} {word}" for word in PAPER_VERDICTS if (count := _counts(lines)[word]))


def _counts(lines: Sequence[Line]) -> Counter[str]:
    return Counter(line.verdict for line in lines)


def _sheet(paper: Paper, lines: Sequence[Line]) -> Sheet:
    return Sheet(f"{paper.citation}: suite {paper.suite}", PAPER_HEADINGS, tuple(map(_fields, lines)), left=3)


def _fields(line: Line) -> tuple[Field, ...]:
    row, found = line.row, line.agreement
    decimals = max(0, round(-math.log10(2 * row.number.half_digit)))
    one_more = decimals + 1
    ours = gap = errors = ""
    if found is not None:
        error = f" ± {line.standard_error:.{one_more}f}" if math.isfinite(line.standard_error) else ""
        ours = f"{line.ours:.{one_more}f}{error}"
        gap = f"{float(found.difference.estimate):+.{one_more}f}"
        errors = f"{found.standard_errors:.1f}" if math.isfinite(found.standard_errors) else ""
    words = (row.dataset, row.method, row.quantity, _printed(row.number, decimals), ours, str(line.count or ""))
    return tuple(map(Field, (*words, gap, errors, line.verdict, line.reason)))


def _printed(number: Published, decimals: int) -> str:
    if number.kind == "none":
        return f"{number.value:.{decimals}f}"
    spread_decimals = max(0, round(-math.log10(2 * number.spread_half)))
    return f"{number.value:.{decimals}f} {SPREAD_SIGNS[number.kind]} {number.spread:.{spread_decimals}f}"


def _below(paper: Paper, lines: Sequence[Line]) -> list[str]:
    """What a reader of the table must know."""
    told = [f"{counted(lines)}."]
    kinds = {line.row.number.kind for line in lines}
    if "standard error" in kinds:
        told.append("± is a standard error of the mean; ours is one too.")
    if "standard deviation" in kinds:
        told.append("sd is the standard deviation of one split or run.")
    if any(line.agreement for line in lines):
        told.append("SE: the difference in combined standard errors. Verdicts are Holm-corrected at 5 % over the rows.")
    return [*told, *paper.remarks]
