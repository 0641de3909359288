"""Where batches run: in this process, or as tasks of an executor, each a batch or several small ones.

What an executor needs besides `submit` is a `Pool`. The record of a batch is written once, whoever runs it; a task
whose worker is lost is given to another one.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

from bdlbench import catalog
from bdlbench.core.clock import now
from bdlbench.core.errors import BadInput, BenchError, Unwritten
from bdlbench.core.options import short
from bdlbench.runs import processes, remote
from bdlbench.runs.batch import Batch, Outcome, Settings, run_batch, say, write_failures
from bdlbench.runs.processes import Processes
from bdlbench.runs.remote import Parcel, SentBack

PREDICTED = 1000
"""The number of parts in which the progress of a prediction is reported."""

LISTEN_EVERY = 0.1
"""Seconds between reports of steps."""

QUIET = 30.0
"""Seconds without news after which a run looks whether there is anybody who could do its tasks."""


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
class Travel:
    """How tasks of one kind go to workers that may be elsewhere.

    Attributes:
        pack: Makes of a task what is sent: it holds all that the worker may lack.
        run: In a worker, runs what was sent, and reports its events. It is found there by its name.
        unpack: Makes, of a task and of what `run` returned, what the task was to return.
    """

    pack: Callable[[Any], Any]
    run: Callable[[Any, Report], Any]
    unpack: Callable[[Any, Any], Any] = lambda task, returned: returned


@dataclass(frozen=True)
class Pool:
    """Workers, as `execute` and `search.perform` need them.

    Attributes:
        submit: Submits a task to an executor.
        news: Receives the events of tasks, and each future when it is done.
        outcomes: Makes, of a task and of what its future returned, what the task was to return: of an `Assignment` the
            outcomes by the batches' indices.
        how_lost: Says how a worker was lost whose future has raised this error; "" for any other error.
        tries: How often a batch is begun before its workers' losses make it a failure.
        is_back: Called where the executor has cancelled tasks by itself: waits for it, and tells whether it is back.
        count: How many tasks may run at a time, as far as that is known.
        seconds_per_task: Batches of less travel together, until they take about that long; 0 for each alone.
        lacks: Says what tasks wait for that there is not, such as a worker; "" if there is nothing.
    """

    submit: Callable[[Any], Future[Any]]
    news: queue.SimpleQueue[Event | Future[Any]]
    outcomes: Callable[[Any, Any], Any]
    how_lost: Callable[[BaseException], str]
    tries: int = TRIES
    is_back: Callable[[], bool] = lambda: False
    count: int = 1
    seconds_per_task: float = 0.0
    lacks: Callable[[], str] = lambda: ""

    def heard(self) -> Event | Future[Any]:
        """Wait for the next news; where none comes for a while, say once what there is to wait for."""
        said = ""
        while True:
            try:
                return self.news.get(timeout=QUIET)
            except queue.Empty:
                if (lack := self.lacks()) and lack != said:
                    say(lack)
                said = lack


def execute(
    batches: Sequence[Batch],
    settings: Settings,
    jobs: int = 1,
    report: Report = only_notes,
    executor: str | Executor = "",
    seconds: Sequence[float] = (),
) -> list[Outcome]:
    """Run every batch, and return the outcomes in the order of `batches`.

    A batch whose worker is lost is run again, and fails alone if that happens several times. No batch begins once the
    folder takes no more records, since its disk is full or read-only; those that run by then go on to their end.

    Args:
        batches: The batches.
        settings: Where records go, and how.
        jobs: Worker processes on this machine; with 1, or a single batch, everything runs in this process.
        report: Hears of each event.
        executor: Runs the batches instead: the name of a Dask cluster (`runs/cluster.py`), or any executor of Python's
            kind, such as mpi4py's.
        seconds: What each batch may take: the longest begins first. Without them they begin in their order.

    Raises:
        BadInput: As a batch does; or there is no such executor.
        BenchError: Worker processes cannot start.
        Unwritten: The folder took no more records. Those of earlier batches are there.
    """
    if not executor and (jobs == 1 or len(batches) < 2):
        outcomes = list[Outcome]()
        for i, batch in enumerate(batches):
            if outcomes and outcomes[-1].refused:
                outcomes.append(Outcome([], refused=outcomes[-1].refused))
                continue
            outcomes.append(run_one(i, batch, settings, report))
            for event in _last_events(i, batch, outcomes[-1]):
                report(event)
        return _written(batches, outcomes, settings)
    if not batches:
        return []
    device, count = batches[0].cells[0].device, min(jobs, len(batches))
    with workers(executor, count, device, _run_assignment, lambda: _travelling(settings.results)) as pool:
        outcomes = _Run(batches, settings, pool, report).finish(seconds or [1.0] * len(batches))
    return _written(batches, outcomes, settings)


def _last_events(i: int, batch: Batch, outcome: Outcome) -> list[Event]:
    """Return the end of a batch, after a note where a failure of its own has kept it from being written."""
    title, note = batch.cells[0].title, f"{outcome.unwritten}; the same command goes on from the last checkpoint"
    is_own = outcome.unwritten and not outcome.refused
    return [*([Event(i, title, "note", text=note)] if is_own else []), Event(i, title, "end")]


def _written(batches: Sequence[Batch], outcomes: list[Outcome], settings: Settings) -> list[Outcome]:
    """Return the outcomes. Raises Unwritten, with how many cells lack a record, where the folder took no more."""
    if not (refused := [outcome.refused for outcome in outcomes if outcome.refused]):
        return outcomes
    cells = {cell.key for batch in batches for cell in batch.cells}
    made = {record.key for outcome in outcomes for record in outcome.records}
    lost = {cell.key for b, o in zip(batches, outcomes, strict=True) if o.refused for cell in b.cells} - made
    raise Unwritten(
        f"{settings.results} takes no more records: {refused[0]}; {len(lost)} of {len(cells)} cells were not written"
    )


def refuse_unknown(executor: str | Executor) -> None:
    """Raise BadInput for what is neither an executor nor the name of one."""
    named = isinstance(executor, str) and (executor in ("", "dask") or executor.startswith("dask:"))
    if not named and (isinstance(executor, str) or not hasattr(executor, "submit")):
        allowed = "dask, dask://HOST:PORT or dask:FILE of a scheduler; in Python also an Executor"
        raise BadInput(f"--executor {short(executor, repr)} is unknown: {allowed}")


@contextmanager
def workers(
    executor: str | Executor,
    count: int,
    device: str,
    run: Callable[[Any, Report], Any],
    travelling: Callable[[], AbstractContextManager[Travel]],
) -> Iterator[Pool]:
    """Yield the pool of an executor; an error within the block ends its tasks, as far as it can.

    Args:
        executor: As in `execute`.
        count: How many workers it has, where they are made for it.
        device: Where tasks compute.
        run: Runs a task in a process of this machine, which has what this one has. It is found there by its name.
        travelling: Makes what other workers need.

    Raises:
        BadInput: There is no such executor.
    """
    news: queue.SimpleQueue[Event | Future[Any]] = queue.SimpleQueue()
    if not executor:
        with in_processes(count, news.put) as here:
            yield Pool(
                partial(here.submit, _run_in_worker, run), news, lambda task, found: found, _how_lost, count=count
            )
    elif isinstance(executor, str):
        from bdlbench.runs import cluster

        with cluster.on_cluster(executor, count, int(device.startswith("cuda")), travelling) as pool:
            yield pool
    else:
        with travelling() as travel:
            yield Pool(
                lambda task: executor.submit(travel.run, travel.pack(task), only_notes), news, travel.unpack, _how_lost
            )


@contextmanager
def _travelling(results: Path) -> Iterator[Travel]:
    """Yield how assignments go to workers that may not see the folder of results."""
    with remote.sending(results) as sender:
        yield Travel(
            lambda task: sender.pack(task.batches, task.settings),
            _run_parcel,
            lambda task, back: sender.unpack(task.batches, back),
        )


def _how_lost(error: BaseException) -> str:
    return str(error) or type(error).__name__ if isinstance(error, BrokenExecutor) else ""


class _Run:
    """All batches of a run given to a pool, and what has become of them."""

    def __init__(self, batches: Sequence[Batch], settings: Settings, pool: Pool, report: Report) -> None:
        self.batches, self.settings, self.pool, self.report = batches, settings, pool, report
        self.running: dict[Future[Any], Assignment] = {}
        self.lost = [0] * len(batches)
        self.begun: set[int] = set()
        self.outcomes: dict[int, Outcome] = {}
        self.refused = ""  # why the folder takes no more records

    def finish(self, seconds: Sequence[float]) -> list[Outcome]:
        """Give all, hear what becomes of them until all have an outcome, and return the outcomes in order."""
        for pack in _packs(self.batches, seconds, self.pool):
            self.give(pack)
        while self.running:
            heard = self.pool.heard()
            if isinstance(heard, Event):
                self.hear(heard)
            else:
                self.take(heard)
        return [self.outcomes[i] for i in range(len(self.batches))]

    def give(self, indices: Sequence[int]) -> None:
        """Submit some batches as one task."""
        given = {i: self.batches[i] for i in indices}
        keys = {cell.key for batch in given.values() for cell in batch.cells}
        code = {key: hashes for key, hashes in self.settings.code.items() if key in keys}
        searches = {key: search for key, search in self.settings.searches.items() if key in keys}
        task = Assignment(given, replace(self.settings, code=code, searches=searches))
        try:
            future = self.pool.submit(task)
        except (BrokenExecutor, CancelledError, RuntimeError, OSError) as error:
            self.abandon(indices, str(error) or type(error).__name__)
            return
        self.running[future] = task
        future.add_done_callback(self.pool.news.put)

    def hear(self, event: Event) -> None:
        """Report the event of a batch: its start once and before its steps, and nothing after its end."""
        known = event.batch in self.begun
        if event.batch in self.outcomes or (event.kind == "start" and known):
            return
        if event.kind != "note" and not known:
            self.begun.add(event.batch)
            if event.kind != "start":  # its start was said while the scheduler was away
                self.report(Event(event.batch, event.title, "start"))
        self.report(event)

    def tell(self, i: int, kind: Literal["note", "end"], text: str = "") -> None:
        """Report an event of this process's own."""
        self.hear(Event(i, self.batches[i].cells[0].title, kind, text=text))

    def take(self, future: Future[Any]) -> None:
        """Take what a task returned, or give its batches again where its worker or the scheduler was lost."""
        task = self.running.pop(future)
        try:
            found = self.pool.outcomes(task, future.result())
        except CancelledError:
            if self.refused:  # by `refuse`
                self.outcomes |= dict.fromkeys(task.batches, Outcome([], refused=self.refused))
            elif self.pool.is_back():
                self.give(list(task.batches))
            else:
                self.abandon(list(task.batches), "the scheduler was lost")
            return
        except Exception as error:
            if not (how := self.pool.how_lost(error)):
                raise
            found = {i: failed for i in task.batches if (failed := self.again(i, how, len(task.batches) > 1))}
        for i, outcome in found.items():
            for event in _last_events(i, self.batches[i], outcome):
                self.hear(event)
            self.outcomes[i] = outcome
        if refused := next((outcome.refused for outcome in found.values() if outcome.refused), ""):
            self.refuse(refused)

    def again(self, i: int, how: str, is_one_of_several: bool) -> Outcome | None:
        """Give a batch again whose worker was lost; if that has happened too often, return its failure."""
        if self.refused:
            return Outcome([], refused=self.refused)
        self.lost[i] += 1
        batch, title = self.batches[i], self.batches[i].cells[0].title
        if self.lost[i] < self.pool.tries or is_one_of_several:  # whose fault it was is not known of several
            self.tell(i, "note", f"{title}: {how}; it goes on from its last checkpoint")
            self.give([i])
            return None
        if i not in self.begun and self.pool.tries > 1:
            raise BenchError(f"a worker process cannot start: {how}; see above, or use --jobs 1")
        times = f", {self.lost[i]} times" if self.lost[i] > 1 else ""
        return write_failures(batch, self.settings, f"{how}{times}")

    def refuse(self, why: str) -> None:
        """Begin no further batch, since the folder takes no more records."""
        self.refused = why
        for future, task in list(self.running.items()):
            if self.begun.isdisjoint(task.batches):
                future.cancel()

    def abandon(self, indices: Sequence[int], why: str) -> None:
        """Leave batches to the next run, and say so."""
        for i in indices:
            title = self.batches[i].cells[0].title
            self.tell(i, "note", f"{title}: not done: {why}; the same command goes on from here")
            self.outcomes[i] = Outcome([], unwritten=f"{title}: {why}")


def _packs(batches: Sequence[Batch], seconds: Sequence[float], pool: Pool) -> list[list[int]]:
    """Return what is submitted, in order: the longest batches first, small ones of one data set together."""
    order = sorted(range(len(batches)), key=lambda i: -seconds[i])
    small = [i for i in order if seconds[i] < pool.seconds_per_task]
    packs = [[i] for i in order if seconds[i] >= pool.seconds_per_task]
    # several packs for each worker, so that all end at about the same time
    full = min(pool.seconds_per_task, sum(seconds[i] for i in small) / (4 * pool.count))
    held = 0.0
    for i in sorted(small, key=lambda i: repr(batches[i].cells[0].dataset)):  # a worker holds the data of a few
        if not held or held + seconds[i] > full:
            packs.append([])
            held = 0.0
        packs[-1].append(i)
        held += seconds[i]
    return packs


def run_one(index: int, batch: Batch, settings: Settings, report: Report) -> Outcome:
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
def in_processes(count: int, hear: Callable[[Any], None] = lambda news: None) -> Iterator[Processes]:
    """Yield worker processes with the plugins of this catalog; an error within the block ends them at once.

    `hear` is called with what they tell.
    """
    workers = Processes(count, _load, (catalog.added_plugins(), catalog.added_modules()), hear)
    try:
        yield workers
    except BaseException:
        workers.end()
        raise
    workers.shutdown()


_refused: BadInput | None = None
"""Why this worker could not load its plugins; set once, before its first task, which raises it."""


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


def _run_in_worker(run: Callable[[Any, Report], Any], task: Any) -> Any:
    if _refused is not None:
        raise _refused
    return run(task, processes.tell)


def _run_assignment(task: Assignment, report: Report) -> dict[int, Outcome]:
    return {i: run_one(i, batch, task.settings, report) for i, batch in task.batches.items()}


# Workers elsewhere


def _run_parcel(parcel: Parcel, report: Report) -> SentBack:
    return remote.run(parcel, lambda index, batch, settings: run_one(index, batch, settings, report))
