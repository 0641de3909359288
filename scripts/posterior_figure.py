"""Write the distance of every method from the posterior by HMC: a table for each data set, and a figure against cost.

    python scripts/posterior_figure.py RECORDS [REFERENCES]     (bdlbench installed)

RECORDS is a folder of records of the suite `posterior` with their predictions; REFERENCES one of `posterior_reference`,
results/reference/posterior by default. Writes RECORDS/README.md and RECORDS/distance.png.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from textwrap import fill

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter

from bdlbench import api
from bdlbench.records import reading
from bdlbench.records.cells import Result
from bdlbench.report import tables
from bdlbench.report.text_table import Field, Sheet, markdown
from bdlbench.runs import references, rescoring

DISTANCES = {"total_variation": "total variation from HMC", "predictive_w2": "Wasserstein-2 from HMC"}
"""The distance of classes, and of real targets."""
BESIDE = ("agreement", "nll", "ece", "rmse")
HEAD = (
    "The suite `posterior`: a network with 16 hidden units on six small data sets, three seeds; distances from the "
    "predictive of `hmc` ([what they are](../../docs/posterior.md)). Means ± standard errors over seeds; seconds of "
    "training, all seeds at once, on one core of a busy machine. The nearest method first; the row `hmc` is another "
    "run than the reference. All have the same prior and 3,000 steps, and no option was searched for. "
    "`laplace weights` predicts by drawn weights, `laplace mc` by the linearised network. Made by "
    "`python scripts/posterior_figure.py results/posterior`."
)
MARKS = "osD"
"""With the ten colours of matplotlib, a mark of its own for each method."""


def main(folder: Path, gold: Path) -> None:
    """Put records beside their references, tabulate and draw."""
    source = reading.read(folder)
    done = rescoring.completed(source, [*DISTANCES, *BESIDE], references.found_in(gold))
    frame = api.frame_of(done.results)
    frame["method"] = frame.cell.map(_labels(done.results))
    seconds = frame[frame.metric == "train_seconds"].groupby(["dataset", "method"])["value"].sum()
    groups = frame[frame.seed.notna()].groupby(["dataset", "method", "metric"])["value"]
    found = groups.agg(["mean", "sem"]).reset_index()
    lines = [
        "# Every method beside the posterior",
        "",
        fill(HEAD, 120, break_long_words=False, break_on_hyphens=False),
        "",
        "![Distance from the posterior against seconds of training, a panel for each data set](distance.png)",
        "",
    ]
    names = list(dict.fromkeys(found.dataset))
    lines_of_panels = math.ceil(len(names) / 3)
    figure = Figure(figsize=(11, 3.3 * lines_of_panels), layout="constrained")
    methods = sorted(set(found.method))
    marks = {one: f"{MARKS[place // 10]}C{place % 10}" for place, one in enumerate(methods)}
    for panel, name in enumerate(names):
        part = found[found.dataset == name]
        distance = next(one for one in DISTANCES if one in set(part.metric))
        columns = [distance, *(one for one in BESIDE if one in set(part.metric))]
        means, errors = (part.pivot(index="method", columns="metric", values=value) for value in ("mean", "sem"))
        order = means[distance].sort_values().index
        rows = []
        for method in order:
            told = [_told(means.loc[method, one], errors.loc[method, one]) for one in columns]
            rows.append(tuple(map(Field, (method, *told, f"{seconds[name, method]:.1f}"))))
        sheet = Sheet(name, ("method", *columns, "train_seconds"), tuple(rows))
        lines += [f"## {name}", "", markdown(sheet).partition("\n\n")[2].rstrip()]
        for record in source.records:
            if record.failed and record.cell.dataset.name == name:
                lost, of = len(record.failed), len(record.failed) + len(record.replicates)
                lines += ["", f"{record.cell.method.name}: {lost} of {of} seeds diverged."]
        lines.append("")
        axes = figure.add_subplot(lines_of_panels, 3, panel + 1)
        for method, value in means[distance].dropna().items():
            axes.plot(seconds[name, method], value, marks[method], label=method, markersize=5, alpha=0.8)
        axes.set(xscale="log", yscale="log", title=name, xlabel="seconds of training", ylabel=DISTANCES[distance])
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.grid(alpha=0.3)
    shown = [Line2D([], [], marker=mark[0], color=mark[1:], linestyle="", label=one) for one, mark in marks.items()]
    figure.legend(handles=shown, loc="outside right", frameon=False)
    figure.savefig(folder / "distance.png", dpi=130)
    (folder / "README.md").write_text("\n".join(lines).rstrip() + "\n", "utf-8")


def _labels(results: Sequence[Result]) -> dict[str, str]:
    """Return what to call each cell: its method, with the options in which two cells of it differ."""
    called = {}
    for name in {one.cell.dataset.name for one in results}:
        rows = [one for one in results if one.cell.dataset.name == name]
        methods, *others = tables.labels(rows).values()
        for place, row in enumerate(rows):
            options = [column[place] for column in others if place in column]
            called[row.cell.key] = " ".join((methods[place], *options)).replace(" weights (default)", " weights")
    return called


def _told(mean: float, error: float) -> str:
    return "" if pd.isna(mean) else f"{mean:.3g}" + ("" if pd.isna(error) else f" ± {error:.1g}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else references.REFERENCES_FOLDER)
