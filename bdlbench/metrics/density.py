"""Metrics of density models: how well they describe test inputs, and how much of the latent they use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from bdlbench.protocols import Evaluation, Metric
from bdlbench.stats.rows import each_finite_row, each_row, row_means


@dataclass(frozen=True)
class NegativeELBO:
    """−1/N Σ_n ELBO(x_n), by the encoder's q(z | x). Undefined for predictives of a target."""

    summary: ClassVar[str] = "mean negative ELBO of a test input, by the encoder's posterior of the latent"
    version: ClassVar[int] = 1
    unit: ClassVar[str] = "nats"
    better: ClassVar[Literal["lower"]] = "lower"

    def __call__(self, evaluation: Evaluation) -> dict[str, Tensor]:
        """Compute {"": (R,)}."""
        return row_means(self.by_example(evaluation))

    def by_example(self, evaluation: Evaluation) -> dict[str, Tensor]:
        """Compute −ELBO(x_n): {"": (R, N)}."""
        elbo = evaluation.test.arrays().get("elbo")  # (R, N)
        return {} if elbo is None else {"": 0.0 - elbo.double()}


@dataclass(frozen=True)
class ImportanceSamples:
    """k, the number of draws of the latent behind each estimate of log p(x); more draws lower `nll`."""

    summary: ClassVar[str] = "draws of the latent in the importance-weighted log p(x) that nll averages"
    version: ClassVar[int] = 1
    unit: ClassVar[str] = "count"
    better: ClassVar[Literal["higher"]] = "higher"

    def __call__(self, evaluation: Evaluation) -> dict[str, Tensor]:
        """Return {"": (R,)}, the same for every row."""
        count = evaluation.test.facts.get("importance_samples")  # (R,)
        return {} if count is None else {"": count.double()}


@dataclass(frozen=True)
class RegretGain:
    """1/N Σ_n of the last step's gain in the likelihood regret of x_n; far from 0, `regret_steps` is too small."""

    summary: ClassVar[str] = "mean gain of the likelihood regret's last step: about 0 where it has converged"
    version: ClassVar[int] = 1
    unit: ClassVar[str] = "nats"
    better: ClassVar[Literal["lower"]] = "lower"

    def __call__(self, evaluation: Evaluation) -> dict[str, Tensor]:
        """Compute {"": (R,)} of the test set, and one entry for each out-of-distribution set."""
        sets = {"": evaluation.test, **evaluation.ood}
        facts = {name: getattr(predictive, "facts", {}) for name, predictive in sets.items()}  # bare scores have none
        gains = {name: found.get("regret_gain") for name, found in facts.items()}  # (R, N)
        return {name: each_row(torch.mean, gain.double()) for name, gain in gains.items() if gain is not None}


@dataclass(frozen=True)
class ActiveUnits:
    """The number of latent dimensions whose posterior mean varies over test inputs by more than `threshold`.

    A_u = Var_x(E_{q(z|x)}[z_u]) > 0.01: Burda, Grosse & Salakhutdinov 2016, §5.2. Undefined without a latent.
    """

    threshold: float = 0.01

    summary: ClassVar[str] = "latent dimensions whose posterior mean has a variance over test inputs above 0.01"
    version: ClassVar[int] = 1
    unit: ClassVar[str] = "count"
    better: ClassVar[Literal["higher"]] = "higher"

    def __call__(self, evaluation: Evaluation) -> dict[str, Tensor]:
        """Compute {"": (R,)}."""
        mean = evaluation.test.arrays().get("latent_mean")  # (R, N, Z)
        if mean is None:
            return {}
        return {"": each_finite_row(lambda row: (row.var(0, correction=0) > self.threshold).sum(), mean.double())}


metrics: dict[str, Metric] = {
    "negative_elbo": NegativeELBO(),
    "importance_samples": ImportanceSamples(),
    "regret_gain": RegretGain(),
    "active_units": ActiveUnits(),
}
