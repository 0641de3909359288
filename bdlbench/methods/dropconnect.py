"""DropConnect as approximate inference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from bdlbench.core.layout import Layout, PerRow, per_row
from bdlbench.core.options import option
from bdlbench.core.streams import Streams
from bdlbench.data.task import Data
from bdlbench.networks.layers import DropConnect
from bdlbench.posteriors.fitting import PriorScaling, fit_network, is_linear, prior_of, training_option
from bdlbench.posteriors.moments import factorised_moments
from bdlbench.posteriors.weights import WeightPosterior
from bdlbench.protocols import Model, Moments, Posterior
from bdlbench.training.loop import State, last
from bdlbench.training.recipe import Recipe


@dataclass(frozen=True)
class DropConnectVI(Recipe):
    """DropConnect: weights dropped in training and in prediction, averaged over masks (Wan et al. 2013).

    q(w) = Π_i [p δ(w_i) + (1 − p) δ(w_i − λ_i)], one mask for each batch. Minimises
    −(1/N) [Σ_n log p(y_n | x_n, λ · mask) + log N(λ; 0, prior_sd²)]; the mean weight is (1 − p) λ.
    As a function of λ, the KL of q from N(0, s²) is (1 − p) λ² / (2 s²). This penalty therefore means
    s = prior_sd √(1 − p): an equal prior_sd is not an equal prior across methods.
    """

    rate: PerRow = option(0.5, "probability that a weight is dropped", low=0, high=0.99, search=(0.005, 0.5))
    prior_sd: PerRow = training_option(
        "prior_sd",
        help="sd of the Gaussian prior of λ, whose KL has a factor 1 − p: the prior of λ · mask has the sd "
        "prior_sd · √(1 − p); an equal number is not an equal prior across methods",
    )
    prior_scaling: PriorScaling = training_option("prior_scaling")

    def unsupported(self, model: Model) -> str | None:
        """Refuse a model without linear maps, which has no weight to drop."""
        dropped = self.rates(Layout(model.leaves()))
        return self.untrainable(model) if dropped else "it has no linear map whose weights could be dropped"

    def fit(self, model: Model, data: Data, rng: Streams) -> Posterior:
        """Train each row's network under its own masks."""
        layout = Layout(model.leaves())
        data, plan = self.with_plan(model, data, rng)
        prior = prior_of(model, layout, self.prior_sd, self.prior_scaling, data.x)
        rates = self.rates(layout)

        def rule(flat: Tensor, noise: Streams) -> DropConnect:
            return DropConnect(layout.views(flat), rates, noise)

        def posterior(state: State) -> Posterior:
            return self.posterior(model, layout, state.flat)

        return posterior(last(fit_network(model, data, rng, plan, rule, prior, posterior=posterior)))

    def restored(self, model: Model, state: Mapping[str, Tensor]) -> Posterior:
        """Return the learnt network, under masks."""
        layout = Layout(model.leaves())
        return self.posterior(model, layout, layout.joined(state))

    def posterior(self, model: Model, layout: Layout, flat: Tensor) -> WeightPosterior:
        """Return rows (R, P) as a posterior under masks of their own."""
        state, rates = layout.views(flat), self.rates(layout)
        moments = partial(self.moments, layout, flat)
        return WeightPosterior(model, state, lambda noise, joint: DropConnect(state, rates, noise), moments=moments)

    def rates(self, layout: Layout) -> dict[str, PerRow]:
        """Return the rate of each linear map."""
        return {name: self.rate for name, leaf in layout.leaves.items() if is_linear(leaf)}

    def moments(self, layout: Layout, flat: Tensor) -> Moments:
        """Return the moments of λ · mask of rows (R, P): mean (1 − p) λ, variance p (1 − p) λ².

        P = 0 except on linear maps.
        """
        linear = layout.fill(lambda leaf: float(is_linear(leaf))).to(flat.device)
        rate = linear * per_row(self.rate, flat.double(), 2)
        return factorised_moments(layout, (1 - rate) * flat, rate * (1 - rate) * flat.square())


methods = {"dropconnect": DropConnectVI}
