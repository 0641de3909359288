"""The progress of a run on stderr: live bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from bdlbench.core.clock import now
from bdlbench.runs.batch import Batch
from bdlbench.runs.executors import Event, Report

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


TRAINING = 0.8
"""The fraction of a batch's progress that training counts for; the time of prediction is unknown until it starts."""


@contextmanager
def reporting(batches: Sequence[Batch], stream: TextIO) -> Iterator[Report]:
    """Return a report for `execute` that shows its events on `stream`."""
    if not stream.isatty():
        yield _Lines(batches, stream).hear
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(20),
        TextColumn("{task.percentage:>3.0f} %"),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(file=stream), speed_estimate_period=600) as progress:
        yield _Bars(batches, progress).hear


def headline(batches: Sequence[Batch], index: int) -> str:
    """Return the line of a batch, such as: [3/14] mle · mlp · digits: 5 replicates."""
    batch = batches[index]
    cells, rows = len(batch.cells), len(batch.rows)
    counted = f"{rows} replicate{'s' * (rows > 1)}" + (f" of {cells} settings" if cells > 1 else "")
    return f"[{index + 1}/{len(batches)}] {batch.cells[0].title}: {counted}"


class _Lines:
    """One line when a batch starts, one when it ends."""

    def __init__(self, batches: Sequence[Batch], stream: TextIO) -> None:
        self.batches, self.stream = batches, stream
        self.started: dict[int, float] = {}

    def hear(self, event: Event) -> None:
        if event.kind == "start":
            self.started[event.batch] = now()
            print(f"{headline(self.batches, event.batch)} …", file=self.stream, flush=True)
        elif event.kind == "end":
            seconds = now() - self.started[event.batch]
            print(f"{headline(self.batches, event.batch)}, {seconds:.1f} s", file=self.stream, flush=True)
        elif event.kind == "note":
            print(f"bdlbench: note: {event.text}", file=self.stream, flush=True)


class _Bars:
    """A bar for the whole run, with the time left, and one for each running batch, with its steps per second."""

    def __init__(self, batches: Sequence[Batch], progress: Progress) -> None:
        self.batches, self.progress = batches, progress
        self.whole = progress.add_task("all batches", total=len(batches), rate="")
        self.tasks: dict[int, TaskID] = {}
        self.started: dict[int, float] = {}
        self.parts: dict[int, float] = {}
        self.predicting: set[int] = set()

    def hear(self, event: Event) -> None:
        if event.kind == "start":
            self.started[event.batch] = now()
            self.tasks[event.batch] = self.progress.add_task(headline(self.batches, event.batch), total=None, rate="")
        elif event.kind in ("step", "predict"):
            self._advance(event)
        elif event.kind == "note":
            self.progress.console.print(f"bdlbench: note: {event.text}", markup=False, highlight=False)
        else:
            self.parts[event.batch] = 1.0
            self.progress.remove_task(self.tasks.pop(event.batch))
            seconds = now() - self.started[event.batch]
            self.progress.console.print(
                f"{headline(self.batches, event.batch)}, {seconds:.1f} s", markup=False, highlight=False
            )
        self.progress.update(self.whole, completed=sum(self.parts.values()))

    def _advance(self, event: Event) -> None:
        """Advance a bar; prediction starts from 0 again, because the speed of training does not tell its speed."""
        task, predicts = self.tasks[event.batch], event.kind == "predict"
        if predicts and event.batch not in self.predicting:
            self.predicting.add(event.batch)
            self.progress.reset(task, description=f"{headline(self.batches, event.batch)}, predicting")
        speed = self.progress.tasks[self.progress.task_ids.index(task)].speed
        rate = f"{speed:.0f} steps/s" if speed and not predicts else ""
        self.progress.update(task, completed=event.done, total=event.total, rate=rate)
        fraction = event.done / event.total
        self.parts[event.batch] = TRAINING + (1 - TRAINING) * fraction if predicts else TRAINING * fraction
