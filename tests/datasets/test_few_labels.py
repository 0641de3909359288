"""semi_mnist and labelled_mnist: one order of the images, of which few keep their label."""

from typing import Any

import numpy as np
import pytest
import torch

from bdlbench.catalog import build_dataset, choice
from bdlbench.data import downloads
from bdlbench.data.task import Task
from bdlbench.datasets.mnist import Mnist

pytestmark = pytest.mark.data


@pytest.fixture(scope="module", autouse=True)
def files() -> None:
    if any(state != "verified" for _, state in downloads.status(Mnist.files[:4])):
        pytest.skip("MNIST is not in the store: set BDLBENCH_DATA")


def load(name: str, split: int = 0, **options: int) -> Task:
    return build_dataset(choice("datasets", name, {name: options})).load(split)


def semi(split: int = 0, **options: int) -> Task:
    return load("semi_mnist", split, **{"num_labelled": 100, "num_unlabelled": 500, "copies": 3, **options})


def images(x: torch.Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for image in x}


def test_labelled_images_come_first_and_repeat() -> None:
    task = semi()
    assert task.signature.likelihood == "semi_categorical"
    assert task.train.x.shape == (800, 1, 28, 28)
    assert (task.train.y[300:] == -1).all()
    for part in (task.train.x[:300], task.train.y[:300]):
        for copy in part.chunk(3):
            assert torch.equal(copy, part[:100])
    assert task.train.y[:100].bincount().tolist() == [10] * 10
    assert images(task.train.x[:100]).isdisjoint(images(task.train.x[300:]))
    assert len(images(task.train.x)) == 600
    assert (task.train.x.min(), task.train.x.max()) == (0, 1)


@pytest.mark.parametrize("split", [0, 7])
@pytest.mark.parametrize("count", [100, 300])
def test_the_labelled_set_is_the_same_draw_alone(split: int, count: int) -> None:
    both, alone = semi(split, num_labelled=count), load("labelled_mnist", split, num_labelled=count)
    assert alone.signature.likelihood == "categorical"
    assert torch.equal(alone.train.x, both.train.x[:count])
    assert torch.equal(alone.train.y, both.train.y[:count])
    assert torch.equal(alone.test.x, both.test.x)
    assert torch.equal(alone.test.y, both.test.y)
    assert both.test.y.bincount(minlength=10).min() > 0
    assert len(both.test.y) == 10_000


def test_it_is_the_draw_of_mnist_too() -> None:
    task, standardised = load("labelled_mnist", 2, num_labelled=30), load("mnist", 2, num_train=30)
    assert torch.equal(task.train.y, standardised.train.y)
    mean, sd = (standardised.statistics[key] for key in ("pixel_mean", "pixel_sd"))
    torch.testing.assert_close(standardised.train.x * sd + mean, task.train.x, atol=1e-5, rtol=0)


def test_draws_differ_by_split_and_smaller_ones_lie_in_larger() -> None:
    first, second = (load("labelled_mnist", split) for split in (0, 1))
    assert len(images(first.train.x) & images(second.train.x)) < 10
    larger = load("labelled_mnist", 1, num_labelled=300)
    assert torch.equal(larger.train.x[:100], second.train.x)
    assert torch.equal(first.test.x, second.test.x)


def test_what_has_no_label_is_balanced_and_its_classes_are_hidden() -> None:
    task, whole = semi(4), load("labelled_mnist", 4, num_labelled=600)
    assert torch.equal(task.train.x[300:], whole.train.x[100:])
    assert np.ptp(whole.train.y.bincount().numpy()) == 0
    assert set(task.train.y.tolist()) == {-1, *range(10)}


def test_squares_of_pixels_are_averaged(refused: Any) -> None:
    for name in ("semi_mnist", "labelled_mnist"):
        whole, half = load(name, 1), load(name, 1, pool=2)
        assert half.signature.input_shape == (1, 14, 14)
        for part, small in ((whole.train, half.train), (whole.test, half.test)):
            squares = part.x.unflatten(-1, (14, 2)).unflatten(-3, (14, 2)).mean((-3, -1))
            torch.testing.assert_close(small.x, squares)
            assert torch.equal(small.y, part.y)
        with refused("pool=3", "28 pixels"):
            load(name, pool=3)


def test_no_more_images_than_there_are(refused: Any) -> None:
    with refused("num_train=60100", "60000 training", "mnist"):
        semi(num_labelled=100, num_unlabelled=60_000)
