"""M samples cost M times as much, and a single sample already works."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from bdlbench.runs.suites import Grid, Suite
from bdlbench.stats.hypotheses import Statement, over_replicates, over_splits
from bdlbench.studies.experiment import Experiment, Readings, Setup

COUNTS = [1, 3, 10, 30, 100, 300, 1_000]
TIMED = 30  # below it a prediction costs more than its samples
WORDS = {
    "mean_field_vi": "mean-field VI",
    "mc_dropout": "MC dropout",
    "gaussian_dropout": "Gaussian dropout",
    "dropconnect": "DropConnect",
}
SPLIT = 450 / 1_347
LOSS = 0.05
TRAINING: dict[str, list[Any]] = {"epochs": [15], "learning_rate": [3e-3]}
PANELS = {"accuracy": "accuracy", "nll": "NLL (nats)", "ece": "ECE", "": "prediction (seconds)"}

SUITE = Suite(
    title="Four posteriors of networks on digits, predicted by 1 to 1,000 samples",
    version=1,
    seeds=5,
    samples=1,
    splits="each",
    selection="none",
    options={
        "mlp": {"widths": [(20,)]},
        "mean_field_vi": TRAINING,
        "mc_dropout": {**TRAINING, "rate": [0.2], "input_rate": [0.0]},
        "gaussian_dropout": {**TRAINING, "rate": [0.2], "input_rate": [0.0]},
        "dropconnect": {**TRAINING, "rate": [0.1]},
    },
    grids=tuple(Grid(tuple(WORDS), ("mlp",), ("digits",), samples=count) for count in COUNTS),
)


def statements(measured: Readings) -> Sequence[Statement]:
    """State how time grows, and what one sample loses."""
    counts = sorted(measured.frame.samples.unique())
    timed = [count for count in counts if count >= TIMED]
    seconds = [[measured.cost("predict_seconds", method=m, samples=count) for m in WORDS] for count in timed]
    slopes = np.polyfit(np.log(timed), np.log(seconds), 1)[0]  # (methods,)
    found = [Statement(f"slope of log time against log M, M ≥ {TIMED}", over_replicates(slopes), 0.8, 1.2)]
    for method, words in WORDS.items():
        accuracy = [measured.values("accuracy", method=method, samples=count) for count in (counts[0], counts[-1])]
        found.append(
            Statement(
                f"{words}: accuracy of {counts[-1]:,} samples minus that of {counts[0]}",
                over_splits(accuracy[1] - accuracy[0], SPLIT),
                high=LOSS,
            )
        )
    return found


def draw(measured: Readings) -> Figure:
    """Draw three metrics and the time against M."""
    figure = Figure(figsize=(6.4, 5.2), layout="constrained")
    counts = sorted(measured.frame.samples.unique())
    for axes, (metric, label) in zip(figure.subplots(2, 2).flat, PANELS.items(), strict=True):
        for colour, (method, words) in enumerate(WORDS.items()):
            cells = [{"method": method, "samples": count} for count in counts]
            if metric:
                values = np.array([measured.values(metric, **cell) for cell in cells])  # (K, R)
                axes.plot(counts, values, color=f"C{colour}", alpha=0.2, linewidth=0.7)
                axes.plot(counts, values.mean(1), "o-", color=f"C{colour}", label=words)
            else:
                axes.plot(
                    counts, [measured.cost("predict_seconds", **cell) for cell in cells], "o-", color=f"C{colour}"
                )
        axes.set(xlabel="samples M", ylabel=label, xscale="log", yscale="linear" if metric else "log")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return figure


claims = {
    "samples": Experiment(
        title="M samples cost M times as much, and a single sample already works",
        slide="Bayesian Neural Networks: Conclusion",
        hypothesis=f"Prediction time is a power of M for M ≥ {TIMED}, with an exponent between 0.8 and 1.2, and of "
        f"every method one sample loses less than {LOSS} of accuracy against 1,000.",
        paragraph="The predictive distribution of a Bayesian network is an average over networks drawn from the "
        "posterior, and each of them predicts by itself. The lecture says that using the ensemble is costly, and "
        "that a single network, one sample, also works. Thin lines are splits of the data, thick ones their means. "
        "How far the first point is from the last says how far samples disagree: hardly for a narrow posterior, much "
        "where units are dropped. Most of the gain comes with the first ten samples, since the error of an average "
        "falls as 1/M. An average is also less sure than its samples; where these were unsure enough already, as in "
        "a network that is trained briefly under much noise, calibration (ECE) suffers from it. Time grows with M as "
        "soon as there is more of it than overhead.",
        bundled=Setup(
            SUITE,
            "Digits, five stratified splits; a network with 20 hidden units, 15 epochs of Adam at 0.003; dropout of "
            "hidden units at 0.2, of weights (DropConnect) at 0.1. Training is repeated for each M, to the same "
            "bits. Time is that of all splits together, with the out-of-distribution set; the four methods are the "
            "replicates of its slope.",
        ),
        changes="500 examples for 40 epochs became all 1,347 for 15; the verdict went from inconclusive to does not "
        "hold.",
        statements=statements,
        draw=draw,
        alt="Accuracy, NLL, ECE and prediction time against the number of posterior samples, for four methods",
    ),
}
