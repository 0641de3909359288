"""Replicates brought together, the best of a table and its equals: oracles by scipy and by hand."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from scipy import stats

from bdlbench.core.errors import NotComparable
from bdlbench.core.spec import Cell, Choice, Replicate, flatten
from bdlbench.records import cells, contents
from bdlbench.records.cells import Scores
from bdlbench.records.contents import Environment, MetricValues
from bdlbench.records.record import Record

Values = Mapping[int, float]


def scores(values: Values, better: str = "higher") -> Scores:
    by_replicate = {Replicate(seed): value for seed, value in values.items()}
    return Scores("fraction", "higher" if better == "higher" else "lower", "Accuracy()", by_replicate)


def cell(method: str = "mle", dataset: str = "wine", **changes: Any) -> Cell:
    base = Cell(Choice.of(method, {"epochs": 1}), Choice.of("logistic", {}), Choice.of(dataset, {}), samples=3)
    return replace(base, **changes)


def record(of: Cell, values: Values, failed: Sequence[int] = (), **environment: Any) -> Record:
    accuracy = MetricValues("fraction", "higher", "version 1", tuple(values.values()))
    return Record(
        of,
        tuple(map(Replicate, values)),
        contents.Values({"accuracy": accuracy}),
        {"train_seconds": 1.0},
        Environment(**{"sources": {"wine": "abc"}} | environment),
        {Replicate(seed): "boom" for seed in failed},
    )


def test_mean_and_standard_error() -> None:
    one = scores({0: 1.0, 1: 2.0, 2: 6.0})
    assert one.mean == 3.0
    assert one.standard_error == pytest.approx(stats.sem([1.0, 2.0, 6.0]), rel=1e-14)
    assert math.isnan(scores({0: 1.0}).standard_error)
    assert math.isnan(scores({}).mean)
    assert math.isnan(scores({0: 1.0, 1: math.nan}).mean)


def test_merge_brings_replicates_together() -> None:
    parts = [record(cell(), {0: 0.5, 1: 0.6}, failed=[2]), record(cell(), {2: 0.7, 3: math.nan}, failed=[4])]
    (found,) = cells.merge(parts)
    assert found.replicates == tuple(map(Replicate, range(4)))
    assert found.failed == {Replicate(4): "boom"}  # seed 2 has come good since
    assert list(found.scores["accuracy"].values) == list(found.replicates)
    assert len(found.costs) == 2
    assert found.title == "mle · logistic · wine"
    only = cells.select([found], ["nothing", found.key], [Replicate(0), Replicate(4)])
    assert (only[0].replicates, only[0].scores["accuracy"].mean, len(only[0].failed)) == ((Replicate(0),), 0.5, 1)


def test_merge_refuses_other_data_and_other_metrics(refused: Any) -> None:
    first = record(cell(), {0: 0.5})
    with refused(first.name.rpartition("-")[0], "data wine", error=NotComparable):
        cells.merge([first, record(cell(), {1: 0.5}, sources={"wine": "xyz"})])
    accuracy = first.values.metrics["accuracy"]
    for changes in ({"definition": "version 2"}, {"unit": "%"}, {"better": "lower"}):
        metrics = {"accuracy": replace(accuracy, **changes)}
        other = replace(record(cell(), {1: 0.5}), values=contents.Values(metrics))
        with refused(first.name.rpartition("-")[0], "metric accuracy", error=NotComparable):
            cells.merge([first, other])


def test_flatten() -> None:
    tree = {"name": "ens", "member": {"name": "mle", "epochs": 3}, "k": 5}
    assert flatten(tree) == {"name": "ens", "member": "mle", "member.epochs": 3, "k": 5}


def test_columns_named(refused: Any) -> None:
    found = cells.merge([record(cell(), {0: 0.5})])
    other = Scores("fraction", "higher", "OOD", {})
    (one,) = [
        replace(r, scores=r.scores | {"ood_auroc[near]": other, "ood_auroc[far]": other, "x": other}) for r in found
    ]
    assert cells.columns_named([one], []) == ["accuracy", "ood_auroc[far]", "ood_auroc[near]"]
    assert cells.columns_named([one], ["ood_auroc[near]", "x"]) == ["ood_auroc[near]", "x"]
    assert cells.columns_named([one], ["*"]) == ["accuracy", "ood_auroc[far]", "ood_auroc[near]", "x"]
    with refused("metric", "acuracy", "accuracy"):
        cells.columns_named([one], ["acuracy"])


def test_means_of_numbers_near_the_largest() -> None:
    """A metric that diverged is still shown: neither sums nor squares overflow."""
    found, small = scores({0: 1e308, 1: 1e308, 2: -0.5e308}), scores({0: 1.0, 1: 1.0, 2: -0.5})
    assert found.mean == pytest.approx(0.5e308)
    assert found.standard_error == pytest.approx(1e308 * small.standard_error)
    assert small.standard_error == pytest.approx(stats.sem([1.0, 1.0, -0.5]))
