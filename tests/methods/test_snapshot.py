"""Snapshot ensembles at the ends of their options, and by hand; MultiSWAG is a mixture of SWAGs."""

import math

import numpy as np
import torch

from bdlbench import catalog
from bdlbench.core.layout import Layout
from bdlbench.core.streams import Streams
from bdlbench.data.task import Data, Signature
from bdlbench.methods.snapshot import Snapshot
from bdlbench.training.loop import Session, session

SEEDS = (3, 1)


def fitted(small, name, epochs, **options):
    method = small.method(name, [{name: options}], epochs=epochs)
    return method.fit(small.model("mlp"), small.classes(2), Streams.of_seeds(SEEDS))


def test_one_cycle_is_mle_with_a_cosine(small):
    point, found = fitted(small, "mle", 3, decay="cosine"), fitted(small, "snapshot", 3, cycles=1)
    for name, value in point.state.items():
        assert torch.equal(found.state[name][:, 0], value)


def test_the_first_cycle_is_mle_of_its_length_and_the_second_goes_on(small):
    point, found = fitted(small, "mle", 3, decay="cosine"), fitted(small, "snapshot", 6, cycles=2)
    for name, value in point.state.items():
        assert found.state[name].shape == (2, 2, *value.shape[1:])
        assert torch.equal(found.state[name][:, 0], value)
        assert not torch.equal(found.state[name][:, 1], value)


def test_the_rate_starts_anew_in_each_cycle_by_hand():
    """Plain gradient descent on a line: 5 epochs of one step in 2 cycles, of 2 and of 3 steps."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(9, 2)), rng.normal(size=9)
    model = catalog.load("models", "logistic")(Signature((2,), 1, "gaussian"), 1.0)
    method = Snapshot(epochs=5, batch_size=9, cycles=2, learning_rate=0.3, optimiser="sgd", momentum=0.0)
    with session(Session()) as current:
        posterior = method.fit(model, Data(torch.from_numpy(x)[None], torch.from_numpy(y)[None]), Streams.of_seeds([0]))
    layout, design = Layout(model.leaves()), np.column_stack([x, np.ones(9)])
    w, kept = layout.packed(current.fits[0].initial)[0].numpy(), []
    for step, rate in enumerate([1.0, 0.5, 1.0, 0.75, 0.25]):
        assert rate == round(0.5 * (1 + math.cos(math.pi * [0, 1 / 2, 0, 1 / 3, 2 / 3][step])), 12)
        w = w - 0.3 * rate * design.T @ (design @ w - y) / 9
        kept += [w] if step in (1, 4) else []
    np.testing.assert_allclose(layout.packed(layout.joined(posterior.state))[0], kept, rtol=1e-9)


def test_a_cycle_needs_an_epoch(small):
    found = fitted(small, "snapshot", 3, cycles=50)
    assert {value.shape[1] for value in found.state.values()} == {3}


def test_multiswag_predicts_the_mean_of_its_swags(small):
    """The samples are divided among the members, each with the streams that it has alone."""
    options = {"swag": {"collect_rate": 0.3}, "multiswag": {"members": 3}}
    built, data, x = small.model("mlp"), small.classes(2), small.classes(2, 11, seed=9).x
    method = small.method("multiswag", [options], epochs=4)
    found = method.fit(built, data, Streams.of_seeds(SEEDS))
    alone = small.method("swag", [options], epochs=4).fit(built, data.repeat(3), Streams.of_seeds(SEEDS).members(3))
    predicted = found.predict(x, 6, Streams.of_seeds(SEEDS))
    members = alone.predict(Data(x, x).repeat(3).x, 2, Streams.of_seeds(SEEDS).members(3))
    torch.testing.assert_close(predicted.arrays()["probs"], members.arrays()["probs"].unflatten(0, (2, 3)).mean(1))
    assert found.state["deviations"].shape[:2] == (2, 3)
