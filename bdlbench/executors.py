"""Where batches run: in this process, or in several worker processes that share nothing but the results folder."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager, suppress
from multiprocessing.queues import Queue
from pathlib import Path
from queue import Empty
from typing import Any, Literal, NamedTuple

from bdlbench import catalog
from bdlbench.clock import now
from bdlbench.run import Batch, Outcome, Settings, run_batch

LISTEN_EVERY = 0.1
"""Seconds between reports of steps."""


class Event(NamedTuple):
    """News of one batch: it starts, it has done some of its steps, it ends."""

    batch: int
    title: str
    kind: Literal["start", "step", "end"]
    done: int = 0
    total: int = 0


Report = Callable[[Event], None]


def execute(
    batches: Sequence[Batch], settings: Settings, jobs: int, plugins: Sequence[Path], report: Report
) -> list[Outcome]:
    """Run every batch; outcomes in the order of `batches`. jobs: worker processes, 1 for none but this one."""
    if jobs == 1 or len(batches) < 2:
        return [_run_one(i, batch, settings, report) for i, batch in enumerate(batches)]
    return _in_processes(batches, settings, min(jobs, len(batches)), plugins, report)


def _run_one(index: int, batch: Batch, settings: Settings, report: Report) -> Outcome:
    title = batch.rows[0].cell.title
    report(Event(index, title, "start"))
    due = 0.0

    def listen(done: int, total: int) -> None:
        nonlocal due
        if now() >= due:
            report(Event(index, title, "step", done, total))
            due = now() + LISTEN_EVERY

    outcome = run_batch(batch, settings, listen)
    report(Event(index, title, "end"))
    return outcome


def _in_processes(
    batches: Sequence[Batch], settings: Settings, jobs: int, plugins: Sequence[Path], report: Report
) -> list[Outcome]:
    context = multiprocessing.get_context("spawn")
    news: Queue[Event] = context.Queue()
    added = list(dict.fromkeys([*catalog.added_plugins(), *((path, ()) for path in plugins)]))
    with ProcessPoolExecutor(jobs, context, _start_worker, (news, os.getpid(), added)) as pool:
        try:
            with _interrupts_wait():
                futures = [pool.submit(_work, i, batch, settings) for i, batch in enumerate(batches)]
            for event in _events(news, futures):
                report(event)
        except BaseException:
            workers = list((pool._processes or {}).values())  # `shutdown` forgets them
            pool.shutdown(wait=False, cancel_futures=True)
            for worker in workers:  # a checkpoint is what a later run resumes from
                worker.terminate()
            raise
        return [future.result() for future in futures]


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


def _events(news: Queue[Event], futures: Sequence[Future[Outcome]]) -> Iterator[Event]:
    """News as it comes, until every batch has ended. Raises what the first failing batch raised.

    A result and the news of it travel by different pipes: a batch is over when its news says so.
    """
    ended = 0
    while ended < len(futures):
        with suppress(Empty):
            event = news.get(timeout=LISTEN_EVERY)
            ended += event.kind == "end"
            yield event
        for future in futures:
            if future.done():
                future.result()


_news: Any = None


def _start_worker(news: Queue[Event], parent: int, plugins: Sequence[tuple[Path, Sequence[str]]]) -> None:
    global _news  # noqa: PLW0603 - a worker's only state, set once, before its first batch
    _news = news
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process: the parent decides
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    for plugin, replace in plugins:
        catalog.add_plugin(plugin, replace)


def _end_with(parent: int) -> None:
    """A worker whose parent was killed must not go on writing beside the next run."""
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)


def _work(index: int, batch: Batch, settings: Settings) -> Outcome:
    return _run_one(index, batch, settings, _news.put)
