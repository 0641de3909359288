"""The verbs in Python: what they take and give, what a record keeps of its data, and what they leave of torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bdlbench import api, catalog
from bdlbench.core.errors import BadInput
from bdlbench.core.spec import Choice
from bdlbench.data.task import Examples, Signature, Task
from bdlbench.records import record as records
from bdlbench.runs import loading, suites
from bdlbench.runs.external_scores import Claim
from bdlbench.runs.loading import data_facts, load_task


@pytest.fixture(autouse=True)
def _quiet_catalog(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(catalog, "_plugins", {kind: {} for kind in catalog.KINDS})
    yield


def options_of(dataset: str) -> dict[str, Any]:
    model = {"coin_flips": "coin", "diabetes": "bayesian_linear_regression"}.get(dataset, "logistic")
    return {"method": "mle", "model": model, "dataset": dataset, "set": {"mle.epochs": 1}, "samples": 2}


SMALL: dict[str, Any] = {"model": "logistic", "dataset": "wine", "samples": 2}


def seeds_of(found: api.Trained) -> list[int]:
    return sorted({replicate.seed for record in found for replicate in record.replicates})


# what verbs take


@pytest.mark.parametrize(
    ("seeds", "expected"),
    [
        (3, [0, 1, 2]),
        ([0, 1], [0, 1]),
        ([5], [5]),
        (range(2, 4), [2, 3]),
        ("1,4", [1, 4]),
        (np.int64(2), [0, 1]),
        (np.arange(2), [0, 1]),
    ],
)
def test_seeds_are_pythons(seeds: Any, expected: list[int], tmp_path: Path) -> None:
    found = api.run(method="mle", seeds=seeds, set={"mle.epochs": 1}, results=str(tmp_path), **SMALL)
    assert seeds_of(found) == expected


@pytest.mark.parametrize(
    ("given", "swept"),
    [
        ({"mlp.widths": (3, 4)}, [(3, 4)]),
        ({"mlp.widths": [(3, 4), (5,)]}, [(3, 4), (5,)]),
        ({"mlp.widths": [[3, 4], [5]]}, [(3, 4), (5,)]),
        ({"mlp": {"widths": [(3,), (4,)]}}, [(3,), (4,)]),
        ({"mlp.widths": "3-4,5"}, [(3, 4), (5,)]),
        (["mlp.widths=3-4,5"], [(3, 4), (5,)]),
        ("mlp.widths=3", [(3,)]),
    ],
)
def test_options_are_pythons(given: Any, swept: list[tuple[int, ...]], tmp_path: Path) -> None:
    """Two lists in a list were four networks of one layer, without a word."""
    found = api.run(method=["exact"], model="mlp", dataset=["wine"], set=given, seeds=1, results=tmp_path)
    assert (len(found), repr(found).count("skipped: exact · mlp · wine")) == (0, 1)
    spec = suites.build_spec(
        suites.read_suite("quick"), suites.Overrides(("map",), ("mlp",), ("wine",), settings=api._options(given))
    )
    assert [dict(cell.model.options)["widths"] for cell in spec.cells] == swept


@pytest.mark.parametrize("values", [[1, 2], range(1, 3), np.array([1, 2]), torch.tensor([1, 2]), [np.int64(1), 2]])
def test_sweeps_are_lists_of_any_kind(values: Any, tmp_path: Path) -> None:
    found = api.run(method=("mle",), seeds=1, set={"mle.epochs": values}, results=tmp_path, **SMALL)
    assert sorted(found.frame()["method.epochs"].unique()) == [1, 2]


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ({"method": ["mlee"]}, ["method", "mlee", "mle"]),
        ({"methods": "mlee"}, ["method", "mlee", "mle"]),
        ({"method": [3]}, ["method", "3", "exact"]),
        ({"seeds": [0, 0]}, ["--seeds [0, 0]", "twice"]),
        ({"seeds": 1.5}, ["--seeds 1.5", "(5)", "(0-9)", "(1,4,7)"]),
        ({"seeds": []}, ["--seeds []", "no seed"]),
        ({"samples": 2.5}, ["--samples 2.5", "whole"]),
        ({"samples": "2"}, ["--samples '2'", "whole"]),
        ({"threads": 0}, ["--threads 0", "1"]),
        ({"jobs": -1}, ["--jobs -1", "1", "0"]),
        ({"jobs": 1.5}, ["--jobs 1.5", "whole"]),
        ({"checkpoint_every": 0}, ["--checkpoint-every 0", "seconds"]),
        ({"checkpoint_every": "1"}, ["--checkpoint-every 1", "seconds"]),
        ({"jobs": None}, ["--jobs None", "whole"]),
        ({"device": 3}, ["device 3", "auto", "cpu", "cuda"]),
        ({"suite": 3}, ["suite 3", "quick"]),
        ({"method": 3}, ["method", "3", "texts"]),
        ({"plugin": 3}, ["plugin", "3", "path"]),
        ({"plugin": [3]}, ["plugin", "3", "path"]),
        ({"config": 3}, ["config", "3", "path"]),
        ({"set": 3}, ["set", "3", "texts"]),
        ({"sede": 3}, ["argument", "run", "sede", "seeds"]),
        ({"method": "map", "methods": "mle"}, ["argument", "run", "methods"]),
        ({"splits": 3}, ["--splits '3'", "each", "one"]),
        ({"config": "nowhere.toml"}, ["suite", "nowhere.toml", "exist"]),
        ({"suite": "quick", "config": "mine.toml"}, ["quick", "--config mine.toml"]),
        ({"suite": "quik"}, ["suite", "quik", "quick"]),
        ({"plugin": "nowhere.py"}, ["plugin", "nowhere.py", "exist"]),
        ({"set": {"epochs": 3}}, ["set", "'epochs'", "'NAME.OPTION'"]),
        ({"set": {"mle.epochs": {"a": 1}}}, ["set", "'mle.epochs'", "'NAME.OPTION'"]),
        ({"set": {"mle.epochs": 3, "mle": {"epochs": 4}}}, ["set", "mle.epochs", "twice"]),
        ({"set": {"mle.epochs": []}}, ["set", "mle.epochs", "no value"]),
        ({"set": {"mle.epochs": 2.5}}, ["mle.epochs=2.5", "whole"]),
        ({"set": {"mle.epochs": True}}, ["mle.epochs=true", "whole"]),
        ({"set": {"mle.epochs": None}}, ["mle.epochs=None", "whole"]),
        ({"set": {"mel.epochs": 3}}, ["entry", "mel"]),
        ({"set": {"map.epochs": 3}}, ["--set map", "logistic", "mle", "wine"]),
        ({"set": "mle.epochs"}, ["--set 'mle.epochs'", "NAME.OPTION=VALUE"]),
    ],
)
def test_what_is_wrong_is_one_line_and_nothing_is_written(
    given: dict[str, Any], names: list[str], tmp_path: Path, refused: Any
) -> None:
    asked = {"method": "mle", "results": tmp_path / "out", **SMALL}
    with refused(*names):
        api.run(**{**{k: v for k, v in asked.items() if k != "method" or "methods" not in given}, **given})
    assert not (tmp_path / "out").exists()


# what verbs give


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("api") / "results"
    settings = {"mle.epochs": [1, 2], "map.epochs": 1, "mc_dropout.epochs": 1, "deep_ensemble.members": 2}
    names = {"method": ["mle", "map", "mc_dropout", "deep_ensemble"], "model": "mlp"}
    cells = {"dataset": ["wine", "breast_cancer"], "seeds": 3, "samples": 2}
    api.run(set=settings | {"mlp.widths": (3, 4)}, results=place, **names, **cells)
    return place


def test_a_run_prints_as_its_table_and_says_what_is_missing(folder: Path) -> None:
    asked = {"method": ["mle", "exact"], "model": "mlp", "dataset": "wine", "samples": 2, "results": folder}
    found = api.run(seeds=2, set={"mle.epochs": 1, "mlp.widths": (3, 4)}, **asked)
    shown = repr(found).splitlines()
    assert shown[0] == "wine · mlp (widths 3-4) · M = 2"
    assert sum(line.startswith("mle") for line in shown) == 1
    assert shown[-1] == f"{found.skipped[0]}" and shown[-1].startswith("skipped: exact · mlp · wine: ")
    assert [record.cell.method.name for record in found] == ["mle"]
    assert (len(found), found[0]) == (1, found.records[0])
    assert set(found.frame()["seed"].dropna()) == {0, 1}, "what was asked for, of three that are there"
    assert set(found.table("nll,ece")["metric"]) == {"nll", "ece"}


def test_frames_have_whole_seeds_and_options_as_columns(folder: Path) -> None:
    for frame in (api.read(folder), api.table(folder)):
        assert "options" not in frame
        assert set(frame["model.widths"]) == {(3, 4)}
        by_method = frame.groupby("method")
        assert set(by_method.get_group("mle")["method.epochs"]) == {1, 2}
        assert by_method.get_group("deep_ensemble")["method.epochs"].isna().all()
        assert set(by_method.get_group("deep_ensemble")["method.member.epochs"]) == {1, 2}
        assert set(by_method.get_group("deep_ensemble")["method.member"]) == {"mle"}
        assert str(frame["method.epochs"].dtype) == "Int64"
    frame = api.read(folder)
    assert str(frame["seed"].dtype) == "Int64"
    scores = frame[frame["metric"] == "nll"]
    assert [type(seed) for seed in scores["seed"].tolist()] == [int] * len(scores)
    assert frame[frame["metric"] == "train_seconds"]["seed"].isna().all()
    only = scores[scores["method.epochs"] == 2].set_index("seed")["value"]
    assert list(only.index) == [0, 1, 2] * 2


def test_a_comparison_prints_and_becomes_a_frame(folder: Path) -> None:
    found = api.compare(folder, folder, metrics="nll,accuracy")
    shown = repr(found)
    assert "wine · mlp · map: nll " in shown and ", B − A 0 [" in shown
    assert shown.splitlines()[-1] == f"exit code {found.exit_code}"
    assert len(shown.splitlines()) < 40 and "Result(" not in shown
    frame = found.frame()
    assert set(frame["metric"]) == {"nll", "accuracy"}
    assert len(frame) == len(found.findings) == 2 * 2 * 6
    assert set(frame.columns) >= {"dataset", "method", "method_b", "difference", "low", "high", "verdict"}


def test_a_ranking_prints_and_becomes_a_frame(folder: Path) -> None:
    found = api.rank(folder, "nll", methods="map,mc_dropout")
    assert repr(found).startswith("nll (nats, lower is better) over ")
    assert set(found.frame()["method"]) == {"map", "mc_dropout"}
    assert found.frame().shape == (2, 4)
    assert sum("mean rank" in line for line in repr(found).splitlines()) == 2


@pytest.mark.parametrize(
    ("call", "names"),
    [
        (lambda folder: api.table(folder, "nlll"), ["metric", "nlll", "nll"]),
        (lambda folder: api.table(folder, metric="nll"), ["argument", "table", "metric", "metrics"]),
        (lambda folder: api.read(folder / "nowhere"), ["results/nowhere", "exist"]),
        (lambda folder: api.rank(folder, methods="mapp,mle"), ["method", "mapp", "map"]),
        (lambda folder: api.compare(folder, folder, treatment="mle"), ["--treatment 'mle'", "mle:map"]),
        (
            lambda folder: api.compare(folder, folder, treatment=("mle", "map", "x")),
            ["--treatment ('mle', 'map', 'x')", "mle:map"],
        ),
        (lambda folder: api.compare(folder, folder, margins={"nnl": 0.1}), ["margins", "metric", "nnl", "nll"]),
        (lambda folder: api.compare(folder, folder, margins={"nll": -1}), ["margins", "nll", "-1"]),
        (lambda folder: api.compare(folder, folder, margin={"nll": 1}), ["argument", "compare", "margin", "margins"]),
        (lambda folder: api.report(folder, metrics="nlll", out=folder / "out"), ["metric", "nlll", "nll"]),
    ],
)
def test_other_verbs_say_what_is_wrong_in_one_line(
    call: Callable[[Path], Any], names: list[str], folder: Path, refused: Any
) -> None:
    with refused(*names):
        call(folder)


def test_the_plural_names_are_taken_too(folder: Path) -> None:
    given = {"methods": "mle", "models": "mlp", "datasets": "wine", "settings": {"mle.epochs": 1, "mlp.widths": (3, 4)}}
    assert len(api.run(seeds=3, samples=2, results=folder, plugins=(), **given)) == 1  # type: ignore[call-arg]


@pytest.mark.parametrize("dataset", ["wine", "breast_cancer", "coin_flips", "diabetes"])
def test_a_record_keeps_the_facts_of_its_own_splits(dataset: str, tmp_path: Path) -> None:
    """A record of split 3 kept the checksums and statistics of split 0."""
    api.run(seeds="3-3", splits="each", results=tmp_path, **options_of(dataset))
    (record,) = records.read(tmp_path)
    chosen = catalog.recorded("datasets", record.cell.dataset)
    first, own = load_task(chosen, 0), load_task(chosen, 3)
    for what in ("sources", "statistics"):
        theirs, mine = getattr(first, what), getattr(own, what)
        named = {name if theirs[name] == value else f"{name} (split 3)": value for name, value in mine.items()}
        assert getattr(record.environment, what) == named
    assert any("(split 3)" in name for what in ("sources", "statistics") for name in getattr(record.environment, what))
    (check,) = api.verify(tmp_path)
    assert check.verdict == "identical", check


def test_records_of_other_splits_of_drawn_data_are_one_cell(tmp_path: Path) -> None:
    """Each split is drawn anew, so that checksums differ between splits and not between records of one split."""
    for seeds in ("0-1", "0-3"):
        api.run(seeds=seeds, splits="each", results=tmp_path, **options_of("coin_flips"))
    assert len(records.read(tmp_path)) == 2
    assert set(api.table(tmp_path, ["nll"])["n"]) == {4}
    kept = [name for record in records.read(tmp_path) for name in record.environment.sources]
    assert sorted(kept) == ["drawn", "drawn (split 1)", "drawn (split 2)", "drawn (split 3)"]


class Folds:
    """A data set each of whose splits comes from a file of its own, as the UCI sets do."""

    def load(self, split: int) -> Task:
        points = Examples(torch.arange(4.0)[:, None], torch.tensor([0, 1, 0, 1]))
        sources = {"table": "same", f"rows of split {split}": f"{split}"}
        return Task(Signature((1,), 2, "categorical"), points, points, sources=sources)


def test_files_of_other_splits_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(catalog._plugins["datasets"], "folds", Folds)
    monkeypatch.setattr(catalog, "build_dataset", lambda chosen: Folds())
    found = data_facts(Choice("folds"), [4, 2])
    assert found == {"sources": {"table": "same", "rows of split 2": "2", "rows of split 4": "4"}, "statistics": {}}


def probabilities(path: Path, replicates: int = 1) -> Path:
    labels = load_task(catalog.choice("datasets", "wine", {}), 0).test.y.numpy()
    probs = np.full((replicates, len(labels), 3), 1 / 3)
    np.savez(path, probs=probs if replicates > 1 else probs[0], labels=labels)
    return path


@pytest.mark.parametrize(
    ("seeds", "count", "expected"),
    [
        ([7, 3], 2, {7, 3}),
        (np.array([7, 3]), 2, {7, 3}),
        ([5], 1, {5}),
        (2, 2, {0, 1}),
        (1, 1, {0}),
        (range(2, 4), 2, {2, 3}),
        ("4-5", 2, {4, 5}),
        (None, 1, {0}),
    ],
)
def test_score_takes_pythons_values(seeds: Any, count: int, expected: set[int], tmp_path: Path) -> None:
    file = probabilities(tmp_path / "file.npz", count)
    axes = {"axes": "RNC"} if count > 1 else {}
    given = {"mine": {"width": 3, "layers": (4, 5)}}
    api.score(str(file), method="mine", dataset="wine", seeds=seeds, set=given, results=tmp_path / "out", **axes)
    frame = api.read(tmp_path / "out")
    assert set(frame["seed"].dropna()) == expected
    assert set(frame["method.width"]) == {3} and set(frame["method.layers"]) == {"4-5"}


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ({}, ["method", "model", "data"]),
        ({"method": "mine", "dataset": "wines"}, ["dataset", "wines", "wine"]),
        ({"method": "mine", "dataset": "wine", "set": {"mine.width": [3, 4]}}, ["--set mine.width=3,4", "2 values"]),
        ({"method": "mine", "dataset": "wine", "seeds": 1.5}, ["--seeds 1.5", "read"]),
        ({"method": "mine", "dataset": "wine", "mdl": "x"}, ["argument", "score", "mdl", "model"]),
        ({"claim": Claim("mine", "wine"), "method": "yours"}, ["claim", "method"]),
    ],
)
def test_what_is_wrong_with_a_claim_is_one_line(
    given: dict[str, Any], names: list[str], tmp_path: Path, refused: Any
) -> None:
    file = probabilities(tmp_path / "file.npz")
    with refused(*names):
        api.score(file, results=tmp_path / "out", **given)
    assert not (tmp_path / "out").exists()


# what verbs leave of torch


@contextmanager
def float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@contextmanager
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)


@contextmanager
def other_device() -> Iterator[None]:
    torch.set_default_device("meta")
    yield
    torch.set_default_device(None)


CALLERS: dict[str, Callable[[], Any]] = {
    "float64": float64,
    "two threads": two_threads,
    "another device": other_device,
    "a device for a while": lambda: torch.device("meta"),
    "no gradients": torch.no_grad,
    "inference": torch.inference_mode,
    "bfloat16": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
}


def state_of_torch() -> list[Any]:
    modes = [torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")]
    return [torch.get_default_dtype(), torch.get_default_device(), torch.get_num_threads(), *modes]


def numbers(place: Path) -> dict[str, Any]:
    return {record.name: record.values for record in records.read(place)}


@pytest.mark.slow
@pytest.mark.parametrize("caller", CALLERS)
def test_bits_do_not_depend_on_what_a_caller_has_set(caller: str, tmp_path: Path) -> None:
    asked: dict[str, Any] = {"method": ["mle", "mean_field_vi", "laplace"], "model": "mlp", "dataset": "wine"}
    asked |= {"set": {"mle.epochs": 1, "mean_field_vi.epochs": 1, "laplace.epochs": 1}, "seeds": 2, "samples": 3}
    api.run(results=tmp_path / "alone", **asked)
    loading.forget()
    with CALLERS[caller]():
        before, drawn = state_of_torch(), torch.get_rng_state()
        found = api.run(results=tmp_path / "called", **asked)
        checks = list(api.verify(tmp_path / "called"))
        api.table(tmp_path / "called", "nll")
        assert state_of_torch() == before
        assert torch.equal(torch.get_rng_state(), drawn)
    assert len(found) == 3 and not any(record.failed for record in found)
    assert {check.verdict for check in checks} == {"identical"}
    assert numbers(tmp_path / "called") == numbers(tmp_path / "alone")


def test_the_state_of_torch_is_as_before_after_an_error(tmp_path: Path) -> None:
    before = state_of_torch()
    with pytest.raises(BadInput):
        api.run(method="mlee", results=tmp_path)
    assert state_of_torch() == before
