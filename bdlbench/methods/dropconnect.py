"""DropConnect as approximate inference."""

from __future__ import annotations

from dataclasses import dataclass

from bdlbench.data import Data
from bdlbench.layers import DropConnect, Leaves
from bdlbench.options import option
from bdlbench.posteriors.fitting import PriorScaling, fit_network, gaussian_prior, is_linear
from bdlbench.posteriors.weights import WeightPosterior
from bdlbench.protocols import Model, Posterior
from bdlbench.rng import Streams
from bdlbench.training import DECAYS, Decay, Plan, last
from bdlbench.types import Layout, PerRow


@dataclass(frozen=True)
class DropConnectVI:
    """DropConnect: weights dropped in training and in prediction, averaged over masks (Wan et al. 2013).

    q(w) = Π_i [p δ(w_i) + (1 − p) δ(w_i − λ_i)], one mask for each batch. Minimises
    −(1/N) [Σ_n log p(y_n | x_n, λ · mask) + log N(λ; 0, prior_sd²)]; the mean weight is (1 − p) λ.
    """

    epochs: int = option(60, "passes over the training data", low=1)
    batch_size: int = option(64, "examples in a batch", low=1)
    learning_rate: PerRow = option(1e-3, "Adam's step size", low=0, open_ends=True)
    decay: Decay = option("constant", "learning rate over time", choices=tuple(DECAYS))
    rate: PerRow = option(0.5, "probability that a weight is dropped", low=0, high=0.99)
    prior_sd: PerRow = option(1.0, "standard deviation of the Gaussian prior", low=0, open_ends=True)
    prior_scaling: PriorScaling = option("none", "divide the prior's sd by √fan_in?", choices=("none", "fan_in"))

    def unsupported(self, model: Model) -> str | None:
        """Every model has linear maps."""
        return None

    def fit(self, model: Model, data: Data, rng: Streams) -> Posterior:
        """Train each row's network under its own masks."""
        layout = Layout(model.leaves())
        plan = Plan(self.epochs, self.batch_size, self.learning_rate, self.decay)
        prior = gaussian_prior(layout, self.prior_sd, self.prior_scaling, data.x)
        rates = {name: self.rate for name, leaf in layout.leaves.items() if is_linear(leaf)}

        def rule(leaves: Leaves, noise: Streams) -> DropConnect:
            return DropConnect(leaves, rates, noise)

        states = fit_network(model, data, rng, plan, lambda flat, noise: rule(layout.views(flat), noise), prior)
        state = layout.views(last(states).flat)
        return WeightPosterior(model, state, lambda noise, joint: rule(state, noise))


methods = {"dropconnect": DropConnectVI}
