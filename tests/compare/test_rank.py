"""Methods over data sets: who is ranked on what, Friedman, pairs, and the diagram."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from bdlbench.compare.rank import Ranking, rank
from bdlbench.core.spec import Cell, Choice, Replicate
from bdlbench.records.cells import Result, Scores
from bdlbench.report import figures, verdicts

METHODS = ("mle", "map", "mc_dropout", "laplace")


def result(
    method: str, dataset: str, values: Sequence[float], model: str = "mlp", better: str = "lower", **options: Any
) -> Result:
    cell = Cell(Choice.of(method, options), Choice.of(model, {}), Choice.of(dataset, {}), samples=3)
    numbers = {Replicate(i): value for i, value in enumerate(values)}
    scores = {"nll": Scores("nats", "higher" if better == "higher" else "lower", "NLL()", numbers)}
    return Result(cell.key, cell, scores, tuple(numbers), {}, (), {})


def grid(datasets: int, gaps: Mapping[str, float], better: str = "lower") -> list[Result]:
    """Each method's values lie `gap` above the data set's own."""
    rng = np.random.default_rng(0)
    base = {f"d{i}": rng.normal() for i in range(datasets)}
    return [
        result(method, name, level + gap + 0.02 * rng.normal(size=4), better=better)
        for name, level in base.items()
        for method, gap in gaps.items()
    ]


@pytest.fixture(scope="module")
def eight() -> Ranking:
    return rank(grid(8, {"mle": 0.5, "map": 0.0, "mc_dropout": 0.001, "laplace": 0.9}), "nll")


def test_order_and_groups(eight: Ranking) -> None:
    assert set(eight.methods[:2]) == {"map", "mc_dropout"} and eight.methods[2:] == ("mle", "laplace")
    assert eight.groups == ((0, 1),)
    assert eight.has_diagram and eight.notes == ()
    assert eight.friedman_p == pytest.approx(stats.friedmanchisquare(*eight.means.T).pvalue)
    sure = {frozenset((d.first, d.second)) for d in eight.duels if d.corrected_p <= 0.05}
    assert len(eight.duels) == 6 and sure == {
        frozenset(pair) for pair in [("map", "mle"), ("map", "laplace"), ("mc_dropout", "mle")]
    } | {frozenset(("mc_dropout", "laplace")), frozenset(("mle", "laplace"))}
    duel = next(d for d in eight.duels if {d.first, d.second} == {"mle", "laplace"})
    assert (duel.p_value, duel.improvement, duel.interval[1]) == (pytest.approx(2 / 2**8), 1.0, 1.0)


def test_a_pair_does_not_depend_on_the_others(eight: Ranking) -> None:
    alone = rank(grid(8, {"mle": 0.5, "laplace": 0.9}), "nll")
    assert alone.duels[0].p_value == pytest.approx(2 / 2**8)
    assert np.isnan(alone.friedman_p)


def test_higher_may_be_better() -> None:
    found = rank(grid(3, {"mle": 0.0, "map": 1.0}, better="higher"), "nll")
    assert found.methods == ("map", "mle")
    assert found.duels[0].improvement == 1


def test_few_data_sets_and_many_pairs() -> None:
    few = rank(grid(5, {"mle": 0.0, "map": 1.0}), "nll")
    assert not few.has_diagram
    assert few.notes == (
        "no critical-difference diagram below 6 data sets: a signed-rank test over 5 cannot reach p = 0.05 "
        "(its smallest p is 0.0625)",
    )
    many = rank(grid(6, dict.fromkeys(METHODS, 0.0)), "nll")
    assert many.notes == ("with 6 pairs to correct for, no pair can be told apart on 6 data sets; 8 could",)


def test_what_is_left_out_is_said() -> None:
    some = [r for r in grid(3, dict.fromkeys(METHODS, 0.0)) if "laplace" not in str(r.cell) or "d0" in str(r.cell)]
    some += [result("mle", "alone", [1.0]), result("map", "d1", [1.0], model="resnet")]
    found = rank(some, "nll")
    assert found.methods and set(found.methods) == {"mle", "map", "mc_dropout"}
    assert found.notes[:3] == (
        "d1: only methods on mlp are ranked, the model that most of them share",
        "laplace is left out: not on d1, d2",
        "alone is left out: it has too few of the methods",
    )
    pair = rank(some, "nll", ["mle", "map"])
    assert (set(pair.methods), len(pair.blocks)) == ({"mle", "map"}, 3)


def test_a_sweep_is_several_contenders() -> None:
    swept = [
        result("mc_dropout", f"d{i}", [rate + i, rate + i + 0.1], rate=rate, epochs=9 + i)
        for i in range(2)
        for rate in (0.1, 0.5)
    ]
    assert rank(swept, "nll").methods == ("mc_dropout (rate 0.1)", "mc_dropout (rate 0.5)")


def test_refused(refused: Any) -> None:
    three = grid(3, {"mle": 0.0, "map": 1.0})
    with refused("metric", "nl", "nll"):
        rank(three, "nl")
    with refused("throughput", "cost"):
        rank(three, "throughput")
    with refused("method", "mlee", "mle"):
        rank(three, "nll", ["mlee", "map"])
    with refused("nll", "2 methods", "1 data"):
        rank(grid(1, {"mle": 0.0, "map": 1.0}), "nll")
    with refused("nll", "mle", "d0", "finite"):
        rank([*three[1:], result("mle", "d0", [1.0, float("nan")])], "nll")
    both = [r for r in three]
    both[0].scores["ood_auroc[a]"] = both[0].scores["ood_auroc[b]"] = both[0].scores["nll"]
    with refused("--metric ood_auroc", "ood_auroc[a]", "ood_auroc[b]"):
        rank(both, "ood_auroc")


def test_formats(eight: Ranking) -> None:
    text = verdicts.render_ranking(eight)
    assert text.startswith("nll ↓ (nats)\n\nmethod")
    assert "Friedman's test: p = " in text
    markdown = verdicts.render_ranking(eight, "markdown")
    assert {line.count("|") for line in markdown.splitlines() if line.startswith("|")} == {11, 6}
    rows = list(csv.DictReader(io.StringIO(verdicts.render_ranking(eight, "csv"))))
    body = json.loads(verdicts.render_ranking(eight, "json"))
    assert len(rows) == len(body["pairs"]) == 6
    assert float(rows[0]["corrected_p"]) == body["pairs"][0]["corrected_p"] == eight.duels[0].corrected_p
    assert body["methods"]["laplace"] == 4.0
    assert verdicts.render_ranking(eight, "latex").count(r"\toprule") == 2


def test_the_diagram(eight: Ranking, tmp_path: Path, refused: Any) -> None:
    figures.draw_ranking(eight, tmp_path / "cd.svg")
    text = (tmp_path / "cd.svg").read_text()
    assert all(f"{name} (" in text or f") {name}" in text for name in METHODS) or "<path" in text
    figures.draw_ranking(eight, tmp_path / "cd.png")
    assert (tmp_path / "cd.png").stat().st_size > 5000
    with refused("cd.gif", ".png", ".svg", ".pdf"):
        figures.draw_ranking(eight, tmp_path / "cd.gif")
    with refused("few.png", "3 data", "6"):
        figures.draw_ranking(rank(grid(3, {"mle": 0.0, "map": 1.0}), "nll"), tmp_path / "few.png")
