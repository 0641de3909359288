"""The table as a figure."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bdlbench.core.spec import Cell, Choice, Replicate
from bdlbench.records.cells import Result, Scores
from bdlbench.report import figures


def result(method: str, nll: list[float], sparsity: list[float] | None = None) -> Result:
    cell = Cell(Choice(method), Choice("logistic"), Choice("wine"), samples=3)
    columns = {"nll": ("nats", "lower", nll)} | ({"sparsity": ("fraction", "higher", sparsity)} if sparsity else {})
    scores = {
        name: Scores(unit, better, name, {Replicate(seed): value for seed, value in enumerate(values)})
        for name, (unit, better, values) in columns.items()
    }
    return Result(method, cell, scores, tuple(Replicate(seed) for seed in range(len(nll))), {}, (), {})


RESULTS = [result("mle", [0.2, 0.3, 0.25]), result("map", [0.1, 0.15, 0.12], [0.5, 0.5, 0.5])]


@pytest.mark.parametrize("ending", figures.FIGURE_ENDINGS)
def test_a_figure_is_written_in_every_format(tmp_path: Path, ending: str) -> None:
    figures.draw_table(RESULTS, tmp_path / "deep" / f"table{ending}")
    assert (tmp_path / "deep" / f"table{ending}").stat().st_size > 1000


def test_the_points_are_those_of_the_table_and_lone_columns_are_left_out() -> None:
    figure = figures._draw(figures.group(RESULTS))
    (block,) = figure.subfigs
    (axis,) = block.axes
    assert [line.get_xdata()[0] for line in axis.lines if line.get_marker() == "o"] == [
        0.25,
        pytest.approx(0.37 / 3, rel=1e-15),
    ]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["mle", "map"]
    assert axis.get_title() == "nll ↓" and axis.get_xlabel() == "nats"


def test_what_is_drawn_is_what_the_records_say_to_the_last_digit() -> None:
    """Not what the table prints of it: a third has more than four digits."""
    nll = [1 / 3, 0.3, 0.2501]
    figure = figures._draw(figures.group([result("mle", nll), RESULTS[1]]))
    (axis,) = figure.subfigs[0].axes
    bar, _ = axis.containers
    (start, end) = bar.lines[2][0].get_segments()[0][:, 0]
    mean, error = np.mean(nll), np.std(nll, ddof=1) / 3**0.5
    assert bar.lines[0].get_xdata()[0] == pytest.approx(mean, rel=1e-15)
    assert (end - start) / 2 == pytest.approx(error, rel=1e-12)


def test_an_unknown_ending_is_refused_before_anything_is_written(tmp_path: Path, refused: Any) -> None:
    with refused("table.gif", ".png", ".svg", ".pdf"):
        figures.draw_table(RESULTS, tmp_path / "table.gif")
    assert not list(tmp_path.iterdir())


def test_nothing_to_draw_is_said(tmp_path: Path, refused: Any) -> None:
    with refused("table.png", "no metric", "rows"):
        figures.draw_table(RESULTS[:1], tmp_path / "table.png")
