"""A Bayesian network is an ensemble, and costs k times as much as one network."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from bdlbench.runs.suites import Grid, Suite
from bdlbench.stats.hypotheses import Statement, over_replicates, over_splits
from bdlbench.studies.experiment import Experiment, Readings, Setup

MEMBERS = [1, 2, 4, 8]
EPOCHS = 100  # of 7 steps: a member alone is a trained network, so more steps are no mere convergence
WORDS = {"mle": "one network", "deep_ensemble": "deep ensemble", "mean_field_vi": "mean-field VI"}
SPLIT = 450 / 500
WIDTH, TIMED = 50, [10, 20, 100, 200]
SHORT = 20  # epochs of what is only timed
MARGIN = 0.05  # nats
RATE = {"learning_rate": [3e-3]}

SUITE = Suite(
    title="One network, ensembles and one posterior on digits at equal numbers of gradient steps",
    version=1,
    seeds=5,
    samples=1,
    splits="each",
    selection="none",
    options={"digits": {"num_train": [500]}},
    grids=(
        Grid(
            ("deep_ensemble",),
            ("mlp",),
            ("digits",),
            {
                "mlp": {"widths": [(WIDTH,)]},
                "deep_ensemble": {"members": MEMBERS},
                "mle": {"epochs": [EPOCHS], **RATE},
            },
        ),
        Grid(
            ("deep_ensemble",),
            ("mlp",),
            ("digits",),
            {
                "mlp": {"widths": [(width,) for width in TIMED]},
                "deep_ensemble": {"members": [MEMBERS[0], MEMBERS[-1]]},
                "mle": {"epochs": [SHORT], **RATE},
            },
        ),
        *(
            Grid(
                (method,),
                ("mlp",),
                ("digits",),
                {"mlp": {"widths": [(WIDTH,)]}, method: {"epochs": [EPOCHS * count], **RATE}},
                samples=count,
            )
            for count in MEMBERS
            for method in ("mle", "mean_field_vi")
        ),
    ),
)


def _cell(method: str, count: int) -> dict[str, object]:
    """Return the columns of the cell that has the cost of `count` members."""
    return {"method": method, "model__widths": (WIDTH,)} | (
        {"method__members": count} if method == "deep_ensemble" else {"method__epochs": EPOCHS * count}
    )


def _along(measured: Readings, metric: str, method: str) -> NDArray[np.float64]:
    """Return a metric for each number of members, (K, R)."""
    return np.array([measured.values(metric, **_cell(method, count)) for count in MEMBERS])


def statements(measured: Readings) -> Sequence[Statement]:
    """State what averages gain at equal cost, and how the cost grows."""
    single, ensemble, posterior = (_along(measured, "nll", method)[-1] for method in WORDS)  # (R,) each
    most = MEMBERS[-1]
    timed = measured.where(method="deep_ensemble")
    seconds = [
        [timed.cost("train_seconds", model__widths=(width,), method__members=count) for count in (1, most)]
        for width in (*TIMED, WIDTH)
    ]
    exponents = np.diff(np.log(seconds))[:, 0] / np.log(most)  # (widths,)
    return [
        Statement(
            f"NLL of mean-field VI minus one network, cost {most}",
            over_splits(posterior - single, SPLIT),
            high=0.0,
            unit="nats",
        ),
        Statement(
            f"NLL of a deep ensemble minus one network, cost {most}",
            over_splits(ensemble - single, SPLIT),
            high=0.0,
            unit="nats",
        ),
        Statement(
            f"NLL of mean-field VI minus a deep ensemble, cost {most}",
            over_splits(posterior - ensemble, SPLIT),
            high=MARGIN,
            unit="nats",
        ),
        Statement("exponent of an ensemble's training time in its members", over_replicates(exponents), 0.8, 1.2),
    ]


def draw(measured: Readings) -> Figure:
    """Draw accuracy and NLL against cost, and the measured time."""
    figure = Figure(figsize=(6.4, 3.2), layout="constrained")
    panels = {"accuracy": "accuracy", "nll": "test NLL (nats)", "": "training (seconds)"}
    for axes, (metric, label) in zip(figure.subplots(1, 3), panels.items(), strict=True):
        for colour, (method, words) in enumerate(WORDS.items()):
            if metric:
                values = _along(measured, metric, method)
                error = values.std(1, ddof=1) / values.shape[1] ** 0.5
                axes.errorbar(MEMBERS, values.mean(1), error, fmt="o-", color=f"C{colour}", label=words)
            else:
                seconds = [measured.cost("train_seconds", **_cell(method, count)) for count in MEMBERS]
                axes.loglog(MEMBERS, seconds, "o-", color=f"C{colour}")
        axes.set(xlabel="cost (members)", ylabel=label, xscale="log")
        axes.set_xticks(MEMBERS, map(str, MEMBERS))
        axes.minorticks_off()
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return figure


claims = {
    "ensembles": Experiment(
        title="A Bayesian network is an ensemble, and costs k times as much as one network",
        slide="Bayesian Neural Networks: Conclusion",
        hypothesis=f"At the cost of {MEMBERS[-1]} networks, mean-field VI and a deep ensemble both have a lower test "
        f"NLL than one network trained as long; mean-field VI is at most {MARGIN} nats worse than the ensemble; and "
        "the ensemble's training time grows as a power of its members between 0.8 and 1.2.",
        paragraph="Learning a distribution over networks is, in the lecture's words, training a whole ensemble, at k "
        "times the cost of one. Here the cost is the number of gradient steps of a network. It can be spent on k "
        "networks from different starts whose predictions are averaged (deep ensemble), on one network trained k "
        "times as long, or on one posterior trained k times as long and predicted by k samples (mean-field VI). A "
        "network that trains on becomes sure of itself: accuracy hardly moves while NLL rises, and averaging "
        "prevents that. Mean-field VI starts as almost one network; its noise grows first, and its line shows how "
        "long the means take to follow. Right: the measured time. Members are rows of one batch here, so a small "
        "ensemble costs less than its members one by one.",
        bundled=Setup(
            SUITE,
            f"Digits, five stratified splits with 500 training and 450 test examples; a network with {WIDTH} hidden "
            f"units; {EPOCHS} epochs for each member, Adam at 0.003; 1 to {MEMBERS[-1]} members. The exponent "
            f"compares {MEMBERS[-1]} members with one at five widths from {TIMED[0]} to {TIMED[-1]}, its replicates; "
            f"all but {WIDTH} are trained for {SHORT} epochs, for the time alone.",
        ),
        changes="15 epochs on all data became 100 epochs on 500 examples, because members were trained too little; "
        "the statement that mean-field VI is within 0.05 nats of the ensemble went from shown to refuted, and "
        "two others from refuted to open.",
        statements=statements,
        draw=draw,
        alt="Accuracy, test NLL and training time against cost in networks, for one network, a deep ensemble and "
        "mean-field VI",
    ),
}
