"""The conjugate models against scipy and scikit-learn, and every weight-space method against the conjugate models."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, special, stats
from sklearn.linear_model import BayesianRidge

from bdlbench import catalog
from bdlbench.core.layout import Layout
from bdlbench.core.options import fields
from bdlbench.core.spec import Cell, Replicate
from bdlbench.core.streams import Streams
from bdlbench.data.task import Data, Signature
from bdlbench.kernels import beta, gaussian
from bdlbench.networks.layers import Point
from bdlbench.protocols import Conjugate, OwnsPrior
from bdlbench.runs import batch as run

N, D, NOISE_SD, PRIOR_SD = 25, 3, 0.5, 0.7


def linear(rows=1, num=N, prior_sd=PRIOR_SD, noise_sd=NOISE_SD, likelihood="gaussian"):
    """The model, its design matrices (R, N, D + 1), its data."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, num, D)) @ np.array([[1, 0.5, 0], [0, 1, 0.3], [0, 0, 1]])
    design = np.concatenate([x, np.ones((rows, num, 1))], 2)
    y = design @ np.array([1.0, -0.5, 0.3, 0.2]) + NOISE_SD * rng.normal(size=(rows, num))
    model = catalog.load("models", "bayesian_linear_regression")(Signature((D,), 1, likelihood), prior_sd, noise_sd)
    return model, design, Data(torch.from_numpy(x), torch.from_numpy(y))


def coin(alpha=1.0, beta=1.0):
    return catalog.load("models", "coin")(Signature((1,), 2, "categorical"), alpha, beta)


def flips(*heads, num=10):
    """Rows with so many heads among `num`."""
    y = torch.stack([torch.arange(num) < k for k in heads]).long()
    return Data(torch.ones(len(heads), num, 1), y)


# Against scipy and scikit-learn


def test_the_evidence_of_the_linear_model_is_scipys():
    model, design, data = linear(rows=3)
    covariance = NOISE_SD**2 * np.eye(N) + PRIOR_SD**2 * design @ design.transpose(0, 2, 1)
    expected = [stats.multivariate_normal(np.zeros(N), c).logpdf(y) for c, y in zip(covariance, data.y, strict=True)]
    np.testing.assert_allclose(model.exact(data).log_evidence, expected, rtol=0, atol=1e-6)


@pytest.fixture
def ridge():
    """BayesianRidge whose priors of the precisions are so sharp that the data do not move them."""
    _, design, data = linear()
    sharp, noise, weights = 1e12, NOISE_SD**-2, PRIOR_SD**-2
    fixed = {"alpha_1": sharp * noise, "alpha_2": sharp, "lambda_1": sharp * weights, "lambda_2": sharp}
    fitted = BayesianRidge(**fixed, fit_intercept=False).fit(design[0], data.y[0].numpy())
    assert (fitted.alpha_, fitted.lambda_) == pytest.approx((noise, weights), rel=1e-9)
    return fitted


def test_posterior_and_predictive_of_the_linear_model_are_scikit_learns(ridge):
    model, _, data = linear()
    exact = model.exact(data)
    np.testing.assert_allclose(exact.mean[0], ridge.coef_, rtol=0, atol=1e-6)
    np.testing.assert_allclose(exact.covariance[0], ridge.sigma_, rtol=0, atol=1e-6)
    x = np.random.default_rng(1).normal(size=(7, D))
    mean, sd = ridge.predict(np.column_stack([x, np.ones(7)]), return_std=True)
    found = exact.predict(torch.from_numpy(x)[None], 1, None)
    np.testing.assert_allclose(found.means[0, 0], mean, rtol=0, atol=1e-6)
    np.testing.assert_allclose(found.sds[0, 0], sd, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 1.0), (2.0, 0.5), (30.0, 7.0)])
def test_the_coins_posterior_evidence_and_predictive_are_scipys(alpha, beta):
    counts = range(11)
    exact = coin(alpha, beta).exact(flips(*counts))
    prior = stats.beta(alpha, beta)
    for k in counts:

        def joint(p, k=k):
            return prior.pdf(p) * p**k * (1 - p) ** (10 - k)

        evidence, _ = integrate.quad(joint, 0, 1, epsabs=1e-14, epsrel=1e-10)
        if alpha >= 1 and beta >= 1:
            assert exact.log_evidence[k].item() == pytest.approx(math.log(evidence), abs=1e-6)
        binomial = stats.betabinom(10, alpha, beta).logpmf(k) - math.log(math.comb(10, k))
        assert exact.log_evidence[k].item() == pytest.approx(binomial, abs=1e-6)
        posterior = stats.beta(exact.state["alpha"][k].item(), exact.state["beta"][k].item())
        assert posterior.mean() == pytest.approx((alpha + k) / (alpha + beta + 10), abs=1e-6)
        found = exact.predict(torch.ones(11, 3, 1), 1, None)
        assert found.probs[k, 0, 1].item() == pytest.approx(posterior.mean(), abs=1e-6)
        entropy = posterior.expect(lambda p: special.entr(p) + special.entr(1 - p))
        assert found.expected_entropy[k, 0].item() == pytest.approx(entropy, abs=1e-5)


def test_the_lectures_coin():
    exact = coin().exact(flips(7, num=9))
    assert exact.predict(torch.ones(1, 1, 1), 1, None).probs[0, 0].tolist() == pytest.approx([3 / 11, 8 / 11])
    assert exact.log_evidence.item() == pytest.approx(special.betaln(8, 3))


@pytest.mark.parametrize(("alpha", "beta_"), [(1.0, 1.0), (2.5, 0.7)])
def test_the_coins_kernels_are_scipys(alpha, beta_):
    first, second = (torch.tensor(v).double() for v in (alpha, beta_))
    target, other = stats.beta(alpha, beta_), stats.beta(3.0, 2.0)
    logit = torch.linspace(-4, 4, 9).double()
    density = target.logpdf(special.expit(logit.numpy()))
    np.testing.assert_allclose(beta.beta_log_density(logit, first, second), density, atol=1e-10)
    kl = other.expect(lambda p: other.logpdf(p) - target.logpdf(p))
    found = beta.beta_kl(torch.tensor(3.0).double(), torch.tensor(2.0).double(), first, second)
    assert found.item() == pytest.approx(kl, abs=1e-6)


# The evidence lower bound


def test_at_the_exact_posterior_the_elbo_is_the_evidence():
    for model, data in (linear(rows=3)[::2], (coin(2.0, 0.5), flips(0, 3, 10))):
        exact = model.exact(data)
        torch.testing.assert_close(exact.bound, exact.log_evidence, rtol=0, atol=1e-4)


def test_at_the_exact_posterior_one_draw_gives_the_evidence():
    model, _, data = linear()
    exact, layout = model.exact(data), Layout(model.leaves())
    draw = torch.distributions.MultivariateNormal(exact.mean, exact.covariance)
    for w in (exact.mean + 0.3, exact.mean - torch.tensor([[0.1, -0.2, 0.3, 0.0]])):
        output = catalog.load("models", "logistic")(model.signature, NOISE_SD)
        flat = torch.zeros(1, layout.width, dtype=torch.float64)
        for view, value in zip(layout.views(flat).values(), w.split([D, 1], 1), strict=True):
            view.copy_(value.view_as(view))
        likelihood = output(Point(layout.views(flat)), data.x, None).elbo(data.y).sum()
        found = likelihood + model.prior(layout, flat).log_density(flat) - draw.log_prob(w)
        assert found.item() == pytest.approx(exact.log_evidence.item(), abs=1e-4)


def test_the_elbo_of_any_other_gaussian_is_below_the_evidence_by_its_kl():
    model, design, data = linear()
    exact = model.exact(data)
    x, y, rng = torch.from_numpy(design[0]), data.y[0], torch.Generator().manual_seed(0)
    for _ in range(5):
        mean = exact.mean[0] + 0.2 * torch.randn(4, generator=rng).double()
        root = torch.eye(4).double() * 0.2 + 0.1 * torch.randn(4, 4, generator=rng).double()
        expected = gaussian.linear_expected_log_likelihood(x, y, NOISE_SD, mean, root @ root.mT)
        prior = PRIOR_SD**2 * torch.eye(4).double()
        elbo = expected - gaussian.gaussian_kl(mean, root @ root.mT, torch.zeros(4).double(), prior)
        gap = gaussian.gaussian_kl(mean, root @ root.mT, exact.mean[0], exact.covariance[0])
        assert elbo < exact.log_evidence[0]
        assert (exact.log_evidence[0] - elbo).item() == pytest.approx(gap.item(), abs=1e-9)


# Every weight-space method on the linear model

RATE = 0.3
ROWS = 40
BIAS = 1.6
"""ε λ of a chain, λ the largest curvature: its steps are so large that it mixes, and their bias is known."""


def solved(gram, shrinkage, xy):
    return np.linalg.solve(gram + np.diag(shrinkage), xy)


def expected_moments(name, gram, xy):
    """Mean and covariance of the weights that a method must find; `gram` XᵀX, `xy` Xᵀy."""
    ridge, zero = np.full(D + 1, (NOISE_SD / PRIOR_SD) ** 2), np.zeros((D + 1, D + 1))
    precision = gram / NOISE_SD**2 + np.eye(D + 1) / PRIOR_SD**2
    exact, point = np.linalg.solve(precision, xy / NOISE_SD**2), np.linalg.solve(gram, xy)
    scaled = np.append(np.diag(gram)[:D], 0.0) * RATE / (1 - RATE)  # the bias is not dropped
    odds, kept = np.append(np.full(D, RATE / (1 - RATE)), 0.0), np.append(np.full(D, 1 - RATE), 1.0)
    dropped, connected = solved(gram, scaled + ridge, xy), solved(gram, scaled + ridge / kept**2, xy)
    return {
        "mle": (point, zero),
        "map": (exact, zero),
        "deep_ensemble": (point, zero),  # its members agree
        "mc_dropout": (dropped, np.diag(odds * dropped**2)),
        "gaussian_dropout": (dropped, np.diag(odds * dropped**2)),  # on one output: all that counts is the variance
        "dropconnect": (connected, np.diag(odds * connected**2)),
        "variational_dropout": with_learnt_alpha(gram, xy),
        "mean_field_vi": (exact, np.diag(1 / np.diag(precision))),
        "ivon": (exact, np.diag(1 / np.diag(precision))),
        "sequential": (exact, np.diag(1 / np.diag(precision))),
        "gaussian_vi": (exact, np.linalg.inv(precision)),  # of a rank that is enough for any covariance
        "laplace": (exact, np.linalg.inv(precision)),
        "hmc": (exact, np.linalg.inv(precision)),
        "swag": (exact, zero),  # on all data at once SGD has no noise, and stays where the burn-in has come
        "multiswag": (exact, zero),
        "snapshot": (point, zero),
        "batch_ensemble": (point, zero),  # on one output r alone reaches every weight
        "rank1": (exact, zero),  # under a prior by which r and s hardly vary
        "sgld": (exact, np.linalg.inv(precision - BIAS / 4 / np.linalg.norm(precision, 2) * precision @ precision)),
        "sghmc": (exact, np.linalg.inv(precision - BIAS / 4 / np.linalg.norm(precision, 2) * precision @ precision)),
        "sparse_vd": (point, np.diag(np.append(NOISE_SD**2 / np.diag(gram)[:D], 0.0))),  # where the data are strong
        "exact": (exact, np.linalg.inv(precision)),
    }[name]


def with_learnt_alpha(gram, xy):
    """One α for D weights, where the data are strong: α Σ_i w_i² G_ii / σ² = D, as the KL is −½ D log α up to O(α)."""
    alpha, scale = 0.0, np.append(np.diag(gram)[:D], 0.0)
    for _ in range(20):
        w = solved(gram, alpha * scale, xy)
        alpha = D * NOISE_SD**2 / (w**2 @ scale)
    return w, np.diag(np.append(alpha * w[:D] ** 2, 0.0))


def fitted(name, model, data, **options):
    wanted = {"epochs": 1500, "batch_size": data.num_data, "learning_rate": 0.02, "decay": "linear", **options}
    chosen = catalog.choice("methods", name, {n: _kept(n, wanted) for n in catalog.names("methods")})
    method = catalog.build_method([chosen])
    assert method.unsupported(model) is None
    return method.fit(model, data, Streams.of_seeds(range(data.rows)))


def _kept(name, wanted):
    return {key: value for key, value in wanted.items() if key in fields(catalog.load("methods", name))}


NOISY = {
    "mc_dropout": 5e-3,
    "gaussian_dropout": 5e-3,
    "dropconnect": 1e-2,
    "variational_dropout": 5e-3,
    "mean_field_vi": 5e-3,
    "ivon": 5e-3,
    "sequential": 5e-3,
    "gaussian_vi": 1e-2,
    "sparse_vd": 2e-2,
    "sgld": 1e-3,
    "sghmc": 1e-3,
    "hmc": 1e-3,
    "rank1": 1e-2,
}
"""Methods whose training draws noise, and what the finite size of its steps may move a weight."""

OF_CLASSES = ("active", "temperature_scaling")


@pytest.mark.slow
@pytest.mark.parametrize("method", [name for name in catalog.names("methods") if name not in OF_CLASSES])
def test_every_methods_posterior_on_the_linear_model(method):
    strong = 16 if method in ("sparse_vd", "variational_dropout") else 1
    model, design, data = linear(num=N * strong)
    data = Data(data.x.expand(ROWS, -1, -1), data.y.expand(ROWS, -1))
    schedule = {"learning_rate": 0.02 if method in NOISY else 0.05, "initial_log_sd": -2.0}
    schedule["hessian_momentum"] = 0.99  # of ivon
    schedule["initial_sd"] = 0.1  # of batch_ensemble: no factor begins near 0, where its slope is slow
    schedule["factor_prior_sd"] = 1e-3  # of rank1
    schedule["chunks"] = 1  # of correlated chunks mean field is not exact: tests/posteriors/test_updating.py
    schedule |= {"networks": 1000, "burn_in": 0.1, "cycles": 2, "friction": 1.0 - 1e-12}  # at which SGHMC is SGLD
    curvature = np.linalg.norm(design[0].T @ design[0] / NOISE_SD**2 + np.eye(D + 1) / PRIOR_SD**2, 2)
    schedule["step_size"] = N * BIAS / curvature * (0.5 if method == "sghmc" else 1.0)
    found = fitted(method, model, data, rate=RATE, input_rate=RATE, prior_sd=9.0, **schedule).moments()
    mean, covariance = expected_moments(method, design[0].T @ design[0], design[0].T @ data.y[0].numpy())
    slack = NOISY.get(method, 1e-6)
    standard_error = found.mean.std(0).numpy() / math.sqrt(ROWS)
    assert (np.abs(found.mean.mean(0).numpy() - mean) < 5 * standard_error + slack).all()
    assert method in NOISY or standard_error.max() < 1e-6
    np.testing.assert_allclose(found.covariance.mean(0), covariance, rtol=0.05, atol=slack)
    exact = model.exact(data)
    assert found.gaussian == (
        method in ("mean_field_vi", "sequential", "gaussian_vi", "laplace", "swag", "exact", "ivon")
    )
    if method in ("laplace", "exact"):
        torch.testing.assert_close(exact.kl(found), torch.zeros(ROWS).double(), rtol=0, atol=1e-6)


@pytest.mark.slow
def test_laplace_on_the_linear_model_knows_the_evidence():
    model, _, data = linear(rows=2)
    posterior = fitted("laplace", model, data, epochs=3000)
    torch.testing.assert_close(
        posterior.facts["laplace_log_evidence"], model.exact(data).log_evidence, rtol=0, atol=1e-6
    )


@pytest.mark.slow
def test_a_diagonal_laplace_is_mean_field_on_the_linear_model():
    model, design, data = linear()
    found = fitted("laplace", model, data, hessian="diagonal").moments()
    precision = design[0].T @ design[0] / NOISE_SD**2 + np.eye(D + 1) / PRIOR_SD**2
    np.testing.assert_allclose(found.covariance[0], np.diag(1 / np.diag(precision)), rtol=0, atol=1e-9)


def test_laplaces_curvature_of_classes_is_the_hessian():
    """On multinomial logistic regression the Gauss-Newton matrix is the Hessian of the negative log joint."""
    rng = torch.Generator().manual_seed(0)
    x, y = torch.randn(1, 30, 2, generator=rng).double(), torch.randint(3, (1, 30), generator=rng)
    model = catalog.load("models", "logistic")(Signature((2,), 3, "categorical"))
    posterior = fitted("laplace", model, Data(x, y), epochs=20, prior_sd=0.8)
    w = posterior.moments().mean[0]

    def negative_log_joint(w):
        logits = x[0] @ w[:6].view(3, 2).mT + w[6:]
        return torch.nn.functional.cross_entropy(logits, y[0], reduction="sum") + 0.5 * (w / 0.8).square().sum()

    hessian = torch.autograd.functional.hessian(negative_log_joint, w)
    torch.testing.assert_close(posterior.moments().covariance[0], torch.linalg.inv(hessian))


@pytest.mark.slow
def test_samples_of_laplace_have_its_covariance():
    model, _, data = linear()
    posterior, exact = fitted("laplace", model, data), model.exact(data)
    x = torch.from_numpy(np.random.default_rng(1).normal(size=(1, 6, D)))
    found, expected = (p.predict(x, 4000, Streams.of_seeds([0])) for p in (posterior, exact))
    np.testing.assert_allclose(found.mean, expected.mean, atol=5 * expected.variance.max().sqrt() / 4000**0.5)
    np.testing.assert_allclose(found.variance, expected.variance, rtol=0.05)


# The coin


@pytest.mark.slow
def test_under_the_uniform_prior_map_is_mle_on_the_coin():
    data = flips(2, 5, 9)
    for name, prior, expected in (
        ("mle", (1.0, 1.0), [0.2, 0.5, 0.9]),
        ("map", (1.0, 1.0), [0.2, 0.5, 0.9]),
        ("map", (2.0, 3.0), [3 / 13, 6 / 13, 10 / 13]),
    ):
        found = fitted(name, coin(*prior), data).predict(data.x, 1, Streams.of_seeds([0] * 3))
        np.testing.assert_allclose(found.probs[:, 0, 1], expected, atol=1e-5)


@pytest.mark.slow
def test_mean_field_on_the_coin_is_the_best_gaussian_of_the_logit():
    data = flips(2, 5, 9)
    model = coin()
    exact = model.exact(data)
    found = fitted("mean_field_vi", model, data, epochs=3000, initial_log_sd=-0.5).moments()
    divergence = exact.kl(found)
    assert (divergence < 0.1).all()
    for move in torch.tensor([0.1, -0.1]):
        moved = type(found)(found.mean + move, found.covariance, True)
        wider = type(found)(found.mean, found.covariance * (2 * move).exp(), True)
        assert (exact.kl(moved) > divergence).all()
        assert (exact.kl(wider) > divergence).all()


# In the harness


def test_what_is_conjugate():
    assert {name for name in catalog.names("models") if issubclass(catalog.load("models", name), Conjugate)} == {
        "coin",
        "bayesian_linear_regression",
    }
    assert all(issubclass(catalog.load("models", n), OwnsPrior) for n in ("coin", "bayesian_linear_regression"))


def test_a_coin_needs_two_classes_and_a_line_a_number():
    assert "two sides" in catalog.load("models", "coin")(Signature((1,), 3, "categorical")).unsupported()
    assert "one number" in linear(likelihood="categorical")[0].unsupported()


def measured(method, model, dataset, draws, tmp_path, samples=200, **settings):
    """Metric -> (R,) values of `draws` data sets, each a replicate."""
    chosen = [
        catalog.choice(k, n, settings) for k, n in (("methods", method), ("models", model), ("datasets", dataset))
    ]
    cell = Cell(*chosen, samples=samples)
    batch = run.Batch(tuple(run.Row(cell, Replicate(r, r)) for r in range(draws)))
    (record,) = run.run_batch(batch, run.Settings(tmp_path)).records
    assert not record.failed
    return {name: np.array(entry.numbers) for name, entry in record.values.metrics.items()}


SCHEDULE = {"epochs": 200, "batch_size": 10, "learning_rate": 0.05, "decay": "linear"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "dataset", "draws", "samples"),
    [("coin", "coin_flips", 200, 200), ("bayesian_linear_regression", "linear", 100, 60)],
    ids=["coin", "bayesian_linear_regression"],
)
def test_exact_then_mean_field_then_map_at_ten_examples(model, dataset, draws, samples, tmp_path):
    """The smallest difference is 5.5 standard errors on the coin, 10 on the line."""
    settings = {"map": SCHEDULE, "mean_field_vi": {**SCHEDULE, "initial_log_sd": -0.5}, "coin": {"alpha": 2, "beta": 2}}
    found = {
        method: measured(method, model, dataset, draws, tmp_path, samples, **settings)["predictive_kl"]
        for method in ("exact", "mean_field_vi", "map")
    }
    np.testing.assert_allclose(found["exact"], 0, atol=1e-6)
    for better, worse in (("exact", "mean_field_vi"), ("mean_field_vi", "map")):
        difference = found[worse] - found[better]
        assert difference.mean() > 1.96 * difference.std(ddof=1) / math.sqrt(draws), (better, worse)
