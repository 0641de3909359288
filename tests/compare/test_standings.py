"""The rows of one table: what is bold and told apart, and that predictions are read no more than that needs."""

from __future__ import annotations

from pathlib import Path

import pytest

from bdlbench import api
from bdlbench.compare.standings import standings
from bdlbench.core.spec import Replicate
from bdlbench.records import cells
from bdlbench.records.cells import Result
from bdlbench.records.reading import Source
from bdlbench.records.record import Record

QUICK = Path(__file__).parents[2] / "results" / "reference" / "quick"


@pytest.fixture(scope="module")
def rows() -> dict[str, Result]:
    """The methods of the linear model, by name."""
    found = [r for r in api.results_of(QUICK) if r.cell.dataset.name == "diabetes"]
    return {result.cell.method.name: result for result in found}


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The methods whose predictions are read, each time that they are."""
    names: list[str] = []
    kept = Source.predictions

    def watched(source: Source, record: Record) -> object:
        names.append(record.cell.method.name)
        return kept(source, record)

    monkeypatch.setattr(Source, "predictions", watched)
    return names


def test_predictions_are_read_once_for_bold_and_intervals(rows: dict[str, Result], reads: list[str]) -> None:
    found = standings([rows["mle"], rows["mc_dropout"]], ["nll", "rmse"], intervals=True)
    assert reads == ["mle", "mc_dropout"]
    assert all(width > 0 for width in found["nll"].half_widths.values())
    assert found["rmse"].half_widths.keys() == {rows["mle"].key, rows["mc_dropout"].key}


def test_predictions_are_not_read_where_they_have_no_say(rows: dict[str, Result], reads: list[str]) -> None:
    keys = [rows[name].key for name in ("mle", "mc_dropout")]
    once = cells.select(rows.values(), keys, [Replicate(0)])
    (lone,) = standings([rows["mle"]], ["nll"]).values()
    (order,) = standings(once, ["nll"], intervals=True).values()
    assert not reads
    assert not lone.leaders and not lone.apart
    means = {result.key: result.scores["nll"].mean for result in once}
    best, worst = min(means, key=means.__getitem__), max(means, key=means.__getitem__)
    assert order.leaders == {best}
    assert [(pair.worse, pair.better, pair.tested) for pair in order.apart] == [(worst, best, False)]
