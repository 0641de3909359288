"""What a method remembers beside the loop is refused where a run may be resumed; what only helps it is not."""

import random
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import pytest
import torch

from bdlbench.core.streams import Streams
from bdlbench.data.task import Data
from bdlbench.training.loop import NOTHING, Collect, Session, last, minimise, session
from bdlbench.training.optimisers import Update
from bdlbench.training.plan import Plan

LISTED, COUNT = [], 0


def train(path, objective=None, step=None, add=None):
    """Two epochs of two steps, by functions that say what they do each time: name() is called in each."""

    def plain(flat, batch, noise, moment):
        return flat.square().sum(-1)

    x = torch.ones(2, 10, 1)
    collect = Collect(lambda flat: {"sum": flat}, add) if add else NOTHING
    update = Update(lambda flat: {}, step) if step else None
    with session(Session(path)):
        return last(
            minimise(
                objective or plain,
                torch.ones(2, 16),
                Data(x, x[..., 0]),
                Streams.of_seeds([0, 1]),
                Plan(2, 5, 0.1),
                update,
                collect,
            )
        )


def at(seam, work):
    """Functions that do `work` with the rows each time they are called, by name of the seam."""

    def objective(flat, batch, noise, moment):
        work(flat.detach())
        return flat.square().sum(-1)

    def step(flat, gradient, kept, rate, moment, noise):
        work(flat)
        return flat - 0.1 * gradient, kept

    def add(state, so_far):
        work(state.flat)
        return so_far

    return {seam: {"objective": objective, "step": step, "add": add}[seam]}


def appending():
    kept = []
    return lambda flat: kept.append(flat.clone())


def a_set():
    kept = set()
    return lambda flat: kept.add(float(flat.sum()))


def counting():
    count = 0

    def work(flat):
        nonlocal count
        count += 1

    return work


def replacing():
    mean = torch.zeros(2, 16)

    def work(flat):
        nonlocal mean
        mean = 0.9 * mean + 0.1 * flat

    return work


def unassigned():
    def work(flat):
        nonlocal previous
        previous = flat

    previous = None
    del previous
    return work


def of_the_module():
    return LISTED.append


def a_global():
    def work(flat):
        global COUNT  # noqa: PLW0603
        COUNT += 1

    return work


def a_partial():
    kept = []
    return partial(lambda kept, flat: kept.append(flat), kept)


def a_method():
    class Chain:
        def add(self, flat):
            kept.append(flat)

    kept = []
    return Chain().add


def deeper():
    return lambda flat, work=None: inner(flat)


inner = appending()


def in_a_dict():
    sums = {"mean": torch.zeros(2, 16)}
    return lambda flat: sums.update(mean=sums["mean"] + flat)


def growing_a_dict():
    kept = {}
    return lambda flat: kept.setdefault(len(kept), flat)


def in_place():
    total = torch.zeros(2, 16)
    return total.add_


def in_inference_mode():
    with torch.inference_mode():  # whose tensors count no changes
        total = torch.zeros(2, 16)

    def work(flat):
        with torch.inference_mode():
            total.add_(flat)

    return work


def by_streams():
    mine = Streams.of_seeds([0, 1])
    return lambda flat: mine.normal((16,), flat)


def by_torch():
    generator = torch.Generator().manual_seed(0)
    return lambda flat: torch.randn(3, generator=generator)


def by_numpy():
    generator = np.random.default_rng(0)
    return lambda flat: generator.normal()


def by_python():
    generator = random.Random(0)
    return lambda flat: generator.random()


class Chain:
    """An object that remembers."""

    def __init__(self):
        self.kept, self.count = [], 0

    def add(self, flat):
        self.kept.append(flat)

    def step(self, flat):
        self.count += 1

    __call__ = add


def an_object():
    chain = Chain()
    return lambda flat: [chain.add(flat)]


def a_method_of_an_object():
    return Chain().step


ALWAYS = [appending, a_set, counting, replacing, unassigned, of_the_module, a_global, a_partial, a_method, deeper]
ALWAYS += [by_streams, by_torch, by_numpy, by_python, an_object, a_method_of_an_object, Chain]


@pytest.mark.parametrize(
    ("seam", "make"),
    [(seam, make) for seam in ("objective", "step", "add") for make in ALWAYS]
    + [(seam, make) for seam in ("step", "add") for make in (in_a_dict, growing_a_dict, in_place, in_inference_mode)],
)
def test_what_is_remembered_beside_the_loop_is_refused_by_name_where_a_run_may_be_resumed(
    seam, make, tmp_path, refused
):
    last_of = train(None, **at(seam, make()))  # nothing to resume: nothing to lose
    assert last_of.epoch == 2
    with refused(f"{__file__}", "step", "checkpoint") as caught:
        train(tmp_path / "fit", **at(seam, make()))
    place, _, said = caught.text.partition(" changes ")
    assert place.startswith(f"{__file__}:")
    told = said.split()[0].removeprefix("self.").removeprefix("work.").removeprefix("chain.")
    assert told in ("kept", "count", "mean", "previous", "work", "COUNT", "sums", "total", "generator", "mine")
    assert not list(tmp_path.iterdir())


def cache():
    made = {}
    return lambda flat: made.setdefault("ones", torch.ones_like(flat))


def buffer():
    place = torch.empty(2, 16)
    return place.copy_


def constants():
    names, table, number = ["a", "b"], {"a": [1]}, 3
    return lambda flat: flat * number + len(names) + table["a"][0]


@dataclass(frozen=True)
class Options:
    """What has a cached property, and a list that stays."""

    names: list

    @cached_property
    def width(self):
        return len(self.names)


def an_inference_tensor():
    with torch.inference_mode():
        number = torch.full((2, 16), 3.0)
    return lambda flat: flat.detach() * number


def options():
    chosen, mine = Options(["a"]), Streams.of_seeds([0, 1])
    return lambda flat: chosen.width + mine.child("each time the same").normal((16,), flat)


def local():
    def work(flat):
        kept = []
        kept.append(flat)

    return work


@pytest.mark.parametrize(
    ("seam", "make"),
    [("objective", make) for make in (cache, buffer)]
    + [(seam, an_inference_tensor) for seam in ("step", "add")]
    + [(seam, make) for seam in ("objective", "step", "add") for make in (constants, options, local)],
)
def test_what_helps_without_remembering_is_fine(seam, make, tmp_path):
    assert train(tmp_path / "fit", **at(seam, make())).epoch == 2
