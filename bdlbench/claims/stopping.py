"""A network can learn when to stop: it goes deeper for difficult images, and saves work without losing accuracy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from bdlbench.runs.suites import Grid, Suite
from bdlbench.stats.hypotheses import Statement, over_splits
from bdlbench.studies.experiment import Experiment, Readings, Setup

BLOCKS = 4
DEPTHS = [1, 2, 4]
STRENGTHS = [0.03, 0.1]
JUDGED = 0.03
"""The strength of the prior that the hypothesis is about; the others are drawn."""
TEST_OVER_TRAIN = 450 / 1347
DIFFICULTY = {"error": "is wrong after all layers", "entropy": "is ambiguous after all layers (entropy)"}

SUITE = Suite(
    title="A residual network that stops by itself beside networks of fixed depth, on digits",
    version=1,
    seeds=6,
    samples=1,
    splits="each",
    selection="none",
    grids=(Grid(("map",), ("stopping_resnet", "constant_resnet"), ("digits",)),),
    options={
        "map": {"epochs": [20], "learning_rate": [3e-3], "decay": ["linear"], "prior_sd": [0.3]},
        "stopping_resnet": {
            "blocks": [BLOCKS],
            "kernel": [3],
            "strength": STRENGTHS,
            "entropy_weight": [0.009],
            "exploration": [0.5],
            "first_halting": [-3.0],
        },
        "constant_resnet": {"blocks": DEPTHS, "kernel": [3]},
    },
)


def fixed(measured: Readings) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return FLOPs (K,) and accuracies (K, R) of the networks of fixed depth, ascending."""
    flops = measured.along("model.blocks", "flops", model="constant_resnet")[1]
    _, accuracy = measured.along("model.blocks", "accuracy", model="constant_resnet")
    return flops.mean(1), accuracy


def statements(measured: Readings) -> Sequence[Statement]:
    """State the correlations with difficulty, the work, and the accuracy beside fixed depths."""
    stops = measured.where(model="stopping_resnet", model__strength=JUDGED)
    found = [
        Statement(
            f"rank correlation of an image's depth with how much it {words}",
            over_splits(stops.values(f"depth_by_difficulty[{name}]"), TEST_OVER_TRAIN),
            low=0.0,
        )
        for name, words in DIFFICULTY.items()
    ]
    flops, accuracy = fixed(measured)
    own = stops.values("accuracy")
    equal = [np.interp(work, flops, one) for work, one in zip(stops.values("flops"), accuracy.T, strict=True)]
    return [
        *found,
        Statement(
            "FLOPs over those of all layers", over_splits(stops.values("flops_fraction"), TEST_OVER_TRAIN), high=0.6
        ),
        Statement(
            "accuracy less that of all layers for every image",
            over_splits(100 * (own - accuracy[-1]), TEST_OVER_TRAIN),
            low=-1.0,
            unit="points",
        ),
        Statement(
            "accuracy less that of a fixed depth of the same FLOPs",
            over_splits(100 * (own - equal), TEST_OVER_TRAIN),
            low=-1.0,
            unit="points",
        ),
    ]


def draw(measured: Readings) -> Figure:
    """Draw accuracy against compute, and the correlation of depth with difficulty."""
    figure = Figure(figsize=(6.4, 3.4), layout="constrained")
    curve, ranks = figure.subplots(1, 2, width_ratios=[3, 2])
    flops, accuracy = fixed(measured)
    stopping = measured.where(model="stopping_resnet")
    work = stopping.along("model.strength", "flops")[1]
    own = stopping.along("model.strength", "accuracy")[1]
    for colour, words, x, y in (("C0", "fixed depth", flops, accuracy), ("C1", "stops by itself", work.mean(1), own)):
        error = y.std(1, ddof=1) / np.sqrt(y.shape[1])
        curve.errorbar(np.array(x) / 1e6, 100 * y.mean(1), 100 * error, fmt="o-", color=colour, capsize=2, label=words)
    curve.set(xlabel="MFLOPs per image", ylabel="test accuracy in %")
    figure.legend(frameon=False, loc="outside upper left", ncols=2)
    for place, name in enumerate(DIFFICULTY):
        values = stopping.values(f"depth_by_difficulty[{name}]", model__strength=JUDGED)
        ranks.plot(np.full(len(values), place), values, "o", color="C1", alpha=0.5)
        ranks.plot([place - 0.2, place + 0.2], [np.nanmean(values)] * 2, color="C1", linewidth=2)
    ranks.axhline(0, color="0.5", linewidth=0.8, linestyle="--")
    ranks.set(xlim=(-0.5, 1.5), ylabel="rank correlation with depth")
    ranks.set_xticks([0, 1], ["error after\nall layers", "entropy after\nall layers"])
    return figure


claims = {
    "stopping": Experiment(
        title="A network can learn when to stop, and drop computations for easy inputs",
        slide="Bayesian Control Flow",
        hypothesis="The depth that a network chooses for an image correlates positively (rank correlation) with the "
        "error and with the entropy of its own prediction after all layers; it takes at most 60 % of the FLOPs of all "
        "layers; and its accuracy is at most 1 point below that of a network that uses all layers for every image, and "
        "at most 1 point below that of a fixed depth of the same FLOPs.",
        paragraph="The number of layers is a latent variable with a prior that prefers few, and the network infers it "
        "anew for each image. If it learns when to stop, it stops late where an image is difficult. Difficulty is read "
        "after the last layer, where stopping has no say: is the class wrong there, and how ambiguous is it? On the "
        "left, every point is a network: those of fixed depth spend the same on each image, the others have priors of "
        "different strength, and bars are one standard error over splits. A point above the line of fixed depths "
        "spends its work where it helps; one on the line gains nothing by choosing. On the right, each dot is a split "
        "and the bar their mean: above zero, harder images go deeper. A depth of few values cannot reach one.",
        bundled=Setup(
            SUITE,
            f"8×8 digits, six splits, MAP for 20 epochs; at most {BLOCKS} layers; priors of strength 0.03 (judged) and "
            "0.1 nats for each layer, beside fixed depths of 1, 2 and 4 layers. FLOPs are 2×MAC, halting decisions "
            "included. The options are those that the suite `stopping` chose on training images of MNIST, but for the "
            "number of epochs and the width of the first kernel.",
        ),
        changes="A third strength of the penalty, which no statement uses, was dropped after the run.",
        statements=statements,
        draw=draw,
        alt="Left: test accuracy against MFLOPs per image for fixed depths and for networks that stop by themselves. "
        "Right: rank correlation of an image's depth with its error and its entropy after all layers, by split",
    ),
}
