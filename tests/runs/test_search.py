"""`tune`: equal budgets, by held-out training rows alone, the same on any number of processes, resumed where it was."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterator
from dataclasses import make_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bdlbench import api, catalog
from bdlbench.cli.main import main
from bdlbench.core import files
from bdlbench.core.errors import Diverged
from bdlbench.core.options import allowed, fields, option, searched
from bdlbench.data import task
from bdlbench.records import record as records
from bdlbench.runs import loading, search, suites
from bdlbench.runs.choosing import scores_on_held_out
from bdlbench.training.loop import Session

SUITE = """
title = "A line"
seeds = "2"
samples = 3
[[grid]]
methods = ["exact", "map", "deep_ensemble"]
models = ["linear_regression"]
datasets = ["uci_folder"]
[grid.options]
map = { batch_size = 8, prior_sd = 5.0, learning_rate = 0.5 }
"""
PROTOCOL = search.SearchProtocol(trials=4, budget=4, replicates=2, validation=0.25, seed=3)


def folder(where: Path, test_rows: float = 0.0) -> Path:
    """A linear target in 40 training rows; `test_rows` is added to every number of the 10 test rows."""
    rng = np.random.default_rng(7)
    x = rng.normal(2, 3, (50, 3))
    table = np.column_stack([x, x @ [1.0, -2.0, 0.5] + rng.normal(0, 1, 50)])
    table[40:] += test_rows
    where.mkdir()
    np.savetxt(where / "data.txt", table)
    for name, numbers in {"features": [0, 1, 2], "target": [3], "train_0": range(40), "test_0": range(40, 50)}.items():
        np.savetxt(where / f"index_{name}.txt", list(numbers), fmt="%d")
    np.savetxt(where / "n_splits.txt", [1], fmt="%d")
    return where


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder(tmp_path_factory.mktemp("sets") / "mine")


def planned(data: Path, protocol: search.SearchProtocol = PROTOCOL, text: str = SUITE, **given: Any) -> search.Search:
    asked = suites.Overrides(device="cpu", settings={"uci_folder": {"path": [str(data)]}, **given.pop("settings", {})})
    return search.plan(suites.parse_suite(text, "line.toml"), replace(asked, **given), protocol)


def untimed(rows: list[search.ScoredTrial]) -> list[search.ScoredTrial]:
    return [replace(row, seconds=0.0) for row in rows]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, data: Path) -> list[search.ScoredTrial]:
    return search.perform(planned(data), tmp_path_factory.mktemp("found") / "line.csv")


@pytest.mark.parametrize(
    ("trials", "budget", "rungs"),
    [
        (24, 120, ((24, 15), (12, 30), (6, 60), (3, 120))),
        (4, 20, ((4, 5), (2, 10), (1, 20))),
        (1, 20, ((1, 20),)),
        (3, 2, ((3, 1), (1, 2))),
        (24, 1, ((24, 1),)),
    ],
)
def test_half_of_the_trials_go_on_with_twice_the_epochs(
    trials: int, budget: int, rungs: tuple[tuple[int, int], ...]
) -> None:
    assert search.SearchProtocol(trials, budget).rungs == rungs


def test_every_method_has_the_same_trials_epochs_and_replicates(done: list[search.ScoredTrial], data: Path) -> None:
    text = SUITE.replace('"exact", "map", "deep_ensemble"', '"mle", "map", "mc_dropout", "mean_field_vi"')
    found = planned(data, text=text, settings={})
    shapes = {
        (len(one.options), tuple((len(cells), cells[0].method.get("epochs")) for cells in one.cells))
        for one in found.contenders
    }
    assert len(found.contenders) == 4
    assert shapes == {(4, ((4, 1), (4, 2), (4, 4)))}
    assert [(row.rung, row.epochs) for row in done if row.method == "map"] == [(1, 1)] * 8 + [(2, 2)] * 4 + [(3, 4)] * 2


def test_the_first_trial_is_the_defaults_and_the_suite_s_other_options_stay(data: Path) -> None:
    (mapped,) = [one for one in planned(data).contenders if one.place[0] == "map"]
    assert mapped.options[0] == {"map.prior_sd": 1.0, "map.learning_rate": 0.001}
    assert {cell.method.get("batch_size") for cell in mapped.cells[0]} == {8}
    assert [cell.method.get("prior_sd") for cell in mapped.cells[1]] == [o["map.prior_sd"] for o in mapped.options]


def test_an_ensemble_has_the_options_of_its_members_method_and_a_closed_form_has_none(data: Path) -> None:
    found = planned(data)
    assert [one.place[0] for one in found.contenders] == ["map", "mle"]
    assert [line.partition(":")[0] for line in found.left_out] == ["exact", "deep_ensemble"]
    assert "mle" in found.left_out[1]


def test_trials_cover_their_ranges_evenly_in_the_logarithm_and_the_seed_decides_them(data: Path) -> None:
    def drawn(seed: int) -> list[float]:
        many = planned(data, search.SearchProtocol(trials=65, budget=1, seed=seed), methods=("map",))
        return [trial["map.learning_rate"] for trial in many.contenders[0].options[1:]]

    rates = drawn(0)
    assert rates == drawn(0) != drawn(1)
    assert 1e-4 <= min(rates) <= max(rates) <= 0.1
    places = np.log10(rates)  # 64 points of a Sobol sequence: 16 in each quarter, but for rounding to three digits
    assert all(abs(n - 16) <= 1 for n in np.histogram(places, [-4, -3.25, -2.5, -1.75, -1])[0])
    assert all(rate == float(f"{rate:.3g}") for rate in rates)


def test_test_rows_have_no_say(tmp_path: Path, done: list[search.ScoredTrial]) -> None:
    other = folder(tmp_path / "mine", test_rows=1000.0)
    loading.forget()
    found = search.perform(planned(other), tmp_path / "line.csv")
    loading.forget()
    # the cell of a folder names its content
    assert [replace(row, cell="") for row in untimed(found)] == [replace(row, cell="") for row in untimed(done)]


def test_a_trial_among_others_is_the_trial_alone_on_the_rows_that_the_stream_holds_out(
    data: Path, done: list[search.ScoredTrial]
) -> None:
    (mapped,) = [one for one in planned(data).contenders if one.place[0] == "map"]
    problem = task.stack([loading.load_task(mapped.cells[0][0].dataset, 0)], [0])
    for trial in range(4):
        cell = mapped.cells[0][trial]
        score = scores_on_held_out([cell], [4001], problem, 0.25, 3, Session())
        (row,) = [r for r in done if (r.method, r.rung, r.trial, r.replicate) == ("map", 1, trial, 4001)]
        assert row.validation_nll == -score.item()
        assert row.cell == cell.key[:12]


def row_of(trial: int, nll: float, rung: int = 1, replicate: int = 4000) -> search.ScoredTrial:
    names = dict(method="map", model="linear_regression", dataset="uci_folder", options=f"map.prior_sd={trial + 1}.5")
    stamp = dict(trials=4, budget=4, replicates=2, validation=0.25, seed=3, cell="", code="", seconds=0.0)
    epochs = 2 ** (rung - 1)
    return search.ScoredTrial(
        rung=rung,
        epochs=epochs,
        trial=trial,
        replicate=replicate,
        validation_nll=nll,
        **names,
        **stamp,  # type: ignore[arg-type]
    )


def test_the_better_half_by_the_mean_goes_on_and_of_equal_ones_the_first(data: Path) -> None:
    (mapped,) = [one for one in planned(data).contenders if one.place[0] == "map"]
    scores = {0: (3.0, 1.0), 1: (0.1, math.inf), 2: (2.0, 2.0), 3: (2.0, 1.0)}
    rows = [row_of(trial, nll, replicate=4000 + i) for trial, pair in scores.items() for i, nll in enumerate(pair)]
    assert search.survivors(PROTOCOL, mapped, rows, 1) == (0, 3)
    (batch, other) = search.due(PROTOCOL, mapped, rows)
    assert (batch.rung, batch.trials, batch.replicate, other.replicate) == (1, (0, 3), 4000, 4001)
    assert [one.replicate for one in search.due(PROTOCOL, mapped, rows[:-1])] == [4001]


def test_the_winner_is_the_best_of_the_last_rung_and_says_how_sure_it_is() -> None:
    last = [row_of(0, 2.0, 3), row_of(0, 4.0, 3, 4001), row_of(2, 2.0, 3), row_of(2, 3.0, 3, 4001)]
    (found,) = search.winners([row_of(1, -9.0), *last])
    assert (found.trial, found.validation_nll, found.options) == (2, 2.5, {"map.prior_sd": "3.5"})
    assert found.standard_error == pytest.approx(0.5)  # √(½ / 2)
    assert search.winners([row_of(0, math.inf, 3), row_of(1, math.inf, 3)]) == []


def test_a_search_resumes_and_loses_at_most_a_batch(
    tmp_path: Path, data: Path, done: list[search.ScoredTrial], monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[search.TrialBatch] = []
    train = search.train

    def counted(protocol: search.SearchProtocol, batch: search.TrialBatch, report: Any) -> list[search.ScoredTrial]:
        if len(trained) == 5:
            raise KeyboardInterrupt
        trained.append(batch)
        return train(protocol, batch)

    monkeypatch.setattr(search, "train", counted)
    with pytest.raises(KeyboardInterrupt):
        search.perform(planned(data), tmp_path / "line.csv")
    monkeypatch.setattr(search, "train", lambda *given: trained.append(given[1]) or train(*given))
    left: list[float] = []
    found = search.perform(planned(data), tmp_path / "line.csv", report=lambda b, s, seconds: left.append(seconds))
    assert untimed(found) == untimed(done)
    assert len(trained) == 12  # two methods, three rungs, two replicates
    assert left[-1] == 0
    assert all(a > 0 for a in left[:-1])
    assert search.read(tmp_path / "line.csv") == found


@pytest.mark.slow
def test_the_same_on_two_processes(tmp_path: Path, data: Path, done: list[search.ScoredTrial]) -> None:
    assert untimed(search.perform(planned(data), tmp_path / "line.csv", jobs=2)) == untimed(done)


def test_a_search_of_trials_that_all_diverge_has_no_winner(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverges(*given: Any) -> torch.Tensor:
        raise Diverged("the loss is not finite")

    monkeypatch.setattr(search, "scores_on_held_out", diverges)
    rows = search.perform(planned(data, methods=("map",)), tmp_path / "line.csv")
    assert {row.validation_nll for row in rows} == {math.inf}
    assert search.read(tmp_path / "line.csv") == rows
    assert search.winners(rows) == []


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"trials": 5}, ["line.csv", "4 trials"]),
        ({"budget": 8}, ["line.csv", "4 epochs"]),
        ({"seed": 4}, ["line.csv", "seed 3"]),
        ({"validation": 0.5}, ["line.csv", "25 %"]),
        ({"replicates": 1}, ["line.csv", "2 replicates"]),
        ({"replicates": 3}, ["line.csv", "2 replicates"]),
    ],
)
def test_a_table_is_of_one_search(
    change: dict[str, Any], names: list[str], tmp_path: Path, data: Path, done: list[search.ScoredTrial], refused: Any
) -> None:
    (tmp_path / "line.csv").write_text(search.written(done))
    with refused(*names):
        search.perform(planned(data, replace(PROTOCOL, **change)), tmp_path / "line.csv")


def test_rows_of_other_code_or_options_are_not_gone_on_from(
    tmp_path: Path, data: Path, done: list[search.ScoredTrial], refused: Any
) -> None:
    file = tmp_path / "line.csv"
    file.write_text(search.written([replace(row, code="another") for row in done]))
    with refused("line.csv", "map", "code", "--fresh"):
        search.perform(planned(data), file)
    file.write_text(search.written(done))
    with refused("line.csv", "map", "options", "--fresh"):
        search.perform(planned(data, settings={"map": {"batch_size": [10]}}), file)
    other = [replace(row, method="laplace", code="another") for row in done if row.method == "map"]
    file.write_text(search.written([*done, *other]))
    assert search.perform(planned(data), file) == search.read(file)  # what is of no method here stays
    assert len(search.read(file)) == len(done) + len(other)


def test_the_printed_options_are_the_winners_cells(tmp_path: Path, data: Path, done: list[search.ScoredTrial]) -> None:
    """What `tune` prints, put into a suite, is the cell that won; the record of it cites the table."""
    file = tmp_path / "line.csv"
    file.write_text(search.written(done))
    won = search.winners(done)
    text = SUITE.replace("[grid.options]\nmap = { batch_size = 8, prior_sd = 5.0, learning_rate = 0.5 }", "")
    text += search.as_toml(file, won) + "\n[options.map]\nbatch_size = 8\n"
    spec = suites.build_spec(
        suites.parse_suite(text, "line.toml"),
        suites.Overrides(device="cpu", settings={"uci_folder": {"path": [str(data)]}}, methods=("map",)),
    )
    last = {row.cell for row in done if row.method == "map" and row.epochs == 4}
    assert {cell.key[:12] for cell in spec.cells} == last
    assert spec.searches == {}  # its data set was set on the command line
    spec = suites.build_spec(suites.parse_suite(text, "line.toml"), suites.Overrides(device="cpu", methods=("map",)))
    assert list(spec.searches.values()) == [f"line.csv {files.sha256(file.read_bytes())}"]
    assert tomllib.loads(text)["grid"][0]["options"]["map"]["epochs"] == 4


def test_a_record_cites_the_search_of_its_cell(tmp_path: Path) -> None:
    config, cited = tmp_path / "own.toml", f"own.csv {'0' * 64}"
    config.write_text(
        f'samples = 1\nseeds = 3\n[[grid]]\nmethods = ["mle"]\nmodels = ["logistic"]\ndatasets = ["wine"]\n'
        f'search = "{cited}"\n[grid.options]\nmle = {{ epochs = 1 }}\n'
    )
    for more, expected in (([], cited), (["--set", "mle.learning_rate=0.1"], "")):
        results = tmp_path / f"results{len(more)}"
        assert main(["run", "--config", str(config), "--results", str(results), "--jobs", "1", *more]) == 0
        (record,) = records.read(results)
        assert record.environment.search == expected
        assert ("search" in record.environment.as_dict()) == bool(expected)


def test_what_is_set_or_kept_is_not_searched(data: Path) -> None:
    (found,) = planned(data, methods=("map",), settings={"map": {"learning_rate": [0.02]}}).contenders
    assert found.options[0].keys() == {"map.prior_sd"}
    assert {cell.method.get("learning_rate") for cell in found.cells[0]} == {0.02}
    suite = suites.parse_suite(SUITE, "line.toml")
    asked = suites.Overrides(("map",), device="cpu", settings={"uci_folder": {"path": [str(data)]}})
    (found,) = search.plan(suite, asked, PROTOCOL, keep=("prior_sd",)).contenders
    assert {cell.method.get("prior_sd") for cell in found.cells[0]} == {5.0}


PLUGIN = """
from dataclasses import dataclass
from bdlbench.extend import Recipe, option
from bdlbench.methods.mle import MLE

@dataclass(frozen=True)
class Own(MLE):
    \"\"\"Own.\"\"\"
    weight: float = option(1.0, "w", low=0, search=(0.5, 2.0))

methods = {"own": Own}
"""


def test_a_method_in_one_file_is_searched_where_its_options_say_so(tmp_path: Path, data: Path) -> None:
    path = tmp_path / "own_method.py"
    path.write_text(PLUGIN)
    catalog.add_plugin(path, ())
    (found,) = planned(data, methods=("own",)).contenders
    assert found.options[0].keys() == {"own.weight", "own.learning_rate"}
    rows = search.perform(planned(data, methods=("own",)), tmp_path / "line.csv")  # `weight` is no option of rows
    assert len(rows) == 2 * (4 + 2 + 1)
    assert all(math.isfinite(row.validation_nll) for row in rows)


def test_every_range_of_the_catalog_is_of_numbers_that_the_option_takes() -> None:
    found = 0
    for name in catalog.names("methods"):
        entry = catalog.load("methods", name)
        for key, (least, largest) in searched(entry).items():
            declared = fields(entry)[key]
            assert (least, largest) == declared.metadata["search"], f"{name}.{key}: {allowed(declared)}"
            assert least <= declared.default <= largest or key == "input_rate", f"{name}.{key}"  # its default is none
            found += 1
    assert found > 20


SUITES = "the recipe and the loss belong to the suite"
BUDGET = "how training is divided is a part of the budget"
POSTERIOR = "another value has another posterior"
WORD = "it has no say unless a word of the suite asks for it"
UNSEARCHED = {
    **dict.fromkeys(("momentum", "weight_decay", "warmup", "milestone_factor", "clip_norm", "validation"), SUITES),
    **dict.fromkeys(("label_smoothing", "adversarial"), SUITES),
    **dict.fromkeys(("collect_from", "warm_start", "burn_in", "ramp_start", "ramp_end"), BUDGET),
    **dict.fromkeys(("mixture_weight", "wide_sd", "narrow_sd", "temperature"), POSTERIOR),
    **dict.fromkeys(("final_size", "pruned"), WORD),
    "max_alpha": "the paper's bound, below which its approximation of the KL holds",
    "threshold": "the definition of a pruned weight: a dropout rate of 0.95 (Molchanov et al. 2017)",
    "hessian_momentum": "1 − 1e-5 as its authors keep it, of which three digits would make 1",
}
"""Every number of the catalog's methods that `tune` does not search, with the reason."""


def test_every_number_of_a_method_that_trains_is_searched_or_named_with_the_reason() -> None:
    named, none = set[str](), list[str]()
    for name in catalog.names("methods"):
        declared = catalog.options_of("methods", name)
        if "epochs" not in declared:  # nothing to divide a budget by: closed forms, and methods that build on another
            continue
        ranges = searched(catalog.load("methods", name))
        rest = {key for key, one in declared.items() if isinstance(one.default, float)} - ranges.keys()
        assert not rest - UNSEARCHED.keys(), f"{name}: give it search=(LEAST, LARGEST), or a reason here"
        named |= rest
        none += [] if ranges else [name]
    assert not none
    assert named == UNSEARCHED.keys()


def test_ranges_are_around_a_method_s_own_defaults_on_both_sides(data: Path) -> None:
    """The step size of IVON is a hundred times Adam's, so Adam's range would end where it begins."""
    found = planned(data, search.SearchProtocol(trials=17, budget=1), methods=("ivon", "sgld", "sghmc", "ivon_opt"))
    for one in found.contenders:
        for key, default in one.options[0].items():
            if key.endswith((".learning_rate", ".step_size", ".initial_hessian", ".friction")):
                below = sum(trial[key] < default for trial in one.options[1:])
                assert 2 <= below <= 14, f"{key}: {below} of 16 trials below {default}"
    keys = {key for one in found.contenders for key in one.options[0]}
    assert keys >= {"ivon.initial_hessian", "sgld.step_size", "sghmc.step_size", "sghmc.friction"}


def test_a_range_that_is_none_and_one_that_is_wider_than_the_option() -> None:
    with pytest.raises(ValueError, match="search"):
        option(1.0, "a", search=(2.0, 1.0))

    wide, whole = option(1.0, "a", high=1.5, search=(0.5, 9.0)), option(1, "b", search=(0.5, 9.0))
    entry = make_dataclass("Entry", [("a", float, wide), ("b", int, whole)])
    assert searched(entry) == {"a": (0.5, 1.5)}


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["--budget", "0"], ["--budget 0"]),
        (["--budget", "2", "--trials", "0"], ["--trials 0"]),
        (["--budget", "2", "--replicates", "0"], ["--replicates 0"]),
        (["--budget", "2", "--validation", "1"], ["--validation 1"]),
        (["--budget", "2", "--validation", "nan"], ["--validation nan"]),
        (["--budget", "2", "--seed", "-1"], ["--seed -1"]),
        (["--budget", "2", "--method", "mel"], ["mel", "mle"]),
        (["--budget", "2", "--method", "exact"], ["exact"]),
        (["--budget", "2", "--model", "mpl"], ["mpl", "mlp"]),
        (["--budget", "2", "--model", "lenet5"], ["lenet5", "quick.toml"]),
        (["--budget", "2", "--keep", "prior"], ["--keep prior", "prior_sd"]),
        (["--budget", "2", "--set", "map.prior=1"], ["prior", "prior_sd"]),
        (["--budget", "2", "--set", "map.prior_sd=1,2"], ["map", "--set"]),
        (["--budget", "2", "--jobs", "-1"], ["--jobs -1"]),
        (["nosuch", "--budget", "2"], ["nosuch"]),
        (["gal2016", "--budget", "2"], ["gal2016", "splits"]),
        (["posterior", "--budget", "2", "--method", "mle"], ["mle.steps", "--set mle.steps=0"]),
        (["--budget", "2", "--set", "mle.epochs=7"], ["mle.epochs", "--budget"]),
        (["--budget", "2", "--method", "mle", "--set", "mle.steps=7"], ["mle.steps", "--budget"]),
        (["--budget", "2", "--method", "mle", "--set", "digits.calibration=0.2"], ["digits.calibration"]),
        ([], ["--budget"]),
    ],
)
def test_bad_input(arguments: list[str], names: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["tune", *arguments, "--results", str(tmp_path / "new")]) == 2
    lines = capfd.readouterr().err.splitlines()
    assert all(name in lines[-1] for name in names), lines
    assert not (tmp_path / "new").exists()


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    path = tmp_path / "line.toml"
    path.write_text(SUITE, encoding="utf-8")
    return path


BUDGETS: dict[str, Any] = {"trials": 4, "budget": 4, "replicates": 2, "validation": 0.25, "seed": 3, "device": "cpu"}


@pytest.mark.slow
def test_in_python_it_is_the_search_of_the_command(
    suite: Path, data: Path, tmp_path: Path, done: list[search.ScoredTrial], capsys: pytest.CaptureFixture[str]
) -> None:
    found = api.tune(suite, **BUDGETS, set={"uci_folder.path": str(data)}, results=tmp_path / "python")
    assert capsys.readouterr() == ("", "")
    assert untimed(list(found.trials)) == untimed(done)
    words = [word for name, value in BUDGETS.items() for word in (f"--{name}", str(value))]
    command = ["tune", "--config", str(suite), *words, "--set", f"uci_folder.path={data}", "--results"]
    assert main([*command, str(tmp_path / "command")]) == 0
    told = capsys.readouterr()
    assert repr(found).splitlines()[1:-2] == told.out.splitlines()[1:]  # the first cites the table, which has seconds
    assert repr(found).splitlines()[-2:] == [f"# {line}" for line in told.err.splitlines()[:2]]
    assert repr(found).splitlines()[0] == f'search = "line.csv {files.sha256(found.file.read_bytes())}"'
    assert tomllib.loads("[[grid]]\n" + repr(found))["grid"][0]["options"] == found.options
    assert found.file.parent == tmp_path / "python"


@pytest.mark.slow
def test_what_python_is_given_has_a_frame_and_options_for_a_run(suite: Path, data: Path, tmp_path: Path) -> None:
    asked: dict[str, Any] = {
        **BUDGETS,
        "config": suite,
        "results": tmp_path,
        "set": {"uci_folder": {"path": str(data)}},
    }
    found = api.tune(method="map", **asked)
    frame = found.frame()
    assert len(frame) == 2 * (4 + 2 + 1)
    assert set(frame.columns) > {"method", "rung", "trial", "replicate", "validation_nll", "won", "method.prior_sd"}
    last = frame[frame["rung"] == 3]
    assert last["won"].all()
    assert last["validation_nll"].mean() == pytest.approx(found.winners[0].validation_nll)
    assert found.options["map"]["epochs"] == 4
    assert found.options["map"]["prior_sd"] == last["method.prior_sd"].iloc[0]
    html = found._repr_html_()
    assert html.count("<table>") == 1
    assert f"prior_sd={last['method.prior_sd'].iloc[0]:g}" in html
    both = api.tune(**asked)  # goes on from the table, which holds the trials of map
    assert [one.place[0] for one in both.winners] == ["map", "mle"]
    assert len(api.tune(method="map", **asked).trials) == len(frame)
    assert "&lt;b&gt;" in replace(found, notes=("<b>",))._repr_html_()
    own = {"uci_folder": {"path": str(data)}}
    trained = api.run(config=suite, method="map", set=found.options | own, results=tmp_path / "runs")
    assert trained[0].cell.method.get("prior_sd") == found.options["map"]["prior_sd"]


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ({"budget": 2.5}, ["--budget 2.5", "whole"]),
        ({"budget": True}, ["--budget True", "whole"]),
        ({"trials": "4"}, ["--trials '4'", "whole"]),
        ({"seed": 1.0}, ["--seed 1.0", "whole"]),
        ({"validation": "half"}, ["--validation half", "share"]),
        ({"model": ["mlp"]}, ["model", "['mlp']"]),
        ({"keep": 3}, ["keep", "3"]),
        ({"budgets": 3}, ["argument", "tune", "budgets", "budget"]),
        ({"jobs": 1.5}, ["--jobs 1.5", "whole"]),
        ({"executor": 3}, ["--executor 3"]),
        ({"suite": "quik"}, ["suite", "quik", "quick"]),
    ],
)
def test_bad_input_in_python(given: dict[str, Any], names: list[str], tmp_path: Path, refused: Any) -> None:
    with refused(*names):
        api.tune(**{"budget": 2, "method": "mle", "results": tmp_path / "new", **given})
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("text", ["method\nmle\n", "\x00", "a,b\n", ""])
def test_a_file_that_is_no_table_of_trials(text: str, tmp_path: Path, data: Path, refused: Any) -> None:
    (tmp_path / "line.csv").write_text(text)
    with refused("line.csv"):
        search.perform(planned(data), tmp_path / "line.csv")


def test_a_citation_that_is_none(refused: Any) -> None:
    with refused("mine.toml", "search", "quick.csv"):
        suites.parse_suite('[[grid]]\nsearch = "quick.csv"\n', "mine.toml")


def test_a_search_chooses_by_training_rows_and_no_suite_may_say_otherwise(refused: Any) -> None:
    text = f'[[grid]]\nsearch = "my own.csv {"0" * 64}"\n'
    assert suites.parse_suite(text, "mine.toml").selection == "training"
    with refused("mine.toml", "selection", "none"):
        suites.parse_suite(f'selection = "none"\n{text}', "mine.toml")


OWN = """
samples = 2
[[grid]]
methods = ["mle", "ols"]
models = ["logistic"]
datasets = ["wine"]
[grid.options]
mle = { batch_size = 32 }
"""


def test_the_command_searches_once_prints_a_suite_s_options_and_says_what_is_left(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, results = tmp_path / "my own.toml", tmp_path / "found"
    config.write_text(OWN)
    command = ["tune", "--config", str(config), "--results", str(results), "--jobs", "1", "--device", "cpu"]
    command += ["--trials", "2", "--budget", "2", "--replicates", "1"]
    assert main(command) == 0
    out, err = capfd.readouterr()
    assert "ols" in err
    assert "rung 1 of 2" in err
    assert "left" in err
    suite = suites.parse_suite(OWN.partition("[grid.options]")[0] + out, "again.toml")
    assert suite.grids[0].options["mle"]["epochs"] == [2]
    table = (results / "my own.csv").read_bytes()
    assert suite.grids[0].search == f"my own.csv {files.sha256(table)}"
    assert main(command) == 0
    again, err = capfd.readouterr()
    assert (again, "rung" in err) == (out, False)  # nothing was left to train
    assert main([*command, "--fresh"]) == 0
    assert "rung" in capfd.readouterr().err

    def interrupted(*given: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(search, "train", interrupted)
    assert main([*command, "--fresh"]) == 130
    assert (results / "my own.csv").exists()
    monkeypatch.setattr(search, "train", lambda *given: [replace(r, validation_nll=math.inf) for r in train(*given)])
    assert main([*command, "--fresh"]) == 4
    assert "mle" in capfd.readouterr().err.splitlines()[-1]


train = search.train

FOLDER = Path(__file__).parents[2] / "results" / "search"


def cited() -> Iterator[tuple[str, suites.Grid]]:
    for name in suites.suite_names():
        for grid in suites.read_suite(name).grids:
            if grid.search:
                yield name, grid


def test_the_options_of_suites_are_the_winners_of_the_searches_that_they_cite() -> None:
    for name, grid in cited():
        file, sha256 = grid.search.split()
        assert files.sha256((FOLDER / file).read_bytes()) == sha256, name
        won = {one.place: one for one in search.winners(search.read(FOLDER / file))}
        suite = suites.read_suite(name)
        options = suites.merge(suite.options, grid.options)
        for method in grid.methods:
            below = [str(f.default) for f in catalog.options_of("methods", method).values() if f.metadata["entry"]]
            for trained in below or [method]:
                mine = [
                    one
                    for place, one in won.items()
                    if place[0] == trained and place[1] in grid.models and place[2] in grid.datasets
                ]
                assert mine, f"{name}: {trained} was not searched"
                assert options[trained]["epochs"] == [mine[0].epochs]
                for key, value in mine[0].options.items():
                    assert options[trained][key.partition(".")[2]] == [float(value)], f"{name}: {key}"
