"""A method that averages weights in a list of its own, which an interruption empties."""

from dataclasses import dataclass

import torch

from bdlbench.extend import Layout, PerRow, Plan, Point, WeightPosterior, fit_network, option


@dataclass(frozen=True)
class Averaged:
    """The mean of the weights after each epoch."""

    epochs: int = option(20, "passes over the training data", low=1)
    batch_size: int = option(64, "examples in a batch", low=1)
    learning_rate: PerRow = option(1e-3, "Adam's step size", low=0, open_ends=True)

    def unsupported(self, model):
        return None

    def fit(self, model, data, rng):
        layout, plan = Layout(model.leaves()), Plan(self.epochs, self.batch_size, self.learning_rate)
        passed = [
            one.flat.detach().clone()
            for one in fit_network(model, data, rng, plan, lambda flat, noise: Point(layout.views(flat)))
        ]
        state = layout.views(torch.stack(passed).mean(0))
        return WeightPosterior(model, state, lambda noise, joint: Point(state), deterministic=True)


methods = {"averaged": Averaged}
