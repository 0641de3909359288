"""Figures of results for papers and for the README."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bdlbench.compare.rank import ENOUGH_BLOCKS, Ranking
from bdlbench.core import files
from bdlbench.core.errors import BadInput
from bdlbench.records.cells import Result
from bdlbench.report.tables import Group, group

FIGURE_ENDINGS = (".png", ".svg", ".pdf")
PANEL = (2.1, 0.24)
"""Inches: the width of a panel, and the height of a row in it."""


def draw_table(results: Sequence[Result], path: Path, metrics: Sequence[str] = (), sort: str = "") -> None:
    """Draw the table: a row of panels for each data set, a panel for each metric, mean ± standard error.

    Filled points are bold in the table: no other row is shown to be better. A metric of fewer than two rows is left
    out.

    Args:
        results: The cells.
        path: The file to write.
        metrics: The metrics to draw, by default the main ones.
        sort: A metric to sort rows by.

    Raises:
        BadInput: The file's ending is not one of FIGURE_ENDINGS, or no metric is left.
    """
    _refuse_other_endings(path)
    groups = [shown for shown in group(results, metrics, sort) if _drawn(shown)]
    if not groups:
        raise BadInput(f"--figure {path}: there is no metric that two rows have")
    _save(lambda: _draw(groups), path)


def of_table(results: Sequence[Result], metrics: Sequence[str] = (), sort: str = "") -> Any:
    """Return the table as a figure, as `draw_table` writes it.

    Args:
        results: The cells.
        metrics: The metrics to draw, by default the main ones.
        sort: A metric to sort rows by.

    Returns:
        A figure of matplotlib.

    Raises:
        BadInput: There is no metric that two rows have.
    """
    import matplotlib as mpl

    groups = [shown for shown in group(results, metrics, sort) if _drawn(shown)]
    if not groups:
        raise BadInput("plot: there is no metric that two rows have")
    with mpl.rc_context({"text.parse_math": False}):
        return _draw(groups)


def draw_ranking(ranking: Ranking, path: Path) -> None:
    """Draw a critical-difference diagram: a scale of mean ranks, with bars over methods that are not told apart.

    It follows Demšar 2006, with Wilcoxon-Holm tests in place of the single critical difference.

    Args:
        ranking: The ranking.
        path: The file to write.

    Raises:
        BadInput: The file's ending is not one of FIGURE_ENDINGS, or there are fewer than six data sets, with which the
            diagram could only show one bar over all methods.
    """
    _refuse_other_endings(path)
    if not ranking.has_diagram:
        count = len(ranking.blocks)
        raise BadInput(f"--figure {path}: {count} data sets, a diagram needs {ENOUGH_BLOCKS}; the table needs none")
    _save(lambda: _diagram(ranking), path)


def _diagram(ranking: Ranking) -> Any:
    from matplotlib.figure import Figure

    count = len(ranking.methods)
    half = (count + 1) // 2
    bars = len(ranking.groups)
    depth = half + 0.2 + 0.35 * bars
    figure = Figure(figsize=(7, 0.28 * depth + 0.7), layout="constrained")
    axis = figure.subplots()
    axis.set(xlim=(count + 0.1, 0.9), ylim=(depth, -1.6))  # the best rank on the right, as is the custom
    axis.axis("off")
    axis.plot([1, count], [0, 0], color="black", lw=1)
    for tick in range(1, count + 1):
        axis.plot([tick, tick], [-0.2, 0], color="black", lw=1)
        axis.text(tick, -0.45, str(tick), ha="center", va="bottom", fontsize="small")
    for i, (name, place) in enumerate(zip(ranking.methods, ranking.mean_ranks, strict=True)):
        best = i < half  # the better half is named on the right
        height = 0.6 + 0.35 * bars + (i if best else count - 1 - i)
        edge, side = (0.9, "left") if best else (count + 0.1, "right")
        axis.plot([place, place, edge], [0, height, height], color="0.35", lw=0.8, clip_on=False)
        label = f" {name} ({place:.2f})" if best else f"({place:.2f}) {name} "
        axis.text(edge, height, label, ha=side, va="center", fontsize="small")
    for level, clique in enumerate(ranking.groups):
        ends = [ranking.mean_ranks[i] for i in (clique[0], clique[-1])]
        y = 0.35 + 0.35 * level
        axis.plot([ends[0] - 0.05, ends[1] + 0.05], [y, y], color="black", lw=3, solid_capstyle="butt")
    arrow = "lower" if ranking.better == "lower" else "higher"
    title = f"mean rank of {ranking.metric} ({arrow} is better) over {len(ranking.blocks)} data sets"
    axis.set_title(title, fontsize="small")
    return figure


def _refuse_other_endings(path: Path) -> None:
    if path.suffix not in FIGURE_ENDINGS:
        raise BadInput(
            f"--figure {path}: the file must end in {', '.join(FIGURE_ENDINGS[:-1])} or {FIGURE_ENDINGS[-1]}"
        )


def _save(draw: Callable[[], Any], path: Path) -> None:
    """Draw and write. A dollar sign in a name is not mathematics, and a character that the font lacks is a box."""
    import matplotlib as mpl

    with mpl.rc_context({"text.parse_math": False}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure = draw()
        drawn = io.BytesIO()  # not into the file: a writer of PDF hides the error of a full disk behind one of its own
        figure.savefig(drawn, format=path.suffix[1:], dpi=200)
        try:
            files.write_atomic(path, drawn.getvalue())
        except OSError as error:
            raise BadInput(f"--figure {path} cannot be written: {error.strerror}") from None


def _drawn(shown: Group) -> list[int]:
    """Return the columns that have numbers in at least two rows."""
    counts = [sum(math.isfinite(row.entries[j].value) for row in shown.rows) for j in range(len(shown.columns))]
    return [j for j, count in enumerate(counts) if count > 1]


def _draw(groups: Sequence[Group]) -> Any:
    import matplotlib as mpl
    import seaborn as sns
    from matplotlib.figure import Figure
    from rich.cells import cell_len

    heights = [PANEL[1] * len(shown.rows) + 0.9 for shown in groups]
    longest = max(cell_len(name) for shown in groups for name in _labels(shown))
    size = (PANEL[0] * max(len(_drawn(shown)) for shown in groups) + max(1.2, 0.06 * longest), sum(heights))
    with mpl.rc_context({**sns.axes_style("whitegrid"), **sns.plotting_context("paper")}):
        figure = Figure(figsize=size, layout="constrained")
        blocks = figure.subfigures(len(groups), 1, squeeze=False, height_ratios=heights)[:, 0]
        for block, shown in zip(blocks, groups, strict=True):
            block.suptitle(shown.title, x=0.01, ha="left", fontweight="bold", fontsize="medium")
            columns = _drawn(shown)
            axes = block.subplots(1, len(columns), squeeze=False, sharey=True)[0]
            for j, axis in zip(columns, axes, strict=True):
                _panel(axis, shown, j, sns.color_palette("deep", len(shown.rows)))
    return figure


def _panel(axis: Any, shown: Group, j: int, colours: Sequence[Any]) -> None:
    """Draw column j of a table: for each row with a number, a point with its standard error."""
    for place, (row, colour) in enumerate(zip(shown.rows, colours, strict=True)):
        entry = row.entries[j]
        if math.isfinite(entry.value):
            face = colour if entry.leads else "white"
            error = entry.spread if math.isfinite(entry.spread) else 0
            axis.errorbar(entry.value, place, xerr=error, fmt="o", color=colour, mfc=face, markersize=5, capsize=2)
    labels = _labels(shown)
    axis.set_yticks(range(len(labels)), labels)
    axis.set(ylim=(len(labels) - 0.5, -0.5), xlabel=shown.columns[j].unit)
    axis.set_title(shown.columns[j].heading, fontsize="small")
    axis.locator_params(axis="x", nbins=4)
    axis.margins(x=0.1)


def _labels(shown: Group) -> list[str]:
    """Return the text of each row."""
    return [" ".join(label for label in row.labels if label) for row in shown.rows]
