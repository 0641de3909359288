"""The suites of Gal & Ghahramani 2016: options that are the paper's, and a stranger's set through them."""

import math
from pathlib import Path

import numpy as np
import pytest

from bdlbench import api
from bdlbench.runs import suites

PUBLISHED = {  # p, l, τ of the authors' public code
    "boston": (0.05, 0.01, 0.1597),
    "concrete": (0.01, 0.01, 0.0557),
    "energy": (0.05, 0.01, 0.4271),
    "kin8nm": (0.05, 0.01, 192.48),
    "naval": (0.05, 1.0, 42173.5),
    "power": (0.005, 0.01, 0.0871),
    "protein": (0.005, 0.01, 0.0644),
    "wine_quality": (0.05, 0.01, 2.958),
    "yacht": (0.01, 0.1, 0.5419),
}


SUITES = {  # hidden layers, batch, epochs of the small sets and of protein; the code trains protein for half as many
    "gal2016": (1, 32, 400, 400),
    "gal2016_4000": (1, 128, 4000, 2000),
    "gal2016_two_layers": (2, 128, 20_000, 10_000),
}


def cells(suite):
    specs = [suites.build_spec(suites.read_suite(name), suites.Overrides()) for name in (suite, f"{suite}_protein")]
    assert [len(spec.replicates) for spec in specs] == [20, 5]
    assert all(replicate.split == replicate.seed for spec in specs for replicate in spec.replicates)
    return {cell.dataset.name: cell for spec in specs for cell in spec.cells}


@pytest.mark.parametrize("suite", SUITES)
def test_the_options_are_the_papers(suite):
    """The penalty of squared errors, l² (1 − p) / (2 N τ) · |w|², is noise_sd² / prior_sd² / N · |w|²."""
    layers, batch_size, epochs, of_protein = SUITES[suite]
    found = cells(suite)
    assert found.keys() == PUBLISHED.keys()
    for name, (p, length, tau) in PUBLISHED.items():
        method, model = dict(found[name].method.options), dict(found[name].model.options)
        assert method["rate"] == method["input_rate"] == p
        assert 1 / model["noise_sd"] ** 2 == pytest.approx(tau, rel=1e-5)
        assert 1 / method["prior_sd"] ** 2 == pytest.approx(length**2 * (1 - p) / (2 * tau), rel=1e-5)
        assert method["prior_scaling"] == "noise"
        assert (model["noise_unit"], model["init"]) == ("original", "glorot")
        assert method["epochs"] == (of_protein if name == "protein" else epochs)
        assert (method["batch_size"], method["last_batch"]) == (batch_size, "kept")
        assert model["widths"] == ((100,) if name == "protein" else (50,)) * layers
        assert found[name].samples == 10_000


def test_a_strangers_set_runs_by_one_option(tmp_path: Path):
    """Three splits of 24 rows, y = 3x + 100 with noise: shorter than the suite says, so that it takes a second."""
    folder = tmp_path / "mine"
    folder.mkdir()
    rng = np.random.default_rng(1)
    x = rng.normal(size=(24, 2))
    table = np.column_stack([x, 100 + 3 * x[:, 0] + 0.1 * rng.normal(size=24)])
    np.savetxt(folder / "data.txt", table)
    for name, values in {"index_features": [0, 1], "index_target": [2], "n_splits": [3]}.items():
        np.savetxt(folder / f"{name}.txt", values, fmt="%d")
    for split in range(3):
        order = rng.permutation(24)
        np.savetxt(folder / f"index_train_{split}.txt", order[:20], fmt="%d")
        np.savetxt(folder / f"index_test_{split}.txt", order[20:], fmt="%d")
    done = api.run(
        "gal2016_folder",
        seeds=3,
        samples=20,
        set={"uci_folder": {"path": str(folder)}, "mc_dropout": {"epochs": 30, "learning_rate": 0.03}},
        results=tmp_path / "results",
    )
    assert done.skipped == ()
    (record,) = done.records
    metrics = {name: entry.values for name, entry in record.values.metrics.items()}
    assert len(metrics["rmse"]) == len(metrics["crps"]) == 3
    assert max(metrics["rmse"]) < 3  # of targets with a standard deviation of 3: the units are the table's
    assert all(math.isfinite(value) for value in metrics["qice"] + metrics["coverage_error[95]"])
    assert record.environment.examples.test == 4
