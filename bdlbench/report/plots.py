"""The report's figures. Each panel is a figure that can be read on a phone.

A method has one colour throughout. Rows of one method in a section differ by marker and dashes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
import seaborn as sns
import torch
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, PercentFormatter
from pandas import DataFrame
from rich.cells import cell_len, set_cell_size

from bdlbench.report import evidence
from bdlbench.report.evidence import EvidenceSection, Shown
from bdlbench.report.tables import ABSENT, Column, number
from bdlbench.stats.calibration import Reliability, proportion_interval

WIDTH, HEIGHT = 4.2, 3.0
"""Size of a panel without its legend, in inches."""
LEGEND_LINE = 0.19
"""Height of a line of a legend, which holds two entries, in inches."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">")
DASHES = ("-", "--", ":", "-.")
FAINT = "0.55"
COLOURS = (
    *("#0173b2", "#de8f05", "#029e73", "#d55e00", "#cc78bc", "#ca9161", "#56b4e9", "#949494"),  # seaborn's "colorblind"
    *("#882255", "#332288"),  # instead of its pink and yellow, which are faint on white: Tol's wine and indigo
)
"""Distinguishable with any common colour blindness."""
FEW_POINTS = 5
"""A bin with fewer examples of one replicate is drawn faint and outside the line."""

Colours = Mapping[str, Any]
"""The colour of each method."""


@dataclass(frozen=True)
class Panel:
    """A figure that stands alone.

    Attributes:
        name: The name of its file.
        alt: The content in words and numbers.
        figure: The figure.
    """

    name: str
    alt: str
    figure: Figure


@dataclass(frozen=True)
class Plot:
    """Panels that belong together.

    Attributes:
        title: The heading.
        caption: The text below it.
        panels: The figures.
        reason: Why there are no panels.
        partly: Why some panels are missing.
    """

    title: str
    caption: str
    panels: tuple[Panel, ...]
    reason: str = ""
    partly: str = ""


def colours_of(methods: Sequence[str]) -> dict[str, Any]:
    """Return a colour for each method, in order of first appearance; after ten they repeat."""
    return {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(dict.fromkeys(methods))}


def plots(section: EvidenceSection, colours: Colours) -> list[Plot]:
    """Return all plots of a section in the order of the page. Plots without data have a reason instead of panels."""
    makers = (
        seeds,
        reliability,
        calibration,
        samples,
        risk_coverage,
        under_shift,
        ood_histograms,
        ood_roc,
        sparsity,
        cost,
    )
    with mpl.rc_context(_style()):
        return [maker(section, colours) for maker in makers]


def seeds(section: EvidenceSection, colours: Colours) -> Plot:
    """Plot every replicate of every metric of the table."""
    columns = [column for column in section.table.columns if not column.is_cost]
    panels = []
    for column in columns:
        rows = [row for row in section.rows if _finite(row, column.name)]
        if len({value for row in rows for value in _finite(row, column.name)}) > 1:
            panels.append(Panel(f"seeds-{column.name}", _seeds_alt(rows, column), _seeds(rows, column, colours)))
    caption = "A dot for each replicate; the upright line is the mean, the bar its 95 % t-interval over replicates."
    return Plot("Every seed", caption, tuple(panels), "no metric has two differing values")


def reliability(section: EvidenceSection, colours: Colours) -> Plot:
    """Plot accuracy against confidence, a panel for each row."""
    panels = []
    for row in section.rows:
        bins = evidence.bins_of(row)
        if bins is not None:
            ece = _said(row, "ece")
            alt = f"Reliability diagram of {row.label}: accuracy against confidence in 15 bins; ECE {ece}."
            panels.append(Panel(f"reliability-{row.label}", alt, _reliability(row, bins, colours[row.method])))
    caption = (
        "Accuracy of the examples in each of 15 bins of confidence (the largest class probability); on the diagonal a "
        "method is right as often as it says. Replicates are pooled. Band: Jeffreys' 95 % interval of a bin's accuracy "
        f"at the number of examples of one replicate, since all share one test set; faint: bins with "
        f"fewer than {FEW_POINTS}. "
        "Grey: share of the examples."
    )
    return Plot("Reliability", caption, tuple(panels), "no row has class probabilities")


def calibration(section: EvidenceSection, colours: Colours) -> Plot:
    """Plot accuracy against calibration error."""
    rows = [row for row in section.rows if _finite(row, "accuracy") and _finite(row, "ece")]
    caption = "Small: each replicate. Large: the mean, with standard errors. Best is the lower right corner."
    if len(rows) < 2:
        return Plot("Accuracy against calibration", caption, (), "fewer than two rows have accuracy and ECE")
    figure, axis = _panel(rows)
    for row in rows:
        _cross(axis, row, "accuracy", "ece", colours[row.method])
    axis.set(xlabel="accuracy →", ylabel="← ECE")
    _legend(figure, rows, colours, points=True)
    said = "; ".join(f"{row.label} {_said(row, 'accuracy')} and {_said(row, 'ece')}" for row in rows)
    return Plot("Accuracy against calibration", caption, (Panel("calibration", f"Accuracy and ECE: {said}.", figure),))


def samples(section: EvidenceSection, colours: Colours) -> Plot:
    """Plot NLL and accuracy against M."""
    caption = (
        "Over the first posterior samples, by the groups that the record keeps: mean and standard error over "
        "replicates. Dotted: methods with one sample."
    )
    panels, partly = [], ""
    for metric, curves in (("nll", evidence.nll_by_samples), ("accuracy", evidence.accuracy_by_samples)):
        frame = curves(section.rows)
        if not frame.empty:
            rows = [row for row in section.rows if row.label in set(frame["label"]) or _finite(row, metric)]
            panels.append(Panel(f"samples-{metric}", _ends_alt(frame, metric), _samples(rows, frame, metric, colours)))
        elif panels and evidence.has_classes(section.rows):
            partly = "accuracy: these records are too old to hold the classes that it needs; run them again"
    reason = "no row has several posterior samples and their group means"
    return Plot("Posterior samples", caption, tuple(panels), reason, partly)


def risk_coverage(section: EvidenceSection, colours: Colours) -> Plot:
    """Plot the error rate among the examples that are answered."""
    frame = evidence.risk_curves(section.rows)
    caption = (
        "Error rate among the most confident examples, as more of them are answered; mean and standard error over "
        "replicates. Lower is better; at coverage 1 it is the error of all."
    )
    if frame.empty:
        return Plot("Risk and coverage", caption, (), "no row has class probabilities")
    rows = _rows_of(section.rows, frame)
    figure, axis = _panel(rows)
    _curves(axis, frame, "coverage", "risk", rows, colours)
    axis.set(xlabel="coverage", ylabel="error rate", xlim=(0, 1))
    axis.set_ylim(0, 1.05 * axis.get_ylim()[1])
    axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    _legend(figure, rows, colours)
    half = frame[(frame["coverage"] - 0.8).abs() < 0.01].groupby("label", sort=False)["risk"].mean()
    said = "; ".join(f"{label} {100 * value:.2f} %" for label, value in half.items())
    return Plot("Risk and coverage", caption, (Panel("risk-coverage", f"Error at 80 % coverage: {said}.", figure),))


def under_shift(section: EvidenceSection, colours: Colours) -> Plot:
    """Plot each metric of the table against the severity of shifts, in the manner of Ovadia et al. 2019."""
    caption = (
        "Against the severity of shifts of the test set, 0 being the test set itself: the mean over all kinds, then "
        "each kind; mean and standard error over replicates."
    )
    panels = []
    for column in section.table.columns:
        frame = evidence.under_shift(section.rows, column.name)
        kinds = list(dict.fromkeys(frame["kind"]))
        for kind in ["", *kinds] if len(kinds) > 1 else kinds:
            own = frame[frame["kind"] == kind] if kind else frame
            own = own.groupby(["label", "replicate", "severity"], sort=False)["value"].mean().reset_index()
            rows = _rows_of(section.rows, own)
            figure, axis = _panel(rows)
            _curves(axis, own, "severity", "value", rows, colours)
            axis.set(xlabel="severity", ylabel=f"{column.heading} ({column.unit})")
            axis.set_title(_shortened(_words(kind) or f"mean over {len(kinds)} kinds of shift", 44))
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
            _legend(figure, rows, colours)
            said = f"{column.name} against severity, {kind or 'mean over kinds of shift'}"
            alt = f"{said}: {_ends(own, 'severity', 'value')}."
            panels.append(Panel(f"shift-{column.name}-{kind or 'all'}", alt, figure))
    return Plot("Under shift", caption, tuple(panels), "no shifted test sets with severities")


def ood_histograms(section: EvidenceSection, colours: Colours) -> Plot:
    """Plot the distributions of a score on the test set and on out-of-distribution sets."""
    panels = []
    for score, (_, sets) in evidence.ood_scores(section.rows).items():
        for row in section.rows:
            shown = [name for name in sets if f"ood.{name}.{score}" in row.arrays]
            if f"test.{score}" in row.arrays and shown:
                figure = _histogram(row, score, shown, colours[row.method])
                alt = f"Histograms of {_words(score)} by {row.label}; {_medians(row, score, shown)}."
                panels.append(Panel(f"ood-{score}-{row.label}", alt, figure))
    caption = (
        "All replicates together; heights on a square-root scale; 2 of 1,000 lie beyond either end. Filled: the test "
        "set. Lines: out-of-distribution sets, which should lie to the right of it."
    )
    return Plot("Out-of-distribution scores", caption, tuple(panels), "no out-of-distribution scores are stored")


def ood_roc(section: EvidenceSection, colours: Colours) -> Plot:
    """Plot true against false positives, where out of distribution is positive."""
    panels = []
    for score, (metric, sets) in evidence.ood_scores(section.rows).items():
        for name in sets:
            frame = evidence.roc_curves(section.rows, score, name)
            rows = _rows_of(section.rows, frame)
            said = "; ".join(f"{row.label} {_said(row, f'{metric}[{name}]')}" for row in rows)
            alt = f"ROC curves on {name} by {_words(score)}; area under them: {said}."
            title = f"{name}, by {_words(score)}"
            panels.append(Panel(f"roc-{score}-{name}", alt, _roc(rows, frame, title, colours)))
    caption = "Out of distribution is positive; mean and standard error over replicates. Dashed: chance."
    return Plot("Out-of-distribution ROC", caption, tuple(panels), "no out-of-distribution scores are stored")


def sparsity(section: EvidenceSection, colours: Colours) -> Plot:
    """Plot the fraction of each layer's weights that is zero."""
    frame = evidence.layers_of(section.rows)
    caption = "Fraction of the weights of each layer that are exactly zero; a dot for each replicate."
    if frame.empty:
        return Plot("Sparsity by layer", caption, (), "no method states its sparsity")
    panels = []
    for row in _rows_of(section.rows, frame):
        own = frame[frame["label"] == row.label]
        figure, axis = _panel((), 0.9 + 0.3 * own["layer"].nunique())
        sns.stripplot(own, x="sparsity", y="layer", color=colours[row.method], jitter=False, alpha=0.6, ax=axis)
        axis.set(xlim=(min(0.0, own["sparsity"].min()), 1.02), ylabel="", xlabel="sparsity (fraction)", title=row.label)
        means = own.groupby("layer", sort=False)["sparsity"].mean()
        said = "; ".join(f"{layer} {value:.3f}" for layer, value in means.items())
        panels.append(Panel(f"sparsity-{row.label}", f"Sparsity of {row.label}: {said}.", figure))
    return Plot("Sparsity by layer", caption, tuple(panels))


def cost(section: EvidenceSection, colours: Colours) -> Plot:
    """Plot measured time against quality."""
    caption = (
        "Measured wall-clock time of the batch (all its replicates at once; rows trained in one batch share it) "
        "against the mean over replicates, with its standard error. Lower left is better."
    )
    quality = next((c for c in section.table.columns if c.name in ("nll", "rmse")), None)
    panels = []
    for name, words in (("train_seconds", "training"), ("predict_seconds", "prediction")):
        rows = [r for r in section.rows if quality and _finite(r, quality.name) and _spent(r, name) > 0]
        if quality is not None and len(rows) > 1:
            said = "; ".join(f"{r.label} {_spent(r, name):.3g} s, {_said(r, quality.name)}" for r in rows)
            alt = f"Seconds of {words} and {quality.name}: {said}."
            panels.append(Panel(f"cost-{name}", alt, _cost(rows, name, words, quality, colours)))
    return Plot("Cost against quality", caption, tuple(panels), "fewer than two rows have measured times")


# panels


def _style() -> Any:
    return {
        **sns.axes_style("ticks", {"axes.grid": True, "grid.color": "0.92", "axes.edgecolor": "0.6"}),
        **sns.plotting_context("paper"),
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": "medium",
        "axes.titleweight": "bold",
        "svg.fonttype": "none",  # text stays text, which can be read aloud, searched and copied
        "text.parse_math": False,  # a dollar sign in a name is not mathematics
    }


def _panel(rows: Sequence[Shown] = (), height: float = HEIGHT) -> tuple[Figure, Any]:
    """Return a figure with one axis; a legend of `rows` makes it higher."""
    figure = Figure(figsize=(WIDTH, height + LEGEND_LINE * -(-len(rows) // 2)), layout="constrained")
    return figure, figure.subplots()


def _legend(
    figure: Figure, rows: Sequence[Shown], colours: Colours, points: bool = False, dotted: Sequence[Shown] = ()
) -> None:
    """Add a legend below the axis: markers for points, else lines."""
    handles = [
        Line2D([], [], color=colours[row.method], marker=_marker(row), ls="", ms=5)
        if points
        else Line2D([], [], color=colours[row.method], ls=":" if row in dotted else _dash(row))
        for row in rows
    ]
    labels = [_shortened(row.label, 34) for row in rows]
    figure.legend(handles, labels, loc="outside lower left", ncols=2, frameon=False, fontsize="small")


def _marker(row: Shown) -> str:
    return MARKERS[row.place % len(MARKERS)]


def _dash(row: Shown) -> str:
    return DASHES[row.place % len(DASHES)]


def _seeds(rows: Sequence[Shown], column: Column, colours: Colours) -> Figure:
    figure, axis = _panel((), 0.8 + 0.24 * len(rows))
    for place, row in enumerate(rows):
        values = _finite(row, column.name)
        mean, half = interval(values)
        axis.errorbar(mean, place, xerr=half or None, fmt="|", color="0.35", ms=10, mew=1.2, lw=0.8, zorder=2)
        look = {"color": colours[row.method], "alpha": 0.8, "ms": 5, "mec": "white", "mew": 0.4, "zorder": 3}
        axis.plot(values, [place] * len(values), _marker(row), **look)
    axis.set_yticks(range(len(rows)), [_shortened(row.label, 30) for row in rows])
    axis.set(ylim=(len(rows) - 0.5, -0.5), xlabel=column.unit, title=column.heading)
    axis.locator_params(axis="x", nbins=5)
    return figure


def _reliability(row: Shown, bins: Reliability, colour: Any) -> Figure:
    figure, axis = _panel()
    count = bins.size / len(row.arrays["test.probs"])  # of one replicate
    kept = count > 0
    low, high = proportion_interval(count * bins.accuracy.nan_to_num(), count)
    edges = torch.linspace(0, 1, len(count) + 1).numpy()
    axis.stairs((bins.size / bins.size.sum()).numpy(), edges, fill=True, color="0.85", zorder=0)
    axis.plot([0, 1], [0, 1], "--", color=FAINT, lw=1)
    many, few = kept & (count >= FEW_POINTS), kept & (count < FEW_POINTS)
    axis.fill_between(bins.confidence[many], low[many], high[many], color=colour, alpha=0.2, lw=0)
    for mask, faint in ((many, 1.0), (few, 0.3)):
        axis.vlines(bins.confidence[mask], low[mask], high[mask], color=colour, lw=1, alpha=faint)
        axis.plot(bins.confidence[mask], bins.accuracy[mask], "o", color=colour, ms=4, alpha=faint)
    axis.plot(bins.confidence[many], bins.accuracy[many], "-", color=colour, lw=1.5)
    axis.set(xlim=(0, 1.01), ylim=(0, 1.01), xlabel="confidence", ylabel="accuracy")
    axis.set_title(f"{_shortened(row.label, 30)}\nECE {_said(row, 'ece')}")
    return figure


def _cross(axis: Any, row: Shown, x: str, y: str, colour: Any) -> None:
    """Draw every replicate, and their mean with standard errors in both directions."""
    points = {key: row.result.scores[key] for key in (x, y)}
    replicates = [r for r in points[x].values if r in points[y].values]
    each = ([points[key].values[r] for r in replicates] for key in (x, y))
    axis.plot(*each, _marker(row), color=colour, ms=3, alpha=0.4)
    errors = {f"{key}err": _or_none(points[name].standard_error) for key, name in (("x", x), ("y", y))}
    means = (points[x].mean, points[y].mean)
    axis.errorbar(*means, fmt=_marker(row), color=colour, ms=7, capsize=2, mec="white", **errors)


def _samples(rows: Sequence[Shown], frame: DataFrame, metric: str, colours: Colours) -> Figure:
    figure, axis = _panel(rows)
    drawn = _rows_of(rows, frame)
    _curves(axis, frame, "samples", metric, drawn, colours)
    for row in rows:
        if row not in drawn:
            axis.axhline(row.result.scores[metric].mean, linestyle=":", color=colours[row.method], lw=1.2)
    axis.set(xlabel="posterior samples M", ylabel="NLL (nats)" if metric == "nll" else metric)
    if (ratio := frame["samples"].max() / frame["samples"].min()) > 20:  # an ensemble beside a hundred samples
        axis.set_xscale("log")
        _plain_ticks(axis, ratio)
    _legend(figure, rows, colours, dotted=[row for row in rows if row not in drawn])
    return figure


def _histogram(row: Shown, score: str, sets: Sequence[str], colour: Any) -> Figure:
    figure, axis = _panel()
    named = {"test": row.arrays[f"test.{score}"], **{name: row.arrays[f"ood.{name}.{score}"] for name in sets}}
    together = torch.cat([value.flatten() for value in named.values()]).double()
    low, high = np.quantile(together.numpy(), (0.002, 0.998)).tolist()
    edges = np.linspace(low, max(high, low + 1e-6), 41)
    for i, (name, value) in enumerate(named.items()):
        share = np.histogram(value.double().numpy(), edges)[0] / value.numel()
        look = {"color": "0.15", "ls": DASHES[i % 4 - 1]} if i else {"fill": True, "color": colour, "alpha": 0.45}
        axis.stairs(share, edges, label=_shortened(name, 30), lw=1.3, **look)
    axis.set(xlabel=_words(score), ylabel="share of the examples", title=_shortened(row.label, 40))
    axis.set_yscale("function", functions=(lambda y: np.sqrt(np.maximum(y, 0)), np.square))
    axis.set_ylim(0, None)
    axis.legend(frameon=False, fontsize="small")
    return figure


def _roc(rows: Sequence[Shown], frame: DataFrame, title: str, colours: Colours) -> Figure:
    figure, axis = _panel(rows, WIDTH - 0.7)
    axis.plot([0, 1], [0, 1], "--", color=FAINT, lw=1)
    _curves(axis, frame, "false_positive_rate", "true_positive_rate", rows, colours)
    axis.set(xlim=(0, 1), ylim=(0, 1.01), xlabel="false positive rate", ylabel="true positive rate")
    axis.set_title(_shortened(title, 44))
    _legend(figure, rows, colours)
    return figure


def _cost(rows: Sequence[Shown], name: str, words: str, quality: Column, colours: Colours) -> Figure:
    figure, axis = _panel(rows)
    for row in rows:
        score = row.result.scores[quality.name]
        look = {"fmt": _marker(row), "color": colours[row.method], "ms": 6, "capsize": 2}
        axis.errorbar(_spent(row, name), score.mean, yerr=_or_none(score.standard_error), **look)
    axis.set(xscale="log", xlabel=f"seconds of {words}", ylabel=f"{quality.heading} ({quality.unit})")
    times = [_spent(row, name) for row in rows]
    _plain_ticks(axis, max(times) / min(times))
    _legend(figure, rows, colours, points=True)
    return figure


def _plain_ticks(axis: Any, ratio: float) -> None:
    """Write plain numbers on a logarithmic axis that spans this ratio."""
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if ratio < 50 else (1,)))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.xaxis.set_minor_formatter(NullFormatter())


def _curves(axis: Any, frame: DataFrame, x: str, y: str, rows: Sequence[Shown], colours: Colours) -> None:
    """Draw a line for each row: the mean over replicates, with a band of one standard error."""
    for row in rows:
        own = frame[frame["label"] == row.label].groupby(x)[y].agg(["mean", "sem"])
        colour = colours[row.method]
        axis.plot(own.index, own["mean"], _dash(row), color=colour, lw=1.5)
        axis.fill_between(own.index, own["mean"] - own["sem"], own["mean"] + own["sem"], color=colour, alpha=0.18, lw=0)


# numbers and words


def interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Return the mean and half the width of its Student interval; 0 for a single value."""
    from scipy.special import stdtrit

    count = len(values)
    if count < 2:
        return float(values[0]), 0.0
    error = float(np.std(values, ddof=1)) / count**0.5
    return float(np.mean(values)), float(stdtrit(count - 1, (1 + level) / 2)) * error


def _finite(row: Shown, metric: str) -> list[float]:
    score = row.result.scores.get(metric)
    return [value for value in score.values.values() if value == value] if score else []


def _said(row: Shown, metric: str) -> str:
    score = row.result.scores.get(metric)
    return number(score.mean, score.standard_error).text if score and score.values else ABSENT


def _spent(row: Shown, name: str) -> float:
    return sum(found.get(name, 0.0) for found in row.result.costs)


def _or_none(error: float) -> float | None:
    return error if error == error else None


def _rows_of(rows: Sequence[Shown], frame: DataFrame) -> list[Shown]:
    labels = set() if frame.empty else set(frame["label"])
    return [row for row in rows if row.label in labels]


def _words(name: str) -> str:
    return name.replace("_", " ")


def _shortened(text: str, width: int) -> str:
    """Cut a text to a width in Latin letters: a Chinese character is as wide as two."""
    return text if cell_len(text) <= width else f"{set_cell_size(text, width - 1).rstrip()}…"


def _seeds_alt(rows: Sequence[Shown], column: Column) -> str:
    said = "; ".join(f"{row.label} {_said(row, column.name)}" for row in rows)
    return f"Every replicate's {column.name} ({column.unit}): {said}."


def _ends_alt(frame: DataFrame, metric: str) -> str:
    return f"{metric} from the first group of samples to all of them: {_ends(frame, 'samples', metric)}."


def _ends(frame: DataFrame, x: str, y: str) -> str:
    """Say the mean of each row at both ends of an axis."""
    means = frame.groupby(["label", x], sort=False)[y].mean()
    said = [f"{label} {own.iloc[0]:.4g} → {own.iloc[-1]:.4g}" for label, own in means.groupby("label", sort=False)]
    return "; ".join(said)


def _medians(row: Shown, score: str, sets: Sequence[str]) -> str:
    medians = {name: float(row.arrays[f"ood.{name}.{score}"].median()) for name in sets}
    inside = float(row.arrays[f"test.{score}"].median())
    return "medians: test " + ", ".join([f"{inside:.3g}", *(f"{name} {value:.3g}" for name, value in medians.items())])
