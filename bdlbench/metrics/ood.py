"""How well a predictive tells out-of-distribution inputs from test inputs. The out-of-distribution set is positive."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from bdlbench.protocols import Evaluation, Metric
from bdlbench.stats.ranking import Statistic, auroc, average_precision, fpr_at_95_tpr
from bdlbench.stats.rows import each_row

STATISTICS: dict[str, Statistic] = {"AUROC": auroc, "AUPR": average_precision, "FPR at 95 % TPR": fpr_at_95_tpr}


@dataclass(frozen=True)
class OutOfDistribution:
    """One statistic of one score, for each out-of-distribution set against the test set.

    Undefined where a predictive lacks the score, or has fewer than `min_samples` posterior samples: of one sample,
    mutual information is 0 but for rounding. AUPR depends on the sizes of the two sets. Papers that call the
    in-distribution set positive report another AUPR and another FPR; the AUROC is the same.
    """

    statistic: Literal["AUROC", "AUPR", "FPR at 95 % TPR"]
    score: str
    better: Literal["higher", "lower"]
    min_samples: int = 1

    unit: ClassVar[str] = "fraction"

    @property
    def summary(self) -> str:
        """One line: which statistic of which score."""
        return f"{self.statistic} of out-of-distribution (positive) against test inputs, by {self.score}"

    def __call__(self, evaluation: Evaluation) -> dict[str, Tensor]:
        """{out-of-distribution set: (R,)}."""
        inside = evaluation.test.scores.get(self.score)  # (R, N)
        if inside is None or evaluation.test.samples < self.min_samples:
            return {}
        found = {name: predictive.scores.get(self.score) for name, predictive in evaluation.ood.items()}
        outside = {name: scores for name, scores in found.items() if scores is not None}  # (R, N') each
        return {name: each_row(STATISTICS[self.statistic], scores, inside) for name, scores in outside.items()}


metrics: dict[str, Metric] = {
    "ood_auroc": OutOfDistribution("AUROC", "entropy", "higher"),
    "ood_aupr": OutOfDistribution("AUPR", "entropy", "higher"),
    "ood_fpr95": OutOfDistribution("FPR at 95 % TPR", "entropy", "lower"),
    "ood_auroc_mutual_information": OutOfDistribution("AUROC", "mutual_information", "higher", min_samples=2),
    "ood_auroc_max_probability": OutOfDistribution("AUROC", "max_probability", "higher"),
    "ood_auroc_depth": OutOfDistribution("AUROC", "depth", "higher"),
    "ood_auroc_density": OutOfDistribution("AUROC", "density", "higher"),
    "ood_auroc_negative_elbo": OutOfDistribution("AUROC", "negative_elbo", "higher"),
    "ood_auroc_likelihood_regret": OutOfDistribution("AUROC", "likelihood_regret", "higher"),
}
