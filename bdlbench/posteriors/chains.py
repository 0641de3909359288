"""Chains of stochastic-gradient samplers: step sizes over time, stages, and the networks that are kept of a chain."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from bdlbench.core.layout import Layout, PerRow
from bdlbench.core.options import option
from bdlbench.core.streams import Streams
from bdlbench.data.task import Data
from bdlbench.networks.layers import Point
from bdlbench.posteriors.ensemble import EnsemblePosterior
from bdlbench.posteriors.fitting import PriorScaling, fit_network, prior_of, training_option
from bdlbench.posteriors.kept_networks import cycle_ends, keep_networks, mixture_of_kept
from bdlbench.protocols import Model
from bdlbench.training.loop import State, last
from bdlbench.training.optimisers import Tensors, Update, optimiser_of
from bdlbench.training.plan import Decay, Moment, Plan
from bdlbench.training.recipe import Recipe

Schedule = Literal["constant", "polynomial", "cyclical"]
"""How the step size of a chain changes over time: `Stages.factor` has the formulas."""

STEP_SIZE_POWER = 0.55
"""γ of the polynomial schedule, as Welling & Teh 2011 have it in §5."""


@dataclass(frozen=True, kw_only=True)
class Chain(Recipe):
    """The options of a method that samples by a chain, beside those of its own step.

    Training has two parts. In the first the plan's optimiser trains each network as MAP does. Then the chain runs. With
    schedule=cyclical it has cycles, each of which explores and then samples (Zhang et al. 2020, algorithm 1).
    """

    epochs: int = training_option("epochs", help="passes over the training data, those of the warm start included")
    learning_rate: PerRow = training_option("learning_rate", help="the optimiser's step size, in the warm start")
    decay: Decay = training_option("decay", help="learning rate over time, in the warm start")
    prior_sd: PerRow = training_option("prior_sd")
    prior_scaling: PriorScaling = training_option("prior_scaling")
    warm_start: float = option(
        0.25, "fraction of the epochs, rounded up, in which the optimiser trains as for MAP; 0: none", low=0, high=1
    )
    burn_in: float = option(
        0.5,
        "fraction of the chain's epochs of which no network is kept; with schedule=cyclical of each cycle's, and their "
        "steps have no noise",
        low=0,
        high=1,
    )
    networks: int = option(20, "networks that are kept, at most one an epoch", low=1)
    schedule: Schedule = option("constant", "step size over time, in the chain", choices=get_args(Schedule))
    final_size: float = option(
        0.01, "what schedule=polynomial multiplies the step size by in the end", low=0, high=1, open_ends=True
    )
    cycles: int = option(4, "cycles of schedule=cyclical, at most one an epoch", low=1)
    temperature: PerRow = option(1.0, "T: the chain samples the posterior to the power 1/T; 0: gradient descent", low=0)

    def unsupported(self, model: Model) -> str | None:
        """Accept every model, since each has weights; held-out rows cannot choose one epoch of a chain."""
        if self.validation:
            return "it keeps networks of many epochs, so no single epoch can be chosen by validation rows"
        for name in ("weight_decay", "clip_norm"):
            if bool((torch.as_tensor(getattr(self, name)) != 0).any()):
                return f"it samples the posterior of its prior, which {name} is no part of: leave {name} at 0"
        return self.untrainable(model)


@dataclass(frozen=True)
class SamplerStep:
    """The step of a sampler of exp(−U), U = −log p(data, w).

    Attributes:
        start: start(flat) returns the tensors that it keeps from step to step, before the first step, (R, P) each.
        step: step(flat, slope, kept, size, temperature, noise) returns (flat, kept) after the step. flat, slope, the
            estimate of ∇U by a batch, and noise, standard normal numbers, are (R, P). The step size and the temperature
            are (1 or R, 1) float64: a row has the same bits whether a number or a column gives them.
    """

    start: Callable[[Tensor], Tensors]
    step: Callable[[Tensor, Tensor, Tensors, Tensor, Tensor, Tensor], tuple[Tensor, Tensors]]


def column(value: PerRow) -> Tensor:
    """Return a hyper-parameter as (1 or R, 1) float64."""
    return torch.as_tensor(value, dtype=torch.float64).reshape(-1, 1)


def sample(
    chain: Chain, sampler: SamplerStep, step_size: PerRow, model: Model, data: Data, rng: Streams
) -> EnsemblePosterior:
    """Run one chain for each row, and return the mixture of the networks that are kept.

    Args:
        chain: The options.
        sampler: The sampler's step.
        step_size: N times the largest step size, a number or (R,).
        model: The model.
        data: The training data.
        rng: Streams (R,).

    Returns:
        The posterior of R replicates.
    """
    data, plan = chain.with_plan(model, data, rng)
    layout, own, stages = Layout(model.leaves()), optimiser_of(plan), stages_of(chain, plan, data.num_data)
    prior = prior_of(model, layout, chain.prior_sd, chain.prior_scaling, data.x)
    noisy = layout.fill(lambda leaf: 1.0).to(data.x)  # (P,), 0 on buffers and padding

    def start(flat: Tensor) -> Tensors:
        return {**own.start(flat), **{f"chain {name}": value for name, value in sampler.start(flat).items()}}

    def step(
        flat: Tensor, gradient: Tensor, kept: Tensors, rate: PerRow, moment: Moment, noise: Streams
    ) -> tuple[Tensor, Tensors]:
        if moment.step < stages.first_step:
            theirs = {name: value for name, value in kept.items() if not name.startswith("chain ")}
            rate = plan.rate(replace(moment, steps=stages.first_step))  # all of its decay is in the warm start
            flat, trained = own.step(flat, gradient, theirs, rate, moment, noise)
            return flat, {**kept, **trained}
        size, warm = column(step_size) * (stages.factor(moment.step) / data.num_data), stages.samples(moment.step)
        drawn = noisy * noise.normal((layout.width,), flat) if warm else torch.zeros_like(flat)
        ours = {name.removeprefix("chain "): value for name, value in kept.items() if name.startswith("chain ")}
        flat, moved = sampler.step(flat, data.num_data * gradient, ours, size, column(chain.temperature), drawn)
        return flat, {**kept, **{f"chain {name}": value for name, value in moved.items()}}

    def network(flat: Tensor, noise: Streams) -> Point:
        return Point(layout.views(flat))

    def posterior(state: State) -> EnsemblePosterior | None:
        return mixture_of_kept(model, layout, state, stages.kept)

    update, collect = Update(start, step), keep_networks(stages.kept)
    final = posterior(last(fit_network(model, data, rng, plan, network, prior, update, collect, posterior)))
    assert final is not None  # a network is kept after the last epoch
    return final


@dataclass(frozen=True)
class Cycle:
    """Steps of a chain, from `first` on and before `end`; those from `sampling` on are followed by sampling."""

    first: int
    sampling: int
    end: int


@dataclass(frozen=True)
class Stages:
    """What a chain does when. Cycles and stages begin and end with epochs; a constant schedule is one cycle.

    Attributes:
        schedule: How the step size changes.
        final_size: What a polynomial schedule multiplies it by in the end.
        cycles: The cycles of the chain, in order; the first step of the first one ends the warm start.
        kept: After which epochs, counted from 1, a network is kept.
    """

    schedule: Schedule
    final_size: float
    cycles: Sequence[Cycle]
    kept: Sequence[int]

    @property
    def first_step(self) -> int:
        """The steps before the chain."""
        return self.cycles[0].first

    def cycle(self, step: int) -> Cycle:
        """Return the cycle of the step after so many."""
        return next(cycle for cycle in self.cycles if step < cycle.end)

    def samples(self, step: int) -> bool:
        """Tell whether the step after so many has noise: all have, but in the exploration stages of cycles."""
        return self.schedule != "cyclical" or step >= self.cycle(step).sampling

    def factor(self, step: int) -> float:
        """Return what the step size is multiplied by in the step after so many.

        With t steps done of the T in a cycle: "constant" 1; "polynomial" (1 + t / b)^−γ, which is a (b + t)^−γ (Welling
        & Teh 2011), with the b that makes it `final_size` at T; "cyclical" ½ (1 + cos(π t / T)) (Zhang et al. 2020,
        eq. 1).
        """
        cycle = self.cycle(step)
        progress = (step - cycle.first) / (cycle.end - cycle.first)
        if self.schedule == "polynomial":
            return float((1 + progress * (self.final_size ** (-1 / STEP_SIZE_POWER) - 1)) ** -STEP_SIZE_POWER)
        return 0.5 * (1 + math.cos(math.pi * progress)) if self.schedule == "cyclical" else 1.0


def stages_of(chain: Chain, plan: Plan, num_data: int) -> Stages:
    """Divide training into the warm start, cycles and their stages, and choose the epochs whose networks are kept.

    A mixture is equal, so the networks of a polynomial schedule are kept after equal sums of step sizes: their mean is
    then the mean weighted by step sizes (Welling & Teh 2011, eq. 11).

    Args:
        chain: The options.
        plan: The plan that they make.
        num_data: N.

    Returns:
        The stages.
    """
    epochs, steps, total = plan.total_epochs(num_data), plan.steps_per_epoch(num_data), plan.total_steps(num_data)
    warm = min(math.ceil(round(chain.warm_start * epochs, 9)), epochs - 1)
    ends = cycle_ends(warm, epochs, chain.cycles if chain.schedule == "cyclical" else 1)
    cycles, sampling = list[Cycle](), list[int]()
    for begin, end in zip([warm, *ends], ends, strict=False):
        first = begin + min(round(chain.burn_in * (end - begin)), end - begin - 1)
        cycles.append(Cycle(begin * steps, first * steps, min(end * steps, total)))
        sampling += range(first + 1, end + 1)
    stages = Stages(chain.schedule, chain.final_size, cycles, sampling)
    weights = [1.0 if chain.schedule == "cyclical" else stages.factor(min(e * steps, total) - 1) for e in sampling]
    return Stages(chain.schedule, chain.final_size, cycles, thinned(sampling, weights, chain.networks))


def thinned(epochs: Sequence[int], weights: Sequence[float], count: int) -> list[int]:
    """Choose epochs at equal distances in the sum of their weights, the last one among them.

    Args:
        epochs: Epochs in ascending order.
        weights: A positive number for each.
        count: How many to choose; fewer where one epoch is as heavy as several distances.

    Returns:
        The chosen ones, in order.
    """
    total, passed, chosen = math.fsum(weights), 0.0, list[int]()
    for epoch, weight in zip(epochs, weights, strict=True):
        before, passed = passed, passed + weight
        if math.floor(passed / total * count + 1e-9) > math.floor(before / total * count + 1e-9):
            chosen.append(epoch)
    return chosen
