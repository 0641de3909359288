"""A method that clips the gradient by its norm over all rows: each row's step depends on the others."""

from dataclasses import dataclass

from bdlbench.extend import (
    Layout,
    PerRow,
    Plan,
    Point,
    WeightPosterior,
    initial_network,
    last,
    minimise,
    negative_elbo,
    option,
)


@dataclass(frozen=True)
class Clipped:
    """MLE with a gradient that is clipped over all rows."""

    epochs: int = option(20, "passes over the training data", low=1)
    batch_size: int = option(64, "examples in a batch", low=1)
    learning_rate: PerRow = option(1e-3, "Adam's step size", low=0, open_ends=True)

    def unsupported(self, model):
        return None

    def fit(self, model, data, rng):
        layout, plan = Layout(model.leaves()), Plan(self.epochs, self.batch_size, self.learning_rate)

        def objective(flat, batch, noise, moment):
            flat.register_hook(lambda gradient: gradient / gradient.norm().clamp_min(1e-3))
            return negative_elbo(model(Point(layout.views(flat)), batch.x, noise).elbo(batch.y), 0.0, data.num_data)

        start = initial_network(model, data, rng.child("init"))
        state = layout.views(last(minimise(objective, start, data, rng, plan)).flat)
        return WeightPosterior(model, state, lambda noise, joint: Point(state), deterministic=True)


methods = {"clipped": Clipped}
