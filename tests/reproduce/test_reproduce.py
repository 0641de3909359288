"""`reproduce`: a paper of one's own from its files to its verdicts, and what is wrong in such files."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import pytest

from bdlbench.cli.main import main
from bdlbench.core.spec import Cell, Choice, Replicate
from bdlbench.data import downloads
from bdlbench.datasets import uci
from bdlbench.records.cells import Result, Scores
from bdlbench.reproduce import papers, verdicts
from bdlbench.runs import provenance

SUITE = """
title = "a network on the diabetes data"
version = 1
selection = "none"
seeds = "10"
samples = 5

[[grid]]
methods = ["mle", "mc_dropout"]
models = ["mlp"]
datasets = ["diabetes"]

[options.mle]
epochs = 4
[options.mc_dropout]
epochs = 4
[options.mlp]
widths = "10"
"""

PAPER = """
title = "A paper"
citation = "Somebody 2020, Table 3"
suite = "suite.toml"
remarks = ["Its test rows were seen."]
"""

HEAD = ",".join(papers.COLUMNS)


@pytest.fixture
def paper(tmp_path: Path) -> Path:
    (tmp_path / "suite.toml").write_text(SUITE, "utf-8")
    (tmp_path / "some2020.toml").write_text(PAPER, "utf-8")
    return tmp_path / "some2020.toml"


def write(paper: Path, *lines: str) -> None:
    paper.with_suffix(".csv").write_text("\n".join([HEAD, *lines]) + "\n", "utf-8")


def reproduced(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["reproduce", *arguments, "--jobs", "1"])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.mark.slow
def test_from_the_files_to_the_verdicts(
    paper: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "1000")
    write(
        paper,
        "3,MLE,diabetes,rmse,9.00,0.01,standard error,20,mle,,,,,the paper",
        "3,SGLD,diabetes,rmse,54.1,,,1,,,,protocol unknown,no step size,the paper",
        "3,dropout,diabetes,rmse,60,,,1,mc_dropout,,mc_dropout.epochs=400,,,the paper",
    )
    results = str(tmp_path / "out")
    code, out, _ = reproduced(capsys, str(paper), "--results", results)
    assert code == 4  # a row was not run: its epochs are others
    body = [line for line in out.splitlines() if line.startswith("diabetes")]
    assert "not reproduced" in body[0]
    assert "standard errors" in body[0]
    assert "e+" not in body[0]
    assert "not comparable" in body[1]
    assert "protocol unknown [1]" in body[1]
    assert "[1] no step size." in out
    assert "not run" in body[2]
    assert "Its test rows were seen." in out
    assert "1 not reproduced, 1 not comparable, 1 not run" in out

    write(paper, "3,dropout,diabetes,rmse,9.00,0.01,standard error,20,mc_dropout,mlp,mc_dropout.epochs=4,,,the paper")
    assert reproduced(capsys, str(paper), "--results", results, "--stored")[0] == 1
    ours = float(body[0].split("9.00 ± 0.01")[1].split()[0])
    write(paper, f"3,MLE,diabetes,rmse,{ours:.1f},0.5,standard deviation,100,mle,,,,,the paper")
    code, out, _ = reproduced(capsys, str(paper), "--results", results, "--stored")
    assert code == 0
    assert "1 reproduced" in out


def test_a_row_may_name_an_option_that_came_later_at_its_default(
    paper: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No cell holds such an option, so that older records are found."""
    results = str(tmp_path / "out")
    number = "3,MLE,diabetes,rmse,9.00,0.01,standard error,20,mle"
    write(paper, f"{number},mlp,mlp.init=kaiming; mle.last_batch=dropped,,,the paper")
    assert reproduced(capsys, str(paper), "--results", results)[0] == 1
    write(paper, f"{number},mlp,mlp.init=glorot,,,the paper")
    assert reproduced(capsys, str(paper), "--results", results, "--stored")[0] == 4


def test_records_of_other_code_are_judged_and_it_is_said(
    paper: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(paper, "3,MLE,diabetes,rmse,9.00,0.01,standard error,20,mle,,,,,the paper")
    arguments = (str(paper), "--results", str(tmp_path / "out"))

    def told(*more: str) -> list[str]:
        return [line for line in reproduced(capsys, *arguments, *more)[2].splitlines() if "--stored" in line]

    assert told() == told("--stored") == []
    monkeypatch.setattr(provenance, "package_sha256", lambda: "0" * 64)
    assert [line.count("2 of 2") for line in told("--stored")] == [1]
    assert len(told()) == 1
    assert told() == told("--stored") == []


def test_stored_trains_nothing(paper: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(paper, "3,MLE,diabetes,rmse,9.00,0.01,standard error,20,mle,,,,,the paper")
    code, out, _ = reproduced(capsys, str(paper), "--results", str(tmp_path / "out"), "--stored")
    assert code == 4
    assert "not run" in out
    assert not (tmp_path / "out").exists()


def test_a_paper_without_a_suite_shows_its_rows_and_runs_nothing(
    paper: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paper.write_text(PAPER.replace('suite = "suite.toml"\n', ""), "utf-8")
    write(
        paper,
        "3,MLE,diabetes,rmse,9.00,0.01,standard error,20,mle,,,,steps are not stated,the paper",
        "3,MLE,diabetes,exit_percent,7,,,1,mle,,,,,the paper",
    )
    results = str(tmp_path / "out")
    code, out, _ = reproduced(capsys, str(paper), "--results", results)
    assert code == 4
    assert out.count("\n") == 1
    assert "no suite" in out
    code, out, _ = reproduced(capsys, str(paper), "--results", results, "--stored")
    assert code == 4
    body = [line for line in out.splitlines() if line.startswith("diabetes")]
    assert "no suite of it yet [1]" in body[0]
    assert "no metric of it yet" in body[1]
    assert "[1] steps are not stated." in out
    assert not (tmp_path / "out").exists()


def test_a_spread_of_unknown_kind_is_shown_and_not_used(paper: Path) -> None:
    write(paper, "3,MLE,diabetes,rmse,9.00,0.01,unknown,20,mle,,,,,the paper")
    (row,) = papers.read(str(paper)).rows
    assert row.printed == "9.00 ±? 0.01"
    assert row.number.kind == "none"
    assert math.isnan(row.number.variance)
    write(paper, "3,MLE,diabetes,rmse,9.00,0.01,standard error,20,mle,,,,,the paper")
    (row,) = papers.read(str(paper)).rows
    assert row.printed == "9.00 ± 0.01"
    assert row.number.variance == pytest.approx(1e-4)


def test_absent_data_do_not_keep_the_other_rows_from_their_verdicts(
    paper: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = '\n[[grid]]\nmethods = ["mle"]\nmodels = ["mlp"]\ndatasets = ["uci_folder"]\n'  # of no path
    suite = paper.with_name("suite.toml")
    write(
        paper,
        "3,MLE,diabetes,rmse,9.00,0.01,standard error,20,mle,,,,,the paper",
        "3,MLE,uci_folder,rmse,9.00,0.01,standard error,20,mle,,,,,the paper",
    )
    results = ("--results", str(tmp_path / "out"))
    suite.write_text(SUITE.split("[[grid]]")[0] + folder, "utf-8")
    assert reproduced(capsys, str(paper), *results)[0] == 2  # nothing to judge
    suite.write_text(SUITE.replace("\n[options.mle]", folder + "\n[options.mle]"), "utf-8")
    for _ in range(2):  # the second time all that is left lacks its data
        code, out, err = reproduced(capsys, str(paper), *results)
        assert code == 4
        assert "1 not reproduced, 1 not run" in out
        assert "uci_folder" in err


def test_two_cells_that_fit_are_refused(
    paper: Path, tmp_path: Path, refused: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    paper.with_name("suite.toml").write_text(SUITE.replace("epochs = 4\n[options.mc", "epochs = [1, 2]\n[options.mc"))
    write(paper, "3,MLE,diabetes,rmse,9.00,0.01,standard error,20,mle,,,,,the paper")
    code, _, err = reproduced(capsys, str(paper), "--results", str(tmp_path / "out"))
    assert code == 2
    refused.line(err.splitlines(keepends=True)[-1], "2 cells")


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("3,MLE,diabetes,rmse,9.0x,0.01,standard error,20,mle,,,,,the paper", "9.0x"),
        ("3,MLE,diabetes,rmse,9e400,0.01,standard error,20,mle,,,,,the paper", "9e400"),
        ("3,MLE,diabetes,rmse,9.0,1e400,standard error,20,mle,,,,,the paper", "1e400"),
        ("3,MLE,diabetes,speed,9.0,0.01,standard error,20,mle,,,,,the paper", "speed"),
        ("3,MLE,diabetes,rmse,9.0,0.01,variance,20,mle,,,,,the paper", "variance"),
        ("3,MLE,diabetes,rmse,9.0,0.01,,20,mle,,,,,the paper", "none"),
        ("3,MLE,diabetes,rmse,9.0,0.01,standard error,many,mle,,,,,the paper", "many"),
        ("3,MLE,diabetes,rmse,9.0,0.01,standard error,20,,,,,,the paper", "treatment"),
        ("3,MLE,diabetes,rmse,9.0,0.01,standard error,20,mle,,,data differ,,the paper", "treatment"),
        ("3,MLE,diabetes,rmse,9.0,0.01,standard error,20,,,,bad luck,,the paper", "luck"),
        ("3,MLE,diabetes,rmse,9.0,0.01,standard error,20,mle,,epochs=40,,,the paper", "epochs=40"),
        ("3,MLE,diabetes,rmse,9.0,0.01,standard error,20,mle,,,,,", "source"),
        ("3,MLE,diabetes,rmse,9.0", "columns"),
        ("3,MLE,diabetes,rmse,9.0,0.01,standard error,20,mle,,,,,the paper,more", "columns"),
    ],
)
def test_a_line_that_is_wrong_is_named(paper: Path, line: str, name: str, refused: Any) -> None:
    write(paper, "3,MLE,diabetes,rmse,9.00,0.01,standard error,20,mle,,,,,the paper", line)
    with refused("some2020.csv", "line 3", name):
        papers.read(str(paper))


def test_a_paper_without_a_row_is_refused(paper: Path, refused: Any) -> None:
    write(paper)
    with refused("some2020.csv"):
        papers.read(str(paper))


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (PAPER.replace("citation", "cited"), "cited"),
        (PAPER.replace('"suite.toml"', "3"), "suite"),
        ('title = "A paper"\nsuite = "quick"', "citation"),
        ("title = ", "TOML"),
        (PAPER + '[limits]\nrmse = ["5 %"]', "rmse"),
        (PAPER + "[limits]\nrmse = [2, 1]", "rmse"),
        (PAPER + "[limits]\nrmse = 5", "limits"),
        (PAPER + "[limits]\nrmsee = [1, 2]", "rmsee"),
        (f"limits = 3\n{PAPER}", "limits"),
        (f"rows = 5\n{PAPER}", "rows"),
        (f"exact = 'no'\n{PAPER}", "exact"),
        (PAPER.replace('["Its test rows were seen."]', '"one text"'), "remarks"),
        (PAPER.replace('["Its test rows were seen."]', "[3]"), "remarks"),
    ],
)
def test_a_paper_that_is_wrong_is_named(paper: Path, text: str, name: str, refused: Any) -> None:
    paper.write_text(text, "utf-8")
    write(paper, "3,MLE,diabetes,rmse,9.00,0.01,standard error,20,mle,,,,,the paper")
    with refused("some2020.csv" if name == "rmse" else "some2020.toml", name):
        papers.read(str(paper))


def test_an_unknown_paper_names_the_nearest(paper: Path, monkeypatch: pytest.MonkeyPatch, refused: Any) -> None:
    monkeypatch.setattr(papers, "FOLDER", paper.parent)
    (paper.parent / "suite.toml").unlink()
    with refused("paper", "some202", "some2020"):
        papers.read("some202")


def test_the_page_holds_every_row(
    paper: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(papers.FOLDER / "limits.toml", tmp_path)
    monkeypatch.setattr(papers, "FOLDER", tmp_path)
    (tmp_path / "suite.toml").unlink()
    write(
        paper,
        "3,MLE,diabetes,rmse,9.00,0.01,standard error,20,mle,,,,,the paper",
        "3,SGLD | x,diabetes,rmse,54.1,,,1,,,,protocol unknown,no step size,the paper",
    )
    page = tmp_path / "page.md"
    assert reproduced(capsys, "--page", str(page), "--results", str(tmp_path / "none"))[0] == 0
    section = page.read_text("utf-8").split("## some2020: A paper")[1]
    assert r"\[1\] no step size" in section
    assert sum(line.startswith("| ") for line in section.splitlines()) == 2 + 2  # a head and its rule
    assert "SGLD \\| x" in section
    assert "1 not comparable, 1 not run" in section
    assert reproduced(capsys)[1].startswith("some2020: Somebody 2020")


def test_the_page_is_of_all_papers(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert reproduced(capsys, "gal2016", "--page", str(tmp_path / "page.md"))[0] == 2
    assert not (tmp_path / "page.md").exists()


@pytest.mark.data
def test_ordinary_least_squares_has_every_printed_digit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mean and standard deviation over ten splits, of RMSE and log-likelihood, as bayesian_benchmarks printed them."""
    sets = [uci.Boston, uci.Concrete, uci.Energy, uci.Power, uci.WineQuality, uci.Yacht]
    if not all((downloads.root() / file.path).is_file() for entry in sets for file in entry.files):
        pytest.skip("not all sets are in the store: set BDLBENCH_DATA")
    monkeypatch.setenv("COLUMNS", "1000")
    code, out, err = reproduced(capsys, "ols", "--results", str(tmp_path))
    assert code == 1  # energy
    lines = [line for line in out.splitlines() if " linear " in line]
    for name, verdict in {
        "boston": "  reproduced",
        "concrete": "  reproduced",
        "wine_quality": "  reproduced",
        "yacht": "  reproduced",
        "energy": "not reproduced",
        "power": "not comparable",
    }.items():
        found = [line for line in lines if line.startswith(name)]
        assert [verdict in line for line in found] == [True, True]
        assert name in ("power", "energy") or all("every printed digit" in line for line in found)
    assert "standardised" in err and "training" in err and "test" in err  # the lint says the leak


THEIRS = (8.0, 12.0, 9.0, 11.0, 10.0)
ROW = "3,MLE,diabetes,rmse,10.0,0.7,standard error,5,mle,,,,,the paper"


def write_splits(paper: Path, *lines: str) -> None:
    head = ",".join(papers.SPLIT_COLUMNS)
    paper.with_suffix(".splits.csv").write_text("\n".join([head, *lines]) + "\n", "utf-8")


def ours(values: dict[Replicate, float]) -> Result:
    cell = Cell(Choice("mle"), Choice("mlp"), Choice("diabetes"), 5)
    return Result("", cell, {"rmse": Scores("target units", "lower", "version 1", values)}, tuple(values), {}, (), {})


def test_values_of_the_same_splits_are_paired_and_no_others(paper: Path) -> None:
    """Two papers that agree on each split to .02, with means .1 apart where splits vary by 1.6."""
    write(paper, ROW)
    write_splits(paper, f"3,MLE,diabetes,rmse,{' '.join(map(str, THEIRS))},a file of theirs")
    told = papers.read(str(paper))
    assert told.rows[0].by_split == THEIRS
    near = [value + 0.1 + error for value, error in zip(THEIRS, (0.02, -0.02, 0.01, -0.01, 0.0), strict=True)]
    (line,) = verdicts.of(told, [ours({Replicate(i, i): value for i, value in enumerate(near)})])
    assert line.agreement is not None
    assert float(line.agreement.difference.standard_error) == pytest.approx(0.0158114 / 5**0.5, rel=1e-4)
    assert line.agreement.half_width == pytest.approx(2.776445 * 0.0158114 / 5**0.5, rel=1e-4)  # no rounding left
    assert "paired by split" in line.reason

    (some,) = verdicts.of(told, [ours({Replicate(i, 4 - i): near[4 - i] for i in range(3)})])
    assert some.agreement is not None
    assert float(some.agreement.difference.estimate) == pytest.approx(0.1)  # of splits 4, 3 and 2 on both sides

    one_split = {Replicate(i, 0): value for i, value in enumerate(near)}
    beyond = {Replicate(i, i + 1): value for i, value in enumerate(near)}
    for values in (one_split, beyond):
        (line,) = verdicts.of(told, [ours(values)])
        assert line.agreement is not None
        assert line.agreement.row.by_split is None
        assert ", unpaired" in line.reason


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("3,MLE,diabetes,rmse,8 12 9 11,a file", "4"),
        ("3,MLE,diabetes,rmse,8 12 9 11 11,a file", "10.2"),
        ("3,MLE,diabetes,rmse,8 12 9 11 x,a file", "x"),
        ("3,MLE,diabetes,rmse,8 12 9 11 nan,a file", "line 2"),
        ("3,MLE,diabetes,rmse,8 12 9 11 10,", "source"),
        ("3,MLE,diabetes,nll,8 12 9 11 10,a file", "nll"),
        ("3,MLE,diabetes,rmse,8 12 9 11 10", "values"),
    ],
)
def test_values_by_split_that_are_wrong_are_named(paper: Path, line: str, word: str, refused: Any) -> None:
    write(paper, ROW)
    write_splits(paper, line)
    with refused("some2020", word):
        papers.read(str(paper))
