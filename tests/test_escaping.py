"""Names that mean something to Markdown, LaTeX, a spreadsheet or a drawing are shown as they are, and do nothing."""

from __future__ import annotations

import csv
import io
import re
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from markdown_it import MarkdownIt

from bdlbench import api, catalog
from bdlbench.cli import main as cli
from bdlbench.core.spec import Choice
from bdlbench.report import text_table
from bdlbench.report.text_table import Field, Sheet
from bdlbench.runs.external_scores import Claim

NAMES = [
    "[x](http://example.org)",
    "![x](y.png)",
    "[x]: http://example.org",
    "https://example.org/a_b",
    "www.example.org",
    "$a_b$ and $$c$$",
    "`code` **bold** _x_ *y* ~~z~~",
    "a|b\\|c",
    "<img src=x onerror=alert(1)>",
    "&amp; &lt;",
    "# no heading",
    "- no list",
    "1. no list",
    "1) no list",
    "+ no list",
    "-0.5",
    "=1+1",
]


@pytest.mark.parametrize("name", NAMES)
def test_markdown_shows_names_as_they_are_and_links_nothing(name: str) -> None:
    text = text_table.markdown(Sheet(name, (name, "n"), ((Field(name), Field("1")), (Field(name, True), Field("2")))))
    text += f"\n- {text_table.escape_markdown(name)}\n"
    html = MarkdownIt("gfm-like", {"linkify": False}).render(text)
    assert not re.search(r"<(a|img|code|em|del|h1|ol|script)\b", html)
    assert html.count("<ul>") == 1
    assert html.count("<strong>") == 2
    shown = [unescape(re.sub("<[^>]*>", "", part)) for part in re.findall(r"<(?:p|th|td|li)[^>]*>(.*?)</", html)]
    assert [part for part in shown if part not in ("n", "1", "2", "")] == [name] * (5 - html.count("<td><strong>"))


@pytest.mark.parametrize("text", ["https://example.org", "http://e.org", "www.example.org", "mailto:a", "ftp://e.org"])
def test_bare_addresses_are_broken(text: str) -> None:
    """GitHub links them without any markup: not where a backslash stands within."""
    escaped = text_table.escape_markdown(f"see {text} here")
    assert "\\" in escaped
    assert escaped.replace("\\", "") == f"see {text} here"
    assert text not in escaped


@pytest.mark.parametrize("text", ["mc_dropout", "−0.5", "0.98 ± 0.01", "a: b", "3.5", "-0.5", "mlp (widths 100-100)"])
def test_plain_text_stays_plain(text: str) -> None:
    assert text_table.escape_markdown(text) == text


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("=1+1", "'=1+1"),
        ("+cmd|' /C calc'!A0", "'+cmd|' /C calc'!A0"),
        ("-2+3", "'-2+3"),
        ("@SUM(1)", "'@SUM(1)"),
        ("＝1+1", "'＝1+1"),
        ("\t=1", "'\t=1"),
        ("-0.5", "-0.5"),
        ("+1e-3", "+1e-3"),
        (-0.5, "-0.5"),
        ("mle", "mle"),
        ("a=b", "a=b"),
        ('"quoted", and more', '"quoted", and more'),
        (None, ""),
    ],
)
def test_a_spreadsheet_runs_nothing(value: Any, written: str) -> None:
    (row,) = csv.DictReader(io.StringIO(text_table.csv_lines([{"method": value}], ["method"])))
    assert row == {"method": written}


@pytest.mark.parametrize(("name", "cell"), [("*x", "{*x}"), ("[x", "{[x}"), ("$x", r"\$x")])
def test_latex_takes_no_part_of_a_name_for_the_end_of_a_row(name: str, cell: str) -> None:
    text = text_table.latex(Sheet("t", ("method",), ((Field(name),), (Field("y"),))), "c")
    assert rf"  {cell} \\" in text


@pytest.fixture(params=["$\\bad{$", "=1+1", "[x](//example.org)", "方法" * 20, "a|b", "<b>&\"'"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    """Two methods, the first of an odd name, on a data set of that name with an OOD set of that name."""
    rng = np.random.default_rng(0)
    for method in (request.param, "other"):
        file = tmp_path / "file.npz"
        far = {f"ood.{request.param}.probs": rng.dirichlet(np.ones(3), (3, 8))}
        np.savez(file, probs=rng.dirichlet(np.ones(3), (3, 8)), labels=np.arange(8) % 3, **far)
        api.score(file, Claim(method, request.param, own_data=True, axes="RNC"), tmp_path / "r")
    return request.param, tmp_path / "r"


@pytest.mark.slow
def test_every_way_out_takes_odd_names(folder: tuple[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    """Records, tables of every style, a comparison, a figure and a report: warnings are errors here."""
    name, place = folder
    verdict = api.compare(place, place, treatment=(name, "other")).exit_code
    for style in ("terminal", "markdown", "csv", "latex", "json"):
        assert cli.main(["table", str(place), "--format", style]) == 0
        compared = ["compare", str(place), str(place), "--treatment", f"{name}:other", "--format", style]
        assert cli.main(compared) == verdict
        text = capsys.readouterr().out
        if style == "csv":
            assert not any(field.startswith("=") for row in csv.reader(io.StringIO(text)) for field in row)
    assert cli.main(["table", str(place), "--figure", str(place / "figure.png")]) == 0
    page = api.report(place, place / "page").read_text("utf-8")
    assert "<b>&" not in page
    assert name in unescape(page)


def test_a_figure_that_cannot_be_written(tmp_path: Path, refused: Any) -> None:
    (tmp_path / "file").write_text("")
    api.run("quick", method=["mle", "map"], model=["logistic"], dataset=["wine"], seeds="2", samples=1,
            set={"mle.epochs": 1, "map.epochs": 1}, results=tmp_path / "r")  # fmt: skip
    refused.command(["table", tmp_path / "r", "--figure", tmp_path / "file" / "x.png"], "x.png", "written")


@pytest.mark.parametrize("name", ["a\x1b[31mb", "a\u200bb", "a\u202eb", "a\nb", "a\x00"])
def test_a_name_has_no_control_characters(name: str, refused: Any) -> None:
    with refused(repr(name), "characters"):
        Choice.of(name, {})


def test_the_names_of_the_catalog_are_plain() -> None:
    for kind in catalog.KINDS:
        for name in catalog.names(kind):
            assert text_table.escape_markdown(name) == text_table._inert(name) == name
