"""Stochastic gradient Hamiltonian Monte Carlo."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from bdlbench.core.layout import PerRow
from bdlbench.core.options import option
from bdlbench.core.streams import Streams
from bdlbench.data.task import Data
from bdlbench.posteriors.chains import Chain, SamplerStep, column, sample
from bdlbench.posteriors.kept_networks import restored_mixture
from bdlbench.protocols import Model, Posterior
from bdlbench.training.optimisers import Tensors


@dataclass(frozen=True)
class SGHMC(Chain):
    """Stochastic gradient Hamiltonian Monte Carlo: the networks along a descent with noise and momentum.

    Chen, Fox & Guestrin 2014. After a warm start, in which the optimiser trains as MAP does, each step is (eq. 15, with
    the estimate of the gradient's noise β̂ = 0)

        v ← (1 − α) v − η_t ∇Ũ(w) + N(0, 2 α T η_t),   w ← w + v,
        ∇Ũ(w) = −∇log p(w) − N/B Σ_b ∇log p(y_b | x_b, w),

    with η_t = step_size/N times the schedule: as SGD on the mean loss at the rate step_size with the momentum 1 − α. So
    one value suits data of any size. The posterior is the equal mixture of `networks` networks, which are kept at equal
    distances after the burn-in. Where U is quadratic with the Hessian H, full batches at a constant step give the
    covariance T H⁻¹ (I − η H / (2 (2 − α)))⁻¹.

    With schedule=cyclical it is cSGHMC (Zhang et al. 2020). A chain is a row: `deep_ensemble` of this member is several
    of them.
    """

    step_size: PerRow = option(
        0.03, "N η: N times the (largest) step size of the paper", low=0, open_ends=True, search=(0.001, 0.3)
    )
    friction: PerRow = option(
        0.1,
        "α: the part of the momentum that a step takes away",
        low=0,
        high=1,
        open_ends=True,
        search=(0.01, 0.5),
    )

    def fit(self, model: Model, data: Data, rng: Streams) -> Posterior:
        """Run one chain for each row."""

        def step(
            flat: Tensor, slope: Tensor, kept: Tensors, size: Tensor, temperature: Tensor, noise: Tensor
        ) -> tuple[Tensor, Tensors]:
            friction = column(self.friction)
            momentum = (1 - friction).to(flat) * kept["momentum"] - size.to(flat) * slope
            momentum = momentum + (2 * friction * temperature * size).sqrt().to(flat) * noise
            return flat + momentum, {"momentum": momentum}

        sampler = SamplerStep(lambda flat: {"momentum": torch.zeros_like(flat)}, step)
        return sample(self, sampler, self.step_size, model, data, rng)

    def restored(self, model: Model, state: Mapping[str, Tensor]) -> Posterior:
        """Return the mixture of the stored networks."""
        return restored_mixture(model, state)


methods = {"sghmc": SGHMC}
