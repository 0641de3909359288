"""Rank-1 Bayesian neural networks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from bdlbench.core.layout import Layout, Leaf, PerRow, per_row
from bdlbench.core.options import option, repeat_rows
from bdlbench.core.streams import Streams
from bdlbench.data.task import Data, Examples
from bdlbench.kernels.elbo import negative_elbo
from bdlbench.kernels.kl import RowPrior
from bdlbench.networks.layers import Point
from bdlbench.posteriors.ensemble import EnsemblePosterior
from bdlbench.posteriors.fitting import (
    GaussianPrior,
    PriorScaling,
    initial_network,
    prior_of,
    trained_elbo,
    training_option,
)
from bdlbench.posteriors.rank_one import INPUTS, OUTPUTS, SharedNetwork, shared_network, unshareable
from bdlbench.posteriors.weights import WeightPosterior
from bdlbench.predictives.mixtures import ordered_sum
from bdlbench.protocols import Layer, Model, Moments
from bdlbench.training.loop import State, last, minimise
from bdlbench.training.plan import Moment
from bdlbench.training.recipe import Recipe
from bdlbench.training.terms import term

LOG_SD = ".log_sd"
"""How the names of log standard deviations end in the state, behind those of their means."""


@dataclass(frozen=True)
class Rank1(Recipe):
    """Rank-1 BNN: a mixture of K Gaussians over two vectors a layer, and a point for all else (Dusenberry et al. 2020).

    The weights of each linear map are W ∘ (s rᵀ), of a convolution by channels. q(r, s) = (1/K) Σ_k q_k, with one
    Gaussian for each element of r and s in q_k, and biases b_k; the prior of r and s is N(1, factor_prior_sd²), that of
    W and b N(0, prior_sd²). Minimises −(1/N) [(1/K) Σ_k (Σ_n E_{q_k} log p(y_n | x_n, W, r, s, b_k) − KL(q_k ‖ p) +
    log p(b_k)) + log p(W)]: the mean KL of the components is at least that of the mixture. Each batch is repeated for
    every component, with one draw of its r and s for the step, as in the authors' code. In prediction the samples are
    divided among the components, at least one each, and a draw serves a block of examples.

    There is no bound, since W is a point. Where r and s have hardly any spread it is `map` for one component, and a
    batch ensemble with a prior for several.
    """

    prior_sd: PerRow = training_option("prior_sd", help="standard deviation of the Gaussian prior of W and b")
    prior_scaling: PriorScaling = training_option("prior_scaling")
    members: int = option(4, "K, components of the mixture", low=1)
    factor_prior_sd: PerRow = option(
        0.1, "sd of the Gaussian prior of r and s, whose mean is 1", low=0, open_ends=True, search=(0.01, 1.0)
    )
    initial_sd: PerRow = option(0.5, "sd of the means of r and s around 1 at the start", low=0, search=(0.05, 1.0))
    initial_log_sd: PerRow = option(
        -3.5, "log standard deviation of r and s at the start", low=-30, high=5, search=(-8.0, -1.0)
    )
    factor_rate: PerRow = option(1.0, "steps of r and s, in steps of the weights", low=0, search=(0.05, 1.0))

    def unsupported(self, model: Model) -> str | None:
        """Refuse a model whose linear maps the components could not share."""
        return self.untrainable(model) or unshareable(model)

    def fit(self, model: Model, data: Data, rng: Streams) -> EnsemblePosterior:
        """Train the components of each row together."""
        data, plan = self.with_plan(model, data, rng)
        shared, count = shared_network(model, self.members), data.num_data
        prior = prior_of(model, shared.layout, self.prior_sd, self.prior_scaling, data.x)
        of_factors, noisy = self.factor_prior(shared, data.x), shared.scales.to(data.x)

        def objective(flat: Tensor, batch: Examples, noise: Streams, moment: Moment) -> Tensor:
            point, log_sd = flat[:, : shared.width], flat[:, shared.width :]
            network, mean = shared.split(point)
            drawn = mean + noisy * log_sd.exp() * noise.normal((shared.factors.width,), mean)
            rule = shared.rule(torch.cat([network, drawn], -1))
            elbo = trained_elbo(model, rule, shared.of_members(batch), noise, plan)  # (R, K·B)
            elbo = ordered_sum(elbo.unflatten(1, (self.members, -1)).unbind(1)) / self.members  # (R, B)
            of_weights = [prior.log_density(one, moment.reported) for one in shared.without_factors(point)]
            kl = of_factors.kl(mean - noisy, log_sd)
            divergence = (kl - ordered_sum(of_weights)) / self.members
            return negative_elbo(term("likelihood", elbo), term("divergence", divergence), count)

        def posterior(state: State) -> EnsemblePosterior:
            return self.posterior(model, shared, state.flat)

        start = rng.child("init")
        point = shared.start(initial_network(model, data, start), start.child("factors"), self.initial_sd)
        log_sd = torch.as_tensor(per_row(self.initial_log_sd, point, 2)).to(point)
        initial = torch.cat([point, log_sd.expand(len(point), shared.factors.width)], -1)
        update = shared.update(plan, self.factor_rate)
        return posterior(last(minimise(objective, initial, data, rng, plan, update, posterior=posterior)))

    def restored(self, model: Model, state: Mapping[str, Tensor]) -> EnsemblePosterior:
        """Return the mixture of the stored components."""
        shared = shared_network(model, self.members)
        point = shared.flat(state)
        spread = {name: state.get(f"{name}{LOG_SD}", torch.zeros_like(state[name])) for name in shared.factors.leaves}
        return self.posterior(model, shared, torch.cat([point, shared.factors.joined(spread)], -1))

    def factor_prior(self, shared: SharedNetwork, like: Tensor) -> GaussianPrior:
        """Return N(0, factor_prior_sd²), the prior of r − 1 and s − 1, over what members do not share (R, Q)."""
        counted = shared.scales.to(like)
        sd = torch.as_tensor(per_row(self.factor_prior_sd, like, 2)).to(like).reshape(-1, 1).expand(-1, len(counted))
        return GaussianPrior(RowPrior(sd, counted / sd.square(), counted))

    def posterior(self, model: Model, shared: SharedNetwork, flat: Tensor) -> EnsemblePosterior:
        """Return the mixture of the components of rows (R, P + 2 Q)."""
        point, log_sd = flat[:, : shared.width], shared.factors.views(flat[:, shared.width :])
        means, count = shared.rule(point), shared.members
        spread = {f"{name}{LOG_SD}": view for name, view in log_sd.items() if name.endswith((INPUTS, OUTPUTS))}
        whole = {  # (R·K, *S)
            name: leaf.unsqueeze(1).expand(-1, count, *leaf.shape[1:]).flatten(0, 1)
            for name, leaf in means.leaves.items()
        }
        whole |= {bias: means.biases[name].flatten(0, 1) for name, bias in shared.biases.items()}
        of_member = Layout(
            {
                f"{name}{end}": Leaf((size,), "scale", 1)
                for name, sizes in shared.sizes.items()
                for end, size in zip((INPUTS, OUTPUTS), sizes, strict=True)
            }
        )
        mean = of_member.joined(
            {f"{name}{INPUTS}": value.flatten(0, 1) for name, value in means.inputs.items()}
            | {f"{name}{OUTPUTS}": value.flatten(0, 1) for name, value in means.outputs.items()}
        )
        sd = of_member.joined({name: log_sd[name].exp().flatten(0, 1) for name in of_member.leaves})  # 0 on padding

        def draw(noise: Streams, joint: bool) -> Layer:
            factors = of_member.views(torch.addcmul(mean, sd, noise.normal((of_member.width,), mean)))
            drawn = {}
            for name in shared.sizes:
                outer = factors[f"{name}{OUTPUTS}"].unsqueeze(-1) * factors[f"{name}{INPUTS}"].unsqueeze(-2)
                drawn[name] = whole[name] * outer.reshape(*outer.shape, *(1,) * (whole[name].ndim - 3))
            return Point({**whole, **drawn})

        def moments() -> Moments:
            return _moments(shared, whole, of_member.views(mean.double()), of_member.views(sd.double().square()))

        rows = WeightPosterior(repeat_rows(model, count), whole, draw, moments=moments)
        return EnsemblePosterior(rows, count, {**shared.state(point), **spread})


def _moments(
    shared: SharedNetwork, whole: Mapping[str, Tensor], mean: Mapping[str, Tensor], variance: Mapping[str, Tensor]
) -> Moments:
    """Return the moments of W ∘ (s rᵀ) of rows: E s sᵀ ⊗ E r rᵀ − (E s E r)(E s E r)ᵀ between the elements of a map."""
    leaves = {name: whole[name].double() for name, leaf in shared.layout.leaves.items() if leaf.role != "buffer"}
    centres, covariances = [], []
    for row in range(len(next(iter(leaves.values())))):
        centre, blocks = [], []
        for name, leaf in leaves.items():
            value, size = leaf[row].flatten(), leaf[row].numel()
            if name not in shared.sizes:
                centre.append(value)
                blocks.append(value.new_zeros(size, size))
                continue
            r, s = mean[f"{name}{INPUTS}"][row], mean[f"{name}{OUTPUTS}"][row]
            of_r, of_s = variance[f"{name}{INPUTS}"][row], variance[f"{name}{OUTPUTS}"][row]
            second = torch.kron(s.outer(s) + of_s.diag(), r.outer(r) + of_r.diag())
            spread = second - torch.kron(s.outer(s), r.outer(r))
            taps = size // len(spread)  # of a convolution, one after the other in memory
            centre.append(value * torch.kron(s, r).repeat_interleave(taps))
            blocks.append(value.outer(value) * spread.repeat_interleave(taps, 0).repeat_interleave(taps, 1))
        centres.append(torch.cat(centre))
        covariances.append(torch.block_diag(*blocks))
    return Moments(torch.stack(centres), torch.stack(covariances))


methods = {"rank1": Rank1}
