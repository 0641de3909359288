"""Gaussian dropout: the moments of binary dropout, on the outputs or the inputs of a map, and independence of rows."""

from functools import partial

import pytest
import torch

from bdlbench.core.layout import Layout, Leaf
from bdlbench.core.streams import Streams
from bdlbench.gate.contracts import differences, row_of
from bdlbench.kernels.convolution import Conv2d
from bdlbench.kernels.linear import dense
from bdlbench.methods.gaussian_dropout import GaussianDropout
from bdlbench.networks.layers import Dropout

DRAWS, RATE = 4000, 0.3
ODDS = RATE / (1 - RATE)
CASES = {"dense": (dense, (1, 1, 5), (1, 4, 5)), "convolution": (Conv2d(padding=1), (1, 1, 3, 6, 6), (1, 4, 3, 3, 3))}


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def drawing(place, leaves, noise, joint=False):
    """The rule by which the method draws networks from leaves {name: (R, *S)}."""
    layout = Layout({name: Leaf(tuple(w.shape[1:]), "weight", 5) for name, w in leaves.items()})
    method = GaussianDropout(rate=RATE, noise=place)
    return method.drawn(layout, layout.joined(leaves))(noise, joint)


outputs, inputs = partial(drawing, "outputs"), partial(drawing, "inputs")


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_noise_of_outputs_and_inputs_has_the_mean_and_variance_of_masks(case):
    op, x, w = CASES[case][0], numbers(*CASES[case][1]), numbers(*CASES[case][2], seed=1)
    mean, variance = op(x, w), ODDS * op(x.square(), w.square())
    noise = Streams.of_seeds([7])
    for rule in (
        outputs({"w": w}, noise.samples(0, DRAWS)),
        inputs({"w": w}, noise.samples(0, DRAWS)),
        Dropout({"w": w}, {"w": RATE}, noise.samples(0, DRAWS)),
    ):
        out = rule("w", op, x)
        assert ((out.mean(0) - mean).abs() < 5 * (variance / DRAWS).sqrt()).all()
        fourth = (out - mean).pow(4).mean(0)
        assert ((out.var(0) - variance).abs() < 5 * ((fourth - variance.square()) / DRAWS).sqrt()).all()


@pytest.mark.slow
def test_units_share_the_noise_of_an_input_and_have_their_own_noise_as_outputs():
    """Cov(y_o, y_o′) over draws is α Σ_i x_i² w_oi w_o′i where the noise is at the inputs, and zero at the outputs."""
    x, w = numbers(1, 1, 5), numbers(1, 1, 5, seed=1) + 0.3 * numbers(1, 2, 5, seed=2)
    shared = ODDS * (x.square() * w[:, :1] * w[:, 1:]).sum()
    noise = Streams.of_seeds([7]).samples(0, DRAWS)
    for rule, expected in ((inputs, shared), (outputs, torch.zeros(()).double())):
        out = rule({"w": w}, noise)("w", dense, x)[:, 0, 0]  # (M, 2)
        products = (out - out.mean(0)).prod(1)
        assert abs(products.mean() - expected) < 5 * products.std() / DRAWS**0.5
    assert abs(shared) > 0.1


def test_a_joint_draw_is_one_network_whose_weights_have_the_variance_of_the_local_noise():
    layout = Layout({"w": Leaf((4, 5), "weight", 5), "b": Leaf((4,), "bias", 5)})
    flat = layout.joined({"w": numbers(1, 4, 5), "b": numbers(1, 4, seed=1)})
    network = GaussianDropout(rate=RATE).drawn(layout, flat)(Streams.of_seeds([7]).samples(0, DRAWS), True)
    weights, variance = network.leaf("w"), ODDS * layout.views(flat)["w"].square()
    assert weights.shape == (DRAWS, 1, 4, 5)
    assert ((weights.mean(0) - layout.views(flat)["w"]).abs() < 5 * (variance / DRAWS).sqrt()).all()
    assert ((weights.var(0) / variance - 1).abs() < 5 * (2 / DRAWS) ** 0.5).all()
    assert (network.leaf("b") == layout.views(flat)["b"]).all()


@pytest.mark.parametrize("place", ["outputs", "inputs"])
def test_a_row_without_noise_at_its_inputs_is_the_same_alone_as_beside_one_with(small, place):
    """Alone, a row whose inputs have no noise draws none for them; the noise of the other maps must not move."""
    rows = [{"gaussian_dropout": {"input_rate": rate, "noise": place}} for rate in (0.0, 0.2)]
    data, model, x = small.classes(2), small.model("mlp"), small.classes(2, 9, seed=5).x

    def found(options, data, x):
        posterior = small.method("gaussian_dropout", options).fit(model, data, Streams.of_seeds([7] * len(options)))
        return {
            **posterior.state,
            **small.tensors(posterior.predict(x, 5, Streams.of_seeds([7] * len(options)).child("p"))),
        }

    together = found(rows, data, x)
    for r in range(2):
        assert differences(row_of(together, r), found(rows[r : r + 1], small.row(data, r), x[r : r + 1].clone())) == []


def test_the_moments_are_those_of_the_noise(small):
    built = small.suited("bayesian_linear_regression")
    layout = Layout(built.leaves())
    state = layout.views(torch.linspace(-1, 2, layout.width).double().unsqueeze(0))
    methods = [GaussianDropout(rate=0.25, input_rate=0.25, noise=place) for place in ("outputs", "inputs")]
    first, second = (method.restored(built, state).moments() for method in methods)
    torch.testing.assert_close(first.mean, second.mean)
    torch.testing.assert_close(first.covariance, second.covariance)  # of one unit
    expected = layout.packed(layout.joined(state)).square() / 3
    expected[:, -1] = 0  # the bias
    torch.testing.assert_close(first.covariance.diagonal(dim1=1, dim2=2), expected)
