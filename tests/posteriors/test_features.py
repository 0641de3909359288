"""What a posterior's networks see in front of their last linear map, and the scores that are made of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bdlbench import api, catalog
from bdlbench.core.spec import Choice
from bdlbench.core.streams import Streams
from bdlbench.data.task import Problem, stack
from bdlbench.networks.from_module import from_module
from bdlbench.posteriors.features import NoFeatures, WatchedPredictive, watched
from bdlbench.posteriors.scaled import ScaledPosterior
from bdlbench.protocols import Posterior
from bdlbench.records import record as records
from bdlbench.stats import ood_scores

SETS = ("near", "photos")
METHODS = {
    "mle": {},
    "mc_dropout": {"rate": 0.3},
    "mean_field_vi": {},
    "deep_ensemble": {"members": 2},
}


def small(rows: int = 2) -> Problem:
    (chosen,) = catalog.choices("datasets", "digits_near", {"digits_near": {"num_train": [60]}})
    return stack([catalog.load_task(chosen, 0)], [0] * rows)


def make_net(inputs: int = 64) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, 6), nn.ReLU(), nn.Linear(6, 8))


def trained(method: str, problem: Problem, model: Any = None) -> tuple[Posterior, Any]:
    epochs = {"epochs": [1], "batch_size": [30]}
    own = {name: [value] for name, value in METHODS[method].items()}
    settings = {"mle": epochs, method: own if method == "deep_ensemble" else own | epochs}
    (chosen,) = catalog.choices("methods", method, settings)
    model = model or catalog.build_model([Choice.of("mlp", {"widths": (7, 5)})], problem.signature)
    rng = Streams.of_seeds(range(problem.train.rows))
    return catalog.build_method([chosen]).fit(model, problem.train, rng), model


@pytest.mark.parametrize("method", METHODS)
def test_a_watched_posterior_predicts_the_same_bits(method: str) -> None:
    problem = small()
    posterior, _ = trained(method, problem)
    plain = posterior.predict(problem.test.x, 5, Streams.of_seeds([3, 4]))
    watching = watched(posterior)
    assert watching is not None
    seen: Any = watching.predict(problem.test.x, 5, Streams.of_seeds([3, 4]))
    assert isinstance(seen, WatchedPredictive)
    members = METHODS[method].get("members", 1)
    assert seen.features.shape == (2 * members, problem.test.num_data, 5)  # the last hidden layer has five units
    for name, value in plain.arrays().items():
        assert torch.equal(seen.predictive.arrays()[name], value), name


def test_features_and_energies_of_one_network_are_its_own() -> None:
    problem = small(1)
    posterior, _ = trained("mle", problem)
    watching = watched(posterior, weights=True)
    assert watching is not None
    seen: Any = watching.predict(problem.test.x, 1, Streams.of_seeds([0]))
    state = {name: value[0] for name, value in posterior.state.items()}
    hidden = problem.test.x[0].flatten(1)
    for layer in ("fc1", "fc2"):
        hidden = (hidden @ state[f"{layer}.weight"].mT + state[f"{layer}.bias"]).relu()
    logits = (hidden @ state["fc3.weight"].mT + state["fc3.bias"]).double()
    torch.testing.assert_close(seen.features[0], hidden)
    torch.testing.assert_close(seen.energy[0], -logits.logsumexp(-1), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(seen.max_logit[0], -logits.amax(-1), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(seen.last[0][0], state["fc3.weight"].double())
    torch.testing.assert_close(seen.last[1][0], state["fc3.bias"].double())


def test_scores_of_samples_are_means_of_the_samples() -> None:
    problem = small()
    posterior, _ = trained("mc_dropout", problem)
    watching = watched(posterior)
    assert watching is not None
    rng = Streams.of_seeds([3, 4])
    few: Any = watching.predict(problem.test.x, 40, rng, joint=True)
    # of the first samples alone, and of how they are chunked, the mean does not know
    again: Any = watching.predict(problem.test.x, 40, rng, joint=True)
    assert torch.equal(few.energy, again.energy)
    one: Any = watching.predict(problem.test.x, 1, rng, joint=True)
    assert not torch.equal(one.features, few.features)
    assert float(few.energy.mean()) == pytest.approx(float(one.energy.mean()), abs=0.5)


def test_a_module_is_watched_as_a_model_of_ours_is() -> None:
    problem = small(1)
    model = from_module(make_net)(problem.signature)
    posterior, _ = trained("mle", problem, model)
    watching = watched(posterior, weights=True)
    assert watching is not None
    seen: Any = watching.predict(problem.test.x, 1, Streams.of_seeds([0]))
    plain = posterior.predict(problem.test.x, 1, Streams.of_seeds([0]))
    assert torch.equal(seen.predictive.arrays()["probs"], plain.arrays()["probs"])
    logits = seen.features.double() @ seen.last[0].mT + seen.last[1][:, None]
    torch.testing.assert_close(-logits.logsumexp(-1), seen.energy, atol=1e-5, rtol=1e-5)


def test_a_scaled_posterior_has_the_features_of_the_one_that_it_scales() -> None:
    """Its probabilities are scaled as ever; what the network saw, and the scores of its logits, are not."""
    problem = small()
    posterior, _ = trained("mc_dropout", problem)
    scaled = ScaledPosterior(posterior, torch.tensor([0.5, 3.0]))
    inner, outer = watched(posterior, weights=True), watched(scaled, weights=True)
    assert inner is not None and outer is not None
    of_one, of_both = (one.predict(problem.test.x, 5, Streams.of_seeds([3, 4])) for one in (inner, outer))
    plain: Any = scaled.predict(problem.test.x, 5, Streams.of_seeds([3, 4]))
    unscaled: Any = of_one
    seen: Any = of_both
    for name in ("features", "energy", "max_logit"):
        assert torch.equal(getattr(seen, name), getattr(unscaled, name))
    assert not torch.allclose(seen.log_probs, unscaled.log_probs)
    named, _ = trained("mc_dropout", problem)
    watching = watched(ScaledPosterior(named, scaled.temperature))
    assert watching is not None
    again: Any = watching.predict(problem.test.x, 5, Streams.of_seeds([3, 4]))
    assert torch.equal(again.log_probs, plain.log_probs)


def test_no_scaled_posterior_of_a_closed_form_has_features() -> None:
    assert watched(ScaledPosterior(ClosedForm(), torch.ones(1))) is None  # type: ignore[arg-type]


@dataclass(frozen=True)
class ClosedForm:
    """A posterior that is no network."""

    state: Any = None


def test_a_closed_form_has_no_features() -> None:
    assert watched(ClosedForm()) is None  # type: ignore[arg-type]


def test_a_network_without_class_logits_has_none_either() -> None:
    problem = stack([catalog.load_task(catalog.choice("datasets", "diabetes", {}), 0)], [0])
    posterior, _ = trained("mle", problem)
    watching = watched(posterior)
    assert watching is not None
    with pytest.raises(NoFeatures):
        watching.predict(problem.test.x, 1, Streams.of_seeds([0]))


def test_what_has_no_features_is_said_and_the_rest_is_scored(tmp_path: Path) -> None:
    network = {"blocks": 2, "channels": 2, "groups": 1}
    options: dict[str, Any] = {f"stopping_resnet.{name}": value for name, value in network.items()}
    options |= {"map.epochs": 1, "digits.num_train": 40, "digits.ood_scores": "energy"}
    cells: dict[str, Any] = {"method": "map", "model": "stopping_resnet", "dataset": "digits", "jobs": 1}
    ran = api.run(**cells, set=options, samples=1, seeds=1, results=tmp_path)
    (record,) = records.read(tmp_path)
    assert "ood_auroc[photos]" in record.values.metrics
    assert not [name for name in record.values.metrics if "energy" in name]
    assert any("energy" in note for note in ran.notes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two methods on digits with near and far sets, with scores and without."""
    place = tmp_path_factory.mktemp("scored")
    options: dict[str, Any] = {"digits_near.num_train": 60, "mle.epochs": 2, "deep_ensemble.members": 2}
    for asked in ({}, {"digits_near.ood_scores": "vim+energy+knn+mahalanobis+max_logit"}):
        api.run(
            method=["mle", "deep_ensemble"],
            model="logistic",
            dataset="digits_near",
            set={**options, **asked},
            samples=2,
            seeds=2,
            jobs=1,
            results=place,
        )
    return place


def test_a_record_has_the_scores_that_its_protocol_asks_for_and_the_same_predictions(folder: Path) -> None:
    by_method: dict[str, dict[bool, Any]] = {}
    for record in records.read(folder):
        by_method.setdefault(record.cell.method.name, {})["ood_scores" in dict(record.cell.dataset.options)] = record
    columns = {f"ood_{what}_{score}" for what in ("auroc", "fpr95") for score in ood_scores.AFTER_TRAINING}
    for pair in by_method.values():
        plain, scored = pair[False], pair[True]
        assert scored.values.metrics.keys() - plain.values.metrics.keys() == {
            f"{c}[{s}]" for c in columns for s in SETS
        }
        assert scored.cell.dataset.get("ood_scores") == "energy+knn+mahalanobis+max_logit+vim"
        assert scored.values.metrics["nll"] == plain.values.metrics["nll"]
        old, new = (records.predictions(folder, record) for record in (plain, scored))
        assert all(torch.equal(new[name], value) for name, value in old.items())
        assert new.keys() - old.keys() == {
            f"{where}.{score}" for where in ("test", "ood.near", "ood.photos") for score in ood_scores.AFTER_TRAINING
        }
        assert new["test.knn"].dtype == torch.float64
        # far inputs are told apart by features, even of a network that has hardly learnt
        assert min(scored.values.metrics["ood_auroc_mahalanobis[photos]"].numbers) > 0.8


def test_an_ensemble_has_the_mean_of_its_members_scores(folder: Path) -> None:
    """Its first member is the method alone with the same seed, so an ensemble of one differs from two."""
    found = {
        r.cell.method.name: records.predictions(folder, r) for r in records.read(folder) if "ood_scores" in str(r.cell)
    }
    mle, ensemble = found["mle"], found["deep_ensemble"]
    assert mle["test.knn"].shape == ensemble["test.knn"].shape
    assert torch.equal(mle["test.knn"], ensemble["test.knn"])  # a linear model's features are its inputs
    assert not torch.equal(mle["test.energy"], ensemble["test.energy"])


def test_scores_of_a_data_set_without_out_of_distribution_examples_are_refused(refused: Any, tmp_path: Path) -> None:
    with refused("wine.ood_scores", "wine.ood"):
        api.run(method="mle", model="mlp", dataset="wine", set={"wine.ood_scores": "knn"}, results=tmp_path / "out")


def test_an_unknown_score_and_a_target_that_is_no_class_are_refused(refused: Any, tmp_path: Path) -> None:
    words = ["run", "--model", "logistic", "--method", "mle", "--seeds", "1", "--results", tmp_path / "none"]
    refused.command([*words, "--dataset", "wine", "--set", "wine.ood_scores=energie"], "energie", "energy")
    refused.command([*words, "--dataset", "diabetes", "--set", "diabetes.ood_scores=all"], "diabetes.ood_scores")


class OwnDropout(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.drop, self.b = nn.Linear(64, 6), nn.Dropout(0.3), nn.Linear(6, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.drop(torch.relu(self.a(x.flatten(1)))))


class RunsApart(OwnDropout):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x * 1.0 if len(x) > 40 else x)


def test_a_module_with_dropout_of_its_own_is_watched_under_mc_dropout() -> None:
    problem = small(1)
    posterior, _ = trained("mc_dropout", problem, from_module(OwnDropout)(problem.signature))
    watching = watched(posterior, weights=True)
    assert watching is not None
    seen: Any = watching.predict(problem.test.x, 2, Streams.of_seeds([0]))
    plain = posterior.predict(problem.test.x, 2, Streams.of_seeds([0]))
    assert torch.equal(seen.predictive.arrays()["probs"], plain.arrays()["probs"])
    assert seen.features.shape == (1, problem.test.x.shape[1], 6)


@pytest.mark.parametrize("method", ["mle", "mean_field_vi"])
def test_a_module_whose_rows_run_apart_has_no_features(method: str) -> None:
    problem = small(2)
    posterior, _ = trained(method, problem, from_module(RunsApart)(problem.signature))
    watching = watched(posterior)
    assert watching is not None
    with pytest.raises(NoFeatures):
        watching.predict(problem.test.x, 1, Streams.of_seeds([0, 1]))
