"""Rows of the training data that no method sees, by which conformal sets are calibrated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from bdlbench import api
from bdlbench.gate.verify import verify
from bdlbench.records import evaluation
from bdlbench.records import record as records
from bdlbench.runs import batch as batches
from bdlbench.runs import rescoring
from bdlbench.runs.batch import Batch, Row

CONFORMAL = {"conformal_coverage", "conformal_set_size"}
SETTINGS: dict[str, Any] = {"mle.epochs": 3, "mle.learning_rate": 0.05, "deep_ensemble.members": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("held")
    cells: dict[str, Any] = {"model": "logistic", "dataset": "wine", "samples": 2, "seeds": 2, "jobs": 1}
    for options in (SETTINGS, {**SETTINGS, "wine.calibration": 0.3}):
        api.run(method=["mle", "deep_ensemble"], set=options, results=place, **cells)
    return place


def test_rows_are_kept_from_training_and_standardised_by_the_rest(folder: Path) -> None:
    record = next(r for r in records.read(folder) if r.cell.dataset.get("calibration"))
    rows = tuple(Row(record.cell, replicate) for replicate in record.replicates)
    problem = batches.build(Batch(rows)).problem
    whole = batches.data_of(Batch(rows))
    assert problem.calibration is not None
    assert problem.train.num_data + problem.calibration.y.shape[1] == whole.train.num_data
    assert problem.calibration.y.shape[1] == 40  # ⌈0.3 · 133⌉
    torch.testing.assert_close(problem.train.x.mean(1), torch.zeros(2, 13), atol=1e-5, rtol=0)
    classes = torch.cat([problem.train.y, problem.calibration.y], 1).sort(1).values
    assert torch.equal(classes, whole.train.y.sort(1).values)
    assert torch.equal(problem.test.y, whole.test.y)
    assert not torch.equal(problem.calibration.y[0], problem.calibration.y[1])  # each seed holds out its own


def test_a_record_has_conformal_columns_only_where_rows_are_asked_for(folder: Path) -> None:
    for record in records.read(folder):
        share = record.cell.dataset.get("calibration", 0.0)
        assert set(record.values.metrics) & CONFORMAL == (CONFORMAL if share else set())
        assert ("calibration" in record.cell.as_dict()["protocol"]["dataset"]) == bool(share)
        assert record.environment.examples is not None
        assert record.environment.examples.train == (93 if share else 133)
    tested = {r.environment.examples.test_sha256 for r in records.read(folder) if r.environment.examples}
    assert len(tested) == 1  # the same test examples, on whatever scale


def test_stored_predictions_score_as_new_ones_did(folder: Path) -> None:
    known = {name: metric for name, metric in rescoring.catalog.metrics().items() if name in CONFORMAL}
    for record in records.read(folder):
        kept = evaluation.read(record, records.predictions(folder, record))
        assert kept is not None
        found = rescoring.measure(kept, known)
        assert found == {name: record.values.metrics[name] for name in found}
        assert set(found) == (CONFORMAL if record.cell.dataset.get("calibration") else set())


@pytest.mark.slow
def test_it_is_trained_again_to_the_same_bits(folder: Path) -> None:
    record = next(r for r in records.read(folder) if r.cell.dataset.get("calibration"))
    assert verify(folder, record, full=True).verdict == "identical"


def test_a_target_that_is_no_class_and_a_share_of_all_rows_are_refused(refused: Any, tmp_path: Path) -> None:
    words = ["run", "--model", "logistic", "--method", "mle", "--seeds", "1", "--results", tmp_path / "none"]
    refused.command([*words, "--dataset", "diabetes", "--set", "diabetes.calibration=0.2"], "diabetes.calibration")
    refused.command([*words, "--dataset", "wine", "--set", "wine.calibration=1"], "wine.calibration")
