"""Batches on a Dask cluster: the bits are those of this process, and what is lost is run again."""

from __future__ import annotations

import json
import os
import signal
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bdlbench import api
from bdlbench.records import record as records
from bdlbench.runs import remote

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
