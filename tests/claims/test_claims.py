"""What every claim must have, and the command that runs them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pandas import DataFrame

from bdlbench.cli.claims import _study
from bdlbench.cli.main import main
from bdlbench.records.record import read
from bdlbench.runs import executors, provenance, suites
from bdlbench.runs.batch import run_batch
from bdlbench.studies import page, registry
from bdlbench.studies.experiment import SLIDES, Experiment, Readings
from bdlbench.studies.verdicts import Study

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


CLAIM = """
from matplotlib.figure import Figure
from bdlbench.runs.suites import Grid, Suite
from bdlbench.stats.hypotheses import Statement, over_replicates
from bdlbench.studies.experiment import Experiment, Setup

suite = Suite("t", 1, 3, 1, (Grid(("exact",), ("coin",), ("coin_flips",)),), splits="each")


def statements(measured):
    return [Statement("nll", over_replicates(measured.values("nll")), high=10.0)]


def draw(measured):
    return Figure()


claim = Experiment("T", "Ok, but why", "h", "p", Setup(suite, "w"), statements, draw, "a")
claims = {"mine": claim, "other": claim}
"""


@pytest.mark.parametrize(
    ("right", "wrong", "named"),
    [
        ("over_replicates(measured", "over_replicates(measures", "mine.py:11"),
        ("return [Statement", "return []; [Statement", "mine.py:10"),
        ("return [Statement", "return 3; [Statement", "mine.py:10"),
        ("high=10.0", "low=2, high=1", "mine.py:11"),
        ("return Figure()", "return None", "mine.py:14"),
        ("return Figure()", "return Figure(3)", "mine.py:15"),
        ('"mine"', '"../mine"', "../mine"),
        ('"mine"', "3", "3"),
        ("Setup(suite", "Setup('quick'", "mine"),
    ],
)
def test_a_broken_claim_of_ones_own_is_bad_input_by_its_file(
    right: str, wrong: str, named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.py"
    assert CLAIM.count(right) == 1
    file.write_text(CLAIM.replace(right, wrong), "utf-8")
    assert main(["claims", str(file), "--results", str(tmp_path / "r"), "--jobs", "1"]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert file.name in line and named in line
    assert not list(tmp_path.glob("mine/*"))


def test_claims_of_one_file_have_one_page(tmp_path: Path) -> None:
    file = tmp_path / "several.py"
    file.write_text(CLAIM, "utf-8")
    assert main(["claims", str(file), "--results", str(tmp_path / "r"), "--jobs", "1"]) in (0, 1)
    text = (tmp_path / "r" / "several" / "README.md").read_text("utf-8")
    assert text.count("Run it:") == 2


def test_cells_that_train_together_count_their_time_once(tmp_path: Path) -> None:
    file = tmp_path / "together.py"
    options = 'Grid(("map",), ("coin",), ("coin_flips",), {"map": {"epochs": [2], "prior_sd": [1.0, 2.0]}})'
    first = "measured.where(method__prior_sd=1.0).values"
    file.write_text(
        CLAIM.replace('Grid(("exact",), ("coin",), ("coin_flips",))', options).replace("measured.values", first),
        "utf-8",
    )
    claim = registry.load(str(file))["mine"]
    found = _study("mine", claim, False, tmp_path / "r", (1, "", "cpu"), False)
    records = read(tmp_path / "r")
    assert len(records) == 2
    assert records[0].batch_rows == 6
    assert found.seconds == pytest.approx(records[0].seconds)


FAILING = """
from dataclasses import dataclass
from bdlbench.metrics.nll import NegativeLogLikelihood

@dataclass(frozen=True)
class Broken(NegativeLogLikelihood):
    def __call__(self, evaluation):
        raise ArithmeticError("no logarithm today")

metrics = {"nll": Broken()}
"""


@pytest.mark.parametrize("read_by", ["statements", "draw", "neither"])
def test_a_metric_that_failed_leaves_the_claim_incomplete_where_it_reads_it(
    read_by: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, plugin = tmp_path / "mine.py", tmp_path / "failing.py"
    stated, drawn = ("nll" if read_by == one else "accuracy" for one in ("statements", "draw"))
    text = CLAIM.replace('values("nll")', f'values("{stated}")')
    file.write_text(text.replace("return Figure()", f"measured.values({drawn!r}); return Figure()"))
    plugin.write_text(FAILING)
    given = ["claims", str(file), "--results", str(tmp_path / "r"), "--jobs", "1"]
    code = main([*given, "--plugin", str(plugin), "--replace", "nll"])
    out = capsys.readouterr().out
    assert ("not run: metric nll" in out and "no logarithm today" in out) == (read_by != "neither")
    assert (code == 4) == (read_by != "neither")


def test_records_of_other_code_are_trained_again_or_judged_and_both_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "mine.py"
    file.write_text(CLAIM)
    arguments = ["claims", str(file), "--results", str(tmp_path / "r"), "--jobs", "1"]

    def told(*more: str) -> list[str]:
        main([*arguments, *more])
        return [line for line in capsys.readouterr().err.splitlines() if "--stored" in line]

    assert told() == told("--stored") == []
    monkeypatch.setattr(provenance, "package_sha256", lambda: "0" * 64)
    assert [line.count("1 of 1") for line in told("--stored")] == [1, 1]  # one for each claim of the file
    assert len(told()) == 2
    assert told() == told("--stored") == []


def test_a_claim_that_was_stopped_goes_on_where_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in the second of three cells: the first is not trained again."""
    file = tmp_path / "mine.py"
    sizes = 'Grid(("exact",), ("coin",), ("coin_flips",), {"coin_flips": {"num_train": [3, 5, 7]}})'
    text = CLAIM.replace('Grid(("exact",), ("coin",), ("coin_flips",))', sizes).replace(', "other": claim', "")
    file.write_text(text.replace('measured.values("nll")', 'measured.along("dataset.num_train", "nll")[1][0]'))
    arguments, trained = ["claims", str(file), "--results", str(tmp_path / "r"), "--jobs", "1"], []

    def counted(batch: Any, *others: Any) -> Any:
        trained.append(dict(batch.cells[0].dataset.options)["num_train"])
        if len(trained) == 2:
            raise KeyboardInterrupt
        return run_batch(batch, *others)

    monkeypatch.setattr(executors, "run_batch", counted)
    assert main(arguments) == 130
    assert str(tmp_path / "r") in capsys.readouterr().err
    assert trained == [3, 5]
    assert main(arguments) in (0, 1)
    assert trained == [3, 5, 5, 7]
    assert main(arguments) in (0, 1)
    assert trained == [3, 5, 5, 7]


def test_without_records_a_claim_is_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["claims", "contraction", "--stored", "--results", str(tmp_path / "r")]) == 4
    assert "not run" in capsys.readouterr().out


def test_the_list_names_every_claim(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["claims", "--list"]) == 0
    assert [line.partition(":")[0] for line in capsys.readouterr().out.splitlines()] == list(CLAIMS)


def test_full_runs_the_claims_with_a_paper_size_and_no_other(capsys: pytest.CaptureFixture[str], refused: Any) -> None:
    assert main(["claims", "--full", "--list"]) == 0
    listed = [line.partition(":")[0] for line in capsys.readouterr().out.splitlines()]
    assert listed == [name for name, claim in CLAIMS.items() if claim.full]
    assert 0 < len(listed) < len(CLAIMS)
    with refused("contraction", "--full"):
        registry.of_paper_size(registry.load("contraction"))


def test_the_page_of_all_names_that_of_paper_size_where_it_lies_beside_it(tmp_path: Path) -> None:
    bundled, full = (Study("vae_ood", CLAIMS["vae_ood"], size, missing="no cell") for size in (False, True))
    page.write([bundled], tmp_path)
    assert "paper size" not in (tmp_path / "README.md").read_text()
    page.write([full], tmp_path / "full")
    page.write([bundled], tmp_path)
    assert "](full/README.md)" in (tmp_path / "README.md").read_text()
    assert 'href="full/index.html"' in (tmp_path / "index.html").read_text()
    assert (tmp_path / "full" / "README.md").read_text().startswith("# The lecture's claims, measured at paper size\n")


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
