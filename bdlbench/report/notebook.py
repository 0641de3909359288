"""Progress and results in a notebook: bars that IPython shows, and tables as HTML."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from markupsafe import Markup

from bdlbench.records.cells import Result
from bdlbench.report import tables, text_table
from bdlbench.runs.batch import Batch
from bdlbench.runs.executors import PREDICTED, Event, Report
from bdlbench.runs.progress import TRAINING, headline, reporting


def in_notebook() -> bool:
    """Tell whether this process is the kernel of a notebook."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return shell is not None and hasattr(shell, "kernel")


@contextmanager
def progress(batches: Sequence[Batch], shown: bool | None, notes: list[str]) -> Iterator[Report]:
    """Yield a report for `work.perform` that shows progress, and keeps notes.

    Args:
        batches: The batches.
        shown: Whether progress is shown: in a notebook as HTML, else on stderr. None shows it in a notebook only.
        notes: Hears what there is to say.

    Yields:
        The report.
    """
    if shown and not in_notebook():
        with reporting(batches, sys.stderr) as hear:
            yield lambda event: notes.append(event.text) if event.kind == "note" else hear(event)
        return
    bars = _Bars(batches) if in_notebook() and shown is not False and batches else None

    def heard(event: Event) -> None:
        if event.kind == "note":
            notes.append(event.text)
        elif bars is not None:
            bars.hear(event)

    yield heard


class _Bars:
    """One line of HTML for each batch that runs, and a bar for all; it stays where the cell's output is."""

    def __init__(self, batches: Sequence[Batch]) -> None:
        shows: Any = sys.modules["IPython"].display  # no dependency: a notebook's kernel has it
        self.batches, self.parts, self.html = batches, dict.fromkeys(range(len(batches)), 0.0), shows.HTML
        self.running: set[int] = set()
        self.shown = shows.display(shows.HTML(self.text()), display_id=True)

    def hear(self, event: Event) -> None:
        """Show an event."""
        if event.kind == "start":
            self.running.add(event.batch)
        elif event.kind == "step":
            self.parts[event.batch] = TRAINING * event.done / max(1, event.total)
        elif event.kind == "predict":
            self.parts[event.batch] = TRAINING + (1 - TRAINING) * event.done / PREDICTED
        elif event.kind == "end":
            self.running.discard(event.batch)
            self.parts[event.batch] = 1.0
        self.shown.update(self.html(self.text()))

    def text(self) -> str:
        """Return the bar, and the lines of what runs."""
        done = sum(self.parts.values()) / len(self.parts)
        lines = [
            Markup("<br>{} · {:.0f} %").format(headline(self.batches, i), 100 * self.parts[i])
            for i in sorted(self.running)
        ]
        return Markup('<progress value="{}" max="1"></progress> {:.0f} %').format(done, 100 * done) + "".join(lines)


def html(results: Sequence[Result], lines: Sequence[str]) -> str:
    """Return the tables of some results as HTML, with what there is to say below them.

    Args:
        results: The cells.
        lines: What is missing, and notes.

    Returns:
        HTML that needs no style sheet.
    """
    groups = tables.group(results) if results else []
    below = Markup("<p><small>{}</small></p>").format(tables.describe(results, groups)) if results else ""
    return sheets([tables.sheet(shown) for shown in groups], lines, below)


def sheets(shown: Sequence[text_table.Sheet], lines: Sequence[str], below: Markup | str = "") -> str:
    """Return tables as HTML, with what stands below them, and a paragraph for each line."""
    text = Markup("").join(map(text_table.html, shown)) + below
    return text + Markup("").join(Markup("<p>{}</p>").format(line) for line in lines)
