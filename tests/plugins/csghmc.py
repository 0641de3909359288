"""Cyclical stochastic gradient HMC (Zhang et al. 2020): samples of the weights along one chain."""
from dataclasses import dataclass
from math import cos, pi

import torch

from bdlbench.extend import (
    Layout, PerRow, Plan, Point, Update, fit_network, keep_networks, last, mixture_of_kept, option,
    per_row, prior_of,
)


@dataclass(frozen=True)
class CyclicalSGHMC:
    """SGHMC whose step size falls to 0 in each cycle, where a sample is kept (Zhang et al. 2020)."""
    cycles: int = option(20, "cycles of the step size, of 6 epochs and one sample each", low=1)
    learning_rate: PerRow = option(0.02, "largest step size, of the mean loss", low=0, open_ends=True)

    def unsupported(self, model):
        return None
    def fit(self, model, data, rng):
        layout, plan = Layout(model.leaves()), Plan(6 * self.cycles, 64, self.learning_rate)
        prior, rule = prior_of(model, layout, 1.0, "none", data.x), lambda flat, noise: Point(layout.views(flat))

        def step(flat, gradient, kept, rate, moment, noise):  # friction 0.1, temperature 1
            progress = moment.step * self.cycles % moment.steps / moment.steps
            rate = per_row(rate, flat, 2) * (1 + cos(pi * progress)) / 2
            heat = (0.2 * rate / data.num_data) ** 0.5 * noise.normal((layout.width,), flat)
            speed = 0.9 * kept["speed"] - rate * gradient + heat
            return flat + speed, {"speed": speed}
        update = Update(lambda flat: {"speed": torch.zeros_like(flat)}, step)
        ends = range(6, plan.epochs + 1, 6)  # of the cycles
        final = last(fit_network(model, data, rng, plan, rule, prior, update, keep_networks(ends)))
        return mixture_of_kept(model, layout, final, ends)

methods = {"csghmc": CyclicalSGHMC}
