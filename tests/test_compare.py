"""Differences between results: oracles by scipy and by hand, and what may not be compared."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from bdlbench import compare
from bdlbench.compare import Scores
from bdlbench.errors import NotComparable
from bdlbench.records import Record
from bdlbench.spec import Cell, Choice, Replicate

Values = Mapping[int, float]


def scores(values: Values, better: str = "higher") -> Scores:
    by_replicate = {Replicate(seed): value for seed, value in values.items()}
    return Scores("fraction", "higher" if better == "higher" else "lower", "Accuracy()", by_replicate)


def cell(method: str = "mle", dataset: str = "wine", **changes: Any) -> Cell:
    base = Cell(Choice.of(method, {"epochs": 1}), Choice.of("logistic", {}), Choice.of(dataset, {}), samples=3)
    return replace(base, **changes)


def record(of: Cell, values: Values, failed: Sequence[int] = (), **environment: Any) -> Record:
    accuracy = {"unit": "fraction", "better": "higher", "definition": "Accuracy()", "values": list(values.values())}
    return Record(
        of.as_dict(),
        tuple(map(Replicate, values)),
        {"metrics": {"accuracy": accuracy}},
        {"train_seconds": 1.0},
        {"sources": {"wine": "abc"}} | environment,
        {Replicate(seed): "boom" for seed in failed},
    )


def test_mean_and_standard_error() -> None:
    one = scores({0: 1.0, 1: 2.0, 2: 6.0})
    assert one.mean == 3.0
    assert one.standard_error == pytest.approx(stats.sem([1.0, 2.0, 6.0]), rel=1e-14)
    assert math.isnan(scores({0: 1.0}).standard_error)
    assert math.isnan(scores({}).mean)
    assert math.isnan(scores({0: 1.0, 1: math.nan}).mean)


@pytest.mark.parametrize("n", [2, 3, 20])
def test_paired_difference_is_scipys(n: int) -> None:
    rng = np.random.default_rng(n)
    a, b = rng.normal(size=n), rng.normal(0.3, 1, size=n)
    found = compare.paired_difference(scores(dict(enumerate(a))).values, scores(dict(enumerate(b))).values)
    expected = stats.ttest_rel(b, a)
    assert found.p_value == pytest.approx(expected.pvalue, rel=1e-12)
    assert (found.mean, found.n) == (pytest.approx((b - a).mean()), n)
    assert found.standard_error == pytest.approx(stats.sem(b - a))


def test_paired_difference_of_shared_replicates_only() -> None:
    a, b = scores({0: 1.0, 1: 2.0, 5: 9.0}).values, scores({1: 2.5, 0: 1.0, 7: 0.0}).values
    assert compare.paired_difference(a, b)[:3] == (0.25, 0.25, 2)


def test_paired_difference_at_its_edges() -> None:
    same, apart = scores({0: 1.0, 1: 2.0}).values, scores({0: 2.0, 1: 3.0}).values
    assert compare.paired_difference(same, same) == (0.0, 0.0, 2, 1.0)
    assert compare.paired_difference(same, apart).p_value == 0.0
    lone = compare.paired_difference(same, scores({1: 2.5}).values)
    assert (lone.mean, lone.n, math.isnan(lone.p_value)) == (0.5, 1, True)
    assert compare.paired_difference(same, scores({9: 1.0}).values).n == 0


def test_holm_by_hand() -> None:
    assert compare.holm([0.01, 0.04, 0.03, 0.005]) == [
        True,
        False,
        False,
        True,
    ]  # .005 < .05/4, .01 < .05/3, .03 > .05/2
    assert compare.holm([0.02, 0.04]) == [True, True]
    assert compare.holm([0.03, 0.04]) == [False, False]
    assert compare.holm([]) == []


def test_leaders() -> None:
    best = {seed: 0.9 + 0.01 * seed for seed in range(5)}
    near = {seed: value - 0.01 * (-1) ** seed for seed, value in best.items()}
    far = {seed: value - 0.2 - 0.001 * seed for seed, value in best.items()}
    alone = {7: 0.8}
    nan = {seed: math.nan for seed in best}
    contenders = {"best": best, "near": near, "far": far, "alone": alone, "nan": nan}
    named = {name: scores(values) for name, values in contenders.items()}
    assert compare.leaders(named) == {"best", "near"}
    assert compare.leaders({name: scores(v, "lower") for name, v in contenders.items()}) == {"far"}
    assert compare.leaders({"nan": named["nan"]}) == set()


def test_leaders_of_one_replicate() -> None:
    named = {"a": scores({0: 0.9}), "b": scores({0: 0.899}), "c": scores({0: 0.9})}
    assert compare.leaders(named) == {"a", "c"}


def test_merge_brings_replicates_together() -> None:
    parts = [record(cell(), {0: 0.5, 1: 0.6}, failed=[2]), record(cell(), {2: 0.7, 3: math.nan}, failed=[4])]
    (found,) = compare.merge(parts)
    assert found.replicates == tuple(map(Replicate, range(4)))
    assert found.failed == {Replicate(4): "boom"}  # seed 2 has come good since
    assert list(found.scores["accuracy"].values) == list(found.replicates)
    assert len(found.costs) == 2
    assert found.title == "mle · logistic · wine"
    only = compare.select([found], ["nothing", found.key], [Replicate(0), Replicate(4)])
    assert (only[0].replicates, only[0].scores["accuracy"].mean, len(only[0].failed)) == ((Replicate(0),), 0.5, 1)


def test_merge_refuses_other_data_and_other_metrics() -> None:
    first = record(cell(), {0: 0.5})
    with pytest.raises(NotComparable, match="differs from other records of its cell in data wine"):
        compare.merge([first, record(cell(), {1: 0.5}, sources={"wine": "xyz"})])
    other = record(cell(), {1: 0.5})
    other.values["metrics"]["accuracy"]["definition"] = "Accuracy(k=5)"
    with pytest.raises(NotComparable, match="in metric accuracy"):
        compare.merge([first, other])


def test_compare_pairs_and_lists_the_rest() -> None:
    ours = [record(cell(), {0: 0.5}), record(cell("map"), {0: 0.4})]
    theirs = [record(cell(threads=2), {0: 0.7}), record(cell("mc_dropout"), {0: 0.6})]
    found = compare.compare(ours, theirs)
    ((a, b),) = found.pairs
    assert (a.title, b.cell["threads"]) == ("mle · logistic · wine", 2)
    assert [r.title for r in found.only_a + found.only_b] == ["map · logistic · wine", "mc_dropout · logistic · wine"]


def test_compare_prefers_the_same_threads() -> None:
    theirs = [record(cell(threads=2), {0: 0.7}), record(cell(), {0: 0.6})]
    ((_, b),) = compare.compare([record(cell(), {0: 0.5})], theirs).pairs
    assert b.cell["threads"] == 1


def test_compare_without_a_pair_but_with_a_shared_protocol() -> None:
    found = compare.compare([record(cell(), {0: 0.5})], [record(cell("map"), {0: 0.5})])
    assert (found.pairs, len(found.only_a), len(found.only_b)) == ((), 1, 1)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (cell(samples=9), "samples is 3 in A and 9 in B"),
        (cell(dataset="digits"), "dataset is wine in A and digits in B"),
        (cell(model=Choice.of("mlp", {"widths": (5,)})), "model is logistic in A and mlp in B"),
        (cell(model=Choice.of("logistic", {"noise_sd": 2.0})), "model.noise_sd is absent in A and 2.0 in B"),
    ],
)
def test_protocols_that_differ(other: Cell, words: str) -> None:
    with pytest.raises(NotComparable) as caught:
        compare.compare([record(cell(), {0: 0.5})], [record(other, {0: 0.5})])
    assert str(caught.value) == f"the protocols differ: {words}"
    assert caught.value.exit_code == 3


def test_data_and_metrics_that_differ() -> None:
    ours, theirs = record(cell(), {0: 0.5}), record(cell(), {0: 0.5}, sources={"wine": "xyz"})
    with pytest.raises(NotComparable, match="mle · logistic · wine: the data differ: SHA-256 of wine"):
        compare.compare([ours], [theirs])
    theirs = record(cell(), {0: 0.5})
    theirs.values["metrics"]["accuracy"]["definition"] = "Accuracy(k=5)"
    with pytest.raises(NotComparable, match=r"metric accuracy is Accuracy\(\) in A and Accuracy\(k=5\) in B"):
        compare.compare([ours], [theirs])


def test_flatten() -> None:
    tree = {"name": "ens", "member": {"name": "mle", "epochs": 3}, "k": 5}
    assert compare.flatten(tree) == {"name": "ens", "member": "mle", "member.epochs": 3, "k": 5}
