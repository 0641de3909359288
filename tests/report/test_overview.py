"""What the page begins with: who is told from whom, in one sentence, and one table of methods by data sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from bdlbench.core.spec import Cell, Choice, Replicate
from bdlbench.records.cells import merge
from bdlbench.records.contents import Environment, MetricValues, Values
from bdlbench.records.record import Record
from bdlbench.report import evidence, overview
from bdlbench.report.evidence import EvidenceSection
from bdlbench.runs import suites

BETTER = {"accuracy": ("fraction", "higher"), "nll": ("nats", "lower"), "brier": ("score", "lower")}
AROUND = [0.10, 0.12, 0.09, 0.11, 0.10]
NEAR = [0.11, 0.10, 0.12, 0.09, 0.11]


def record(method: str, model: str = "mlp", dataset: str = "wine", **values: Sequence[float]) -> Record:
    cell = Cell(Choice(method), Choice(model), Choice(dataset), samples=3)
    metrics = {name: MetricValues(*BETTER[name], name, tuple(numbers)) for name, numbers in values.items()}
    count = len(next(iter(values.values())))
    return Record(cell, tuple(map(Replicate, range(count))), Values(metrics), {}, Environment())


def sections(*found: Record, metrics: Sequence[str] = ()) -> list[EvidenceSection]:
    return evidence.sections(found, metrics)


def above(values: Sequence[float], by: float) -> list[float]:
    return [value + by for value in values]


def test_what_is_told_apart_and_what_is_not() -> None:
    (section,) = sections(
        record("mle", accuracy=AROUND, nll=AROUND),
        record("map", accuracy=NEAR, nll=NEAR),
        record("mc_dropout", accuracy=NEAR[::-1], nll=above(AROUND, 1)),
    )
    assert overview.sentence(section) == (
        "On wine, nothing in accuracy tells the three methods apart; in nll, mle and map are better than mc_dropout."
    )


@pytest.mark.parametrize(
    ("nll", "words"),
    [
        ({"a": 0, "b": 1, "c": 2, "d": 3}, "a leads: every other is worse than at least one"),
        ({"a": 0, "b": 1, "c": 1, "d": 1}, "a is better than all others"),
        ({"a": 0, "b": 0, "c": 0, "d": 1}, "d is worse than all others"),
        ({"a": 0, "b": 0, "c": 1, "d": 2}, "a and b are better than c, and d is worse than all others"),
    ],
)
def test_a_metric_of_many_differences_is_said_in_few_words(nll: dict[str, int], words: str) -> None:
    (section,) = sections(*(record(name, nll=above(AROUND, by)) for name, by in nll.items()))
    assert overview.sentence(section) == f"On wine, in nll, {words}."


def test_equal_methods_are_not_told_apart() -> None:
    (section,) = sections(record("mle", nll=AROUND), record("map", nll=NEAR))
    assert overview.sentence(section) == "On wine, nothing in nll tells the two methods apart."
    assert not any(entry.leads for row in overview.rows([section]) for _, entry in row.places[0])


def test_one_row_and_one_replicate_tell_nothing() -> None:
    (alone,) = sections(record("mle", nll=AROUND))
    assert overview.sentence(alone) == "On wine there is only mle: there is nothing to compare it with."
    (once,) = sections(record("mle", nll=[0.1]), record("map", nll=[9.0]))
    assert "single replicate" in overview.sentence(once)
    assert not any(entry.leads for row in overview.rows([once]) for _, entry in row.places[0])


def test_methods_are_laid_out_against_data_sets() -> None:
    """A mean of 2 with a standard error of 1/√3 and two degrees of freedom: half the interval is 4.3027/√3 = 2.48."""
    found = sections(
        record("mle", nll=[1.0, 2.0, 3.0]),
        record("map", nll=[11.0, 12.0, 13.0]),
        record("map", "resnet", nll=[1.0, 2.0, 3.0]),
        record("map", "logistic", "digits", accuracy=[0.5, 0.5, 0.5], brier=[1.0, 1.0, 1.0]),
    )
    rows = overview.rows(found)
    assert [(row.method, row.words) for row in rows] == [("mle", ""), ("map", ""), ("map", "resnet")]
    assert [[len(place) for place in row.places] for row in rows] == [[1, 0], [1, 1], [1, 0]]
    ((column, entry),) = rows[0].places[0]
    assert (column.heading, entry.text, entry.leads) == ("nll ↓", "2.0 ± 2.5", True)
    assert not rows[1].places[0][0][1].leads
    assert overview.sentence(found[0]) == "On wine, in nll, mle and map (resnet) are better than map."


def test_two_sets_of_one_name_are_told_by_their_options() -> None:
    one = record("mle", nll=AROUND)
    other = replace(one, cell=replace(one.cell, dataset=Choice.of("wine", {"noise": 2})))
    assert [overview.sentence(section) for section in sections(one, other)] == [
        "On wine there is only mle: there is nothing to compare it with.",
        "On wine (noise 2) there is only mle: there is nothing to compare it with.",
    ]


def test_what_no_main_metric_shows_is_shown_as_asked() -> None:
    (section,) = sections(record("mle", nll=AROUND, brier=AROUND), metrics=["brier"])
    ((_, entries),) = [(row.method, row.places[0]) for row in overview.rows([section])]
    assert [column.name for column, _ in entries] == ["brier"]


def test_the_title_and_the_order_are_the_suites() -> None:
    suite = suites.read_suite("smoke")
    cells = suites.build_spec(suite, suites.Overrides(device="cpu")).cells
    nll = MetricValues("nats", "lower", "nll", (0.1,))
    found = [Record(cell, (Replicate(0),), Values({"nll": nll}), {}, Environment()) for cell in cells]
    name = overview.nearest_suite(merge(found))
    assert name == "smoke"
    assert [record.key for record in overview.in_order(found[::-1], name)] == [cell.key for cell in cells]
    assert overview.title(merge(found), name) == suite.title
    first = found[0].cell
    assert overview.title(merge(found[:1]), name) == f"{first.method.name} on {first.dataset.name}"
    assert overview.nearest_suite(merge([record("mle", nll=AROUND)])) == ""
    many = [record(method, nll=AROUND) for method in "abcd"]
    assert overview.title(merge(many), "") == "Four methods on wine"
