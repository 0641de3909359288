"""Batches on a Dask cluster: the bits are those of this process, and what is lost is run again."""

from __future__ import annotations

import asyncio
import json
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bdlbench import api
from bdlbench.cli.main import main
from bdlbench.records import record as records
from bdlbench.reproduce import papers
from bdlbench.runs import cluster as clusters
from bdlbench.runs import executors, remote, search
from bdlbench.runs.executors import Event, Pool

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

QUICK: dict[str, Any] = {"model": "logistic", "dataset": "wine", "seeds": 2, "samples": 2, "device": "cpu"}
TWO: dict[str, Any] = {"method": ["mle", "map"], "set": {"mle": {"epochs": 3}, "map": {"epochs": 3}}, **QUICK}


def dask() -> Any:
    """The library, or a skip; where $BDLBENCH_EXTRAS says that it is installed, a failure."""
    try:
        import distributed
    except ImportError as error:
        if os.environ.get("BDLBENCH_EXTRAS"):
            raise
        pytest.skip(f"distributed is not installed: {error}")
    return distributed


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A scheduler and three workers, all threads of this process, which talk by TCP."""
    local = {"processes": False, "protocol": "tcp", "dashboard_address": None, "threads_per_worker": 1}
    with dask().LocalCluster(n_workers=3, memory_limit=0, **local) as made:
        yield made


def content(folder: Path) -> dict[str, Any]:
    """Values and predictions of the records of a folder, which holds nothing else."""
    found: dict[str, Any] = {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".json"}
    return found | {f"{r.name}.json": (r.values, r.failed, r.environment.code) for r in records.read(folder)}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The content of a run in this process."""
    folder = tmp_path_factory.mktemp("plain")
    api.run(**TWO, results=folder)
    return content(folder)


@pytest.mark.parametrize("shared", [True, False])
def test_a_cluster_gives_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cluster: Any, plain: dict[str, Any], shared: bool, capsys: Any
) -> None:
    """Named by its address and by its file; workers that share the folder of results, and those that do not."""
    if not shared:
        monkeypatch.setattr(remote, "_shares", lambda mark: False)
    name = cluster.scheduler_address.replace("tcp:", "dask:")
    if not shared:
        (tmp_path / "scheduler.json").write_text(json.dumps({"address": cluster.scheduler_address}))
        name = f"dask:{tmp_path / 'scheduler.json'}"
    api.run(**TWO, results=tmp_path / "out", executor=name, progress=True)
    assert content(tmp_path / "out") == plain
    said = capsys.readouterr().err
    assert all(f"[{i}/2]" in said for i in (1, 2)) and "2 replicates," in said


def test_without_a_scheduler_it_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Any) -> None:
    dask()
    monkeypatch.setattr("bdlbench.runs.cluster.CONNECT_SECONDS", 0.5)
    words = ["run", "--method=mle", "--model=logistic", "--dataset=wine", f"--results={tmp_path}", "--seeds=1"]
    refused.command([*words, "--executor=dask://127.0.0.1:9"], "dask://127.0.0.1:9")
    refused.command([*words, "--executor=dask:none.json"], "none.json")
    for text in ("{", "[]", "{}", '{"address": 3}'):
        (file := tmp_path / "bad.json").write_text(text)
        refused.command([*words, f"--executor=dask:{file}"], "bad.json")
        file.unlink()
    assert list(tmp_path.iterdir()) == []


def test_without_the_library_it_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Any) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    words = ["run", "--method=mle", "--model=logistic", "--dataset=wine", f"--results={tmp_path}", "--seeds=1"]
    refused.command([*words, "--executor=dask"], "distributed", "bdlbench[dask]")


KILLED_ONCE = """
    import os, pathlib, signal
    from dataclasses import dataclass
    from bdlbench.methods.map import MAP


    @dataclass(frozen=True)
    class Once(MAP):
        "MAP whose process is killed once in its fit."

        def fit(self, model, data, rng):
            mark = pathlib.Path({mark!r})
            if not mark.exists():
                mark.touch()
                os.kill(os.getpid(), {signal})
            return super().fit(model, data, rng)


    methods = {{"once": Once}}
"""


def test_a_worker_of_a_cluster_that_is_killed_loses_nothing(tmp_path: Path) -> None:
    """Real worker processes of a cluster on this machine, which get the plugin by content."""
    dask()
    (file := tmp_path / "once.py").write_text(
        textwrap.dedent(KILLED_ONCE.format(mark=str(tmp_path / "mark"), signal=int(signal.SIGKILL)))
    )
    chosen: dict[str, Any] = {**QUICK, "method": ["once", "mle"], "plugin": file, "set": {"once": {"epochs": 3}}}
    told = api.run(**chosen, results=tmp_path / "out", executor="dask", jobs=2)
    assert (tmp_path / "mark").exists()
    assert [len(one.replicates) for one in told.results] == [2, 2] and not any(one.failed for one in told.results)


def test_a_worker_without_this_package_is_named_and_stays(tmp_path: Path, capsys: Any) -> None:
    """Neither it nor its scheduler may end because it cannot read a task: others use them."""
    (tmp_path / "lacking").mkdir()
    (tmp_path / "lacking" / "bdlbench.py").write_text("raise ModuleNotFoundError(\"No module named 'bdlbench'\")")
    with dask().LocalCluster(n_workers=0, processes=False, protocol="tcp", dashboard_address=None) as made:
        command = [sys.executable, "-c", "from distributed.cli.dask_worker import main; main()", made.scheduler_address]
        worker = subprocess.Popen(
            [*command, "--nthreads=1", "--no-nanny", "--no-dashboard"],
            cwd=tmp_path / "lacking",
            env={**os.environ, "PYTHONPATH": str(tmp_path / "lacking")},
            stderr=subprocess.DEVNULL,
        )
        try:
            words = ["run", "--method=mle", "--model=logistic", "--dataset=wine", "--seeds=1", "--device=cpu"]
            address = made.scheduler_address.replace("tcp:", "dask:")
            assert main([*words, f"--results={tmp_path / 'out'}", f"--executor={address}"]) == 2
            assert "worker" in (said := capsys.readouterr().err.splitlines()[-1]) and "'bdlbench'" in said
            assert worker.poll() is None
        finally:
            worker.kill()
            worker.wait()


def test_a_worker_of_another_version_says_so(refused: Any) -> None:
    dask()
    with refused("worker", "version", "none_such"):
        clusters._work(b"cbdlbench.runs.executors\nnone_such\n.", "", 1.0)


@pytest.mark.parametrize(
    ("status", "error", "is_lost"),
    [
        ("cancelled", CancelledError(), True),
        ("finished", OSError("the link broke under the result"), True),
        ("error", OSError("the task met a full disk"), False),
        ("error", ValueError("of the task"), False),
        ("finished", None, False),
    ],
)
def test_a_future_is_done_whatever_becomes_of_a_task(status: str, error: Exception | None, is_lost: bool) -> None:
    class Far:
        def __init__(self) -> None:
            self.status = status

        def __await__(self) -> Any:
            yield from ()
            if error is not None:
                raise error
            return "a result"

    heard: list[Future[Any]] = []
    (near := Future[Any]()).add_done_callback(heard.append)
    far: Any = Far()
    asyncio.run(clusters._settle(far, near, submitted := {far}, "dask"))
    assert heard == [near] and submitted == set() and near.cancelled() == is_lost
    if not is_lost:
        assert near.exception() is error and (error or near.result() == "a result")
    (unwanted := Future[Any]()).cancel()
    asyncio.run(clusters._settle(far, unwanted, {far}, "dask"))
    assert unwanted.cancelled()


def test_a_worker_tells_of_a_step_now_and_then_and_of_all_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two hundred workers that told of ten steps a second would be all that a scheduler hears."""
    told: list[tuple[Any, ...]] = []
    state = SimpleNamespace(tasks={"key": SimpleNamespace(state="executing")})
    worker = SimpleNamespace(state=state, get_current_task=lambda: "key", log_event=lambda topic, one: told.append(one))
    monkeypatch.setattr(dask(), "get_worker", lambda: worker)
    monkeypatch.setattr(clusters, "pickle", SimpleNamespace(loads=lambda task: (run, None)))

    def run(packed: None, report: executors.Report) -> None:
        report(Event(0, "a", "start"))
        for done in range(50):
            report(Event(0, "a", "step", done, 50))
            report(Event(0, "a", "note", text=str(done)))

    clusters._work(b"", "topic", 5.0)
    kinds = [one[2] for one in told]
    assert (kinds.count("start"), kinds.count("step"), kinds.count("note")) == (1, 1, 50)


def test_it_is_said_once_that_nobody_is_left_to_work(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(executors, "QUIET", 0.01)
    lacks = iter(["no worker", "no worker", "", "no worker"])
    news: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def lacking() -> str:
        lack = next(lacks, None)
        if lack is None:
            news.put(Event(0, "", "end"))
        return lack or ""

    given: Any = None
    assert Pool(given, news, given, given, lacks=lacking).heard() == Event(0, "", "end")
    assert capsys.readouterr().err.count("no worker") == 2


def test_a_run_waits_for_the_first_worker_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with dask().LocalCluster(n_workers=0, processes=False, protocol="tcp", dashboard_address=None) as made:
        said: list[str] = []
        monkeypatch.setattr(clusters, "say", lambda line: (said.append(line), made.scale(1)))
        told = api.run(**TWO, results=tmp_path, executor=made.scheduler_address.replace("tcp:", "dask:"))
    assert [len(one.replicates) for one in told.results] == [2, 2]
    assert "no worker" in said[0]


def certificate(folder: Path, name: str) -> dict[str, str]:
    """A key and a certificate that signs itself, by the command of docs/clusters.md, as Dask's configuration."""
    if (openssl := shutil.which("openssl")) is None:
        pytest.skip("openssl is not installed")
    key, own = folder / f"{name}-key.pem", folder / f"{name}-cert.pem"
    words = [*TLS.group(1).replace("\\\n", "").split()[1:]]
    words = [
        {"key.pem": str(key), "cert.pem": str(own)}.get(word, word).replace("10.0.0.1", "127.0.0.1") for word in words
    ]
    subprocess.run([openssl, *words], check=True, capture_output=True)
    return {"ca_file": str(own), "client__cert": str(own), "client__key": str(key)}


PAGE = (Path(__file__).parents[2] / "docs" / "clusters.md").read_text("utf-8")
TLS = re.search(r"^(openssl req .*?-out cert\.pem)$", PAGE, re.DOTALL | re.MULTILINE) or pytest.fail("no command")


@pytest.fixture
def trusting(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[dict[str, str]], None]]:
    """Set the certificates of clients, as docs/clusters.md says: by the environment."""
    dask()
    from dask import config

    def trust(files: dict[str, str]) -> None:
        for name, file in files.items():
            variable = f"DASK_DISTRIBUTED__COMM__TLS__{name.upper()}"
            assert variable in PAGE
            monkeypatch.setenv(variable, file)
        config.refresh()

    yield trust
    monkeypatch.undo()
    config.refresh()


def test_a_cluster_with_certificates_lets_in_who_has_one(
    tmp_path: Path, plain: dict[str, Any], trusting: Callable[[dict[str, str]], None], refused: Any, monkeypatch: Any
) -> None:
    """A scheduler and a worker whose links are encrypted; others are turned away, with one line."""
    ours, others = certificate(tmp_path, "ours"), certificate(tmp_path, "others")
    paths = {
        f"tls_{kind}_{what}": ours[f"client__{what}"]
        for kind in ("scheduler", "worker", "client")
        for what in ("cert", "key")
    }
    keys = dask().Security(tls_ca_file=ours["ca_file"], require_encryption=True, **paths)
    quiet: dict[str, Any] = {"processes": False, "dashboard_address": None, "threads_per_worker": 1, "memory_limit": 0}
    words = ["run", "--method=mle", "--model=logistic", "--dataset=wine", "--seeds=1", f"--results={tmp_path}"]
    with dask().LocalCluster(n_workers=1, protocol="tls", host="127.0.0.1", security=keys, **quiet) as made:
        assert made.scheduler_address.startswith("tls://")
        trusting(ours)
        api.run(**TWO, results=tmp_path / "out", executor=f"dask:{made.scheduler_address}")
        assert content(tmp_path / "out") == plain
        monkeypatch.setattr(clusters, "CONNECT_SECONDS", 2.0)
        trusting(others)
        refused.command([*words, f"--executor=dask:{made.scheduler_address}"], "--executor", made.scheduler_address)
        plainly = made.scheduler_address.replace("tls:", "dask:")
        refused.command([*words, f"--executor={plainly}"], "--executor", plainly)


SUITE = """
title = "two batches"
version = 1
selection = "none"
seeds = "2"
samples = 2
[[grid]]
methods = ["mle", "map"]
models = ["logistic"]
datasets = ["wine"]
[grid.options]
mle = { epochs = 3 }
map = { epochs = 3 }
"""

PAPER = """
title = "A paper"
citation = "Somebody 2020, Table 3"
suite = "suite.toml"
"""

CLAIM = """
from matplotlib.figure import Figure
from bdlbench.runs.suites import Grid, Suite
from bdlbench.stats.hypotheses import Statement, over_replicates
from bdlbench.studies.experiment import Experiment, Setup

options = {"mle": {"epochs": [3]}, "map": {"epochs": [3]}}
suite = Suite("t", 1, 2, 2, (Grid(("mle", "map"), ("logistic",), ("wine",), options),), splits="one")


def statements(measured):
    return [Statement("nll", over_replicates(measured.where(method="map").values("nll")), high=10.0)]


claims = {"mine": Experiment("T", "Ok, but why", "h", "p", Setup(suite, "w"), statements, lambda m: Figure(), "a")}
"""


def made(command: str, where: Path, *words: str) -> dict[str, Any]:
    """What a command leaves that is to be the same whoever trains: records with predictions, or trials."""
    given = {"claims": "claim.py", "reproduce": "paper.toml", "tune": "--config=suite.toml"}[command]
    budget = ("--trials=2", "--budget=2", "--replicates=2", "--method=mle") if command == "tune" else ()
    assert main([command, given, *budget, f"--results={where}", "--device=cpu", *words]) in (0, 1)
    if command == "tune":
        return {row.cell + str(row.replicate): replace(row, seconds=0.0) for row in search.read(where / "suite.csv")}
    (folder,) = {file.parent for file in where.rglob("wine-*.json")}
    predictions = {file.name: file.read_bytes() for file in folder.glob("*.safetensors")}
    return predictions | {one.name: (one.values, one.failed, one.environment.code) for one in records.read(folder)}


@pytest.mark.parametrize("command", ["claims", "reproduce", "tune"])
def test_other_commands_give_the_same_on_a_cluster(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cluster: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "suite.toml").write_text(SUITE)
    (tmp_path / "claim.py").write_text(CLAIM)
    (tmp_path / "paper.toml").write_text(PAPER)
    rows = [",".join(papers.COLUMNS), "3,MLE,wine,nll,0.1,0.01,standard error,20,mle,,,,,the paper"]
    (tmp_path / "paper.csv").write_text("\n".join(rows) + "\n")
    address = cluster.scheduler_address.replace("tcp:", "dask:")
    sent: list[Any] = []
    called = clusters.Called
    monkeypatch.setattr(clusters, "Called", lambda *given: sent.append(given) or called(*given))
    plain = made(command, tmp_path / "plain", "--jobs=1")
    assert not sent and len(plain) >= 4
    assert made(command, tmp_path / "far", f"--executor={address}") == plain
    assert sent


@pytest.mark.parametrize("words", [["claims"], ["reproduce", "ols"], ["tune", "--budget=2"], ["run"]])
def test_an_executor_that_is_none_is_refused_by_all_commands_that_take_one(
    words: list[str], tmp_path: Path, refused: Any
) -> None:
    refused.command([*words, f"--results={tmp_path}", "--executor=slurm"], "--executor", "slurm")
    assert list(tmp_path.iterdir()) == []
