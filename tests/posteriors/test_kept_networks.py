"""Networks that are kept as a set: which, in which order, and what they predict."""

from itertools import pairwise

import torch

from bdlbench.core import memory
from bdlbench.core.layout import Layout
from bdlbench.core.streams import Streams
from bdlbench.networks.layers import Point
from bdlbench.posteriors.kept_networks import cycle_ends, keep_networks, mixture_of_kept, restored_mixture
from bdlbench.training.loop import State


def after(epoch, flat, collected):
    return State(flat, {}, epoch, torch.zeros(len(flat)), epoch, collected)


def test_the_set_fills_in_order_and_its_mixture_is_of_those_kept_so_far(small):
    model = small.model("mlp")
    layout, epochs = Layout(model.leaves()), (2, 3, 5)
    rows = torch.randn(5, 2, layout.width, generator=torch.Generator().manual_seed(0))
    collect, x = keep_networks(epochs), small.classes(2, 11).x
    collected = collect.start(rows[0])
    assert collected["networks"].shape == (2, 3, layout.width)  # all of its memory from the start
    kept = []
    for epoch in range(1, 6):
        before = collected
        collected = collect.add(after(epoch, rows[epoch - 1], collected), collected)
        assert (collected is before) == (epoch not in epochs)
        kept += [rows[epoch - 1]] if epoch in epochs else []
        posterior = mixture_of_kept(model, layout, after(epoch, rows[epoch - 1], collected), epochs)
        if not kept:
            assert posterior is None
            continue
        assert torch.equal(layout.packed(layout.joined(posterior.state)), layout.packed(torch.stack(kept, 1)))
        expected = sum(model(Point(layout.views(flat)), x, None).logits.softmax(-1) for flat in kept) / len(kept)
        for one in (posterior, restored_mixture(model, posterior.state)):
            torch.testing.assert_close(one.predict(x, 1, Streams.of_seeds([0, 1])).arrays()["probs"], expected)


def test_a_set_that_does_not_fit_is_refused_before_training(monkeypatch, refused):
    monkeypatch.setattr(memory, "total_bytes", lambda: 2 * 3 * 100 * 4)
    flat = torch.zeros(2, 100)
    assert keep_networks((1, 2, 3)).start(flat)["networks"].shape == (2, 3, 100)
    with refused("4 networks", "100 weights"):
        keep_networks((1, 2, 3, 4)).start(flat)


def test_cycles_divide_epochs_evenly_and_end_with_the_last():
    assert cycle_ends(0, 12, 3) == [4, 8, 12]
    assert cycle_ends(2, 12, 3) == [5, 8, 12]
    assert cycle_ends(5, 7, 9) == [6, 7]
    for first, last, count in [(0, 60, 7), (3, 61, 13), (0, 1, 1)]:
        bounds = [first, *cycle_ends(first, last, count)]
        lengths = [b - a for a, b in pairwise(bounds)]
        assert bounds[-1] == last and len(lengths) == count and max(lengths) - min(lengths) <= 1
