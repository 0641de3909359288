import math
from dataclasses import replace

import pytest
import torch

from bdlbench.data.splits import random_uniform
from bdlbench.metrics import joint
from bdlbench.metrics.joint import JointKL, JointNegativeLogLikelihood, metrics
from bdlbench.protocols import Truth
from bdlbench.records import evaluation as stored


def by_hand(metric, log_prob, block=None):
    """Each batch written out, of one replicate: log-likelihoods (M, N), without batches with an example of block."""
    anchors, counts = metric._draw(log_prob.shape[1])
    values = []
    for places, times in zip(anchors.flatten(0, 1).tolist(), counts.flatten(0, 1).tolist(), strict=True):
        assert sum(times) == metric.targets
        if block is not None and set(places) & block:
            continue
        likelihood = torch.ones(len(log_prob), dtype=torch.float64)
        for place, count in zip(places, times, strict=True):
            for _ in range(count):
                likelihood = likelihood * log_prob[:, place].double().exp()
        values.append(-likelihood.mean().log())
    return float(torch.stack(values).mean())


def test_the_mean_over_batches_written_out(make):
    evaluation, metric = make(rows=2).classification(num=40), metrics["joint_nll"]
    expected = [by_hand(metric, evaluation.functions[:, r]) for r in range(2)]
    assert metric(evaluation)[""].tolist() == pytest.approx(expected)


def test_a_batch_has_different_anchors_and_each_of_them_about_as_often(make):
    for metric in metrics.values():
        if not isinstance(metric, JointNegativeLogLikelihood):
            continue
        anchors, counts = metric._draw(200)
        assert all(len(set(row)) == metric.anchors for row in anchors.flatten(0, 1).tolist())
        assert torch.equal(anchors.flatten().bincount(), torch.full((200,), metric.anchors * metric.rounds))
        assert counts.double().mean((0, 1)).tolist() == pytest.approx(
            [metric.targets / metric.anchors] * metric.anchors, rel=0.1
        )
        share = 1 / metric.anchors
        spread = (metric.targets * share * (1 - share)) ** 0.5  # of a binomial
        assert float(counts[..., 0].double().std()) == pytest.approx(spread, rel=0.2)


def test_without_a_block_the_other_batches_keep_their_draws(make):
    evaluation, metric = make(rows=2).classification(num=40), metrics["joint_nll"]
    block = torch.arange(40) % 8
    found = metric.without_blocks(evaluation, "test", block)[""]
    for r in range(2):
        expected = [by_hand(metric, evaluation.functions[:, r], set(range(b, 40, 8))) for b in range(8)]
        assert found[r].tolist() == pytest.approx(expected)
    assert metric.without_blocks(evaluation, "near", block) == {}


def test_the_interval_is_as_wide_as_the_metric_varies_between_test_sets(make):
    """The jackknife's standard error against the spread over independent test sets."""
    metric, rng = metrics["joint_nll"], torch.Generator().manual_seed(0)
    evaluation = make(rows=90).classification(num=150)
    evaluation = replace(evaluation, functions=-2 * torch.rand(5, 90, 150, generator=rng))
    values = metric(evaluation)[""]
    contributions = torch.from_numpy(stored.by_example(metric, evaluation)[""]["test"])  # (R, blocks)
    errors = contributions.std(1) / contributions.shape[1] ** 0.5
    assert float(errors.mean()) == pytest.approx(float(values.std()), rel=0.2)


def test_undefined_without_functions(make):
    seen = make().classification()
    seen = replace(seen, functions=None, truth=replace(seen.truth, functions=None))
    assert all(metric(seen) == {} for metric in metrics.values())


def test_groups_of_samples_tell_nothing_of_functions(make):
    """These are drawn apart, so that no share of the uncertainty is put down to the samples, not even none."""
    evaluation = make(rows=2).classification(num=40)
    groups = stored.Kept(5, {}, evaluation.test.group_log_prob(evaluation.y).double(), (1.0,) * 5)
    for metric in metrics.values():
        assert stored.left_out(metric, replace(evaluation, test=groups)) == {}


def test_the_kl_of_each_batch_written_out(make):
    """Each target one after the other; the fast way to leave a block out keeps the draws of the other batches."""
    evaluation, metric = make(rows=2).classification(num=30), JointKL(anchors=2, targets=3, rounds=2)
    batches = metric._of_batches(evaluation)[""]  # (R, S·N)
    anchors, picked = joint._batches(30, 2, 3, 2)
    uniform = random_uniform(2 * 30 * 3, "joint classes").reshape(60, 3)
    for r in range(2):
        true, functions = (
            evaluation.truth.predicted.arrays()["probs"][r],
            evaluation.truth.functions[:, r].double().exp(),
        )
        kept = []
        for b, (places, which) in enumerate(zip(anchors.flatten(0, 1), picked.flatten(0, 1), strict=True)):
            ours, theirs = 1.0, torch.ones(len(functions), dtype=torch.float64)
            for place, u in zip(places[which].tolist(), uniform[b], strict=True):
                label = int((u > true[place].cumsum(0)[:-1]).sum())
                ours, theirs = ours * true[place, label], theirs * functions[:, place, label]
            assert float(batches[r, b]) == pytest.approx(math.log(ours) - math.log(theirs.mean()))
            if not set(places.tolist()) & {4, 9, 14, 19, 24, 29}:
                kept.append(float(batches[r, b]))
        left = metric.without_blocks(evaluation, "test", torch.arange(30) % 5)[""]
        assert float(left[r, 4]) == pytest.approx(sum(kept) / len(kept))


def test_the_targets_of_a_kl_are_drawn_with_the_true_probabilities(make):
    """Of a function that gives each class a likelihood of its own, the mean tells how often each was drawn."""
    evaluation, metric = make(rows=3).classification(num=900), JointKL()
    true = evaluation.truth.predicted.arrays()["probs"]
    value = torch.tensor([0.0, -1.0, -2.5, -4.0]).double()
    marked = replace(evaluation.truth, functions=value.expand(1, 3, 900, 4))
    found = metric(replace(evaluation, truth=marked))[""]
    expected = 10 * ((true * true.log()).sum(-1) - (true * value).sum(-1)).mean(1)
    assert found.tolist() == pytest.approx(expected.tolist(), rel=0.05)


@pytest.mark.slow
def test_the_interval_of_a_kl_is_as_wide_as_it_varies_between_test_sets_and_targets(make, monkeypatch):
    """The jackknife's standard error against the spread over test sets, each with targets of its own."""
    rng, metric, values, errors = torch.Generator().manual_seed(0), JointKL(), [], []
    for place in range(60):
        monkeypatch.setattr(
            joint, "random_uniform", lambda count, *key, place=place: random_uniform(count, *key, place)
        )
        seen = make(rows=1).classification(num=150)
        true = torch.randn(1, 150, 2, generator=rng, dtype=torch.float64).log_softmax(-1)
        functions = torch.randn(5, 1, 150, 2, generator=rng, dtype=torch.float64).log_softmax(-1)
        seen = replace(seen, truth=Truth(stored.Kept(1, {"log_probs": true}), functions))
        values.append(float(metric(seen)[""]))
        contributions = torch.from_numpy(stored.by_example(metric, seen)[""]["test"])  # (1, blocks)
        errors.append(float(contributions.std()) / contributions.shape[1] ** 0.5)
    assert sum(errors) / 60 == pytest.approx(float(torch.tensor(values).std()), rel=0.25)
