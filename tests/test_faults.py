"""What goes wrong after training, or around it, costs no fit and no other cell, and is said with its place."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bdlbench import catalog
from bdlbench.cli import main as cli
from bdlbench.core import files
from bdlbench.records import record as records
from bdlbench.runs import batch as run
from bdlbench.runs import executors, scoring, suites, work
from bdlbench.runs.executors import Event
from bdlbench.training import checkpoints, optimisers

pytestmark = pytest.mark.slow

METRIC = """
import sys


class Own:
    summary, unit, better = "a metric of one's own", "fraction", "lower"

    def __call__(self, evaluation):
        {body}


metrics = {{"own": Own()}}
"""
GOOD = 'return {"": evaluation.y.double().mean(1)}'
LINE = 9
"""Of `body` in METRIC."""

BODIES = {
    "raises": 'raise ValueError("no")',
    "ends the process": "sys.exit(3)",
    "ends it well": "sys.exit(0)",
    "memory": "raise MemoryError",
    "no name": 'return {"": evaluation.test.arrays()["nothing"].mean(1)}',
}
"""What the last line of a metric does wrong, at LINE."""

SHAPES = {
    "a number": 'return {"": evaluation.y.double().mean()}',
    "one number for each example": 'return {"": evaluation.y.double()}',
    "a float": 'return {"": 0.5}',
    "a row too many": 'return {"": evaluation.y[:, 0].double().repeat(2)}',
    "nothing": "return None",
}
"""What comes back wrong: the class is named."""


@pytest.fixture(autouse=True)
def own_catalog(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_plugins(monkeypatch)


def forget_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "_plugins", {kind: {} for kind in catalog.KINDS})


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Every step of training that is done from now on."""
    done: list[int] = []
    plain = optimisers.adam_step

    def counting(*arguments: Any) -> None:
        done.append(arguments[4])
        plain(*arguments)

    monkeypatch.setattr(optimisers, "adam_step", counting)
    yield done


def words(results: Path, *more: str, methods: tuple[str, ...] = ("map",)) -> list[str]:
    chosen = [word for name in methods for word in ("--method", name, "--set", f"{name}.epochs=3")]
    cell = ["--model=logistic", "--dataset=wine", "--seeds=2", "--samples=2", "--device=cpu", "--jobs=1"]
    return ["run", *chosen, *cell, f"--results={results}", *more]


def plugin(path: Path, body: str) -> str:
    path.write_text(METRIC.format(body=body))
    return f"--plugin={path}"


def kept(results: Path) -> list[str]:
    return sorted(path.name for path in (results / ".checkpoints").glob("*"))


@pytest.mark.parametrize("fault", [*BODIES, *SHAPES])
def test_one_metrics_failure_is_that_metrics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, steps: list[int], fault: str
) -> None:
    results, file = tmp_path / "out", tmp_path / "mine.py"
    assert cli.main(words(results, plugin(file, {**BODIES, **SHAPES}[fault]))) == 4
    out = capsys.readouterr().out
    (line,) = [line for line in out.splitlines() if line.startswith("not scored: ")]
    assert "metric own" in line and f"(mine.py:{LINE if fault in BODIES else 5})" in line
    (record,) = records.read(results)
    assert len(record.replicates) == 2 and not record.failed
    assert "nll" in record.values.metrics and "own" not in record.values.metrics
    assert set(record.unscored) == {"own"}
    assert kept(results)

    trained = len(steps)
    assert trained > 0
    for again in range(2):  # still wrong: still said, and nothing is lost or trained
        forget_plugins(monkeypatch)
        assert cli.main(words(results, f"--plugin={file}")) == 4, again
    forget_plugins(monkeypatch)
    assert cli.main(words(results, plugin(file, GOOD))) == 0
    (mended,) = records.read(results)
    assert len(steps) == trained
    assert len(mended.values.metrics["own"].values) == 2 and not mended.unscored
    rest = {name: entry for name, entry in mended.values.metrics.items() if name != "own"}
    assert replace(mended.values, metrics=rest) == record.values
    assert kept(results) == []


@pytest.mark.parametrize("fault", ["raises", "ends the process", "a number"])
def test_a_metric_that_fails_on_a_file_of_predictions_is_bad_input(tmp_path: Path, refused: Any, fault: str) -> None:
    file, results = tmp_path / "p.npz", tmp_path / "out"
    np.savez(file, probs=np.full((6, 2), 0.5), labels=np.array([0, 1] * 3))
    asked = ["score", str(file), "--method=theirs", "--dataset=own", "--own-data", f"--results={results}"]
    given = plugin(tmp_path / "mine.py", {**BODIES, **SHAPES}[fault])
    refused.command([*asked, given], "metric own", f"mine.py:{LINE if fault in BODIES else 5}")
    assert not list(results.glob("*"))


@pytest.mark.parametrize("fault", ["raises", "ends the process", "ends it well"])
def test_a_metric_that_fails_on_stored_predictions_does_not_end_a_table(
    tmp_path: Path, refused: Any, fault: str
) -> None:
    assert cli.main(words(tmp_path / "out")) == 0
    asked = ["table", str(tmp_path / "out"), "--metrics=own", plugin(tmp_path / "mine.py", BODIES[fault])]
    refused.command(asked, "own", "undefined")


MODEL = """
from dataclasses import dataclass
from bdlbench.models.mlp import Logistic


@dataclass(frozen=True)
class Mine(Logistic):
    "A logistic regression."

    def {word}(self, *arguments):
        raise {error}


models = {{"mine": Mine}}
"""


@pytest.mark.parametrize("error", ["SystemExit(0)", 'KeyError("mean")'])
@pytest.mark.parametrize("word", ["__post_init__", "unsupported", "leaves", "__call__"])
def test_whatever_a_model_raises_is_its_batchs_failure(tmp_path: Path, capsys: Any, word: str, error: str) -> None:
    file = tmp_path / "mine.py"
    file.write_text(MODEL.format(word=word, error=error))
    asked = words(tmp_path / "out", f"--plugin={file}", "--model=mine")
    built = word == "__post_init__"  # asked before there is a cell to fail
    assert cli.main([word for word in asked if word != "--model=logistic"]) == (2 if built else 4)
    out = "".join(capsys.readouterr())
    said = "it calls sys.exit(0)" if "Exit" in error else "KeyError: 'mean'"
    assert said in out and "mine.py:11)" in out


CHANGES = {
    "log-probabilities": "evaluation.test.log_probs.sub_(1)",
    "a part of them": "evaluation.test.log_probs[:, 0] = 0",
    "a row of targets": "evaluation.y[0] = 1",
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_metric_that_changes_what_others_read_fails_the_batch_whose_fit_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, steps: list[int], change: str
) -> None:
    """Its like would change the metrics after it and the stored predictions without a word."""
    results, file = tmp_path / "out", tmp_path / "mine.py"
    assert cli.main(words(results, plugin(file, f"{CHANGES[change]}; {GOOD}"))) == 4
    assert "metric own changes the predictions" in (out := capsys.readouterr().out) and "(mine.py:5)" in out
    trained = len(steps)
    forget_plugins(monkeypatch)
    assert cli.main(words(results, plugin(file, GOOD))) == 0
    assert len(steps) == trained
    assert cli.main(["verify", str(results), f"--plugin={file}"]) == 0


METHOD = """
from dataclasses import dataclass
from bdlbench.methods.mle import MLE


@dataclass(frozen=True)
class Mine(MLE):
    "Maximum likelihood of other data."

    def fit(self, model, data, rng):
        data.{what}
        return super().fit(model, data, rng)


methods = {{"mine": Mine}}
"""


@pytest.mark.parametrize("what", ["x[0].mul_(0)", "y.fill_(0)"])
def test_a_method_that_changes_its_data_fails_and_leaves_the_next_cell_alone(
    tmp_path: Path, capsys: Any, what: str
) -> None:
    """Data are loaded once for all cells: the next one would be trained, or tested, on what this one left."""
    file = tmp_path / "mine.py"
    file.write_text(METHOD.format(what=what))
    assert cli.main(words(tmp_path / "both", f"--plugin={file}", "--method=mine")) == 4
    assert "it changes the data that it is given: clone them (mine.py:" in capsys.readouterr().out
    assert cli.main(words(tmp_path / "alone")) == 0
    (alone,) = records.read(tmp_path / "alone")
    again = next(r for r in records.read(tmp_path / "both") if r.cell.method.name == "map")
    assert again.values == alone.values


def test_what_stored_predictions_do_not_tell_the_kept_fit_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: list[int]
) -> None:
    """A metric of what the model is: undefined for what a record keeps."""
    results, file = tmp_path / "out", tmp_path / "mine.py"
    assert cli.main(words(results, plugin(file, "raise KeyError(3)"))) == 4
    trained = len(steps)
    forget_plugins(monkeypatch)
    body = 'n = evaluation.num_parameters; return {"": evaluation.y[:, 0].double() * 0 + n} if n else {}'
    assert cli.main(words(results, plugin(file, body))) == 0
    (record,) = records.read(results)
    assert record.values.metrics["own"].values == record.values.metrics["parameters"].values
    assert len(steps) == trained and kept(results) == []


def test_without_its_plugin_a_metric_that_failed_does_not_make_a_run_incomplete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    results = tmp_path / "out"
    assert cli.main(words(results, plugin(tmp_path / "mine.py", "raise KeyError(3)"))) == 4
    forget_plugins(monkeypatch)
    assert cli.main(words(results)) == 0
    assert cli.main(["verify", str(results)]) == 4
    assert "metric own: not checked: it has no values: KeyError: 3 (mine.py:9)" in capsys.readouterr().out


@pytest.mark.parametrize("error", [MemoryError("no memory"), RuntimeError("boom"), SystemExit(0)])
def test_a_failure_in_prediction_keeps_the_finished_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, steps: list[int], error: BaseException
) -> None:
    def failing(*arguments: Any) -> None:
        raise error

    results = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(scoring, "evaluate", failing)
        assert cli.main(words(results)) == 4
    said = "it calls sys.exit(0)" if isinstance(error, SystemExit) else type(error).__name__
    assert f"failed: map · logistic · wine, seed 0; seed 1: {said}" in capsys.readouterr().out
    trained = len(steps)
    assert kept(results) and trained > 0
    assert cli.main(words(results)) == 0
    assert len(steps) == trained and kept(results) == []
    alone = tmp_path / "alone"
    assert cli.main(words(alone)) == 0
    assert records.read(results)[0].values == records.read(alone)[0].values


def test_a_fit_that_diverged_is_not_kept(tmp_path: Path) -> None:
    results = tmp_path / "out"
    assert cli.main(words(results, "--set", "map.learning_rate=3e38")) == 4
    assert kept(results) == []


def test_a_record_whose_cell_fails_when_it_is_trained_again_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def failing(*arguments: Any) -> None:
        raise MemoryError

    assert cli.main(words(tmp_path, methods=("map", "mle"))) == 0
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*-map-*")}
    with monkeypatch.context() as patch:
        patch.setattr(scoring, "evaluate", failing)
        assert cli.main(words(tmp_path, "--fresh")) == 4
    place = tmp_path / work.REPLACED
    assert {path.name: path.read_bytes() for path in place.iterdir()} == before
    assert str(place) in capsys.readouterr().err
    assert cli.main(words(tmp_path)) == 0
    assert not place.exists() and len(records.read(tmp_path)) == 2


def test_a_good_record_is_not_lost_by_a_failure_of_the_same_replicates(tmp_path: Path) -> None:
    assert cli.main(words(tmp_path)) == 0
    (record,) = records.read(tmp_path)
    overrides = suites.Overrides(("map",), ("logistic",), ("wine",), "2", 2, ("map.epochs=3",), "cpu")
    (batch,) = run.batches(suites.build_spec(suites.read_suite("quick"), overrides), [])
    assert run.write_failures(batch, run.Settings(tmp_path), "boom") == run.Outcome([])
    assert records.read(tmp_path) == [record]


# the disk


def refusing(ending: str) -> Callable[[Path, bytes], None]:
    """`write_atomic` on a disk that has no room for files of an ending."""
    plain = files.write_atomic

    def write(path: Path, content: bytes) -> None:
        if path.name.endswith(ending):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        plain(path, content)

    return write


@pytest.mark.parametrize("ending", [".1.safetensors", ".json", ".safetensors"])
def test_a_disk_without_room_is_said_and_a_later_run_ends_what_was_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, ending: str, steps: list[int]
) -> None:
    """For checkpoints alone the run is whole; for records it is incomplete, and the fit is kept where there is room."""
    results = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(files, "write_atomic", refusing(ending))
        assert cli.main(words(results)) == (0 if ending == ".1.safetensors" else 4)
    printed = capsys.readouterr()
    assert "No space left on device" in printed.out + printed.err
    trained = len(steps)
    assert cli.main(words(results)) == 0
    (record,) = records.read(results)
    assert len(record.replicates) == 2 and not record.failed
    assert len(steps) == (
        2 * trained if ending == ".safetensors" else trained
    )  # then the checkpoint had no room either


def test_parameters_that_cannot_be_written_are_not_lost_without_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, steps: list[int]
) -> None:
    def refused(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path / "parameters" / "x.safetensors"))

    with monkeypatch.context() as patch:
        patch.setattr(records, "write_parameters", refused)
        assert cli.main(words(tmp_path, "--keep-parameters")) == 4
    assert f"{os.strerror(errno.ENOSPC)}; 1 of 1" in capsys.readouterr().err
    trained = len(steps)
    assert cli.main(words(tmp_path, "--keep-parameters")) == 0
    assert len(steps) == trained and len(list((tmp_path / "parameters").iterdir())) == 1


def test_what_the_system_refuses_is_of_the_folder_or_of_one_file() -> None:
    """A folder that takes nothing ends a run; what a plugin cannot write elsewhere is its cell's failure."""

    def refusal(number: int, place: str | None) -> str:
        return run.refusal(OSError(number, os.strerror(number), place), Path("out"))

    for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM):
        assert refusal(number, "out/.checkpoints/a") == os.strerror(number)
    assert not refusal(errno.EFBIG, "out/a.json")
    assert not refusal(errno.ENOSPC, "/tmp/a.json") and not refusal(errno.ENOSPC, None)
    assert not run.refusal(RuntimeError("out"), Path("out"))


def test_a_checkpoint_is_set_aside_where_the_data_or_the_device_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, steps: list[int]
) -> None:
    results = tmp_path / "out"

    def fail(*arguments: Any) -> None:
        raise RuntimeError("boom")

    with monkeypatch.context() as patch:
        patch.setattr(scoring, "evaluate", fail)
        cli.main(words(results))
    (file,) = (results / ".checkpoints").glob("*")
    plain, trained = run._depends, len(steps)
    monkeypatch.setattr(run, "_depends", lambda *cell: {**plain(*cell), "torch": "1.0"})
    capsys.readouterr()
    assert cli.main(words(results)) == 0
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "aside" in line]
    assert re.search(r"map · logistic · wine: .* torch was 2\S* then and is 1\.0 now", line)
    assert len(steps) == 2 * trained and file.name + checkpoints.ASIDE not in kept(results)


# what lies beside records that are done


def flip(content: bytes) -> bytes:
    return content[:-9] + bytes([content[-9] ^ 4]) + content[-8:]


@pytest.mark.parametrize("methods", [("map",), ("map", "mle")])
@pytest.mark.parametrize("damage", [flip, lambda content: b"", lambda content: content[:100], lambda content: None])
def test_run_and_table_say_what_is_damaged(
    tmp_path: Path, capsys: Any, methods: tuple[str, ...], damage: Callable[[bytes], bytes | None]
) -> None:
    """With several methods, whose predictions the table compares, and with one, whose it does not."""
    assert cli.main(words(tmp_path, methods=methods)) == 0
    (file,) = tmp_path.glob("*-map-*.safetensors")
    spoilt = damage(file.read_bytes())
    if spoilt is None:
        file.unlink()
    else:
        file.write_bytes(spoilt)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    capsys.readouterr()
    for command, code in (
        (words(tmp_path, methods=methods), 4),
        (["table", str(tmp_path)], 0 if spoilt is None else 4),
    ):
        assert cli.main(command) == code
        printed = capsys.readouterr()
        assert file.name in printed.err and "map" in printed.out
        assert "--fresh" in printed.err or spoilt is None
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert cli.main(words(tmp_path, "--fresh", methods=methods)) == 0
    assert cli.main(["table", str(tmp_path)]) == 0


def test_parameters_that_are_not_whole_are_said(tmp_path: Path, capsys: Any) -> None:
    assert cli.main(words(tmp_path, "--keep-parameters")) == 0
    (file,) = (tmp_path / "parameters").glob("*")
    file.write_bytes(file.read_bytes()[:-1])
    assert cli.main(["table", str(tmp_path)]) == 4
    assert file.name in capsys.readouterr().err


# progress


def test_prediction_is_told_as_it_goes(tmp_path: Path) -> None:
    """By samples and blocks of examples, from 0 to 1, for methods that draw, mix or have a closed form."""
    for name, quick in {"mc_dropout": "mc_dropout", "deep_ensemble": "mle", "map": "map"}.items():
        overrides = suites.Overrides(
            (name,), ("mlp",), ("digits",), "1", 40, ("mlp.widths=7", f"{quick}.epochs=1"), "cpu"
        )
        (batch,) = run.batches(suites.build_spec(suites.read_suite("quick"), overrides), [])
        heard: list[float] = []
        run.run_batch(batch, run.Settings(tmp_path), predicting=heard.append)
        assert heard == sorted(heard) and 0 < heard[0] < 0.5 and heard[-1] == pytest.approx(1)
        assert len(heard) >= (8 if name == "mc_dropout" else 2)


# processes


KILLED = """
import os, signal
from dataclasses import dataclass
from bdlbench.methods.map import MAP


@dataclass(frozen=True)
class Killed(MAP):
    "MAP whose process does not survive its fit."

    def fit(self, model, data, rng):
        {body}


methods = {{"{name}": Killed}}
"""
ENDS = {
    "killed": (
        "os.kill(os.getpid(), signal.SIGKILL)",
        "its process was killed by SIGKILL, as the system does where memory runs out, 3 times",
    ),
    "left": ("os._exit(0)", "its process ended by itself, with exit code 0, 3 times"),
    "exited": ("raise SystemExit(3)", "it calls sys.exit(3) (exited.py:12)"),
}


def test_a_worker_that_ends_is_its_batchs_failure(tmp_path: Path) -> None:
    """Three of them in one run, between two batches that are well."""
    files = [tmp_path / f"{name}.py" for name in ENDS]
    for file, (name, (body, _)) in zip(files, ENDS.items(), strict=True):
        file.write_text(KILLED.format(body=body, name=name))
        catalog.add_plugin(file)
    heard: list[Event] = []
    names = ("mle", *ENDS, "map")
    epochs = tuple(f"{name}.epochs=2" for name in names)
    overrides = suites.Overrides(names, ("logistic",), ("wine",), "2", 2, epochs, "cpu")
    planned = work.plan(suites.build_spec(suites.read_suite("quick"), overrides), run.Settings(tmp_path / "out"))
    job = work.prepare(planned)
    outcomes = work.perform(job, 2, heard.append)
    found = {record.cell.method.name: record for outcome in outcomes for record in outcome.records}
    assert set(found) == set(names)
    assert {name: set(found[name].failed.values()) for name in ENDS} == {
        name: {reason} for name, (_, reason) in ENDS.items()
    }
    assert all(len(found[name].replicates) == 2 for name in ("mle", "map"))
    assert records.read(tmp_path / "out")
    assert len(job.batches) == len(names)
    for i in range(len(names)):
        told = [event.kind for event in heard if event.batch == i]
        assert (told[0], told[-1]) == ("start", "end")
        assert set(told[1:-1]) <= {"step", "predict", "note"}  # a busy machine is slow enough to tell of a prediction
        assert told.count("note") == (2 if names[i] in ("killed", "left") else 0)


def test_workers_that_cannot_start_are_one_line(tmp_path: Path, refused: Any) -> None:
    """A plugin that is gone when the workers want it: no batch is blamed."""
    file = tmp_path / "gone.py"
    file.write_text(KILLED.format(body="return None", name="killed"))
    catalog.add_plugin(file)
    file.unlink()
    job = work.plan(
        suites.build_spec(
            suites.read_suite("quick"), suites.Overrides(("mle", "map"), ("logistic",), ("wine",), "2", 2, (), "cpu")
        ),
        run.Settings(tmp_path / "out"),
    )
    with refused("plugin", "gone.py", "exist"):
        executors.execute(job.batches, run.Settings(tmp_path / "out"), 2)
    assert not list((tmp_path / "out").glob("*.json"))
