"""Worker processes: a task whose process ends is lost alone, and is run again by another process."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Executor, Future
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bdlbench.core.errors import BadInput, BenchError, Unwritten
from bdlbench.records import record as records
from bdlbench.runs import executors, processes, suites
from bdlbench.runs.batch import Batch, Outcome, Settings, batches
from bdlbench.runs.executors import Event
from bdlbench.runs.processes import Processes, WorkerLost

pytestmark = pytest.mark.slow


# what workers run here imports no torch, so that they start at once
NOTHING = os.getpid


def test_each_process_runs_its_tasks_and_only_the_task_of_one_that_ends_is_lost() -> None:
    heard: list[Any] = []
    with Processes(2, NOTHING, (), heard.append) as pool:
        for news in ("a", "b"):
            pool.submit(processes.tell, news).result()
        assert heard == ["a", "b"]
        lost = {
            "killed by SIGKILL, as": pool.submit(signal.raise_signal, signal.SIGKILL),
            "killed by SIGSEGV": pool.submit(signal.raise_signal, signal.SIGSEGV),
            "exit code 7": pool.submit(os._exit, 7),
        }
        well = pool.submit(os.getpid)
        for words, future in lost.items():
            with pytest.raises(WorkerLost, match=words):
                future.result()
        assert well.result() != os.getpid()
        with pytest.raises(RuntimeError, match="lock"):
            pool.submit(threading.Lock).result()
        with pytest.raises(TypeError, match="getpid"):
            pool.submit(os.getpid, 1).result()
        idle = pool.submit(os.getpid).result()
        os.kill(idle, signal.SIGKILL)  # with nothing to do: no task is lost
        while any(child.pid == idle and child.is_alive() for child in pool._children.values()):
            time.sleep(0.01)
        assert {pool.submit(os.getpid).result() for _ in range(4)}.isdisjoint({idle})
    with pytest.raises(RuntimeError, match="ended"):
        pool.submit(os.getpid)


def test_processes_that_are_ended_leave_no_task_running() -> None:
    pool = Processes(1, NOTHING, (), print)
    child = pool.submit(os.getpid).result()
    long, waiting = pool.submit(time.sleep, 1000), pool.submit(os.getpid)
    while not long.running():
        time.sleep(0.01)
    pool.end()
    with pytest.raises(WorkerLost, match="SIGTERM"):
        long.result(20)
    assert waiting.cancelled()
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


def test_no_batch_begins_once_the_folder_takes_no_more(tmp_path: Path) -> None:
    """Of four: the first is refused, the second runs and is written, the third has not begun, the worker of the fourth
    is lost afterwards.
    """
    chosen = suites.Overrides(
        ("mle", "map", "mc_dropout", "swag"), ("logistic",), ("wine",), "2", 2, ("mle.epochs=1",), "cpu"
    )
    four = batches(suites.build_spec(suites.read_suite("quick"), chosen), [])
    news: Any = executors.queue.SimpleQueue()
    futures: list[Future[Any]] = []

    def submit(task: Any) -> Future[Any]:
        futures.append(Future())
        if len(futures) == len(four):
            for i in (0, 1, 3):
                futures[i].set_running_or_notify_cancel()
                news.put(Event(i, "", "start"))
            futures[0].set_result({0: Outcome([], refused="No space left on device")})
            news.put(Event(1, "", "step", 1, 2))
            threading.Timer(0.1, futures[1].set_result, [{1: Outcome([])}]).start()
            threading.Timer(0.2, futures[3].set_exception, [WorkerLost("its process was killed by SIGKILL")]).start()
        return futures[-1]

    heard: list[Event] = []
    pool = executors.Pool(submit, news, lambda task, found: found, executors._how_lost)
    outcomes = executors._Run(four, Settings(tmp_path), pool, heard.append).finish([1.0] * 4)
    assert [bool(outcome.refused) for outcome in outcomes] == [True, False, True, True]
    assert futures[2].cancelled() and len(futures) == 4
    assert not [event for event in heard if event.batch == 2 or event.kind == "note"]
    with pytest.raises(Unwritten, match="3 of 4") as raised:
        executors._written(four, outcomes, Settings(tmp_path))
    assert raised.value.exit_code == 4


ENDED_WHILE_IT_STARTS = """
import os, sys, threading, time
from multiprocessing import util
from bdlbench.runs.processes import Processes

plain, begun = util.spawnv_passfds, threading.Event()
def slow(path, words, handles):
    child = plain(path, words, handles)
    if any("spawn_main" in str(word) for word in words):
        begun.set()
        time.sleep(0.3)  # a busy machine: what the worker is to do is written after this
    return child
util.spawnv_passfds = slow

if __name__ == "__main__":
    pool = Processes(1, os.getpid, (), print)
    pool.submit(os.getpid)
    begun.wait()
    pool.end()
    sys.exit(130)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="it starts workers in another way")
def test_a_worker_that_starts_while_the_process_ends_says_nothing(tmp_path: Path) -> None:
    (script := tmp_path / "ends.py").write_text(ENDED_WHILE_IT_STARTS)
    found = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60, check=False)
    assert (found.returncode, found.stderr) == (130, "")  # its end waits for the worker's, which has the same stderr


def _tells_nobody() -> None:
    ours, theirs = multiprocessing.Pipe()
    ours.close()
    processes._link = theirs
    try:
        processes.tell("news")
    except Exception:
        os._exit(7)  # a task would make a failure of it


def test_a_worker_whose_parent_is_gone_ends_and_writes_no_failure() -> None:
    process = multiprocessing.get_context("spawn").Process(target=_tells_nobody)
    process.start()
    process.join(60)
    assert process.exitcode == 1


class Uncertain(Executor):
    """An executor here, whose worker is lost as often as `losses` says of each batch."""

    def __init__(self, losses: list[int], begins: bool, news: Any) -> None:
        self.left, self.begins, self.news = dict(enumerate(losses)), begins, news

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        (task,) = args
        index = min(task.batches, key=lambda i: -self.left[i])
        if self.begins:
            self.news.put(Event(index, "", "start"))
        if self.left[index]:
            self.left[index] -= 1
            future.set_exception(WorkerLost("its process was killed by SIGKILL"))
        else:
            future.set_result(fn(task))
        return future


def two_batches() -> list[Batch]:
    chosen = suites.Overrides(("mle", "map"), ("logistic",), ("wine",), "2", 2, ("mle.epochs=1",), "cpu")
    return batches(suites.build_spec(suites.read_suite("quick"), chosen), [])


def spread(losses: list[int], folder: Path, begins: bool = True) -> tuple[list[Outcome], list[Event]]:
    news: Any = executors.queue.SimpleQueue()
    uncertain = Uncertain(losses, begins, news)
    submit = partial(uncertain.submit, lambda task: {i: Outcome([], str(i)) for i in task.batches})
    pool = executors.Pool(submit, news, lambda task, found: found, executors._how_lost)
    heard: list[Event] = []
    return executors._Run(two_batches(), Settings(folder), pool, heard.append).finish([1.0, 1.0]), heard


def test_a_batch_whose_worker_is_lost_is_run_again_and_fails_alone_in_the_end(tmp_path: Path) -> None:
    outcomes, heard = spread([2, 0], tmp_path)
    assert outcomes == [Outcome([], "0"), Outcome([], "1")] and not list(tmp_path.iterdir())
    assert [event.kind for event in heard if event.batch == 0] == ["start", "note", "note", "end"]
    outcomes, heard = spread([0, 3], tmp_path)
    assert outcomes[0] == Outcome([], "0")
    (record,) = records.read(tmp_path)
    assert outcomes[1].records == [record] and record.cell.method.name == "map"
    assert set(record.failed.values()) == {"its process was killed by SIGKILL, 3 times"}
    with pytest.raises(BenchError) as raised:
        spread([0, 3], tmp_path, begins=False)
    assert not isinstance(raised.value, BadInput)


KILLED_ONCE = """
import os, pathlib, signal
from dataclasses import dataclass
from bdlbench.methods.map import MAP


@dataclass(frozen=True)
class Once(MAP):
    "MAP whose process is killed once in the middle of its fit."

    def fit(self, model, data, rng):
        mark = pathlib.Path({mark!r})
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().fit(model, data, rng)


methods = {{"once": Once}}
"""


def test_a_run_whose_worker_is_killed_once_is_whole(tmp_path: Path, capsys: Any) -> None:
    from bdlbench.cli import main as cli

    (file := tmp_path / "once.py").write_text(KILLED_ONCE.format(mark=str(tmp_path / "mark")))
    words = ["run", "--method=once", "--method=mle", "--model=logistic", "--dataset=wine", "--seeds=2", "--samples=2"]
    words += ["--set=once.epochs=3", "--set=mle.epochs=3", "--device=cpu", "--jobs=2", f"--plugin={file}"]
    assert cli.main([*words, f"--results={tmp_path / 'out'}"]) == 0
    assert "SIGKILL" in capsys.readouterr().err
    made = records.read(tmp_path / "out")
    assert sorted(len(record.replicates) for record in made) == [2, 2] and not any(record.failed for record in made)
