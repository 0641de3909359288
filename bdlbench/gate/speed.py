"""What a step of the package costs, as a ratio to a plain deterministic torch step: timed in turn, in one process.

Absolute times are a machine's; a ratio of works that took turns is the code's, up to what processors and versions of
torch change. The smallest of many short blocks is what a work costs when nothing disturbs it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from bdlbench import catalog
from bdlbench.core.clock import timed_in_turn
from bdlbench.core.environment import one_thread
from bdlbench.core.options import fields
from bdlbench.core.streams import Streams
from bdlbench.data.task import Data, Signature
from bdlbench.training.loop import Plan, begin, last, minimise

ROUNDS = 40
TIMED_STEPS = 3
"""Steps in a block: milliseconds, so that many blocks are not interrupted."""

ATTEMPTS = 3
"""A ratio that is too large is measured again, and counts only if it always is."""

SLOWER = 1.18
"""How many times its reference a ratio may be where processor and versions are those of the reference."""

OTHER_MACHINE = 1.6
"""The same on another processor or torch, whose ratios differ by themselves."""


@dataclass(frozen=True)
class Size:
    """What the steps work on: D inputs, hidden widths, examples in a batch, R rows."""

    features: int
    widths: tuple[int, ...]
    batch: int
    rows: int


SIZES = {"64-100-10": Size(64, (100,), 64, 5), "784-300-100-10": Size(784, (300, 100), 100, 1)}
NUM_CLASSES = 10


def ratios(rounds: int = ROUNDS) -> dict[str, float]:
    """Seconds of each step over those of the plain step of its size, by "method · sizes", on one thread."""
    with one_thread():
        return {name: ratio for size in SIZES for name, ratio in _of_size(size, rounds).items()}


def slower(reference: Mapping[str, float], found: Mapping[str, float], allowed: float) -> dict[str, float]:
    """By how much each ratio exceeds its reference, where that is more than `allowed` times."""
    return {name: found[name] / was for name, was in reference.items() if name in found and found[name] > allowed * was}


def differences(
    reference: Mapping[str, float], allowed: float, measure: Callable[[], Mapping[str, float]]
) -> list[str]:
    """One line for each ratio that only one side has, and for each that is too large, the worst first."""
    found = measure()
    lines = [f"{name}: no such ratio any more" for name in reference if name not in found]
    lines += [f"{name}: not in the reference" for name in found if name not in reference]
    worst = excess(reference, found, allowed, measure)
    return lines + [
        f"the step of {name} takes {factor:.2f} times what it took, as a ratio to a plain torch step"
        for name, factor in sorted(worst.items(), key=lambda pair: -pair[1])
    ]


def excess(
    reference: Mapping[str, float],
    found: Mapping[str, float],
    allowed: float,
    measure: Callable[[], Mapping[str, float]],
) -> dict[str, float]:
    """What is slower than allowed in `found` and all later of ATTEMPTS measurements, by the smallest excess of them."""
    worst = slower(reference, found, allowed)
    for _ in range(ATTEMPTS - 1):
        if not worst:
            break
        again = slower(reference, measure(), allowed)
        worst = {name: min(factor, again[name]) for name, factor in worst.items() if name in again}
    return worst


def _of_size(name: str, rounds: int) -> dict[str, float]:
    ours = {method: work for method in catalog.names("methods") if (work := _ours(method, SIZES[name]))}
    found = timed_in_turn({"": _plain(SIZES[name]), **ours}, rounds)
    best = {work: min(seconds) for work, seconds in found.items()}
    return {f"{method} · mlp {name}": best[method] / best[""] for method in ours}


def _examples(size: Size) -> tuple[Tensor, Tensor]:
    """STEPS batches."""
    count = TIMED_STEPS * size.batch
    rng = torch.Generator().manual_seed(0)
    return torch.rand(count, size.features, generator=rng), torch.arange(count) % NUM_CLASSES


def _plain(size: Size) -> Callable[[], object]:
    """STEPS of Adam on one network of torch.nn, batches gathered by index as ours are."""
    x, y = _examples(size)
    wide = [size.features, *size.widths]
    hidden = [part for sizes in pairwise(wide) for part in (torch.nn.Linear(*sizes), torch.nn.ReLU())]
    network = torch.nn.Sequential(*hidden, torch.nn.Linear(wide[-1], NUM_CLASSES))
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)
    order = torch.arange(len(y)).reshape(TIMED_STEPS, size.batch)

    def steps() -> None:
        for index in order:
            optimizer.zero_grad()
            cross_entropy(network(x[index]), y[index]).backward()
            optimizer.step()

    return steps


def _ours(method: str, size: Size) -> Callable[[], object] | None:
    """An epoch of STEPS of `minimise` on the objective of a method; None where it minimises nothing, or not this."""
    x, y = _examples(size)
    data = Data(x.expand(size.rows, *x.shape), y.expand(size.rows, len(y)))
    chosen = catalog.choice("models", "mlp", {"mlp": {"widths": "-".join(map(str, size.widths))}})
    model = catalog.build_model([chosen], Signature((size.features,), NUM_CLASSES, "categorical"))
    built = catalog.build_method([catalog.choice("methods", method, {})])
    composed = any(chosen.metadata["entry"] for chosen in fields(type(built)).values())
    if built.unsupported(model) or composed:  # what is made of other methods' fits costs what those cost
        return None
    fits, _ = begin(lambda: built.fit(model, data, Streams.of_seeds(range(size.rows))), 1)
    plan = Plan(1, size.batch, 1e-4)
    if not fits:
        return None
    fit = fits[0]
    return lambda: last(minimise(fit.objective, fit.initial, fit.data, fit.rng, plan, fit.update))
