"""A model as a plain torch module: the same function, whose linear maps are torch's own layers."""

import copy

import pytest
import torch
from torch import nn

from bdlbench.core.layout import Layout, Leaf
from bdlbench.core.streams import Streams
from bdlbench.data.task import Signature
from bdlbench.kernels.convolution import Convolution, Geometry
from bdlbench.kernels.linear import dense
from bdlbench.networks.layers import Point
from bdlbench.networks.likelihoods import output
from bdlbench.networks.plain_module import PlainModule, no_plain_module, noise_sd
from bdlbench.posteriors.fitting import initial_network

PLAIN = {"mlp": (1, 5, 7), "logistic": (1, 5, 7), "lenet5": (1, 28, 28), "resnet": (1, 8, 8)}


def built(small, name, **target):
    """A model, one row of its leaves (1, *S), and the module that starts from them."""
    rows = ({"channels": "8-16"} if name == "resnet" else {},)
    model = small.model(name, PLAIN[name], rows=rows, **target)
    layout = Layout(model.leaves())
    leaves = layout.views(initial_network(model, small.data(model, 1), Streams([5])))
    return model, leaves, PlainModule(model, {leaf: value[0] for leaf, value in leaves.items()})


@pytest.mark.parametrize("name", PLAIN)
def test_it_is_the_model_under_the_point_rule(small, name):
    model, leaves, module = built(small, name)
    x = torch.rand(9, *PLAIN[name], generator=torch.Generator().manual_seed(1))
    there = model(Point(leaves), x[None], Streams([0])).logits[0]
    torch.testing.assert_close(module(x), there, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", PLAIN)
def test_its_state_has_the_names_and_shapes_of_the_leaves(small, name):
    model, leaves, module = built(small, name)
    assert {key: tuple(value.shape) for key, value in module.state_dict().items()} == {
        key: leaf.shape for key, leaf in model.leaves().items()
    }
    assert all(torch.equal(value, leaves[key][0]) for key, value in module.state_dict().items())


@pytest.mark.parametrize("name", PLAIN)
def test_every_linear_map_is_a_layer_of_torch(small, name):
    model, _, module = built(small, name)
    layers = {path for path, one in module.named_modules() if isinstance(one, nn.Linear | nn.Conv2d)}
    assert layers == {
        key.removesuffix(".weight") for key, leaf in model.leaves().items() if leaf.role in ("input", "weight")
    }


class Grouped:
    """A convolution along one axis, with a stride, a dilation and groups."""

    signature = Signature((4, 9), 3, "categorical")

    def leaves(self):
        return {
            "c.weight": Leaf((6, 2, 3), "input", 6),
            "c.bias": Leaf((6,), "bias", 6),
            "f.weight": Leaf((3, 6), "weight", 6),
        }

    def __call__(self, layer, x, rng):
        op = Convolution(Geometry((2,), (1,), (2,), 2))
        return output(self.signature, layer("f.weight", dense, layer("c.weight", op, x, "c.bias").mean(-1)), 1.0)


def test_a_convolution_of_any_geometry_is_a_layer_of_torch():
    model = Grouped()
    leaves = {
        name: torch.randn(1, *leaf.shape, generator=torch.Generator().manual_seed(2))
        for name, leaf in model.leaves().items()
    }
    module = PlainModule(model, {name: value[0] for name, value in leaves.items()})
    assert isinstance(module.c, nn.Conv1d) and module.c.groups == 2
    x = torch.rand(5, 4, 9, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(module(x), model(Point(leaves), x[None], Streams([0])).logits[0])


def test_a_submodule_that_is_hooked_or_replaced_acts(small):
    _, _, module = built(small, "mlp")
    x, seen = torch.ones(3, 1, 5, 7), []
    module.get_submodule("fc2").register_forward_hook(lambda layer, given, out: seen.append(out))
    assert torch.equal(module(x), seen[0])
    module.fc2 = nn.Linear(17, 3, bias=False)
    assert torch.equal(module(x), seen[-1] * 0 + module.fc2(module.fc1(x.flatten(1)).relu()))


def test_building_it_draws_nothing_and_a_copy_is_apart(small):
    model, leaves, module = built(small, "lenet5")
    before = torch.get_rng_state()
    PlainModule(model, {leaf: value[0] for leaf, value in leaves.items()})
    assert torch.equal(torch.get_rng_state(), before)
    other = copy.deepcopy(module)
    with torch.no_grad():
        other.fc1.bias.add_(1.0)
    assert not torch.equal(other.fc1.bias, module.fc1.bias)
    assert torch.equal(module.fc1.bias, leaves["fc1.bias"][0])


def test_it_is_differentiable_by_torch_func(small):
    """`functional_call` and `vmap`, by which libraries take the gradient of each example."""
    _, _, module = built(small, "resnet")
    x, params = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(2)), dict(module.named_parameters())

    def first_logit(params, one):
        return torch.func.functional_call(module, params, (one[None],))[0, 0]

    each = torch.func.vmap(torch.func.grad(first_logit), (None, 0))(params, x)
    module(x)[:, 0].sum().backward()
    for name, value in module.named_parameters():
        torch.testing.assert_close(each[name].sum(0), value.grad, rtol=1e-4, atol=1e-5)


def test_a_real_target_has_its_mean_and_noise(small):
    model, leaves, module = built(small, "mlp", outputs=1, likelihood="gaussian")
    x = torch.ones(3, 1, 5, 7)
    output = model(Point(leaves), x[None], Streams([0]))
    assert module(x).shape == (3, 1)
    torch.testing.assert_close(module(x)[:, 0], output.mean[0])
    assert noise_sd(model) == 1.0
    assert noise_sd(small.model("mlp")) is None


@pytest.mark.parametrize("name", ["vae", "m2", "stopping_resnet", "linear_regression"])
def test_other_outputs_are_refused_with_the_reason(small, name):
    reason = no_plain_module(small.suited(name))
    assert reason and ("noise" in reason) == (name == "linear_regression")
    assert no_plain_module(small.model("mlp")) is None
