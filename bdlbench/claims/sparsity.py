"""A prior that encourages large alpha zeroes redundant weights: sparse variational dropout against width."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from bdlbench.runs.suites import Grid, Suite
from bdlbench.stats.hypotheses import Statement, over_splits
from bdlbench.studies.experiment import Experiment, Readings, Setup

WIDTHS = [10, 20, 50, 100, 200]
WEIGHTS = np.array([(64 + 10) * width for width in WIDTHS])
SPLIT = 450 / 1_347
HALF, MATTERS, WORKS = 0.5, 0.01, 0.02

SUITE = Suite(
    title="Sparse variational dropout on digits at growing width",
    version=1,
    seeds=5,
    samples=30,
    splits="each",
    selection="none",
    options={
        "mlp": {"widths": [(width,) for width in WIDTHS]},
        "sparse_vd": {"epochs": [60], "learning_rate": [1e-2], "predicting": ["remaining", "all"]},
        "mle": {"epochs": [60], "learning_rate": [3e-3]},
    },
    grids=(Grid(("sparse_vd", "mle"), ("mlp",), ("digits",)),),
)


def _along(measured: Readings, metric: str, **columns: object) -> NDArray[np.float64]:
    """Return a metric for each width, (K, R)."""
    return np.array([measured.values(metric, model__widths=(width,), **columns) for width in WIDTHS])


def statements(measured: Readings) -> Sequence[Statement]:
    """State how sparsity grows, and that what is removed did not matter."""
    sparsity = _along(measured, "sparsity", method__predicting="remaining")
    after, before = (_along(measured, "accuracy", method__predicting=which) for which in ("remaining", "all"))
    dense = _along(measured, "accuracy", method="mle")
    remaining = np.log((1 - sparsity) * WEIGHTS[:, None])  # (K, R)
    exponent = np.polyfit(np.log(WEIGHTS), remaining, 1)[0]
    return [
        Statement("exponent of remaining weights in weights", over_splits(exponent, SPLIT), high=1.0),
        Statement(f"sparsity at width {WIDTHS[-1]}", over_splits(sparsity[-1], SPLIT), low=HALF),
        Statement(
            f"accuracy of one dense network minus the sparse one's, width {WIDTHS[-1]}",
            over_splits(dense[-1] - after[-1], SPLIT),
            high=WORKS,
        ),
        *(
            Statement(
                f"accuracy after minus before removal, width {width}", over_splits(gain, SPLIT), -MATTERS, MATTERS
            )
            for width, gain in zip(WIDTHS, after - before, strict=True)
        ),
    ]


def draw(measured: Readings) -> Figure:
    """Draw what remains, and the accuracy, against the number of weights."""
    figure = Figure(figsize=(6.4, 3.4), layout="constrained")
    kept, right = figure.subplots(1, 2)
    remaining = (1 - _along(measured, "sparsity", method__predicting="remaining")) * WEIGHTS[:, None]
    kept.loglog(WEIGHTS, WEIGHTS, "--", color="0.5", label="all weights")
    kept.loglog(WEIGHTS, remaining, color="C0", alpha=0.3, linewidth=0.7)
    kept.loglog(WEIGHTS, remaining.mean(1), "o-", color="C0", label="remaining")
    kept.set(xlabel="weights of the network", ylabel="weights that remain")
    kept.legend(frameon=False)
    series = {
        "dense": ({"method": "mle"}, "s-", "C2"),
        "all weights": ({"method__predicting": "all"}, "o-", "C1"),
        "remaining": ({"method__predicting": "remaining"}, "x--", "C0"),
    }
    for words, (columns, style, colour) in series.items():
        values = _along(measured, "accuracy", **columns)
        error = values.std(1, ddof=1) / values.shape[1] ** 0.5
        right.errorbar(WEIGHTS, values.mean(1), error, fmt=style, color=colour, label=words)
    right.set(xlabel="weights of the network", ylabel="accuracy", xscale="log")
    right.legend(frameon=False, loc="lower right")
    return figure


claims = {
    "sparsity": Experiment(
        title="A prior that encourages large alpha zeroes redundant weights",
        slide="Sparse Bayesian Neural Networks",
        hypothesis="The number of weights that remain grows more slowly than the number of weights (exponent below "
        f"1); at width {WIDTHS[-1]} more than half of them are zeroed, and the network that is left loses less than "
        f"{WORKS} of accuracy against a dense one; and at every width the removal itself changes accuracy by less "
        f"than {MATTERS}.",
        paragraph="Sparse variational dropout gives every weight its own noise, of variance α times its square, "
        "under a prior that prefers much noise. A weight that predictions do not need is left to the noise, and "
        "where log α is above 3 it is set to zero. A wider network has more weights than the task needs. Left: how "
        "many remain, against how many there were; on the dashed line nothing is removed, and a flat line would mean "
        "that the task alone decides how many are needed. Right: if such weights really do nothing, predictions with "
        "all weights, each with its mean and its noise, and with the remaining ones are equally good. The dense "
        "network says what a network without any of this reaches.",
        bundled=Setup(
            SUITE,
            "Digits, five stratified splits; one hidden layer of 10 to 200 units; 60 epochs of Adam at 0.01 (dense: "
            "0.003), falling linearly for the sparse one; 30 samples. The same training, predicted with all weights "
            "and with those below the threshold.",
        ),
        statements=statements,
        draw=draw,
        alt="Weights that remain against weights of the network on logarithmic axes, and accuracy before and after "
        "removal",
    ),
}
