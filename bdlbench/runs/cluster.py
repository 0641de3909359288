"""A Dask cluster that runs batches: one on this machine, or one whose scheduler is named.

The names of clusters:

dask                   workers on this machine, as many as --jobs
dask://HOST:PORT       a scheduler
dask:tls://HOST:PORT   a scheduler in Dask's own spelling; its configuration names certificates and keys
dask:FILE              a scheduler file, as `dask scheduler --scheduler-file FILE` writes it
"""

from __future__ import annotations

import asyncio
import json
import logging
import pickle
import queue
import secrets
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bdlbench.core.errors import BadInput, one_line
from bdlbench.runs.batch import say
from bdlbench.runs.executors import Event, Pool, Travel
from bdlbench.runs.processes import interrupts_wait
from bdlbench.runs.remote import this_worker

if TYPE_CHECKING:
    import distributed

CONNECT_SECONDS = 20.0
"""How long a scheduler may take to answer, at the start and after it was lost."""

SECONDS_PER_TASK = 2.0
"""Small batches travel together until they take about this long: a task costs the scheduler some milliseconds."""

STEPS_TOLD = 50
"""Of how many steps a second all workers together tell, each at most of one: news costs the scheduler a millisecond."""


class Unwanted(BaseException):
    """Ends a task that nobody waits for.

    It is no Exception, which would make a failed cell, nor Ctrl-C, which would end the worker.
    """


@contextmanager
def on_cluster(
    where: str, count: int, gpus: int, travelling: Callable[[], AbstractContextManager[Travel]]
) -> Iterator[Pool]:
    """Yield a pool whose tasks run on a cluster; tasks that are not done at its end are cancelled.

    Args:
        where: As at the top of this file.
        count: The number of workers of a cluster on this machine.
        gpus: How many of the resource "GPU" each task takes from its worker.
        travelling: As in `executors.workers`.

    Raises:
        BadInput: There is no such scheduler, or `distributed` is not installed.
    """
    news: queue.SimpleQueue[Event | Future[Any]] = queue.SimpleQueue()
    topic = f"bdlbench-{secrets.token_hex(8)}"
    submitted: set[distributed.Future[Any]] = set()
    with _client(where, count) as client, travelling() as travel:
        from distributed.protocol.pickle import dumps as pickled  # by value what stands in a script

        def listen() -> None:
            client.subscribe_topic(topic, lambda event: news.put(Event(*event[1])))

        def submit(task: Any) -> Future[Any]:
            sent = Called(_work, (pickled((travel.run, travel.pack(task))), topic, tell_every))
            needs = {"GPU": gpus} if gpus else None
            key = f"batches-{secrets.token_hex(16)}"
            far = client.submit(pickle.loads, pickled(sent), pure=False, resources=needs, key=key)
            near: Future[Any] = Future()
            near.add_done_callback(lambda near: far.cancel() if near.cancelled() and far.status == "pending" else None)
            submitted.add(far)
            assert client.loop is not None  # it runs
            client.loop.add_callback(_settle, far, near, submitted, where)
            return near

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
        tell_every = max(1.0, len(workers) / STEPS_TOLD)
        if lack := _lack(client, where, gpus):
            say(lack)
        elif any(worker["nthreads"] > 1 for worker in workers):
            say(f"workers of {where} have several threads, of which batches use one: start them with --nthreads 1")
        try:
            size, lacks = max(1, len(workers)), partial(_lack, client, where, gpus)
            yield Pool(submit, news, travel.unpack, _how_lost, 1, is_back, size, SECONDS_PER_TASK, lacks)
        finally:
            client.cancel(list(submitted))


def _lack(client: distributed.Client, where: str, gpus: int) -> str:
    """Say what a cluster lacks without which no task can run; "" if nothing."""
    if client.status != "running":
        return f"the scheduler of {where} does not answer"
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    if not workers:
        return f"{where} has no worker: the run goes on when there is one"
    if gpus and not any(worker["resources"].get("GPU", 0) >= gpus for worker in workers):
        return f'no worker of {where} has the resource GPU: start them with --resources "GPU=1"'
    return ""


@dataclass(frozen=True)
class Called:
    """A call that is made where it is unpickled.

    Each scheduler and worker can read a task that Python's own `pickle.loads` is to unpickle. One that cannot read a
    task, since it lacks this package or has another version of it, ends without a word.
    """

    function: Callable[..., Any]
    given: tuple[Any, ...]

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """Pickle as the call."""
        return self.function, self.given


async def _settle(
    far: distributed.Future[Any], near: Future[Any], submitted: set[distributed.Future[Any]], where: str
) -> None:
    """Give a future of this process what becomes of one of the cluster.

    Dask's own executor does so too, but leaves its future undone where the scheduler goes while a result is on its way.
    """
    result: Any = None
    raised: BaseException | None = None
    try:
        result = await far
    except (CancelledError, asyncio.CancelledError, Exception) as error:
        if isinstance(error, ImportError) or (isinstance(error, AttributeError) and _work.__name__ in str(error)):
            raised = BadInput(f"a worker of {where} lacks this package: {error}; install the same there")
        elif far.status == "error" or not isinstance(error, CancelledError | asyncio.CancelledError | OSError):
            raised = error
        else:  # OSError: the link broke under the result
            near.cancel()
    if near.set_running_or_notify_cancel():  # nobody has cancelled it
        if raised is None:
            near.set_result(result)
        else:
            near.set_exception(raised)
    submitted.discard(far)


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


def _work(task: bytes, topic: str, tell_every: float) -> Any:
    """Run a task in a worker of the cluster, and tell of a step now and then.

    It is given up when nobody waits for it any more.
    """
    import distributed

    try:
        run, packed = pickle.loads(task)  # nosec B301 # from the run that has just called this by the scheduler
    except Exception as error:
        raise BadInput(
            f"{this_worker()} has another version of bdlbench: {one_line(error)}; install the same"
        ) from None
    worker = distributed.get_worker()
    key, looked, told = worker.get_current_task(), 0.0, 0.0

    def report(event: Event) -> None:
        nonlocal looked, told
        now = time.monotonic()
        if now > looked + 1.0:
            state = worker.state.tasks.get(key)
            if state is None or state.state == "cancelled":
                raise Unwanted
            looked = now
        if event.kind in ("step", "predict"):
            if now < told + tell_every:
                return
            told = now
        worker.log_event(topic, tuple(event))

    return run(packed, report)
