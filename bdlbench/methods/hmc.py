"""Hamiltonian Monte Carlo over all weights: the gold standard that other methods are compared with."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from bdlbench.core import memory
from bdlbench.core.layout import Layout, PerRow, per_row
from bdlbench.core.options import option, repeat_rows, row_of
from bdlbench.core.streams import Streams
from bdlbench.core.torch_private import sum_gradient
from bdlbench.data.task import Data
from bdlbench.kernels import hamiltonian
from bdlbench.kernels.hamiltonian import LogDensity, Moved, Phase, StepSize
from bdlbench.networks.layers import Point
from bdlbench.posteriors.draws import DrawsPosterior
from bdlbench.posteriors.fitting import PriorScaling, fit_network, prior_of, training_option
from bdlbench.predictives.mixtures import ordered_sum
from bdlbench.protocols import Model, OwnsPrior, Posterior, Prior
from bdlbench.stats.chains import bulk_ess, split_rhat
from bdlbench.training.loop import Collect, State, last
from bdlbench.training.optimisers import Tensors, Update
from bdlbench.training.plan import Moment, Plan

MOST_PARAMETERS = 100_000
"""Parameters up to which a network is sampled: at this size 2,000 draws of four chains take 3.2 GB."""

FIRST_STEP = 0.01
"""The step size that dual averaging starts from."""

STEPS_AT_FIRST = 32
"""The most leapfrog steps before the first window has told the posterior's scale."""

ADAPTED = ("log_step", "log_mean", "error", "centre")


@dataclass(frozen=True)
class HMC:
    """Hamiltonian Monte Carlo: draws from the posterior of all weights, by gradients of all training data (Neal 2011).

    Several chains start at different networks. A trajectory of length T · h, with h spread evenly over ½ … 1½, is
    followed by leapfrog steps and accepted with probability min(1, e^−ΔH). In warm-up the step size is adapted by dual
    averaging to a mean acceptance over the chains of a replicate (Hoffman & Gelman 2014), and a diagonal mass matrix in
    windows as in Stan; then both are frozen. The posterior is that of `map` with the same prior, never tempered.
    """

    prior_sd: PerRow = training_option("prior_sd")
    prior_scaling: PriorScaling = training_option("prior_scaling")
    chains: int = option(4, "chains of each replicate, which start at different networks", low=1)
    warmup_draws: int = option(500, "transitions of each chain in which the sampler adapts, thrown away", low=1)
    draws: int = option(500, "networks that are kept of each chain", low=1)
    thin: int = option(1, "transitions from one network that is kept to the next", low=1)
    trajectory: PerRow = option(
        1.5, "mean length T of a trajectory, in standard deviations of the weights", low=0, open_ends=True
    )
    acceptance: PerRow = option(
        0.8, "mean acceptance probability that the step size aims at", low=0, high=1, open_ends=True
    )
    most_steps: int = option(500, "the most leapfrog steps of a trajectory, which is shorter where they end", low=1)
    precision: Literal["float32", "float64"] = option(
        "float32", "numbers of weights and gradients; energies are summed in float64", choices=("float32", "float64")
    )

    def unsupported(self, model: Model) -> str | None:
        """Refuse a model whose log joint density is not known in closed form, or that is too large."""
        layout, signature = Layout(model.leaves()), model.signature
        if signature.likelihood not in ("categorical", "gaussian"):
            return f"it samples networks of classes or of a real target, not of a {signature.likelihood} one"
        if layout.buffers:
            return "it has buffers, such as BatchNorm's statistics or frozen parameters, of which it has no posterior"
        if layout.num_parameters > MOST_PARAMETERS:
            return f"its {layout.num_parameters} parameters are too many to sample: at most {MOST_PARAMETERS}"
        x = Streams([0]).normal((1, *signature.input_shape), torch.zeros(()))
        if isinstance(model, OwnsPrior) and not model.prior(layout, x).of_weights:
            return "its prior is not a density of the weights, whose posterior is sampled"
        one = row_of(model, 0)
        rule = Point(layout.views(0.3 * Streams([1]).normal((layout.width,), x)))
        y = x.new_zeros(1, 1, dtype=torch.int64 if signature.likelihood == "categorical" else None)
        with torch.no_grad():
            outputs = [one(rule, x, Streams([seed])) for seed in (0, 1)]
            predicting = one(rule, x, Streams([0], (1, 1)))
            total = predicting.accumulator(1)
            total.add(predicting)
            told = [*(output.elbo(y).double() for output in outputs), total.finish().log_prob(y).double()]
        if not torch.allclose(told[0], told[1]) or not torch.allclose(told[0], told[2], rtol=1e-3, atol=1e-4):
            return (
                "it draws numbers in training, or has a bound in place of a likelihood: there is no density to sample"
            )
        return None

    def fit(self, model: Model, data: Data, rng: Streams) -> Posterior:
        """Sample the networks of each replicate. One step of training is one transition of all chains."""
        chains, layout = self.chains, Layout(model.leaves())
        own, network, rng = repeat_rows(self, chains), repeat_rows(model, chains), rng.members(chains)
        data = data.repeat(chains)
        if self.precision == "float64":
            data = Data(data.x.double(), data.y.double() if data.y.is_floating_point() else data.y)
        prior = prior_of(network, layout, own.prior_sd, own.prior_scaling, data.x)
        transitions = self.warmup_draws + self.draws * self.thin
        plan = Plan(epochs=transitions, batch_size=data.num_data, learning_rate=1.0)

        def collected(flat: Tensor) -> Tensors:
            wanted = len(flat) * self.draws * layout.width * flat.element_size()
            memory.refuse(wanted, f"{len(flat):,} × {self.draws:,} draws of {layout.width:,} weights, which are kept,")
            log_joint = flat.new_full((len(flat), self.draws), math.nan, dtype=torch.float64)
            return {"draws": flat.new_zeros(len(flat), self.draws, layout.width), "log_joint": log_joint}

        def collect(state: State, found: Tensors) -> Tensors:
            kept, rest = divmod(state.epoch - self.warmup_draws, self.thin)
            if kept > 0 and rest == 0:  # in place: all draws again for each one would take longer than to sample it
                found["draws"][:, kept - 1] = state.flat
                found["log_joint"][:, kept - 1] = state.kept["log_joint"]
            return found

        state = last(
            fit_network(
                network,
                data,
                rng,
                plan,
                lambda flat, noise: Point(layout.views(flat)),
                prior,
                own.sampler(network, layout, prior, data),
                Collect(collected, collect),
            )
        )
        return self.posterior(model, layout, state, chains)

    def restored(self, model: Model, state: Mapping[str, Tensor]) -> Posterior | None:
        """Return the stored networks."""
        layout = Layout(model.leaves())
        return DrawsPosterior(model, layout, layout.joined(state))

    def posterior(self, model: Model, layout: Layout, state: State, chains: int) -> DrawsPosterior:
        """Return the draws of the last state of R·K rows, with what the chains tell of themselves."""
        log_joint = state.collected["log_joint"].unflatten(0, (-1, chains)).cpu().numpy()  # (R, K, D)
        sampled = self.draws * self.thin
        facts = {
            "acceptance": state.kept["accepted"] / sampled,
            "divergences": state.kept["divergent"],
            "leapfrog_steps": state.kept["steps"] / sampled,
            "step_size": state.kept["log_mean"].exp(),
        }
        facts = {name: ordered_sum(value.unflatten(0, (-1, chains)).unbind(1)) for name, value in facts.items()}
        facts = {name: value if name == "divergences" else value / chains for name, value in facts.items()}
        for name, tell in (("rhat", split_rhat), ("ess", bulk_ess)):
            values = np.concatenate([tell(row[..., None]) for row in log_joint])
            facts[f"{name}[log_joint]"] = torch.from_numpy(values).to(state.flat.device)
        draws = state.collected["draws"].float() if self.precision == "float64" else state.collected["draws"]
        return DrawsPosterior(model, layout, draws.unflatten(0, (-1, chains)), facts)

    def sampler(self, model: Model, layout: Layout, prior: Prior, data: Data) -> Update:
        """Return the step rule of chains (R·K rows): one transition, and in warm-up what adapts after it.

        The slope at the start of a trajectory is the loop's gradient; the others are taken here, on all data.
        """
        warmup, log_density = self.warmup_draws, log_joint_of(model, layout, prior, data)
        first_window = min((stop for _, stop in hamiltonian.windows(warmup)), default=warmup)
        counted = layout.fill(lambda leaf: 1.0).to(data.x)

        def beginning(flat: Tensor) -> Tensors:
            nothing = flat.new_zeros(len(flat), dtype=torch.float64)
            step_size = hamiltonian.restarted(nothing + math.log(FIRST_STEP))
            return {
                "log_joint": nothing,
                **dict(zip(ADAPTED, step_size, strict=True)),
                "variance": counted.expand_as(flat),
                "mean": torch.zeros_like(flat),
                "squares": torch.zeros_like(flat),
                **{name: nothing for name in ("accepted", "divergent", "steps")},
            }

        def step(
            flat: Tensor, gradient: Tensor, kept: Tensors, rate: PerRow, moment: Moment, noise: Streams
        ) -> tuple[Tensor, Tensors]:
            done, kept = moment.step, dict(kept)
            adapting = done < warmup
            log_joint = kept["log_joint"] if done else log_density(flat, True)[0]
            variance = kept["variance"]
            momentum = noise.normal((layout.width,), flat) * torch.where(variance > 0, variance.rsqrt(), 0.0)
            halves = noise.bits((2,), flat, "accept").double() + 2**15  # whole numbers below 2^16
            uniform = (halves[:, 0] + (halves[:, 1] + 0.5) / 2**16) / 2**16
            step_size = kept["log_step" if adapting else "log_mean"].exp()
            length = per_row(self.trajectory, step_size, 1) * (0.5 + hamiltonian.van_der_corput(done + 1))
            most = min(self.most_steps, STEPS_AT_FIRST) if done < first_window and adapting else self.most_steps
            steps = (length / step_size).ceil().clamp(1, most).long()
            start = Phase(flat, momentum, log_joint, -data.num_data * gradient)
            moved = hamiltonian.transition(log_density, start, step_size, variance, steps, uniform)
            kept["log_joint"] = moved.log_density
            if adapting:
                kept |= self.adapted(kept, moved, done, counted)
            else:
                kept["accepted"] = kept["accepted"] + moved.acceptance
                kept["divergent"] = kept["divergent"] + moved.divergent
                kept["steps"] = kept["steps"] + steps
            return moved.position, kept

        return Update(beginning, step)

    def adapted(self, kept: Tensors, moved: Moved, done: int, counted: Tensor) -> Tensors:
        """Return the step size after a transition of warm-up, and at the end of a window the variances.

        Both are the same for all chains of a replicate, which then take equally many steps: none waits for another.
        `done` transitions came before this one; `counted` is 1 on weights, (P,).
        """

        def pooled(values: Tensor) -> Tensor:
            mean = ordered_sum(values.unflatten(0, (-1, self.chains)).unbind(1)) / self.chains
            return mean.repeat_interleave(self.chains, 0)

        windows = hamiltonian.windows(self.warmup_draws)
        since = done + 1 - max(stop for stop in (0, *(stop for _, stop in windows)) if stop <= done)
        target = self.acceptance.double() if isinstance(self.acceptance, Tensor) else self.acceptance
        before = StepSize(*(kept[name] for name in ADAPTED))
        state = hamiltonian.adapted(before, pooled(moved.acceptance), target, since)
        window = next((one for one in windows if one[0] <= done < one[1]), None)
        if window is None:
            return dict(zip(ADAPTED, state, strict=True))
        count, gap = done + 1 - window[0], moved.position - kept["mean"]  # Welford 1962
        mean = kept["mean"] + gap / count
        squares = kept["squares"] + gap * (moved.position - mean)
        if done + 1 < window[1]:
            return {**dict(zip(ADAPTED, state, strict=True)), "mean": mean, "squares": squares}
        spread = pooled(squares / max(1, count - 1))
        return {
            **dict(zip(ADAPTED, hamiltonian.restarted(state.log_step), strict=True)),
            "variance": hamiltonian.regularised_variance(spread, self.chains * count) * counted,
            "mean": torch.zeros_like(mean),
            "squares": torch.zeros_like(squares),
        }


def log_joint_of(model: Model, layout: Layout, prior: Prior, data: Data) -> LogDensity:
    """Return log p(data, w) of networks (R, P) as a density to sample from, with its slope; all data at once."""

    def log_density(position: Tensor, valued: bool) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            at = position.detach().requires_grad_()
            elbo = model(Point(layout.views(at)), data.x, Streams([0] * len(at))).elbo(data.y)
            log_prior = prior.log_density(at, valued)
            slope = sum_gradient(elbo.sum(-1) + log_prior, at)
        if not valued:
            return log_prior.detach(), slope
        likelihood = torch.stack([row.double().sum() for row in elbo.detach()])
        return likelihood + log_prior.detach().double(), slope

    return log_density


methods = {"hmc": HMC}
