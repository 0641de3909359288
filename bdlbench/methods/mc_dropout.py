"""Monte Carlo dropout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from bdlbench.core.layout import Layout, PerRow
from bdlbench.core.options import option
from bdlbench.core.streams import Streams
from bdlbench.data.task import Data
from bdlbench.networks.layers import Dropout
from bdlbench.posteriors.fitting import PriorScaling, dropout_rates, fit_network, prior_of, training_option
from bdlbench.posteriors.moments import dropout_moments
from bdlbench.posteriors.weights import WeightPosterior
from bdlbench.protocols import Model, Posterior
from bdlbench.training.loop import State, last
from bdlbench.training.recipe import Recipe


@dataclass(frozen=True)
class MCDropout(Recipe):
    """MC dropout: units dropped in training and in prediction, averaged over masks (Gal & Ghahramani 2016).

    Minimises −(1/N) [Σ_n log p(y_n | x_n, w, mask) + log N(w; 0, prior_sd²)], eq. 5 of the paper up to a factor; the
    prior replaces its weight decay. Rates as in Srivastava et al. 2014: one half of hidden units, a fifth of inputs. As
    a function of w, the KL of the masked weights w · mask / (1 − p) from N(0, s²) is (1 − p) (w / (1 − p))² / (2 s²)
    (appendix of the paper). This penalty therefore means s = prior_sd / √(1 − p): an equal prior_sd is not an equal
    prior across methods.
    """

    rate: PerRow = option(0.5, "probability that a hidden unit is dropped", low=0, high=0.99, search=(0.005, 0.5))
    input_rate: PerRow = option(0.2, "probability that an input is dropped", low=0, high=0.99, search=(0.001, 0.3))
    prior_sd: PerRow = training_option(
        "prior_sd",
        help="sd of the Gaussian prior of w, whose KL has a factor 1 − p: the prior of w · mask / (1 − p) has the sd "
        "prior_sd / √(1 − p); an equal number is not an equal prior across methods",
    )
    prior_scaling: PriorScaling = training_option("prior_scaling")

    def unsupported(self, model: Model) -> str | None:
        """Refuse a model without linear maps, which has no unit to drop."""
        dropped = self.rates(Layout(model.leaves()))
        return self.untrainable(model) if dropped else "it has no linear map whose input could be dropped"

    def fit(self, model: Model, data: Data, rng: Streams) -> Posterior:
        """Train each row's network under its own masks."""
        layout = Layout(model.leaves())
        data, plan = self.with_plan(model, data, rng)
        prior = prior_of(model, layout, self.prior_sd, self.prior_scaling, data.x)
        rates = self.rates(layout)

        def rule(flat: Tensor, noise: Streams) -> Dropout:
            return Dropout(layout.views(flat), rates, noise)

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
        moments = partial(dropout_moments, layout, flat, rates)
        return WeightPosterior(model, state, lambda noise, joint: Dropout(state, rates, noise, joint), moments=moments)

    def rates(self, layout: Layout) -> dict[str, PerRow]:
        """Return the rate at the input of each linear map.

        Each map draws from its own stream, and not at all at rate 0.
        """
        return dropout_rates(layout, self.input_rate, self.rate)


methods = {"mc_dropout": MCDropout}
