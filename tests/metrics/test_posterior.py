import dataclasses
import math

import pytest
import torch
from scipy import integrate, stats

from bdlbench.data.task import Data, Signature
from bdlbench.kernels import beta, gaussian
from bdlbench.metrics import posterior
from bdlbench.models.coin import Coin
from bdlbench.predictives.mixtures import Categorical, GaussianMixture
from bdlbench.protocols import Evaluation, Moments, Reference

KL, W2, GAP, PREDICTIVE = (
    posterior.metrics[name] for name in ("posterior_kl", "posterior_w2", "elbo_gap", "predictive_kl")
)


def test_a_method_that_is_exact_is_at_no_distance(make):
    evaluation = make(rows=3, dtype=torch.float64).conjugate()
    exact = evaluation.reference
    same = dataclasses.replace(
        evaluation, test=exact.test, bound=exact.posterior.bound, moments=exact.posterior.moments()
    )
    for metric, tolerance in ((KL, 1e-10), (W2, 1e-6), (GAP, 1e-10), (PREDICTIVE, 1e-12)):
        torch.testing.assert_close(metric(same)[""], torch.zeros(3).double(), rtol=0, atol=tolerance)


def test_the_metrics_by_their_definitions(make):
    evaluation = make(rows=3).conjugate()
    q, exact = evaluation.moments, evaluation.reference.posterior
    for r in range(3):
        own = torch.distributions.MultivariateNormal(q.mean[r], q.covariance[r])
        other = torch.distributions.MultivariateNormal(exact.mean[r], exact.covariance[r])
        assert KL(evaluation)[""][r].item() == pytest.approx(torch.distributions.kl_divergence(own, other).item())
    torch.testing.assert_close(GAP(evaluation)[""], torch.ones(3).double(), rtol=0, atol=1e-10)


def test_w2_of_points_and_of_commuting_covariances():
    mean, shift = torch.zeros(3).double(), torch.tensor([1.0, 2.0, 2.0]).double()
    narrow, wide = (torch.diag(torch.tensor(sds).double().square()) for sds in ([1.0, 2.0, 0.0], [4.0, 2.0, 4.0]))
    assert gaussian.gaussian_w2(mean, narrow, shift, wide).item() == pytest.approx(math.sqrt(9 + 9 + 0 + 16))
    point = torch.zeros(3, 3).double()
    assert gaussian.gaussian_w2(mean, point, shift, wide).item() == pytest.approx(math.sqrt(9 + 16 + 4 + 16))


def test_w2_is_symmetric_and_below_any_coupling():
    rng = torch.Generator().manual_seed(0)
    roots = torch.randn(2, 4, 4, generator=rng).double()
    first, second = (root @ root.mT for root in roots)
    means = torch.randn(2, 4, generator=rng).double()
    distance = gaussian.gaussian_w2(means[0], first, means[1], second).item()
    assert gaussian.gaussian_w2(means[1], second, means[0], first).item() == pytest.approx(distance)
    shift = (means[0] - means[1]).square().sum().item()
    coupled = math.sqrt(shift + (roots[0] - roots[1]).square().sum().item())  # the same noise through both roots
    assert math.sqrt(shift) < distance < coupled


def test_posterior_kl_is_undefined_without_a_density(make):
    evaluation = make().conjugate()
    assert KL(dataclasses.replace(evaluation, moments=dataclasses.replace(evaluation.moments, gaussian=False))) == {}
    assert KL(dataclasses.replace(evaluation, moments=None)) == {}
    assert W2(dataclasses.replace(evaluation, moments=None)) == {}
    assert GAP(dataclasses.replace(evaluation, bound=None)) == {}


def gaussians(rng, *shape):
    means = torch.randn(*shape, generator=rng).double()
    return GaussianMixture(means, (0.3 * torch.randn(*shape, generator=rng)).exp().double())


def test_predictive_kl_from_a_gaussian_and_from_a_mixture_is_the_integral():
    rng = torch.Generator().manual_seed(0)
    exact, point, mixture = (gaussians(rng, m, 1, 3) for m in (1, 1, 4))
    for other in (point, mixture):
        found = posterior.predictive_kl(exact, other)[0]
        for n in range(3):
            p = stats.norm(exact.means[0, 0, n].item(), exact.sds[0, 0, n].item())

            def integrand(y, p=p, n=n, other=other):
                at = torch.full((1, 3), y).double()
                return p.pdf(y) * (p.logpdf(y) - other.log_prob(at)[0, n].item())

            expected, _ = integrate.quad(integrand, p.mean() - 10 * p.std(), p.mean() + 10 * p.std(), limit=200)
            assert found[n].item() == pytest.approx(expected, abs=1e-6)


def test_a_mixture_of_one_gaussian_repeated_is_that_gaussian():
    rng = torch.Generator().manual_seed(0)
    exact, point = gaussians(rng, 1, 2, 5), gaussians(rng, 1, 2, 5)
    repeated = GaussianMixture(point.means.expand(3, 2, 5), point.sds.expand(3, 2, 5))
    torch.testing.assert_close(posterior.predictive_kl(exact, repeated), posterior.predictive_kl(exact, point))


def classes(*probs):
    log_probs = torch.tensor([probs], dtype=torch.float64).log()
    return Categorical(1, log_probs, log_probs.unsqueeze(0).float(), torch.zeros(1, len(probs)))


def test_predictive_kl_of_classes_by_hand():
    found = posterior.predictive_kl(classes([0.5, 0.5], [1.0, 0.0]), classes([0.25, 0.75], [0.5, 0.5]))
    assert found[0].tolist() == pytest.approx([0.5 * math.log(2) + 0.5 * math.log(2 / 3), math.log(2)])
    impossible = posterior.predictive_kl(classes([0.5, 0.5]), classes([1.0, 0.0]))
    assert impossible.item() == math.inf
    assert posterior.predictive_kl(classes([0.5, 0.5]), GaussianMixture(*torch.ones(2, 1, 1, 1))) is None


def test_the_coins_posterior_kl_is_the_integral_over_the_logit():
    model = Coin(Signature((1,), 2, "categorical"), alpha=2.0, beta=1.5)
    exact = model.exact(Data(torch.ones(1, 5, 1), torch.tensor([[1, 0, 1, 1, 1]])))
    q = Moments(torch.tensor([[0.4]], dtype=torch.float64), torch.tensor([[[0.6]]], dtype=torch.float64), gaussian=True)
    density, target = stats.norm(0.4, math.sqrt(0.6)), stats.beta(6.0, 2.5)

    def integrand(logit):
        pi = 1 / (1 + math.exp(-logit))
        log_jacobian = math.log(pi) + math.log1p(-pi)
        return density.pdf(logit) * (density.logpdf(logit) - target.logpdf(pi) - log_jacobian)

    expected, _ = integrate.quad(integrand, -10, 10, epsabs=1e-12, epsrel=1e-12)
    empty = classes([0.5, 0.5])
    found = KL(Evaluation(empty, torch.zeros(1, 1), {}, {}, 1, None, q, Reference(exact, empty)))
    assert found[""].item() == pytest.approx(expected, abs=1e-9)
    mean, variance = beta.beta_logit_moments(*(torch.tensor(v).double() for v in (6.0, 2.5)))
    moments = [integrate.quad(lambda p, k=k: target.pdf(p) * math.log(p / (1 - p)) ** k, 0, 1)[0] for k in (1, 2)]
    assert [mean.item(), variance.item()] == pytest.approx([moments[0], moments[1] - moments[0] ** 2], abs=1e-6)
