"""Verdicts for people: a table of one paper, and the page of all of them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import Any

from bdlbench.report.text_table import Field, Sheet, escape_markdown, markdown, terminal
from bdlbench.reproduce.papers import Paper
from bdlbench.reproduce.verdicts import PAPER_VERDICTS, Line

WORD_HEADINGS = ("data set", "method", "quantity", "verdict", "reason")
NUMBER_HEADINGS = ("published", "ours", "n", "ours − theirs", "SE", "time")

WRAP: dict[str, Any] = {"width": 120, "subsequent_indent": "  ", "break_long_words": False, "break_on_hyphens": False}

PAGE_HEAD = """# Published numbers, reproduced or not

Made by `python -m bdlbench reproduce --page` from records. It holds every number of these papers that is of a method
and a data set of this package, whatever its verdict; what else their tables hold is named below each. *Not comparable*
has one of three causes: protocol unknown, data differ, budget differs. *Not run* is what nothing stands in the way of
but work. What the other verdicts mean, and how often they are wrong: [statistics](../../docs/statistics.md).

"""


def text(paper: Paper, lines: Sequence[Line], color: bool = False) -> str:
    """Return a paper's table for a terminal, with its notes, remarks and counts below."""
    return terminal(_sheet(paper, lines), color) + "\n".join(["", *_below(paper, lines), ""])


def page(papers: Sequence[tuple[Paper, Sequence[Line]]]) -> str:
    """Return the Markdown page of several papers: counts, then every row of each, those with numbers of ours first.

    Args:
        papers: the lines of each paper, complete: no row is left out because of its verdict.

    Returns:
        The page. It holds nothing that differs from one making to the next but for the records themselves.
    """
    papers = sorted(papers, key=lambda told: (not any(line.agreement for line in told[1]), not told[0].suite))
    names = [word for word in PAPER_VERDICTS if any(line.verdict == word for _, lines in papers for line in lines)]
    rows = [
        (Field(paper.name), Field(paper.citation), *(Field(str(_counts(lines)[word] or "")) for word in names))
        for paper, lines in papers
    ]
    every = [line for _, lines in papers for line in lines]
    rows.append((Field("all"), Field(""), *(Field(str(_counts(every)[word])) for word in names)))
    parts = [PAGE_HEAD, f"{len(every)} numbers of {len(papers)} papers: {counted(every)}.\n\n"]
    parts += [markdown(Sheet("Rows by verdict", ("paper", "", *names), tuple(rows), left=2))]
    for paper, lines in papers:
        parts += [f"## {paper.name}: {escape_markdown(paper.title)}\n\n", markdown(_sheet(paper, lines))]
        parts += [fill(f"- {escape_markdown(line)}", **WRAP) + "\n" for line in _below(paper, lines)]
        parts.append(f"- Run it: `python -m bdlbench reproduce {paper.name}`\n\n" if paper.suite else "\n")
    return "".join(parts).rstrip("\n") + "\n"


def counted(lines: Sequence[Line]) -> str:
    """Return the counts of each verdict, such as "9 reproduced, 2 inconclusive"."""
    return ", ".join(f"{count} {word}" for word in PAPER_VERDICTS if (count := _counts(lines)[word]))


def _counts(lines: Sequence[Line]) -> Counter[str]:
    return Counter(line.verdict for line in lines)


def _sheet(paper: Paper, lines: Sequence[Line]) -> Sheet:
    """Lay out a table, without the columns of our numbers where there are none yet."""
    notes = _notes(lines)
    columns = len(WORD_HEADINGS) + (len(NUMBER_HEADINGS) if any(line.agreement for line in lines) else 1)
    title = f"{paper.citation}: suite {paper.suite}" if paper.suite else f"{paper.citation}: no suite yet"
    rows = tuple(_fields(line, notes)[:columns] for line in lines)
    return Sheet(title, (*WORD_HEADINGS, *NUMBER_HEADINGS)[:columns], rows, left=len(WORD_HEADINGS))


def _notes(lines: Sequence[Line]) -> Mapping[str, str]:
    """Return a number for each note of the rows: many share one, and a table of whole sentences cannot be read."""
    return {note: f"[{i}]" for i, note in enumerate(dict.fromkeys(line.row.note for line in lines if line.row.note), 1)}


def _fields(line: Line, notes: Mapping[str, str]) -> tuple[Field, ...]:
    row, found = line.row, line.agreement
    one_more = min(max(0, round(-math.log10(2 * row.number.half_digit))) + 1, 6)  # decimals
    ours = gap = errors = time = ""
    if found is not None:
        error = f" ± {line.standard_error:.{one_more}f}" if math.isfinite(line.standard_error) else ""
        ours = f"{line.ours:.{one_more}f}{error}"
        gap = f"{float(found.difference.estimate):+.{one_more}f}"
        errors = f"{found.standard_errors:.1f}" if math.isfinite(found.standard_errors) else ""
        time = f"{line.seconds:.1f} s" if line.seconds < 600 else f"{line.seconds / 60:.0f} min"
    reason = " ".join(filter(None, (line.reason, notes.get(row.note, ""))))
    words = (row.dataset, row.method, row.quantity, line.verdict, reason)
    return tuple(map(Field, (*words, row.printed, ours, str(line.count or ""), gap, errors, time)))


def _below(paper: Paper, lines: Sequence[Line]) -> list[str]:
    """Return what a reader of the table must know."""
    told = [f"{counted(lines)}."]
    told += [f"{sign} {note}." for note, sign in _notes(lines).items()]
    kinds = {line.row.number.kind for line in lines}
    if "standard error" in kinds:
        told.append("± is a standard error of the mean; ours is one too.")
    if "standard deviation" in kinds:
        told.append("sd is the standard deviation of one split or run; our ± is a standard error of the mean.")
    if any("±?" in line.row.printed for line in lines):
        told.append("±? stands where the source does not say which spread it is; the verdict does without it.")
    if any(line.agreement for line in lines):
        told.append("SE: the difference in combined standard errors. Verdicts are Holm-corrected at 5 % over the rows.")
        if any(line.agreement and line.agreement.row.by_split is not None for line in lines):
            told.append(
                "Paired by split: our and their values of each split are compared. Its training and test rows are the "
                "same on both sides; what is left in a difference is the noise of both trainings. SE is then the "
                "difference in standard errors of its own."
            )
        told.append("Time: of training and prediction, all rows of the batch at once.")
    read = "; ".join(dict.fromkeys(line.row.source for line in lines))
    return [*told, *paper.remarks, *([f"Read in: {read}."] if read else [])]
