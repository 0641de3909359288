"""Laplace beside laplace-torch on the same weights, its factors by hand, and the evidence."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch import nn

from bdlbench.core.layout import Layout
from bdlbench.core.streams import Streams
from bdlbench.data.downloads import imported
from bdlbench.data.task import Data, Signature
from bdlbench.gate import contracts
from bdlbench.models.bayesian_linear_regression import BayesianLinearRegression
from bdlbench.networks.from_module import from_module
from bdlbench.posteriors.curvature import kronecker_factors

SEEDS, SD, NOISE = (3,), 0.7, 0.5
LIBRARY = {"full": "full", "kron": "kron", "diagonal": "diag"}


def convolutions():
    return nn.Sequential(nn.Conv2d(1, 3, 3, stride=2, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(36, 3))


def dense():
    return nn.Sequential(nn.Flatten(), nn.Linear(35, 5), nn.Tanh(), nn.Linear(5, 3))


def one_number():
    return nn.Sequential(nn.Flatten(), nn.Linear(35, 5), nn.Tanh(), nn.Linear(5, 1))


MAKERS = {"dense": dense, "convolutions": convolutions, "number": one_number}


@pytest.fixture
def fitted(small):
    """fitted(kind, **options): our posterior, the same network as a module, and the data, in float64."""

    def of(kind, **options):
        number = kind == "number"
        signature = small.model("mlp", outputs=1 if number else 3, likelihood="gaussian" if number else "categorical")
        model = from_module(MAKERS[kind])(signature.signature, **({"noise_sd": NOISE} if number else {}))
        data = small.data(model, 1, dtype=torch.float64)
        method = small.method("laplace", [{"laplace": {"prior_sd": SD, **options}}], epochs=3)
        assert method.unsupported(model) is None
        posterior = method.fit(model, data, Streams.of_seeds(SEEDS))
        module = MAKERS[kind]().double()
        module.load_state_dict({name: posterior.state[f"{name}.mean"][0] for name in module.state_dict()})
        return posterior, module, data

    return of


def library(module, data, number, weights, hessian):
    """What laplace-torch gives on these weights."""
    laplace = imported("laplace")
    y = data.y[0].unsqueeze(-1) if number else data.y[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = laplace.Laplace(
            module,
            "regression" if number else "classification",
            subset_of_weights=weights,
            hessian_structure=LIBRARY[hessian],
            prior_precision=SD**-2,
            **({"sigma_noise": NOISE} if number else {}),
        )
        found.fit(torch.utils.data.DataLoader(torch.utils.data.TensorDataset(data.x[0], y), batch_size=20))
    return found


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("weights", ["all", "last_layer"])
@pytest.mark.parametrize("hessian", LIBRARY)
def test_it_is_laplace_torch_on_the_same_weights(fitted, kind, weights, hessian):
    try:
        imported("laplace")
    except ImportError as error:
        pytest.skip(f"laplace-torch is not installed: {error}")
    posterior, module, data = fitted(kind, weights=weights, hessian=hessian, link="probit")
    there = library(module, data, kind == "number", weights, hessian)
    evidence = there.log_marginal_likelihood().item()
    assert posterior.facts["laplace_log_evidence"].item() == pytest.approx(evidence, rel=1e-6)
    found = posterior.predict(data.x, 1, Streams.of_seeds(SEEDS))
    if kind == "number":
        mean, variance = there(data.x[0])
        np.testing.assert_allclose(found.mean[0], mean[:, 0].detach(), rtol=1e-6)
        np.testing.assert_allclose(found.variance[0], variance[:, 0, 0].detach() + NOISE**2, rtol=1e-5)
    else:
        expected = there(data.x[0], pred_type="glm", link_approx="probit").detach()
        np.testing.assert_allclose(found.log_probs[0].exp(), expected, rtol=1e-5)


# In closed form


STORED = {"full": -68.90588028, "kron": -72.70527850, "diagonal": -83.18774456}
"""The log evidence that laplace-torch 0.3 gives of `dense`, in nats."""


@pytest.mark.parametrize("hessian", STORED)
def test_its_evidence_is_what_laplace_torch_gave(fitted, hessian):
    posterior, _, _ = fitted("dense", hessian=hessian)
    assert posterior.facts["laplace_log_evidence"].item() == pytest.approx(STORED[hessian], rel=1e-6)


def line(columns, seed=0):
    """The linear model on these inputs (N, D), its targets, and the precision of its exact posterior, bias last."""
    rng = np.random.default_rng(seed)
    y = columns @ rng.normal(size=columns.shape[1]) + NOISE * rng.normal(size=len(columns)) + 0.3
    model = BayesianLinearRegression(Signature((columns.shape[1],), 1, "gaussian"), noise_sd=NOISE, prior_sd=SD)
    design = np.column_stack([columns, np.ones(len(columns))])
    precision = design.T @ design / NOISE**2 + np.eye(design.shape[1]) / SD**2
    return model, Data(torch.from_numpy(columns)[None], torch.from_numpy(y)[None]), precision


def centred(seed=0):
    """Correlated columns with means of 0: the bias does not depend on the weights."""
    rng = np.random.default_rng(seed)
    columns = rng.normal(size=(30, 3)) @ rng.normal(size=(3, 3))
    return columns - columns.mean(0)


def orthogonal():
    """Columns that are orthogonal to each other and to that of ones."""
    return 2 * np.linalg.qr(np.column_stack([np.ones(30), np.random.default_rng(1).normal(size=(30, 3))]))[0][:, 1:]


LINEAR = {"epochs": 2000, "batch_size": 30, "learning_rate": 0.05, "decay": "linear", "prior_sd": SD}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("hessian", "weights", "columns"),
    [
        ("full", "all", np.random.default_rng(2).normal(size=(30, 3)) + 1),
        ("full", "last_layer", np.random.default_rng(2).normal(size=(30, 3)) + 1),
        ("kron", "all", centred()),
        ("kron", "last_layer", centred()),
        ("diagonal", "all", orthogonal()),
    ],
    ids=["full", "full of the last layer", "kron", "kron of the last layer", "diagonal"],
)
def test_each_structure_that_has_the_truth_is_exact_on_the_linear_model(small, hessian, weights, columns):
    model, data, precision = line(columns)
    if weights == "last_layer":  # the same without a prior of its own
        model = small.model("logistic", data.x.shape[2:], 1, "gaussian", [{"noise_sd": NOISE}])
    method = small.method("laplace", [{"laplace": {**LINEAR, "hessian": hessian, "weights": weights}}])
    posterior = method.fit(model, data, Streams.of_seeds(SEEDS))
    np.testing.assert_allclose(posterior.moments().covariance[0], np.linalg.inv(precision), rtol=0, atol=1e-7)
    exact = line(columns)[0].exact(data)
    torch.testing.assert_close(posterior.facts["laplace_log_evidence"], exact.log_evidence, rtol=0, atol=1e-6)
    x = torch.randn(1, 9, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    linearised = small.method(
        "laplace", [{"laplace": {**LINEAR, "hessian": hessian, "weights": weights, "link": "probit"}}]
    )
    found = linearised.restored(model, posterior.state).predict(x, 1, Streams.of_seeds(SEEDS))
    expected = exact.predict(x, 1, Streams.of_seeds(SEEDS))
    np.testing.assert_allclose(found.mean, expected.mean, rtol=0, atol=1e-6)
    np.testing.assert_allclose(found.variance, expected.variance, rtol=0, atol=1e-6)


@pytest.mark.parametrize("hessian", ["kron", "diagonal"])
def test_a_structure_that_lacks_the_truth_is_what_it_says(small, hessian):
    """By hand: of correlated columns with means, weights and bias apart, or each weight apart."""
    columns = centred() + 1.5
    model, data, precision = line(columns)
    posterior = small.method("laplace", [{"laplace": {**LINEAR, "hessian": hessian, "epochs": 5}}]).fit(
        model, data, Streams.of_seeds(SEEDS)
    )
    apart = np.zeros_like(precision)
    if hessian == "kron":
        apart[:3, :3], apart[3, 3] = precision[:3, :3], precision[3, 3]
    else:
        apart = np.diag(np.diag(precision))
    np.testing.assert_allclose(posterior.moments().covariance[0], np.linalg.inv(apart), rtol=1e-9)


def test_the_factors_of_a_dense_map_and_a_grouped_convolution_are_those_by_hand(small):
    """A = mean a aᵀ and G = Σ_n Σ_c p_c s_c s_cᵀ, by autograd through the pre-activations, example by example."""

    def module():
        first = nn.Conv2d(2, 4, (3, 2), stride=(2, 1), padding=1, dilation=(1, 2), groups=2)
        return nn.Sequential(first, nn.Tanh(), nn.Flatten(), nn.Linear(4 * 3 * 6, 3))

    model = from_module(module)(Signature((2, 5, 6), 3, "categorical"))
    data = contracts.classes(1, 7, (2, 5, 6), dtype=torch.float64)
    layout = Layout(model.leaves())
    flat = layout.joined({k: torch.randn(1, *leaf.shape, dtype=torch.float64) for k, leaf in layout.leaves.items()})
    found = kronecker_factors(model, layout, layout, flat, data)
    net = module().double()
    net.load_state_dict({name: value[0] for name, value in layout.views(flat).items()})
    first = net[0](data.x[0]).detach().requires_grad_()
    logits = net[3](net[2](net[1](first)))
    grams, last, patches = torch.zeros(2, 2, 2).double(), torch.zeros(3, 3).double(), []
    positions = first[0, 0].numel()
    for n in range(7):
        for c in range(3):
            p = logits[n].softmax(-1)[c].detach()
            score = logits[n].log_softmax(-1)[c]
            (own, slope) = torch.autograd.grad(score, (logits, first), retain_graph=True)
            last += p * torch.outer(own[n], own[n])
            by_group = slope[n].reshape(2, 2, positions)
            grams += p * by_group @ by_group.mT
        padded = nn.functional.pad(data.x[0, n], (1, 1, 1, 1))
        for i in range(first.shape[2]):
            for j in range(first.shape[3]):
                patches.append(padded[:, 2 * i : 2 * i + 3, j : j + 3 : 2].reshape(2, 6))
    stacked = torch.stack(patches, 1)  # (g, n · positions, i)
    spectra = {
        "0.weight": (grams, stacked.mT @ stacked / stacked.shape[1]),
        "3.weight": (last[None], None),
        "0.bias": (grams, None),
        "3.bias": (last[None], None),
    }
    for name, (outs, ins) in spectra.items():
        factors = found[name]
        rebuilt = factors.vectors * factors.values.unsqueeze(-2) @ factors.vectors.mT
        torch.testing.assert_close(rebuilt, outs, rtol=1e-9, atol=1e-12)
        if ins is not None:
            rebuilt = factors.in_vectors * factors.in_values.unsqueeze(-2) @ factors.in_vectors.mT
            torch.testing.assert_close(rebuilt, ins, rtol=1e-9, atol=1e-12)


# Links


@pytest.mark.parametrize("hessian", ["full", "kron", "diagonal"])
@pytest.mark.parametrize("likelihood", ["categorical", "gaussian"])
def test_draws_of_a_network_that_is_linear_in_its_weights_are_those_of_its_linearisation(small, hessian, likelihood):
    """So are those of the last layer of any network; a draw has the same noise either way."""
    model = small.model("mlp", outputs=3 if likelihood == "categorical" else 1, likelihood=likelihood)
    data, given = small.data(model, 2, own=True), {"hessian": hessian, "weights": "last_layer", "epochs": 2}
    plain, linear = (small.method("laplace", [{"laplace": {**given, "link": link}}]) for link in ("weights", "mc"))
    posterior = plain.fit(model, data, Streams.of_seeds((3, 1)))
    again = linear.restored(model, posterior.state)
    for joint in (False, True):
        left, right = (
            small.tensors(one.predict(data.x, 6, Streams.of_seeds((3, 1)), joint)) for one in (posterior, again)
        )
        assert contracts.differences(left, right, near=True) == []
    assert posterior.moments() is None


@pytest.mark.slow
def test_many_draws_of_the_linearised_network_come_to_its_closed_form(small):
    model = small.model("mlp", outputs=1, likelihood="gaussian")
    data = small.data(model, 1)
    closed, drawn = (
        small.method("laplace", [{"laplace": {"link": link, "hessian": "kron"}}]) for link in ("probit", "mc")
    )
    posterior = closed.fit(model, data, Streams.of_seeds(SEEDS))
    expected = posterior.predict(data.x[:, :5], 1, Streams.of_seeds(SEEDS))
    found = drawn.restored(model, posterior.state).predict(data.x[:, :5], 4000, Streams.of_seeds(SEEDS))
    np.testing.assert_allclose(found.variance, expected.variance, rtol=0.05)
    assert expected.samples == 1 and (expected.variance > 1.001).all()


# The prior of the highest evidence


@pytest.mark.slow
@pytest.mark.parametrize(("hessian", "weights"), [("full", "all"), ("kron", "all"), ("diagonal", "last_layer")])
def test_the_prior_of_the_highest_evidence_is_scipys(fitted, hessian, weights):
    """By hand from the curvature: log p(D | w) + log N(w; 0, s²) + ½ P log 2π − ½ log |H + I/s²|, over a fine grid."""
    posterior, module, data = fitted("dense", hessian=hessian, weights=weights, prior_sd_from="evidence")
    plain, _, _ = fitted("dense", hessian=hessian, weights=weights)
    best, sd = (posterior.facts[f"laplace_{name}"].item() for name in ("log_evidence", "prior_sd"))
    assert best > plain.facts["laplace_log_evidence"].item() and abs(sd - SD) > 1e-2
    assert torch.equal(posterior.state["1.weight.mean"], plain.state["1.weight.mean"])
    names = ["1.weight", "1.bias", "3.weight", "3.bias"][0 if weights == "all" else 2 :]
    w = torch.cat([plain.state[f"{name}.mean"].flatten() for name in names])
    likelihood = -nn.functional.cross_entropy(module(data.x[0]), data.y[0], reduction="sum").item()

    def evidence(s):
        if hessian == "full":
            inverse = plain.state["scale"][0][:, plain.state["scale"][0].abs().sum(0) > 0]
            covariance = inverse.mT @ inverse
            total = torch.linalg.inv(covariance) + torch.eye(len(w)) * (s**-2 - SD**-2)
            half_log = torch.linalg.slogdet(total).logabsdet / 2
        elif hessian == "kron":
            scales = torch.cat([plain.state[f"{name}.scale"].flatten() for name in names])
            half_log = (scales**-2 + s**-2 - SD**-2).log().sum() / 2
        else:
            scales = plain.state["scale"][0][plain.state["scale"][0] > 0]
            half_log = (scales**-2 + s**-2 - SD**-2).log().sum() / 2
        return (likelihood - (w / s).square().sum() / 2 - len(w) * np.log(s) - half_log).item()

    assert evidence(SD) == pytest.approx(plain.facts["laplace_log_evidence"].item(), rel=1e-7)
    grid = np.exp(np.linspace(np.log(0.01), np.log(100), 2001))
    judge = grid[np.argmax([evidence(s) for s in grid])]
    assert sd == pytest.approx(judge, rel=0.01) and best == pytest.approx(evidence(judge), abs=1e-4)


# Contracts of the variants

VARIANTS = (
    {"hessian": "kron"},
    {"hessian": "kron", "weights": "last_layer", "link": "mc"},
    {"hessian": "full", "weights": "last_layer", "link": "probit", "prior_sd_from": "evidence"},
    {"hessian": "diagonal", "link": "mc", "prior_sd_from": "evidence"},
    {"hessian": "kron", "link": "probit", "prior_scaling": "fan_in"},
)


@pytest.mark.slow
@pytest.mark.parametrize("options", VARIANTS, ids=lambda one: "-".join(one.values()))
@pytest.mark.parametrize("model", ["mlp", "lenet5", "resnet"])
def test_a_row_of_any_variant_is_the_same_alone_and_is_restored(small, options, model):
    built, method = small.suited(model), small.method("laplace", [{"laplace": options}])
    data, x = small.data(built, 5, own=True), small.data(built, 5, 19, seed=7).x
    assert contracts.alone_and_together(built, method, data, x) == []
    posterior = method.fit(built, data, contracts.streams())
    assert contracts.restored(method, built, posterior, x, contracts.SEEDS) == []
    if model == "mlp":
        assert contracts.joint_of_one_network(built, posterior, x, contracts.SEEDS) == []


def test_what_a_variant_cannot_do_it_says(small):
    def reason(model, **options):
        return small.method("laplace", [{"laplace": options}]).unsupported(model)

    wide = small.model("mlp", rows=[{"widths": "90"}])
    assert "hessian=kron" in reason(wide, hessian="full")
    assert reason(wide, hessian="full", weights="last_layer") is None and reason(wide, hessian="kron") is None
    own = BayesianLinearRegression(Signature((3,), 1, "gaussian"))
    assert "prior" in reason(own, prior_sd_from="evidence") and reason(own, link="probit") is None
    assert "weights=all" in reason(own, weights="last_layer")
    assert "Fisher" in reason(small.suited("stopping_resnet"), weights="last_layer", hessian="kron")


class RunsApart(nn.Module):
    """The dense network, with a way of its own for many examples, so that rows run one after the other."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(35, 5), nn.Linear(5, 3)

    def forward(self, x):
        x = x.flatten(1)
        if len(x) > 40:
            x = x * 1.0
        return self.b(torch.tanh(self.a(x)))


def test_kronecker_factors_are_the_same_where_examples_run_one_after_the_other(small):
    signature = small.model("mlp", outputs=3).signature
    together, one_by_one = from_module(dense)(signature), from_module(RunsApart)(signature)
    data = small.data(together, 1, dtype=torch.float64)
    found = []
    for model in (together, one_by_one):
        layout = Layout(model.leaves())
        flat = 0.3 * Streams.of_seeds([1]).normal((layout.width,), data.x)
        found.append(kronecker_factors(model, layout, layout, flat, data).values())
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one.values, other.values)
        assert (one.in_values is None) == (other.in_values is None)
        if one.in_values is not None:
            torch.testing.assert_close(one.in_values, other.in_values)


class Tied(nn.Module):
    """Decodes with the weights of its encoder, by a map that is none of torch's layers."""

    def __init__(self, by):
        super().__init__()
        self.a, self.b, self.by = nn.Linear(35, 5), nn.Linear(35, 3), by

    def forward(self, x):
        return self.b(self.by(torch.tanh(self.a(x.flatten(1))), self.a.weight))


@pytest.mark.parametrize("by", [lambda h, w: nn.functional.linear(h, w.t()), lambda h, w: h @ w])
def test_a_weight_that_is_also_used_in_another_way_has_no_kronecker_factors(small, by):
    model = from_module(lambda: Tied(by))(small.model("mlp", outputs=3).signature)
    reason = small.method("laplace", [{"laplace": {"hessian": "kron"}}]).unsupported(model)
    assert "a.weight" in reason and "diagonal" in reason
    assert small.method("laplace", [{"laplace": {"hessian": "diagonal"}}]).unsupported(model) is None
