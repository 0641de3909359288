"""What every claim must have, and the command that runs them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pandas import DataFrame

from bdlbench.cli.main import main
from bdlbench.runs import suites
from bdlbench.studies import registry
from bdlbench.studies.experiment import SLIDES, Experiment, Readings

CLAIMS = registry.load("")


def test_claims_are_in_the_order_of_their_slides() -> None:
    places = [SLIDES.index(claim.slide) for claim in CLAIMS.values()]
    assert places == sorted(places)


@pytest.mark.parametrize("name", CLAIMS)
def test_a_claim_says_all_that_a_reader_needs(name: str) -> None:
    claim = CLAIMS[name]
    for words in (claim.title, claim.hypothesis, claim.paragraph, claim.bundled.words, claim.alt):
        assert len(words.split()) >= 4
        assert "  " not in words
    assert name.isidentifier()


@pytest.mark.parametrize("name", CLAIMS)
@pytest.mark.parametrize("full", [False, True])
def test_every_suite_of_a_claim_can_be_planned(name: str, full: bool) -> None:
    spec = suites.build_spec(CLAIMS[name].protocol(full).suite, suites.Overrides(device="cpu"))
    assert len(set(spec.cells)) == len(spec.cells)
    assert len(spec.replicates) >= 3


@pytest.mark.parametrize("name", CLAIMS)
def test_a_contradiction_of_every_claim_is_tested(name: str) -> None:
    text = (Path(__file__).parent / f"test_{name}.py").read_text("utf-8")
    assert "does not hold" in text and "verdict(" in text


def test_a_file_of_claims_names_some(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty, broken = tmp_path / "empty.py", tmp_path / "broken.py"
    empty.write_text("claims = {}")
    broken.write_text("import nothing_of_this_name")
    for given in (str(empty), str(broken), str(tmp_path / "absent.py"), "contractoin"):
        assert main(["claims", given, "--results", str(tmp_path / "r")]) == 2
        line = capsys.readouterr().err
        assert line.count("\n") == 1
        assert Path(given).name in line
    assert not (tmp_path / "r").exists()


def test_without_records_a_claim_is_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["claims", "contraction", "--stored", "--results", str(tmp_path / "r")]) == 4
    assert "not run" in capsys.readouterr().out


def test_the_list_names_every_claim(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["claims", "--list"]) == 0
    assert [line.partition(":")[0] for line in capsys.readouterr().out.splitlines()] == list(CLAIMS)


def test_protocol_of_paper_size_is_the_bundled_one_where_there_is_no_other() -> None:
    claim: Experiment = CLAIMS["contraction"]
    assert claim.full is None
    assert claim.protocol(True) is claim.bundled


def test_readings_tell_the_cost_of_a_cell_apart_from_its_numbers(refused: Any) -> None:
    rows = [
        {"cell": "a", "samples": 1, "seed": 0, "metric": "nll", "value": 0.5},
        {"cell": "a", "samples": 1, "seed": None, "metric": "predict_seconds", "value": 2.0},
        {"cell": "a", "samples": 1, "seed": None, "metric": "predict_seconds", "value": 3.0},
        {"cell": "b", "samples": 10, "seed": None, "metric": "predict_seconds", "value": 7.0},
    ]
    measured = Readings(DataFrame(rows))
    assert measured.cost("predict_seconds", samples=1) == 5.0
    assert measured.values("nll", samples=1).tolist() == [0.5]
    with refused("predict_seconds", "2"):
        measured.cost("predict_seconds")
