"""Local worker processes as an executor: one that is killed costs the task that it ran, and no other."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, Literal, NamedTuple


class WorkerLost(BrokenExecutor):
    """The worker that ran a task has ended before the task. Its text says how."""


class Submitted(NamedTuple):
    """What a worker is asked to run."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class Said(NamedTuple):
    """What a worker says: news while a task runs, then its result or what it raised."""

    kind: Literal["news", "result", "error"]
    value: Any


class Processes(Executor):
    """Worker processes that start when there is something to do, each given one task at a time.

    The standard library's pool ends as a whole if one of its processes is killed, and does not tell which task that
    process ran. Here each process has a pipe and a thread of its own: the task whose process has ended raises
    `WorkerLost`, and the next task gets a new process.

    Args:
        count: How many there may be.
        start: start(*given) is called in each new process before its first task.
        given: Its arguments.
        hear: Called with what a task says by `tell`, in a thread of this process, before the task's future is done.
    """

    def __init__(
        self, count: int, start: Callable[..., None], given: tuple[Any, ...], hear: Callable[[Any], None]
    ) -> None:
        self._start, self._hear = (start, given), hear
        self._todo: queue.SimpleQueue[tuple[Future[Any], Submitted] | None] = queue.SimpleQueue()
        self._children: dict[int, SpawnProcess] = {}
        self._ended = self._terminated = False
        self._threads = [threading.Thread(target=self._serve, args=(slot,), daemon=True) for slot in range(count)]
        with interrupts_wait():  # threads and the processes that they start inherit this: Ctrl-C is this process's
            for thread in self._threads:
                thread.start()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Submit a call. All of it, and what it returns or raises, is pickled."""
        if self._ended:
            raise RuntimeError("these worker processes have been ended")
        future: Future[Any] = Future()
        self._todo.put((future, Submitted(fn, args, kwargs)))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the processes when everything submitted is done; with `cancel_futures`, when their tasks are done."""
        self._ended = True
        if cancel_futures:
            with suppress(queue.Empty):
                while (item := self._todo.get_nowait()) is None or item[0].cancel():
                    pass
        for _ in self._threads:
            self._todo.put(None)
        for thread in self._threads if wait else ():
            thread.join()

    def end(self) -> None:
        """End the processes now. None starts afterwards."""
        self.shutdown(wait=False, cancel_futures=True)
        with STARTING:
            self._terminated = True
            children = list(self._children.values())
        for child in children:
            with suppress(ValueError):  # it has ended and was closed
                child.terminate()

    def _serve(self, slot: int) -> None:
        """Give one process after the other what there is to do."""
        child, link = None, None
        while (item := self._todo.get()) is not None:
            future, call = item
            if not future.set_running_or_notify_cancel():
                continue
            try:
                if child is None or link is None or not child.is_alive():
                    child, link = self._started(slot)
                said = self._said(child, link, call)
            except Exception as error:  # the system refuses another process, or the call or its result cannot travel
                future.set_exception(error)
            else:
                if said.kind == "result":
                    future.set_result(said.value)
                else:
                    future.set_exception(said.value)
            del item, future, call
        if child is not None and link is not None:
            link.close()  # it reads the end of its pipe, and ends
            child.join()

    def _started(self, slot: int) -> tuple[SpawnProcess, Connection]:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        child = context.Process(target=_work, args=(theirs, *self._start))
        with STARTING:
            if self._terminated:
                raise WorkerLost("these worker processes have been ended")
            child.start()
            self._children[slot] = child
        theirs.close()  # held by the process alone, it closes with it
        return child, ours

    def _said(self, child: SpawnProcess, link: Connection, call: Submitted) -> Said:
        """Return the last that a process says of a call, and pass on its news. If it ends first, that is an error."""
        try:
            link.send(call)
            while True:
                wait([link, child.sentinel])  # a process of the worker's own may outlive it and hold its pipe open
                if not link.poll():
                    break
                said: Said = link.recv()
                if said.kind != "news":
                    return said
                self._hear(said.value)
        except (EOFError, ConnectionError):
            pass
        child.join()
        link.close()
        return Said("error", WorkerLost(_how(child.exitcode or 0)))


def _how(code: int) -> str:
    """Say how a process has ended, by its exit code."""
    if code >= 0:
        return f"its process ended by itself, with exit code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    often = ", as the system does where memory runs out" if name == "SIGKILL" else ""
    return f"its process was killed by {name}{often}"


STARTING = threading.RLock()
"""Held while a worker is started: if this process ended meanwhile, the worker could not read what it is to do, and
would say so in a traceback. A Ctrl-C that ends the process takes it in the thread that may hold it already."""


@contextmanager
def interrupts_wait() -> Iterator[None]:
    """Delay Ctrl-C until the block ends, and hide it from the threads and processes that the block starts.

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


# In a worker


_link: Connection | None = None
"""A worker's pipe to the process that started it, set once, before its first task."""


def tell(news: Any) -> None:
    """Tell the process that started this worker something about the task that runs; if it is gone, end this one."""
    if _link is None:
        return
    try:
        _link.send(Said("news", news))
    except ConnectionError:  # raised in the task it would be a failure of its cell, and be written as one
        os._exit(1)


def _work(link: Connection, start: Callable[..., None], given: tuple[Any, ...]) -> None:
    """Run what is asked for, until there is no more."""
    global _link  # noqa: PLW0603
    _link = link
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process: the parent decides
    threading.Thread(target=_end_with_parent, daemon=True).start()
    start(*given)
    with suppress(EOFError, ConnectionError):  # its parent has nothing more to do, or is gone
        while True:
            content = link.recv_bytes()
            try:
                call: Submitted = pickle.loads(content)  # nosec B301 # from the parent, by a pipe that no other opens
                said = Said("result", call.function(*call.args, **call.kwargs))
            except Exception as error:
                said = Said("error", error)
            try:
                link.send(said)
            except ConnectionError:
                raise
            except Exception as error:  # what cannot be pickled
                link.send(Said("error", RuntimeError(f"a worker's {said.kind} cannot be sent: {error!r}")))


def _end_with_parent() -> None:
    """End this worker when its parent is gone: it must not go on writing beside the next run."""
    parent = multiprocessing.parent_process()
    while parent is not None and os.getppid() == parent.pid:
        time.sleep(0.2)
    os._exit(1)
