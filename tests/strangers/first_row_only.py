"""A method that takes the first row's value of an option for all rows."""

from dataclasses import dataclass

from bdlbench.extend import Layout, PerRow, Plan, Point, WeightPosterior, fit_network, last, option


@dataclass(frozen=True)
class Decayed:
    """MLE with weight decay after training."""

    epochs: int = option(20, "passes over the training data", low=1)
    batch_size: int = option(64, "examples in a batch", low=1)
    learning_rate: PerRow = option(1e-3, "Adam's step size", low=0, open_ends=True)
    shrink: PerRow = option(0.9, "factor of the weights", low=0)

    def unsupported(self, model):
        return None

    def fit(self, model, data, rng):
        layout, plan = Layout(model.leaves()), Plan(self.epochs, self.batch_size, self.learning_rate)
        flat = last(fit_network(model, data, rng, plan, lambda flat, noise: Point(layout.views(flat)))).flat
        shrink = self.shrink if isinstance(self.shrink, float) else float(self.shrink[0])
        state = layout.views(flat * shrink)
        return WeightPosterior(model, state, lambda noise, joint: Point(state), deterministic=True)


methods = {"decayed": Decayed}
