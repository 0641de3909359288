"""The command line from outside: what it prints, where, with which exit code, and what it leaves on disk."""

from __future__ import annotations

import io
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bdlbench import api, catalog
from bdlbench.cli import listing
from bdlbench.cli import main as cli
from bdlbench.core import files
from bdlbench.core.errors import BadInput
from bdlbench.data import downloads
from bdlbench.peers import work as peer_work
from bdlbench.peers import works
from bdlbench.records import record as records
from bdlbench.records.contents import Environment
from bdlbench.records.record import Record
from bdlbench.report import tables
from bdlbench.runs import batch as run
from bdlbench.runs import executors, progress, scoring, suites, work

ROOT = Path(__file__).resolve().parents[1]
TINY = ["--dataset", "wine", "--model", "logistic", "--samples", "2", "--jobs", "1"]
METHODS = ("mle", "map")

BROKEN = """
from __future__ import annotations
from dataclasses import dataclass, replace
from bdlbench.methods.mle import MLE
from bdlbench.core.options import option

@dataclass(frozen=True)
class Raises:
    \"\"\"Always fails.\"\"\"
    epochs: int = option(1, "passes", low=1)
    def unsupported(self, model): return None
    def fit(self, model, data, rng): raise ValueError("boom, as planned")

@dataclass(frozen=True)
class Unfit:
    \"\"\"Fits nothing.\"\"\"
    def unsupported(self, model): return "it is picky"
    def fit(self, model, data, rng): raise AssertionError

@dataclass(frozen=True)
class Diverges:
    \"\"\"Leaves the finite numbers in the row of seed 1.\"\"\"
    def unsupported(self, model): return None
    def fit(self, model, data, rng):
        posterior = MLE(epochs=1).fit(model, data, rng)
        next(iter(posterior.state.values()))[1] = float("nan")
        return posterior

methods = {"raises": Raises, "unfit": Unfit, "diverges": Diverges}
"""


@pytest.fixture(autouse=True)
def _quiet_catalog(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Plugins of one test are not those of the next; no test sees the caller's results folder."""
    monkeypatch.setattr(catalog, "_plugins", {kind: {} for kind in catalog.KINDS})
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return tmp_path / "results"


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by the number of rows of every batch that is run."""
    counts: list[int] = []

    def counting(batch: run.Batch, *rest: Any) -> run.Outcome:
        counts.append(len(batch.rows))
        return run.run_batch(batch, *rest)

    monkeypatch.setattr(executors, "run_batch", counting)
    return counts


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    path = tmp_path / "broken.py"
    path.write_text(BROKEN)
    return path


def train(results: Path, *extra: str) -> int:
    epochs = [word for name in METHODS if name in extra for word in ("--set", f"{name}.epochs=1")]
    return cli.main(["run", *TINY, *epochs, "--results", str(results), *extra])


def stored(folder: Path) -> dict[tuple[str, int], tuple[Any, ...]]:
    """All that is deterministic, by method and seed: every metric, the parameters' hash, the predictions."""
    found: dict[tuple[str, int], tuple[Any, ...]] = {}
    for record in records.read(folder):
        arrays = records.predictions(folder, record)
        for i, replicate in enumerate(record.replicates):
            metrics = {name: entry.values[i] for name, entry in record.values.metrics.items()}
            others = replace(record.values.take([i]), metrics={})
            rows = {name: value.select(records.row_axis(name), i).tolist() for name, value in arrays.items()}
            found[record.cell.method.name, replicate.seed] = (metrics, others, rows)
    return found


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    """The error: one line on stderr, nothing on stdout."""
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1 and err.startswith("bdlbench: ")
    assert "Traceback" not in err
    return err.strip()


# help and list


def test_help_imports_nothing_heavy_and_is_quick() -> None:
    heavy = ("torch", "numpy", "pandas", "scipy", "sklearn", "seaborn", "safetensors")
    code = f"""
import sys
from bdlbench.cli.main import main
assert main(["--help"]) == main(["run", "--help"]) == main([]) == 0
assert not [name for name in {heavy} if name in sys.modules]
"""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    for word in ("run", "list", "table", "compare", "rank", "data", "score", "report", "--fresh", "--set", "--dry-run"):
        assert word in done.stdout
    assert after.ru_utime - before.ru_utime < 0.6  # thrice the help, of which each is to take less than 0.3 s


@pytest.mark.parametrize("kind", listing.LISTED)
def test_list_names_every_entry(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list", kind]) == 0
    lines = capsys.readouterr().out.splitlines()
    known = suites.suite_names() if kind == "suites" else catalog.names(kind)  # type: ignore[arg-type]
    known = [*known, *tables.COSTS] if kind == "metrics" else known
    assert [line.split()[0] for line in lines] == known
    assert all(len(line.split()) > 2 for line in lines)


def test_list_everything_with_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list", "--options"]) == 0
    out = capsys.readouterr().out
    assert "  mle " in out and "  quick " in out
    assert "mle.epochs = 60: passes over the training data ([1, inf])" in out
    assert "mle.learning_rate = 0.001: Adam's step size ((0, inf); a sweep is one batch)" in out
    assert "mean_field_vi.estimator = local: how noise enters a linear map (local or weight or flipout)" in out
    assert "deep_ensemble.member = mle: method of each member; its own options apply (one of the methods)" in out


@pytest.mark.parametrize("kind", listing.LISTED)
def test_list_one_entry(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    name = {"methods": "mle", "models": "mlp", "datasets": "wine", "metrics": "ece", "suites": "quick"}[kind]
    assert cli.main(["list", kind, name]) == 0
    assert capsys.readouterr().out.startswith(f"{name}: ")
    assert cli.main(["list", kind, "nothing_at_all"]) == 2
    assert "nothing_at_all" in one_line(capsys)


# run


def test_run_prints_the_table_and_where_records_are(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(results, "--method", "mle", "--method", "map", "--seeds", "2") == 0
    out, err = capsys.readouterr()
    assert out.startswith("wine · logistic · M = 2\n")
    assert [line.split()[0] for line in out.splitlines() if line[:3] in ("mle", "map")] == ["mle", "map"]
    assert f"4 replicates of 2 cells in {results}; 4 had to be trained now" in out
    assert "[1/2] mle · logistic · wine: 2 replicates …" in err
    assert "[2/2] map · logistic · wine: 2 replicates, " in err
    assert len(list(results.glob("*.json"))) == 2
    assert not list((results / ".checkpoints").glob("*"))


def test_only_what_is_missing_is_computed(
    results: Path, computed: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(results, "--method", "mle", "--seeds", "5") == 0
    before = tree(results)
    assert train(results, "--method", "mle", "--seeds", "5") == 0
    assert (computed, tree(results)) == ([5], before)
    assert "5 replicates of 1 cells" in capsys.readouterr().out
    assert train(results, "--method", "mle", "--seeds", "8") == 0
    assert computed == [5, 3]
    assert sorted(seed for _, seed in stored(results)) == list(range(8))
    assert train(results, "--method", "mle", "--seeds", "1,4") == 0
    assert computed == [5, 3]
    assert "2 replicates of 1 cells" in capsys.readouterr().out


@pytest.mark.slow
def test_second_run_is_light(results: Path) -> None:
    """Nothing is computed, and nothing is imported that only computing needs."""
    assert train(results, "--method", "mle", "--seeds", "2") == 0
    chosen = ["--method", "mle", "--set", "mle.epochs=1", "--seeds", "2"]
    arguments = ["run", *TINY, *chosen, "--results", str(results)]
    code = f"""
import sys
from bdlbench.cli.main import main
assert main({arguments}) == 0
assert not [name for name in ("sklearn", "pandas", "torchvision", "scipy.stats", "seaborn") if name in sys.modules]
"""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    assert "none had to be trained now" in done.stdout
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 4


def test_fresh_twice_is_identical(results: Path, computed: list[int]) -> None:
    arguments = ("--method", "mle", "--method", "map", "--seeds", "3", "--fresh")
    assert train(results, *arguments) == 0
    first, names = stored(results), {path.name for path in results.iterdir()}
    assert train(results, *arguments) == 0
    assert computed == [3, 3, 3, 3]
    assert (stored(results), {path.name for path in results.iterdir()}) == (first, names)
    assert len(first) == 6


@pytest.mark.parametrize(("before", "again", "left"), [
    (["0-4", "5-7"], "0-7", {8}),
    (["0-4"], "0-2", {2, 3}),
    (["0-2"], "0-4", {5}),
    (["0-1", "3"], "0-1", {1, 2}),
])  # fmt: skip
def test_fresh_replaces_and_loses_nothing(results: Path, before: list[str], again: str, left: set[int]) -> None:
    for seeds in before:
        assert train(results, "--method", "mle", "--seeds", seeds) == 0
    old = stored(results)
    for path in results.glob("*.json"):  # as if they had been made by other code
        body = json.loads(path.read_text())
        body["values"]["metrics"]["nll"]["values"] = [-1.0] * len(body["replicates"])
        del body["checksum"]
        path.write_text(json.dumps({**body, "checksum": files.digest(body)}))
    assert train(results, "--method", "mle", "--seeds", again, "--fresh") == 0
    new = stored(results)
    first, last = (int(part) for part in again.split("-"))
    for key, value in (old | new).items():
        renewed = first <= key[1] <= last
        assert new[key][0]["nll"] == (value[0]["nll"] if renewed else -1.0)
        assert new[key][2] == old.get(key, value)[2]
        assert not renewed or new[key] == old.get(key, new[key])
    assert {len(record.replicates) for record in records.read(results)} == left


def test_fresh_forgets_checkpoints(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = suites.build_spec(suites.read_suite("quick"), suites.Overrides(("mle",), ("logistic",), ("wine",), "2"))
    job = work.plan(spec, run.Settings(results), fresh=True)
    stale = results / ".checkpoints" / f"{job.batches[0].key}.1.safetensors"
    other = results / ".checkpoints" / "another.1.safetensors"
    for path in (stale, other):
        files.write_atomic(path, b"not a checkpoint")
    monkeypatch.setattr(work, "execute", lambda *rest: [])
    work.perform(job)
    assert (stale.exists(), other.exists()) == (False, True)


def test_a_sweep_is_one_batch_and_shows_its_option(
    results: Path, computed: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(results, "--method", "mle", "--seeds", "2", "--set", "mle.learning_rate=0.1,0.001") == 0
    assert computed == [4]
    out, err = capsys.readouterr()
    assert "method  learning_rate" in out
    assert "mle · logistic · wine: 4 replicates of 2 settings" in err


@pytest.mark.slow
def test_workers_give_the_same_bits(results: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    assert train(results, "--method", "mle", "--method", "map", "--seeds", "2") == 0
    assert train(other, "--method", "mle", "--method", "map", "--seeds", "2", "--jobs", "2") == 0
    assert stored(results) == stored(other)


def test_dry_run_writes_nothing(results: Path, computed: list[int], capsys: pytest.CaptureFixture[str]) -> None:
    asked = ("--method", "mle", "--method", "map", "--seeds", "0,1,2,7")
    assert train(results, *asked, "--dry-run") == 0
    out = capsys.readouterr().out
    assert "mle · logistic · wine: 4 to train (seeds 0-2,7)" in out
    assert "data set wine: bundled with scikit-learn" in out
    assert "8 replicates in 2 batches, 1 at a time; no estimate yet" in out
    assert (computed, results.exists()) == ([], False)
    assert train(results, "--method", "mle", "--seeds", "3") == 0
    capsys.readouterr()
    assert train(results, *asked, "--dry-run") == 0
    out = capsys.readouterr().out
    assert "mle · logistic · wine: 1 to train (seeds 7)" in out
    assert "s by the recorded cost of equal cells (1 batches; no estimate for the other 1)" in out
    assert train(results, "--method", "mle", "--seeds", "3", "--dry-run") == 0
    out = capsys.readouterr().out
    assert "mle · logistic · wine: done\n" in out
    assert "\n0 replicates in 0 batches, 1 at a time; nothing to do" in out


@pytest.mark.slow
def test_options_in_force_are_shown(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before a run, after it, in the table and of a suite: what is not the default, and what budgets differ."""
    names = ["--model", "mlp", "--dataset", "digits", "--seeds", "2", "--samples", "2", "--results", str(results)]
    names += ["--jobs", "1"]
    asked = ["run", "--method", "mle", "--method", "laplace", *names, "--set", "laplace.epochs=2"]
    assert cli.main([*asked, "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert (
        "    mle: batch_size 64, decay constant, epochs 120 (default 60), learning_rate 0.003 (default 0.001)\n" in out
    )
    assert "    mlp: noise_sd 1.0, widths 100 (default 50)\n" in out
    assert "epochs 2 (default 60)" in out
    assert cli.main([*asked, "--set", "mle.epochs=1"]) == 0
    ran = capsys.readouterr().out
    assert cli.main(["table", str(results)]) == 0
    for printed in (ran, capsys.readouterr().out):
        out = " ".join(printed.split())  # wrapped where the terminal ends
        assert "Budgets differ on mlp (widths 100) and digits: epochs " in out
        assert "1 of mle" in out and "2 of laplace" in out
        assert "Not the defaults, on digits: " in out
        assert "mle (epochs 1, learning_rate 0.003)" in out
    assert cli.main(["list", "suites", "quick"]) == 0
    out = capsys.readouterr().out
    assert "mc_dropout: epochs 120, learning_rate 0.003, rate 0.3, input_rate 0.0, prior_sd 3.0\n" in out
    assert "mle: epochs 300, learning_rate 0.1, batch_size 10, decay linear\n" in out
    assert cli.main(["list", "suites", "stopping"]) == 0
    assert "constant_resnet: blocks 4|2|3|6\n" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (("mle", "lenet5", "digits"), "need images of at least 16×16, not (1, 8, 8)"),
        (("exact", "mlp", "wine"), ""),
        (("mle", "vae", "wine"), ""),
        (("mle", "bayesian_linear_regression", "digits"), ""),
    ],
)
def test_a_cell_that_is_none_is_skipped_and_missing(
    names: tuple[str, str, str], reason: str, results: Path, computed: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    method, model, dataset = names
    alone = ["run", "--model", model, "--dataset", dataset, "--method", method, "--seeds", "3", "--samples", "2"]
    alone += ["--results", str(results)]
    assert cli.main([*alone, "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert f"{' · '.join(names)}: skipped: " in out and reason in out
    assert "0 replicates in 0 batches" in out
    assert cli.main(alone) == 4
    out = capsys.readouterr().out
    assert f"skipped: {' · '.join(names)}: " in out and reason in out
    assert out.endswith(f"0 replicates of 0 cells in {results}; none had to be trained now\n")
    assert not results.exists()
    beside = [*alone, "--model", "logistic", "--dataset", "wine", "--method", "mle", "--set", "mle.epochs=1"]
    for again in (False, True):  # a second run lacks the same cells
        assert cli.main([*beside, "--jobs", "2" if reason else "1"]) == 4
        out = capsys.readouterr().out
        assert f"skipped: {' · '.join(names)}" in out
        assert ("; none had to be trained now" in out) == again
    assert sum(computed) > 0 or reason  # workers count for themselves


@pytest.mark.parametrize("kind", ["methods", "models"])
def test_an_error_of_other_peoples_code_is_left_to_the_run(
    kind: Any, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*rest: Any) -> None:
        torch.set_default_dtype(torch.float64)
        raise ValueError("as planned")

    spec = suites.build_spec(suites.read_suite("quick"), suites.Overrides(("mle",), ("logistic",), ("wine",), "2"))
    job = work.plan(spec, run.Settings(results))
    name = {"methods": "mle", "models": "logistic"}[kind]
    monkeypatch.setattr(catalog.load(kind, name), "unsupported", broken)
    assert work.prepare(job).batches == job.batches
    assert work.refused(job) == {}
    assert torch.get_default_dtype() == torch.float32


def test_a_fresh_run_keeps_the_records_of_cells_that_it_skips(
    results: Path, plugin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ("--method", "mle", "--method", "map", "--seeds", "2")
    assert train(results, *asked) == 0
    before = stored(results)
    monkeypatch.setattr(catalog.load("methods", "map"), "unsupported", lambda self, model: "not any more")
    assert train(results, *asked, "--fresh") == 4
    assert stored(results) == before


def test_config(results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    suite = tmp_path / "mine.toml"
    suite.write_text(
        'seeds = "2"\nsamples = 2\n[[grid]]\nmethods = ["mle"]\nmodels = "logistic"\ndatasets = ["wine"]\n'
        "[options.mle]\nepochs = 1\nlearning_rate = [0.1, 0.01]\n"
    )
    assert cli.main(["run", "--config", str(suite), "--results", str(results)]) == 0
    assert "4 replicates of 2 cells" in capsys.readouterr().out
    assert cli.main(["run", "quick", "--config", str(suite), "--results", str(results)]) == 2
    assert "choose one" in one_line(capsys)


# what goes wrong while it runs


def test_failures_are_recorded_and_the_rest_goes_on(
    results: Path, plugin: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = [word for name in ("raises", "unfit", "diverges", "mle") for word in ("--method", name)]
    assert train(results, *chosen, "--seeds", "3", "--plugin", str(plugin)) == 4
    out = capsys.readouterr().out
    assert "skipped: unfit · logistic · wine: it is picky" in out
    assert "failed: raises · logistic · wine, seed 0; seed 1; seed 2: ValueError: boom, as planned (broken.py:" in out
    assert "failed: diverges · logistic · wine, seed 1: parameters or predictions are not finite" in out
    assert "2 (1 failed)" in out
    assert "5 replicates of 2 cells" in out
    found = {record.cell.method.name: record for record in records.read(results)}
    assert set(found) == {"raises", "diverges", "mle"}
    assert len(found["raises"].failed) == 3
    assert cli.main(["table", str(results)]) == 0
    assert "failed: raises" in capsys.readouterr().out


def test_what_failed_is_tried_again(
    results: Path, plugin: Path, computed: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("--method", "diverges", "--plugin", str(plugin))
    assert train(results, *asked, "--seeds", "3") == 4
    assert train(results, *asked, "--seeds", "3,1") == 4  # as second row it fails again, now with seed 3
    assert computed == [3, 2]
    capsys.readouterr()
    assert train(results, *asked, "--seeds", "3") == 0
    assert computed == [3, 2]


def test_interrupted(results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def stop(*rest: Any) -> run.Outcome:
        raise KeyboardInterrupt

    monkeypatch.setattr(executors, "run_batch", stop)
    assert train(results, "--method", "mle") == 130
    out, err = capsys.readouterr()
    assert out == ""
    kept = f"interrupted; what is done is kept in {results}: the same command resumes where it was"
    assert err.splitlines()[-1] == f"bdlbench: {kept}"
    assert train(results, "--method", "mle", "--fresh") == 130
    assert "the same command without --fresh resumes" in capsys.readouterr().err
    monkeypatch.setattr(work, "plan", stop)
    assert train(results, "--method", "mle") == 130
    assert one_line(capsys) == "bdlbench: interrupted"


def test_internal_error(results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def surprise(*rest: Any) -> None:
        raise RuntimeError("two\nlines")

    monkeypatch.setattr(work, "plan", surprise)
    assert train(results, "--method", "mle") == 70
    line = one_line(capsys)
    assert line == "bdlbench: internal error: RuntimeError: two lines (BDLBENCH_DEBUG=1 shows where)"
    monkeypatch.setenv("BDLBENCH_DEBUG", "1")
    with pytest.raises(RuntimeError):
        train(results, "--method", "mle")


# bad input: one line, exit code 2, nothing written


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--method", "mlee"], "unknown method 'mlee': did you mean 'mle'?"),
        (["--model", "mpl"], "unknown model 'mpl': did you mean 'mlp'?"),
        (["--dataset", "wines"], "unknown dataset 'wines': did you mean 'wine'?"),
        (["--set", "mle.epoch=3"], "unknown option of mle 'epoch': did you mean 'epochs'?"),
        (["--set", "sparse_vd.epoch=3"], "unknown option of sparse_vd 'epoch': did you mean"),
        (["--set", "mel.epochs=3"], "unknown entry 'mel': did you mean 'm"),
        (["--set", "map.epochs=3"], "--set map.…: map is not part of this run, which has logistic, mle, wine"),
        (["--set", "mle.epochs=0"], "mle.epochs=0 is out of range: allowed [1, inf]"),
        (["--set", "mle.learning_rate=0"], "mle.learning_rate=0.0 is out of range: allowed (0, inf)"),
        (["--set", "mle.learning_rate=nan"], "out of range"),
        (["--set", "mle.epochs=many"], "mle.epochs=many is not a whole number"),
        (["--set", "mle.epochs=1,,2"], "--set 'mle.epochs=1,,2' holds an empty value"),
        (["--set", "mle"], "--set 'mle' cannot be read: write NAME.OPTION=VALUE"),
        (["--seeds", "a"], "--seeds 'a' cannot be read: give a number of seeds (5), a range (0-9) or a list (1,4,7)"),
        (["--seeds", "5-2"], "--seeds '5-2' names no seed"),
        (["--seeds", "1,1"], "--seeds '1,1' names a seed twice"),
        (["--seeds", "0"], "--seeds '0' names no seed"),
        (["--samples", "0"], "--samples 0 is out of range: at least 1"),
        (["--samples", "x"], "Invalid value for '--samples': "),
        (["--threads", "0"], "--threads 0 is out of range"),
        (["--jobs", "-1"], "--jobs -1 is out of range"),
        (["--checkpoint-every", "0"], "--checkpoint-every 0 is out of range"),
        (["--device", "cud"], "unknown device 'cud': did you mean 'cuda'?"),
        (["--sede", "3"], "No such option: --sede"),
        (["quik"], "unknown suite 'quik': did you mean 'quick'?"),
        (["--config", "nowhere.toml"], "suite file nowhere.toml does not exist"),
        (["--plugin", "nowhere.py"], "plugin nowhere.py does not exist"),
    ],
)
def test_bad_input_of_run(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    base = ["run", *TINY, "--results", str(tmp_path / "results")]
    assert cli.main([*base, *(["--method", "mle"] if "--method" not in arguments else []), *arguments]) == 2
    assert words in one_line(capsys)
    assert tree(tmp_path) == {}


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA is at hand here")
def test_absent_cuda(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(results, "--method", "mle", "--device", "cuda") == 2
    assert "--device cuda: no CUDA device is at hand" in one_line(capsys)
    assert not results.exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a = = 3", "is not valid TOML: Invalid value (at line 1, column 5)"),
        ("seeds = '3'\n\n[[grid]\n", "(at line 3, column"),
        ("seed = 3", "unknown key in "),
        ("seed = 3", "did you mean 'seeds'?"),
        ("[[grid]]\nmethod = ['mle']", "did you mean 'methods'?"),
        ("seeds = '3'", "has no [[grid]]"),
        ("grid = [3]", "each [[grid]] is a table"),
        ("[[grid]]\nmethods = [3]\nmodels = ['mlp']\ndatasets = ['wine']", "methods = [3] are not names"),
        ("[[grid]]\nmethods = ['mle']\nmodels = ['mlp']", "no datasets given: name one with --dataset"),
        ("samples = '3'\n[[grid]]\n", "samples = '3' is not a whole number"),
        ("version = 'one'\n[[grid]]\n", "version = 'one' is not a whole number"),
        ("options = 3\n[[grid]]\n", "options are tables"),
        ("[options]\nmle = 3\n[[grid]]\n", "options are tables"),
        ("[options.mel]\nepochs = 3\n[[grid]]\n", "unknown entry 'mel': did you mean 'm"),
        ("[options.mle]\nepochs = inf\n[[grid]]\n", "mle.epochs=inf is not a whole number"),
        ("[options.mle]\nepochs = true\n[[grid]]\n", "mle.epochs=true is not a whole number"),
        ("[options.mlp]\nwidths = [100, 100]\n[[grid]]\n", "may mean one value or several: write '100-100'"),
        ("\udcff", "cannot be read"),
    ],
)
def test_bad_suite_files(text: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    suite, results = tmp_path / "mine.toml", tmp_path / "results"
    suite.write_bytes(text.encode(errors="surrogateescape"))
    assert cli.main(["run", "--config", str(suite), "--results", str(results)]) == 2
    assert words in one_line(capsys)
    assert not results.exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("methods = {}\nx = 1 / 0", "does not import: ZeroDivisionError"),
        ("x = 1", "has no dict named methods, models, datasets or metrics"),
        ("methods = {'mle': object}", "redefines the method 'mle': choose another name"),
    ],
)
def test_bad_plugins(
    content: str, words: str, tmp_path: Path, results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.py"
    path.write_text(content)
    assert train(results, "--method", "mle", "--plugin", str(path)) == 2
    assert words in one_line(capsys)
    assert not results.exists()


def test_unwritable_results(tmp_path: Path, computed: list[int], capsys: pytest.CaptureFixture[str]) -> None:
    closed, file = tmp_path / "closed", tmp_path / "file"
    closed.mkdir(mode=0o555)
    file.write_text("")
    for folder in (closed, closed / "below" / "it"):
        assert train(folder, "--method", "mle") == 2
        assert f"{closed} is not writable; name another folder" in one_line(capsys)
    for folder in (file, file / "below"):
        assert train(folder, "--method", "mle") == 2
        assert f"{file} is a file; name a folder" in one_line(capsys)
    assert (computed, list(closed.iterdir())) == ([], [])


def test_a_disk_that_refuses(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*rest: Any, **named: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(api.tempfile, "TemporaryFile", full)
    assert train(results, "--method", "mle") == 2
    assert f"--results {results} is not writable: No space left on device" in one_line(capsys)


def absent(*rest: Any) -> Path:
    raise OSError("no network")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, bytes], None]:
    """A store of data, without network; the function puts a file into it."""
    monkeypatch.setenv("BDLBENCH_DATA", str(tmp_path / "store"))
    monkeypatch.setattr(downloads, "_retrieved", absent)
    return lambda path, content: files.write_atomic(tmp_path / "store" / path, content)


def test_data_that_are_not_to_be_had(
    results: Path, home: Callable[[str, bytes], None], computed: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = ["run", "--method", "mle", "--model", "mlp", "--results", str(results), "--jobs", "1"]
    assert cli.main([*chosen, "--dataset", "mnist"]) == 2
    assert "mnist needs the MNIST training images, but" in (line := one_line(capsys))
    assert "is absent and could not be downloaded (OSError: no network)" in line
    home("MNIST/raw/t10k-labels-idx1-ubyte", bytes(8 + 10_000))
    assert cli.main([*chosen, "--dataset", "mnist"]) == 2
    assert "mnist needs the MNIST test labels, but" in (line := one_line(capsys))
    assert "fails its checksum" in line
    home("KMNIST/raw/train-images-idx3-ubyte", b"")
    assert cli.main([*chosen, "--dataset", "kmnist"]) == 2
    assert "kmnist needs the KMNIST training images, but" in (line := one_line(capsys))
    assert "is an empty file" in line
    assert (computed, results.exists()) == ([], False)
    both = [*chosen, "--dataset", "wine", "--dataset", "mnist", "--set", "mle.epochs=1", "--seeds", "3"]
    assert cli.main(both) == 4
    out, err = capsys.readouterr()
    assert "skipped: mle · mlp · mnist: mnist needs the MNIST test labels, but" in out
    assert err.startswith("skipped: mle · mlp · mnist: ")
    assert f"3 replicates of 1 cells in {results}; 3 had to be trained now" in out
    assert computed == [3]
    with pytest.raises(BadInput, match="mnist needs"):  # now nothing is left but what cannot be had
        cli.app(both, standalone_mode=False)


def test_data(home: Callable[[str, bytes], None], capsys: pytest.CaptureFixture[str]) -> None:
    home("MNIST/raw/t10k-labels-idx1-ubyte", bytes(8 + 10_000))
    assert cli.main(["data"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert lines["wine"].endswith("bundled with scikit-learn")
    assert "absent" in lines["cifar10"]
    assert "1 wrong checksum" in lines["mnist"]
    assert set(catalog.names("datasets")) <= set(lines)
    assert cli.main(["data", "wine"]) == 0
    assert capsys.readouterr().out == "wine: nothing to download: bundled\n"
    assert cli.main(["data", "cifar10"]) == 2
    assert "could not be downloaded" in one_line(capsys)
    assert cli.main(["data", "cifar"]) == 2
    assert "did you mean 'cifar10'" in one_line(capsys)


def test_records_of_a_newer_schema(results: Path, computed: list[int], capsys: pytest.CaptureFixture[str]) -> None:
    assert train(results, "--method", "mle", "--seeds", "1") == 0
    (path,) = results.glob("*.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema": records.SCHEMA + 1}))
    before = tree(results)
    capsys.readouterr()
    for command in (["table"], ["run", *TINY, "--method", "mle", "--results"], ["compare", str(results)]):
        assert cli.main([*command, str(results)]) == 2
        assert "is of schema 3, this bdlbench reads 2 at most" in one_line(capsys)
    assert (computed, tree(results)) == ([1], before)


# table and compare


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["tabel"], "No such command 'tabel'. Did you mean 'table'?"),
        (["table"], "Missing argument 'RESULTS'"),
        (["table", "nowhere"], "nowhere does not exist: give a folder that `run` wrote"),
        (["table", "."], ". holds no records: give a folder that `run` wrote"),
        (["compare", ".", "."], ". holds no records"),
        (
            ["compare", ".", ".", "--treatment", "mle"],
            "--treatment 'mle' cannot be read: name a method of A and one of",
        ),
        (["compare", "nowhere", "."], "nowhere does not exist, and is no git revision"),
        (["rank", "."], ". holds no records"),
        (["rank", ".", "--format", "x"], "unknown format 'x'"),
        (["table", ".", "--format", "latx"], "unknown format 'latx': did you mean 'latex'?"),
        (["table", ".", "--foramt", "csv"], "--format"),
        (["list", "method"], "unknown kind 'method': did you mean 'methods'?"),
        (["list", "a", "b", "c"], "unexpected extra argument"),
    ],
)
def test_bad_input_of_other_commands(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == 2
    assert words in one_line(capsys)
    assert tree(tmp_path) == {}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two methods and three seeds."""
    path = tmp_path_factory.mktemp("module") / "results"
    assert train(path, "--method", "mle", "--method", "map", "--seeds", "3") == 0
    return path


@pytest.mark.parametrize(
    ("style", "words"),
    [
        ("terminal", "method  "),
        ("markdown", "| method | accuracy ↑ (fraction) |"),
        ("csv", "cell,dataset,model,method,options,"),
        ("latex", r"\begin{tabular}{lrrrr}"),
        ("json", '"metric": "nll"'),
    ],
)
def test_table(folder: Path, style: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["table", str(folder), "--format", style]) == 0
    out, err = capsys.readouterr()
    assert words in out
    assert err == ""


def test_table_metrics_and_sort(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = ["--metrics", "brier, train_seconds", "--sort", "nll", "--format", "markdown"]
    assert cli.main(["table", str(folder), *chosen]) == 0
    assert "| method | brier ↓ (" in capsys.readouterr().out
    assert cli.main(["table", str(folder), "--metrics", "brir"]) == 2
    assert "unknown metric 'brir': did you mean 'brier'?" in one_line(capsys)


@pytest.mark.slow
def test_compare(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other, apart = tmp_path / "other", tmp_path / "apart"
    assert train(other, "--method", "mle", "--seeds", "2") == 0
    assert train(apart, "--method", "mle", "--seeds", "2", "--samples", "3") == 0
    capsys.readouterr()
    assert cli.main(["compare", str(folder), str(other), "--metrics", "nll"]) == 4
    out = capsys.readouterr().out
    assert "seed 2 of A has no partner and is compared unpaired." in out
    assert "only in A: map · logistic · wine, map (epochs 1" in out
    assert cli.main(["compare", str(other), str(folder)]) == 0
    assert cli.main(["compare", str(other), str(folder), "--strict"]) == 1
    assert cli.main(["compare", str(folder), str(folder), "--strict", "--format", "json"]) == 0
    capsys.readouterr()
    assert cli.main(["compare", str(folder), str(apart)]) == 3
    assert one_line(capsys) == "bdlbench: the protocols differ: samples is 2 in A and 3 in B"


def test_compare_across_methods(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    margins = tmp_path / "margins.toml"
    margins.write_text("[margins]\nnll = 100\n")
    asked = ["compare", str(folder), str(folder), "--treatment", "mle:map", "--metrics", "nll", "--format", "csv"]
    assert cli.main([*asked, "--margins", str(margins)]) == 0
    assert ",equivalent,100.0," in capsys.readouterr().out
    margins.write_text("[margins]\nnl = 100\n")
    assert cli.main([*asked, "--margins", str(margins)]) == 2
    assert "unknown metric 'nl': did you mean 'nll'?" in one_line(capsys)


def test_a_truncated_record(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "a.json").write_text(next(folder.glob("*.json")).read_text()[:-100])
    assert cli.main(["compare", str(folder), str(broken)]) == 2
    assert "a.json is not a whole record: it is cut short or damaged" in one_line(capsys)
    assert cli.main(["compare", str(folder), str(folder), "--margins", "none.toml"]) == 2
    assert "none.toml cannot be read" in one_line(capsys)


def test_rank(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["rank", str(folder)]) == 2
    assert one_line(capsys) == "bdlbench: nll: 2 methods share 1 data sets: rank needs at least two of each"
    both = tmp_path / "both"
    for data in ("wine", "breast_cancer"):
        tiny = ["--dataset", data, *TINY[2:], "--set", "mle.epochs=1", "--set", "map.epochs=1"]
        assert (
            cli.main(["run", *tiny, "--method", "mle", "--method", "map", "--seeds", "2", "--results", str(both)]) == 0
        )
    capsys.readouterr()
    assert cli.main(["rank", str(both), "--metric", "accuracy"]) == 0
    assert "no critical-difference diagram below 6 data sets" in capsys.readouterr().out
    assert cli.main(["rank", str(both), "--figure", str(tmp_path / "x.png")]) == 2
    assert "2 data sets, a diagram needs 6" in one_line(capsys)


# the same verbs in Python


def test_api(tmp_path: Path, computed: list[int]) -> None:
    folder = tmp_path / "results"
    asked: dict[str, Any] = {"methods": ["mle"], "models": ["logistic"], "datasets": ["wine"], "samples": 2}
    settings = {"mle.epochs": 1, "mle.learning_rate": [0.1, 0.01]}
    found = api.run(seeds="2", settings=settings, results=folder, **asked)
    assert all(isinstance(record, Record) for record in found)
    assert (computed, len(found)) == ([4], 2)
    assert api.run(seeds="2", settings=settings, results=folder, **asked) == found
    assert computed == [4]
    frame = api.read(folder)
    nll = frame[frame["metric"] == "nll"]
    assert sorted(nll["value"]) == sorted(v for r in found for v in r.values.metrics["nll"].values)
    summary = api.table(folder, ["nll"])
    assert (len(summary), set(summary["n"]), set(summary["unit"])) == (2, {2}, {"nats"})
    assert len(api.compare(folder, folder).pairs) == 2
    with pytest.raises(BadInput, match="did you mean 'mle'"):
        api.run(results=folder, methods=["mlee"])
    with pytest.raises(BadInput, match="a spec is complete"):
        api.run(suites.build_spec(suites.read_suite("quick"), suites.Overrides()), settings={"mle.epochs": 1})


@pytest.mark.slow
def test_front_door() -> None:
    code = """
import sys, bdlbench
assert "torch" not in sys.modules
assert bdlbench.api.read.__module__ == "bdlbench.api"
assert bdlbench.runs.batch.Batch and bdlbench.compare.pairs.Pair  # modules, whatever was imported first
try: bdlbench.nothing
except AttributeError as error: assert "nothing" in str(error)
else: raise SystemExit(1)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_bars_on_a_terminal(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    spec = suites.build_spec(
        suites.read_suite("quick"), suites.Overrides(("mle", "map"), ("logistic",), ("wine",), "2")
    )
    batches = work.plan(spec, run.Settings(results)).batches
    stream = Terminal()
    with progress.reporting(batches, stream) as report:
        for index, title in enumerate(("mle", "map")):
            report(executors.Event(index, title, "start"))
            report(executors.Event(index, title, "step", 5, 10))
            report(executors.Event(index, title, "step", 10, 10))
            report(executors.Event(index, title, "predict", 250, 1000))
            report(executors.Event(index, title, "note", text="a disk is full"))
            report(executors.Event(index, title, "end"))
    text = stream.getvalue()
    shown = text.partition("2 replicates, predicting")[2].partition("%")[0]
    assert shown.split()[-1] == "0"  # not 100, of its steps, while it predicts
    assert text.count("bdlbench: note: a disk is full") == 2
    assert "[1/2] mle · logistic · wine: 2 replicates, 0.0 s" in text
    assert "[2/2] map · logistic · wine: 2 replicates, 0.0 s" in text
    assert "all batches" in text and "100 %" in text
    plain = io.StringIO()
    with progress.reporting(batches, plain) as report:
        report(executors.Event(0, "mle", "start"))
        report(executors.Event(0, "mle", "step", 5, 10))
        report(executors.Event(0, "mle", "predict", 5, 10))
        report(executors.Event(0, "mle", "note", text="a disk is full"))
        report(executors.Event(0, "mle", "end"))
    assert plain.getvalue().splitlines() == [
        "[1/2] mle · logistic · wine: 2 replicates …",
        "bdlbench: note: a disk is full",
        "[1/2] mle · logistic · wine: 2 replicates, 0.0 s",
    ]


def test_a_sweep_keeps_the_points_that_did_not_diverge(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rates = "mle.learning_rate=1e-3,3e38"
    assert train(results, "--method", "mle", "--seeds", "2", "--set", rates) == 4
    assert "parameters or predictions are not finite" in capsys.readouterr().out
    kept = {record.cell.method.get("learning_rate"): len(record.replicates) for record in records.read(results)}
    assert kept == {1e-3: 2, 3e38: 0}


@pytest.fixture
def heeds_interrupts() -> Iterator[None]:
    """Whoever starts the tests in the background may have them, and all they start, ignore SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.slow
@pytest.mark.usefixtures("heeds_interrupts")
def test_an_interrupt_ends_real_workers(tmp_path: Path) -> None:
    words = [
        "--method=mle",
        "--method=map",
        "--dataset=digits",
        "--seeds=1",
        "--jobs=2",
        f"--results={tmp_path / 'out'}",
    ]
    options = ["--set=mle.epochs=100000", "--set=map.epochs=100000"]
    command = [sys.executable, "-m", "bdlbench", "run", *words, *options]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, text=True, cwd=ROOT, start_new_session=True) as running:
        running.stderr.readline()  # a batch has started
        time.sleep(1.0)
        os.killpg(running.pid, signal.SIGINT)
        try:
            _, said = running.communicate(timeout=60)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(running.pid, signal.SIGKILL)
    assert running.returncode == 130
    assert "interrupted" in said and "Traceback" not in said


@pytest.mark.usefixtures("heeds_interrupts")
def test_an_interrupt_waits_until_workers_are_started_and_never_reaches_them() -> None:
    later = "import time; time.sleep(0.3); print('alive')"
    with pytest.raises(KeyboardInterrupt), executors._interrupts_wait():
        with subprocess.Popen([sys.executable, "-c", later], stdout=subprocess.PIPE, text=True) as started:
            os.kill(started.pid, signal.SIGINT)
            said, _ = started.communicate(timeout=20)
        assert said == "alive\n"
        os.kill(os.getpid(), signal.SIGINT)


def test_an_ensemble_of_itself_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        cli.main(["run", "--method", "deep_ensemble", "--set", "deep_ensemble.member=deep_ensemble", "--dry-run"]) == 2
    )
    assert "would nest without end" in capsys.readouterr().err


def test_parameters_are_kept_where_asked_for(results: Path, tmp_path: Path, plugin: Path) -> None:
    assert train(results, "--method", "mle", "--seeds", "1,4", "--keep-parameters") == 0
    (record,) = records.read(results)
    kept = records.parameters(results, record)
    assert {name: tuple(value.shape) for name, value in kept.items()} == {"fc1.weight": (2, 3, 13), "fc1.bias": (2, 3)}
    assert list(record.values.parameters_sha256) == scoring.row_hashes(kept)
    assert train(tmp_path / "without", "--method", "mle", "--seeds", "1,4") == 0
    assert not (tmp_path / "without" / "parameters").exists()
    (same,) = records.read(tmp_path / "without")
    assert same.values == record.values
    with pytest.raises(BadInput, match="run the cell with --keep-parameters"):
        records.parameters(tmp_path / "without", same)


def test_parameters_of_what_diverged_are_not_kept(results: Path, plugin: Path) -> None:
    words = ["--method", "diverges", "--plugin", str(plugin), "--seeds", "3", "--keep-parameters"]
    assert train(results, *words) == 4
    (record,) = records.read(results)
    kept = records.parameters(results, record)
    assert {len(value) for value in kept.values()} == {len(record.replicates)} == {2}
    assert all(value.isfinite().all() for value in kept.values())


def test_a_density_model_from_the_command_line(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--method=mle", "--model=vae", "--dataset=binary_digits", "--samples=1", "--jobs=1", "--seeds=2"]
    small = ["mle.epochs=1", "vae.widths=8", "vae.latent=2", "vae.test_samples=3", "vae.regret_steps=1"]
    options = [word for option in small for word in ("--set", option)]
    assert cli.main(["run", *words, *options, "--results", str(results)]) == 0
    (record,) = records.read(results)
    named = {"nll", "negative_elbo", "active_units", "importance_samples", "ood_auroc_likelihood_regret[photos]"}
    assert named <= record.values.metrics.keys()
    assert "accuracy" not in record.values.metrics
    assert record.values.metrics["importance_samples"].values == (3, 3)
    arrays = records.predictions(results, record)
    assert arrays["test.latent_mean"].shape == (2, 450, 2)
    assert "binary_digits · vae (latent 2, regret_steps 1, test_samples 3, widths 8) · M = 1" in capsys.readouterr().out


# throughput and peers


def test_throughput_names_the_machine(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(results, "--method", "mle", "--metrics", "accuracy,throughput") == 0
    printed = capsys.readouterr().out
    (record,) = records.read(results)
    assert f"Measured on {record.environment.machine}." in printed
    assert "train_replicate_examples_per_second" in printed and "predict_sample_examples_per_second" in printed
    assert cli.main(["table", str(results), "--metrics", "throughput"]) == 0
    assert "Measured on" in capsys.readouterr().out


def test_a_metric_that_does_not_exist_is_refused_before_training(
    results: Path, computed: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(results, "--metrics", "troughput") == 2
    assert "did you mean 'throughput'?" in capsys.readouterr().err
    assert computed == [] and not results.exists()


def test_what_list_metrics_shows_is_what_metrics_takes(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(results, "--method", "mle", "--metrics", "predict_seconds,rows") == 0
    assert "predict_seconds" in capsys.readouterr().out
    (record,) = records.read(results)
    assert set(record.cost) == tables.COSTS.keys() - tables.SHORT.keys()
    for name in tables.COSTS:
        assert cli.main(["table", str(results), "--metrics", name]) == 0
        assert cli.main(["list", "metrics", name]) == 0
    capsys.readouterr()


@pytest.mark.parametrize("name", ["predictive_kl", "ood_auroc[nowhere]", "rmse"])
@pytest.mark.parametrize("bare", [False, True])
def test_a_metric_that_exists_but_is_undefined_is_said_to_be(
    results: Path, capsys: pytest.CaptureFixture[str], name: str, bare: bool
) -> None:
    assert train(results, "--method", "mle") == 0
    for file in results.rglob("*.safetensors") if bare else []:
        file.unlink()
    capsys.readouterr()
    commands = [["table", str(results), "--metrics", name], ["table", str(results), "--sort", name]]
    commands += [["rank", str(results), "--metric", name], ["compare", str(results), str(results), "--metrics", name]]
    for command in commands:
        assert cli.main(command) == 2
        line = one_line(capsys)
        assert name in line and "undefined" in line and "did you mean" not in line
    assert cli.main(["table", str(results), "--metrics", "predictiv_kl"]) == 2
    assert "predictiv_kl" in one_line(capsys)


def test_predictive_kl_says_which_predictives_it_knows(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list", "metrics", "predictive_kl"]) == 0
    out = capsys.readouterr().out
    assert "class" in out and "Gaussian" in out and "nats" in out
    assert cli.main(["list", "metrics", "ood_auroc"]) == 0
    assert "shifted" in capsys.readouterr().out


def test_machine_is_the_gpu_or_the_processor() -> None:
    cpu = Environment(device="cpu", processor="Zen", threads=2)
    assert cpu.machine == "Zen, 2 threads"
    assert replace(cpu, device="H100").machine == "H100"


@pytest.fixture
def tiny_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    """One row in which one library is there and one is not."""

    def absent(count: int) -> peer_work.Run:
        raise ModuleNotFoundError("No module named 'pyro'", name="pyro")

    def present(count: int) -> peer_work.Run:
        return lambda: sum(range(1000))

    plain, ours = peer_work.Contender(peer_work.PLAIN_NAME, present), peer_work.Contender(peer_work.OURS, present)
    both = peer_work.Work("both", "a work", plain, plain, (ours, peer_work.Contender("Pyro", absent)), 1)
    alone = peer_work.Work("alone", "a work", plain, plain, (ours,), 1)
    monkeypatch.setattr(works, "works", lambda: {"both": both, "alone": alone})


@pytest.mark.usefixtures("tiny_peers")
def test_peers(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert cli.main(["peers", "--rows", "alone", "--rounds", "2", "--tables", "2", "--format", "csv"]) == 0
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == 1 + 2 * 2
    assert printed.err == "timing alone: a work\n" * 2
    assert cli.main(["peers", "--rounds", "1"]) == 4
    assert "not installed (pyro)" in capsys.readouterr().out


@pytest.mark.usefixtures("tiny_peers")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--rows", "bot"], "did you mean 'both'?"),
        (["--rounds", "0"], "--rounds 0 is out of range"),
        (["--tables", "0"], "--tables 0 is out of range"),
        (["--threads", "0"], "--threads 0 is out of range"),
        (["--format", "markdwn"], "did you mean 'markdown'?"),
    ],
)
def test_bad_input_of_peers(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["peers", *arguments]) == 2
    assert words in capsys.readouterr().err
