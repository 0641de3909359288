"""The verbs in Python: what they take and give, what a record keeps of its data, and what they leave of torch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bdlbench import api, catalog, records
from bdlbench.data import Task
from bdlbench.run import data_facts, load_task
from bdlbench.spec import Choice


@pytest.fixture(autouse=True)
def _quiet_catalog(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(catalog, "_plugins", {kind: {} for kind in catalog.KINDS})
    yield


def options_of(dataset: str) -> dict[str, Any]:
    model = {"coin_flips": "coin", "diabetes": "bayesian_linear_regression"}.get(dataset, "logistic")
    return {"methods": ["mle"], "models": [model], "datasets": [dataset], "settings": {"mle.epochs": 1}, "samples": 2}


# what a record keeps of its data


@pytest.mark.parametrize("dataset", ["wine", "breast_cancer", "coin_flips", "diabetes"])
def test_a_record_keeps_the_facts_of_its_own_splits(dataset: str, tmp_path: Path) -> None:
    """A record of split 3 kept the checksums and statistics of split 0."""
    api.run(seeds="3-3", splits="each", results=tmp_path, **options_of(dataset))
    (record,) = records.read(tmp_path)
    chosen = catalog.recorded("datasets", record.cell["protocol"]["dataset"])
    first, own = load_task(chosen, 0), load_task(chosen, 3)
    for what in ("sources", "statistics"):
        theirs, mine = getattr(first, what), getattr(own, what)
        named = {name if theirs[name] == value else f"{name} (split 3)": value for name, value in mine.items()}
        assert record.environment[what] == named
    assert any("(split 3)" in name for what in ("sources", "statistics") for name in record.environment[what])
    (check,) = api.verify(tmp_path)
    assert check.verdict == "identical", check


def test_records_of_other_splits_of_drawn_data_are_one_cell(tmp_path: Path) -> None:
    """Each split is drawn anew, so that checksums differ between splits and not between records of one split."""
    for seeds in ("0-1", "0-3"):
        api.run(seeds=seeds, splits="each", results=tmp_path, **options_of("coin_flips"))
    assert len(records.read(tmp_path)) == 2
    assert set(api.table(tmp_path, ["nll"])["n"]) == {4}
    kept = [name for record in records.read(tmp_path) for name in record.environment["sources"]]
    assert sorted(kept) == ["drawn", "drawn (split 1)", "drawn (split 2)", "drawn (split 3)"]


class Folds:
    """A data set each of whose splits comes from a file of its own, as the UCI sets do."""

    def load(self, split: int) -> Task:
        return Task(*[None] * 3, sources={"table": "same", f"rows of split {split}": f"{split}"})  # type: ignore[arg-type]


def test_files_of_other_splits_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(catalog._plugins["datasets"], "folds", Folds)
    monkeypatch.setattr(catalog, "build_dataset", lambda chosen: Folds())
    found = data_facts(Choice("folds"), [4, 2])
    assert found == {"sources": {"table": "same", "rows of split 2": "2", "rows of split 4": "4"}, "statistics": {}}
