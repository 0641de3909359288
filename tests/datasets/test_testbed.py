"""The generated problems of the Neural Testbed."""

import numpy as np
import pytest
import torch
from torch import nn

from bdlbench.data.task import stack, to_device
from bdlbench.datasets import testbed
from bdlbench.datasets.testbed import datasets, true_logits


def load(split=0, **options):
    return datasets["testbed"](**options).load(split)


def parts(task):
    return task.train.x, task.train.y, task.test.x, task.test.y, task.truth["log_probs"]


def test_sizes_and_types_are_those_of_the_options():
    task = load(input_dim=3, train_ratio=7, num_classes=4, num_test=11)
    assert [tuple(part.shape) for part in parts(task)] == [(21, 3), (21,), (11, 3), (11,), (11, 4)]
    assert task.train.x.dtype == torch.float32
    assert task.truth["log_probs"].dtype == torch.float64
    assert task.signature.outputs == 4
    torch.testing.assert_close(task.truth["log_probs"].exp().sum(1), torch.ones(11).double())


def test_a_split_is_the_same_on_every_call_and_each_option_makes_another_problem(refused):
    first, again = load(3), load(3)
    assert all(torch.equal(*pair) for pair in zip(parts(first), parts(again), strict=True))
    for other in (load(4), load(3, temperature=0.5), load(3, train_ratio=11)):
        assert not torch.equal(first.truth["log_probs"], other.truth["log_probs"])
        assert not torch.equal(first.test.x, other.test.x)
    with refused("split -1", "exist"):
        load(-1)


def test_more_test_inputs_are_further_ones_of_the_same_problem():
    few, many = load(num_test=5), load(num_test=9)
    assert torch.equal(few.train.y, many.train.y)
    assert torch.equal(few.test.x, many.test.x[:5])
    torch.testing.assert_close(few.truth["log_probs"], many.truth["log_probs"][:5])


def test_the_true_function_is_a_network_with_two_hidden_layers_of_50():
    """The same numbers by torch's own layers: by central differences and by what a ReLU network must be."""
    x = np.random.default_rng(0).normal(size=(200, 6))
    key = ("a key", 1)
    weights = []
    original = testbed.random_uniform
    found = true_logits(x, 3, *key)
    cut = torch.special.ndtr(torch.tensor(-2.0).double())
    net = nn.Sequential(nn.Linear(6, 50), nn.ReLU(), nn.Linear(50, 50), nn.ReLU(), nn.Linear(50, 3)).double()
    for place, layer in enumerate(net[::2]):
        uniform = torch.from_numpy(original(layer.weight.numel(), *key, "weights", place))
        drawn = torch.special.ndtri(cut + (1 - 2 * cut) * uniform)
        weights.append(drawn)
        with torch.no_grad():
            layer.weight.copy_(drawn.reshape(layer.in_features, -1).T / layer.in_features**0.5)
            layer.bias.zero_()
            if place == 0:
                layer.bias.copy_(torch.special.ndtri(torch.from_numpy(original(50, *key, "biases"))) / 6**0.5)
    np.testing.assert_allclose(found, net(torch.from_numpy(x)).detach(), rtol=1e-9, atol=1e-12)
    every = torch.cat(weights)
    assert float(every.abs().max()) <= 2
    assert float(every.std()) == pytest.approx(0.8796, rel=0.05)  # of a normal that is cut off at two


def test_inputs_are_standard_normal():
    x = torch.cat([load(split, input_dim=10, num_test=2000).test.x for split in range(5)])
    assert abs(float(x.mean())) < 5 / x.numel() ** 0.5
    assert float(x.std()) == pytest.approx(1, abs=5 / (2 * x.numel()) ** 0.5)


@pytest.mark.parametrize(("classes", "temperature"), [(2, 0.1), (2, 0.5), (5, 0.1)])
def test_classes_are_drawn_with_the_true_probabilities(classes, temperature):
    """Each class as often as its probabilities say, also among examples where it is improbable."""
    tasks = [load(split, num_classes=classes, temperature=temperature, num_test=4000) for split in range(5)]
    probs = torch.cat([task.truth["log_probs"] for task in tasks]).exp()
    y = torch.nn.functional.one_hot(torch.cat([task.test.y for task in tasks]), classes)
    for low, high in ((0.0, 0.2), (0.2, 0.8), (0.8, 1.0)):
        inside = (probs >= low) & (probs < high)
        variance = (probs * (1 - probs))[inside].sum()
        assert abs(float(y[inside].sum() - probs[inside].sum())) < 5 * float(variance) ** 0.5


def test_the_temperature_divides_the_logits():
    """At a low one classes are certain, at a high one all are equally probable."""
    cold, warm = (load(temperature=t).truth["log_probs"].exp() for t in (1e-4, 1e4))
    assert float(cold.amax(1).median()) > 1 - 1e-6
    torch.testing.assert_close(warm, torch.full_like(warm, 0.5), atol=1e-3, rtol=0)


def test_the_truth_goes_with_its_rows():
    tasks = [load(split, num_test=6) for split in (0, 1)]
    problem = to_device(stack(tasks, [1, 0, 1]), torch.device("cpu")).repeat(2)
    rows = [tasks[i].truth["log_probs"] for i in (1, 1, 0, 0, 1, 1)]
    assert torch.equal(problem.truth["log_probs"], torch.stack(rows))
    assert torch.equal(stack(tasks, [0, 0]).truth["log_probs"][1], rows[2])
