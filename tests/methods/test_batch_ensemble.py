"""Batch ensembles against the paper's layer by hand, torch-uncertainty's, and their members one by one."""

import importlib

import pytest
import torch
from torch import nn
from torch.nn import functional

from bdlbench import catalog
from bdlbench.core.layout import Layout
from bdlbench.core.streams import Streams
from bdlbench.data.task import Data, Signature
from bdlbench.kernels.convolution import Conv2d
from bdlbench.kernels.linear import dense
from bdlbench.networks.layers import RankOne
from bdlbench.posteriors.rank_one import shared_network
from bdlbench.training.loop import Session, session

MEMBERS, SEED = 3, 5


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def fitted(small, model, options, data=None, **quick):
    built = small.suited(model)
    method = small.method("batch_ensemble", [{"batch_ensemble": {"members": MEMBERS, **options}}], **quick)
    with session(Session()) as current:
        posterior = method.fit(built, small.data(built, 1) if data is None else data, Streams.of_seeds([SEED]))
    return built, current.fits[0], posterior


def of_paper(x, weight, r, s, bias):
    """y = ((x ∘ r) W) ∘ s + b of one member, eq. 5: of a convolution by channels."""
    if weight.ndim == 2:
        return (x * r) @ weight.mT * s + bias
    return functional.conv2d(x * r[:, None, None], weight) * s[:, None, None] + bias[:, None, None]


@pytest.mark.parametrize("shape", [(4, 6), (5, 4, 3, 3)])
def test_the_rule_is_the_papers_layer_for_each_member(shape):
    rows, batch, (outputs, inputs) = 2, 7, shape[:2]
    x = drawn(rows, MEMBERS * batch, inputs, *((8, 8) if len(shape) == 4 else ()), seed=1)
    leaves = {"w": drawn(rows, *shape, seed=2)}
    r, s, b = (drawn(rows, MEMBERS, size, seed=3 + i) for i, size in enumerate((inputs, outputs, outputs)))
    out = RankOne(leaves, {"w": r}, {"w": s}, {"w": b})("w", dense if len(shape) == 2 else Conv2d(), x, "b")
    for row in range(rows):
        for k in range(MEMBERS):
            mine = slice(k * batch, (k + 1) * batch)
            by_hand = of_paper(x[row, mine], leaves["w"][row], r[row, k], s[row, k], b[row, k])
            torch.testing.assert_close(out[row, mine], by_hand, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("factor_rate", [1.0, 0.5])
def test_twenty_steps_are_those_of_a_loop_of_the_papers_layers(small, factor_rate):
    """SGD with momentum; r and s by a rate of their own, and weight decay of W and b alone."""
    rng = torch.Generator().manual_seed(3)
    x, y = torch.randn(12, 5, generator=rng), torch.randint(3, (12,), generator=rng)
    model = catalog.load("models", "mlp")(Signature((5,), 3, "categorical"), widths=(6,))
    options = {"learning_rate": 0.2, "factor_rate": factor_rate, "optimiser": "sgd", "weight_decay": 0.01}
    method = small.method(
        "batch_ensemble", [{"batch_ensemble": {"members": MEMBERS, **options}}], epochs=20, batch_size=12
    )
    with session(Session()) as current:
        posterior = method.fit(model, Data(x[None], y[None]), Streams.of_seeds([SEED]))
    shared = shared_network(model, MEMBERS)
    first = {name: value[0].clone() for name, value in shared.state(current.fits[0].initial).items()}
    maps = list(shared.biases.items())
    weights = {weight: first[weight].requires_grad_() for weight, _ in maps}
    biases = {w: torch.cat([first[b][None], first[f"{w}.biases"]]).requires_grad_() for w, b in maps}
    factors = {(w, end): first[f"{w}.{end}"].requires_grad_() for w, _ in maps for end in ("inputs", "outputs")}
    slow = {"params": [*weights.values(), *biases.values()], "weight_decay": 0.01}
    fast = {"params": list(factors.values()), "lr": 0.2 * factor_rate}
    optimiser = torch.optim.SGD([slow, fast], lr=0.2, momentum=0.9)
    for _ in range(20):
        loss = 0.0
        for k in range(MEMBERS):
            hidden = x
            for i, (w, _) in enumerate(maps):
                hidden = of_paper(
                    hidden.relu() if i else hidden,
                    weights[w],
                    factors[w, "inputs"][k],
                    factors[w, "outputs"][k],
                    biases[w][k],
                )
            loss = loss + functional.cross_entropy(hidden, y) / MEMBERS
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    for w, b in maps:
        torch.testing.assert_close(posterior.state[w][0], weights[w].detach(), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(posterior.state[b][0], biases[w][0].detach(), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(posterior.state[f"{w}.biases"][0], biases[w][1:].detach(), rtol=1e-5, atol=1e-5)
        for end in ("inputs", "outputs"):
            torch.testing.assert_close(posterior.state[f"{w}.{end}"][0], factors[w, end].detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("model", ["mlp", "lenet5", "wide_resnet"])
def test_members_predict_as_the_rule_that_trained_them(small, model):
    """The mixture has a network w ∘ s rᵀ for each member; BatchNorm has the statistics of training in both."""
    built, fit, posterior = fitted(small, model, {})
    shared, x = shared_network(built, MEMBERS), small.data(built, 1, 9, seed=4).x
    flat = shared.flat(posterior.state)
    assert torch.equal(flat, fit.state.flat)
    rule = shared.rule(flat)
    noise = Streams([0], (1, 1))  # of a posterior sample: BatchNorm predicts, it does not learn
    tiled = built(rule, x.repeat(1, MEMBERS, *(1,) * (x.ndim - 2)), noise)
    probs = tiled.location.softmax(-1).reshape(MEMBERS, 9, -1)
    found = posterior.predict(x, 1, Streams.of_seeds([SEED])).arrays()["probs"]
    torch.testing.assert_close(found[0], probs.mean(0).to(found), rtol=1e-4, atol=1e-5)
    assert (probs[0] - probs[1]).abs().max() > 1e-3


def test_shared_weights_are_stored_once(small):
    built, _, posterior = fitted(small, "mlp", {})
    layout = Layout(built.leaves())
    stored = sum(value[0].numel() for value in posterior.state.values())
    units = sum(sum(size) for size in shared_network(built, MEMBERS).sizes.values())
    outputs = sum(size[1] for size in shared_network(built, MEMBERS).sizes.values())
    assert stored == layout.num_parameters + MEMBERS * units + (MEMBERS - 1) * outputs
    assert stored < 2 * layout.num_parameters


def test_members_that_begin_alike_stay_alike(small):
    _, _, posterior = fitted(small, "mlp", {"initial_sd": 0.0})
    assert all((value[:, :1] == value).all() for name, value in posterior.state.items() if name.endswith("puts"))


class Grouped(nn.Module):
    """A convolution with two groups, in whose weight an input channel has no axis of its own."""

    def __init__(self):
        super().__init__()
        self.conv, self.out = nn.Conv2d(4, 4, 3, groups=2), nn.Linear(4, 3)

    def forward(self, x):
        return self.out(self.conv(x).mean((2, 3)))


def test_what_members_cannot_share_is_refused(small, tmp_path):
    method = small.method("batch_ensemble")
    assert "decoder1.weight" in method.unsupported(small.suited("vae"))
    assert "encoder1.weight" in method.unsupported(small.suited("m2"))
    assert "linear map" in method.unsupported(small.suited("coin"))
    place = catalog.add_module(f"{__file__}:Grouped")
    model = catalog.build_model([catalog.choice("models", place, {})], Signature((4, 8, 8), 3, "categorical"))
    assert "conv.weight" in method.unsupported(model)
    assert "groups" in method.unsupported(model)


@pytest.mark.parametrize("shape", [(4, 6), (5, 4, 3, 3)])
def test_torch_uncertainty_computes_the_same(shape):
    try:
        layers = importlib.import_module("torch_uncertainty.layers")
    except ImportError as error:
        pytest.skip(f"torch-uncertainty is not installed: {error}")
    outputs, inputs = shape[:2]
    theirs = (
        layers.BatchLinear(inputs, outputs, MEMBERS)
        if len(shape) == 2
        else layers.BatchConv2d(inputs, outputs, 3, MEMBERS)
    )
    x = drawn(MEMBERS * 7, inputs, *((8, 8) if len(shape) == 4 else ()), seed=1)
    weight = (theirs.linear if len(shape) == 2 else theirs.conv).weight.detach()
    r, s, b = (value.detach().reshape(1, MEMBERS, -1) for value in (theirs.r_group, theirs.s_group, theirs.bias))
    rule = RankOne({"w": weight[None]}, {"w": r}, {"w": s}, {"w": b})
    out = rule("w", dense if len(shape) == 2 else Conv2d(), x[None], "b")
    torch.testing.assert_close(out[0], theirs(x).detach(), rtol=1e-4, atol=1e-5)
