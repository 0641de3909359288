"""Tasks that leave the machine: what comes back is what would have been written here."""

from __future__ import annotations

import errno
import os
import queue
import sys
import textwrap
import types
from collections.abc import Iterator
from concurrent.futures import CancelledError, Executor, Future
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bdlbench import api, catalog
from bdlbench.cli import main as cli
from bdlbench.core import files
from bdlbench.records import record as records
from bdlbench.runs import executors, remote, suites
from bdlbench.runs.batch import CHECKPOINTS, Batch, Outcome, Settings, batches
from bdlbench.runs.executors import Pool
from bdlbench.runs.processes import Processes

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")]

QUICK: dict[str, Any] = {"model": "logistic", "dataset": "wine", "seeds": 2, "samples": 2, "device": "cpu"}
TWO: dict[str, Any] = {"method": ["mle", "map"], "set": {"mle": {"epochs": 3}, "map": {"epochs": 3}}, **QUICK}


def content(folder: Path) -> dict[str, Any]:
    """Values and predictions of the records of a folder, which holds nothing else."""
    found: dict[str, Any] = {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".json"}
    return found | {f"{r.name}.json": (r.values, r.failed, r.environment.code) for r in records.read(folder)}


class Here(Executor):
    """An executor of somebody else, in this process."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


@pytest.mark.parametrize("shared", [True, False])
def test_workers_that_share_the_folder_and_those_that_do_not_leave_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared: bool
) -> None:
    """Parameters and records; nothing is left of the mark, of the worker's own folder or of checkpoints."""
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr(remote.tempfile, "tempdir", None)
    (tmp_path / "tmp").mkdir()
    api.run(**TWO, results=tmp_path / "plain", keep_parameters=True)
    if not shared:
        monkeypatch.setattr(remote, "_shares", lambda mark: False)
    told = api.run(**TWO, results=tmp_path / "other", executor=Here(), keep_parameters=True)
    assert len(told.results) == 2 and all(len(one.replicates) == 2 for one in told.results)
    one, other = tmp_path / "plain", tmp_path / "other"
    assert {p.name: p.read_bytes() for p in (one / "parameters").iterdir()} == {
        p.name: p.read_bytes() for p in (other / "parameters").iterdir()
    }
    for folder in (one, other):
        for file in (folder / "parameters").iterdir():
            file.unlink()
        (folder / "parameters").rmdir()
    assert content(one) == content(other)
    assert list((tmp_path / "tmp").iterdir()) == []


PLUGIN = """
    from dataclasses import dataclass
    import sys, pathlib
    sys.path.insert(0, str(pathlib.Path(__file__).parent))
    from {beside} import EPOCHS
    from bdlbench.methods.map import MAP


    @dataclass(frozen=True)
    class Mine(MAP):
        "MAP of a file that imports another one."

        def unsupported(self, model):
            return "" if EPOCHS == 3 else "the file beside it is another"


    methods = {{"mine": Mine}}
"""


def test_plugins_travel_by_content_to_a_process_that_has_no_such_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "entries"
    folder.mkdir()
    (folder / "beside_mine.py").write_text("EPOCHS = 3\n")
    (folder / "mine.py").write_text(textwrap.dedent(PLUGIN.format(beside="beside_mine")))
    chosen: dict[str, Any] = {**QUICK, "method": "mine", "plugin": folder / "mine.py", "set": {"mine": {"epochs": 3}}}
    api.run(**chosen, results=tmp_path / "plain")
    code = records.read(tmp_path / "plain")[0].environment.code
    with Processes(1, os.chdir, (str(tmp_path),), print) as workers:
        sender = remote.AddedEntries.here
        monkeypatch.setattr(remote.AddedEntries, "here", lambda: gone(sender(), folder))
        api.run(**chosen, results=tmp_path / "other", executor=workers)
        assert content(tmp_path / "other") == content(tmp_path / "plain")
        assert records.read(tmp_path / "other")[0].environment.code == code


BESIDE = """
from {beside} import WORDS


class Own:
    summary, unit, better = WORDS, "fraction", "lower"

    def __call__(self, evaluation):
        return {{"": evaluation.y.double().mean(1)}}


metrics = {{"own": Own()}}
"""


def entries_of(folder: Path, monkeypatch: pytest.MonkeyPatch, beside: str, words: str) -> remote.AddedEntries:
    """What travels of a plugin that imports a file beside it, as from the folder in which a program was started."""
    folder.mkdir()
    (folder / f"{beside}.py").write_text(f"WORDS = {words!r}\n")
    (folder / "mine.py").write_text(BESIDE.format(beside=beside))
    catalog.forget_added()
    with monkeypatch.context() as here:
        here.syspath_prepend(str(folder))
        sys.modules.pop(beside, None)
        catalog.add_plugin(folder / "mine.py")
        entries = remote.AddedEntries.here()
        sys.modules.pop(beside)
    catalog.forget_added()
    return entries


def adopted(tmp_path: Path, entries: remote.AddedEntries) -> None:
    """As a worker that has taken a task of another process with these entries."""
    remote.run(remote.Parcel({}, Settings(tmp_path), elsewhere(entries), ("", ""), {}), nobody)


def test_a_worker_that_outlives_a_run_takes_the_file_beside_a_plugin_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its hash would be that of the new file, and its numbers those of the old one."""
    for words in ("one", "another"):
        adopted(tmp_path, entries_of(tmp_path / words, monkeypatch, "beside_entries", words))
        assert catalog.summary("metrics", "own") == words
        (folder,) = remote._folders
        assert folder.is_dir() and str(folder) in sys.path
    adopted(tmp_path, remote.AddedEntries())
    assert not folder.exists() and str(folder) not in sys.path and "beside_entries" not in sys.modules


def test_a_file_whose_name_is_taken_in_a_worker_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Any
) -> None:
    """The worker has imported another module of that name, and would compute with it."""
    entries = entries_of(tmp_path / "entries", monkeypatch, "taken_there", "ours")
    other = types.ModuleType("taken_there")
    other.WORDS = "theirs"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "taken_there", other)
    with refused("worker", "taken_there.py", "mine.py"):
        adopted(tmp_path, entries)
    monkeypatch.delitem(sys.modules, "taken_there")
    adopted(tmp_path, entries)  # what was refused is not taken for held


def test_a_plugin_that_is_a_link_travels_by_its_own_name(tmp_path: Path) -> None:
    (tmp_path / "version_2.py").write_text(METRIC)
    (link := tmp_path / "ours.py").symlink_to(tmp_path / "version_2.py")
    catalog.add_plugin(link)
    adopted(tmp_path, remote.AddedEntries.here())
    assert "own" in catalog.names("metrics") and catalog.plugin_files(["own"])[0].name == "ours.py"


def test_a_worker_whose_own_disk_is_full_costs_its_batches_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(**given: Any) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(remote.tempfile, "TemporaryDirectory", full)
    parcel = remote.Parcel({0: a_batch(), 4: a_batch()}, Settings(tmp_path), elsewhere(), ("", ""), {})
    back = remote.run(parcel, nobody)
    found = remote.Sender(tmp_path, parcel.origin, ("", "")).unpack(parcel.batches, back)
    assert list(found) == [0, 4]
    assert all("mle" in one.unwritten and os.strerror(errno.ENOSPC) in one.unwritten for one in found.values())


def test_a_checkpoint_that_another_run_removes_meanwhile_does_not_travel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch, gone_file = a_batch(), tmp_path / "gone.1.safetensors"
    monkeypatch.setattr(remote.Sender, "_checkpoints", lambda self, batch: [gone_file])
    parcel = remote.Sender(tmp_path, elsewhere(), ("", "")).pack({0: batch}, Settings(tmp_path))
    assert parcel.checkpoints == {}


def gone(entries: remote.AddedEntries, folder: Path) -> remote.AddedEntries:
    """The entries, whose files are no longer where they were."""
    folder.rename(folder.with_name("elsewhere"))
    return entries


def a_batch() -> Batch:
    chosen = suites.Overrides(("mle",), ("logistic",), ("wine",), "2", 2, ("mle.epochs=3",), "cpu")
    (batch,) = batches(suites.build_spec(suites.read_suite("quick"), chosen), [])
    return batch


def elsewhere(entries: remote.AddedEntries | None = None) -> remote.Sending:
    """Another process that has these entries."""
    return remote.Sending(entries or remote.AddedEntries(), "another")


def nobody(*arguments: Any) -> Outcome:
    raise AssertionError("it is not run")


def test_a_worker_of_other_code_is_refused(tmp_path: Path, refused: Any) -> None:
    batch = a_batch()
    code = {batch.cells[0].key: {"bdlbench": "0" * 64}}
    parcel = remote.Parcel({0: batch}, Settings(tmp_path, code=code), elsewhere(), ("", ""), {})
    with refused("worker", "bdlbench"):
        remote.run(parcel, nobody)


def test_a_plugin_that_is_not_what_it_was_is_refused(tmp_path: Path, refused: Any) -> None:
    source = remote.EntryFile("mine.py", {"mine.py": b"methods = {}"}, "0" * 64, (), True, {})
    entries = remote.AddedEntries((source,))
    parcel = remote.Parcel({0: a_batch()}, Settings(tmp_path), elsewhere(entries), ("", ""), {})
    with refused("worker", "mine.py"):
        remote.run(parcel, nobody)
    (file := tmp_path / "ours.py").write_text(METRIC)
    catalog.add_plugin(file)
    file.write_text(METRIC + "\n")
    with refused("plugin", "ours.py", "changed"):
        remote.AddedEntries.here()


METRIC = """
class Own:
    summary, unit, better = "a metric", "fraction", "lower"

    def __call__(self, evaluation):
        return {"": evaluation.y.double().mean(1)}


metrics = {"own": Own()}
"""


def test_a_worker_that_outlives_a_run_forgets_its_plugins(tmp_path: Path) -> None:
    (file := tmp_path / "ours.py").write_text(METRIC)
    catalog.add_plugin(file)
    parcel = remote.Parcel({}, Settings(tmp_path), elsewhere(remote.AddedEntries.here()), ("", ""), {})
    remote.run(parcel, nobody)
    assert "own" in catalog.names("metrics")
    remote.run(remote.Parcel({}, Settings(tmp_path), elsewhere(), ("", ""), {}), nobody)
    assert "own" not in catalog.names("metrics")


def test_an_unfinished_fit_travels_and_what_is_done_is_removed(tmp_path: Path) -> None:
    batch, name = a_batch(), f"{CHECKPOINTS}/{a_batch().key}.1.safetensors"
    files.write_atomic(tmp_path / name, b"half")
    seen: list[bytes] = []

    def run_one(index: int, one: Batch, settings: Settings) -> Outcome:
        held = settings.results / name
        seen.append(held.read_bytes())
        assert settings.results != tmp_path
        if len(seen) == 1:  # it fails, and keeps its fit
            held.write_bytes(b"whole")
        else:
            held.unlink()
        return Outcome([])

    sender = remote.Sender(tmp_path, remote.Sending(remote.AddedEntries()), ("", ""))
    for kept in (True, False):
        parcel = sender.pack({0: batch}, Settings(tmp_path))
        assert sender.unpack({0: batch}, remote.run(parcel, run_one)) == {0: Outcome([])}
        assert (tmp_path / name).exists() == kept
    assert seen == [b"half", b"whole"]


# a scheduler that goes


@contextmanager
def going(news: Any, back: list[bool]) -> Iterator[Pool]:
    """A pool whose executor cancels everything; each time it is asked whether it is back, it takes an answer."""

    def submit(task: Any) -> Future[Any]:
        future: Future[Any] = Future()
        if back and back[0] is None:
            raise CancelledError
        future.cancel()
        future.set_running_or_notify_cancel()
        return future

    yield Pool(submit, news, lambda task, found: found, executors._how_lost, is_back=lambda: back.pop(0))


@pytest.mark.parametrize("back", [[False, False], [True, True, False, False]])
def test_where_the_scheduler_is_lost_the_run_is_incomplete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, back: list[bool]
) -> None:
    monkeypatch.setattr(executors, "workers", lambda *given: going(queue.SimpleQueue(), back))
    words = ["run", "--method=mle", "--method=map", "--model=logistic", "--dataset=wine", "--seeds=2", "--samples=2"]
    assert cli.main([*words, "--device=cpu", "--executor=dask", f"--results={tmp_path}"]) == 4
    err = capsys.readouterr().err
    assert err.count("scheduler") == 2 and back == []


def test_small_batches_travel_together_and_the_longest_go_first() -> None:
    spec = suites.build_spec(suites.read_suite("quick"), suites.Overrides(device="cpu"))
    several = batches(spec, ())[:6]
    seconds = [0.3, 5.0, 0.4, 9.0, 0.5, 0.2]

    def packs(count: int, per_task: float) -> list[list[int]]:
        given: Any = None
        return executors._packs(
            several, seconds, Pool(given, given, given, given, count=count, seconds_per_task=per_task)
        )

    assert packs(1, 0.0) == [[3], [1], [4], [2], [0], [5]]
    together = packs(1, 2.0)
    assert together[:2] == [[3], [1]] and sorted(i for pack in together[2:] for i in pack) == [0, 2, 4, 5]
    assert 1 < len(together[2:]) < 5  # a quarter of the small ones for each
    assert all(len(pack) == 1 for pack in packs(100, 2.0))


@pytest.mark.parametrize("name", ["slurm", "dask//x", "Dask", "dask:no/such/file"])
def test_an_unknown_executor_is_refused(name: str, tmp_path: Path, refused: Any) -> None:
    if name.startswith("dask:"):
        pytest.importorskip("distributed")
    refused.command(["run", "--method=mle", "--model=logistic", "--dataset=wine", f"--executor={name}"], "--executor")


def test_what_is_no_executor_is_refused(refused: Any) -> None:
    with refused("--executor"):
        api.run(**TWO, executor=3)  # type: ignore[arg-type]


def test_a_full_disk_of_a_worker_is_not_that_of_the_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the worker's own disk refuses is lost alone; what the folder of results refuses ends the run."""
    apart = remote._kept_apart(Outcome([], refused="No space left on device"))
    assert "No space left" in apart.unwritten and not apart.refused
    assert remote._kept_apart(Outcome([], "skipped")) == Outcome([], "skipped")

    def full(path: Path, given: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    sender = remote.Sender(tmp_path, elsewhere(), ("", ""))
    (batch,) = batches(suites.build_spec(suites.read_suite("smoke"), suites.Overrides(seeds="1")), [])[:1]
    monkeypatch.setattr(files, "write_atomic", full)
    back = remote.SentBack({0: Outcome([])}, {"a.json": b"{}"}, False)
    assert sender.unpack({0: batch}, back)[0].refused == os.strerror(errno.ENOSPC)


def test_a_search_goes_to_another_process_with_its_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same trials as here, of a plugin that the worker has not."""
    folder = tmp_path / "entries"
    folder.mkdir()
    (folder / "beside_search.py").write_text("EPOCHS = 3\n")
    (folder / "mine.py").write_text(textwrap.dedent(PLUGIN.format(beside="beside_search")))
    (suite := tmp_path / "suite.toml").write_text(SUITE)
    asked: dict[str, Any] = {"budget": 2, "trials": 2, "replicates": 2, "device": "cpu", "plugin": folder / "mine.py"}
    plain = api.tune(suite, **asked, results=tmp_path / "plain")
    with Processes(1, os.chdir, (str(tmp_path),), print) as workers:
        sender = remote.AddedEntries.here
        monkeypatch.setattr(remote.AddedEntries, "here", lambda: gone(sender(), folder))
        other = api.tune(suite, **asked, results=tmp_path / "other", executor=workers)
    assert len(plain.trials) == 6
    assert [replace(row, seconds=0) for row in other.trials] == [replace(row, seconds=0) for row in plain.trials]


SUITE = """
samples = 2
[[grid]]
methods = ["mine"]
models = ["logistic"]
datasets = ["wine"]
"""
