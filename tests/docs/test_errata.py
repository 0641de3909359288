"""The numerical checks of docs/errata.md, by their numbers: what is printed on the slide fails, what is right holds."""

from __future__ import annotations

import itertools
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from bdlbench import catalog
from bdlbench.core.streams import Streams
from bdlbench.data.task import Data

ERRATA = Path(__file__).resolve().parents[2] / "docs" / "errata.md"

MEAN, COVARIANCE = np.array([0.3, -0.5]), np.array([[2.0, 0.6], [0.6, 0.5]])
GRID = np.linspace(-20, 20, 4001)
STEP = GRID[1] - GRID[0]
GIVEN = 0.7


def joint_at(y: float) -> np.ndarray:
    """p(x, y) on the grid of x."""
    return stats.multivariate_normal(MEAN, COVARIANCE).pdf(np.stack([GRID, np.full_like(GRID, y)], -1))


def test_1_a_conditional_density_divides_by_what_is_given() -> None:
    joint = joint_at(GIVEN)
    right = joint / (joint.sum() * STEP)
    printed = joint / stats.norm(MEAN[0], np.sqrt(COVARIANCE[0, 0])).pdf(GRID)
    assert right.sum() * STEP == pytest.approx(1)
    assert stats.norm(MEAN[1], np.sqrt(COVARIANCE[1, 1])).pdf(GIVEN) == pytest.approx(joint.sum() * STEP)
    assert abs(printed.sum() * STEP - 1) > 0.1


def test_2_the_conditional_mean_divides_by_the_variance_of_y() -> None:
    joint = joint_at(GIVEN)
    density = joint / joint.sum()
    mean = (density * GRID).sum()
    variance = (density * (GRID - mean) ** 2).sum()
    covariance = COVARIANCE[0, 1]
    assert mean == pytest.approx(MEAN[0] + covariance / COVARIANCE[1, 1] * (GIVEN - MEAN[1]))
    assert variance == pytest.approx(COVARIANCE[0, 0] - covariance**2 / COVARIANCE[1, 1])
    assert abs(mean - (MEAN[0] + covariance / COVARIANCE[0, 0] * (GIVEN - MEAN[1]))) > 0.5


def test_3_the_predictive_variance_depends_on_x() -> None:
    task = catalog.load_task(catalog.choice("datasets", "linear", {"linear": {"num_train": 20, "features": 1}}), 0)
    (model,) = catalog.choices("models", "bayesian_linear_regression", {})
    x, y = task.train.x[None], task.train.y[None]
    posterior = catalog.build_model([model], task.signature).exact(Data(x, y))
    far = torch.tensor([[[0.0], [3.0], [10.0]]])
    _, sd = (part[0] for part in posterior.predict(far, 1, Streams.of_seeds([0])).components())
    design = np.c_[task.train.x.numpy(), np.ones(20)]
    covariance = np.linalg.inv(design.T @ design + np.eye(2))  # noise_sd and prior_sd are 1
    at = np.c_[far[0].numpy(), np.ones(3)]
    assert np.square(sd.numpy().ravel()) == pytest.approx(1 + (at @ covariance * at).sum(1), rel=1e-5)
    assert sd.ravel()[2] > 1.5 * sd.ravel()[0]


def layers_run(z: int, layers: int, uses) -> int:
    """Count the layers F_l that act, where layer l acts if uses(z, l)."""
    return sum(uses(z, layer) for layer in range(1, layers + 1))


@pytest.mark.parametrize("z", [1, 2, 5])
def test_4_z_layers_are_used_where_l_is_at_most_z(z: int) -> None:
    assert layers_run(z, 5, lambda z, layer: layer <= z) == z
    assert layers_run(z, 5, lambda z, layer: z <= layer) == 6 - z


def test_5_before_y_is_seen_depth_has_its_prior() -> None:
    rng = np.random.default_rng(0)
    prior = np.array([0.5, 0.3, 0.2])
    for _ in range(5):
        classes = rng.dirichlet(np.ones(4), 3)  # p(y | x, z) of any classifier, a row for each z
        joint = classes * prior[:, None]
        assert joint.sum() == pytest.approx(1)
        assert joint.sum(1) == pytest.approx(prior)
        seen = joint[:, 2] / joint[:, 2].sum()  # with y at hand there is something to learn
        assert np.abs(seen - prior).max() > 0.01


def test_6_densities_may_differ_at_single_points() -> None:
    def q(x: np.ndarray) -> np.ndarray:
        return np.where(x == 0.5, 7.0, 1.0)  # uniform on (0, 1) but for one point

    x = (np.arange(100_000) + 0.5) / 100_000  # midpoints: the integral of log(q / p) over q
    assert q(np.array([0.5])) != 1
    assert np.mean(q(x) * np.log(q(x))) == 0


def dropout_kl(at: float, width: float, rate: float = 0.3) -> float:
    """KL of rate·N(0, width²) + (1 − rate)·N(at, width²) from N(0, 1), by quadrature around both."""
    total = 0.0
    for share, centre in ((rate, 0.0), (1 - rate, at)):
        x = centre + width * np.linspace(-9, 9, 20_001)
        weight = stats.norm(centre, width).pdf(x)
        density = rate * stats.norm(0, width).pdf(x) + (1 - rate) * stats.norm(at, width).pdf(x)
        total += share * (weight * (np.log(density) - stats.norm.logpdf(x))).sum() * (x[1] - x[0])
    return total


def test_7_the_kl_of_dropout_is_infinite_and_its_part_in_lambda_is_weight_decay() -> None:
    widths = [1e-1, 1e-2, 1e-3, 1e-4]
    values = [dropout_kl(1.5, width) for width in widths]
    assert np.diff(values) == pytest.approx(np.log(10) * np.ones(3), abs=0.01)
    difference = dropout_kl(2.0, 1e-4) - dropout_kl(1.0, 1e-4)
    assert difference == pytest.approx(0.7 * (2.0**2 - 1.0**2) / 2, rel=1e-3)


def test_8_the_likelihood_of_a_decoder_has_no_prior_in_it() -> None:
    rng = np.random.default_rng(0)
    z, weights = rng.standard_normal(2), rng.standard_normal((5, 2))
    on = 1 / (1 + np.exp(-weights @ z))
    images = np.array(list(itertools.product([0, 1], repeat=5)))
    likelihood = np.where(images, on, 1 - on).prod(1)
    assert likelihood.sum() == pytest.approx(1)
    assert (likelihood * stats.norm.pdf(z).prod()).sum() < 0.9


def test_every_erratum_has_a_check() -> None:
    numbers = re.findall(r"^(\d+)\. \*\*", ERRATA.read_text("utf-8"), re.MULTILINE)
    here = [name.split("_")[1] for name in vars(sys.modules[__name__]) if re.match(r"test_\d", name)]
    assert numbers == here == [str(i + 1) for i in range(len(numbers))]
