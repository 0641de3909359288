"""Maximum likelihood."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from bdlbench.core.layout import Layout, PerRow
from bdlbench.core.streams import Streams
from bdlbench.data.task import Data
from bdlbench.networks.layers import Point
from bdlbench.posteriors.adversarial import ReachUnit, reach, unsupported
from bdlbench.posteriors.fitting import fit_network, training_option
from bdlbench.posteriors.point import point_posterior
from bdlbench.posteriors.updating import Continued
from bdlbench.posteriors.weights import WeightPosterior
from bdlbench.protocols import Model, Posterior
from bdlbench.training.loop import State, last
from bdlbench.training.recipe import Recipe


@dataclass(frozen=True)
class MLE(Recipe):
    """Maximum likelihood: one network, by steps on the mean negative log-likelihood.

    Minimises −(1/N) Σ_n log p(y_n | x_n, w). Defaults of Adam: Kingma & Ba 2015, algorithm 1. With `adversarial` half
    of it is of inputs moved by the fast gradient sign (Lakshminarayanan et al. 2017, §2.3).
    """

    adversarial: PerRow = training_option("adversarial")
    adversarial_unit: ReachUnit = training_option("adversarial_unit")

    def unsupported(self, model: Model) -> str | None:
        """Accept every model, since each has a likelihood; of a density of inputs no adversarial training."""
        return self.untrainable(model) or unsupported(model, self.adversarial)

    def fit(self, model: Model, data: Data, rng: Streams) -> WeightPosterior:
        """Train each row's network."""
        layout = Layout(model.leaves())
        data, plan = self.with_plan(model, data, rng)

        def rule(flat: Tensor, noise: Streams) -> Point:
            return Point(layout.views(flat))

        def posterior(state: State) -> WeightPosterior:
            return point_posterior(model, layout, state.flat)

        moved = reach(data, self.adversarial, self.adversarial_unit)
        return posterior(last(fit_network(model, data, rng, plan, rule, posterior=posterior, reach=moved)))

    def updated(self, model: Model, posterior: Posterior, data: Data, rng: Streams) -> Posterior:
        """Go on from the learnt network on further data alone: a point has no spread that could be a prior."""
        return replace(self.fit(Continued(model, None, posterior.state), data, rng), model=model)

    def restored(self, model: Model, state: Mapping[str, Tensor]) -> Posterior:
        """Return the learnt network."""
        layout = Layout(model.leaves())
        return point_posterior(model, layout, layout.joined(state))


methods = {"mle": MLE}
