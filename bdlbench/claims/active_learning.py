"""Data are collected where the posterior is unsure: labels bought by its scores are worth more than random ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from bdlbench.runs.suites import Grid, Suite
from bdlbench.stats.hypotheses import Statement, over_splits
from bdlbench.studies.experiment import Experiment, Readings, Setup

START, STEP, ROUNDS = 20, 10, [0, 2, 4, 8]
WORDS = {"bald": "BALD (mutual information)", "entropy": "entropy", "random": "at random"}
TEST_OVER_TRAIN = 450 / 1347

SUITE = Suite(
    title="Active learning on digits by MC dropout: BALD, entropy and random acquisition",
    version=1,
    seeds=8,
    samples=20,
    splits="each",
    selection="none",
    grids=(Grid(("active",), ("mlp",), ("digits",)),),
    options={
        "active": {"acquisition": list(WORDS), "start": [START], "step": [STEP], "rounds": ROUNDS},
        "mc_dropout": {"steps": [400], "batch_size": [20], "learning_rate": [3e-3], "rate": [0.25], "input_rate": [0]},
    },
)


def statements(measured: Readings) -> Sequence[Statement]:
    """State what each score gains over random labels, on average over the budgets."""
    bought = {
        name: measured.along("method.rounds", "accuracy", method__acquisition=name)[1][1:].mean(0) for name in WORDS
    }
    return [
        Statement(
            f"accuracy with labels bought by {name} less that with random ones",
            over_splits(100 * (bought[name] - bought["random"]), TEST_OVER_TRAIN),
            low=0.0,
            unit="points",
        )
        for name in ("bald", "entropy")
    ]


def draw(measured: Readings) -> Figure:
    """Draw accuracy against labels bought."""
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    for colour, (name, words) in enumerate(WORDS.items()):
        rounds, accuracy = measured.along("method.rounds", "accuracy", method__acquisition=name)
        labels, points = START + STEP * rounds, 100 * accuracy
        axes.plot(labels, points, color=f"C{colour}", alpha=0.2, linewidth=0.7)
        axes.plot(labels, points.mean(1), "os^"[colour] + "-", color=f"C{colour}", label=words)
    axes.set(xlabel="labels bought", ylabel="test accuracy in %", xticks=np.array(ROUNDS) * STEP + START)
    figure.legend(frameon=False, loc="outside upper left", ncols=3)
    return figure


claims = {
    "active_learning": Experiment(
        title="Data are collected where the posterior is unsure",
        slide="The Bayesian Workflow",
        hypothesis="With 40, 60 and 100 labels, a network whose labels were bought by the mutual information of its "
        "posterior (BALD) is more accurate, on average over these budgets, than one whose labels were drawn at random; "
        "so is one whose labels were bought by predictive entropy.",
        paragraph="The last step of the Bayesian workflow collects more data to improve our beliefs; a posterior says "
        "where. A network with MC dropout starts with the same 20 labelled digits for each way of buying. Then ten "
        "labels at a time are bought where its score is highest, and it is trained again. Entropy asks where the "
        "prediction is open for whatever reason; BALD asks where samples of the posterior disagree, so that a label "
        "tells which of them are right. Random labels are what one gets without asking a posterior. Thin lines are "
        "splits, thick ones their means. A curve above that of random labels needs fewer labels for the same accuracy; "
        "one below it buys labels that tell the network less, as a posterior of few labels may: it can be unsure "
        "for the wrong reasons, and the ten images that it is least sure of may be much alike.",
        bundled=Setup(
            SUITE,
            "8×8 digits, eight splits of 1,347 training images, whose labels count as unknown until they are bought; a "
            "network with 100 hidden units and MC dropout (rate 0.25, 400 steps), 20 samples for a score. Nothing was "
            "searched for.",
        ),
        changes="The stream of the starting labels; the verdict was the same before. The end of the paragraph, on why "
        "a curve may lie below random, was written after the first figure.",
        statements=statements,
        draw=draw,
        alt="Test accuracy against the number of labels bought, by BALD, by entropy and at random",
    ),
}
