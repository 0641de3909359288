import dataclasses

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from bdlbench.metrics.ood import metrics
from bdlbench.stats.ood_scores import AFTER_TRAINING

SCORES = {"classes": ("entropy", "mutual_information", "max_probability", *AFTER_TRAINING)}
SCORES["density"] = ("density", "negative_elbo", "likelihood_regret")
OF_CLASSES, OF_DENSITY = (
    {name for name, metric in metrics.items() if metric.score in known} for known in SCORES.values()
)
DEFINED = {
    "ood_auroc": ("entropy", roc_auc_score),
    "ood_aupr": ("entropy", average_precision_score),
    "ood_auroc_mutual_information": ("mutual_information", roc_auc_score),
    "ood_auroc_max_probability": ("max_probability", roc_auc_score),
}


@pytest.mark.parametrize("name", DEFINED)
def test_the_out_of_distribution_set_is_positive(name, make):
    evaluation = make(rows=3).classification()
    score, oracle = DEFINED[name]
    values = metrics[name](evaluation)
    assert values.keys() == {"near", "far"}
    inside = evaluation.test.scores[score]
    for key, value in values.items():
        outside = evaluation.ood[key].scores[score]
        labels = np.r_[np.ones(outside.shape[1]), np.zeros(inside.shape[1])]
        theirs = [oracle(labels, torch.cat([outside[r], inside[r]]).numpy()) for r in range(3)]
        assert value.tolist() == pytest.approx(theirs, abs=1e-12)


def test_flat_predictions_are_found(make):
    evaluation = make(rows=2).classification()
    assert (metrics["ood_auroc"](evaluation)["far"] > 0.9).all()
    assert (metrics["ood_auroc_max_probability"](evaluation)["far"] > 0.9).all()
    assert (metrics["ood_fpr95"](evaluation)["far"] < metrics["ood_fpr95"](evaluation)["near"]).all()


@pytest.mark.parametrize(("name", "better"), [(n, "lower" if n.startswith("ood_fpr95") else "higher") for n in metrics])
def test_direction_and_summary(name, better):
    assert metrics[name].better == better
    assert metrics[name].score in metrics[name].summary


@pytest.mark.parametrize("name", metrics)
def test_without_out_of_distribution_sets_there_is_nothing(name, make):
    assert metrics[name](dataclasses.replace(make().classification(), ood={})) == {}


def test_a_point_has_no_mutual_information(make):
    defined = {name for name, metric in metrics.items() if metric(make().classification(samples=1))}
    assert defined == OF_CLASSES - {"ood_auroc_mutual_information"}


def test_equal_scores_tell_nothing(make, certain):
    same = certain([[0] * 8], 3)
    evaluation = dataclasses.replace(make(rows=1).classification(), test=same, ood={"same": same})
    values = {name: float(metric(evaluation)["same"]) for name, metric in metrics.items() if metric(evaluation)}
    assert values == {"ood_auroc": 0.5, "ood_aupr": 0.5, "ood_fpr95": 1.0, "ood_auroc_max_probability": 0.5}


def test_an_empty_set_is_not_a_number(make):
    evaluation = make(rows=2).classification()
    empty = make(rows=2).categorical(0, 0)
    for name in OF_CLASSES:
        assert metrics[name](dataclasses.replace(evaluation, ood={"empty": empty}))["empty"].isnan().all()


@pytest.mark.parametrize("name", sorted(OF_DENSITY))
def test_density_models_tell_by_their_own_scores(name, make):
    evaluation = make(rows=3).density()
    inside = evaluation.test.scores[metrics[name].score]
    values = metrics[name](evaluation)
    assert values.keys() == evaluation.ood.keys()
    for key, value in values.items():
        outside = evaluation.ood[key].scores[metrics[name].score]
        labels = np.r_[np.ones(outside.shape[1]), np.zeros(inside.shape[1])]
        theirs = [roc_auc_score(labels, torch.cat([outside[r], inside[r]]).numpy()) for r in range(3)]
        assert value.tolist() == pytest.approx(theirs, abs=1e-12)


def test_a_simpler_set_has_the_higher_density_and_the_regret_sees_it(make):
    values = {name: metrics[name](make(rows=2).density())["simple"] for name in OF_DENSITY}
    assert (values["ood_auroc_density"] < 0.1).all()
    assert (values["ood_auroc_negative_elbo"] < 0.1).all()
    assert (values["ood_auroc_likelihood_regret"] == 1).all()


def test_without_a_regret_there_is_no_metric_of_it(make):
    evaluation = make().density()
    without = dataclasses.replace(evaluation, test=dataclasses.replace(evaluation.test, regret=None))
    assert metrics["ood_auroc_likelihood_regret"](without) == {}
    assert metrics["ood_auroc_density"](without)
