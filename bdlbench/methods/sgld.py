"""Stochastic gradient Langevin dynamics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from bdlbench.core.layout import PerRow
from bdlbench.core.options import option
from bdlbench.core.streams import Streams
from bdlbench.data.task import Data
from bdlbench.posteriors.chains import Chain, SamplerStep, sample
from bdlbench.posteriors.kept_networks import restored_mixture
from bdlbench.protocols import Model, Posterior
from bdlbench.training.optimisers import Tensors


@dataclass(frozen=True)
class SGLD(Chain):
    """Stochastic gradient Langevin dynamics: the networks along a noisy descent (Welling & Teh 2011).

    After a warm start, in which the optimiser trains as MAP does, each step is (eq. 4)

        Δw = ε_t/2 · [∇log p(w) + N/B Σ_b ∇log p(y_b | x_b, w)] + η_t,   η_t ~ N(0, T ε_t),

    with ε_t = step_size/N times the schedule: as SGD on the mean loss at the rate step_size/2. So one value suits data
    of any size. The posterior is the equal mixture of `networks` networks, which are kept at equal distances after the
    burn-in. Where U is quadratic with the Hessian H, full batches at a constant step give the covariance
    T H⁻¹ (I − ε H/4)⁻¹.

    The schedule of the paper is polynomial; cyclical is that of Zhang et al. 2020. A chain is a row: `deep_ensemble` of
    this member is several of them.
    """

    step_size: PerRow = option(
        0.1, "N ε: N times the (largest) step size of the paper", low=0, open_ends=True, search=(0.005, 1.0)
    )

    def fit(self, model: Model, data: Data, rng: Streams) -> Posterior:
        """Run one chain for each row."""

        def step(
            flat: Tensor, slope: Tensor, kept: Tensors, size: Tensor, temperature: Tensor, noise: Tensor
        ) -> tuple[Tensor, Tensors]:
            return flat - (size / 2).to(flat) * slope + (temperature * size).sqrt().to(flat) * noise, kept

        return sample(self, SamplerStep(lambda flat: {}, step), self.step_size, model, data, rng)

    def restored(self, model: Model, state: Mapping[str, Tensor]) -> Posterior:
        """Return the mixture of the stored networks."""
        return restored_mixture(model, state)


methods = {"sgld": SGLD}
