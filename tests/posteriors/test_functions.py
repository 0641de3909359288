"""The functions that a posterior draws, and likelihoods of several targets at once of a run."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from bdlbench import api, catalog
from bdlbench.core.layout import Layout
from bdlbench.core.spec import Choice
from bdlbench.core.streams import Streams
from bdlbench.data.task import Problem, stack
from bdlbench.posteriors.draws import DrawsPosterior
from bdlbench.posteriors.features import scored, watched
from bdlbench.posteriors.functions import function_log_probs
from bdlbench.predictives.mixtures import log_at
from bdlbench.protocols import Posterior
from bdlbench.records import evaluation
from bdlbench.records import record as records
from bdlbench.runs.scoring import measure

FUNCTIONS = {"mle": 1, "mc_dropout": 6, "mean_field_vi": 6, "deep_ensemble": 2}


def trained(method: str, problem: Problem) -> Posterior:
    epochs = {"epochs": [1], "batch_size": [30]}
    settings: dict[str, Any] = {"mle": epochs, method: {"members": [2]} if method == "deep_ensemble" else epochs}
    (chosen,) = catalog.choices("methods", method, settings)
    model = catalog.build_model([Choice.of("mlp", {"widths": (7,)})], problem.signature)
    return catalog.build_method([chosen]).fit(model, problem.train, Streams.of_seeds([0, 1]))


@pytest.mark.parametrize("method", FUNCTIONS)
def test_the_mean_over_functions_is_the_joint_predictive(method: str) -> None:
    (chosen,) = catalog.choices("datasets", "digits", {"digits": {"num_train": [60]}})
    problem = stack([catalog.load_task(chosen, 0)], [0, 0])
    posterior, x, y = trained(method, problem), problem.test.x, problem.test.y
    of_classes = function_log_probs(posterior, x, 6, Streams.of_seeds([3, 4]))
    assert of_classes is not None
    found = log_at(of_classes, y.expand(len(of_classes), *y.shape))
    assert found.shape == (FUNCTIONS[method], 2, problem.test.num_data)
    mean = found.double().logsumexp(0) - math.log(len(found))
    plain = posterior.predict(x, 6, Streams.of_seeds([3, 4]), joint=True).log_prob(y)
    torch.testing.assert_close(mean, plain.double(), atol=1e-5, rtol=1e-5)
    if len(found) > 1:
        assert not torch.equal(found[0], found[1])


def test_each_draw_of_a_chain_is_a_function_and_has_features() -> None:
    (chosen,) = catalog.choices("datasets", "digits", {"digits": {"num_train": [60]}})
    problem = stack([catalog.load_task(chosen, 0)], [0, 0])
    model = catalog.build_model([Choice.of("mlp", {"widths": (7,)})], problem.signature)
    layout, x, y, rng = Layout(model.leaves()), problem.test.x, problem.test.y, Streams.of_seeds([3, 4])
    numbers = torch.randn(2, 2, 8, layout.width, generator=torch.Generator().manual_seed(0))
    posterior = DrawsPosterior(model, layout, 0.3 * numbers)  # two chains of eight
    plain: Any = posterior.predict(x, 1, rng)
    of_classes = function_log_probs(posterior, x, 1, rng)
    assert of_classes is not None
    found = log_at(of_classes, y.expand(len(of_classes), *y.shape))
    assert found.shape == (16, 2, problem.test.num_data)
    mean = found.double().logsumexp(0) - math.log(16)
    torch.testing.assert_close(mean, plain.log_prob(y).double(), atol=1e-5, rtol=1e-5)
    watching = watched(posterior)
    assert watching is not None
    seen: Any = watching.predict(x, 1, rng)
    assert seen.features.shape == (2, problem.test.num_data, 7)
    (scored_,) = scored(("energy",), seen, y, [seen])
    assert torch.equal(scored_.log_probs, plain.log_probs)
    assert torch.equal(scored_.facts["rhat"], plain.facts["rhat"])
    assert torch.equal(scored_.scores["energy"], seen.energy)


def test_a_closed_form_has_none() -> None:
    assert function_log_probs(object(), torch.zeros(1, 2, 3), 3, Streams.of_seeds([0])) is None  # type: ignore[arg-type]


def test_a_record_keeps_functions_where_they_are_asked_for_and_scores_them_again(tmp_path: Path) -> None:
    cells: dict[str, Any] = {"method": "mc_dropout", "model": "mlp", "samples": 4, "seeds": 3, "jobs": 1}
    options = {"mc_dropout.epochs": 2, "mlp.widths": "5", "wine.joint": 7}
    api.run(**cells, dataset="wine", set=options, results=tmp_path)
    (record,) = records.read(tmp_path)
    arrays = records.predictions(tmp_path, record)
    assert arrays["joint.function_log_prob"].shape == (7, 3, 45)
    kept = evaluation.read(record, arrays)
    assert kept is not None
    names = ("joint_nll", "joint_nll_polyadic")
    found = measure(kept, {name: catalog.metrics()[name] for name in names})
    assert found == {name: record.values.metrics[name] for name in names}
    # a replicate alone has its own bits, behind the axis of functions
    api.run(**cells | {"seeds": "1"}, dataset="wine", set=options, results=tmp_path / "alone")
    (alone,) = records.read(tmp_path / "alone")
    own = records.predictions(tmp_path / "alone", alone)["joint.function_log_prob"]
    (place,) = [i for i, one in enumerate(record.replicates) if one in alone.replicates]
    torch.testing.assert_close(own[:, 0], arrays["joint.function_log_prob"][:, place], atol=0, rtol=0)


def test_a_record_keeps_the_truth_and_what_functions_make_of_every_class(tmp_path: Path) -> None:
    cells: dict[str, Any] = {"method": "mc_dropout", "model": "mlp", "samples": 4, "jobs": 1, "splits": "each"}
    options = {"mc_dropout.epochs": 2, "mlp.widths": "5", "testbed.joint": 7, "testbed.num_test": 30}
    api.run(**cells, dataset="testbed", seeds=3, set=options, results=tmp_path)
    (record,) = records.read(tmp_path)
    arrays = records.predictions(tmp_path, record)
    assert arrays["joint.function_log_probs"].shape == (7, 3, 30, 2)
    (chosen,) = catalog.choices("datasets", "testbed", {"testbed": {"num_test": [30]}})
    for row, replicate in enumerate(record.replicates):
        task = catalog.load_task(chosen, replicate.split)
        assert torch.equal(arrays["truth.log_probs"][row], task.truth["log_probs"])
    kept = evaluation.read(record, arrays)
    assert kept is not None
    names = ("testbed_kl", "testbed_kl_dyadic", "oracle_nll", "oracle_entropy", "joint_nll")
    found = measure(kept, {name: catalog.metrics()[name] for name in names})
    assert found == {name: record.values.metrics[name] for name in names}
    # a replicate that is taken out takes its own row along
    records.without(tmp_path, record, {record.replicates[1]})
    (left,) = records.read(tmp_path)
    rest = records.predictions(tmp_path, left)
    for name, at in (("truth.log_probs", 0), ("joint.function_log_probs", 1)):
        assert torch.equal(rest[name], arrays[name].index_select(at, torch.tensor([0, 2])))


def test_a_target_that_is_no_class_is_refused(refused: Any, tmp_path: Path) -> None:
    words = ["run", "--model", "logistic", "--method", "mle", "--seeds", "1", "--results", tmp_path / "none"]
    refused.command([*words, "--dataset", "diabetes", "--set", "diabetes.joint=3"], "diabetes.joint")
