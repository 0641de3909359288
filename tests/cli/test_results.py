"""`table`: the order of its rows."""

from __future__ import annotations

from pathlib import Path

import pytest

from bdlbench.cli.main import main
from bdlbench.runs import suites

QUICK = Path(__file__).resolve().parents[2] / "results" / "reference" / "quick"


def test_rows_come_in_the_order_of_their_suite(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["table", str(QUICK), "--metrics", "accuracy"]) == 0
    table = capsys.readouterr().out.split("digits · ")[1].split("digits_near")[0]
    spec = suites.build_spec(suites.read_suite("quick"), suites.Overrides(device="cpu"))
    expected = [(cell.method.name, cell.model.name) for cell in spec.cells if cell.dataset.name == "digits"]
    rows = [tuple(words[:2]) for line in table.splitlines() if (words := line.split()) and tuple(words[:2]) in expected]
    assert rows == expected
