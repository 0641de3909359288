"""Gaussian dropout."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

from torch import Tensor

from bdlbench.core.layout import Layout, PerRow, per_row
from bdlbench.core.options import option
from bdlbench.core.streams import Streams
from bdlbench.data.task import Data
from bdlbench.networks.layers import InputNoise, LocalNoise, Point
from bdlbench.posteriors.fitting import PriorScaling, dropout_rates, fit_network, prior_of, training_option
from bdlbench.posteriors.moments import dropout_moments, factorised_moments
from bdlbench.posteriors.weights import WeightPosterior
from bdlbench.protocols import Layer, Model, Moments, Posterior
from bdlbench.training.loop import State, last
from bdlbench.training.recipe import Recipe

NoisePlace = Literal["outputs", "inputs"]


@dataclass(frozen=True)
class GaussianDropout(Recipe):
    """Gaussian dropout: noise N(1, p / (1 − p)) in place of masks, in training and prediction (Srivastava et al. 2014).

    With α = p / (1 − p) the noise has the mean and variance of the mask / (1 − p) of MC dropout. On `outputs` a map
    gives N(op(x, w), α · op(x², w²)), to which the central limit theorem takes a sum over many dropped inputs (Wang &
    Manning 2013): every weight is N(w, α w²), independent. On `inputs` it gives op(x · noise, w), where the weights of
    an input unit share its noise (type A of Kingma, Salimans & Welling 2015). Minimises
    −(1/N) [Σ_n log p(y_n | x_n, w, noise) + log N(w; 0, prior_sd²)]. Biases have no noise. As a function of w, the
    second moment of w · noise is w² / (1 − p): as in MC dropout, this penalty means a prior sd of prior_sd / √(1 − p).
    """

    rate: PerRow = option(
        0.5, "p of hidden units: the noise has the variance p / (1 − p)", low=0, high=0.99, search=(0.005, 0.5)
    )
    input_rate: PerRow = option(
        0.2, "p of inputs: the noise has the variance p / (1 − p)", low=0, high=0.99, search=(0.001, 0.3)
    )
    noise: NoisePlace = option("outputs", "where a linear map has its noise", choices=get_args(NoisePlace))
    prior_sd: PerRow = training_option(
        "prior_sd",
        help="sd of the Gaussian prior of w; as in mc_dropout the prior of w · noise has the sd prior_sd / √(1 − p): "
        "an equal number is not an equal prior across methods",
    )
    prior_scaling: PriorScaling = training_option("prior_scaling")

    def unsupported(self, model: Model) -> str | None:
        """Refuse a model without linear maps, which have the noise."""
        noisy = dropout_rates(Layout(model.leaves()), 0.0, 0.0)
        return self.untrainable(model) if noisy else "it has no linear map that could have noise"

    def fit(self, model: Model, data: Data, rng: Streams) -> Posterior:
        """Train each row's network under its own noise."""
        layout = Layout(model.leaves())
        data, plan = self.with_plan(model, data, rng)
        prior = prior_of(model, layout, self.prior_sd, self.prior_scaling, data.x)

        def rule(flat: Tensor, noise: Streams) -> Layer:
            return self.drawn(layout, flat)(noise, False)

        def posterior(state: State) -> Posterior:
            return self.posterior(model, layout, state.flat)

        return posterior(last(fit_network(model, data, rng, plan, rule, prior, posterior=posterior)))

    def restored(self, model: Model, state: Mapping[str, Tensor]) -> Posterior:
        """Return the learnt network, under noise."""
        layout = Layout(model.leaves())
        return self.posterior(model, layout, layout.joined(state))

    def posterior(self, model: Model, layout: Layout, flat: Tensor) -> WeightPosterior:
        """Return rows (R, P) as a posterior under noise of their own."""
        moments = partial(self.moments, layout, flat)
        return WeightPosterior(model, layout.views(flat), self.drawn(layout, flat), moments=moments)

    def drawn(self, layout: Layout, flat: Tensor) -> Callable[[Streams, bool], Layer]:
        """Return a function that draws networks from rows (R, P), one for all examples where `joint`.

        Each map draws from its own stream, and not at all where p is the number 0.
        """
        leaves = layout.views(flat)
        rates = dropout_rates(layout, self.input_rate, self.rate)
        sds = {  # √α: numbers, or (R, 1, …)
            name: per_row((p / (1 - p)) ** 0.5, flat, leaves[name].ndim)
            for name, p in rates.items()
            if isinstance(p, Tensor) or p > 0
        }
        squares = {name: leaves[name].square() for name in sds} if self.noise == "outputs" else {}

        def draw(noise: Streams, joint: bool) -> Layer:
            if self.noise == "inputs":
                return InputNoise(leaves, sds, noise, joint)
            if joint:
                epsilon = layout.views(noise.normal((layout.width,), flat))  # ([M,] R, *S)
                return Point({name: w + w * epsilon[name] * sds.get(name, 0.0) for name, w in leaves.items()})
            return LocalNoise(leaves, squares, noise, scale=sds)

        return draw

    def moments(self, layout: Layout, flat: Tensor) -> Moments | None:
        """Return the moments of rows (R, P) under noise: on the inputs those of masks, else of independent weights."""
        rates = dropout_rates(layout, self.input_rate, self.rate)
        if self.noise == "inputs":
            return dropout_moments(layout, flat, rates)
        leaves = layout.views(flat.double())
        odds = {name: per_row(p / (1 - p), flat.double(), leaves[name].ndim) for name, p in rates.items()}
        return factorised_moments(
            layout, flat, layout.joined({name: w.square() * odds.get(name, 0.0) for name, w in leaves.items()})
        )


methods = {"gaussian_dropout": GaussianDropout}
