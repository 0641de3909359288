"""A method that drops at prediction even where its rate is 0."""

from dataclasses import dataclass

from bdlbench.extend import Dropout, Layout, PerRow, Plan, WeightPosterior, fit_network, last, option


@dataclass(frozen=True)
class Floored:
    """Dropout whose rate is never under a tenth."""

    epochs: int = option(20, "passes over the training data", low=1)
    batch_size: int = option(64, "examples in a batch", low=1)
    learning_rate: PerRow = option(1e-3, "Adam's step size", low=0, open_ends=True)
    rate: PerRow = option(0.5, "probability that a unit is dropped", low=0, high=0.99)

    def unsupported(self, model):
        return None

    def fit(self, model, data, rng):
        layout, plan = Layout(model.leaves()), Plan(self.epochs, self.batch_size, self.learning_rate)
        rate = max(self.rate, 0.1) if isinstance(self.rate, float) else self.rate.clamp_min(0.1)
        rates = {name: rate for name, leaf in layout.leaves.items() if leaf.role == "weight"}

        def rule(flat, noise, joint=False):
            return Dropout(layout.views(flat), rates, noise, joint)

        flat = last(fit_network(model, data, rng, plan, rule)).flat
        return WeightPosterior(model, layout.views(flat), lambda noise, joint: rule(flat, noise, joint))


methods = {"floored": Floored}
