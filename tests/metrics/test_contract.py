import dataclasses
import importlib
import math
import pkgutil

import pytest
import torch

import bdlbench.metrics
from bdlbench.core.spec import Cell, Choice
from bdlbench.protocols import TEST, MeanOverExamples, WithoutBlocks
from bdlbench.records import evaluation as stored
from bdlbench.records.contents import Environment, Values
from bdlbench.records.record import Record
from bdlbench.runs.scoring import stored_arrays
from bdlbench.stats.jackknife import blocks

FAMILIES = {
    m.name: importlib.import_module(f"bdlbench.metrics.{m.name}")
    for m in pkgutil.iter_modules(bdlbench.metrics.__path__)
}
METRICS = {name: metric for family in FAMILIES.values() for name, metric in family.metrics.items()}
OF_DENSITY = {
    "ood_auroc_density",
    "ood_auroc_negative_elbo",
    "ood_auroc_likelihood_regret",
    *FAMILIES["density"].metrics,
}
SCORES_OF_CLASSES = ("entropy", "mutual_information", "max_probability")
OF_CLASSES = {name for name, metric in METRICS.items() if getattr(metric, "score", "") in SCORES_OF_CLASSES}
OF_CLASSES |= {"accuracy", "ece", "ece_10", "brier", "aurc", "augrc", "accuracy_at_90"}
OF_CLASSES |= {*FAMILIES["calibration"].metrics, *FAMILIES["conformal"].metrics}
OF_CONJUGATE = set(FAMILIES["posterior"].metrics)

USES = {"near": {TEST, "near"}, "far": {TEST, "far"}, "simple": {TEST, "simple"}, "": {TEST}}
USES |= {key: {TEST} for key in ("50", "90", "95")}
"""The populations that a key of the catalog speaks of."""

every_metric = pytest.mark.parametrize("name", METRICS)


def test_names_are_unique():
    assert len(METRICS) == sum(len(family.metrics) for family in FAMILIES.values())


@every_metric
def test_a_metric_says_what_it_is(name):
    metric = METRICS[name]
    assert metric.summary
    assert "\n" not in metric.summary
    assert metric.unit
    assert metric.better in ("higher", "lower")


@every_metric
def test_a_definition_is_frozen_and_reads_the_same_in_every_process(name):
    metric = METRICS[name]
    assert dataclasses.is_dataclass(metric)
    assert hash(metric) == hash(dataclasses.replace(metric))
    assert " at 0x" not in repr(metric)


@every_metric
@pytest.mark.parametrize("kind", ["classification", "regression", "conjugate", "density"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rows", [1, 3])
def test_values_are_one_float64_for_each_row(name, kind, dtype, rows, make):
    for value in METRICS[name](getattr(make(rows, dtype), kind)()).values():
        assert value.shape == (rows,)
        assert value.dtype == torch.float64
        assert value.isfinite().all()


@every_metric
@pytest.mark.parametrize("kind", ["classification", "regression", "conjugate", "density"])
@pytest.mark.parametrize("num", [1, 37, 101])
def test_a_row_alone_has_the_same_bits(name, kind, num, make, alone):
    evaluation = getattr(make(rows=5), kind)(num)
    together = METRICS[name](evaluation)
    for r in range(5):
        apart = METRICS[name](alone(evaluation, r))
        assert apart.keys() == together.keys()
        assert all(torch.equal(apart[key], together[key][r : r + 1]) for key in together)


@pytest.mark.parametrize("name", sorted(OF_CONJUGATE))
def test_what_needs_an_exact_posterior_is_undefined_without_one(name, make):
    assert METRICS[name](make().classification()) == METRICS[name](make().regression()) == {}
    assert METRICS[name](make().conjugate()).keys() == {""}


@pytest.mark.parametrize("name", sorted(OF_CONJUGATE - {"elbo_gap"}))
def test_a_conjugate_row_with_a_nan_is_nan_and_no_other(name, make):
    evaluation = make(rows=3).conjugate()
    evaluation.moments.mean[1, 0] = evaluation.test.means[2, 1, 5] = math.nan
    assert METRICS[name](evaluation)[""].isnan().tolist() == [False, True, False]


@pytest.mark.parametrize("name", sorted(OF_CLASSES))
def test_what_needs_classes_is_undefined_for_regression(name, make):
    assert METRICS[name](make().regression()) == METRICS[name](make().density()) == {}


@pytest.mark.parametrize("name", sorted(OF_DENSITY))
def test_what_needs_a_density_is_undefined_for_targets(name, make):
    assert METRICS[name](make().classification()) == METRICS[name](make().regression()) == {}
    assert METRICS[name](make().density())


@pytest.mark.parametrize("name", sorted(OF_DENSITY - {"importance_samples", "regret_gain"} | {"nll"}))
def test_a_row_of_densities_with_a_nan_is_nan_and_no_other(name, make):
    evaluation = make(rows=3).density()
    for predictive in (evaluation.test, *evaluation.ood.values()):
        for values in (predictive.log_densities[2], predictive.elbo, predictive.regret, predictive.latent_mean):
            values[1, 5] = math.nan
    values = METRICS[name](evaluation)
    assert values
    for value in values.values():
        assert value.isnan().tolist() == [False, True, False]


@pytest.mark.parametrize("name", sorted(OF_CLASSES | {"nll"}))
def test_a_row_with_a_nan_is_nan_and_no_other(name, make):
    evaluation = make(rows=3).classification()
    for predictive in (evaluation.test, *evaluation.ood.values()):
        predictive.log_probs[1, 5] = math.nan
        predictive.expected_entropy[1, 5] = math.nan
    values = METRICS[name](evaluation)
    assert values
    for value in values.values():
        assert value.isnan().tolist() == [False, True, False]


OF_NUMBERS = ("nll", "moment_matched_nll", "rmse", "crps", *FAMILIES["intervals"].metrics)


@pytest.mark.parametrize("name", OF_NUMBERS)
def test_a_regression_row_with_a_nan_is_nan_and_no_other(name, make):
    evaluation = make(rows=3).regression()
    evaluation.test.means[2, 1, 5] = math.nan
    for value in METRICS[name](evaluation).values():
        assert value.isnan().tolist() == [False, True, False]


@pytest.mark.parametrize("name", OF_NUMBERS)
def test_a_record_scores_as_its_predictions_did(name, make):
    evaluation = make(rows=3).regression()
    there, kept = METRICS[name](evaluation), METRICS[name](as_stored(evaluation))
    assert there
    assert there.keys() == kept.keys()
    for key, value in there.items():
        torch.testing.assert_close(kept[key], value, rtol=1e-6, atol=0)
        assert name == "nll" or torch.equal(kept[key], value)  # whose groups are kept in float32


@pytest.mark.parametrize("name", ["accuracy", "ece", "ece_10", "brier"])
def test_float32_probabilities_are_summed_in_float64(name, make):
    evaluation = make(rows=2).classification()
    probs = evaluation.test.probs.double()  # as float32 holds them
    test = dataclasses.replace(evaluation.test, log_probs=probs.log(), dtype=torch.float64)
    wide = METRICS[name](dataclasses.replace(evaluation, test=test))
    torch.testing.assert_close(METRICS[name](evaluation)[""], wide[""], rtol=0, atol=1e-12)


@every_metric
def test_what_examples_contribute_averages_to_the_value(name, make):
    metric = METRICS[name]
    if not isinstance(metric, MeanOverExamples):
        assert name not in {"accuracy", "nll", "brier", "crps", "negative_elbo", "depth", "flops"}
        return
    for evaluation in (make().classification(), make().regression(), make().density()):
        values, rows = metric(evaluation), metric.by_example(evaluation)
        assert values.keys() == rows.keys()
        for key, value in values.items():
            assert rows[key].shape == evaluation.y.shape
            assert torch.allclose(rows[key].mean(1), value, rtol=1e-12)


def as_stored(evaluation):
    """What a record keeps of it."""
    record = Record(Cell(Choice("mle"), Choice("mlp"), Choice("wine"), 5), (), Values(samples=(5,)), {}, Environment())
    return stored.read(record, stored_arrays(evaluation))


@dataclasses.dataclass(frozen=True)
class Plain:
    """A metric without any faster way."""

    metric: object

    def __call__(self, evaluation):
        return self.metric(evaluation)


@every_metric
@pytest.mark.parametrize("kind", ["classification", "regression", "density"])
def test_the_fast_way_to_leave_blocks_out_is_the_slow_one(name, kind, make):
    """By the populations that the metric says it uses; and these are those that it is seen to use."""
    metric, evaluation = METRICS[name], as_stored(getattr(make(rows=3), kind)())
    if isinstance(metric, MeanOverExamples) or not metric(evaluation) or name in FAMILIES["joint"].metrics:
        return  # the last draw batches anew for another size: tests/metrics/test_joint.py
    assert isinstance(metric, WithoutBlocks) == (name != "active_units"), f"{name} is jackknifed by a slow loop"
    for population in (TEST, *evaluation.ood):
        size = evaluation.y.shape[1] if population == TEST else {"near": 57}.get(population, 64)
        block = torch.from_numpy(blocks(size, most=12))
        fast, slow = (stored.without_blocks(m, evaluation, population, block) for m in (metric, Plain(metric)))
        assert fast.keys() == slow.keys() == {key for key in metric(evaluation) if population in USES[key]}
        for key, value in fast.items():
            assert value.shape == (3, 12)
            torch.testing.assert_close(value, slow[key], rtol=0, atol=1e-10)
