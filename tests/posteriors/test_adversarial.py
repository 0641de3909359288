"""Adversarial training: on a linear model it is known in closed form."""

import math

import pytest
import torch

from bdlbench import catalog
from bdlbench.core.streams import Streams
from bdlbench.data.task import Data, Signature
from bdlbench.gate.contracts import differences, row_of
from bdlbench.posteriors.adversarial import adversarial_elbo, reach

SEEDS = (3, 1, 4)
NOISE_SD = 0.5


def data(rows=3, same=False):
    rng = torch.Generator().manual_seed(0)
    x, y = torch.randn(rows, 40, 4, generator=rng), torch.randn(rows, 40, generator=rng)
    return Data(x[:1].expand(rows, -1, -1), y[:1].expand(rows, -1)) if same else Data(x, y)


def residual_elbo(residual):
    return -0.5 * (residual / NOISE_SD) ** 2 - math.log(NOISE_SD * math.sqrt(2 * math.pi))


def test_the_elbo_of_a_linear_model_is_that_of_the_residual_and_of_the_longer_one():
    """The fast gradient sign makes |r| longer by Σ_d reach_d |w_d|, whatever the example."""
    given = data()
    weight = torch.randn(3, 1, 4, generator=torch.Generator().manual_seed(1)).requires_grad_()
    how_far = torch.tensor([0.0, 0.1, 0.5, 2.0]).expand(3, 1, 4)

    def elbo_of(x):
        return residual_elbo(given.y - (x * weight).sum(-1))

    found = adversarial_elbo(elbo_of, given.x, how_far)
    residual = given.y - (given.x * weight).sum(-1)
    longer = residual.abs() + (how_far * weight.abs()).sum(-1)
    expected = (residual_elbo(residual) + residual_elbo(longer)) / 2
    torch.testing.assert_close(found, expected)
    slopes = [torch.autograd.grad(value.sum(), weight, retain_graph=True)[0] for value in (found, expected)]
    torch.testing.assert_close(*slopes)  # also of |w|, since the moved input is a constant


@pytest.mark.parametrize("same", [False, True])
def test_an_input_is_moved_by_a_part_of_its_range_or_of_its_standard_deviation(same):
    given, epsilon = data(same=same), torch.tensor([0.01, 0.0, 2.0], dtype=torch.float64)
    x = given.x.double()
    by_hand = {"range": x.amax(1) - x.amin(1), "sd": x.var(1, correction=0).sqrt()}
    for unit, spread in by_hand.items():
        found = reach(given, epsilon, unit)
        assert found.shape == (3, 1, 4)
        torch.testing.assert_close(found[:, 0], (epsilon[:, None] * spread).float())
        torch.testing.assert_close(reach(given, 0.01, unit).expand(3, 1, 4)[:, 0], (0.01 * spread).float())
        assert reach(given, 0.0, unit) is None


@pytest.mark.parametrize("name", ["mle", "map"])
@pytest.mark.parametrize("model", ["mlp", "lenet5"])
def test_each_row_trains_by_its_own_epsilon_and_with_zero_as_without(small, name, model):
    rows = [{name: {"adversarial": epsilon}} for epsilon in (0.0, 0.05, 0.2)]
    network = small.model(model, (1, 16, 16) if model == "lenet5" else (5,))
    given = small.data(network, 3)
    together = small.method(name, rows, epochs=2).fit(network, given, Streams.of_seeds(SEEDS)).state
    for r, options in enumerate(rows):
        alone = small.method(name, [options], epochs=2).fit(network, given.row(r), Streams.of_seeds([SEEDS[r]])).state
        assert differences(row_of(together, r), alone, near=model == "lenet5") == []
    plain = small.method(name, epochs=2).fit(network, given, Streams.of_seeds(SEEDS)).state
    assert differences(row_of(together, 0), row_of(plain, 0), near=model == "lenet5") == []
    for r in (1, 2):
        assert differences(row_of(together, r), row_of(plain, r), near=True) != []


def test_it_makes_a_network_less_sensitive_to_its_inputs(small):
    network = small.model("mlp", (5,), 1, "gaussian")
    given = small.data(network, 2)
    slopes = []
    for epsilon in (0.0, 0.5):
        method = small.method("mle", [{"mle": {"adversarial": epsilon, "learning_rate": 0.01}}], epochs=40)
        posterior = method.fit(network, given, Streams.of_seeds(SEEDS[:2]))
        x = given.x.clone()
        moved = [posterior.predict(x + shift, 1, Streams.of_seeds(SEEDS[:2])).mean for shift in (-0.1, 0.1)]
        slopes.append((moved[1] - moved[0]).abs().mean().item())
    assert slopes[1] < 0.75 * slopes[0]


def test_a_density_of_inputs_has_none_to_move(small):
    vae = small.model("vae", (1, 4, 4), 3, "bernoulli")
    assert "adversarial=0" in small.method("mle", [{"mle": {"adversarial": 0.01}}]).unsupported(vae)
    assert small.method("mle").unsupported(vae) is None


def test_an_ensemble_takes_it_from_its_member():
    given = {"mle": {"adversarial": "0.01", "adversarial_unit": "sd"}}
    method = catalog.build_method([catalog.choice("methods", "deep_ensemble", given)])
    assert (method.member.adversarial, method.member.adversarial_unit) == (0.01, "sd")
    assert method.unsupported(catalog.load("models", "mlp")(Signature((3,), 1, "gaussian"))) is None
    today = catalog.choice("methods", "mle", {}).options
    assert not {"adversarial", "adversarial_unit"} & dict(today).keys()  # so no cell of today has another key
