"""Where batches run: in this process, or as tasks of an executor, each a batch or several small ones.

What an executor needs besides `submit` is a `Pool`. The record of a batch is written once, whoever runs it; a task
whose worker is lost is given to another one.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from bdlbench import catalog
from bdlbench.core.clock import now
from bdlbench.core.errors import BadInput, BenchError
from bdlbench.runs import processes
from bdlbench.runs.batch import Batch, Outcome, Settings, run_batch, say, write_failures
from bdlbench.runs.processes import Processes, WorkerLost

PREDICTED = 1000
"""The number of parts in which the progress of a prediction is reported."""

LISTEN_EVERY = 0.1
"""Seconds between reports of steps."""


class Event(NamedTuple):
    """News of one batch.

    Attributes:
        batch: Its index.
        title: Its title.
        kind: Whether it starts, trains, predicts, notes something, or ends.
        done: Steps of training that are done; for a prediction, parts of PREDICTED.
        total: All steps, or PREDICTED.
        text: The note.
    """

    batch: int
    title: str
    kind: Literal["start", "step", "predict", "note", "end"]
    done: int = 0
    total: int = 0
    text: str = ""


Report = Callable[[Event], None]

TRIES = 3
"""How often a batch is begun, each time from its last checkpoint, before its workers' ends make it a failure."""


def only_notes(event: Event) -> None:
    """Print notes, and ignore other events."""
    if event.kind == "note":
        say(event.text)


@dataclass(frozen=True)
class Assignment:
    """Batches that one worker runs one after the other.

    Attributes:
        batches: The batches, by their indices in the run.
        settings: Their settings, with the code of their cells only.
    """

    batches: Mapping[int, Batch]
    settings: Settings


@dataclass(frozen=True)
class Pool:
    """Where tasks run.

    Attributes:
        executor: Takes them.
        news: Receives the events of tasks, and each future when it is done.
        run: What is submitted with a task; it returns the outcomes by the batches' indices.
    """

    executor: Executor
    news: queue.SimpleQueue[Event | Future[Any]]
    run: Callable[[Assignment], dict[int, Outcome]]


def execute(batches: Sequence[Batch], settings: Settings, jobs: int = 1, report: Report = only_notes) -> list[Outcome]:
    """Run every batch, and return the outcomes in the order of `batches`.

    With jobs = 1, or a single batch, everything runs in this process; else in `jobs` worker processes, each with the
    plugins of this catalog. A batch whose worker is killed is run again, TRIES times in all, and then fails alone.
    Raises BadInput as a batch does, and BenchError if workers cannot start.
    """
    if jobs == 1 or len(batches) < 2:
        outcomes = []
        for i, batch in enumerate(batches):
            outcomes.append(_run_one(i, batch, settings, report))
            report(Event(i, batch.cells[0].title, "end"))
        return outcomes
    with in_processes(min(jobs, len(batches))) as pool:
        return _spread(batches, settings, pool, report)


def _spread(batches: Sequence[Batch], settings: Settings, pool: Pool, report: Report) -> list[Outcome]:
    """Give all batches to a pool, hear what becomes of them, and give those again whose worker is lost."""
    running: dict[Future[dict[int, Outcome]], Assignment] = {}
    tries, begun, outcomes = [0] * len(batches), set[int](), dict[int, Outcome]()

    def give(indices: Sequence[int]) -> None:
        given = {i: batches[i] for i in indices}
        keys = {cell.key for batch in given.values() for cell in batch.cells}
        code = {key: hashes for key, hashes in settings.code.items() if key in keys}
        task = Assignment(given, replace(settings, code=code))
        future = pool.executor.submit(pool.run, task)
        running[future] = task
        future.add_done_callback(pool.news.put)

    for i in range(len(batches)):
        give([i])
    while running:
        heard = pool.news.get()
        if isinstance(heard, Event):
            if heard.batch in outcomes or (heard.kind == "start" and heard.batch in begun):
                continue
            begun |= {heard.batch} if heard.kind == "start" else set()
            report(heard)
            continue
        task = running.pop(heard)
        try:
            found = heard.result()
        except WorkerLost as error:
            found = {}
            for i, batch in task.batches.items():
                tries[i] += 1
                title = batch.cells[0].title
                if tries[i] < TRIES:
                    give([i])
                    report(Event(i, title, "note", text=f"{title}: {error}; it goes on from its last checkpoint"))
                elif i in begun:
                    found[i] = write_failures(batch, task.settings, f"{error}, {TRIES} times")
                else:
                    raise BenchError(f"a worker process cannot start: {error}; see above, or use --jobs 1") from None
        for i, outcome in found.items():
            outcomes[i] = outcome
            report(Event(i, batches[i].cells[0].title, "end"))
    return [outcomes[i] for i in range(len(batches))]


def _run_one(index: int, batch: Batch, settings: Settings, report: Report) -> Outcome:
    """Run a batch, and report all its events except its end."""
    title, due = batch.cells[0].title, 0.0

    def tell(kind: Literal["step", "predict"], done: int, total: int) -> None:
        nonlocal due
        if now() >= due:
            report(Event(index, title, kind, done, total))
            due = now() + LISTEN_EVERY

    report(Event(index, title, "start"))
    return run_batch(
        batch,
        settings,
        lambda done, total: tell("step", done, total),
        lambda line: report(Event(index, title, "note", text=line)),
        lambda fraction: tell("predict", round(PREDICTED * fraction), PREDICTED),
    )


# Local processes


@contextmanager
def in_processes(count: int) -> Iterator[Pool]:
    """Yield a pool of worker processes with the plugins of this catalog; an error within the block ends them at once.

    A function that is submitted to its executor begins with `refuse_unready`.
    """
    news: queue.SimpleQueue[Event | Future[Any]] = queue.SimpleQueue()
    workers = Processes(count, _load, (catalog.added_plugins(), catalog.added_modules()), news.put)
    try:
        yield Pool(workers, news, _run_in_worker)
    except BaseException:
        workers.end()
        raise
    workers.shutdown()


_refused: BadInput | None = None
"""Why this worker could not load its plugins; set once, before its first task."""


def _load(plugins: Sequence[catalog.Plugin], modules: Sequence[str]) -> None:
    """Give a new worker the plugins and modules of its parent's catalog."""
    global _refused  # noqa: PLW0603
    try:
        for plugin in plugins:
            catalog.add_again(plugin)
        for place in modules:
            catalog.add_module(place, catalog.names("models"))  # what it may replace was settled before
    except BadInput as error:  # raised here it would end the worker and hide the reason
        _refused = error


def refuse_unready() -> None:
    """Raise the BadInput for which this worker could not load its plugins, if there is one; a task begins with it."""
    if _refused is not None:
        raise _refused


def _run_in_worker(task: Assignment) -> dict[int, Outcome]:
    refuse_unready()
    return {i: _run_one(i, batch, task.settings, processes.tell) for i, batch in task.batches.items()}
