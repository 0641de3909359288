"""KLs of Gaussians whose weights depend on each other, against torch.distributions."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import LowRankMultivariateNormal, MultivariateNormal, kl_divergence

from bdlbench.kernels.joint_gaussian import cholesky_kl, log_one_plus_gram, low_rank_kl
from bdlbench.kernels.kl import RowPrior

R, P = 3, 5


def drawn(seed: int, count: int):
    """Means, log standard deviations, factors and a prior of rows with three places of padding."""
    rng = torch.Generator().manual_seed(seed)
    mean, log_sd = (torch.randn(R, P + 3, generator=rng, dtype=torch.float64) for _ in range(2))
    factors = torch.randn(R, count, P + 3, generator=rng, dtype=torch.float64)
    counted = torch.tensor([1.0] * P + [0.0] * 3, dtype=torch.float64)
    sd = 0.5 + torch.rand(R, P + 3, generator=rng, dtype=torch.float64)
    return mean, 0.5 * log_sd, factors * counted, RowPrior(sd, counted / sd.square(), counted)


@pytest.mark.parametrize("rank", [0, 1, 2, 7])
def test_low_rank(rank: int) -> None:
    mean, log_sd, factors, prior = drawn(rank, rank)
    found = low_rank_kl(mean, log_sd, factors, prior)
    for r in range(R):
        variance, root = (2 * log_sd[r, :P]).exp(), factors[r, :, :P].mT
        q = MultivariateNormal(mean[r, :P], torch.diag(variance) + root @ root.mT)
        p = MultivariateNormal(torch.zeros(P).double(), torch.diag(prior.sd[r, :P].square()))
        torch.testing.assert_close(found[r], kl_divergence(q, p))
        if rank:
            torch.testing.assert_close(found[r], kl_divergence(LowRankMultivariateNormal(q.mean, root, variance), p))


def test_full() -> None:
    mean, log_sd, factors, prior = drawn(3, P + 3)
    factors = (factors * prior.counted.unsqueeze(-1)).triu(1)
    found = cholesky_kl(mean, log_sd, factors, prior)
    for r in range(R):
        lower = (torch.diag(log_sd[r].exp()) + factors[r])[:P, :P].mT
        q = MultivariateNormal(mean[r, :P], scale_tril=lower)
        p = MultivariateNormal(torch.zeros(P).double(), torch.diag(prior.sd[r, :P].square()))
        torch.testing.assert_close(found[r], kl_divergence(q, p))


def test_the_volume_is_that_of_a_determinant_and_its_gradient_too() -> None:
    rows = torch.randn(R, 4, P, generator=torch.Generator().manual_seed(0)).double().requires_grad_()
    ours = log_one_plus_gram(rows)
    theirs = torch.logdet(torch.eye(4).double() + rows @ rows.mT)
    torch.testing.assert_close(ours, theirs)
    for found, wanted in zip(
        torch.autograd.grad(ours.sum(), rows), torch.autograd.grad(theirs.sum(), rows), strict=True
    ):
        torch.testing.assert_close(found, wanted)


def test_a_row_has_the_same_bits_alone() -> None:
    mean, log_sd, factors, prior = (t.float() if isinstance(t, torch.Tensor) else t for t in drawn(5, 3))
    prior = RowPrior(*(t.float() for t in prior))
    alone = low_rank_kl(mean[1:2], log_sd[1:2], factors[1:2], RowPrior(prior.sd[1:2], prior.precision[1:2], prior[2]))
    assert torch.equal(low_rank_kl(mean, log_sd, factors, prior)[1:2], alone)
