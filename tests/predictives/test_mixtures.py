import math
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import special, stats

from bdlbench.predictives import mixtures
from bdlbench.predictives.mixtures import (
    Categorical,
    CategoricalSum,
    GaussianMixture,
    GaussianStack,
    normal_log_prob,
    ordered_sum,
)
from bdlbench.protocols import Evaluation
from bdlbench.records.evaluation import Kept
from bdlbench.runs import scoring


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def categorical(logits, chunks=(100,)):
    total = CategoricalSum(len(logits))
    for part in logits.split(list(chunks) if len(chunks) > 1 else chunks[0]):
        total.add(SimpleNamespace(logits=part))
    return total.finish()


def gaussian(means, sds):
    total = GaussianStack(len(means))
    total.add(SimpleNamespace(mean=means, sd=sds))
    return total.finish()


LOGITS = 2 * numbers(23, 3, 11, 4)  # (M, R, N, C)


def test_probabilities_are_averaged_never_logits():
    found, probs = categorical(LOGITS), LOGITS.softmax(-1)
    torch.testing.assert_close(found.probs, probs.mean(0))
    torch.testing.assert_close(found.expected_entropy.float(), torch.special.entr(probs).sum(-1).mean(0))
    assert not torch.allclose(found.probs, LOGITS.mean(0).softmax(-1), atol=1e-2)


def test_scores_are_entropy_mutual_information_and_max_probability():
    found, mean = categorical(LOGITS), LOGITS.softmax(-1).mean(0)
    entropy = torch.from_numpy(stats.entropy(mean.numpy(), axis=-1))
    within = torch.from_numpy(stats.entropy(LOGITS.softmax(-1).numpy(), axis=-1)).mean(0)
    torch.testing.assert_close(found.scores["entropy"].float(), entropy)
    torch.testing.assert_close(found.scores["mutual_information"].float(), entropy - within, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        found.scores["max_probability"].float(), torch.log1p(-mean.max(-1).values), rtol=1e-4, atol=1e-5
    )


def test_agreeing_samples_carry_no_mutual_information():
    found = categorical(LOGITS[:1].expand(7, -1, -1, -1))
    torch.testing.assert_close(found.scores["mutual_information"].float(), torch.zeros(3, 11), rtol=0, atol=1e-6)
    assert (found.scores["mutual_information"] >= 0).all()


@pytest.mark.parametrize("samples", [1, 7, 10, 11, 23])
def test_groups_are_the_samples_with_the_same_last_digit(samples):
    probs = LOGITS[:samples].softmax(-1)
    found = categorical(LOGITS[:samples])
    assert len(found.group_log_probs) == min(samples, 10)
    for g, group in enumerate(found.group_log_probs.exp()):
        torch.testing.assert_close(group, probs[g::10].mean(0))


def test_chunks_of_samples_do_not_change_a_bit():
    whole = categorical(LOGITS)
    for chunks in ((1,), (5,), (3, 1, 19)):
        parts = categorical(LOGITS, chunks)
        assert torch.equal(parts.log_probs, whole.log_probs)
        assert torch.equal(parts.group_log_probs, whole.group_log_probs)
        assert torch.equal(parts.expected_entropy, whole.expected_entropy)


def test_one_output_without_a_sample_axis_is_one_sample():
    total = CategoricalSum(1)
    total.add(SimpleNamespace(logits=LOGITS[0]))
    torch.testing.assert_close(total.finish().probs, LOGITS[0].softmax(-1))


def test_log_prob_is_that_of_the_class_and_finite_at_zero():
    found, y = categorical(LOGITS), torch.randint(4, (3, 11), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(found.log_prob(y), found.probs.gather(-1, y[..., None])[..., 0].log())
    for g, values in enumerate(found.group_log_prob(y)):
        torch.testing.assert_close(values, found.group_log_probs[g].gather(-1, y[..., None])[..., 0])
    sure = categorical(torch.tensor([[[[0.0, -2e4]]]]))
    assert sure.log_prob(torch.tensor([[1]])).item() == -2e4  # under the smallest float32, and no cap
    assert sure.log_prob(torch.tensor([[0]])).item() == 0


@pytest.mark.parametrize("gap", [1.0, 30.0, 90.0, 1e3, 2e4])
def test_log_prob_of_a_sure_network_is_that_of_float64(gap):
    """A cap at the smallest float32 made 87.3 of every larger loss."""
    logits = gap * numbers(5, 3, 11, 4)
    found, y = categorical(logits), torch.randint(4, (3, 11), generator=torch.Generator().manual_seed(1))
    exact = special.logsumexp(special.log_softmax(logits.double().numpy(), -1), 0) - math.log(5)
    expected = np.take_along_axis(exact, y.numpy()[..., None], -1)[..., 0]
    torch.testing.assert_close(found.log_prob(y), torch.from_numpy(expected).float())


@pytest.mark.parametrize("gap", [3.0, 30.0, 300.0])
def test_scores_of_sure_networks_keep_their_order(gap):
    """In float32, 1 − 1e-13 is 1: the AUROC of gaps of 30 against 25 was .503, for .943."""
    rng = np.random.default_rng(0)
    tops = gap + rng.normal(0, 0.1 * gap, size=(1, 1, 400)) + 0.2 * rng.normal(size=(4, 1, 400))
    tops = torch.tensor(tops, dtype=torch.float32)
    found = categorical(torch.stack([tops, torch.zeros_like(tops), torch.zeros_like(tops)], -1))
    other = -tops.double().numpy() - np.log1p(2 * np.exp(-tops.double().numpy()))  # log p of each of two others
    mean = special.logsumexp(other, 0) - math.log(4)
    np.testing.assert_allclose(found.scores["max_probability"].numpy(), mean + math.log(2), rtol=1e-9)
    top, mean_top = -np.log1p(2 * np.exp(-tops.double().numpy())), np.log1p(-2 * np.exp(mean))
    divergences = np.exp(top) * (top - mean_top) + 2 * np.exp(other) * (other - mean)  # KL(p_m ‖ p̄)
    np.testing.assert_allclose(found.scores["mutual_information"].numpy(), divergences.mean(0), rtol=1e-6)


@pytest.mark.parametrize("added", [0, 2])
def test_a_sum_of_another_number_of_samples_is_refused(added, refused):
    total = CategoricalSum(3)
    for logits in LOGITS[:added]:
        total.add(SimpleNamespace(logits=logits))
    with refused(f"{added} samples", "3", error=ValueError):
        total.finish()


def test_mixing_members_averages_their_probabilities():
    found = categorical(LOGITS.repeat(1, 2, 1, 1)[:, :4])  # R = 4 rows: two of two members
    mixed = found.mix(2)
    assert mixed.samples == 46
    torch.testing.assert_close(mixed.probs, found.probs.unflatten(0, (2, 2)).mean(1))
    torch.testing.assert_close(mixed.group_log_probs[1].exp(), found.probs[1::2])
    torch.testing.assert_close(mixed.expected_entropy, found.expected_entropy.unflatten(0, (2, 2)).mean(1))


def test_blocks_join_along_the_examples():
    blocks = [categorical(part) for part in LOGITS.split(4, dim=2)]
    joined, whole = blocks[0].join(blocks[1:]), categorical(LOGITS)
    for name in ("log_probs", "group_log_probs", "expected_entropy"):
        assert torch.equal(getattr(joined, name), getattr(whole, name))


def test_facts_by_example_are_joined_and_facts_by_replicate_kept():
    depth, sparsity = torch.arange(66.0).reshape(3, 22), torch.tensor([0.1, 0.2, 0.3])
    first, second = (
        Categorical(
            1,
            LOGITS[0].log_softmax(-1),
            LOGITS[:1].log_softmax(-1),
            torch.zeros(3, 11),
            {"depth": part, "sparsity": sparsity},
        )
        for part in depth.split(11, 1)
    )
    joined = first.join([second])
    assert torch.equal(joined.facts["depth"], depth)
    assert torch.equal(joined.facts["sparsity"], sparsity)


def test_classes_have_no_scale():
    found = categorical(LOGITS)
    assert found.in_units(torch.ones(3), torch.ones(3)) is found
    assert found.arrays().keys() == {"log_probs", "probs", "running_class"}


@pytest.mark.parametrize("samples", [7, 23])
def test_the_running_class_is_that_of_more_and_more_samples(samples):
    """23 samples in ten groups: the first three have three members, the others two."""
    probs, found = LOGITS[:samples].softmax(-1), categorical(LOGITS[:samples])
    groups = min(samples, 10)
    for g in range(1, groups + 1):
        taken = [i for i in range(samples) if i % groups < g]
        assert torch.equal(found.running_class[..., g - 1], probs[taken].mean(0).argmax(-1))
    assert torch.equal(found.running_class[..., -1], found.probs.argmax(-1))
    assert categorical(LOGITS[:1]).arrays().keys() == {"log_probs", "probs"}


def test_own_scores_stand_beside_those_that_probabilities_imply():
    energy = torch.arange(33.0).view(3, 11)
    one = Categorical(
        1, LOGITS[0].log_softmax(-1), LOGITS[:1].log_softmax(-1), torch.zeros(3, 11), {}, {"energy": energy}
    )
    assert torch.equal(one.scores["energy"], energy) and "entropy" in one.scores
    assert torch.equal(one.join([one]).scores["energy"], torch.cat([energy, energy], 1))


MEANS, SDS = numbers(23, 3, 11), numbers(23, 3, 11, seed=1).exp()


def test_a_mixtures_density_is_the_mean_of_its_components_densities():
    found, y = gaussian(MEANS, SDS), numbers(3, 11, seed=2)
    densities = torch.from_numpy(stats.norm(MEANS.double(), SDS.double()).pdf(y.double()))
    torch.testing.assert_close(found.log_prob(y).double(), densities.mean(0).log(), rtol=1e-5, atol=1e-5)
    groups = found.group_log_prob(y).double()
    assert groups.shape == (10, 3, 11)
    torch.testing.assert_close(groups[2], densities[2::10].mean(0).log(), rtol=1e-5, atol=1e-5)


def test_a_mixtures_density_far_away_is_finite():
    assert gaussian(MEANS, SDS).log_prob(torch.full((3, 11), 1e4)).isfinite().all()


def test_a_mixtures_moments_follow_the_law_of_total_variance():
    found = gaussian(MEANS, SDS)
    assert found.samples == 23
    means, sds = MEANS.double(), SDS.double()
    torch.testing.assert_close(found.mean, means.mean(0))
    torch.testing.assert_close(found.variance, sds.square().mean(0) + means.var(0, correction=0))
    torch.testing.assert_close(found.scores["variance"], found.variance)
    torch.testing.assert_close(found.arrays()["sd"], found.variance.sqrt())


def test_in_units_the_density_carries_the_jacobian():
    found, y = gaussian(MEANS, SDS), numbers(3, 11, seed=2)
    shift, scale = torch.tensor([1.0, -2.0, 0.5]), torch.tensor([3.0, 0.1, 1.0])
    original = found.in_units(shift, scale).log_prob(y * scale[:, None] + shift[:, None])
    torch.testing.assert_close(original, found.log_prob(y) - scale.log()[:, None], rtol=1e-3, atol=1e-3)


def test_mixing_members_keeps_all_components():
    found = gaussian(MEANS.repeat(1, 2, 1)[:, :4], SDS.repeat(1, 2, 1)[:, :4])
    mixed = found.mix(2)
    assert mixed.means.shape == (46, 2, 11)
    torch.testing.assert_close(mixed.mean, found.mean.unflatten(0, (2, 2)).mean(1))


def test_gaussian_blocks_join_along_the_examples():
    found = gaussian(MEANS, SDS)
    blocks = [GaussianMixture(*parts) for parts in zip(MEANS.split(4, 2), SDS.split(4, 2), strict=True)]
    shift, scale, y = torch.tensor([1.0, -2.0, 0.5]), torch.tensor([3.0, 0.1, 1.0]), numbers(3, 11, seed=2)
    for joined in (blocks[0].join(blocks[1:]), blocks[0].join([blocks[1].join(blocks[2:])])):
        assert [part.means.data_ptr() for part in joined.later] == [b.means.data_ptr() for b in blocks[1:]]  # no copy
        for one, whole in ((joined, found), (joined.in_units(shift, scale), found.in_units(shift, scale))):
            for ours, expected in zip(one.components(), whole.components(), strict=True):
                assert torch.equal(ours, expected)
            for told in ("mean", "variance"):
                assert torch.equal(getattr(one, told), getattr(whole, told))
            for told in ("log_prob", "group_log_prob", "cdf"):
                assert torch.equal(getattr(one, told)(y), getattr(whole, told)(y))
            torch.testing.assert_close(one.crps(y), whole.crps(y), rtol=1e-9, atol=0)
        doubled = joined.in_units(shift, scale).in_units(scale, shift.abs())
        torch.testing.assert_close(
            doubled.mean, (found.mean * scale[:, None] + shift[:, None]) * shift.abs()[:, None] + scale[:, None]
        )


def as_it_was(means, sds, y):
    """What is told of a mixture as it was computed with all components in float64 at once: the bits of records."""
    means, sds = means.double(), sds.double()
    mean = ordered_sum(means) / len(means)
    variance = (ordered_sum(sds.square()) + ordered_sum((means - mean).square())) / len(means)
    density = normal_log_prob(means, sds, y)
    top = density.amax(0)
    log_prob = top + ordered_sum((density - top).exp()).log() - math.log(len(means))
    return {"mean": mean, "variance": variance, "log_prob": log_prob}


@pytest.mark.parametrize("elements", [1, 100, 10**6])
def test_what_is_told_keeps_its_bits_however_many_samples_are_held_at_once(monkeypatch, elements):
    monkeypatch.setattr(mixtures, "COMPONENTS_AT_ONCE", elements)
    y, shift, scale = numbers(3, 11, seed=2), torch.tensor([1.0, -2.0, 0.5]), torch.tensor([3.0, 0.1, 1.0])
    raw = gaussian(MEANS, SDS)
    shift, scale = shift.double()[:, None], scale.double()[:, None]
    for found, expected in (
        (raw, as_it_was(MEANS, SDS, y)),
        (raw.in_units(shift[:, 0], scale[:, 0]), as_it_was(MEANS * scale + shift, SDS * scale, y)),
    ):
        assert torch.equal(found.mean, expected["mean"])
        assert torch.equal(found.variance, expected["variance"])
        assert torch.equal(found.log_prob(y), expected["log_prob"])


def test_a_stack_is_one_piece_and_known_noise_is_kept_once(refused):
    total = GaussianStack(2000)
    for mean in numbers(2000, 3, 11).split(8):
        total.add(SimpleNamespace(mean=mean, sd=torch.full((1, 1), 0.5)))
    found = total.finish()
    assert found.means.untyped_storage().nbytes() == 2000 * 3 * 11 * 4
    assert found.sds.untyped_storage().nbytes() == 2000 * 4
    assert found.sds.shape == found.means.shape
    with refused("2 samples", "3", error=ValueError):
        short = GaussianStack(3)
        short.add(SimpleNamespace(mean=numbers(2, 3, 11), sd=torch.ones(1, 1)))
        short.finish()


@pytest.mark.slow
def test_the_peak_of_ten_thousand_samples_is_their_means_and_little_more():
    """In a process of its own: 20 MB of means, of which float64 copies of all components would take 200."""
    code = """
import resource, sys, torch
from bdlbench.core.streams import Streams
from bdlbench.data.task import Data, Signature
from bdlbench.methods.mc_dropout import MCDropout
from bdlbench.models.mlp import MLP
from bdlbench.metrics import nll, rmse
from bdlbench.protocols import Evaluation
torch.set_num_threads(1)
rng = Streams.of_seeds((0,))
x, y = torch.randn(1, 501, 2), torch.randn(1, 501)
posterior = MCDropout(epochs=1).fit(MLP(Signature((2,), 1, "gaussian"), (4,)), Data(x, y), rng)
def scored(samples):
    found = posterior.predict(x, samples, rng).in_units(torch.ones(1), torch.ones(1))
    evaluation = Evaluation(found, y, {}, {}, None)
    scores = [metric(evaluation) for metric in (nll.metrics["nll"], rmse.metrics["rmse"])]
    return scores, found.group_log_prob(y), found.cdf(y), found.arrays()
scored(100)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
scored(10_000)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(found.stdout) < 100  # MiB


def test_a_standard_deviation_shared_by_all_is_spread():
    total = GaussianStack(2)
    for mean in MEANS[:2]:
        total.add(SimpleNamespace(mean=mean, sd=torch.full((3, 1), 0.5)))
    found = total.finish()
    assert found.sds.shape == (2, 3, 11)
    expected = -0.5 * math.log(2 * math.pi) - math.log(0.5)
    torch.testing.assert_close(
        gaussian(MEANS[:1], torch.full((1, 3, 1), 0.5)).log_prob(MEANS[0]),
        torch.full((3, 11), expected, dtype=torch.float64),
    )


def test_gaussians_far_from_zero_are_scored_as_scipy_does_in_memory_and_from_records():
    """Mean 1e6, sd 1: in float32 a target is off by up to .03 sd."""
    generator = torch.Generator().manual_seed(0)
    means, y = (torch.randn(shape, generator=generator) for shape in ((1, 2, 50), (2, 50)))
    shift, scale = torch.full((2,), 1e6, dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    targets = y * scale[:, None] + shift[:, None]
    exact = stats.norm.logpdf(targets.numpy(), means[0].double().numpy() + 1e6, 1.0)
    one = GaussianMixture(means, torch.ones_like(means)).in_units(shift, scale)
    np.testing.assert_allclose(one.log_prob(targets), exact, atol=1e-8)
    stored = scoring.stored_arrays(Evaluation(one, targets, {}, {}, None))
    kept = Kept(1, {name: stored[f"test.{name}"] for name in ("mean", "sd")})
    np.testing.assert_allclose(kept.log_prob(stored["test.y"]), exact, atol=1e-8)
    several = GaussianMixture(means.expand(3, 2, 50), torch.ones(3, 2, 50)).in_units(shift, scale)
    np.testing.assert_allclose(several.log_prob(targets), exact, atol=1e-8)
    np.testing.assert_allclose(several.variance, 1.0, atol=1e-6)
    stored = scoring.stored_arrays(Evaluation(several, targets, {}, {}, None))
    groups = Kept(3, {}, stored["test.group_log_prob"], (1.0, 1.0, 1.0))
    np.testing.assert_allclose(groups.log_prob(stored["test.y"]), exact, atol=1e-5)
