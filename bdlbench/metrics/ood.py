"""How well a predictive tells out-of-distribution inputs from test inputs. The out-of-distribution set is positive."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

from torch import Tensor

from bdlbench.protocols import TEST, Evaluation, Metric
from bdlbench.stats.discrimination import Statistic, auroc, average_precision, fpr_at_95_tpr, without_blocks
from bdlbench.stats.ood_scores import AFTER_TRAINING
from bdlbench.stats.rows import each_row

OOD_STATISTICS: dict[str, Statistic] = {"AUROC": auroc, "AUPR": average_precision, "FPR at 95 % TPR": fpr_at_95_tpr}


@dataclass(frozen=True)
class OutOfDistribution:
    """One statistic of one score, for each out-of-distribution set against the test set.

    The test set always counts as in-distribution. In the data sets of this package, it comes from the same data as the
    training set. Predictions made elsewhere may have a shifted test set, such as corrupted or rotated images or another
    hospital. The statistic then separates the other set from the shifted inputs, no longer from the training
    distribution, and penalises a method that is rightly uncertain about the shifted inputs.

    Undefined if a predictive lacks the score, or has fewer than `min_samples` posterior samples: with one sample,
    mutual information is 0 except for rounding. AUPR depends on the sizes of the two sets. Papers that call the
    in-distribution set positive report a different AUPR and FPR; the AUROC is the same.
    """

    statistic: Literal["AUROC", "AUPR", "FPR at 95 % TPR"]
    score: str
    better: Literal["higher", "lower"]
    min_samples: int = 1

    version: ClassVar[int] = 1
    unit: ClassVar[str] = "fraction"

    @property
    def summary(self) -> str:
        """One line, with the statistic and the score."""
        inside = "test inputs (in-distribution, even if shifted)"
        return f"{self.statistic} of out-of-distribution (positive) against {inside}, by {self.score}"

    def __call__(self, evaluation: Evaluation) -> dict[str, Tensor]:
        """Compute {out-of-distribution set: (R,)}."""
        statistic = OOD_STATISTICS[self.statistic]
        return {name: each_row(statistic, *scores) for name, scores in self._scores(evaluation).items()}

    def without_blocks(self, evaluation: Evaluation, population: str, block: Tensor) -> dict[str, Tensor]:
        """Compute {out-of-distribution set: (R, blocks)} without each block of the test set, or of the set itself."""
        statistic, positives = OOD_STATISTICS[self.statistic], population != TEST
        left_out = partial(without_blocks, statistic, block=block, positives=positives)
        found = self._scores(evaluation)
        return {name: each_row(left_out, *found[name]) for name in found if population in (TEST, name)}

    def _scores(self, evaluation: Evaluation) -> dict[str, tuple[Tensor, Tensor]]:
        """Return, for each out-of-distribution set, its scores (R, N') and those of the test set (R, N)."""
        inside = evaluation.test.scores.get(self.score)
        if inside is None or evaluation.test.samples < self.min_samples:
            return {}
        found = {name: predictive.scores.get(self.score) for name, predictive in evaluation.ood.items()}
        return {name: (scores, inside) for name, scores in found.items() if scores is not None}


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
    **{f"ood_auroc_{score}": OutOfDistribution("AUROC", score, "higher") for score in AFTER_TRAINING},
    **{f"ood_fpr95_{score}": OutOfDistribution("FPR at 95 % TPR", score, "lower") for score in AFTER_TRAINING},
}
