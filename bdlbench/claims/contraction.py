"""The more data, the more certain: the posterior of the coin and of the linear model contracts as 1/√N."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from bdlbench.runs.suites import Grid, Suite
from bdlbench.stats.hypotheses import Statement, over_replicates
from bdlbench.studies.experiment import Experiment, Readings, Setup

SIZES = [30, 100, 300, 1_000, 3_000, 10_000]
SEEDS = 20
MODELS = {"coin": "coin_flips", "bayesian_linear_regression": "linear"}
WORDS = {"coin": "coin", "bayesian_linear_regression": "linear model"}

SUITE = Suite(
    title="Exact posteriors of the coin and of the linear model at growing N",
    version=1,
    seeds=SEEDS,
    samples=1,
    splits="each",
    selection="none",
    grids=tuple(
        Grid(("exact",), (model,), (dataset,), {dataset: {"num_train": SIZES}}) for model, dataset in MODELS.items()
    ),
)


def statements(measured: Readings) -> Sequence[Statement]:
    """State the slope of each model."""
    found = []
    for model, words in WORDS.items():
        sizes, spread = measured.along("dataset.num_train", "posterior_sd", model=model)  # (K,), (K, R)
        slopes = np.polyfit(np.log(sizes), np.log(spread), 1)[0]
        found.append(Statement(f"{words}: slope of log spread against log N", over_replicates(slopes), -0.55, -0.45))
    return found


def draw(measured: Readings) -> Figure:
    """Draw the spread against N."""
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    for colour, (model, words) in enumerate(WORDS.items()):
        sizes, spread = measured.along("dataset.num_train", "posterior_sd", model=model)
        axes.loglog(sizes, spread, color=f"C{colour}", alpha=0.25, linewidth=0.7)
        axes.loglog(sizes, spread.mean(1), "o-", color=f"C{colour}", label=words)
        axes.loglog(sizes, spread[0].mean() * (sizes / sizes[0]) ** -0.5, "--", color="0.5", linewidth=0.8)
    axes.set(xlabel="observations N", ylabel="posterior standard deviation")
    axes.legend(frameon=False, title="dashed: slope −1/2")
    return figure


claims = {
    "contraction": Experiment(
        title="The more data, the more certain: the posterior contracts",
        slide="Example: Bayesian Linear Regression",
        hypothesis="The spread of the posterior (root mean variance of the parameters) falls as a power of N: the "
        "slope of its logarithm against log N is between −0.55 and −0.45, where the theory of large N says −1/2.",
        paragraph="The posterior says which parameters are still plausible. Each thin line is one data set, of which a "
        "growing part is seen; the thick line is their mean. On logarithmic axes a power of N is a straight line, and "
        "the dashed line falls by a factor of ten where N grows by a hundred, as 1/√N does."
        "",
        bundled=Setup(
            SUITE,
            "The coin (uniform prior, spread of its log-odds) and the linear model (five features, prior and noise as "
            f"the data have them), {SEEDS} data sets each, drawn anew for each seed; N from {SIZES[0]} to "
            f"{SIZES[-1]:,}; the slope is fitted by least squares for each seed. Closed forms: nothing is trained.",
        ),
        changes="N begins at 30, not at 10: with fewer observations than five per parameter the prior still counts, "
        "and the linear model's slope was −0.54.",
        statements=statements,
        draw=draw,
        alt="Posterior standard deviation against the number of observations on logarithmic axes, for the coin and the "
        "linear model, with lines of slope minus one half",
    ),
}
