"""Modules run with their rows in the batch: against plain torch, module by module."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from bdlbench.core.foreign import Broken
from bdlbench.core.streams import Streams
from bdlbench.networks import modules
from bdlbench.networks.layers import Dropout, LocalNoise, Point


class Net(nn.Module):
    """A module of given parts and a given forward."""

    def __init__(self, forward, **parts):
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)
        self.run = forward

    def forward(self, x):
        return self.run(self, x)


def bare(*shape):
    return nn.Parameter(torch.randn(*shape))


def text(x):
    return (20 * x).long()


def masked(net, x):
    ahead = torch.triu(torch.ones(5, 5, dtype=torch.bool), 1)
    padded = torch.zeros(len(x), 5, dtype=torch.bool)
    padded[:, -1] = True
    return net.a(x, x, x, attn_mask=ahead, key_padding_mask=padded)[0]


def weighed(net, x):
    mixed, weights = net.a(x, x, x)
    return torch.cat([mixed.flatten(1), weights.flatten(1)], 1)


def spread(net, x):
    x = torch.cat([net.token.expand(len(x), -1, -1), x], 1) + net.position
    x[:, 0] = net.other
    return net.gain * x


def transformer(**options):
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, 0.0, **options), 2, enable_nested_tensor=False)


SEQUENCE, IMAGE = (5, 8), (4, 6, 6)
CASES = {
    "linear": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(40, 3)), SEQUENCE),
    "linear of each step": (lambda: nn.Linear(8, 3, bias=False), SEQUENCE),
    "1d": (lambda: nn.Conv1d(5, 6, 3, padding="same", dilation=2), SEQUENCE),
    "strided": (lambda: nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 0), groups=2), IMAGE),
    "dilated": (lambda: nn.Conv2d(4, 8, 3, dilation=2, padding=2, groups=4, bias=False), IMAGE),
    "even same": (lambda: nn.Conv2d(4, 2, 4, padding="same"), IMAGE),
    "circular": (lambda: nn.Conv2d(4, 3, 3, padding=1, padding_mode="circular"), IMAGE),
    "reflected": (lambda: nn.Conv2d(4, 3, 3, padding=1, padding_mode="reflect"), IMAGE),
    "3d": (lambda: nn.Conv3d(2, 3, 2, stride=(1, 2, 1)), (2, 3, 4, 4)),
    "transposed": (lambda: nn.ConvTranspose2d(4, 3, 3, stride=2), IMAGE),
    "batch norm": (
        lambda: nn.Sequential(nn.Conv2d(4, 3, 3, bias=False), nn.BatchNorm2d(3), nn.ReLU(inplace=True)),
        IMAGE,
    ),
    "batch norm of features": (lambda: nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6, affine=False)), (8,)),
    "layer norm": (lambda: nn.Sequential(nn.LayerNorm((5, 8)), nn.Linear(8, 2)), SEQUENCE),
    "group norm": (lambda: nn.Sequential(nn.GroupNorm(2, 4), nn.Conv2d(4, 2, 1)), IMAGE),
    "instance norm": (lambda: nn.Sequential(nn.InstanceNorm2d(4, affine=True), nn.PReLU(4)), IMAGE),
    "rms norm": (lambda: nn.Sequential(nn.RMSNorm(8), nn.Linear(8, 2)), SEQUENCE),
    "embedding": (lambda: Net(lambda n, x: n.e(text(x)).flatten(1), e=nn.Embedding(30, 4)), (7,)),
    "embedding bag": (lambda: Net(lambda n, x: n.h(n.e(text(x))), e=nn.EmbeddingBag(30, 4), h=nn.Linear(4, 2)), (7,)),
    "positions": (
        lambda: Net(lambda n, x: n.h(x + n.e(torch.arange(5))), e=nn.Embedding(5, 8), h=nn.Linear(8, 2)),
        SEQUENCE,
    ),
    "bilinear": (lambda: Net(lambda n, x: n.b(x, x), b=nn.Bilinear(8, 8, 2)), (8,)),
    "bare": (lambda: Net(spread, token=bare(1, 1, 8), position=bare(1, 6, 8), other=bare(8), gain=bare(8)), SEQUENCE),
    "in place": (lambda: Net(lambda n, x: x.clone().add_(n.p).mul_(1 + n.p), p=bare(5, 1)), SEQUENCE),
    "einsum": (lambda: Net(lambda n, x: torch.einsum("bti,io->bto", x, n.p.T @ n.p), p=bare(8, 8)), SEQUENCE),
    "weight norm": (lambda: weight_norm(nn.Linear(8, 3)), SEQUENCE),
    "lstm": (
        lambda: Net(lambda n, x: n.l(x)[0][:, -1], l=nn.LSTM(8, 3, 2, batch_first=True, bidirectional=True)),
        SEQUENCE,
    ),
    "gru, time first": (lambda: Net(lambda n, x: n.g(x.transpose(0, 1))[1][-1], g=nn.GRU(8, 3)), SEQUENCE),
    "rnn": (lambda: Net(lambda n, x: n.h(n.r(x)[0]), r=nn.RNN(8, 3, batch_first=True), h=nn.Linear(3, 2)), SEQUENCE),
    "attention": (lambda: Net(weighed, a=nn.MultiheadAttention(8, 2, batch_first=True)), SEQUENCE),
    "masked attention": (lambda: Net(masked, a=nn.MultiheadAttention(8, 2, batch_first=True)), SEQUENCE),
    "cross attention": (
        lambda: Net(
            lambda n, x: n.a(x, x[:, :3], x[:, :3], need_weights=False)[0],
            a=nn.MultiheadAttention(8, 2, batch_first=True),
        ),
        SEQUENCE,
    ),
    "other sizes": (
        lambda: Net(
            lambda n, x: n.a(x, x[..., :3], x[..., :4])[0],
            a=nn.MultiheadAttention(8, 2, kdim=3, vdim=4, batch_first=True),
        ),
        SEQUENCE,
    ),
    "transformer": (lambda: transformer(batch_first=True), SEQUENCE),
    "transformer, time first": (
        lambda: Net(lambda n, x: n.e(x.transpose(0, 1)).mean(0), e=transformer(norm_first=True)),
        SEQUENCE,
    ),
    "lazy": (lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(6), nn.LazyBatchNorm1d(), nn.Linear(6, 2)), SEQUENCE),
    "upsampled": (lambda: nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(4, 2, 3), nn.MaxPool2d(2)), IMAGE),
}


def time_before_batch(net, x):
    """Reshapes with the time first, so that a folded batch would be cut across its rows."""
    steps = net.d(net.l(x.transpose(0, 1).reshape(-1, 8)).relu())
    return net.h(steps.view(5, len(x), 6).transpose(0, 1).flatten(1))


def centred_in_training(net, x):
    return net.l(x - (x.mean(0) if net.training else 0.5))


def one_after_the_other(net, x):
    state = torch.zeros(len(x), 3)
    return torch.stack([net.l(torch.cat([x[i].mean(0), state[i]])) for i in range(len(x))])


def packed(net, x):
    lengths = 1 + (4 * x[:, 0, 0]).long()
    steps = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    return net.h(net.g(steps)[1][-1])


APART = {
    "time before batch": (
        lambda: Net(time_before_batch, l=nn.Linear(8, 6), d=nn.Dropout(0.0), h=nn.Linear(30, 3)),
        SEQUENCE,
    ),
    "centred in training": (lambda: Net(centred_in_training, l=nn.Linear(8, 3)), (8,)),
    "batch norm": (
        lambda: Net(time_before_batch, l=nn.Linear(8, 6), d=nn.BatchNorm1d(6), h=nn.Linear(30, 3)),
        SEQUENCE,
    ),
    "packed": (lambda: Net(packed, g=nn.GRU(8, 3, batch_first=True), h=nn.Linear(3, 2)), SEQUENCE),
}


def tied():
    one = nn.Linear(8, 8)
    return nn.Sequential(one, nn.Tanh(), one)


def frozen():
    net = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 2))
    net[0].requires_grad_(False)
    return net


CASES |= {"tied": (tied, SEQUENCE), "frozen": (frozen, SEQUENCE)}


def numbers(*shape, seed=5):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def rows_of(make, shape, count, known):
    """`count` modules of different seeds, and their values as leaves (R, *S)."""
    alone = [modules.made(make, seed, shape) for seed in range(3, 3 + count)]
    found = [modules.values_of(one) for one in alone]
    leaves = {
        name: torch.stack([one[name] - float(leaf.role == "scale") for one in found])
        for name, leaf in known.leaves.items()
    }
    return alone, leaves


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("name", CASES)
def test_rows_together_are_what_torch_makes_of_each_alone(name):
    """Outputs and gradients, in training and in prediction, of other rows and batches than those of the trial."""
    make, shape = CASES[name]
    known = modules.skeleton(make, shape)
    assert not known.apart
    agrees_with_torch(known, make, shape)


@pytest.mark.slow
@pytest.mark.parametrize("name", APART)
def test_rows_run_apart_where_a_forward_would_notice_others(name):
    make, shape = APART[name]
    known = modules.skeleton(make, shape)
    assert known.apart
    agrees_with_torch(known, make, shape)


def agrees_with_torch(known, make, shape, examples=5):
    alone, leaves = rows_of(make, shape, 3, known)
    x = numbers(3, examples, *shape)
    for training in (False, True):
        plain = [copy.deepcopy(one).train(training) for one in alone]
        given = {key: value.clone().requires_grad_() for key, value in leaves.items()}
        rng = Streams.of_seeds([0, 1, 2])
        out = modules.run(known, Point(given), x, rng if training else rng.samples(0, 1))
        expected = [one(part) for one, part in zip(plain, x, strict=True)]
        torch.testing.assert_close(out, torch.stack(expected), rtol=1e-4, atol=1e-5)
        weights = numbers(*out.shape, seed=8)
        (out * weights).sum().backward()
        for row, (one, result) in enumerate(zip(plain, expected, strict=True)):
            (result * weights[row]).sum().backward()
            for key, value in one.named_parameters():
                if value.requires_grad:
                    torch.testing.assert_close(given[key].grad[row], value.grad, rtol=1e-3, atol=1e-4)
                else:
                    assert given[key].grad is None and known.leaves[key].role == "buffer"


@pytest.mark.parametrize("make", [CASES["bare"][0], APART["time before batch"][0]])
def test_samples_are_rows_too(make):
    known = modules.skeleton(make, SEQUENCE)
    alone, leaves = rows_of(make, SEQUENCE, 6, known)
    x = numbers(3, 5, *SEQUENCE)
    samples = {name: value.unflatten(0, (2, 3)) for name, value in leaves.items()}
    out = modules.run(known, Point(samples), x, Streams.of_seeds([0, 1, 2]).samples(0, 2))
    expected = torch.stack([one(x[i % 3]) for i, one in enumerate(alone)]).unflatten(0, (2, 3))
    torch.testing.assert_close(out, expected)


def test_roles_are_what_the_forward_does():
    def make():
        return nn.Sequential(
            nn.Conv2d(4, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(32, 3), Net(lambda n, x: x * n.p, p=bare(3))
        )

    found = {name: leaf.role for name, leaf in modules.skeleton(make, IMAGE).leaves.items()}
    assert found == {
        "0.weight": "input",
        "0.bias": "bias",
        "1.weight": "scale",
        "1.bias": "bias",
        "3.weight": "weight",
        "3.bias": "bias",
        "4.p": "bias",
        "1.running_mean": "buffer",
        "1.running_var": "buffer",
    }
    shared = modules.skeleton(tied, SEQUENCE).leaves
    assert {name: leaf.role for name, leaf in shared.items()} == {"0.weight": "input", "0.bias": "bias"}
    fans = {name: leaf.fan_in for name, leaf in modules.skeleton(CASES["strided"][0], IMAGE).leaves.items()}
    assert fans == {"weight": 12, "bias": 12}


DROPPING = {
    "numbers": lambda: nn.Sequential(nn.Linear(8, 30), nn.Dropout(0.25)),
    "channels": lambda: nn.Sequential(nn.Conv1d(5, 30, 1), nn.Dropout1d(0.25)),
    "by a function": lambda: Net(lambda n, x: functional.dropout(n.l(x), 0.25, n.training), l=nn.Linear(8, 30)),
    "alpha": lambda: nn.Sequential(nn.Linear(8, 30), nn.AlphaDropout(0.25)),
    "time first": lambda: Net(
        lambda n, x: n.d(n.l(x.transpose(0, 1))).transpose(0, 1), l=nn.Linear(8, 30), d=nn.Dropout(0.25)
    ),
    "apart": lambda: Net(time_before_batch, l=nn.Linear(8, 6), d=nn.Dropout(0.25), h=nn.Linear(30, 3)),
    "attention": lambda: nn.TransformerEncoderLayer(8, 2, 8, 0.25, batch_first=True),
    "recurrent": lambda: Net(lambda n, x: n.l(x)[0], l=nn.LSTM(8, 6, 2, dropout=0.25, batch_first=True)),
    "scaled attention": lambda: Net(
        lambda n, x: functional.scaled_dot_product_attention(n.l(x), x, x, dropout_p=0.25 * n.training, is_causal=True),
        l=nn.Linear(8, 8),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", DROPPING)
def test_its_own_dropout_is_drawn_by_the_row(name):
    """A row drops the same alone as among others, each row its own, nothing in prediction unless it stays on."""
    known = modules.skeleton(DROPPING[name], SEQUENCE)
    _, leaves = rows_of(DROPPING[name], SEQUENCE, 3, known)
    leaves = {key: value[:1].expand_as(value).contiguous() for key, value in leaves.items()}
    x = numbers(1, 5, *SEQUENCE).expand(3, 5, *SEQUENCE)

    def run(rows, kind, stays=False):
        rng = Streams.of_seeds([3, 1, 4]).child("noise")
        rng = Streams([rng.keys[r] for r in rows])
        rng = rng if kind == "training" else rng.samples(0, kind)
        part = {key: value[rows] for key, value in leaves.items()}
        return modules.run(known, Point(part), x[rows], rng, stays)

    state = torch.get_rng_state()
    together = run([0, 1, 2], "training")
    assert torch.equal(state, torch.get_rng_state())
    torch.testing.assert_close(run([1], "training"), together[1:2], rtol=1e-6, atol=1e-7)
    off = run([0, 1, 2], 1)
    assert not torch.allclose(together[0], together[1]) and not torch.allclose(together[0], off[0])
    torch.testing.assert_close(off[0], off[1])
    if name in ("numbers", "channels"):
        kept = together != 0
        assert abs(kept.float().mean() - 0.75) < 0.1
        torch.testing.assert_close(together[kept], (off / 0.75)[kept])
    if name in ("numbers", "channels", "time first", "apart", "attention", "recurrent"):
        on = run([0, 1, 2], 2, True)
        torch.testing.assert_close(run([1], 2, True), on[:, 1:2], rtol=1e-6, atol=1e-7)
        assert known.drops and not torch.allclose(on[0, 1], on[1, 1])


def test_a_joint_sample_drops_the_same_of_every_example():
    known = modules.skeleton(DROPPING["numbers"], SEQUENCE)
    _, leaves = rows_of(DROPPING["numbers"], SEQUENCE, 2, known)
    x = numbers(1, 1, *SEQUENCE).expand(2, 5, *SEQUENCE)
    noise = Streams.of_seeds([3, 1]).samples(0, 2)

    class Joint(Point):
        joint = True

    out = modules.run(known, Joint(leaves), x, noise, True)
    torch.testing.assert_close(out[:, :, :1].expand_as(out), out)
    assert not torch.allclose(out[0], out[1])


def test_a_rule_acts_on_its_maps():
    """Noise of a rule is at the maps: with all variance in the last, its mean and spread are known."""
    known = modules.skeleton(lambda: nn.Sequential(nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 2)), (8,))
    _, leaves = rows_of(lambda: nn.Sequential(nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 2)), (8,), 1, known)
    variance = {name: torch.full_like(value, 0.04 if name == "2.bias" else 1e-12) for name, value in leaves.items()}
    x = numbers(1, 4, 8)
    plain = modules.run(known, Point(leaves), x, Streams.of_seeds([0]).samples(0, 1))
    noisy = modules.run(known, LocalNoise(leaves, variance, (rng := Streams.of_seeds([0]).samples(0, 4000))), x, rng)
    assert noisy.shape == (4000, 1, 4, 2)
    torch.testing.assert_close(noisy.mean(0), plain, rtol=0, atol=4 * 0.2 / 4000**0.5)
    assert abs(noisy.std(0) - 0.2).max() < 0.012
    dropped = modules.run(known, Dropout(leaves, {"2.weight": 0.5}, rng), x, rng)
    assert dropped.shape == (4000, 1, 4, 2) and dropped.std(0).min() > 0


class Mixing(nn.Module):
    def __init__(self):
        super().__init__()
        self.l = nn.Linear(8, 3)

    def forward(self, x):
        return self.l(x - x.mean(0))


def drawing(net, x):
    return net.l(x + torch.rand(8))


def inside(make):
    return lambda: nn.Sequential(nn.Linear(8, 8), nn.Sequential(nn.Tanh(), make()))


ONE = nn.Linear(8, 3)
REFUSED = {
    "no average": (lambda: nn.Sequential(nn.Linear(8, 3), nn.BatchNorm1d(3, momentum=None)), (8,), "1"),
    "mixing": (Mixing, (8,), "batch"),
    "drawing": (lambda: Net(drawing, l=nn.Linear(8, 3)), (8,), "Dropout"),
    "a buffer": (lambda: spectral_norm(nn.Linear(8, 3)), (8,), "weight"),
    "tracked": (lambda: nn.Sequential(nn.InstanceNorm2d(4, track_running_stats=True), nn.Conv2d(4, 2, 1)), IMAGE, "0."),
    "several": (lambda: Net(lambda n, x: (n.l(x), x), l=nn.Linear(8, 3)), (8,), "tuple"),
    "one for all": (lambda: Net(lambda n, x: n.l(x).sum(0), l=nn.Linear(8, 3)), (8,), "batch"),
    "nothing to learn": (nn.Flatten, (8,), "parameter"),
    "no module": (lambda: 3, (8,), "int"),
    "one module for all": (lambda: ONE, (8,), "same module"),
    "double": (lambda: nn.Linear(8, 3).double(), (8,), "float64"),
    "bias of keys": (
        inside(lambda: Net(lambda n, x: n.a(x, x, x)[0], a=nn.MultiheadAttention(8, 2, add_bias_kv=True))),
        SEQUENCE,
        "1.1.a",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_supported_is_refused_by_name(name):
    make, shape, named = REFUSED[name]
    with pytest.raises(Broken) as caught:
        modules.skeleton(make, shape)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_error_of_the_module_is_its_own():
    with pytest.raises(RuntimeError, match="shapes"):
        modules.skeleton(lambda: nn.Linear(3, 2), (8,))


@pytest.mark.parametrize("limit", [40, 600])
def test_a_row_takes_the_way_of_its_own_number_of_examples(limit):
    """Above a limit a forward splits its batch, and differs in training: three rows would, where none alone does."""
    ways = []

    def in_parts(net, x):
        ways.append(len(x) > limit)
        out = torch.cat([net.l(part) * net.gain for part in x.split(4 if len(x) > limit else 1000)])
        return out - (x.mean() if net.training and len(x) > limit else 0)

    def make():
        return Net(in_parts, l=nn.Linear(8, 3), gain=bare(3))

    known = modules.skeleton(make, (8,))
    assert known.apart == (limit == 40)  # in the trial, or where so many are first seen
    some = limit * 3 // 4
    agrees_with_torch(known, make, (8,), some)
    agrees_with_torch(known, make, (8,), 2 * some)
    _, leaves = rows_of(make, (8,), 3, known)
    for together in (1, 3):
        given = {name: value[:together] for name, value in leaves.items()}
        for _ in range(2):  # the first time may ask which way so many take
            ways.clear()
            modules.run(known, Point(given), numbers(together, some, 8), Streams.of_seeds(range(together)))
        assert ways == [False] * together


@pytest.mark.parametrize("limit", [40, 600])
def test_a_prediction_that_depends_on_the_number_of_examples_is_refused(limit):
    """Before training, or where so many examples are first seen."""

    def make():
        return Net(lambda n, x: n.l(x) * (2 if len(x) > limit else 1), l=nn.Linear(8, 3))

    known = None
    with pytest.raises(Broken) as caught:
        known = modules.skeleton(make, (8,))
        _, leaves = rows_of(make, (8,), 1, known)
        modules.run(known, Point(leaves), numbers(1, 700, 8), Streams.of_seeds([0]).samples(0, 1))
    assert (known is None) == (limit == 40) and "mixes" in str(caught.value)


@pytest.mark.parametrize("size", [2, 11, 14, 22, 33])
def test_sizes_that_are_those_of_the_folded_batch_are_not_taken_for_it(size):
    """A constant, a gain, the time: each as long as the batch, in a trial or later."""

    def forward(net, x):
        x = x.transpose(0, 1) + torch.arange(size)[:, None, None] / size
        return (net.l(x) * net.gain).mean(0) + net.e(torch.arange(size)).mean(0)

    def make():
        return Net(forward, l=nn.Linear(4, size), gain=bare(size), e=nn.Embedding(size, size))

    known = modules.skeleton(make, (size, 4))
    for rows, batch in ((2, size // 2 or 1), (size, 1), (2, size)):
        alone, leaves = rows_of(make, (size, 4), rows, known)
        x = numbers(rows, batch, size, 4)
        out = modules.run(known, Point(leaves), x, Streams.of_seeds(range(rows)).samples(0, 1))
        expected = torch.stack([one(part) for one, part in zip(alone, x, strict=True)])
        torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)
