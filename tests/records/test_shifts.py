"""Metrics of shifted test sets: their columns, what an example contributes, what records keep, and intervals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bdlbench import api, catalog
from bdlbench.compare.differences import half_width
from bdlbench.compare.measured import ExampleLayout, Measured
from bdlbench.core.spec import Replicate
from bdlbench.data.task import Shift
from bdlbench.protocols import TEST, Evaluation, ShiftedTest
from bdlbench.records import evaluation as evaluations
from bdlbench.records import record as records
from bdlbench.records.evaluation import Kept
from bdlbench.runs import scoring

METRICS = catalog.metrics()


def predicted(right: Sequence[Sequence[int]], y: Tensor) -> Kept:
    """Predictions of two classes that are sure of the right class, or of the wrong one: right (R, N)."""
    classes = torch.where(torch.tensor(right) == 1, y, 1 - y)
    probs = torch.nn.functional.one_hot(classes, 2) * 0.8 + 0.1
    return Kept(1, {"log_probs": probs.log(), "probs": probs})


def of_hand() -> Evaluation:
    """Two replicates, four test examples, three shifts of them, and a set with two examples of its own."""
    y, own = torch.tensor([[0, 1, 0, 1]] * 2), torch.tensor([[1, 1]] * 2)
    shifts = {
        "turn 1": ShiftedTest(predicted([[1, 1, 1, 0], [1, 1, 1, 1]], y), y, True),
        "turn 2": ShiftedTest(predicted([[1, 0, 0, 0], [1, 1, 0, 0]], y), y, True),
        "dark": ShiftedTest(predicted([[0, 0, 0, 0], [0, 0, 0, 1]], y), y, True),
        "hospital": ShiftedTest(predicted([[1, 0], [1, 1]], own), own, False),
    }
    return Evaluation(predicted([[1, 1, 1, 1], [1, 1, 1, 0]], y), y, {}, {}, None, shifts=shifts)


def test_columns_and_means_by_hand() -> None:
    found = {key: value.tolist() for key, value in evaluations.asked(METRICS["accuracy"], of_hand()).items()}
    assert found == {
        "": [1, 0.75],
        "turn 1": [0.75, 1],
        "turn 2": [0.25, 0.5],
        "dark": [0, 0.25],
        "hospital": [0.5, 1],
        "turn": [0.5, 0.75],
        "shifted": [pytest.approx(1 / 3), pytest.approx(7 / 12)],  # of the shifts of test examples alone
    }


def test_a_test_example_contributes_once_however_often_it_was_shifted() -> None:
    parts = evaluations.by_example(METRICS["accuracy"], of_hand())
    assert {key: list(one) for key, one in parts.items()} == {
        key: ["hospital" if key == "hospital" else TEST]
        for key in ("", "turn 1", "turn 2", "dark", "hospital", "turn", "shifted")
    }
    assert parts["turn"][TEST].tolist() == [[1, 0.5, 0.5, 0], [1, 1, 0.5, 0.5]]
    assert parts["shifted"][TEST] == pytest.approx(np.array([[2, 1, 1, 0], [2, 2, 1, 2]]) / 3)
    assert parts["hospital"]["hospital"].tolist() == [[1, 0], [1, 1]]
    assert set(evaluations.by_example(METRICS["accuracy"], of_hand(), ["turn"])) == {"", "turn"}


@pytest.mark.parametrize("metric", ["accuracy", "nll", "brier", "ece"])
def test_contributions_to_a_mean_over_shifts_average_to_it(metric: str) -> None:
    given = of_hand()
    values, parts = evaluations.asked(METRICS[metric], given), evaluations.by_example(METRICS[metric], given)
    assert values.keys() == parts.keys()
    linear = [key for key in values if metric != "ece"]  # pseudo-values average to the jackknife's estimate
    for key in linear:
        (rows,) = parts[key].values()
        assert rows.mean(1) == pytest.approx(values[key].numpy())
    assert parts["turn"][TEST] == pytest.approx((parts["turn 1"][TEST] + parts["turn 2"][TEST]) / 2)


def test_severities_that_are_copies_tell_no_more_than_one_of_them() -> None:
    """The interval of a mean over K shifts of N examples is that of N examples, not of K·N."""
    rng = torch.Generator().manual_seed(0)
    y = torch.zeros(3, 200, dtype=torch.int64)
    right = (torch.rand(200, generator=rng) < 0.7).long() ^ (torch.rand(3, 200, generator=rng) < 0.05).long()
    copies = {f"turn {k}": ShiftedTest(predicted(right.tolist(), y), y, True) for k in range(1, 6)}
    given = Evaluation(predicted(right.tolist(), y), y, {}, {}, None, shifts=copies)
    values, parts = (
        evaluations.asked(METRICS["accuracy"], given),
        evaluations.by_example(METRICS["accuracy"], given),
    )

    def width(key: str) -> float:
        rows = [Replicate(seed) for seed in range(3)]
        by_row = dict(zip(rows, values[key].tolist(), strict=True))
        examples = {row: (parts[key][TEST][i],) for i, row in enumerate(rows)}
        return half_width(Measured(by_row, examples, {}), ExampleLayout())

    assert width("turn") == pytest.approx(width("turn 1"))
    assert width("turn 1") == pytest.approx(width(""))


class MeanOfSets:
    """A metric of its own of all shifted sets: how often the test set and its shifts are all right."""

    summary, unit, better, version = "share of test examples that are right however shifted", "fraction", "higher", 1

    def __call__(self, evaluation: Evaluation) -> dict[str, Tensor]:
        sets = [(evaluation.test, evaluation.y), *((s.predicted, s.y) for s in evaluation.shifts.values() if s.of_test)]
        right = torch.stack([(p.arrays()["probs"].argmax(-1) == y).double() for p, y in sets])
        # what is not known is not right, and not wrong either
        known = torch.stack([p.arrays()["probs"].sum(-1) for p, _ in sets])
        return {"": (right * known / known).prod(0).mean(1)}


def test_a_metric_of_its_own_that_reads_shifts_loses_an_example_with_all_its_shifts() -> None:
    given = of_hand()
    assert evaluations.using(MeanOfSets(), given, TEST) == [""]
    assert evaluations.using(MeanOfSets(), given, "hospital") == []
    left_out = evaluations.without_blocks(MeanOfSets(), given, TEST, torch.tensor([0, 0, 1, 1]))[""]
    assert left_out.tolist() == [[0, 0], [0, 0]]
    assert list(evaluations.by_example(MeanOfSets(), given)[""]) == [TEST]


PLUGIN = """
from dataclasses import dataclass, replace
import torch
from bdlbench.datasets.digits import Digits
from bdlbench.datasets.diabetes import datasets as tables
from bdlbench.extend import Shift, Task, option


@dataclass(frozen=True)
class TwoHospitals:
    '''Digits, and of its training images those of another place, upside down.'''

    num_train: int = option(200, "training images", low=0)

    def load(self, split):
        task = Digits(self.num_train).load(split)
        other = Digits().load(split).train
        flipped = Shift(task.test.x.flip(-1))
        return replace(task, shifts={"flip": flipped, "hospital": Shift(other.x[900:1000].flip(-2), other.y[900:1000])})


@dataclass(frozen=True)
class Wrong:
    '''A set whose shifts lack an example.'''

    called: str = option("noise 1", "what the shift is called")
    less: int = option(0, "examples that it lacks", low=0)

    def load(self, split):
        task = Digits(100).load(split)
        return replace(task, shifts={self.called: Shift(task.test.x[self.less:])})


@dataclass(frozen=True)
class Warm:
    '''A regression whose inputs drift.'''

    def load(self, split):
        task = tables["diabetes"]().load(split)
        new = Shift(task.test.x[:40], task.test.y[:40])
        return replace(task, shifts={"drift": Shift(task.test.x + 0.5), "new": new})


datasets = {"two_hospitals": TwoHospitals, "wrong": Wrong, "warm": Warm}
"""


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    path = tmp_path / "hospitals.py"
    path.write_text(PLUGIN, "utf-8")
    return path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("data", "model", "metrics"),
    [("two_hospitals", "logistic", ["accuracy", "nll", "ece", "brier"]), ("warm", "mlp", ["nll"])],
)
def test_a_set_of_ones_own_runs_is_kept_and_is_scored_again_the_same(
    data: str, model: str, metrics: list[str], plugin: Path, tmp_path: Path
) -> None:
    api.run(
        method=["mle", "mc_dropout"],
        model=model,
        dataset=data,
        seeds=2,
        samples=3,
        results=tmp_path / "r",
        set={"mle": {"epochs": 2}, "mc_dropout": {"epochs": 2, "input_rate": 0.1}},
        plugin=plugin,
    )
    found = records.read(tmp_path / "r")
    assert len(found) == 2
    for record in found:
        arrays = records.predictions(tmp_path / "r", record)
        kept = evaluations.read(record, arrays)
        assert kept is not None
        names = {"two_hospitals": ("flip", "hospital"), "warm": ("drift", "new")}[data]
        assert [kept.shifts[name].of_test for name in names] == [True, False]
        assert ("shift.flip.y" in arrays or "shift.drift.y" in arrays) is False
        for metric in metrics:
            again = evaluations.asked(METRICS[metric], kept)
            for name in ("", *names):
                column = f"{metric}[{name}]" if name else metric
                assert again[name].tolist() == pytest.approx(record.values.metrics[column].values, rel=1e-5)
    shown = api.compare(tmp_path / "r", tmp_path / "r", treatment=("mle", "mc_dropout"), metrics=[f"nll[{names[0]}]"])
    assert shown.pairs[0].findings[0].population == "new seeds and new test examples"
    drawn = scoring.stored_arrays(kept)
    assert all(torch.equal(drawn[name], arrays[name]) for name in drawn if name.startswith("shift."))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"wrong.less": 1}, ["noise 1", "449", "450"]),
        ({"wrong.called": "photos"}, ["photos"]),
        ({"wrong.called": "shifted"}, ["shifted"]),
        ({"wrong.called": "a  b"}, ["a  b"]),
        ({"wrong.called": "test"}, ["test"]),
    ],
)
def test_a_shifted_set_that_is_none(options: dict[str, Any], named: list[str], plugin: Path, refused: Any) -> None:
    catalog.add_plugin(plugin)
    chosen = catalog.choice("datasets", "wrong", {"wrong": {k.partition(".")[2]: v for k, v in options.items()}})
    with refused(*named, "hospitals.py"):
        catalog.load_task(chosen, 0)


def test_shifts_follow_rows_and_scales() -> None:
    from bdlbench.data import task
    from bdlbench.data.validation import hold_out

    plain = catalog.load_task(catalog.choice("datasets", "diabetes", {}), 0)
    shifted = task.replace(plain, shifts={"none": Shift(plain.test.x), "own": Shift(plain.train.x, plain.train.y)})
    problem = task.stack([shifted], [0, 0]).repeat(2)
    assert torch.equal(problem.shifts["none"].x, problem.test.x)
    assert problem.shifts["own"].y is not None
    assert problem.shifts["own"].y.shape == problem.train.y.shape
    held = hold_out(problem, [0, 1, 2, 3], 0.2).problem
    assert torch.equal(held.shifts["none"].x, held.test.x)
