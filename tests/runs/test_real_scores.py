"""Predictions of a real target made elsewhere: npz and CSV, what is refused, and the numbers of a run here."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from bdlbench import api, catalog
from bdlbench.records import record as records
from bdlbench.runs.external_scores import Claim, score
from bdlbench.runs.loading import load_task


def diabetes(split=0):
    task = load_task(catalog.choice("datasets", "diabetes", {}), split)
    return task.test.y.double().numpy() * task.y_sd + task.y_mean


def mixture(*lead):
    rng = np.random.default_rng(0)
    mean = diabetes() + 40 * rng.normal(size=(*lead, 111))
    return {"mean": mean, "sd": 30 + 20 * rng.random(mean.shape), "target": diabetes()}


def saved(folder: Path, **arrays) -> Path:
    path = folder / "mine.npz"
    np.savez(path, **{name: value for name, value in arrays.items() if value is not None})
    return path


def metrics(path: Path):
    return {name: list(entry.values) for name, entry in records.read_one(path).values.metrics.items()}


def test_a_mixture_is_scored_as_scipy_and_its_definition_do(tmp_path):
    arrays = mixture(5, 2)
    found = metrics(score(saved(tmp_path, **arrays), Claim("mine", "diabetes"), tmp_path / "out"))
    mean, sd, y = arrays["mean"], arrays["sd"], arrays["target"]
    density = stats.norm.pdf(y, mean, sd).mean(0)
    assert found["nll"] == pytest.approx((-np.log(density)).mean(1), rel=1e-9)
    whole = stats.norm(mean.mean(0), np.sqrt(np.square(sd).mean(0) + mean.var(0)))
    assert found["moment_matched_nll"] == pytest.approx(-whole.logpdf(y).mean(1), rel=1e-9)
    assert found["rmse"] == pytest.approx(np.sqrt(np.square(mean.mean(0) - y).mean(1)), rel=1e-9)
    below = stats.norm.cdf(y, mean, sd).mean(0)
    held = (np.abs(2 * below - 1) <= 0.9).mean(1)
    assert found["coverage_error[90]"] == pytest.approx(np.abs(held - 0.9), abs=1e-12)
    draws = np.random.default_rng(1).normal(mean[..., None], sd[..., None], (5, 2, 111, 400)).swapaxes(1, 0)
    draws = draws.transpose(0, 2, 1, 3).reshape(2, 111, 2000)
    ordered = np.sort(draws, -1)
    within = (ordered * (2 * np.arange(1, 2001) - 2001)).sum(-1) / 2000**2  # half the mean distance of two draws
    crps = np.abs(draws - y[:, None]).mean(-1) - within
    assert found["crps"] == pytest.approx(crps.mean(1), rel=0.01)
    assert set(found) == {
        "rmse",
        "nll",
        "moment_matched_nll",
        "crps",
        "qice",
        "sharpness",
        "interval_calibration_error",
    } | {f"coverage_error[{q}]" for q in (50, 90, 95)}


def test_axes_variances_and_tables_say_the_same(tmp_path):
    whole = mixture(4, 1)
    expected = metrics(score(saved(tmp_path, **whole), Claim("mine", "diabetes"), tmp_path / "a"))
    flat = {"mean": whole["mean"][:, 0], "variance": np.square(whole["sd"][:, 0]), "target": whole["target"]}
    found = metrics(score(saved(tmp_path, **flat), Claim("mine", "diabetes", axes="MN"), tmp_path / "b"))
    frame = pd.DataFrame(
        {
            "sample": np.repeat(np.arange(4), 111),
            "mean": whole["mean"].ravel(),
            "sd": whole["sd"].ravel(),
            "target": np.tile(whole["target"], 4),
        }
    )
    frame.to_csv(tmp_path / "mine.csv", index=False)
    table = metrics(score(tmp_path / "mine.csv", Claim("mine", "diabetes"), tmp_path / "csv"))
    for other in (found, table):
        assert other.keys() == expected.keys()
        for name, values in expected.items():
            assert other[name] == pytest.approx(values, rel=1e-9)
    rows = {"mean": whole["mean"][:, 0], "sd": whole["sd"][:, 0], "target": whole["target"]}
    each = metrics(score(saved(tmp_path, **rows), Claim("mine", "diabetes", axes="RN"), tmp_path / "c"))
    assert len(each["rmse"]) == 4


@pytest.mark.parametrize(
    ("changes", "axes", "names"),
    [
        ({"target": None}, "", ["no target"]),
        ({"sd": None}, "", ["neither", "sd", "variance"]),
        ({"variance": np.ones((5, 2, 111))}, "", ["both", "sd", "variance"]),
        ({"mean": None}, "", ["sd", "no mean"]),
        ({"sd": np.zeros((5, 2, 111))}, "", ["sd", "0", "sample 0", "replicate 0", "example 0", "positive"]),
        ({"sd": np.ones((5, 2, 110))}, "", ["mean", "sd", "(5, 2, 111)", "(5, 2, 110)"]),
        ({"mean": np.full((5, 2, 111), np.nan)}, "", ["mean", "nan", "sample 0"]),
        ({"target": diabetes()[:-1]}, "", ["target", "(110,)", "(111,)"]),
        ({"target": diabetes()[::-1]}, "", ["110 of 111 targets", "split 0", "diabetes", "example 0"]),
        ({"target": (diabetes() - 150) / 77}, "", ["111 of 111 targets", "units"]),
        ({"labels": np.zeros(111)}, "", ["labels", "mean"]),
        ({"score.mine": np.zeros(111)}, "", ["score.mine", "mean"]),
        (
            {"mean": diabetes()[None], "sd": np.ones((1, 111))},
            "",
            ["mean", "2 axes", "(1, 111)", "--axes RN"],
        ),
        ({}, "RN", ["mean", "(5, 2, 111)", "RN", "2"]),
        ({}, "NM", ["--axes 'NM'", "'N'"]),
    ],
)
def test_what_is_wrong_is_said_by_its_name_and_nothing_is_written(tmp_path, changes, axes, names, refused):
    with refused(*names):
        score(saved(tmp_path, **{**mixture(5, 2), **changes}), Claim("mine", "diabetes", axes=axes), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_classes_and_numbers_are_not_taken_for_each_other(tmp_path, refused):
    with refused("wine", "no real", "target", "mean", "sd"):
        score(saved(tmp_path, **mixture(1, 1)), Claim("mine", "wine"), tmp_path / "out")
    path = saved(tmp_path, probs=np.full((111, 2), 0.5), labels=np.zeros(111, dtype=int))
    with refused("diabetes", "no classes", "probabilities"):
        score(path, Claim("mine", "diabetes"), tmp_path / "out")


def test_a_set_of_ones_own_is_told_by_its_targets(tmp_path):
    path = score(saved(tmp_path, **mixture(3, 1)), Claim("mine", "my_set", own_data=True), tmp_path / "out")
    assert list(records.read_one(path).environment.sources) == ["targets"]


def test_predictions_of_a_run_here_score_as_the_run_did(tmp_path):
    """One Gaussian for each example, taken from its record: every metric but those of the posterior."""
    results = tmp_path / "runs"
    asked = {"bayesian_linear_regression": {"noise_sd": 0.7, "prior_sd": 0.2}}
    api.run(method="exact", model="bayesian_linear_regression", dataset="diabetes", seeds=2, set=asked, results=results)
    (record,) = records.read(results)
    arrays = records.predictions(results, record)
    path = saved(tmp_path, mean=arrays["test.mean"][None], sd=arrays["test.sd"][None], target=arrays["test.y"])
    found = metrics(score(path, Claim("mine", "diabetes"), tmp_path / "out"))
    for name, values in found.items():
        assert values == pytest.approx(record.values.metrics[name].values, rel=1e-6)
