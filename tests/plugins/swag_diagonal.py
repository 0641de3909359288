"""SWAG-diagonal (Maddox et al. 2019), along Adam."""
from dataclasses import dataclass

import torch

from bdlbench.extend import Collect, Layout, Plan, Point, WeightPosterior, fit_network, last, option, prior_of


@dataclass(frozen=True)
class SwagDiagonal:
    """N(E w, E w² − (E w)²) over the weights w at the ends of the last epochs (Maddox et al. 2019)."""

    epochs: int = option(60, "passes over the training data", low=1)
    average: int = option(20, "how many of the last epochs give the moments", low=1)

    def unsupported(self, model):
        return None if self.average <= self.epochs else f"average={self.average} is more than epochs={self.epochs}"

    def fit(self, model, data, rng):
        layout, plan = Layout(model.leaves()), Plan(self.epochs, 64, 1e-3)
        prior, rule = prior_of(model, layout, 1.0, "none", data.x), lambda flat, noise: Point(layout.views(flat))

        def add(state, sums):
            w = state.flat.double() * (state.epoch > self.epochs - self.average)
            return {"w": sums["w"] + w / self.average, "w²": sums["w²"] + w.square() / self.average}

        collect = Collect(lambda flat: {name: torch.zeros_like(flat).double() for name in ("w", "w²")}, add)
        found = last(fit_network(model, data, rng, plan, rule, prior, collect=collect)).collected
        mean, sd = found["w"].to(data.x), (found["w²"] - found["w"].square()).clamp_min(0).sqrt().to(data.x)
        state = {f"{k}.{part}": v for part, w in (("mean", mean), ("sd", sd)) for k, v in layout.views(w).items()}
        draw = lambda noise, _: Point(layout.views(mean + sd * noise.normal((layout.width,), mean)))
        return WeightPosterior(model, state, draw)

methods = {"swag_diagonal": SwagDiagonal}
