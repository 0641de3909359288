"""Networks of uncertain depth: bounds, identities, and stopping for real."""

from dataclasses import replace

import pytest
import torch

from bdlbench import catalog
from bdlbench.core.spec import Cell, Replicate
from bdlbench.core.streams import Streams
from bdlbench.data.task import Signature
from bdlbench.kernels import halting
from bdlbench.models import stopping_resnet
from bdlbench.models.stopping_resnet import ConstantResNet, StoppingResNet
from bdlbench.networks.depth_output import DEPTH_RULES, DepthModel, Exits, StoppingOutput
from bdlbench.networks.layers import Point
from bdlbench.posteriors.weights import WeightPosterior
from bdlbench.runs import batch as run

SHAPE, CLASSES, DEPTH, SEEDS = (1, 8, 8), 4, 5, (3, 1)
EXITS = Exits((1, 2, 3), (10, 20, 30), 25)


def output(rows=2, num=6, exits=3, seed=0, dtype=torch.float64, **model):
    rng = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(rows, num, CLASSES, exits, generator=rng, dtype=dtype)
    halts = 2 * torch.randn(rows, num, exits - 1, generator=rng, dtype=dtype)
    where = Exits(EXITS.depths[:exits], EXITS.flops[:exits], EXITS.full_flops)
    return StoppingOutput(logits, halts, DepthModel(**{"strength": 0.3, **model}), where, Streams.of_seeds(range(rows)))


def classes(rows=2, num=6):
    return torch.randint(CLASSES, (rows, num), generator=torch.Generator().manual_seed(5))


@pytest.fixture
def net():
    return StoppingResNet(Signature(SHAPE, CLASSES, "categorical"), channels=4, blocks=DEPTH, groups=2, first_halting=0)


def weights(model, rows=2, seed=0, dtype=torch.float32):
    """Random leaves, biases and scales too."""
    rng = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(rows, *leaf.shape, generator=rng, dtype=dtype) * (20 / leaf.fan_in) ** 0.5
        for name, leaf in model.leaves().items()
    }


def images(rows=2, num=40, dtype=torch.float32):
    return torch.rand(rows, num, *SHAPE, generator=torch.Generator().manual_seed(8), dtype=dtype)


# The objective


@pytest.mark.parametrize("strength", [0.0, 0.3, torch.tensor([0.1, 2.0], dtype=torch.float64)])
@pytest.mark.parametrize("exploration", [0.0, 0.3, 1.0, torch.tensor([0.0, 0.5], dtype=torch.float64)])
def test_the_elbo_bounds_the_evidence_and_less_entropy_bounds_it_from_further_below(strength, exploration):
    y, evidence = classes(), output(strength=strength).log_evidence(classes())
    options = {"strength": strength, "exploration": exploration}
    tight, loose, point = (output(**options, entropy_weight=w).elbo(y) for w in (1.0, 0.5, 0.0))
    assert (tight <= evidence).all()
    assert (loose <= tight).all()
    assert (point <= loose).all()


def test_the_elbo_is_the_evidence_where_q_is_the_exact_posterior():
    said, y = output(), classes()
    joint = said.log_prior + said.log_likelihood(y)
    q = joint.softmax(-1)
    left = q.flip(-1).cumsum(-1).flip(-1)  # P(z ≥ l)
    halts = (q / left)[..., :-1].logit()
    exact = replace(said, halting=halts)
    torch.testing.assert_close(exact.log_q, joint.log_softmax(-1))
    torch.testing.assert_close(exact.elbo(y), said.log_evidence(y))


def test_the_elbo_is_its_definition_by_a_loop():
    said, y = output(), classes()
    for r in range(2):
        for b in range(6):
            q, p = said.log_q[r, b].exp(), said.log_prior.exp()
            fits = [said.exit_logits[r, b, :, z].log_softmax(0)[y[r, b]] for z in range(3)]
            expected = sum(q[z] * (fits[z] - q[z].log() + p[z].log()) for z in range(3))
            torch.testing.assert_close(said.elbo(y)[r, b], expected)


def test_gradients_of_the_elbo():
    y = classes()

    def elbo(logits, halts, strength, expectation):
        said = output(strength=strength, expectation=expectation, entropy_weight=0.7, exploration=0.2)
        return replace(said, exit_logits=logits, halting=halts).elbo(y)

    inputs = (output().exit_logits.requires_grad_(), output().halting.requires_grad_())
    strength = torch.tensor([0.2, 0.9], dtype=torch.float64)
    for expectation in ("exact", "sampled"):
        assert torch.autograd.gradcheck(lambda a, h, e=expectation: elbo(a, h, strength, e), inputs)


def test_a_cold_sampled_objective_is_unbiased():
    num, y = 20_000, classes(1, 1)
    one = output(1, 1)
    many = replace(
        output(1, 1, expectation="sampled", temperature=1e-6),
        exit_logits=one.exit_logits.expand(1, num, -1, -1),
        halting=one.halting.expand(1, num, -1),
    )
    draws = many.elbo(y.expand(1, num))
    assert abs(draws.mean() - one.elbo(y)) < 5 * draws.std() / num**0.5
    assert draws.std() > 0.1


# What is predicted


def test_rules_by_a_loop():
    said = output()
    rules, p = said.rules(), said.log_prior.exp()
    assert ["q_mode", *rules] == list(DEPTH_RULES)
    for r in range(2):
        for b in range(6):
            probs, q = said.exit_logits[r, b].softmax(0), said.log_q[r, b].exp()  # (C, L), (L,)
            torch.testing.assert_close(said.logits[r, b].softmax(-1), probs[:, q.argmax()])
            torch.testing.assert_close(rules["q_marginal"][r, b].exp(), probs @ q)
            torch.testing.assert_close(rules["prior"][r, b].exp(), probs @ p)
            joint = p * probs  # (C, L): p(y, z | x), which sums to one
            torch.testing.assert_close(joint.sum(), torch.ones((), dtype=torch.float64))
            y, z = divmod(int(joint.argmax()), 3)
            assert int(rules["joint"][r, b].argmax()) == y
            torch.testing.assert_close(rules["joint"][r, b].exp(), probs[:, z])


def test_facts_state_the_modes_depth_and_what_it_took_to_know_it():
    halts = torch.tensor([[[9.0, 0.0], [-9.0, 9.0], [-9.0, -9.0], [-0.4, 0.0]]])
    facts = replace(output(1, 4), halting=halts).facts()
    assert facts["halted_depth"].tolist() == [[1, 2, 3, 1]]  # the last q: .40, .30, .30
    assert facts["flops"].tolist() == [[10, 20, 30, 20]]
    assert facts["full_flops"].tolist() == [[25] * 4]


def accumulated(outputs):
    total = outputs[0].accumulator(len(outputs))
    for one in outputs:
        total.add(one)
    return total.finish()


def test_samples_are_averaged_as_probabilities_one_by_one_or_together():
    outputs = [output(seed=s) for s in range(3)]
    apart = accumulated(outputs)
    stacked = replace(
        outputs[0],
        exit_logits=torch.stack([o.exit_logits for o in outputs]),
        halting=torch.stack([o.halting for o in outputs]),
        rng=Streams.of_seeds([0, 1]).samples(0, 3),
    )
    together = outputs[0].accumulator(3)
    together.add(stacked)
    together = together.finish()
    for name in set(DEPTH_RULES) - {"q_sample"}:
        torch.testing.assert_close(together.rules[name], apart.rules[name])
    marginal = sum(o.rules()["q_marginal"].exp() for o in outputs) / 3
    torch.testing.assert_close(apart.rules["q_marginal"].exp().float(), marginal.float())
    last = sum(o.exit_logits[..., -1].softmax(-1) for o in outputs) / 3
    for found in (apart.full, together.full):
        torch.testing.assert_close(found.exp(), last.float())
    assert apart.scores["depth"].shape == (2, 6)
    torch.testing.assert_close(apart.facts["halted_depth"], sum(o.facts()["halted_depth"] for o in outputs).float() / 3)


def test_a_mixture_of_members_and_later_examples():
    whole = accumulated([output(rows=4)])
    mixed = whole.mix(2)
    for name, value in whole.rules.items():
        torch.testing.assert_close(mixed.rules[name].exp(), value.exp().unflatten(0, (2, 2)).mean(1))
    torch.testing.assert_close(mixed.full.exp(), whole.full.exp().unflatten(0, (2, 2)).mean(1))
    assert mixed.facts["flops"].shape == (2, 6)
    joined = whole.join([whole])
    assert joined.rules["prior"].shape == joined.full.shape == (4, 12, CLASSES)
    assert joined.facts["halted_depth"].shape == joined.log_prob(classes(4, 12)).shape == (4, 12)
    assert joined.in_units(torch.zeros(4), torch.ones(4)) is joined


def test_with_one_exit_there_is_nothing_to_choose():
    only = accumulated([replace(output(exits=1), exits=Exits((6,), (60,), 60))])
    assert list(only.rules) == ["q_mode"]
    assert "depth" not in only.scores
    assert only.facts["halted_depth"].tolist() == [[6.0] * 6] * 2


# The network


def test_the_last_exit_is_the_full_network_with_the_same_weights(net):
    leaves, x = weights(net), images()
    sizes = {n: getattr(net, n) for n in ("channels", "blocks", "groups", "kernel", "stride", "cells", "hidden")}
    plain = ConstantResNet(net.signature, **sizes)
    own = {name: leaf for name, leaf in leaves.items() if not name.startswith("halting")}
    assert {n: leaf.shape for n, leaf in plain.leaves().items()} == {n: leaf.shape[1:] for n, leaf in own.items()}
    last = net(Point(leaves), x, Streams.of_seeds(SEEDS)).exit_logits[..., -1]
    torch.testing.assert_close(plain(Point(own), x, Streams.of_seeds(SEEDS)).logits, last, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("depth", range(1, DEPTH + 1))
def test_q_with_all_its_mass_at_one_depth_is_the_network_of_that_depth(net, depth):
    leaves, x, y = weights(net), images(), classes(2, 40)
    said = net(Point(leaves), x, Streams.of_seeds(SEEDS))
    sure = torch.full_like(said.halting, -80.0)
    sure[..., depth - 1 :] = 80.0
    said = replace(said, halting=sure)
    shallow = replace(net, blocks=depth)
    own = {n: leaves[n] for n in shallow.leaves()} | {"halting.bias": leaves["halting.bias"][:, :depth]}
    network = shallow(Point(own), x, Streams.of_seeds(SEEDS))
    expected = network.exit_logits[..., -1]
    torch.testing.assert_close(said.logits, expected, rtol=1e-5, atol=1e-5)
    for name in ("q_marginal", "q_sample"):
        torch.testing.assert_close(said.rules()[name].exp(), expected.softmax(-1), rtol=1e-5, atol=1e-5)
    assert (said.facts()["halted_depth"] == depth).all()
    fit = network.log_likelihood(y)[..., -1]
    torch.testing.assert_close(said.elbo(y), fit + said.log_prior[depth - 1], rtol=1e-5, atol=1e-5)


def test_rows_together_are_rows_alone(net):
    leaves, x = weights(net), images()
    together = net(Point(leaves), x, Streams.of_seeds(SEEDS))
    rules = together.rules()
    for r, seed in enumerate(SEEDS):
        one = net(Point({n: v[r : r + 1] for n, v in leaves.items()}), x[r : r + 1], Streams.of_seeds([seed]))
        torch.testing.assert_close(together.exit_logits[r : r + 1], one.exit_logits)
        for name, value in one.rules().items():
            torch.testing.assert_close(rules[name][r : r + 1], value)


def test_flops_are_twice_the_multiply_adds_of_every_map(net):
    leaves, x, spent = weights(net, 1), images(1, 1), []

    class Counting(Point):
        def __call__(self, name, op, x, bias=""):
            out = super().__call__(name, op, x, bias)
            weight = self.leaves[name]
            places = out[0, 0, 0].numel() if weight.ndim == 5 else 1  # positions of a convolution
            spent.append(2 * places * weight.numel())
            return out

    net(Counting(leaves), x, Streams.of_seeds([0]))
    exits = net.exits()
    assert sum(spent) == exits.flops[-1]
    spent.clear()
    ConstantResNet(net.signature, 4, DEPTH, 2)(Counting({**leaves}), x, Streams.of_seeds([0]))
    assert sum(spent) == exits.full_flops
    assert exits.flops[0] < exits.full_flops < exits.flops[-1]


@pytest.mark.parametrize(
    ("options", "reason"),
    [({"groups": 3}, "divide"), ({"kernel": 4}, "even"), ({}, "images"), ({"likelihood": "gaussian"}, "likelihood")],
)
def test_what_it_cannot_fit_it_says(options, reason):
    signature = Signature((1, 8, 8) if options else (8,), CLASSES, options.pop("likelihood", "categorical"))
    for kind in (StoppingResNet, ConstantResNet):
        assert reason in kind(signature, **options).unsupported()


# Stopping for real


def dividing(net, leaves, x):
    """A `first_halting` with which half of row 0's examples leave after the first layer."""
    said = replace(net, first_halting=0.0)(Point(leaves), x, Streams.of_seeds(SEEDS))
    return -float(said.halting[0, :, 0].median())


@pytest.mark.parametrize("more", [-3.0, 0.0, 3.0])
@pytest.mark.parametrize("num", [1, 40])
def test_stopping_for_real_predicts_what_all_depths_at_once_predict(net, more, num):
    leaves, x = weights(net), images(num=num)
    first = dividing(net, leaves, x) + more
    net = replace(net, first_halting=first)
    said = net(Point(leaves), x, Streams.of_seeds(SEEDS))
    flops, facts, noise = torch.tensor(net.exits().flops), said.facts(), said.noise()
    sampled = replace(said, rng=Streams.of_seeds(SEEDS)).rules()["q_sample"]  # by the same noise
    for r in range(2):
        own = {name: leaf[r] for name, leaf in leaves.items()}
        stop = net.stopper(own, first)
        found = stop(x[r])
        torch.testing.assert_close(found.logits, said.logits[r])
        assert torch.equal(found.depth.float(), facts["halted_depth"][r])
        assert torch.equal(flops[found.layers - 1].float(), facts["flops"][r])
        found = stop(x[r], noise[r])
        assert torch.equal(found.depth, found.layers)
        assert torch.equal(found.depth - 1, halting.sampled(said.halting, noise)[r])
        torch.testing.assert_close(found.logits.softmax(-1), sampled[r].exp())


def test_examples_leave_the_batch(net):
    seen = []

    class Watching(type(net.network)):
        def advance(self, layer, name, stream):
            seen.append(stream.x.shape[1])
            return super().advance(layer, name, stream)

    leaves, x = weights(net), images()
    own, first = {name: leaf[0] for name, leaf in leaves.items()}, dividing(net, leaves, x)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stopping_resnet, "Network", Watching)
        found = net.stopper(own, first)(x[0])
    layers = found.layers.tolist()
    assert seen == [sum(n >= depth for n in layers) for depth in range(1, max(layers) + 1)]
    assert len(set(seen)) > 1


@pytest.mark.slow
def test_what_is_measured_is_one_ratio_for_each_row_and_size(net):
    leaves, x = weights(net), images(num=20)
    for layer_leaves in (leaves, {name: leaf.unsqueeze(0) for name, leaf in leaves.items()}):
        posterior = WeightPosterior(net, leaves, lambda noise, joint, own=layer_leaves: Point(own))
        found = posterior.measured(x, Streams.of_seeds(SEEDS))
        assert set(found) == {"speedup[1]", "speedup[256]"}
        assert all(value.shape == (2,) and (value > 0).all() for value in found.values())
    plain = ConstantResNet(net.signature)
    assert WeightPosterior(plain, leaves, lambda noise, joint: Point(leaves)).measured(x, Streams.of_seeds(SEEDS)) == {}


@pytest.mark.slow
def test_a_record_keeps_what_the_clock_says_apart_from_values(tmp_path):
    small = {"channels": 4, "blocks": 2, "groups": 2, "hidden": 3}
    choices = (
        catalog.choice("methods", "mle", {"mle": {"epochs": 1}}),
        catalog.choice("models", "stopping_resnet", {"stopping_resnet": small}),
        catalog.choice("datasets", "digits", {"digits": {"num_train": 64}}),
    )
    batch = run.Batch((run.Row(Cell(*choices, samples=1), Replicate(0)),))
    (record,) = run.run_batch(batch, run.Settings(tmp_path)).records
    assert {name for name in record.cost if "speedup" in name} == {"speedup[1]", "speedup[256]"}
    assert not any("speedup" in name for name in (*record.values.facts, *record.values.metrics))
    assert {"depth", "flops", "accuracy_by_rule[joint]", "ood_auroc_depth[photos]"} <= record.values.metrics.keys()
