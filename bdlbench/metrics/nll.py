"""Negative log-likelihood."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from bdlbench.predictives.mixtures import normal_log_prob
from bdlbench.protocols import Evaluation, Metric
from bdlbench.stats.rows import row_means


@dataclass(frozen=True)
class NegativeLogLikelihood:
    """−1/N Σ_n log p(y_n | x_n) of the predictive averaged over samples, targets in original units."""

    summary: ClassVar[str] = "mean negative log predictive probability (density, in original units) of a test target"
    version: ClassVar[int] = 1
    under_shift: ClassVar[bool] = True
    unit: ClassVar[str] = "nats"
    better: ClassVar[Literal["lower"]] = "lower"

    def __call__(self, evaluation: Evaluation) -> dict[str, Tensor]:
        """Compute {"": (R,)}."""
        return row_means(self.by_example(evaluation))

    def by_example(self, evaluation: Evaluation) -> dict[str, Tensor]:
        """Compute −log p(y_n | x_n): {"": (R, N)}."""
        return {"": 0.0 - evaluation.test.log_prob(evaluation.y).double()}  # a difference: never −0.0


@dataclass(frozen=True)
class MomentMatchedNegativeLogLikelihood:
    """−1/N Σ_n log N(y_n; E[y | x_n], V[y | x_n]): of the Gaussian with the predictive's mean and variance.

    Deep ensembles report it: they take a mixture of Gaussians as one (Lakshminarayanan et al. 2017, §2.4). For one
    Gaussian it is `nll`. Undefined for classes.
    """

    summary: ClassVar[str] = "nll of the Gaussian with the mean and variance of the predictive, in original units"
    version: ClassVar[int] = 1
    unit: ClassVar[str] = "nats"
    better: ClassVar[Literal["lower"]] = "lower"

    def __call__(self, evaluation: Evaluation) -> dict[str, Tensor]:
        """Compute {"": (R,)}."""
        return row_means(self.by_example(evaluation))

    def by_example(self, evaluation: Evaluation) -> dict[str, Tensor]:
        """Compute −log N(y_n; E[y | x_n], V[y | x_n]): {"": (R, N)}."""
        arrays = evaluation.test.arrays()
        if "mean" not in arrays or "sd" not in arrays:
            return {}
        return {"": 0.0 - normal_log_prob(arrays["mean"], arrays["sd"], evaluation.y)}


metrics: dict[str, Metric] = {
    "nll": NegativeLogLikelihood(),
    "moment_matched_nll": MomentMatchedNegativeLogLikelihood(),
}
