"""Execution of batches: in this process, or in several worker processes that share only the results folder."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Literal, NamedTuple

from bdlbench import catalog
from bdlbench.core.clock import now
from bdlbench.core.errors import BadInput, BenchError
from bdlbench.runs.batch import Batch, Outcome, Settings, run_batch, say, write_failures

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
Added = tuple[Path, Sequence[str]]
"""A plugin file, and the names of the entries that it replaces."""


def only_notes(event: Event) -> None:
    """Print notes, and ignore other events."""
    if event.kind == "note":
        say(event.text)


def execute(batches: Sequence[Batch], settings: Settings, jobs: int = 1, report: Report = only_notes) -> list[Outcome]:
    """Run every batch, and return the outcomes in the order of `batches`.

    With jobs = 1, or a single batch, everything runs in this process; else in `jobs` worker processes, each with the
    plugins of this catalog. If a worker process is killed, its batch fails and the others continue. Raises BadInput as
    a batch does, and BenchError if worker processes cannot start.
    """
    if jobs == 1 or len(batches) < 2:
        outcomes = []
        for i, batch in enumerate(batches):
            outcomes.append(_run_one(i, batch, settings, report))
            report(Event(i, batch.cells[0].title, "end"))
        return outcomes
    return _in_processes(batches, settings, min(jobs, len(batches)), report)


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


class _Worker:
    """One worker process at a time, and the batch that it was given.

    Each worker has its own pool, so that a killed process is identified and affects no other. It also has its own pipe
    for events, written at once and not by a thread: a process killed while writing to a shared pipe would leave it
    locked for the others.
    """

    def __init__(self, plugins: Sequence[Added], modules: Sequence[str]) -> None:
        self.plugins, self.modules = plugins, modules
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.news: SimpleQueue[Event] = context.SimpleQueue()
        given = (self.news, os.getpid(), tuple(self.plugins), tuple(self.modules))
        self.pool = ProcessPoolExecutor(1, context, _start_worker, given)
        self.processes: list[BaseProcess] = []

    def give(self, index: int, batch: Batch, settings: Settings) -> None:
        """Give the worker a batch to run."""
        self.index, self.began = index, False
        with interrupts_wait():
            try:
                self.future = self.pool.submit(_work, index, batch, settings)
            except BrokenProcessPool:  # killed after its last batch, while it had nothing to do
                self._start()
                self.future = self.pool.submit(_work, index, batch, settings)
        self.processes = list((self.pool._processes or {}).values())  # a broken pool forgets them

    def heard(self) -> Iterator[Event]:
        """Yield the events of the batch since the last call."""
        while not self.news.empty():
            event = self.news.get()
            self.began |= event.kind == "start"
            yield event

    def outcome(self, batch: Batch, settings: Settings) -> Outcome:
        """Return the outcome of the finished batch. If the process was killed, start a new one for the next batch."""
        try:
            return self.future.result()
        except BrokenProcessPool:
            self.pool.shutdown()
        code = next((process.exitcode for process in self.processes if process.exitcode is not None), 0)
        how = f"its process ended by itself, with exit code {code}"
        if code < 0:
            name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
            often = ", as the system does where memory runs out" if name == "SIGKILL" else ""
            how = f"its process was killed by {name}{often}"
        if not self.began:
            raise BenchError(f"a worker process cannot start: {how}; see above, or use --jobs 1")
        self._start()
        return write_failures(batch, settings, how)

    def end(self) -> None:
        """End the process now; a later run resumes from its checkpoint."""
        self.pool.shutdown(wait=False, cancel_futures=True)
        for process in self.processes:
            process.terminate()


def _in_processes(batches: Sequence[Batch], settings: Settings, jobs: int, report: Report) -> list[Outcome]:
    waiting = deque(range(len(batches)))
    outcomes: dict[int, Outcome] = {}
    workers = [_Worker(catalog.added_plugins(), catalog.added_modules()) for _ in range(jobs)]
    try:
        for worker in workers:
            worker.give(index := waiting.popleft(), batches[index], settings)
        while len(outcomes) < len(batches):
            wait([worker.future for worker in workers], LISTEN_EVERY, FIRST_COMPLETED)
            for worker in list(workers):
                done = worker.future.done()  # before its events are read, so that none is missed
                for event in worker.heard():
                    report(event)
                if not done:
                    continue
                outcomes[worker.index] = worker.outcome(batches[worker.index], settings)
                report(Event(worker.index, batches[worker.index].cells[0].title, "end"))
                if waiting:
                    worker.give(index := waiting.popleft(), batches[index], settings)
                else:
                    workers.remove(worker)
                    worker.pool.shutdown()
    except BaseException:
        for worker in workers:
            worker.end()
        raise
    return [outcomes[i] for i in range(len(batches))]


@contextmanager
def interrupts_wait() -> Iterator[None]:
    """Delay Ctrl-C until the block ends, and hide it from the processes that the block starts.

    A worker ignores Ctrl-C once its own code runs; before that, Ctrl-C would end it with a traceback.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_news: SimpleQueue[Event] | None = None
_refused: BadInput | None = None


def _start_worker(news: SimpleQueue[Event], parent: int, plugins: Sequence[Added], modules: Sequence[str]) -> None:
    global _news  # noqa: PLW0603 - a worker's only state, with `_refused`, set once, before its first batch
    _news = news
    start_worker(parent, plugins, modules)


def start_worker(parent: int, plugins: Sequence[Added], modules: Sequence[str]) -> None:
    """Make a new process a worker: it leaves Ctrl-C to its parent, ends with it, and has the plugins of its catalog.

    Args:
        parent: The parent's process.
        plugins: As `catalog.added_plugins` lists them.
        modules: As `catalog.added_modules` lists them.
    """
    global _refused  # noqa: PLW0603
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process: the parent decides
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    try:
        for plugin, replace in plugins:
            catalog.add_plugin(plugin, replace)
        for place in modules:
            catalog.add_module(place, catalog.names("models"))  # what it may replace was settled before
    except BadInput as error:  # raised here it would break the pool and hide the reason
        _refused = error


def refuse_unready() -> None:
    """Raise the BadInput for which this worker could not load its plugins, if there is one; a task begins with it."""
    if _refused is not None:
        raise _refused


def _end_with(parent: int) -> None:
    """End this worker when its parent is gone: it must not go on writing beside the next run."""
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)


def _work(index: int, batch: Batch, settings: Settings) -> Outcome:
    refuse_unready()
    assert _news is not None
    return _run_one(index, batch, settings, _news.put)
