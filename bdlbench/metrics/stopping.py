"""Metrics of networks of uncertain depth: predictions by each rule, depth and cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from bdlbench.networks.depth_output import StoppingPredictive
from bdlbench.predictives.mixtures import entropy, log_at
from bdlbench.protocols import Evaluation, Metric
from bdlbench.stats.calibration import expected_calibration_error, top_class
from bdlbench.stats.discrimination import rank_correlation
from bdlbench.stats.rows import each_row, row_means

BINS = 15


def _accuracy(log_probs: Tensor, y: Tensor) -> Tensor:
    return top_class(log_probs.exp(), y)[1].mean()


def _nll(log_probs: Tensor, y: Tensor) -> Tensor:
    return 0.0 - log_at(log_probs, y).double().mean()


def _ece(log_probs: Tensor, y: Tensor) -> Tensor:
    return expected_calibration_error(*top_class(log_probs.exp(), y), bins=BINS)


RULE_STATISTICS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"accuracy": _accuracy, "NLL": _nll, "ECE": _ece}
"""Functions from log class probabilities (N, C) and classes (N,) to ()."""


@dataclass(frozen=True)
class ByRule:
    """One statistic of the test predictions by each rule: q_mode, q_marginal, q_sample, prior, joint.

    `bdlbench.networks.depth_output.RULES` describes the rules. Undefined for a network with one exit, or without depth.
    """

    version: ClassVar[int] = 1

    statistic: Literal["accuracy", "NLL", "ECE"]
    unit: str
    better: Literal["higher", "lower"]

    @property
    def summary(self) -> str:
        """One line, with the statistic."""
        return f"{self.statistic} of the prediction by each rule that turns all depths into one prediction"

    def __call__(self, evaluation: Evaluation) -> dict[str, Tensor]:
        """Compute {rule: (R,)}."""
        test = evaluation.test
        if not isinstance(test, StoppingPredictive) or not test.others:
            return {}
        return {name: each_row(RULE_STATISTICS[self.statistic], log, evaluation.y) for name, log in test.rules.items()}


@dataclass(frozen=True)
class MeanFact:
    """Mean over test examples of a fact that the predictive states about each. Undefined without this fact."""

    version: ClassVar[int] = 1

    fact: str
    summary: str
    unit: str
    better: Literal["higher", "lower"] = "lower"

    def __call__(self, evaluation: Evaluation) -> dict[str, Tensor]:
        """Compute {"": (R,)}."""
        return row_means(self.by_example(evaluation))

    def by_example(self, evaluation: Evaluation) -> dict[str, Tensor]:
        """Return {"": (R, N)}."""
        fact = evaluation.test.facts.get(self.fact)  # (R, N)
        return {} if fact is None else {"": fact.double()}


@dataclass(frozen=True)
class FlopsFraction:
    """Mean FLOPs of an example over those of all layers with one head at the end; FLOPs are 2×MAC, heads included."""

    summary: ClassVar[str] = "mean FLOPs of a test example over those of the full network with its one head"
    version: ClassVar[int] = 1
    unit: ClassVar[str] = "fraction"
    better: ClassVar[Literal["lower"]] = "lower"

    def __call__(self, evaluation: Evaluation) -> dict[str, Tensor]:
        """Compute {"": (R,)}."""
        return row_means(self.by_example(evaluation))

    def by_example(self, evaluation: Evaluation) -> dict[str, Tensor]:
        """Compute {"": (R, N)}."""
        facts = evaluation.test.facts
        return {"": facts["flops"].double() / facts["full_flops"].double()} if "full_flops" in facts else {}


@dataclass(frozen=True)
class CalibrationByDepth:
    """Expected calibration error of q_mode among the test examples that leave at each depth.

    With several posterior samples, an example's depth is the rounded mean over samples. NaN if no example leaves at the
    depth.
    """

    summary: ClassVar[str] = f"top-1 confidence against accuracy of those that leave at a depth, {BINS} bins (lo, hi]"
    version: ClassVar[int] = 1
    unit: ClassVar[str] = "fraction"
    better: ClassVar[Literal["lower"]] = "lower"

    def __call__(self, evaluation: Evaluation) -> dict[str, Tensor]:
        """Compute {depth: (R,)}."""
        test = evaluation.test
        if not isinstance(test, StoppingPredictive) or not test.others:
            return {}
        depth, log_probs = test.facts["halted_depth"].round(), test.rules["q_mode"]
        return {
            str(d): each_row(lambda log, y, leaves: _ece(log[leaves], y[leaves]), log_probs, evaluation.y, depth == d)
            for d in range(1, test.exits + 1)
        }


@dataclass(frozen=True)
class DepthByDifficulty:
    """Rank correlation over test examples of the depth of q_mode with how difficult an example is for all layers.

    Difficulty is read after the last layer, where stopping has no say: "error", whether the class is wrong there, and
    "entropy", of the class probabilities there (nats). Spearman 1904, with mean ranks for ties: a depth of few values
    cannot reach 1. NaN where all examples leave at one depth, or none is wrong.
    """

    summary: ClassVar[str] = "rank correlation of an example's depth with error and entropy after all layers"
    version: ClassVar[int] = 1
    unit: ClassVar[str] = "correlation"
    better: ClassVar[Literal["higher"]] = "higher"

    def __call__(self, evaluation: Evaluation) -> dict[str, Tensor]:
        """Compute {"error" or "entropy": (R,)}."""
        test = evaluation.test
        if not isinstance(test, StoppingPredictive) or not test.others:
            return {}
        wrong = test.full.argmax(-1) != evaluation.y
        difficulty = {"error": wrong.double(), "entropy": entropy(test.full.double())}  # (R, N) each
        depth = test.facts["halted_depth"]
        return {name: each_row(rank_correlation, depth, value) for name, value in difficulty.items()}


metrics: dict[str, Metric] = {
    "accuracy_by_rule": ByRule("accuracy", "fraction", "higher"),
    "nll_by_rule": ByRule("NLL", "nats", "lower"),
    "ece_by_rule": ByRule("ECE", "fraction", "lower"),
    "depth": MeanFact("halted_depth", "mean number of layers that a test example's prediction comes from", "layers"),
    "flops": MeanFact("flops", "mean FLOPs of a test example, 2×MAC of convolutions and dense maps", "FLOPs"),
    "flops_fraction": FlopsFraction(),
    "ece_by_depth": CalibrationByDepth(),
    "depth_by_difficulty": DepthByDifficulty(),
}
