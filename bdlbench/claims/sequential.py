"""A posterior is a useful prior for the next task: beliefs are updated as data arrive, and nothing is forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from numpy.typing import NDArray

from bdlbench.runs.suites import Grid, Suite
from bdlbench.stats.hypotheses import Statement, over_replicates, over_splits
from bdlbench.studies.experiment import Experiment, Readings, Setup

SEEDS, CHUNK, STEPS = 5, 130, 200
CHUNKS = [1, 2, 5, 10]
SPLIT = 450 / 1_347
EXACTLY = 1e-6  # nats
WORDS = {"mean_field_vi": "mean-field VI", "mle": "MLE"}
TRAINING: dict[str, dict[str, list[Any]]] = {
    "mean_field_vi": {"learning_rate": [1e-2], "initial_log_sd": [-3.0], "decay": ["linear"]},
    "mle": {"learning_rate": [3e-3], "decay": ["linear"]},
}


def _grid(methods: tuple[str, ...], chunks: int, steps: int, **options: list[Any]) -> Grid:
    """Return networks on the first examples of so many chunks, each fit of so many steps."""
    given: dict[str, dict[str, list[Any]]] = {name: {**own, "steps": [steps]} for name, own in TRAINING.items()}
    if options:
        given["sequential"] = {"base": list(WORDS), "chunks": [chunks], **options}
    return Grid(methods, ("mlp",), ("digits",), {**given, "digits": {"num_train": [CHUNK * chunks]}})


SUITE = Suite(
    title="Posteriors of chunks that arrive one after the other, and of all data at once",
    version=1,
    seeds=SEEDS,
    samples=30,
    splits="each",
    selection="none",
    grids=(
        Grid(
            ("sequential",),
            ("bayesian_linear_regression",),
            ("linear",),
            {"linear": {"num_train": [200]}, "sequential": {"base": ["exact"], "chunks": [CHUNKS[-1]]}},
        ),
        *(_grid(tuple(WORDS), count, STEPS * count) for count in CHUNKS),
        *(_grid(("sequential",), count, STEPS, order=["random"]) for count in CHUNKS[1:]),
        _grid(("sequential",), CHUNKS[-1], STEPS, order=["by_class"]),
    ),
)


def _at_once(measured: Readings, metric: str, method: str, chunks: int) -> NDArray[np.float64]:
    """Return a metric of training on so many chunks at once, (R,)."""
    return measured.values(metric, method=method, dataset="digits", dataset__num_train=CHUNK * chunks)


def _updated(
    measured: Readings, metric: str, method: str, chunks: int = CHUNKS[-1], order: str = "random"
) -> NDArray[np.float64]:
    """Return a metric of training on so many chunks one after the other, (R,); one chunk is all at once."""
    if chunks == 1:
        return _at_once(measured, metric, method, 1)
    cells = measured.where(method="sequential", dataset="digits", dataset__num_train=CHUNK * chunks)
    return cells.values(metric, method__base=method, method__order=order)


def statements(measured: Readings) -> Sequence[Statement]:
    """State what the exact posterior, a mean-field one and a point keep of earlier chunks."""
    divergence = measured.values("posterior_kl", method="sequential", dataset="linear")
    first, last = (_at_once(measured, "nll", "mean_field_vi", count) for count in (1, CHUNKS[-1]))
    nll = {order: _updated(measured, "nll", "mean_field_vi", order=order) for order in ("random", "by_class")}
    point = {order: _updated(measured, "nll", "mle", order=order) for order in nll}
    sorted_accuracy = _updated(measured, "accuracy", "mean_field_vi", order="by_class")
    accuracy = _at_once(measured, "accuracy", "mean_field_vi", CHUNKS[-1])
    return [
        Statement(
            "linear model: KL of the posterior by chunks from that of all data",
            over_replicates(divergence),
            high=EXACTLY,
            unit="nats",
        ),
        Statement(
            "network, random chunks: NLL above halfway from one chunk to all data",
            over_splits(nll["random"] - (first + last) / 2, SPLIT),
            high=0.0,
            unit="nats",
        ),
        Statement(
            "network, random chunks: NLL of a point that trains on, above mean-field VI",
            over_splits(point["random"] - nll["random"], SPLIT),
            low=0.0,
            unit="nats",
        ),
        Statement(
            "network, chunks by class: NLL of a point that trains on, above mean-field VI",
            over_splits(point["by_class"] - nll["by_class"], SPLIT),
            low=0.0,
            unit="nats",
        ),
        Statement(
            "network, chunks by class: accuracy of mean-field VI above half of that at once",
            over_splits(100 * (sorted_accuracy - accuracy / 2), SPLIT),
            low=0.0,
            unit="points",
        ),
    ]


def draw(measured: Readings) -> Figure:
    """Draw the NLL against the examples seen, and the accuracy after all chunks."""
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    course, after = figure.subplots(1, 2)
    seen = CHUNK * np.array(CHUNKS)
    ways = {"all at once": ("s--", _at_once), "chunk by chunk": ("o-", _updated)}
    for colour, (method, words) in enumerate(WORDS.items()):
        for way, (style, of) in ways.items():
            nll = np.array([of(measured, "nll", method, count) for count in CHUNKS])  # (K, R)
            error = nll.std(1, ddof=1) / nll.shape[1] ** 0.5
            course.errorbar(seen, nll.mean(1), error, fmt=style, color=f"C{colour}", label=f"{words}, {way}")
        shown = (
            _at_once(measured, "accuracy", method, CHUNKS[-1]),
            _updated(measured, "accuracy", method),
            _updated(measured, "accuracy", method, order="by_class"),
        )
        for place, values in enumerate(shown):
            at = place - 0.12 + 0.24 * colour
            after.plot(
                np.full(len(values), at), 100 * values, "os"[colour], color=f"C{colour}", alpha=0.5, markersize=5
            )
    course.set(xlabel="training examples seen", ylabel="test NLL (nats)", xscale="log", yscale="log")
    course.set_xticks(seen, [f"{place:,}" for place in seen])
    course.set_yticks([0.1, 0.2, 0.4], ["0.1", "0.2", "0.4"])
    for axis in (course.xaxis, course.yaxis):
        axis.set_minor_formatter(NullFormatter())
    after.axhline(10, color="0.5", linewidth=0.8, linestyle=":")
    after.text(-0.4, 11, "chance", fontsize=8, color="0.4")
    after.set(ylabel=f"test accuracy after {CHUNKS[-1]} chunks (%)", ylim=(0, 103), xlim=(-0.5, 2.5))
    after.set_xticks(range(3), ["all at once", "random\nchunks", "chunks\nby class"])
    figure.legend(*course.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    return figure


claims = {
    "sequential": Experiment(
        title="A posterior is a useful prior for the next task: beliefs are updated as data arrive",
        slide="The Bayesian Workflow",
        hypothesis=f"Data come in {CHUNKS[-1]} chunks, and the posterior of each is the prior of the next. For the "
        f"linear model the last posterior is that of all data, to {EXACTLY:g} nats of KL. For a network with "
        "mean-field VI on randomly drawn chunks the test NLL comes more than half of the way from one chunk alone to "
        "all data at once. It is lower than that of maximum likelihood that trains on, chunk by chunk, whether chunks "
        "are random or sorted by class; and with sorted ones more than half of the accuracy of all data at once is "
        "left.",
        paragraph="The rules of probability do not mind in which portions data arrive: yesterday's posterior is "
        "today's prior, and the data of yesterday can be thrown away. With closed forms that is exactly so. A network "
        "has only an approximate posterior, and what the approximation loses at each portion is lost for good. Left: "
        "the test NLL as more and more examples have been seen, all at once (dashed) or chunk by chunk (solid); where "
        "the solid line follows the dashed one, nothing is lost. A point estimate can only go on training on the "
        "newest chunk from the last weights, since it does not know which of them it may change. Right: the accuracy "
        "after all chunks, each mark a split. With chunks by class each chunk is a new task, one digit after the "
        "other, and whoever learns the last one alone forgets the others. A mean-field posterior is known to hold "
        "most weights too loosely to prevent that, unless each task has an output of its own (Farquhar & Gal 2018).",
        bundled=Setup(
            SUITE,
            f"The linear model with five features, 200 examples drawn anew for each of {SEEDS} seeds, exactly. Digits, "
            f"{SEEDS} stratified splits, {CHUNK} examples in a chunk; a network with 50 hidden units, {STEPS} steps of "
            f"Adam for each chunk, falling to 0 from 0.01 (mean-field VI) or 0.003 (MLE), and as many in all at once; "
            "30 samples. Splits share training examples, so variances are those of Nadeau & Bengio.",
        ),
        statements=statements,
        draw=draw,
        alt="Left: test NLL against training examples seen, all at once and chunk by chunk, for mean-field VI and MLE. "
        "Right: test accuracy after ten chunks, all at once, random and by class",
    ),
}
