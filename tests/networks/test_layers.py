from dataclasses import dataclass

import pytest
import torch

from bdlbench.core.layout import Layout, Leaf, per_row
from bdlbench.core.streams import Streams
from bdlbench.data.task import Signature
from bdlbench.kernels.convolution import Conv2d
from bdlbench.kernels.linear import dense
from bdlbench.kernels.sampling import keep_mask
from bdlbench.networks.layers import (
    DropConnect,
    Dropout,
    Flipout,
    InputNoise,
    LocalNoise,
    Memory,
    Point,
    WeightNoise,
    apart,
    remembering,
)
from bdlbench.networks.likelihoods import output

R, B, M = 2, 6, 3
CASES = {
    "dense": (dense, (B, 5), (4, 5), (B, 4)),
    "convolution": (Conv2d(padding=1), (B, 3, 8, 8), (4, 3, 3, 3), (B, 4, 8, 8)),
}
every_map = pytest.mark.parametrize("case", CASES)


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def setting(case):
    op, x, w, out = CASES[case]
    return op, numbers(R, *x), {"w": numbers(R, *w, seed=1), "b": numbers(R, 4, seed=2)}, out


def rules(leaves, noise, joint=False):
    variance = {name: value.square() for name, value in leaves.items()}
    return {
        "point": Point(leaves),
        "dropout": Dropout(leaves, {"w": 0.5}, noise, joint),
        "input": InputNoise(leaves, {"w": 0.5}, noise, joint),
        "dropconnect": DropConnect(leaves, {"w": torch.tensor([0.2, 0.5])}, noise),
        "local": LocalNoise(leaves, variance, noise),
        "weight": WeightNoise(leaves, variance, noise),
        "flipout": Flipout(leaves, variance, noise),
    }


RULES = list(rules({}, Streams.of_seeds([0])))
every_rule = pytest.mark.parametrize("rule", RULES)


@every_map
@every_rule
def test_samples_stand_in_front_where_there_is_noise(case, rule):
    op, x, leaves, out = setting(case)
    lead = (R,) if rule == "point" else (M, R)
    in_training = rules(leaves, Streams.of_seeds([0, 1]))[rule]
    in_prediction = rules(leaves, Streams.of_seeds([0, 1]).samples(0, M))[rule]
    assert in_training("w", op, x).shape == (R, *out)
    assert in_prediction("w", op, x).shape == (*lead, *out)
    sampled = rule in ("local", "weight", "flipout")
    assert in_prediction.leaf("b").shape == ((M, R, 4) if sampled else (R, 4))


@every_map
@pytest.mark.parametrize("rule", RULES[1:])
def test_a_map_without_rate_or_variance_acts_as_a_point(case, rule):
    op, x, leaves, _ = setting(case)
    noise = Streams.of_seeds([0, 1])
    bare = {
        "dropout": Dropout(leaves, {}, noise),
        "input": InputNoise(leaves, {}, noise),
        "dropconnect": DropConnect(leaves, {}, noise),
        "local": LocalNoise(leaves, {}, noise),
        "weight": WeightNoise(leaves, {}, noise),
        "flipout": Flipout(leaves, {}, noise),
    }[rule]
    assert torch.equal(bare("w", op, x), op(x, leaves["w"]))
    assert torch.equal(bare.leaf("b"), leaves["b"])


@every_map
def test_dropout_masks_inputs_and_keeps_their_mean(case):
    op, x, leaves, _ = setting(case)
    noise = Streams.of_seeds([0, 1]).samples(0, 2000)
    out = Dropout(leaves, {"w": 0.3}, noise)("w", op, x[:, :1])
    expected = op(x[:, :1], leaves["w"])
    assert ((out.mean(0) - expected).abs() < 5.5 * out.std(0) / 2000**0.5 + 1e-6).all()


@every_map
def test_dropconnects_mean_weight_is_scaled_by_what_is_kept(case):
    op, x, leaves, _ = setting(case)
    noise = Streams.of_seeds([0, 1]).samples(0, 2000)
    rates = torch.tensor([0.2, 0.5])
    out = DropConnect(leaves, {"w": rates}, noise)("w", op, x[:, :1])
    expected = op(x[:, :1], leaves["w"]) * per_row(1 - rates, x, 1 + op.trailing)
    assert ((out.mean(0) - expected).abs() < 5.5 * out.std(0) / 2000**0.5 + 1e-6).all()


@every_map
@pytest.mark.parametrize("rule", ["dropout", "input"])
def test_a_joint_draw_at_the_inputs_serves_every_example(case, rule):
    op, x, leaves, _ = setting(case)
    x = x[:, :1].expand_as(x)
    joint, own = (rules(leaves, Streams.of_seeds([0, 1]), joint)[rule]("w", op, x) for joint in (True, False))
    torch.testing.assert_close(joint, joint[:, :1].expand_as(joint))
    assert not torch.allclose(own, own[:, :1].expand_as(own))


def layout():
    return Layout({"w": Leaf((3, 5), "weight", 5), "b": Leaf((3,), "bias", 5), "s": Leaf((16,), "scale", 1)})


def test_leaves_start_on_a_boundary_and_views_share_memory():
    flat = torch.zeros(4, layout().width)
    views = layout().views(flat)
    assert layout().width == 48
    assert layout().num_parameters == 34
    for value in views.values():
        assert (value.data_ptr() - flat.data_ptr()) % 64 == 0
        value.fill_(1)
    assert flat.sum(1).tolist() == [34] * 4
    assert views["w"].shape == (4, 3, 5)


def test_a_filled_row_has_a_value_for_each_leaf_and_padding_between():
    row = layout().fill(lambda leaf: float(leaf.fan_in), padding=-1.0)
    assert row.tolist() == [5.0] * 15 + [-1.0] + [5.0] * 3 + [-1.0] * 13 + [1.0] * 16


def test_buffers_lie_in_a_row_and_are_no_parameters():
    leaves = {"w": Leaf((3, 5), "weight", 5), "seen": Leaf((4,), "buffer", 1), "b": Leaf((2,), "bias", 1)}
    known = Layout(leaves)
    assert known.num_parameters == 17 and known.width == 48 and known.buffers == {"seen": slice(16, 20)}
    row = known.fill(lambda leaf: 1.0, padding=-1.0)
    assert row[known.buffers["seen"]].tolist() == [-1.0] * 4 and (row == 1).sum() == 17
    flat = torch.arange(48.0).expand(2, 48)
    assert known.packed(flat)[0].tolist() == [*range(15), 32, 33]
    assert known.views(flat)["seen"].tolist() == [[16, 17, 18, 19]] * 2


def test_a_hyper_parameter_of_each_row_stands_before_what_it_multiplies():
    like = torch.zeros(2, 3, 4, dtype=torch.float64)
    assert per_row(0.5, like, 3) == 0.5
    value = per_row(torch.tensor([1.0, 2.0]), like, 3)
    assert value.shape == (2, 1, 1)
    assert value.dtype == torch.float64


@every_map
@pytest.mark.parametrize("rule", ["dropout", "input", "dropconnect", "weight"])
def test_one_network_is_one_network_however_often_a_leaf_is_used(case, rule):
    op, x, leaves, _ = setting(case)
    network = rules(leaves, Streams.of_seeds([0, 1]).samples(0, M), joint=True)[rule]
    first, again = network("w", op, x), network("w", op, torch.cat([x, x], dim=1))
    assert torch.equal(again, torch.cat([first, first], dim=2))


@pytest.mark.parametrize("rule", ["local", "weight", "flipout"])
def test_a_bias_is_drawn_once(rule):
    _, _, leaves, _ = setting("dense")
    network = rules(leaves, Streams.of_seeds([0, 1]))[rule]
    assert torch.equal(network.leaf("b"), network.leaf("b"))
    other = rules(leaves, Streams.of_seeds([2, 3]))[rule]
    assert not torch.equal(network.leaf("b"), other.leaf("b"))


@every_map
@every_rule
@pytest.mark.parametrize("joint", [False, True])
def test_a_rule_apart_is_that_of_each_row_alone(case, rule, joint):
    """In training and in prediction, at the first use and at the second: kept draws stay, other noise goes on."""
    op, x, leaves, _ = setting(case)
    shapes = {name: tuple(value.shape[1:]) for name, value in leaves.items()}
    for samples in (None, M):
        streams = [Streams.of_seeds(seeds) for seeds in ((0, 1), (1,))]
        streams = [one if samples is None else one.samples(0, M) for one in streams]
        both = rules(leaves, streams[0], joint)[rule]
        second = rules({name: value[1:] for name, value in leaves.items()}, streams[1], joint)
        if rule == "dropconnect":
            second[rule] = DropConnect(second[rule].leaves, {"w": torch.tensor([0.5])}, streams[1])
        count = R * (samples or 1)
        for _ in range(2):
            parts = apart(both, (R,) if samples is None else (M, R), shapes)
            alone = apart(second[rule], (1,) if samples is None else (M, 1), shapes)
            assert len(parts) == count and len(alone) == count // R
            for m, own in enumerate(alone):
                for name, shape in shapes.items():
                    assert torch.equal(parts[R * m + 1].leaf(name).reshape(shape), own.leaf(name).reshape(shape))
                assert torch.equal(parts[R * m + 1]("w", op, x[1:], "b"), own("w", op, x[1:], "b"))
        if rule == "point":
            assert torch.equal(parts[0]("w", op, x[:1], "b"), both("w", op, x, "b")[:1])


def test_drawn_leaves_of_several_samples_are_split_by_sample():
    drawn = {"w": numbers(M, R, 4, 5), "b": numbers(R, 4)}
    parts = apart(Point(drawn), (M, R), {"w": (4, 5), "b": (4,)})
    for m in range(M):
        for r in range(R):
            assert torch.equal(parts[R * m + r].leaf("w"), drawn["w"][m, r : r + 1])
            assert torch.equal(parts[R * m + r].leaf("b"), drawn["b"][r : r + 1])


def test_a_rule_of_which_nothing_is_known_is_not_split():
    class Other:
        def __call__(self, name, op, x, bias=""):
            return x

        def leaf(self, name):
            return torch.zeros(1)

    with pytest.raises(TypeError, match="Other"):
        apart(Other(), (2,), {})


def test_noise_of_examples_is_drawn_anew_at_every_use():
    op, x, leaves, _ = setting("dense")
    for rule in ("dropout", "local"):
        network = rules(leaves, Streams.of_seeds([0, 1]))[rule]
        assert not torch.equal(network("w", op, x), network("w", op, x))


def test_what_is_kept_between_steps_serves_training_whoever_asks_first():
    signature, raw, y = Signature((3,), 1, "gaussian"), torch.randn(1, 5, 1), torch.randn(1, 5)
    with torch.inference_mode():
        output(signature, raw, 0.12345).elbo(y)
    raw = raw.clone().requires_grad_()
    output(signature, raw, 0.12345).elbo(y).sum().backward()
    torch.testing.assert_close(raw.grad.squeeze(-1), (y - raw.detach().squeeze(-1)) / 0.12345**2)


def test_a_bias_that_is_not_there_is_no_missing_bias():
    leaves = {"w": torch.randn(1, 4, 3)}
    for rule in (Point(leaves), LocalNoise(leaves, leaves, Streams.of_seeds([0]))):
        with pytest.raises(KeyError):
            rule("w", dense, torch.randn(1, 2, 3), "bais")


def test_what_precedes_noise_is_computed_once_for_the_remembered_tensor_alone():
    calls = []
    x, other, w, v, b = (torch.randn(1, 2, 6) for _ in range(5))
    memory = Memory(x)

    def ask(x, op=dense, weight=w, bias=None):
        return memory.recall(op, (x, weight, bias), lambda: calls.append(1) or torch.ones(1))

    assert ask(x) is ask(x.view(1, 2, 6))
    assert ask(x, weight=w.view(1, 2, 6)) is ask(x)
    assert ask(x, Conv2d(padding=1)) is ask(x, Conv2d(padding=1))
    for _ in range(2):
        ask(x, weight=v)
        ask(x[..., :3])
        ask(x, bias=b)
        ask(x, Conv2d(padding=2))
        ask(x.view(torch.int32))
    assert len(calls) == 7
    ask(other)
    ask(other)
    assert len(calls) == 9
    w.add_(1)  # the same tensor, with other weights in it
    ask(x)
    assert len(calls) == 10
    with torch.inference_mode():
        made = torch.ones(1, 2, 6)
    ask(x, weight=made)
    ask(x, weight=made)
    assert len(calls) == 12


@pytest.mark.parametrize("rule", ["dropout", "local"])
def test_weights_that_are_drawn_anew_are_not_remembered_by_their_name(rule):
    """Each sample by networks of its own whose first map has no noise: freed weights leave their place to the next."""
    x, samples = numbers(R, B, 5), []
    memory = Memory(x)

    def layer(seed, remembers):
        leaves, variance = ({"w": numbers(R, 4, 5, seed=s).square()} for s in (seed, 100 + seed))
        noise = Streams.of_seeds([0, 1]).samples(seed, 1)
        made = Dropout(leaves, {}, noise) if rule == "dropout" else LocalNoise(leaves, variance, noise)
        return remembering(made, memory) if remembers else made

    for seed in range(20):
        samples.append(torch.equal(layer(seed, True)("w", dense, x), layer(seed, False)("w", dense, x)))
    assert all(samples)


@dataclass
class Reversed:
    """A map like `dense`, of the reversed weight. It cannot be hashed."""

    trailing: int = 2

    def __call__(self, x, weight, bias=None):
        return dense(x, weight.flip(-1), bias)

    def output_shape(self, x, weight):
        return dense.output_shape(x, weight)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("rates", [0.0, 0.5])
def test_one_leaf_in_several_maps_of_the_input_is_several_maps(rule, rates):
    """By another operation, by another bias or none, of a part of the input: as where nothing is remembered."""
    x, other, again = numbers(R, B, 5), Reversed(), Reversed()
    leaves = {"w": numbers(R, 4, 5, seed=1), "b": numbers(R, 4, seed=2), "c": numbers(R, 4, seed=3)}
    maps = [(dense, ""), (other, ""), (dense, "b"), (dense, "c"), (other, "c"), (again, "b"), (dense, "")]

    def predicted(memory=None):
        layer = rules(leaves, Streams.of_seeds([0, 1]).samples(0, M))[rule]
        if rule == "dropout":
            layer = Dropout(leaves, {"w": rates}, layer.noise)
        layer = layer if memory is None else remembering(layer, memory)
        return [layer("w", op, x, bias) for op, bias in maps]

    expected = predicted()
    assert all(torch.equal(a, b) for a, b in zip(predicted(Memory(x)), expected, strict=True))


def test_a_noise_and_a_rate_that_were_changed_in_place_are_not_those_of_before():
    signature, raw, y = Signature((3,), 1, "gaussian"), torch.zeros(2, 4, 1), torch.ones(2, 4)
    sd = torch.tensor([0.5, 2.0], dtype=torch.float64)
    output(signature, raw, sd).elbo(y)
    sd.mul_(3)
    expected = torch.distributions.Normal(0.0, sd.float().unsqueeze(-1)).log_prob(y)
    torch.testing.assert_close(output(signature, raw, sd).elbo(y), expected)

    rate = torch.tensor([0.1, 0.9], dtype=torch.float64)
    bits = torch.arange(-32768, 32767).to(torch.int16).expand(2, -1)
    keep_mask(bits, rate, 1, raw)
    rate.copy_(torch.tensor([0.75, 0.25]))
    torch.testing.assert_close(keep_mask(bits, rate, 1, raw).mean(1), torch.tensor([0.25, 0.75]), atol=1e-4, rtol=0)
