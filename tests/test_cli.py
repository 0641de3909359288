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
from bdlbench.core.errors import DataUnavailable
from bdlbench.data import downloads
from bdlbench.peers import work as peer_work
from bdlbench.peers import works
from bdlbench.records import record as records
from bdlbench.records.arrays import row_axis
from bdlbench.records.contents import Environment
from bdlbench.records.record import Record
from bdlbench.report import tables
from bdlbench.runs import batch as run
from bdlbench.runs import executors, processes, progress, scoring, suites, work

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


def to_train(results: Path, *extra: str) -> list[str]:
    """The command line of a run that is small."""
    epochs = [word for name in METHODS if name in extra for word in ("--set", f"{name}.epochs=1")]
    return ["run", *TINY, *epochs, "--results", str(results), *extra]


def train(results: Path, *extra: str) -> int:
    return cli.main(to_train(results, *extra))


def stored(folder: Path) -> dict[tuple[str, int], tuple[Any, ...]]:
    """All that is deterministic, by method and seed: every metric, the parameters' hash, the predictions."""
    found: dict[tuple[str, int], tuple[Any, ...]] = {}
    for record in records.read(folder):
        arrays = records.predictions(folder, record)
        for i, replicate in enumerate(record.replicates):
            metrics = {name: entry.values[i] for name, entry in record.values.metrics.items()}
            others = replace(record.values.take([i]), metrics={})
            rows = {name: value.select(row_axis(name), i).tolist() for name, value in arrays.items()}
            found[record.cell.method.name, replicate.seed] = (metrics, others, rows)
    return found


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}


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
    assert (
        "learning_rate = 0.001: the optimiser's step size ((0, inf); a sweep is one batch; tune searches 0.0001 to 0.1)"
        in out
    )
    assert "mean_field_vi.prior = gaussian: the prior of each parameter (gaussian or empirical_bayes or" in out
    assert "deep_ensemble.member = mle: method of each member; its own options apply (one of the methods)" in out


@pytest.mark.parametrize("kind", listing.LISTED)
def test_list_one_entry(kind: str, refused: Any, capsys: pytest.CaptureFixture[str]) -> None:
    name = {"methods": "mle", "models": "mlp", "datasets": "wine", "metrics": "ece", "suites": "quick"}[kind]
    assert cli.main(["list", kind, name]) == 0
    assert capsys.readouterr().out.startswith(f"{name}: ")
    refused.command(["list", kind, "nothing_at_all"], "nothing_at_all")


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
    """Nothing is computed, and nothing is imported that only computing needs. Nor does training import all there is."""
    assert train(results, "--method", "mle", "--seeds", "2") == 0
    chosen = ["--method", "mle", "--set", "mle.epochs=1", "--seeds", "2"]
    arguments = ["run", *TINY, *chosen, "--results", str(results)]
    code = f"""
import sys, time
from bdlbench.records.arrays import row_axis
from bdlbench.cli.main import main
assert main({arguments}) == 0
assert time.process_time() < 4
light = ("sklearn", "pandas", "torchvision", "scipy.stats", "scipy.interpolate", "seaborn", "sympy")
assert not [name for name in light if name in sys.modules]
assert main({[*arguments, "--seeds", "3"]}) == 0
assert not [name for name in ("torchvision", "seaborn", "sympy") if name in sys.modules]
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "none had to be trained now" in done.stdout


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
    assert "mle · logistic · wine: 4 replicates" in err and "2 settings" in err


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
    assert "8 replicates in 2 batches, 1 at a time\n" in out and "2 by size: of cells left out" in out
    assert (computed, results.exists()) == ([], False)
    assert train(results, "--method", "mle", "--seeds", "3") == 0
    capsys.readouterr()
    assert train(results, *asked, "--dry-run") == 0
    out = capsys.readouterr().out
    assert "mle · logistic · wine: 1 to train (seeds 7)" in out
    assert "1 batches by the recorded cost of equal cells, 1 by size: " in out
    assert train(results, "--method", "mle", "--seeds", "3", "--dry-run") == 0
    out = capsys.readouterr().out
    assert "mle · logistic · wine: done\n" in out
    assert "\n0 replicates in 0 batches, 1 at a time\nnothing to do" in out


@pytest.mark.slow
def test_options_in_force_are_shown(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before a run, after it, in the table and of a suite: what is not the default, and what budgets differ."""
    names = ["--model", "mlp", "--dataset", "digits", "--seeds", "2", "--samples", "2", "--results", str(results)]
    names += ["--jobs", "1"]
    asked = ["run", "--method", "mle", "--method", "laplace", *names, "--set", "laplace.epochs=2"]
    assert cli.main([*asked, "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "    mle: batch_size 64, decay constant, epochs 120 (default 60), learning_rate 0.00479 (default" in out
    assert "    mlp: noise_sd 1.0, widths 100 (default 50), " in out
    assert "epochs 2 (default 60)" in out
    assert cli.main([*asked, "--set", "mle.epochs=1"]) == 0
    ran = capsys.readouterr().out
    assert cli.main(["table", str(results)]) == 0
    for printed in (ran, capsys.readouterr().out):
        out = " ".join(printed.split())  # wrapped where the terminal ends
        assert "Budgets differ on mlp (widths 100) and digits: epochs " in out
        assert "1 of mle" in out and "2 of laplace" in out
        assert "Not the defaults, on digits: " in out
        assert "mle (epochs 1, learning_rate 0.00479)" in out
    assert cli.main(["list", "suites", "quick"]) == 0
    out = capsys.readouterr().out
    assert "mc_dropout: epochs 120, rate 0.277, input_rate 0.00254, prior_sd 8.01, learning_rate 0.00219\n" in out
    assert "found by the search quick.csv\n" in out
    assert "mle: epochs 300, batch_size 10, learning_rate 0.1, decay linear\n" in out
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


def test_config(results: Path, tmp_path: Path, refused: Any, capsys: pytest.CaptureFixture[str]) -> None:
    suite = tmp_path / "mine.toml"
    suite.write_text(
        'seeds = "2"\nsamples = 2\n[[grid]]\nmethods = ["mle"]\nmodels = "logistic"\ndatasets = ["wine"]\n'
        "[options.mle]\nepochs = 1\nlearning_rate = [0.1, 0.01]\n"
    )
    assert cli.main(["run", "--config", str(suite), "--results", str(results)]) == 0
    assert "4 replicates of 2 cells" in capsys.readouterr().out
    refused.command(["run", "quick", "--config", suite, "--results", results], "quick", "--config")


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


def test_interrupted(
    results: Path, refused: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*rest: Any) -> run.Outcome:
        raise KeyboardInterrupt

    monkeypatch.setattr(executors, "run_batch", stop)
    assert train(results, "--method", "mle") == 130
    out, err = capsys.readouterr()
    assert out == ""
    refused.line(err.splitlines(keepends=True)[-1], "interrupted", results, lacks=["--fresh"])
    assert train(results, "--method", "mle", "--fresh") == 130
    refused.line(capsys.readouterr().err.splitlines(keepends=True)[-1], "interrupted", results, "--fresh")
    monkeypatch.setattr(work, "plan", stop)
    refused.command(to_train(results, "--method", "mle"), "interrupted", code=130, lacks=[results])


def test_internal_error(results: Path, refused: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def surprise(*rest: Any) -> None:
        raise RuntimeError("two\nlines")

    monkeypatch.setattr(work, "plan", surprise)
    names = ("internal", "RuntimeError: two", "lines", "BDLBENCH_DEBUG=1")
    refused.command(to_train(results, "--method", "mle"), *names, code=70)
    monkeypatch.setenv("BDLBENCH_DEBUG", "1")
    with pytest.raises(RuntimeError):
        train(results, "--method", "mle")


# bad input: one line, exit code 2, nothing written


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["--method", "mlee"], ["method", "mlee", "mle"]),
        (["--model", "mpl"], ["model", "mpl", "mlp"]),
        (["--dataset", "wines"], ["dataset", "wines", "wine"]),
        (["--set", "mle.epoch=3"], ["option", "mle", "epoch", "epochs"]),
        (["--set", "sparse_vd.epoch=3"], ["option", "sparse_vd", "epoch"]),
        (["--set", "mel.epochs=3"], ["entry", "mel"]),
        (["--set", "map.epochs=3"], ["--set map", "logistic", "mle", "wine"]),
        (["--set", "mle.epochs=0"], ["mle.epochs=0", "[1, inf]"]),
        (["--set", "mle.learning_rate=0"], ["mle.learning_rate=0.0", "(0, inf)"]),
        (["--set", "mle.learning_rate=nan"], ["mle.learning_rate=nan", "(0, inf)"]),
        (["--set", "mle.epochs=many"], ["mle.epochs=many", "whole"]),
        (["--set", "mle.epochs=1,,2"], ["--set 'mle.epochs=1,,2'", "empty"]),
        (["--set", "mle"], ["--set 'mle'", "NAME.OPTION=VALUE"]),
        (["--seeds", "a"], ["--seeds 'a'", "(5)", "(0-9)", "(1,4,7)"]),
        (["--seeds", "5-2"], ["--seeds '5-2'", "no"]),
        (["--seeds", "1,1"], ["--seeds '1,1'", "twice"]),
        (["--seeds", "0"], ["--seeds '0'", "no"]),
        (["--samples", "0"], ["--samples 0", "1"]),
        (["--samples", "x"], ["--samples", "integer"]),
        (["--threads", "0"], ["--threads 0", "1"]),
        (["--jobs", "-1"], ["--jobs -1", "0"]),
        (["--checkpoint-every", "0"], ["--checkpoint-every 0"]),
        (["--device", "cud"], ["device", "cud", "cuda"]),
        (["--sede", "3"], ["--sede"]),
        (["quik"], ["suite", "quik", "quick"]),
        (["--config", "nowhere.toml"], ["suite", "nowhere.toml"]),
        (["--plugin", "nowhere.py"], ["plugin", "nowhere.py"]),
    ],
)
def test_bad_input_of_run(
    arguments: list[str], names: list[str], refused: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    base = ["run", *TINY, "--results", str(tmp_path / "results")]
    refused.command([*base, *(["--method", "mle"] if "--method" not in arguments else []), *arguments], *names)


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA is at hand here")
def test_absent_cuda(results: Path, refused: Any) -> None:
    refused.command(to_train(results, "--method", "mle", "--device", "cuda"), "--device cuda", "no CUDA")


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("a = = 3", ["mine.toml", "TOML", "line 1", "column 5"]),
        ("seeds = '3'\n\n[[grid]\n", ["mine.toml", "TOML", "line 3", "column"]),
        ("seed = 3", ["mine.toml", "unknown", "seed", "seeds"]),
        ("[[grid]]\nmethod = ['mle']", ["mine.toml", "unknown", "method", "methods"]),
        ("seeds = '3'", ["mine.toml", "[[grid]]", "no"]),
        ("grid = [3]", ["mine.toml", "[[grid]]", "table"]),
        ("[[grid]]\nmethods = [3]\nmodels = ['mlp']\ndatasets = ['wine']", ["mine.toml", "methods = [3]", "names"]),
        ("[[grid]]\nmethods = ['mle']\nmodels = ['mlp']", ["no", "datasets", "--dataset"]),
        ("samples = '3'\n[[grid]]\n", ["mine.toml", "samples = '3'", "whole"]),
        ("version = 'one'\n[[grid]]\n", ["mine.toml", "version = 'one'", "whole"]),
        ("options = 3\n[[grid]]\n", ["mine.toml", "options", "tables"]),
        ("[options]\nmle = 3\n[[grid]]\n", ["mine.toml", "options", "tables"]),
        ("[options.mel]\nepochs = 3\n[[grid]]\n", ["entry", "mel"]),
        ("[options.mle]\nepochs = inf\n[[grid]]\n", ["mle.epochs=inf", "whole"]),
        ("[options.mle]\nepochs = true\n[[grid]]\n", ["mle.epochs=true", "whole"]),
        ("[options.mlp]\nwidths = [100, 100]\n[[grid]]\n", ["mlp.widths", "'100-100'"]),
        ("\udcff", ["mine.toml"]),
    ],
)
def test_bad_suite_files(text: str, names: list[str], refused: Any, tmp_path: Path) -> None:
    suite = tmp_path / "mine.toml"
    suite.write_bytes(text.encode(errors="surrogateescape"))
    refused.command(["run", "--config", suite, "--results", tmp_path / "results"], *names)


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ("methods = {}\nx = 1 / 0", [":2", "ZeroDivisionError"]),
        ("x = 1", ["no", "methods, models", "datasets", "metrics"]),
        ("methods = {'mle': object}", ["method 'mle'", "redefines"]),
    ],
)
def test_bad_plugins(content: str, names: list[str], refused: Any, tmp_path: Path, results: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(content)
    refused.command(to_train(results, "--method", "mle", "--plugin", str(path)), "mine.py", *names)


def test_unwritable_results(tmp_path: Path, computed: list[int], refused: Any) -> None:
    closed, file = tmp_path / "closed", tmp_path / "file"
    closed.mkdir(mode=0o555)
    file.write_text("")
    for folder in (closed, closed / "below" / "it"):
        refused.command(to_train(folder, "--method", "mle"), closed, "writable")
    for folder in (file, file / "below"):
        refused.command(to_train(folder, "--method", "mle"), file, "file")
    assert computed == []


def test_a_disk_that_refuses(results: Path, refused: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*rest: Any, **named: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(api.tempfile, "TemporaryFile", full)
    results.mkdir()
    refused.command(to_train(results, "--method", "mle"), f"--results {results}", "No space left on device")


def absent(*rest: Any) -> Path:
    raise OSError("no network")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, bytes], None]:
    """A store of data, without network; the function puts a file into it."""
    monkeypatch.setenv("BDLBENCH_DATA", str(tmp_path / "store"))
    monkeypatch.setattr(downloads, "_retrieved", absent)
    return lambda path, content: files.write_atomic(tmp_path / "store" / path, content)


def test_data_that_are_not_to_be_had(
    results: Path,
    home: Callable[[str, bytes], None],
    computed: list[int],
    refused: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    chosen = ["run", "--method", "mle", "--model", "mlp", "--results", str(results), "--jobs", "1"]
    refused.command([*chosen, "--dataset", "mnist"], "mnist", "training", "images", "absent", "OSError: no")
    home("MNIST/raw/t10k-labels-idx1-ubyte", bytes(8 + 10_000))
    refused.command([*chosen, "--dataset", "mnist"], "mnist", "test", "labels", "t10k-labels-idx1-ubyte", "checksum")
    home("KMNIST/raw/train-images-idx3-ubyte", b"")
    refused.command([*chosen, "--dataset", "kmnist"], "kmnist", "training", "train-images-idx3-ubyte", "empty")
    assert computed == []
    both = [*chosen, "--dataset", "wine", "--dataset", "mnist", "--set", "mle.epochs=1", "--seeds", "3"]
    assert cli.main(both) == 4
    out, err = capsys.readouterr()
    assert "skipped: mle · mlp · mnist: " in out and "t10k-labels-idx1-ubyte" in out
    assert err.startswith("skipped: mle · mlp · mnist: ")
    assert f"3 replicates of 1 cells in {results}; 3 had to be trained now" in out
    assert computed == [3]
    with refused("mnist", "t10k-labels-idx1-ubyte", error=DataUnavailable):  # nothing is left that can be had
        cli.app(both, standalone_mode=False)


def test_data(home: Callable[[str, bytes], None], refused: Any, capsys: pytest.CaptureFixture[str]) -> None:
    home("MNIST/raw/t10k-labels-idx1-ubyte", bytes(8 + 10_000))
    assert cli.main(["data"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert lines["wine"].endswith("bundled with scikit-learn")
    assert all(lines[name].endswith("drawn anew for each split") for name in ("coin_flips", "linear", "testbed"))
    assert "absent" in lines["cifar10"]
    assert "1 wrong checksum" in lines["mnist"]
    assert set(catalog.names("datasets")) <= set(lines)
    assert cli.main(["data", "wine"]) == 0
    assert capsys.readouterr().out == "wine: nothing to download: bundled\n"
    refused.command(["data", "cifar10"], "cifar10", "OSError: no")
    refused.command(["data", "cifar"], "dataset", "cifar", "cifar10")


def test_records_of_a_newer_schema(results: Path, computed: list[int], refused: Any) -> None:
    assert train(results, "--method", "mle", "--seeds", "1") == 0
    (path,) = results.glob("*.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema": records.SCHEMA + 1}))
    names = (path.name, f"schema {records.SCHEMA + 1}", records.SCHEMA)
    for command in (["table"], ["compare", str(results)]):
        refused.command([*command, results], *names)
    before = path.read_bytes()
    assert train(results, "--method", "mle", "--seeds", "1") == 4
    assert computed == [1] and path.read_bytes() == before


# table and compare


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["tabel"], ["command", "tabel", "table"]),
        (["table"], ["RESULTS"]),
        (["table", "nowhere"], ["nowhere", "exist"]),
        (["table", "."], [".", "records"]),
        (["compare", ".", "."], [".", "records"]),
        (["compare", ".", ".", "--treatment", "mle"], ["--treatment 'mle'"]),
        (["compare", "nowhere", "."], ["nowhere", "git"]),
        (["rank", "."], [".", "records"]),
        (["rank", ".", "--format", "x"], ["format", "x"]),
        (["table", ".", "--format", "latx"], ["format", "latx", "latex"]),
        (["table", ".", "--foramt", "csv"], ["--foramt", "--format"]),
        (["list", "method"], ["kind", "method", "methods"]),
        (["list", "a", "b", "c"], ["extra", "c"]),
    ],
)
def test_bad_input_of_other_commands(
    arguments: list[str], names: list[str], refused: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    refused.command(arguments, *names)


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


def test_table_metrics_and_sort(folder: Path, refused: Any, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = ["--metrics", "brier, train_seconds", "--sort", "nll", "--format", "markdown"]
    assert cli.main(["table", str(folder), *chosen]) == 0
    assert "| method | brier ↓ (" in capsys.readouterr().out
    refused.command(["table", folder, "--metrics", "brir"], "metric", "brir", "brier")


@pytest.mark.slow
def test_compare(folder: Path, tmp_path: Path, refused: Any, capsys: pytest.CaptureFixture[str]) -> None:
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
    refused.command(["compare", folder, apart], "samples", "2 in A", "3 in B", code=3)


def test_compare_across_methods(folder: Path, tmp_path: Path, refused: Any, capsys: pytest.CaptureFixture[str]) -> None:
    margins = tmp_path / "margins.toml"
    margins.write_text("[margins]\nnll = 100\n")
    asked = ["compare", str(folder), str(folder), "--treatment", "mle:map", "--metrics", "nll", "--format", "csv"]
    assert cli.main([*asked, "--margins", str(margins)]) == 0
    assert ",equivalent,100.0," in capsys.readouterr().out
    margins.write_text("[margins]\nnl = 100\n")
    refused.command([*asked, "--margins", margins], "metric", "nl", "nll")


def test_a_truncated_record(folder: Path, tmp_path: Path, refused: Any) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "a.json").write_text(next(folder.glob("*.json")).read_text()[:-100])
    refused.command(["compare", folder, broken], "a.json", "damaged")
    refused.command(["compare", folder, folder, "--margins", "none.toml"], "none.toml", "No such file or directory")


def test_rank(folder: Path, tmp_path: Path, refused: Any, capsys: pytest.CaptureFixture[str]) -> None:
    refused.command(["rank", folder], "nll", "2 methods", "1 data", "two")
    both = tmp_path / "both"
    for data in ("wine", "breast_cancer"):
        tiny = ["--dataset", data, *TINY[2:], "--set", "mle.epochs=1", "--set", "map.epochs=1"]
        assert (
            cli.main(["run", *tiny, "--method", "mle", "--method", "map", "--seeds", "2", "--results", str(both)]) == 0
        )
    capsys.readouterr()
    assert cli.main(["rank", str(both), "--metric", "accuracy"]) == 0
    assert "no critical-difference diagram below 6 data sets" in capsys.readouterr().out
    refused.command(["rank", both, "--figure", tmp_path / "x.png"], "2 data", "6")


# the same verbs in Python


def test_api(tmp_path: Path, computed: list[int], refused: Any) -> None:
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
    with refused("method", "mlee", "mle"):
        api.run(results=folder, methods=["mlee"])
    with refused("set", lacks=["seeds"]):
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
    with pytest.raises(KeyboardInterrupt), processes.interrupts_wait():
        with subprocess.Popen([sys.executable, "-c", later], stdout=subprocess.PIPE, text=True) as started:
            os.kill(started.pid, signal.SIGINT)
            said, _ = started.communicate(timeout=20)
        assert said == "alive\n"
        os.kill(os.getpid(), signal.SIGINT)


def test_an_ensemble_of_itself_is_refused(refused: Any) -> None:
    chosen = ["--method", "deep_ensemble", "--set", "deep_ensemble.member=deep_ensemble"]
    refused.command(["run", *chosen, "--dry-run"], "deep_ensemble in deep_ensemble")


def test_parameters_are_kept_where_asked_for(results: Path, tmp_path: Path, plugin: Path, refused: Any) -> None:
    assert train(results, "--method", "mle", "--seeds", "1,4", "--keep-parameters") == 0
    (record,) = records.read(results)
    kept = records.parameters(results, record)
    assert {name: tuple(value.shape) for name, value in kept.items()} == {"fc1.weight": (2, 3, 13), "fc1.bias": (2, 3)}
    assert list(record.values.parameters_sha256) == scoring.row_hashes(kept)
    assert train(tmp_path / "without", "--method", "mle", "--seeds", "1,4") == 0
    assert not (tmp_path / "without" / "parameters").exists()
    (same,) = records.read(tmp_path / "without")
    assert same.values == record.values
    with refused("--keep-parameters"):
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
    results: Path, computed: list[int], refused: Any
) -> None:
    refused.command(to_train(results, "--metrics", "troughput"), "metric", "troughput", "throughput")
    assert computed == []


def test_what_list_metrics_shows_is_what_metrics_takes(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(results, "--method", "mle", "--metrics", "predict_seconds,rows") == 0
    assert "predict_seconds" in capsys.readouterr().out
    (record,) = records.read(results)
    told = tables.COSTS.keys() - {"selection_seconds"}  # nothing was chosen
    assert set(record.cost) == told - tables.SHORT.keys()
    for name in told:
        assert cli.main(["table", str(results), "--metrics", name]) == 0
        assert cli.main(["list", "metrics", name]) == 0
    capsys.readouterr()


@pytest.mark.parametrize("name", ["predictive_kl", "ood_auroc[nowhere]", "rmse"])
@pytest.mark.parametrize("bare", [False, True])
def test_a_metric_that_exists_but_is_undefined_is_said_to_be(
    results: Path, refused: Any, name: str, bare: bool
) -> None:
    assert train(results, "--method", "mle") == 0
    for file in results.rglob("*.safetensors") if bare else []:
        file.unlink()
    commands = [["table", str(results), "--metrics", name], ["table", str(results), "--sort", name]]
    commands += [["rank", str(results), "--metric", name], ["compare", str(results), str(results), "--metrics", name]]
    for command in commands:
        refused.command(command, name, "undefined", lacks=["unknown"])
    refused.command(["table", results, "--metrics", "predictiv_kl"], "unknown", "predictiv_kl")


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
    ("arguments", "names"),
    [
        (["--rows", "bot"], ["bot", "both"]),
        (["--rounds", "0"], ["--rounds 0"]),
        (["--tables", "0"], ["--tables 0"]),
        (["--threads", "0"], ["--threads 0"]),
        (["--format", "markdwn"], ["format", "markdwn", "markdown"]),
    ],
)
def test_bad_input_of_peers(arguments: list[str], names: list[str], refused: Any) -> None:
    refused.command(["peers", *arguments], *names)
