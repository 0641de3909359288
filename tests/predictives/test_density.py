import math
from dataclasses import replace

import pytest
import torch

from bdlbench.predictives.density import Density, DensitySum, Estimate


class Output:
    """Says what it was given."""

    def __init__(self, estimate):
        self.said = estimate

    def estimate(self):
        return self.said


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


LOG = 3 * numbers(23, 3, 11)  # (M, R, N)
ELBO, REGRET, LATENT = LOG - 1, numbers(23, 3, 11, seed=1), numbers(23, 3, 11, 2, seed=2)
FACTS = {"importance_samples": torch.tensor([7.0, 7.0, 7.0])}


def density(chunks=(23,), regret=REGRET):
    total = DensitySum(FACTS)
    start = 0
    for count in chunks:
        part = slice(start, start + count)
        total.add(Output(Estimate(LOG[part], ELBO[part], LATENT[part], None if regret is None else regret[part])))
        start += count
    return total.finish()


def test_densities_are_averaged_never_their_logarithms():
    found, y = density(), torch.zeros(3, 11)
    torch.testing.assert_close(found.log_prob(y), LOG.exp().mean(0).log())
    assert not torch.allclose(found.log_prob(y), LOG.mean(0), atol=1e-2)
    torch.testing.assert_close(found.elbo, ELBO.mean(0))
    torch.testing.assert_close(found.regret, REGRET.mean(0))
    torch.testing.assert_close(found.latent_mean, LATENT.mean(0))
    assert found.samples == 23


def test_improbable_inputs_do_not_underflow():
    found = replace(density(), log_densities=LOG - 5000)
    torch.testing.assert_close(found.log_prob(torch.zeros(3, 11)), LOG.exp().mean(0).log() - 5000)


def test_scores_are_higher_where_inputs_are_less_probable():
    scores = density().scores
    assert torch.equal(scores["density"], -density().log_prob(torch.zeros(3, 11)))
    assert torch.equal(scores["negative_elbo"], -density().elbo)
    assert torch.equal(scores["likelihood_regret"], density().regret)
    assert density(regret=None).scores.keys() == {"density", "negative_elbo"}


@pytest.mark.parametrize("samples", [1, 7, 10, 11, 23])
def test_groups_are_the_networks_with_the_same_last_digit(samples):
    found = replace(density(), log_densities=LOG[:samples]).group_log_prob(torch.zeros(3, 11))
    assert len(found) == min(samples, 10)
    for g, group in enumerate(found):
        torch.testing.assert_close(group, LOG[:samples][g::10].exp().mean(0).log())


def test_the_mean_of_equal_groups_is_the_whole():
    found = replace(density(), log_densities=LOG[:20])
    y = torch.zeros(3, 11)
    mean = found.group_log_prob(y).logsumexp(0) - math.log(10)
    torch.testing.assert_close(mean, found.log_prob(y))


def test_chunks_of_networks_do_not_change_a_bit():
    whole = density()
    for chunks in ((1,) * 23, (3, 1, 19)):
        parts = density(chunks)
        for name in ("log_densities", "elbo", "regret", "latent_mean"):
            assert torch.equal(getattr(parts, name), getattr(whole, name))


def test_one_output_without_an_axis_of_networks_is_one_network():
    total = DensitySum(FACTS)
    total.add(Output(Estimate(LOG[0], ELBO[0], LATENT[0], None)))
    found = total.finish()
    assert found.samples == 1
    assert torch.equal(found.log_prob(torch.zeros(3, 11)), LOG[0])
    assert torch.equal(found.latent_mean, LATENT[0])
    assert found.regret is None


def test_mixing_members_pools_their_networks():
    facts = {"importance_samples": torch.tensor([7.0, 7.0, 7.0, 7.0])}
    log, elbo = LOG.repeat(1, 2, 1)[:, :4], ELBO.repeat(1, 2, 1)[:, :4]  # R = 4 rows: two of two members
    members = Density(log, elbo.mean(0), LATENT.repeat(1, 2, 1, 1)[:, :4].mean(0), elbo.mean(0) + 1, facts)
    mixed = members.mix(2)
    assert mixed.samples == 46
    y = torch.zeros(2, 11)
    torch.testing.assert_close(
        mixed.log_prob(y), members.log_prob(torch.zeros(4, 11)).exp().unflatten(0, (2, 2)).mean(1).log()
    )
    torch.testing.assert_close(mixed.elbo, members.elbo.unflatten(0, (2, 2)).mean(1))
    torch.testing.assert_close(mixed.regret, members.regret.unflatten(0, (2, 2)).mean(1))
    assert mixed.facts["importance_samples"].tolist() == [7, 7]
    assert "latent_mean" not in mixed.arrays()  # networks that were trained apart name their latents differently
    assert members.mix(1) is members


@pytest.mark.parametrize("regret", [REGRET, None])
def test_blocks_join_along_the_examples(regret):
    whole = density(regret=regret)
    cuts = [slice(0, 4), slice(4, 8), slice(8, 11)]
    blocks = [
        Density(
            whole.log_densities[:, :, cut],
            whole.elbo[:, cut],
            whole.latent_mean[:, cut],
            None if regret is None else whole.regret[:, cut],
            whole.facts,
        )
        for cut in cuts
    ]
    joined = blocks[0].join(blocks[1:])
    assert torch.equal(joined.log_densities, whole.log_densities)
    for name, value in {**whole.arrays(), **whole.scores}.items():
        assert torch.equal({**joined.arrays(), **joined.scores}[name], value)
    assert joined.facts.keys() == FACTS.keys()
    assert joined.facts["importance_samples"].shape == (3,)


def test_inputs_keep_their_units():
    found = density()
    assert found.in_units(torch.ones(3), 2 * torch.ones(3)) is found
    assert found.arrays().keys() == {"log_density", "elbo", "latent_mean"}
