"""Estimates of what a batch costs, before it runs."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bdlbench.cli import main as cli
from bdlbench.core import files
from bdlbench.records import record as records
from bdlbench.runs import costs, suites
from bdlbench.runs.batch import batches
from bdlbench.runs.costs import CellSize, Forecast

ROOT = Path(__file__).resolve().parents[2]


def sizes(count: int) -> list[CellSize]:
    drawn = np.random.default_rng(0)
    numbers = np.exp(drawn.uniform(0, 8, (count, 6)))
    names = drawn.integers(0, 3, (count, 2))
    return [CellSize(f"m{m}", f"n{n}", *row) for (m, n), row in zip(names, numbers.tolist(), strict=True)]


def test_a_law_that_is_one_of_the_fit_is_found() -> None:
    """Seconds = 0.01 · steps · networks^½ · 3 for one method: terms, effects and no error on what was left out."""
    given = sizes(300)
    seconds = [0.01 * s.steps * s.networks**0.5 * (3 if s.method == "m1" else 1) for s in given]
    found = costs._regression(given, np.log(seconds), list(range(300)))
    expected = {"steps": 1.0, "networks": 0.5} | dict.fromkeys(("batch_size", "parameters", "samples", "tested"), 0.0)
    assert {name: found.terms[name] for name in expected} == pytest.approx(expected, abs=0.01)
    assert found.effects["method m1"] - found.effects["method m0"] == pytest.approx(math.log(3), abs=0.05)
    assert found.within == pytest.approx((1, 1), abs=0.05)
    assert found.at(given[0]) == pytest.approx(seconds[0], rel=0.05)


def test_an_error_is_of_cells_that_were_left_out() -> None:
    """Each cell has a factor of its own, e or 1/e, in many records: a fit that saw them would be better than that."""
    base = sizes(40)
    factor = np.where(np.random.default_rng(1).random(40) < 0.5, 1.0, -1.0)
    given = [size for size in base for _ in range(5)]
    logs = np.array([math.log(size.steps) + factor[i] for i, size in enumerate(base) for _ in range(5)])
    found = costs._regression(given, logs, [i for i in range(40) for _ in range(5)])
    assert found.within[0] > 2.2


def test_the_longest_first_and_nobody_idle() -> None:
    told = Forecast((3.0, 1.0, 2.0, 2.0), 0, 0.0)
    assert [told.with_workers(n) for n in (1, 2, 3, 4, 99)] == [8.0, 4.0, 3.0, 3.0, 3.0]
    assert told.work == 8.0 and Forecast((), 0, 0.0).with_workers(3) == 0.0


@pytest.mark.slow
def test_the_committed_fit_is_of_the_committed_records_and_meets_them(tmp_path: Path) -> None:
    made = records.read(ROOT / "results/reference/quick")
    model = costs.fitted()
    known = [(record, size) for record in made if (size := costs.size_of_record(record)) is not None]
    assert len(known) == len(made) == 27
    errors = [abs(math.log((record.seconds or 0) / model.seconds(size))) for record, size in known]
    assert math.exp(float(np.median(errors))) < 3
    again = costs.fit(made)
    assert again.records == 27 and again.train_seconds.within[0] > 1
    (tmp_path / "costs.toml").write_text(costs.written(again))
    assert files.read_toml(tmp_path / "costs.toml")["train_seconds"]["terms"].keys() == set(costs.TERMS)


@pytest.mark.slow
def test_the_size_of_a_batch_is_that_of_its_record() -> None:
    spec = suites.build_spec(suites.read_suite("quick"), suites.Overrides(device="cpu"))
    made = {record.key: record for record in records.read(ROOT / "results/reference/quick")}
    compared = 0
    for batch in batches(spec, ()):
        record = made[batch.cells[0].key]
        size = costs.size_of_record(record)
        assert size is not None
        assert costs.size_of_batch(batch)[2:] == pytest.approx(size[2:]), batch.cells[0].title
        compared += 1
    assert compared == 27


@pytest.mark.slow
def test_a_folders_own_records_count_first(capsys: Any, tmp_path: Path) -> None:
    made = records.read(ROOT / "results/reference/quick")
    spec = suites.build_spec(suites.read_suite("quick"), suites.Overrides(device="cpu"))
    (batch, *_) = batches(spec, ())
    (equal,) = [record for record in made if record.key == batch.cells[0].key]
    slow = replace(equal, cost={**equal.cost, "train_seconds": 1000.0, "predict_seconds": 0.0})
    assert costs.forecast([batch], [slow]) == Forecast((1000.0,), 1, equal.cost["peak_memory_bytes"])
    ten_times = [
        replace(r, cost={name: value * 10 if "seconds" in name else value for name, value in r.cost.items()})
        for r in made
        if r.key != equal.key
    ]
    alone, beside = (costs.forecast([batch], held).seconds[0] for held in ([], ten_times))
    assert beside > 4 * alone
    asked = ["run", "--device", "cpu", "--dry-run", "--results", str(tmp_path), "--method", "mle", "--method", "map"]
    assert cli.main([*asked, "--jobs", "200"]) == 0
    out = capsys.readouterr().out
    assert "worker-hours" in out and "GiB for each worker" in out and "nine of ten within" in out


@pytest.mark.slow
def test_a_plan_says_what_it_costs(monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Path, refused: Any) -> None:
    """Four hours on two workers, of which one is idle for two: three worker-hours are work, four are paid."""
    asked = ["run", "--device=cpu", f"--results={tmp_path}", "--method=mle", "--method=map", "--jobs=2"]
    asked += ["--model=logistic", "--dataset=wine", "--seeds=1"]
    told = Forecast((7200.0, 3600.0), 2, 2.0**30)
    monkeypatch.setattr(costs, "forecast", lambda batches, existing: told)
    assert cli.main([*asked, "--dry-run", "--price-per-hour=0.40"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("cost"))
    assert "1.20" in line and "1.60" in line and "0.4" in line
    assert cli.main([*asked, "--dry-run"]) == 0
    assert "cost:" not in capsys.readouterr().out
    monkeypatch.setattr(costs, "forecast", lambda batches, existing: Forecast((7200.0 * 1234,), 1, 2.0**30))
    assert cli.main([*asked, "--dry-run", "--price-per-hour=2"]) == 0
    out = capsys.readouterr().out
    assert "2,468 worker-hours" in out and "4,936.00" in out and "e+" not in out
    refused.command([*asked, "--price-per-hour=1"], "--price-per-hour", "--dry-run")
    for wrong in ("-1", "nan", "inf", "cheap"):
        refused.command([*asked, "--dry-run", f"--price-per-hour={wrong}"], "--price-per-hour")
