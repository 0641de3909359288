"""The data sets of the conjugate models: drawn from them, or real."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_diabetes

from bdlbench.data import splits
from bdlbench.datasets import diabetes, drawn

ENTRIES = {**drawn.datasets, **diabetes.datasets}

every_set = pytest.mark.parametrize("name", ENTRIES)


def load(name, split=0, **options):
    return ENTRIES[name](**options).load(split)


def tensors(task):
    return task.train.x, task.train.y, task.test.x, task.test.y


@every_set
def test_a_task_keeps_its_promises(name):
    task = load(name)
    gaussian = task.signature.likelihood == "gaussian"
    for part in (task.train, task.test):
        assert part.x.shape == (len(part.y), *task.signature.input_shape)
        assert part.x.dtype == torch.float32
        assert part.y.dtype == (torch.float32 if gaussian else torch.int64)
        assert part.x.isfinite().all()
    assert not task.ood
    assert all(len(value) == 64 for value in task.sources.values())


@every_set
def test_a_split_is_the_same_on_every_call_and_another_is_another(name, refused):
    first, again, other = load(name, 3), load(name, 3), load(name, 4)
    assert all(torch.equal(*pair) for pair in zip(tensors(first), tensors(again), strict=True))
    assert not torch.equal(first.test.y, other.test.y)
    with refused("split -1", "exist"):
        load(name, -1)


def test_coins_fall_as_they_are_told():
    for heads in (0.1, 0.5):
        y = torch.cat([load("coin_flips", split, num_train=400, heads=heads).train.y for split in range(10)]).double()
        assert abs(y.mean() - heads) < 5 * (heads * (1 - heads) / 4000) ** 0.5
    assert len(load("coin_flips", num_train=7).train.y) == 7


def test_linear_data_are_of_the_linear_model():
    tasks = [load("linear", split, num_train=500, features=3, noise_sd=0.5) for split in range(40)]
    weights = []
    for task in tasks:
        design = np.column_stack([task.train.x, np.ones(500)])
        w, (misfit,), _, _ = np.linalg.lstsq(design, task.train.y.numpy(), rcond=None)
        weights.append(w)
        assert misfit / 496 == pytest.approx(0.25, rel=5 * (2 / 496) ** 0.5)
        np.testing.assert_allclose(task.train.x.std(0), 1, atol=0.2)
    standard = np.concatenate(weights)
    assert abs(standard.mean()) < 5 / 160**0.5
    assert standard.std() == pytest.approx(1, abs=5 / 320**0.5)


def test_diabetes_is_scikit_learns_standardised_by_its_training_part():
    task, raw = load("diabetes", 2), load_diabetes(scaled=False)
    assert (len(task.train.y), len(task.test.y), task.signature.input_shape) == (331, 111, (10,))
    torch.testing.assert_close(task.train.x.mean(0), torch.zeros(10), atol=1e-5, rtol=0)
    torch.testing.assert_close(task.train.x.std(0, correction=0), torch.ones(10), atol=1e-5, rtol=0)
    assert task.train.y.mean().item() == pytest.approx(0, abs=1e-6)
    assert task.train.y.std(correction=0).item() == pytest.approx(1, abs=1e-5)
    original = torch.cat([task.train.y, task.test.y]).double() * task.y_sd + task.y_mean
    np.testing.assert_allclose(sorted(original), sorted(raw.target), atol=1e-4)


def test_random_splits_are_disjoint_and_complete():
    train, test = splits.random_split(10, "made up", 1)
    assert sorted([*train, *test]) == list(range(10))
    assert len(test) == 3
