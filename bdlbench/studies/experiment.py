"""What a claim is: a hypothesis, fixed before any number is seen, and the experiment that could refute it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from pandas import DataFrame

from bdlbench.core.errors import BadInput
from bdlbench.runs.suites import Suite
from bdlbench.stats.hypotheses import Statement

SLIDES = (
    "Why go Bayesian?",
    "The Bayesian Workflow",
    "Probability Theory 101",
    "Bayesian Machine Learning 101",
    "Example: Bayesian Linear Regression",
    "Another Example: Coin Tossing",
    "Asymptopia Example",
    "Ok, but why",
    "Bayesian Hardship",
    "Bayesian Neural Networks",
    "Bayesian Generative Modeling",
    "Bayesian Control Flow",
    "Variational Inference",
    "Gradient-Based Variational Inference",
    "Dropout as a Bayesian Procedure",
    "Sparse Bayesian Neural Networks",
    "Reparametrization Trick",
    "Bayesian Neural Networks: Conclusion",
    "Bayesian Generative Models",
    "Variational Inference to the rescue",
    "What this all was for",
)
"""The slides of the lecture that claim something, in its order."""


class NotMeasured(BadInput):
    """A claim reads a metric that failed in one of its cells: the experiment is incomplete."""


@dataclass(frozen=True)
class Readings:
    """The numbers of a claim's records.

    Attributes:
        frame: A row for each cell, replicate and metric, and for each cell and cost, as `api.read` returns it: columns
            cell, method, model, dataset, samples, seed, split, metric, value, and each option, such as
            dataset.num_train.
        failed: Why a metric has no values, by (cell, metric's name), where it raised.
    """

    frame: DataFrame
    failed: Mapping[tuple[str, str], str] = field(default_factory=dict)

    def where(self, **columns: Any) -> Readings:
        """Return the rows whose columns have these values; `dataset__num_train` stands for dataset.num_train."""
        kept = self.frame
        for name, value in columns.items():
            column = kept[name.replace("__", ".")]
            kept = kept[[found == value for found in column]]  # one by one: a value may be a tuple, such as widths
        return replace(self, frame=kept)

    def values(self, metric: str, **columns: Any) -> NDArray[np.float64]:
        """Return a metric of the one cell whose columns have these values.

        Args:
            metric: The metric's column, such as nll.
            **columns: As for `where`.

        Returns:
            (R,) by seed; NaN where a number was not finite.

        Raises:
            NotMeasured: The metric failed in that cell.
            BadInput: There is no such cell, or more than one.
        """
        found = self._measured(metric, columns)
        said = ", ".join([metric, *(f"{name.replace('__', '.')}={value}" for name, value in columns.items())])
        if found.cell.nunique() != 1:
            raise BadInput(f"{said}: {found.cell.nunique()} cells of the claim fit, where it needs one")
        return found.sort_values("seed").value.to_numpy(float)

    def cost(self, name: str, **columns: Any) -> float:
        """Return a time of the one cell whose columns have these values, summed over the batches of its replicates.

        Args:
            name: The cost's column, such as predict_seconds.
            **columns: As for `where`.

        Returns:
            Seconds.

        Raises:
            BadInput: There is no such cell, or more than one.
        """
        return float(self.values(name, **columns).sum())

    def along(self, option: str, metric: str, **columns: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return a metric for each value of a numeric option.

        Args:
            option: The option's column, such as dataset.num_train.
            metric: The metric's column.
            **columns: As for `where`; with the option, they name one cell each.

        Returns:
            The option's values ascending (K,), and the metric (K, R) by seed.
        """
        steps = sorted(self._measured(metric, columns)[option].dropna().unique())
        rows = self.where(**columns)
        return np.array(steps, float), np.array([rows.values(metric, **{option: step}) for step in steps])

    def _measured(self, metric: str, columns: Mapping[str, Any]) -> DataFrame:
        """Return the rows of a metric whose columns have these values; NotMeasured where it failed in any cell."""
        asked = self.where(**columns).frame
        for cell in asked.cell.unique():
            if reason := self.failed.get((cell, metric.partition("[")[0])):
                raise NotMeasured(f"metric {metric} could not be computed in a cell: {reason}")
        return asked[asked.metric == metric]


@dataclass(frozen=True)
class Setup:
    """The runs of a claim at one size, and what is read from them.

    Attributes:
        suite: The cells and seeds to train.
        words: What is done, with the sizes: data, seeds, budget.
    """

    suite: Suite
    words: str


@dataclass(frozen=True)
class Experiment:
    """A claim of the lecture as an experiment.

    Attributes:
        title: The claim in the lecture's words.
        slide: The slide that makes it, one of SLIDES.
        hypothesis: What must be true of the numbers; bounds included, for they are fixed before any number is seen.
        paragraph: What a student needs to understand the claim, the experiment and the figure, whatever the verdict.
        bundled: The experiment on bundled data, within seconds to a minute.
        statements: The hypothesis about the measured numbers; every one must hold.
        draw: The figure.
        alt: The figure in words: what is drawn against what.
        changes: What was changed after a number was seen, "" where nothing was: a reader must know.
        full: The experiment at the size of a paper; None where the bundled one is as large as it needs to be.
    """

    title: str
    slide: str
    hypothesis: str
    paragraph: str
    bundled: Setup
    statements: Callable[[Readings], Sequence[Statement]]
    draw: Callable[[Readings], Figure]
    alt: str
    changes: str = ""
    full: Setup | None = None

    def protocol(self, full: bool) -> Setup:
        """Return the protocol of a size.

        Args:
            full: Whether the paper's size is asked for; where there is none, the bundled one is it.
        """
        return self.full if full and self.full else self.bundled
