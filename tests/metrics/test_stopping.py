import dataclasses

import pytest
import torch
from scipy import stats

from bdlbench.metrics import ood
from bdlbench.metrics.accuracy import metrics as accuracy
from bdlbench.metrics.ece import metrics as ece
from bdlbench.metrics.nll import metrics as nll
from bdlbench.metrics.stopping import metrics
from bdlbench.networks.depth_output import DEPTH_RULES, StoppingPredictive

EXITS = 3


@pytest.fixture
def stopping(make):
    """An evaluation of three rows whose examples leave at depths 1, 2 and 3 in turn."""

    def of(exits=EXITS):
        evaluation = make(rows=3).classification()

        def uncertain(test, seed):
            num = test.probs.shape[1]
            others = {
                name: make(rows=3).categorical(seed + i, num).log_probs for i, name in enumerate(list(DEPTH_RULES)[1:])
            }
            depth = (torch.arange(num) % exits + 1.0).expand(3, num)
            facts = {"halted_depth": depth, "expected_depth": depth + 0.5, "flops": 10 * depth}
            facts["full_flops"] = torch.full_like(depth, 40.0)
            full = make(rows=3).categorical(seed + 9, num).log_probs
            return StoppingPredictive(test, others if exits > 1 else {}, facts, exits, full)

        far = {name: uncertain(predictive, 80) for name, predictive in evaluation.ood.items()}
        return dataclasses.replace(evaluation, test=uncertain(evaluation.test, 70), ood=far)

    return of


@pytest.mark.parametrize(("name", "plain"), [("accuracy", accuracy), ("nll", nll), ("ece", ece)])
def test_each_rule_is_scored_as_a_prediction_of_its_own(stopping, name, plain):
    evaluation = stopping()
    values = metrics[f"{name}_by_rule"](evaluation)
    assert list(values) == list(DEPTH_RULES)
    assert torch.equal(values["q_mode"], plain[name](evaluation)[""])
    for rule, value in values.items():
        as_mode = dataclasses.replace(evaluation.test.mode, log_probs=evaluation.test.rules[rule])
        torch.testing.assert_close(value, plain[name](dataclasses.replace(evaluation, test=as_mode))[""])


def test_depth_and_flops_are_means_over_examples(stopping):
    evaluation = stopping()
    depth = sum(n % 3 + 1 for n in range(101)) / 101
    assert metrics["depth"](evaluation)[""].tolist() == pytest.approx([depth] * 3)
    assert metrics["flops"](evaluation)[""].tolist() == pytest.approx([10 * depth] * 3)
    assert metrics["flops_fraction"](evaluation)[""].tolist() == pytest.approx([depth / 4] * 3)


def test_calibration_by_depth_is_that_of_the_examples_that_leave_there(stopping):
    evaluation = stopping()
    values = metrics["ece_by_depth"](evaluation)
    assert list(values) == ["1", "2", "3"]
    for depth in range(1, 4):
        leaving = torch.arange(101) % 3 + 1 == depth
        log_probs = evaluation.test.mode.log_probs[:, leaving]
        part = dataclasses.replace(evaluation.test.mode, log_probs=log_probs)
        alone = ece["ece"](dataclasses.replace(evaluation, test=part, y=evaluation.y[:, leaving]))[""]
        assert values[str(depth)].tolist() == alone.tolist()


def test_where_nobody_leaves_calibration_is_not_a_number(stopping):
    evaluation = stopping()
    facts = {**evaluation.test.facts, "halted_depth": torch.ones(3, 101)}
    evaluation = dataclasses.replace(evaluation, test=dataclasses.replace(evaluation.test, facts=facts))
    values = metrics["ece_by_depth"](evaluation)
    assert values["1"].isfinite().all()
    assert values["2"].isnan().all()


def test_depth_is_ranked_beside_error_and_entropy_after_all_layers(stopping):
    evaluation = stopping()
    values = metrics["depth_by_difficulty"](evaluation)
    assert list(values) == ["error", "entropy"]
    full = evaluation.test.full.double()
    for r in range(3):
        wrong = full[r].argmax(-1) != evaluation.y[r]
        entropy = -(full[r].exp() * full[r]).sum(-1)
        for name, difficulty in {"error": wrong, "entropy": entropy}.items():
            oracle = stats.spearmanr(evaluation.test.facts["halted_depth"][r], difficulty).statistic
            assert float(values[name][r]) == pytest.approx(oracle, abs=1e-9)


def test_one_exit_leaves_nothing_to_compare_but_its_depth_and_cost(stopping):
    defined = {name for name, metric in metrics.items() if metric(stopping(exits=1))}
    assert defined == {"depth", "flops", "flops_fraction"}
    assert ood.metrics["ood_auroc_depth"](stopping(exits=1)) == {}


def test_depth_is_a_score_of_what_is_unusual(stopping):
    values = ood.metrics["ood_auroc_depth"](stopping())
    assert values.keys() == {"near", "far"}
    assert all(((value > 0.4) & (value < 0.6)).all() for value in values.values())


def test_a_plain_predictive_has_no_depth(make):
    for kind in ("classification", "regression"):
        assert all(metric(getattr(make(), kind)()) == {} for metric in metrics.values())
