"""Variational inference by an improved variational online Newton method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from bdlbench.core.layout import Layout, PerRow
from bdlbench.core.options import option
from bdlbench.core.streams import Streams
from bdlbench.data.task import Data, Examples
from bdlbench.kernels.elbo import negative_elbo
from bdlbench.networks.layers import Point
from bdlbench.posteriors.fitting import (
    NO_NOISE,
    GaussianPrior,
    PriorScaling,
    expected_log_likelihood,
    initial_network,
    prior_of,
    trained_elbo,
    training_option,
)
from bdlbench.posteriors.moments import factorised_moments
from bdlbench.posteriors.weights import WeightPosterior
from bdlbench.predictives.mixtures import ordered_sum
from bdlbench.protocols import Layer, Model, OwnsPrior
from bdlbench.training.loop import State, last, minimise
from bdlbench.training.optimisers import Tensors, Update, with_decay
from bdlbench.training.plan import Moment, Plan
from bdlbench.training.recipe import Recipe
from bdlbench.training.terms import term


@dataclass(frozen=True)
class IVON(Recipe):
    """IVON: an independent Gaussian for every weight, by natural-gradient steps as cheap as Adam's (Shen et al. 2024).

    q(w) = Π_i N(m_i, σ_i²) with σ² = 1 / (N (h + δ)): h is a mean curvature per example, and δ = 1 / (N prior_sd²). A
    step draws w ~ q and takes the gradient g of the mean loss there (algorithm 1), with β₁ = momentum:

        ĥ = g (w − m) / σ²
        v ← β₁ v + (1 − β₁) g
        h ← β₂ h + (1 − β₂) ĥ + ½ (1 − β₂)² (h − ĥ)² / (h + δ)
        m ← m − α (h₀ + δ) (v / (1 − β₁ᵗ) + δ m) / (h + δ)

    Minimises −(1/N) [Σ_n E_q log p(y_n | x_n, w) − KL(q ‖ N(0, prior_sd²))]. At a draw the derivative of that by h,
    times −2 N (h + δ)², is ĥ − h, and the one by m is g + δ m. So the rows of training are (m, h), and no noise is
    kept. A step averages over `weight_samples` draws. In prediction one draw serves a block of examples.
    """

    learning_rate: PerRow = training_option("learning_rate", default=0.1, help="α, the step size", search=(0.01, 1.0))
    prior_sd: PerRow = training_option("prior_sd")
    prior_scaling: PriorScaling = training_option("prior_scaling")
    initial_hessian: PerRow = option(
        1.0, "the curvature that it starts from, per example", low=0, open_ends=True, search=(0.01, 10.0)
    )
    momentum: PerRow = training_option("momentum", help="β₁, momentum of the gradient")
    hessian_momentum: PerRow = option(0.99999, "β₂, momentum of the curvature", low=0, high=1)
    weight_samples: int = option(1, "K, samples of the weights in a step", low=1)
    bound_samples: int = option(3, "draws for the reported ELBO", low=1)

    def unsupported(self, model: Model) -> str | None:
        """Refuse a prior that is no Gaussian."""
        if isinstance(model, OwnsPrior) and not isinstance(
            model.prior(Layout(model.leaves()), torch.zeros(1)), GaussianPrior
        ):
            return "its prior is no Gaussian, and a natural-gradient step is of one"
        if self.optimiser != "adam":
            return "its step is a natural-gradient one of its own, so optimiser has no say: leave it at adam"
        return self.untrainable(model)

    def fit(self, model: Model, data: Data, rng: Streams) -> WeightPosterior:
        """Train each row's Gaussian."""
        layout = Layout(model.leaves())
        data, plan = self.with_plan(model, data, rng)
        prior, count = self.prior(model, layout, data.x), data.num_data
        delta = prior.rows.precision / count  # (1 or R, P), 0 on padding
        counted = prior.rows.counted

        def sd(hessian: Tensor) -> Tensor:
            return (count * (hessian + delta)).rsqrt()

        def objective(flat: Tensor, batch: Examples, noise: Streams, moment: Moment) -> Tensor:
            mean, hessian = flat.chunk(2, dim=-1)
            spread, elbos = sd(hessian), []
            for _ in range(self.weight_samples):
                drawn = mean + spread * counted * noise.normal((layout.width,), mean)
                elbos.append(trained_elbo(model, Point(layout.views(drawn)), batch, noise, plan))  # (R, B)
            likelihood = term("likelihood", ordered_sum(elbos) / len(elbos))
            return negative_elbo(likelihood, term("divergence", prior.kl(mean, spread.log())), count)

        def posterior(state: State, bound: Tensor | None = None) -> WeightPosterior:
            mean, hessian = state.flat.chunk(2, dim=-1)
            log_sd = torch.where(counted > 0, sd(hessian).log(), NO_NOISE)
            return self.posterior(model, layout, mean, log_sd, bound)

        mean = initial_network(model, data, rng.child("init"))
        initial = torch.cat([mean, _column(self.initial_hessian).to(mean).expand_as(mean)], -1)
        update = self.update(plan, delta, count)
        final = last(minimise(objective, initial, data, rng, plan, update, posterior=posterior))
        found = posterior(final)
        expected, _ = expected_log_likelihood(
            model, lambda noise: found.draw(noise, False), data, rng.child("bound"), self.bound_samples
        )
        mean, hessian = final.flat.double().chunk(2, dim=-1)
        return posterior(final, expected - self.prior(model, layout, mean).kl(mean, sd(hessian).log()))

    def update(self, plan: Plan, delta: Tensor, count: int) -> Update:
        """Return the step rule of rows (m, h), with δ (1 or R, P) and N."""

        def start(flat: Tensor) -> Tensors:
            width = flat.shape[1] // 2
            ones = torch.ones(len(flat), 1, dtype=torch.float64, device=flat.device)
            return {"momentum": flat.new_zeros(len(flat), width), "β₁ᵗ": ones}

        first, second, initial_hessian = (
            _column(value) for value in (self.momentum, self.hessian_momentum, self.initial_hessian)
        )

        def step(
            flat: Tensor, gradient: Tensor, kept: Tensors, rate: PerRow, moment: Moment, noise: Streams
        ) -> tuple[Tensor, Tensors]:
            mean, hessian = flat.chunk(2, dim=-1)
            slope, of_hessian = with_decay(flat, gradient, plan).chunk(2, dim=-1)
            total = hessian + delta
            change = -2 * count * total.square() * of_hessian  # ĥ − h
            momentum = first.to(flat) * kept["momentum"] + (1 - first).to(flat) * (slope - delta * mean)
            moved = (1 - second).to(flat) * change + (0.5 * (1 - second).square()).to(flat) * change.square() / total
            hessian, decayed = hessian + moved, kept["β₁ᵗ"] * first.to(flat.device)
            direction = (momentum / (1 - decayed).to(flat) + delta * mean) / (hessian + delta)
            mean = mean - _column(rate).to(flat) * (initial_hessian.to(flat) + delta) * direction
            return torch.cat([mean, hessian], -1), {"momentum": momentum, "β₁ᵗ": decayed}

        return Update(start, step)

    def prior(self, model: Model, layout: Layout, like: Tensor) -> GaussianPrior:
        """Return the Gaussian prior of the model, or of the options."""
        prior = prior_of(model, layout, self.prior_sd, self.prior_scaling, like)
        assert isinstance(prior, GaussianPrior)
        return prior

    def restored(self, model: Model, state: Mapping[str, Tensor]) -> WeightPosterior:
        """Return the learnt Gaussian."""
        layout = Layout(model.leaves())
        mean, log_sd = (layout.joined({k: state[f"{k}.{part}"] for k in layout.leaves}) for part in ("mean", "log_sd"))
        return self.posterior(model, layout, mean, log_sd, None)

    def posterior(
        self, model: Model, layout: Layout, mean: Tensor, log_sd: Tensor, bound: Tensor | None
    ) -> WeightPosterior:
        """Return rows of means and log standard deviations, (R, P) each, as a posterior."""
        parts = {"mean": mean, "log_sd": log_sd}
        state = {f"{name}.{part}": v for part, flat in parts.items() for name, v in layout.views(flat).items()}
        sd = log_sd.exp()

        def draw(noise: Streams, joint: bool) -> Layer:
            return Point(layout.views(torch.addcmul(mean, sd, noise.normal((layout.width,), mean))))

        moments = partial(factorised_moments, layout, mean, (2 * log_sd.double()).exp(), gaussian=True)
        return WeightPosterior(model, state, draw, bound=bound, moments=moments)


def _column(value: PerRow) -> Tensor:
    """Return a number, or one for each row (R,), as a column (1 or R, 1) float64: the bits are the same either way."""
    return torch.as_tensor(value, dtype=torch.float64).reshape(-1, 1)


methods = {"ivon": IVON}
