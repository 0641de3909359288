"""What a record holds: older records are read, definitions are versions, a new field raises the schema."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
import torch
from torch import Tensor

from bdlbench import catalog
from bdlbench.core import files
from bdlbench.core.errors import NotComparable
from bdlbench.core.spec import Cell, Tuning
from bdlbench.metrics.ece import ExpectedCalibrationError
from bdlbench.protocols import Evaluation
from bdlbench.records import cells, contents, evaluation
from bdlbench.records import record as records
from bdlbench.records.record import Record
from bdlbench.runs import scoring

RESULTS = Path(__file__).parents[2] / "results"
COMMITTED = sorted(RESULTS.rglob("*-*-*.json"))


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.name)
def test_a_committed_record_is_read_whole(path: Path) -> None:
    """All that stands on disk comes back, to the byte, but that a metric's definition is said as it is today."""
    on_disk = json.loads(path.read_text("utf-8"))
    record = records.read_one(path)
    values = record.values.as_dict()
    for name, entry in on_disk["values"]["metrics"].items():
        entry["definition"] = values["metrics"][name]["definition"]
    assert files.canonical_json(values) == files.canonical_json(on_disk["values"])
    assert files.canonical_json(record.environment.as_dict()) == files.canonical_json(on_disk["environment"])


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.name)
def test_the_metrics_of_a_committed_record_mean_what_they_mean_today(path: Path) -> None:
    known = catalog.metrics()
    for name, entry in records.read_one(path).values.metrics.items():
        assert replace(entry, values=()) == scoring.entry_of(known[name.partition("[")[0]])


@pytest.mark.parametrize(
    ("then", "now"),
    [
        ("ExpectedCalibrationError(bins=15)", "version 1 (bins=15)"),
        ("Accuracy()", "version 1"),
        ("ExpectedCalibrationError(bins=20) of mine.py", "version 1 (bins=20) of mine.py"),
        ("Fact(fact='size', summary=\"it's (a, b)\", unit='count', better='higher')", "version 1 (fact='size')"),
        ("Mine(k=3)", "Mine(k=3)"),
        ("Mine", "Mine"),
        ("Mine() of mine.py", "Mine() of mine.py"),
        ("version 2 (bins=15)", "version 2 (bins=15)"),
    ],
)  # fmt: skip
def test_a_definition_of_schema_1_is_said_as_today(then: str, now: str) -> None:
    assert contents.versioned(then) == now


@dataclass(frozen=True)
class Share:
    """A metric of somebody else, without a version."""

    k: int = 3
    summary: ClassVar[str] = "share"
    unit: ClassVar[str] = "fraction"
    better: ClassVar[Literal["higher"]] = "higher"

    def __call__(self, evaluation: Evaluation) -> dict[str, Tensor]:
        """{"": (R,)}."""
        return {"": torch.ones(len(evaluation.y), dtype=torch.float64)}


@dataclass(frozen=True)
class SecondShare(Share):
    """The same in another meaning, which says so."""

    version: ClassVar[int] = 2


def test_a_version_and_the_options_are_what_a_metric_means() -> None:
    assert catalog.definition(Share(4)) == "Share(k=4)"
    assert catalog.definition(SecondShare(4)) == "version 2 (k=4)"
    assert catalog.definition(ExpectedCalibrationError(20)) == "version 1 (bins=20)"


def test_every_metric_of_the_package_has_a_version() -> None:
    assert [name for name, metric in catalog.metrics().items() if not hasattr(metric, "version")] == []


def test_a_raised_version_is_another_metric(refused: Any) -> None:
    """A real record, whose ece is of version 1, and the same cell scored by version 2."""
    (path,) = (RESULTS / "reference" / "quick").glob("digits-mlp-mle-*.json")
    record = records.read_one(path)
    assert record.values.metrics["ece"].definition == "version 1 (bins=15)"
    raised = replace(record.values.metrics["ece"], definition="version 2 (bins=15)")
    values = replace(record.values, metrics={**record.values.metrics, "ece": raised})
    with refused(record.name.rpartition("-")[0], "metric ece", error=NotComparable):
        cells.merge([record, replace(record, values=values)])
    assert len(cells.merge([record, record])) == 1


@pytest.mark.parametrize("version", [0, "2", True, 1.0])
def test_a_version_that_is_none(version: Any, tmp_path: Path, refused: Any) -> None:
    plugin = tmp_path / "mine.py"
    source = f"""
class Own:
    summary, unit, better, version = "own", "count", "lower", {version!r}

    def __call__(self, evaluation):
        return {{}}


metrics = {{"own_version": Own()}}
"""
    plugin.write_text(source)
    with refused("mine.py:9", "metric own_version", "version", repr(version)):
        catalog.add_plugin(plugin)


FIELDS = {
    Cell: "method model dataset samples device threads tuning",
    Tuning: "options points validation samples refit",
    Record: "cell replicates values cost environment failed predictions path unscored",
    contents.Values: "metrics parameters_sha256 samples elbo_nats facts first_steps objective curves",
    contents.MetricValues: "unit better definition values",
    contents.MeasuredCurves: "epochs samples series",
    contents.FirstSteps: "steps sha256 norm loss",
    contents.ObjectiveFactors: "named temperature ramp local undeclared failed",
    contents.TestedExamples: "train test test_sha256",
    contents.PredictionsFrom: "file sha256 axes seeds splits",
    contents.Environment: (
        "python packages platform processor cpu_capability instructions device threads commit sources statistics code "
        "selection search examples predictions_from"
    ),
}


def test_a_new_field_raises_the_schema() -> None:
    """Who adds a field adds it here, raises SCHEMA, and says there what the number means."""
    assert records.SCHEMA == 6
    for holder, names in FIELDS.items():
        assert [field.name for field in dataclasses.fields(holder)] == names.split()


def test_a_record_of_a_newer_schema_names_the_bdlbench_that_wrote_it(tmp_path: Path, refused: Any) -> None:
    body = json.loads(COMMITTED[0].read_text("utf-8"))
    body |= {"schema": records.SCHEMA + 1, "new": "field"}
    body["environment"]["packages"]["bdlbench"] = "9.8.7"
    path = tmp_path / COMMITTED[0].name
    path.write_text(json.dumps(body))
    with refused(path.name, f"schema {records.SCHEMA + 1}", records.SCHEMA, "9.8.7"):
        records.read_one(path)


def test_depth_is_the_fact_or_the_score_by_its_name() -> None:
    """Of a stored network of uncertain depth: E_q z is a score, the depth of the prediction and its cost are facts."""
    (path,) = (RESULTS / "reference" / "quick").glob("digits-stopping_resnet-*.json")
    record = records.read_one(path)
    arrays = records.predictions(path.parent, record)
    kept = evaluation.read(record, arrays)
    assert kept is not None
    assert torch.equal(kept.test.scores["depth"], arrays["test.depth"])
    assert torch.equal(kept.test.facts["halted_depth"], arrays["test.halted_depth"])
    assert not kept.test.facts.keys() & {"depth", "entropy", "max_probability"}
    assert not kept.test.scores.keys() & {"halted_depth", "flops", "full_flops"}
    model = catalog.build_model([record.cell.model], catalog.load_task(record.cell.dataset, 0).signature)
    assert kept.test.facts["full_flops"].unique().tolist() == [float(model.exits().full_flops)]  # type: ignore[attr-defined]


def test_what_no_prediction_tells_is_absent() -> None:
    """The number of parameters of stored predictions is None, not 0: the metric has no value, not a wrong one."""
    (path,) = (RESULTS / "reference" / "quick").glob("digits-mlp-mle-*.json")
    kept = evaluation.read(record := records.read_one(path), records.predictions(path.parent, record))
    assert kept is not None and kept.num_parameters is None
    assert catalog.metrics()["parameters"](kept) == {}


@pytest.mark.parametrize("path", sorted(RESULTS.rglob("*.safetensors")), ids=lambda path: path.name)
def test_the_predictions_of_a_committed_record_are_read(path: Path) -> None:
    """Also of a density, beside which lie the classes of its inputs, though it predicts none."""
    record = records.read_one(path.with_suffix(".json"))
    assert records.predictions(path.parent, record)
