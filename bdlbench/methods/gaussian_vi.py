"""Variational inference with a Gaussian whose weights depend on each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor

from bdlbench.core.layout import Layout, PerRow
from bdlbench.core.options import option
from bdlbench.core.streams import Streams
from bdlbench.data.task import Data, Examples
from bdlbench.kernels.elbo import negative_elbo
from bdlbench.kernels.joint_gaussian import cholesky_kl, low_rank_kl
from bdlbench.kernels.linear import product
from bdlbench.networks.layers import Point
from bdlbench.posteriors.fitting import (
    GaussianPrior,
    PriorScaling,
    expected_log_likelihood,
    initial_network,
    prior_of,
    trained_elbo,
    training_option,
)
from bdlbench.posteriors.weights import WeightPosterior
from bdlbench.predictives.mixtures import ordered_sum
from bdlbench.protocols import Layer, Model, Moments, OwnsPrior, Posterior
from bdlbench.training.loop import State, last, minimise
from bdlbench.training.plan import Moment
from bdlbench.training.recipe import Recipe
from bdlbench.training.terms import term

Covariance = Literal["low_rank", "full"]

MOST_CORRELATED = 2000
"""Parameters up to which a full covariance is learnt: its rows and Adam's moments of them are 48 MB a replicate."""

START = 0.1
"""The standard deviation of a factor's entries at the start, in units of sd: at zero a low rank has no gradient."""


@dataclass(frozen=True)
class GaussianVI(Recipe):
    """Gaussian VI: a Gaussian of all weights together, its covariance low rank plus diagonal, or full.

    q(w) = N(mean, diag(sd²) + FᵀF) with `rank` rows of F (Ong, Nott & Smith 2018, eq. 4); full: N(mean, LᵀL) with a
    triangular L (Titsias & Lázaro-Gredilla 2014). Minimises −(1/N) [Σ_n E_q log p(y_n | x_n, w) − KL(q ‖ N(0,
    prior_sd²))] with one sample of the weights a step, and the KL in closed form. One draw serves a block of examples.
    """

    prior_sd: PerRow = training_option("prior_sd")
    prior_scaling: PriorScaling = training_option("prior_scaling")
    covariance: Covariance = option("low_rank", "which covariances q may have", choices=get_args(Covariance))
    rank: int = option(10, "rows of F of a low-rank covariance; 0: it is diagonal", low=0)
    initial_log_sd: PerRow = option(
        -5.0, "log standard deviation of q at the start", low=-30, high=5, search=(-8.0, -1.0)
    )
    bound_samples: int = option(3, "draws for the reported ELBO", low=1)

    def unsupported(self, model: Model) -> str | None:
        """Refuse a prior that is no Gaussian, or too many weights for a full covariance."""
        layout = Layout(model.leaves())
        if isinstance(model, OwnsPrior) and not isinstance(model.prior(layout, torch.zeros(1)), GaussianPrior):
            return "its prior is no Gaussian, and the KL from one is in closed form only to a Gaussian"
        if self.covariance == "full" and layout.num_parameters > MOST_CORRELATED:
            return f"its {layout.num_parameters} parameters are too many for a full covariance: take low_rank"
        return self.untrainable(model)

    def fit(self, model: Model, data: Data, rng: Streams) -> Posterior:
        """Train each row's Gaussian."""
        layout = Layout(model.leaves())
        data, plan = self.with_plan(model, data, rng)
        prior = prior_of(model, layout, self.prior_sd, self.prior_scaling, data.x)
        assert isinstance(prior, GaussianPrior)
        kl = {"low_rank": low_rank_kl, "full": cholesky_kl}[self.covariance]

        def objective(flat: Tensor, batch: Examples, noise: Streams, moment: Moment) -> Tensor:
            mean, log_sd, factors = self.parts(layout, flat)
            layer = Point(layout.views(self.drawn(mean, self.sd(layout, log_sd), factors, noise)))
            elbo = term("likelihood", trained_elbo(model, layer, batch, noise, plan))
            return negative_elbo(elbo, term("divergence", kl(mean, log_sd, factors, prior.rows)), data.num_data)

        def posterior(state: State) -> WeightPosterior:
            return self.posterior(model, layout, state.flat)

        initial = self.initial(model, layout, data, rng.child("init"))
        final = last(minimise(objective, initial, data, rng, plan, posterior=posterior))
        found, count = posterior(final), self.bound_samples
        expected, draws = expected_log_likelihood(
            model, lambda noise: found.draw(noise, False), data, rng.child("bound"), count
        )
        mean, log_sd, factors = self.parts(layout, final.flat.double())
        wide = prior_of(model, layout, self.prior_sd, self.prior_scaling, mean)
        assert isinstance(wide, GaussianPrior)
        bound = expected - kl(mean, log_sd, factors, wide.rows)
        if count == 1:
            return replace(found, bound=bound)
        variance = ordered_sum((draws - expected).square()) / (count - 1)  # (R,)
        return replace(found, bound=bound, facts={"elbo_standard_error": (variance / count).sqrt()})

    def initial(self, model: Model, layout: Layout, data: Data, rng: Streams) -> Tensor:
        """Return initial rows (R, (2 + K) P): means as a network's weights, equal sd, and small factors."""
        mean = initial_network(model, data, rng)
        log_sd = torch.as_tensor(self.initial_log_sd).to(mean).reshape(-1, 1).expand_as(mean)
        mask = self.mask(layout, mean)
        noise = rng.child("factors").normal((mask.numel(),), mean).view(len(mean), *mask.shape)
        factors = START * log_sd.exp().unsqueeze(1) * noise * mask
        return torch.cat([mean, log_sd, factors.flatten(1)], -1)

    def mask(self, layout: Layout, like: Tensor) -> Tensor:
        """Return 1 where F may be other than zero, (K, P): not on padding; of a full covariance above the diagonal."""
        counted = layout.fill(lambda leaf: 1.0).to(like)
        if self.covariance == "full":
            return (counted.unsqueeze(1) * counted).triu(1)
        return counted.expand(self.rank, -1)

    def parts(self, layout: Layout, flat: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Split rows into means (R, P), log standard deviations (R, P) and factors F (R, K, P)."""
        mask, width = self.mask(layout, flat), layout.width
        factors = flat[:, 2 * width :].view(len(flat), *mask.shape) * mask
        return flat[:, :width], flat[:, width : 2 * width], factors

    def sd(self, layout: Layout, log_sd: Tensor) -> Tensor:
        """Return standard deviations (R, P), zero on buffers, which are no weights."""
        sd = log_sd.exp()
        return sd * layout.fill(lambda leaf: 1.0).to(sd) if layout.buffers else sd

    def drawn(self, mean: Tensor, sd: Tensor, factors: Tensor, noise: Streams) -> Tensor:
        """Draw weights ([M,] R, P)."""
        epsilon = noise.normal(mean.shape[1:], mean)
        alone = mean + sd * epsilon
        if not factors.shape[1]:
            return alone
        eta = epsilon if self.covariance == "full" else noise.normal(factors.shape[1:2], mean, "factors")
        return alone + product(eta.unsqueeze(-2), factors).squeeze(-2)

    def restored(self, model: Model, state: Mapping[str, Tensor]) -> Posterior:
        """Return the learnt Gaussian."""
        layout = Layout(model.leaves())
        mean, log_sd = (layout.joined({k: state[f"{k}.{part}"] for k in layout.leaves}) for part in ("mean", "log_sd"))
        return self.posterior(model, layout, torch.cat([mean, log_sd, state["factors"].flatten(1)], -1))

    def posterior(self, model: Model, layout: Layout, flat: Tensor) -> WeightPosterior:
        """Return rows (R, (2 + K) P) as a posterior."""
        mean, log_sd, factors = self.parts(layout, flat)
        sd = self.sd(layout, log_sd)
        views = {"mean": layout.views(mean), "log_sd": layout.views(log_sd)}
        state = {f"{k}.{part}": view for part, leaves in views.items() for k, view in leaves.items()}

        def draw(noise: Streams, joint: bool) -> Layer:
            return Point(layout.views(self.drawn(mean, sd, factors, noise)))

        moments = partial(self.moments, layout, mean, log_sd, factors)
        return WeightPosterior(model, {**state, "factors": factors}, draw, moments=moments)

    def moments(self, layout: Layout, mean: Tensor, log_sd: Tensor, factors: Tensor) -> Moments:
        """Return the moments of rows: mean (R, P), log_sd (R, P) and factors (R, K, P)."""
        diagonal = torch.diag_embed(log_sd.double().exp())  # (R, P, P)
        full = self.covariance == "full"
        roots = diagonal + factors.double() if full else torch.cat([diagonal, factors.double()], 1)
        covariance = torch.stack([root.mT @ root for root in layout.packed(roots).clone()])
        return Moments(layout.packed(mean).double(), covariance, gaussian=True)


methods = {"gaussian_vi": GaussianVI}
