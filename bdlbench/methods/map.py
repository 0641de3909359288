"""Maximum a posteriori."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from bdlbench.core.layout import Layout, PerRow
from bdlbench.core.streams import Streams
from bdlbench.data.task import Data
from bdlbench.networks.layers import Point
from bdlbench.posteriors.adversarial import ReachUnit, reach, unsupported
from bdlbench.posteriors.fitting import PriorScaling, fit_network, prior_of, training_option
from bdlbench.posteriors.point import point_posterior
from bdlbench.posteriors.updating import Continued
from bdlbench.posteriors.weights import WeightPosterior
from bdlbench.protocols import Model, Posterior
from bdlbench.training.loop import State, last
from bdlbench.training.recipe import Recipe


@dataclass(frozen=True)
class MAP(Recipe):
    """Maximum a posteriori: one network, with a Gaussian prior on its weights.

    Minimises −(1/N) [Σ_n log p(y_n | x_n, w) + log N(w; 0, prior_sd²)]. MacKay 1992, eq. 2. With `adversarial` half of
    the likelihood is of inputs moved by the fast gradient sign, as in `mle`.
    """

    prior_sd: PerRow = training_option("prior_sd")
    prior_scaling: PriorScaling = training_option("prior_scaling")
    adversarial: PerRow = training_option("adversarial")
    adversarial_unit: ReachUnit = training_option("adversarial_unit")

    def unsupported(self, model: Model) -> str | None:
        """Accept every model, since each has a likelihood; of a density of inputs no adversarial training."""
        return self.untrainable(model) or unsupported(model, self.adversarial)

    def fit(self, model: Model, data: Data, rng: Streams) -> WeightPosterior:
        """Train each row's network."""
        layout = Layout(model.leaves())
        data, plan = self.with_plan(model, data, rng)
        prior = prior_of(model, layout, self.prior_sd, self.prior_scaling, data.x)

        def rule(flat: Tensor, noise: Streams) -> Point:
            return Point(layout.views(flat))

        def posterior(state: State) -> WeightPosterior:
            return point_posterior(model, layout, state.flat)

        moved = reach(data, self.adversarial, self.adversarial_unit)
        return posterior(last(fit_network(model, data, rng, plan, rule, prior, posterior=posterior, reach=moved)))

    def updated(self, model: Model, posterior: Posterior, data: Data, rng: Streams) -> Posterior:
        """Go on from the learnt network on further data alone: the prior stays, as a point has no spread."""
        prior = prior_of(model, Layout(model.leaves()), self.prior_sd, self.prior_scaling, data.x)
        return replace(self.fit(Continued(model, prior, posterior.state), data, rng), model=model)

    def restored(self, model: Model, state: Mapping[str, Tensor]) -> Posterior:
        """Return the learnt network."""
        layout = Layout(model.leaves())
        return point_posterior(model, layout, layout.joined(state))


methods = {"map": MAP}
