"""Where batches run: in this process, or in several worker processes that share nothing but the results folder."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
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
    with ProcessPoolExecutor(jobs, context, _start_worker, (news, os.getpid(), tuple(plugins))) as pool:
        futures = [pool.submit(_work, i, batch, settings) for i, batch in enumerate(batches)]
        try:
            for event in _events(news, futures):
                report(event)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            _stop_workers(pool)
            raise
        return [future.result() for future in futures]


def _events(news: Queue[Event], futures: Sequence[Future[Outcome]]) -> Iterator[Event]:
    """News as it comes, until every batch is done. Raises what the first failing batch raised."""
    waiting = set(futures)
    while waiting:
        finished, waiting = wait(waiting, timeout=LISTEN_EVERY, return_when=FIRST_COMPLETED)
        yield from _drain(news)
        for future in finished:
            future.result()
    yield from _drain(news)


def _drain(news: Queue[Event]) -> Iterator[Event]:
    while True:
        try:
            yield news.get_nowait()
        except Empty:
            return


def _stop_workers(pool: ProcessPoolExecutor) -> None:
    """End what is running: its checkpoint is what a later run resumes from."""
    for process in list((pool._processes or {}).values()):
        process.terminate()


_news: Any = None


def _start_worker(news: Queue[Event], parent: int, plugins: Sequence[Path]) -> None:
    global _news  # noqa: PLW0603 - a worker's only state, set once, before its first batch
    _news = news
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    for plugin in plugins:
        catalog.add_plugin(plugin)


def _end_with(parent: int) -> None:
    """A worker whose parent was killed must not go on writing beside the next run."""
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)


def _work(index: int, batch: Batch, settings: Settings) -> Outcome:
    return _run_one(index, batch, settings, _news.put)
