"""How well the chains of a sampler have mixed. Undefined for every other method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from bdlbench.protocols import Evaluation, Metric
from bdlbench.stats.rows import each_row


@dataclass(frozen=True)
class WorstDiagnosis:
    """One diagnosis of chains: of the log joint density, and of the test example where it is worst.

    `rhat`: the rank-normalised split R-hat (Vehtari et al. 2021), the largest one of all class probabilities, or of all
    predictive means. `ess`: the bulk effective sample size, the smallest one.
    """

    diagnosis: Literal["rhat", "ess"]
    summary: str
    unit: str
    better: Literal["higher", "lower"]

    version: ClassVar[int] = 1

    def __call__(self, evaluation: Evaluation) -> dict[str, Tensor]:
        """Return {"predictions": (R,), "log_joint": (R,)}, as far as they are known."""
        worst = torch.amax if self.better == "lower" else torch.amin
        told = {
            "predictions": evaluation.test.facts.get(self.diagnosis),
            "log_joint": evaluation.facts.get(f"{self.diagnosis}[log_joint]"),
        }
        known = {key: value.double() for key, value in told.items() if value is not None}
        return {key: each_row(worst, value) if value.ndim == 2 else value for key, value in known.items()}


@dataclass(frozen=True)
class StatedByChains:
    """A fact that a sampler states of its transitions after warm-up."""

    fact: str
    summary: str
    unit: str
    better: Literal["higher", "lower"]

    version: ClassVar[int] = 1

    def __call__(self, evaluation: Evaluation) -> dict[str, Tensor]:
        """Return {"": (R,)}."""
        stated = evaluation.facts.get(self.fact)
        return {} if stated is None else {"": stated.double()}


metrics: dict[str, Metric] = {
    "rhat": WorstDiagnosis("rhat", "split R-hat of chains, where it is largest: 1 where they have mixed", "×", "lower"),
    "ess": WorstDiagnosis("ess", "effective sample size of chains, where it is smallest", "draws", "higher"),
    "acceptance": StatedByChains("acceptance", "mean acceptance probability of trajectories", "fraction", "higher"),
    "divergences": StatedByChains(
        "divergences", "trajectories of all chains whose energy was off by 1,000 nats", "count", "lower"
    ),
}
