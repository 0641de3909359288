"""One entry of each kind that holds to its contract."""

from dataclasses import dataclass

import torch

from bdlbench.extend import (
    Dropout,
    Examples,
    Layout,
    PerRow,
    Plan,
    Signature,
    Task,
    WeightPosterior,
    each_row,
    fit_network,
    last,
    option,
    output,
    unsupported,
)
from bdlbench.networks.blocks import affine, dense_leaves, flatten


@dataclass(frozen=True)
class HiddenDropout:
    """Dropout of hidden units only, whose penalty is none."""

    epochs: int = option(20, "passes over the training data", low=1)
    batch_size: int = option(64, "examples in a batch", low=1)
    learning_rate: PerRow = option(1e-3, "Adam's step size", low=0, open_ends=True)
    rate: PerRow = option(0.3, "probability that a hidden unit is dropped", low=0, high=0.99)

    def unsupported(self, model):
        return None

    def fit(self, model, data, rng):
        layout = Layout(model.leaves())
        rates = {name: self.rate for name, leaf in layout.leaves.items() if leaf.role == "weight"}

        def rule(flat, noise):
            return Dropout(layout.views(flat), rates, noise)

        plan = Plan(self.epochs, self.batch_size, self.learning_rate)
        state = layout.views(last(fit_network(model, data, rng, plan, rule)).flat)
        return WeightPosterior(model, state, lambda noise, joint: Dropout(state, rates, noise, joint))


@dataclass(frozen=True)
class Bottleneck:
    """A dense network with one narrow hidden layer."""

    signature: Signature
    width: int = option(5, "units of the hidden layer", low=1)

    def unsupported(self):
        return unsupported(self.signature)

    def leaves(self):
        inputs = torch.Size(self.signature.input_shape).numel()
        return dense_leaves("fc1", inputs, self.width, first=True) | dense_leaves(
            "fc2", self.width, self.signature.outputs
        )

    def __call__(self, layer, x, rng):
        hidden = torch.tanh(affine(layer, "fc1", flatten(x, len(self.signature.input_shape))))
        return output(self.signature, affine(layer, "fc2", hidden), 1.0)


@dataclass(frozen=True)
class Blobs:
    """Two Gaussian blobs, drawn anew for each split."""

    num: int = option(40, "examples", low=2)

    def load(self, split):
        rng = torch.Generator().manual_seed(split)
        y = torch.arange(2 * self.num) % 2
        x = torch.randn(2 * self.num, 2, generator=rng) + 3 * y[:, None]
        train, test = (Examples(x[part], y[part]) for part in (slice(self.num), slice(self.num, None)))
        return Task(Signature((2,), 2, "categorical"), train, test, {"far": 50 * test.x})


@dataclass(frozen=True)
class Confidence:
    """How sure the predictions of classes are."""

    summary, unit, better = "mean probability of the most probable class", "probability", "higher"

    def __call__(self, evaluation):
        return {key: each_row(torch.mean, value) for key, value in self.by_example(evaluation).items()}

    def by_example(self, evaluation):
        probs = evaluation.test.arrays().get("probs")
        return {} if probs is None else {"": probs.double().amax(-1)}


methods, models = {"hidden_dropout": HiddenDropout}, {"bottleneck": Bottleneck}
datasets, metrics = {"blobs": Blobs}, {"confidence": Confidence()}
