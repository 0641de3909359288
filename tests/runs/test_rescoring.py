"""Metrics that records do not hold, from a file of one's own, computed from stored predictions by every verb."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import accuracy_score

from bdlbench import api, catalog
from bdlbench.cli import main as cli
from bdlbench.records import reading
from bdlbench.records import record as records
from bdlbench.runs import rescoring

PLUGIN = """
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    summary, unit, better = "sd of the probability of the class over test examples", "probability", "lower"
    root: bool = True

    def __call__(self, evaluation):
        probs = evaluation.test.arrays().get("probs")
        if probs is None:
            return {}
        picked = probs.double().gather(-1, evaluation.y.unsqueeze(-1))[..., 0]
        return {"": picked.std(1) if self.root else picked.mean(1)}


@dataclass(frozen=True)
class Asking:
    summary, unit, better = "what only training knows", "count", "lower"

    def __call__(self, evaluation):
        return {"": evaluation.test.group_log_probs.double().sum((0, 2, 3))}


metrics = {"own_spread": Spread(), "own_mean": Spread(root=False), "own_asking": Asking()}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two methods on two data sets of classes, and one of regression."""
    place = tmp_path_factory.mktemp("runs")
    cells: dict[str, Any] = {"models": ["logistic"], "samples": 2, "seeds": "3", "results": place}
    settings = {"mle.epochs": 3, "map.epochs": 3}
    api.run(methods=["mle", "map"], datasets=["wine", "breast_cancer"], settings=settings, **cells)
    linear = {"methods": ["exact"], "models": ["bayesian_linear_regression"], "datasets": ["diabetes"]}
    api.run(**linear, seeds="3", samples=2, results=place)  # type: ignore[arg-type]
    return place


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    path = tmp_path / "own.py"
    path.write_text(PLUGIN)
    monkeypatch.setattr(catalog, "_plugins", {kind: {} for kind in catalog.KINDS})
    yield str(path)


def without(folder: Path, metric: str, place: Path) -> Path:
    """The folder's records as they were before the metric was invented."""
    for record in records.read(folder):
        metrics = {name: entry for name, entry in record.values.metrics.items() if name.partition("[")[0] != metric}
        arrays = records.predictions(folder, record)
        records.write(place, replace(record, values=replace(record.values, metrics=metrics), predictions=""), arrays)
    return place


@pytest.mark.parametrize("metric", ["accuracy", "ece", "nll", "brier"])
def test_a_metric_of_the_catalog_is_what_it_was(folder: Path, tmp_path: Path, metric: str) -> None:
    whole, again = (api.table(place, [metric]) for place in (folder, without(folder, metric, tmp_path)))
    assert list(whole["metric"]) == list(again["metric"]) != []
    np.testing.assert_allclose(whole["mean"], again["mean"], rtol=1e-5, atol=1e-6)


def test_parameters_are_not_in_the_predictions(folder: Path, tmp_path: Path, refused: Any) -> None:
    with refused("parameters", "undefined"):
        api.table(without(folder, "parameters", tmp_path), ["parameters"])


@pytest.mark.slow
def test_every_verb_takes_a_metric_of_ones_own(folder: Path, tmp_path: Path, plugin: str, capsys: Any) -> None:
    for words in (
        ["table", str(folder), "--metrics", "own_mean,nll", "--sort", "own_mean"],
        ["compare", str(folder), str(folder), "--metrics", "own_mean", "--treatment", "mle:map"],
        ["rank", str(folder), "--metric", "own_mean"],
        ["report", str(folder), "--metrics", "own_mean", "--out", str(tmp_path / "report")],
    ):
        assert cli.main([*words, "--plugin", plugin]) == 0, words
        if words[0] != "report":
            assert "own_mean" in capsys.readouterr().out
    assert "own_mean" in (tmp_path / "report" / "index.html").read_text()
    assert not list(folder.glob("*own*"))


def test_its_interval_speaks_of_new_test_examples(folder: Path, plugin: str) -> None:
    """A mean by the jackknife over blocks is the variance of block means, by hand; and without an own `by_example`."""
    found = api.compare(
        folder, folder, metrics=["own_mean", "own_spread"], treatment=("mle", "map"), plugins=[plugin], margins={}
    )
    assert {f.population for f in found.findings} == {"new seeds and new test examples"}
    (first,) = [p for p in found.pairs if "wine" in p.a.title]
    rows = []
    for result in (first.a, first.b):
        (record,) = result.records
        arrays = records.predictions(folder, record)
        picked = arrays["test.log_probs"].double().exp().gather(-1, arrays["test.y"].long()[..., None])[..., 0].numpy()
        rows.append(picked)
    gaps = rows[1] - rows[0]  # (R, N): 45 examples are 45 blocks
    part = gaps.mean(0).var(ddof=1) / gaps.shape[1]
    residual = gaps - gaps.mean(1, keepdims=True) - gaps.mean(0) + gaps.mean()
    part -= (residual**2).sum() / (len(gaps) - 1) / (gaps.shape[1] - 1) / gaps.size
    assert float(first.findings[0].difference.example) == pytest.approx(max(part, 0.0), rel=1e-6)


def test_what_predictions_do_not_tell_is_said(folder: Path, plugin: str, tmp_path: Path, capsys: Any) -> None:
    assert cli.main(["table", str(folder), "--metrics", "own_mean", "--plugin", plugin]) == 0
    assert "own_mean of exact · bayesian_linear_regression · diabetes is not known" in capsys.readouterr().out
    assert cli.main(["table", str(folder), "--metrics", "own_asking", "--plugin", plugin]) == 2
    error = capsys.readouterr().err
    assert "own_asking" in error and "AttributeError" in error
    bare = without(folder, "ece", tmp_path / "bare")
    for path in bare.glob("*.safetensors"):
        path.unlink()
    assert cli.main(["compare", str(bare), str(bare), "--metrics", "ece"]) == 2
    assert "ece" in capsys.readouterr().err
    shown = rescoring.complete(reading.read(bare), ["nll", "nothing"])  # held, or of no catalog
    assert shown[0].records == reading.read(bare).records


def test_the_side_that_lacks_a_metric_is_completed(folder: Path, tmp_path: Path) -> None:
    old = without(folder, "accuracy", tmp_path)
    found = api.compare(folder, old, metrics=["accuracy"])
    assert found.exit_code == 0 and all(f.estimate == pytest.approx(0) for f in found.findings)
    record = next(r for r in records.read(old) if "wine" in r.name)
    arrays = records.predictions(old, record)
    source, _ = rescoring.complete(reading.read(old), ["accuracy"])
    (again,) = [r for r in source.records if r.name == record.name]
    for row, value in enumerate(again.values.metrics["accuracy"].values):
        called, y = arrays["test.log_probs"][row].argmax(-1), arrays["test.y"][row]
        assert value == pytest.approx(accuracy_score(y, called))
