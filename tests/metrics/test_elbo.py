"""The ELBO of the training data in original units, held against the evidence of the linear model in closed form."""

import numpy as np
import pytest
from scipy import stats

from bdlbench import api, catalog
from bdlbench.runs.loading import load_task

NOISE_SD, PRIOR_SD = 0.8, 0.5


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(tmp_path_factory.mktemp("linear"))


@pytest.fixture(scope="module")
def linear(folder):
    """Four splits of diabetes, whose targets have standard deviations of their own, by several methods."""
    return api.run(
        method=["exact", "mean_field_vi", "map", "mc_dropout"],
        model="bayesian_linear_regression",
        dataset="diabetes",
        seeds=4,
        splits="each",
        set={
            "bayesian_linear_regression.noise_sd": NOISE_SD,
            "bayesian_linear_regression.prior_sd": PRIOR_SD,
            "mean_field_vi.epochs": 60,
            "mean_field_vi.bound_samples": 100,
            "map.epochs": 1,
            "mc_dropout.epochs": 1,
        },
        results=folder,
    )


def values(linear, method):
    (record,) = [record for record in linear.records if record.cell.method.name == method]
    return {name: np.array(column.values) for name, column in record.values.metrics.items()}


def evidence(split):
    """log N(y; mean, sd² (noise² I + prior² X Xᵀ)) of the training targets as the file has them."""
    task = load_task(catalog.choice("datasets", "diabetes", {}), split)
    x = np.column_stack([task.train.x.double().numpy(), np.ones(len(task.train.y))])
    y = task.train.y.double().numpy() * task.y_sd + task.y_mean
    covariance = task.y_sd**2 * (NOISE_SD**2 * np.eye(len(x)) + PRIOR_SD**2 * x @ x.T)
    return stats.multivariate_normal(np.full(len(x), task.y_mean), covariance).logpdf(y)


@pytest.mark.slow
def test_the_elbo_of_the_exact_posterior_is_the_evidence_in_original_units(linear):
    expected = [evidence(split) for split in range(4)]
    assert expected[0] < -1500  # the targets are of 300 people, and their standard deviation is far from 1
    assert values(linear, "exact")["elbo"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.slow
def test_the_elbo_of_mean_field_is_the_evidence_less_its_divergence_from_the_posterior(linear):
    found = values(linear, "mean_field_vi")
    expected = np.array([evidence(split) for split in range(4)]) - found["posterior_kl"]
    error = found["elbo_standard_error"]
    assert (found["posterior_kl"] > 4).all()
    assert (error > 0).all()
    assert (np.abs(found["elbo"] - expected) < 5 * error + 0.01).all()


@pytest.mark.parametrize("method", ["map", "mc_dropout"])
def test_a_method_without_a_bound_has_no_elbo(linear, method):
    assert not {"elbo", "elbo_standard_error"} & values(linear, method).keys()


def test_a_bound_in_closed_form_has_no_monte_carlo_error(linear):
    assert "elbo_standard_error" not in values(linear, "exact")


def test_of_classes_the_elbo_is_the_bound_itself(tmp_path):
    options = {"mean_field_vi.epochs": 1, "mlp.widths": (3,)}
    found = api.run(method="mean_field_vi", model="mlp", dataset="wine", seeds=2, set=options, results=str(tmp_path))
    (record,) = found.records
    assert record.values.metrics["elbo"].numbers == list(record.values.elbo_nats)
    assert record.values.metrics["elbo"].better == "higher"


def test_compare_tests_the_elbo_split_by_split(linear, folder):
    found = api.compare(folder, folder, treatment="mean_field_vi:exact", metrics=["elbo"]).frame()
    (row,) = found.to_dict("records")
    gaps = values(linear, "exact")["elbo"] - values(linear, "mean_field_vi")["elbo"]
    assert (row["metric"], row["better"], row["pairs"]) == ("elbo", "higher", 4)
    assert row["difference"] == pytest.approx(gaps.mean())
