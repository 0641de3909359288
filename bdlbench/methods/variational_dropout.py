"""Variational dropout."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from bdlbench.core.layout import Layout, Leaf, PerRow
from bdlbench.core.options import option
from bdlbench.core.streams import Streams
from bdlbench.data.task import Data, Examples
from bdlbench.kernels.elbo import negative_elbo
from bdlbench.kernels.kl import cubic_log_uniform_kl, log_uniform_kl, row_sum
from bdlbench.networks.layers import Leaves, LocalNoise, WeightNoise
from bdlbench.posteriors.fitting import initial_network, is_linear, trained_elbo
from bdlbench.posteriors.gradient_variance import gradient_variance
from bdlbench.posteriors.moments import factorised_moments
from bdlbench.posteriors.weights import WeightPosterior
from bdlbench.protocols import Layer, Model, Moments, Posterior
from bdlbench.training.loop import State, last, minimise
from bdlbench.training.optimisers import Tensors, Update, optimiser_of
from bdlbench.training.plan import Moment
from bdlbench.training.recipe import Recipe
from bdlbench.training.terms import term

Granularity = Literal["layer", "neuron", "weight"]
Approximation = Literal["cubic", "sigmoid"]

DIVERGENCES: dict[Approximation, Callable[[Tensor], Tensor]] = {
    "cubic": cubic_log_uniform_kl,
    "sigmoid": log_uniform_kl,
}
"""KL of one weight from the log-uniform prior in nats, from its log α."""


@dataclass(frozen=True)
class VariationalDropout(Recipe):
    """Variational dropout: Gaussian dropout whose rates are learnt (Kingma, Salimans & Welling 2015).

    q(w) = Π_i N(w_i; θ_i, α θ_i²), with one α for a layer, for an input unit of it, or for a weight, learnt as (θ,
    log α). Minimises −(1/N) [Σ_n E_q log p(y_n | x_n, w) − KL(q ‖ log-uniform)] by local reparameterisation (§2.3 and
    §3.1 of the paper: independent noise of the weights). The KL depends on α alone; it is approximated by the paper's
    cubic, fitted for α ≤ 1, or by the sigmoid of Molchanov et al. 2017, for any α. After each step α is put back to
    at most `max_alpha`, in the paper 1, which is a dropout rate of one half. Biases and scales are points. The initial
    α is not the paper's, which does not state one.

    With `gradient_pairs` the facts hold the variance of four estimates of the gradient at what was learnt (§5.1 of the
    paper), from batches of `batch_size`. Weights drawn for each example take some hundred times as long as a step.
    """

    granularity: Granularity = option("layer", "what has an α of its own", choices=get_args(Granularity))
    initial_alpha: PerRow = option(
        0.25, "α at the start, or max_alpha if that is less", low=0, open_ends=True, search=(0.01, 1.0)
    )
    max_alpha: PerRow = option(1.0, "largest α; a large number leaves it free", low=0, open_ends=True)
    approximation: Approximation = option("cubic", "which approximation the KL has", choices=tuple(DIVERGENCES))
    gradient_pairs: int = option(
        0, "pairs of batches that measure the variance of gradient estimates; 0: none", low=0, later=True
    )

    def unsupported(self, model: Model) -> str | None:
        """Refuse a model without linear maps, which have the noise."""
        linear = any(is_linear(leaf) for leaf in model.leaves().values())
        return self.untrainable(model) if linear else "it has no linear map that could have noise"

    def fit(self, model: Model, data: Data, rng: Streams) -> Posterior:
        """Train each row's means and α."""
        layout = Layout(model.leaves())
        data, plan = self.with_plan(model, data, rng)
        own = optimiser_of(plan)
        alphas = self.alpha_layout(layout)
        sharing = {n: torch.full(a.shape, layout.leaves[n].size / a.size) for n, a in alphas.leaves.items()}
        weights = alphas.joined(sharing).to(data.x)  # (A,): how many weights have each α; 0 on padding
        largest = torch.as_tensor(self.max_alpha, dtype=torch.float64).log().to(data.x).reshape(-1, 1)  # (1 or R, 1)
        free = largest.new_full((len(largest), layout.width), torch.inf)
        ceiling = torch.cat([free, largest.expand(-1, alphas.width)], -1)  # (1 or R, P + A)

        def unpacked(flat: Tensor) -> tuple[Leaves, Leaves]:
            mean, log_alpha = flat.split([layout.width, alphas.width], -1)
            means = layout.views(mean)
            return means, _variances(means, alphas.views(log_alpha.exp()))

        def objective(flat: Tensor, batch: Examples, noise: Streams, moment: Moment) -> Tensor:
            mean, log_alpha = flat.split([layout.width, alphas.width], -1)
            means = layout.views(mean)
            layer = LocalNoise(means, _variances(means, alphas.views(log_alpha.exp())), noise)
            elbo = term("likelihood", trained_elbo(model, layer, batch, noise, plan))
            kl = term("divergence", row_sum(DIVERGENCES[self.approximation](log_alpha) * weights))
            return negative_elbo(elbo, kl, data.num_data)

        def step(
            flat: Tensor, gradient: Tensor, kept: Tensors, rate: PerRow, moment: Moment, noise: Streams
        ) -> tuple[Tensor, Tensors]:
            flat, kept = own.step(flat, gradient, kept, rate, moment, noise)
            return torch.minimum(flat, ceiling, out=flat), kept

        initial_alpha = torch.as_tensor(self.initial_alpha, dtype=torch.float64).log().to(data.x).reshape(-1, 1)
        mean = initial_network(model, data, rng.child("init"))
        initial = torch.cat([mean, torch.minimum(initial_alpha, largest).expand(len(mean), alphas.width)], -1)

        def posterior(state: State) -> Posterior:
            mean, log_alpha = state.flat.split([layout.width, alphas.width], -1)
            found = self.posterior(model, layout.views(mean), alphas.views(log_alpha))
            own, size, pairs = rng.child(f"gradients {state.epoch}"), self.batch_size, self.gradient_pairs
            variance = gradient_variance(model, layout, unpacked, state.flat, data, own, size, pairs)
            return replace(found, facts={**found.facts, **variance})

        rule = Update(own.start, step)
        return posterior(last(minimise(objective, initial, data, rng, plan, rule, posterior=posterior)))

    def restored(self, model: Model, state: Mapping[str, Tensor]) -> Posterior:
        """Return the learnt means and α."""
        leaves = model.leaves()
        means = {name: state[f"{name}.mean"] for name in leaves}
        log_alphas = {name: state[f"{name}.log_alpha"] for name, leaf in leaves.items() if is_linear(leaf)}
        return self.posterior(model, means, log_alphas)

    def posterior(self, model: Model, means: Leaves, log_alphas: Leaves) -> WeightPosterior:
        """Return means {name: (R, *S)} and log α of the linear maps, broadcast to them, as a posterior.

        Its facts are the mean α of each linear map.
        """
        alphas = {name: value.exp() for name, value in log_alphas.items()}
        variances = _variances(means, alphas)
        state = {f"{k}.mean": v for k, v in means.items()} | {f"{k}.log_alpha": v for k, v in log_alphas.items()}

        def draw(noise: Streams, joint: bool) -> Layer:
            return (WeightNoise if joint else LocalNoise)(means, variances, noise)

        def moments() -> Moments:
            layout = Layout(model.leaves())
            everywhere = {name: variances.get(name, torch.zeros_like(mean)) for name, mean in means.items()}
            return factorised_moments(layout, layout.joined(means), layout.joined(everywhere))

        facts = {f"alpha[{name}]": torch.stack([row.double().mean() for row in a]) for name, a in alphas.items()}
        return WeightPosterior(model, state, draw, facts=facts, moments=moments)

    def alpha_layout(self, layout: Layout) -> Layout:
        """Return where log α of each linear map lies in a row (R, A), in shapes that broadcast to the map's."""

        def shape(of: tuple[int, ...]) -> tuple[int, ...]:
            if self.granularity == "weight":
                return of
            inputs = of[1] if self.granularity == "neuron" else 1
            return (1, inputs, *(1 for _ in of[2:]))

        linear = {name: leaf for name, leaf in layout.leaves.items() if is_linear(leaf)}
        return Layout({name: Leaf(shape(leaf.shape), "scale", 1) for name, leaf in linear.items()})


def _variances(means: Leaves, alphas: Leaves) -> dict[str, Tensor]:
    """Return α θ² (R, *S) of the leaves that have an α.

    α is spread row by row, so that the order in which its gradient is summed does not depend on R.
    """
    found = {}
    for name, alpha in alphas.items():
        mean = means[name]
        spread = alpha if alpha.shape == mean.shape else torch.stack([row.expand(mean.shape[1:]) for row in alpha])
        found[name] = mean.square() * spread
    return found


methods = {"variational_dropout": VariationalDropout}
