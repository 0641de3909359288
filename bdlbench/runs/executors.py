"""Where batches run: in this process, or in several worker processes that share nothing but the results folder."""

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
"""Parts in which the progress of a prediction is told."""

LISTEN_EVERY = 0.1
"""Seconds between reports of steps."""


class Event(NamedTuple):
    """News of one batch: it starts, some steps are done, some of what it predicts is, something is noted, it ends.

    done, total: steps of training, or of PREDICTED parts of all that is predicted after them.
    """

    batch: int
    title: str
    kind: Literal["start", "step", "predict", "note", "end"]
    done: int = 0
    total: int = 0
    text: str = ""


Report = Callable[[Event], None]
Added = tuple[Path, Sequence[str]]
"""A plugin file, and the names of which its entries take the place."""


def only_notes(event: Event) -> None:
    """Say what is to be noted, and nothing else."""
    if event.kind == "note":
        say(event.text)


def execute(batches: Sequence[Batch], settings: Settings, jobs: int = 1, report: Report = only_notes) -> list[Outcome]:
    """Run every batch, and return the outcomes in the order of `batches`.

    jobs: worker processes, to each of which the plugins of this catalog are added; 1 for none but this one. A batch
    whose worker process is killed is failed; the others go on. Raises what a batch raises for bad input, and BenchError
    where worker processes cannot start.
    """
    if jobs == 1 or len(batches) < 2:
        outcomes = []
        for i, batch in enumerate(batches):
            outcomes.append(_run_one(i, batch, settings, report))
            report(Event(i, batch.cells[0].title, "end"))
        return outcomes
    return _in_processes(batches, settings, min(jobs, len(batches)), report)


def _run_one(index: int, batch: Batch, settings: Settings, report: Report) -> Outcome:
    """Run a batch, and report all of it but that it ends."""
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

    A pool of its own, so that who was killed is known and nobody else is. News by a pipe of its own, written at once
    and not by a thread: a process that is killed while it writes to a shared one would leave it locked for the others.
    """

    def __init__(self, plugins: Sequence[Added]) -> None:
        self.plugins = plugins
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.news: SimpleQueue[Event] = context.SimpleQueue()
        self.pool = ProcessPoolExecutor(1, context, _start_worker, (self.news, os.getpid(), tuple(self.plugins)))
        self.processes: list[BaseProcess] = []

    def give(self, index: int, batch: Batch, settings: Settings) -> None:
        """Have a batch run."""
        self.index, self.began = index, False
        with _interrupts_wait():
            try:
                self.future = self.pool.submit(_work, index, batch, settings)
            except BrokenProcessPool:  # killed after its last batch, while it had nothing to do
                self._start()
                self.future = self.pool.submit(_work, index, batch, settings)
        self.processes = list((self.pool._processes or {}).values())  # a broken pool forgets them

    def heard(self) -> Iterator[Event]:
        """What has come of the batch since the last time."""
        while not self.news.empty():
            event = self.news.get()
            self.began |= event.kind == "start"
            yield event

    def outcome(self, batch: Batch, settings: Settings) -> Outcome:
        """What came of the batch, which is over. If the process was killed, the next batch gets a new one."""
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
        """End the process now: a checkpoint is what a later run resumes from."""
        self.pool.shutdown(wait=False, cancel_futures=True)
        for process in self.processes:
            process.terminate()


def _in_processes(batches: Sequence[Batch], settings: Settings, jobs: int, report: Report) -> list[Outcome]:
    waiting = deque(range(len(batches)))
    outcomes: dict[int, Outcome] = {}
    workers = [_Worker(catalog.added_plugins()) for _ in range(jobs)]
    try:
        for worker in workers:
            worker.give(index := waiting.popleft(), batches[index], settings)
        while len(outcomes) < len(batches):
            wait([worker.future for worker in workers], LISTEN_EVERY, FIRST_COMPLETED)
            for worker in list(workers):
                done = worker.future.done()  # asked before its news are read: then they are all there
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
def _interrupts_wait() -> Iterator[None]:
    """Ctrl-C within the block is seen after it, and never by the processes that it starts.

    Until a worker's own code runs and ignores it, it would end the worker with a traceback.
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


def _start_worker(news: SimpleQueue[Event], parent: int, plugins: Sequence[Added]) -> None:
    global _news, _refused  # noqa: PLW0603 - a worker's only state, set once, before its first batch
    _news = news
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process: the parent decides
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    try:
        for plugin, replace in plugins:
            catalog.add_plugin(plugin, replace)
    except BadInput as error:  # raised here it would break the pool, and nobody would hear why
        _refused = error


def _end_with(parent: int) -> None:
    """A worker whose parent was killed must not go on writing beside the next run."""
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)


def _work(index: int, batch: Batch, settings: Settings) -> Outcome:
    if _refused is not None:
        raise _refused
    assert _news is not None
    return _run_one(index, batch, settings, _news.put)
