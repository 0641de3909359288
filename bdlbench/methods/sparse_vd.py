"""Sparse variational dropout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor

from bdlbench.core.layout import Layout, PerRow, per_row
from bdlbench.core.options import option
from bdlbench.core.streams import Streams
from bdlbench.data.task import Data, Examples
from bdlbench.kernels.elbo import negative_elbo
from bdlbench.kernels.factorised import sparse
from bdlbench.kernels.kl import log_alpha
from bdlbench.networks.layers import Leaves, LocalNoise, Point, WeightNoise
from bdlbench.posteriors.fitting import initial_network, is_linear, trained_elbo, training_option
from bdlbench.posteriors.moments import factorised_moments
from bdlbench.posteriors.sparsity import sparsity_facts
from bdlbench.posteriors.weights import WeightPosterior
from bdlbench.protocols import Layer, Model, Moments, Posterior
from bdlbench.training.loop import State, last, minimise
from bdlbench.training.plan import Decay, Moment
from bdlbench.training.recipe import Recipe
from bdlbench.training.terms import term

KlAbove = Literal["falling", "constant"]
NoiseAbove = Literal["kept", "dropped_in_convolutions", "dropped"]
PredictBy = Literal["samples", "means"]
Predicting = Literal["remaining", "all"]


@dataclass(frozen=True)
class SparseVD(Recipe):
    """Sparse variational dropout: a log-uniform prior drives most weights to zero (Molchanov et al. 2017).

    q(w) = Π_i N(w_i; mean_i, α_i mean_i²), learnt as (mean, log variance). Minimises −(1/N) [Σ_n E_q log p − ramp · KL]
    with local reparameterisation. The ramp goes from 0 to 1 at ramp_end, so the final weight of the KL is 1/N. While
    the log α of a weight is above the threshold, training uses zero as its mean; the weight comes back if log α falls
    again. In the posterior such a weight and its noise are zero. Biases and scales are points. Published schedule:
    batches of 100, 200 epochs, KL weight 0 for 5 epochs and 1 from epoch 20.

    With kl_above_threshold=falling the KL of such a weight goes on towards zero (eq. 14), up to log α = 8, and drives
    it further away; with constant it is zero, so that only the likelihood moves the weight, through its noise. Without
    its noise too (noise_above_threshold=dropped) it is zero in training, and stays so. The authors' code was first
    published with the constant (March 2017) and has had the falling KL since May 2017; it drops that noise in
    convolutions alone, and predicts by the means of the weights that are left (predict_by=means). With predicting=all
    nothing is zeroed in the posterior, so that one sees whether what would be taken out matters; `sparsity` counts it.
    """

    decay: Decay = training_option("decay", default="linear")
    initial_log_variance: PerRow = option(
        -10.0, "log variance of q at the start", low=-60, high=5, search=(-12.0, -3.0)
    )
    ramp_start: PerRow = option(
        0.025, "fraction of training after which the KL comes in", low=0, high=1, open_ends="high"
    )
    ramp_end: PerRow = option(0.1, "fraction of training from which the KL has its full weight", low=0, high=1)
    threshold: PerRow = option(3.0, "log α above which a weight is zero", low=-8, high=8)
    kl_above_threshold: KlAbove = option(
        "falling", "KL of a weight above the threshold", choices=get_args(KlAbove), later=True
    )
    noise_above_threshold: NoiseAbove = option(
        "kept", "noise in training of a weight above the threshold", choices=get_args(NoiseAbove), later=True
    )
    predict_by: PredictBy = option(
        "samples",
        "average samples of the weights that are left, or take their means",
        choices=get_args(PredictBy),
        later=True,
    )
    predicting: Predicting = option(
        "remaining",
        "weights that predict: those below the threshold, or all, each with its own mean and noise",
        choices=get_args(Predicting),
        later=True,
    )

    def unsupported(self, model: Model) -> str | None:
        """Refuse a model without linear maps, which has nothing to make sparse."""
        linear = any(is_linear(leaf) for leaf in model.leaves().values())
        return self.untrainable(model) if linear else "it has no linear map to make sparse"

    def fit(self, model: Model, data: Data, rng: Streams) -> Posterior:
        """Train each row's Gaussian."""
        layout = Layout(model.leaves())
        data, plan = self.with_plan(model, data, rng)
        counted = layout.fill(lambda leaf: float(is_linear(leaf))).to(data.x)  # (P,)
        limit = torch.where(counted > 0, per_row(self.threshold, data.x, 2), torch.inf).reshape(-1, layout.width)
        linear = [name for name, leaf in layout.leaves.items() if is_linear(leaf)]
        constant = self.kl_above_threshold == "constant"
        convolutions = [name for name in linear if len(layout.leaves[name].shape) > 2]
        silent = {"kept": [], "dropped_in_convolutions": convolutions, "dropped": linear}[self.noise_above_threshold]

        def objective(flat: Tensor, batch: Examples, noise: Streams, moment: Moment) -> Tensor:
            mean, variance, kl = sparse(flat, layout, linear, counted, limit, moment.reported, constant)
            for name in silent:
                variance[name] = variance[name] * (mean[name] != 0)  # above the threshold a mean is zero
            layer = LocalNoise(mean, variance, noise)
            elbo = term("likelihood", trained_elbo(model, layer, batch, noise, plan))
            kl = self.ramp(moment.progress).to(kl) * term("divergence", kl)
            return negative_elbo(elbo, kl, data.num_data)

        initial = self.initial(model, data, rng.child("init"))

        def posterior(state: State) -> Posterior:
            return self.posterior(model, layout, state.flat)

        return posterior(last(minimise(objective, initial, data, rng, plan, posterior=posterior)))

    def dropped(self, alpha: Tensor) -> Tensor:
        """Tell which weights are zero, (R, P): log α is at or above the threshold."""
        return alpha >= per_row(self.threshold, alpha, 2)

    def ramp(self, progress: float) -> Tensor:
        """Return the factor of the KL at a fraction of training, () or (R,): 0 until ramp_start, 1 from ramp_end."""
        start, end = (torch.as_tensor(v, dtype=torch.float32) for v in (self.ramp_start, self.ramp_end))
        return ((progress - start) / (end - start).clamp_min(1e-9)).clamp(0, 1)

    def initial(self, model: Model, data: Data, rng: Streams) -> Tensor:
        """Return initial rows (R, 2P): means as a network's weights, log variances all the same."""
        mean = initial_network(model, data, rng)
        value = torch.as_tensor(self.initial_log_variance, dtype=mean.dtype, device=mean.device)
        return torch.cat([mean, value.reshape(-1, 1).expand_as(mean)], dim=-1)

    def posterior(self, model: Model, layout: Layout, flat: Tensor) -> WeightPosterior:
        """Return rows (R, 2P) as a posterior whose dropped weights, and their noise, are zero."""
        mean, log_variance = flat.chunk(2, dim=-1)
        remaining = ~self.dropped(log_alpha(mean, log_variance))
        kept = remaining if self.predicting == "remaining" else torch.ones_like(remaining)
        means = {
            name: value * (layout.views(kept)[name] if is_linear(layout.leaves[name]) else 1)
            for name, value in layout.views(mean).items()
        }
        variances = _linear(layout, log_variance.exp() * kept)
        found = self.predictor(model, means, variances)
        facts = sparsity_facts(_linear(layout, remaining), layout)
        return replace(found, facts=facts, moments=partial(self.moments, layout, flat, kept))

    def restored(self, model: Model, state: Mapping[str, Tensor]) -> Posterior:
        """Return the weights that were not dropped, and their noise."""
        layout = Layout(model.leaves())
        means = {name: state[f"{name}.mean"] for name in layout.leaves}
        linear = [name for name, leaf in layout.leaves.items() if is_linear(leaf)]
        return self.predictor(model, means, {name: state[f"{name}.variance"] for name in linear})

    def predictor(self, model: Model, means: Leaves, variances: Leaves) -> WeightPosterior:
        """Return weights of these means and variances as a posterior that predicts by samples, or by the means."""
        state = {f"{k}.mean": v for k, v in means.items()} | {f"{k}.variance": v for k, v in variances.items()}
        if self.predict_by == "means":
            return WeightPosterior(model, state, lambda noise, joint: Point(means), deterministic=True)

        def draw(noise: Streams, joint: bool) -> Layer:
            return (WeightNoise if joint else LocalNoise)(means, variances, noise)

        return WeightPosterior(model, state, draw)

    def moments(self, layout: Layout, flat: Tensor, kept: Tensor) -> Moments:
        """Return the moments of rows (R, 2P) whose linear maps keep the weights `kept` (R, P).

        Biases and scales are points.
        """
        mean, log_variance = flat.double().chunk(2, dim=-1)
        sparse = layout.fill(lambda leaf: float(is_linear(leaf))).to(flat.device)
        return factorised_moments(layout, mean * (1 - sparse * ~kept), log_variance.exp() * kept * sparse)


def _linear(layout: Layout, flat: Tensor) -> dict[str, Tensor]:
    """Return the views of linear maps only."""
    return {name: view for name, view in layout.views(flat).items() if is_linear(layout.leaves[name])}


methods = {"sparse_vd": SparseVD}
