"""A Dask cluster that runs batches: one on this machine, or one whose scheduler is named.

The names of clusters:

dask                   workers on this machine, as many as --jobs
dask://HOST:PORT       a scheduler
dask:tls://HOST:PORT   a scheduler in Dask's own spelling; its configuration names certificates and keys
dask:FILE              a scheduler file, as `dask scheduler --scheduler-file FILE` writes it
"""

from __future__ import annotations

import json
import logging
import queue
import secrets
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bdlbench.core.errors import BadInput
from bdlbench.runs import remote
from bdlbench.runs.batch import say
from bdlbench.runs.executors import Assignment, Event, Pool, run_one
from bdlbench.runs.processes import interrupts_wait
from bdlbench.runs.remote import Parcel, SentBack

if TYPE_CHECKING:
    import distributed

CONNECT_SECONDS = 20.0
"""How long a scheduler may take to answer, at the start and after it was lost."""

SECONDS_PER_TASK = 2.0
"""Small batches travel together until they take about this long: a task costs the scheduler some milliseconds."""


class Unwanted(BaseException):
    """Ends a task that nobody waits for.

    It is no Exception, which would make a failed cell, nor Ctrl-C, which would end the worker.
    """


@contextmanager
def on_cluster(where: str, results: Path, count: int, gpus: int) -> Iterator[Pool]:
    """Yield a pool whose tasks run on a cluster; tasks that are not done at its end are cancelled.

    Args:
        where: As at the top of this file.
        results: The folder of results. Workers that see it write there; others send back what is to be written.
        count: The number of workers of a cluster on this machine.
        gpus: How many of the resource "GPU" each task takes from its worker.

    Raises:
        BadInput: There is no such scheduler, or `distributed` is not installed.
    """
    news: queue.SimpleQueue[Event | Future[Any]] = queue.SimpleQueue()
    topic = f"bdlbench-{secrets.token_hex(8)}"
    with _client(where, count) as client, remote.sending(results) as sender:
        executor = client.get_executor(pure=False, resources={"GPU": gpus} if gpus else None)

        def listen() -> None:
            client.subscribe_topic(topic, lambda event: news.put(Event(*event[1])))

        def submit(task: Assignment) -> Future[Any]:
            future: Future[Any] = executor.submit(_work, sender.pack(task.batches, task.settings), topic)
            return future

        def is_back() -> bool:
            deadline = time.monotonic() + CONNECT_SECONDS
            while client.status != "running":
                if client.status == "closed" or time.monotonic() > deadline:
                    return False
                time.sleep(0.1)
            listen()
            return True

        listen()
        workers = client.scheduler_info(n_workers=-1)["workers"].values()
        if not workers:
            say(f"{where} has no worker yet: the run begins when there is one")
        elif any(worker["nthreads"] > 1 for worker in workers):
            say(f"workers of {where} have several threads, of which batches use one: start them with --nthreads 1")
        if gpus and not any(worker["resources"].get("GPU", 0) >= gpus for worker in workers):
            say(f'no worker of {where} has the resource GPU: start them with --resources "GPU=1"')
        try:
            size = (max(1, len(workers)), SECONDS_PER_TASK)
            yield Pool(submit, news, lambda task, back: sender.unpack(task.batches, back), _how_lost, 1, is_back, *size)
        finally:
            executor.shutdown(wait=False)


@contextmanager
def _client(where: str, count: int) -> Iterator[distributed.Client]:
    """Yield a client of the scheduler that is named, or of a new one on this machine."""
    try:
        import distributed
    except ModuleNotFoundError as error:
        raise BadInput(f"--executor {where} needs {error.name}: python -m pip install 'bdlbench[dask]'") from None
    place = where.removeprefix("dask").removeprefix(":")
    if not place:
        silent = {"dashboard_address": None, "silence_logs": logging.CRITICAL}
        with interrupts_wait():  # its threads and worker processes inherit this: Ctrl-C is this process's
            cluster = distributed.LocalCluster(count, threads_per_worker=1, memory_limit=0, **silent)
        with cluster, distributed.Client(cluster) as client:
            yield client
        return
    if "//" in place:
        found = {"address": f"tcp:{place}" if place.startswith("//") else place}
    else:
        found = {"address": _address(where, Path(place))}
    try:
        client = distributed.Client(**found, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        said = f"no scheduler answers there within {CONNECT_SECONDS:.0f} s ({error})"
        raise BadInput(f"--executor {where}: {said}; start one by `dask scheduler`") from None
    with client:
        yield client


def _address(where: str, file: Path) -> str:
    """Read the address in a scheduler file."""
    try:
        address = json.loads(file.read_bytes())["address"]
    except FileNotFoundError:
        raise BadInput(f"--executor {where}: there is no scheduler file {file}; or write dask://HOST:PORT") from None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        address = None
    if not isinstance(address, str):
        raise BadInput(f"--executor {where}: {file} is no scheduler file: `dask scheduler --scheduler-file` writes one")
    return address


def _how_lost(error: BaseException) -> str:
    """Say how the workers of a task were lost. The scheduler has given it to several by then."""
    from distributed.scheduler import KilledWorker

    if not isinstance(error, KilledWorker):
        return ""
    return f"{error.allowed_failures + 1} workers were lost while they ran it, the last at {error.last_worker.address}"


def _work(parcel: Parcel, topic: str) -> SentBack:
    """Run a parcel in a worker of the cluster. It is given up when nobody waits for it any more."""
    import distributed

    worker = distributed.get_worker()
    key, due = worker.get_current_task(), 0.0

    def report(event: Event) -> None:
        nonlocal due
        if time.monotonic() > due:
            state = worker.state.tasks.get(key)
            if state is None or state.state == "cancelled":
                raise Unwanted
            due = time.monotonic() + 1.0
        worker.log_event(topic, tuple(event))

    return remote.run(parcel, lambda index, batch, settings: run_one(index, batch, settings, report))
