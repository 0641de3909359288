"""Stochastic weight averaging, Gaussian: an example of a method that collects states of training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from bdlbench.core.layout import Layout, PerRow, per_row
from bdlbench.core.options import option
from bdlbench.core.streams import Streams
from bdlbench.data.task import Data
from bdlbench.kernels.linear import product
from bdlbench.networks.layers import Point
from bdlbench.posteriors.fitting import PriorScaling, fit_network, prior_of, training_option
from bdlbench.posteriors.statistics import with_statistics
from bdlbench.posteriors.weights import WeightPosterior
from bdlbench.protocols import Layer, Model, Moments, Posterior
from bdlbench.training.loop import Collect, State, last
from bdlbench.training.optimisers import Tensors, Update, optimiser_of
from bdlbench.training.plan import Decay, Moment
from bdlbench.training.recipe import Recipe

PARTS = ("mean", "variance")


@dataclass(frozen=True)
class SWAG(Recipe):
    """SWAG: a Gaussian with the moments of the weights along SGD at a constant rate (Maddox et al. 2019).

    After a burn-in, as MAP trains, SGD continues at `collect_rate`. Every `every` epochs its weights w enter the
    moments, beginning with those at the end of the burn-in (algorithm 1). With diagonal Σ = E w² − (E w)² and D the
    last K ≤ `rank` deviations of w from the mean so far, a draw is E w + Σ^½ z₁ / √2 + D z₂ / √(2 (K − 1)) (eq. 1).
    With fewer than two deviations there is no D, and a draw is E w + Σ^½ z₁: SWAG-diagonal. One draw serves a block of
    examples. A network with BatchNorm gets the statistics of its first training examples anew for each draw, as in the
    paper. The defaults of `collect_from` and the options after it are those of the authors' VGG-16, from epoch 161 of
    300; their SGD has momentum.
    """

    epochs: int = training_option("epochs", help="passes over the training data, the collecting ones included", low=2)
    learning_rate: PerRow = training_option("learning_rate", help="the optimiser's step size, in the burn-in")
    decay: Decay = training_option("decay", help="learning rate over time, in the burn-in", later=True)
    prior_sd: PerRow = training_option("prior_sd")
    prior_scaling: PriorScaling = training_option("prior_scaling")
    collect_from: float = option(0.53, "fraction of the epochs that are the burn-in, of one at least", low=0, high=1)
    collect_rate: PerRow = option(0.01, "SGD's step size while states are collected", low=0, search=(1e-3, 0.1))
    every: int = option(1, "epochs from one collected state to the next", low=1)
    rank: int = option(20, "deviations that are kept; 0 or 1: the covariance is diagonal", low=0)

    def unsupported(self, model: Model) -> str | None:
        """Accept every model, since each has weights, but not to end before the last states are collected."""
        if self.validation:
            return "it collects states until its last epoch, so none can be chosen by validation rows"
        return self.untrainable(model)

    def fit(self, model: Model, data: Data, rng: Streams) -> Posterior:
        """Train each row's network and collect the moments of its weights."""
        data, plan = self.with_plan(model, data, rng)
        epochs = plan.total_epochs(data.num_data)
        layout, burn_in = Layout(model.leaves()), max(1, round(self.collect_from * epochs))
        own, last_of_burn_in = optimiser_of(plan), burn_in * plan.steps_per_epoch(data.num_data)
        prior = prior_of(model, layout, self.prior_sd, self.prior_scaling, data.x)
        columns = min(self.rank, (epochs - burn_in) // self.every)
        columns = columns if columns > 1 else 0

        def step(
            flat: Tensor, gradient: Tensor, kept: Tensors, rate: PerRow, moment: Moment, noise: Streams
        ) -> tuple[Tensor, Tensors]:
            if moment.step < last_of_burn_in:
                return own.step(flat, gradient, kept, rate, moment, noise)
            return flat - per_row(self.collect_rate, flat, 2) * gradient, kept

        def nothing(flat: Tensor) -> Tensors:
            sums = {name: torch.zeros_like(flat, dtype=torch.float64) for name in ("mean", "squares")}
            deviations = flat.new_zeros(len(flat), columns, layout.width)
            return {"count": flat.new_zeros(len(flat), 1), **sums, "deviations": deviations}

        def add(state: State, sums: Tensors) -> Tensors:
            if state.epoch < burn_in or (state.epoch - burn_in) % self.every:
                return sums
            count, before = sums["count"] + 1, state.flat - sums["mean"]
            mean = sums["mean"] + before / count
            after = state.flat - mean
            squares = sums["squares"] + before * after  # Welford (1962): exactly 0 where nothing moves
            deviations = torch.cat([sums["deviations"], after.to(state.flat).unsqueeze(1)], 1)[:, 1:]
            return {"count": count, "mean": mean, "squares": squares, "deviations": deviations}

        rule = Update(own.start, step)

        def network(flat: Tensor, noise: Streams) -> Point:
            return Point(layout.views(flat))

        def posterior(state: State) -> Posterior | None:
            found = state.collected
            if not found["count"].all():  # the burn-in goes on
                return None
            mean, variance = found["mean"].to(data.x), (found["squares"] / found["count"]).to(data.x)
            return self.posterior(model, layout, mean, variance, found["deviations"], data.x)

        collect = Collect(nothing, add)
        final = posterior(last(fit_network(model, data, rng, plan, network, prior, rule, collect, posterior)))
        assert final is not None  # the burn-in ends before the last epoch
        return final

    def restored(self, model: Model, state: Mapping[str, Tensor]) -> Posterior | None:
        """Return the stored Gaussian; None of a network with BatchNorm, whose statistics are of the training data."""
        layout = Layout(model.leaves())
        if layout.buffers:
            return None
        mean, variance = (layout.joined({k: state[f"{k}.{part}"] for k in layout.leaves}) for part in PARTS)
        return self.posterior(model, layout, mean, variance, state["deviations"])

    def posterior(
        self,
        model: Model,
        layout: Layout,
        mean: Tensor,
        variance: Tensor,
        deviations: Tensor,
        x: Tensor | None = None,
    ) -> WeightPosterior:
        """Return means and variances (R, P) with the deviations (R, K, P), K = 0 for none, as a posterior.

        x (R, N, …): the training inputs, of which a network with buffers gets statistics.
        """
        parts = dict(zip(PARTS, (mean, variance), strict=True))
        state = {f"{k}.{part}": v for part, flat in parts.items() for k, v in layout.views(flat).items()}
        columns = deviations.shape[1]
        sd = (variance / 2 if columns else variance).sqrt()
        low = deviations / math.sqrt(2 * (columns - 1)) if columns else deviations

        def draw(noise: Streams, joint: bool) -> Layer:
            flat = mean + sd * noise.normal((layout.width,), mean)
            if columns:
                flat = flat + product(noise.normal((1, columns), mean), low).squeeze(-2)
            leaves = layout.views(flat)
            return Point(leaves if x is None or not layout.buffers else with_statistics(model, leaves, x))

        moments = partial(self.moments, layout, mean, sd, low)
        return WeightPosterior(model, {**state, "deviations": deviations}, draw, moments=moments)

    def moments(self, layout: Layout, mean: Tensor, sd: Tensor, low: Tensor) -> Moments:
        """Return the moments of a draw: the covariance is diag(sd²) + lowᵀ low, rows (R, P) and (R, K, P)."""
        factors = layout.packed(low.double())
        shared = torch.stack([row.mT @ row for row in factors.clone()])
        alone = torch.diag_embed(layout.packed(sd.double()).square())
        return Moments(layout.packed(mean).double(), alone + shared, gaussian=True)


methods = {"swag": SWAG}
