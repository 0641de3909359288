"""What the report draws of shifted test sets, from records whose numbers are given by hand."""

from __future__ import annotations

from bdlbench.core.spec import Cell, Choice, Replicate
from bdlbench.records.contents import Environment, MetricValues, Values
from bdlbench.records.record import Record
from bdlbench.report import evidence, plots


def record(method: str, **accuracy: tuple[float, float]) -> Record:
    """Two replicates; noise_1=… is the column accuracy[noise 1]."""
    cell = Cell(Choice(method), Choice("mlp"), Choice("digits"), samples=3)
    names = {"plain": "accuracy"} | {key: f"accuracy[{key.replace('_', ' ')}]" for key in accuracy if key != "plain"}
    metrics = {names[key]: MetricValues("fraction", "higher", "version 1", both) for key, both in accuracy.items()}
    return Record(cell, (Replicate(0), Replicate(1)), Values(metrics), {}, Environment())


BY_HAND = {
    "plain": (1.0, 0.9),
    "noise_1": (0.8, 0.6),
    "noise_2": (0.5, 0.3),
    "turn_1": (0.6, 0.4),
    "hospital": (0.1, 0.1),
}


def test_a_metric_against_severity_starts_at_the_test_set() -> None:
    (section,) = evidence.sections([record("mle", **BY_HAND, noise=(0.65, 0.45), shifted=(0.6, 0.4))], ["accuracy"])
    frame = evidence.under_shift(section.rows, "accuracy")
    found = {(row.kind, row.severity, row.replicate): row.value for row in frame.itertuples()}
    assert found == {
        ("noise", 0, 0): 1.0, ("noise", 0, 1): 0.9, ("noise", 1, 0): 0.8, ("noise", 1, 1): 0.6,
        ("noise", 2, 0): 0.5, ("noise", 2, 1): 0.3,
        ("turn", 0, 0): 1.0, ("turn", 0, 1): 0.9, ("turn", 1, 0): 0.6, ("turn", 1, 1): 0.4,
    }  # fmt: skip


def test_panels_are_the_mean_over_kinds_and_each_kind() -> None:
    (section,) = evidence.sections([record("mle", **BY_HAND), record("map", **BY_HAND)], ["accuracy"])
    plot = plots.under_shift(section, dict.fromkeys(("mle", "map"), "C0"))
    assert [panel.name for panel in plot.panels] == [
        "shift-accuracy-all",
        "shift-accuracy-noise",
        "shift-accuracy-turn",
    ]
    (axis,) = plot.panels[0].figure.axes
    assert axis.lines[0].get_xydata().tolist() == [[0, 0.95], [1, 0.6], [2, 0.4]]  # at 1 of both kinds, at 2 of noise
    assert "mle 0.95 → 0.4" in plot.panels[0].alt
    (bare,) = evidence.sections([record("mle", plain=(1.0, 0.9))], ["accuracy"])
    assert plots.under_shift(bare, {"mle": "C0"}).panels == ()
