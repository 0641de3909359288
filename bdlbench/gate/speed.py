"""The cost of a training step, as a ratio to a plain deterministic torch step; both are timed in turn in one process.

Absolute times depend on the machine. A ratio of works that took turns depends mostly on the code, and a little on the
processor and the version of torch. The smallest time of many short blocks is the cost of a work without disturbance.
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
from bdlbench.gate.contracts import own_methods
from bdlbench.training.loop import begin, last, minimise
from bdlbench.training.plan import Plan

ROUNDS = 40
TIMED_STEPS = 3
"""Steps in a block, which takes milliseconds, so that most blocks are not interrupted."""

ATTEMPTS = 3
"""How often a ratio that is too large is measured; it counts only if it is too large each time."""

SLOWER = 1.18
"""The largest allowed factor between a ratio and its reference on the reference's processor and versions."""

OTHER_MACHINE = 1.6
"""The same on another processor or version of torch, where the ratios themselves differ."""


@dataclass(frozen=True)
class Size:
    """The size of the work of a step: D inputs, hidden widths, examples in a batch, R rows."""

    features: int
    widths: tuple[int, ...]
    batch: int
    rows: int


SIZES = {"64-100-10": Size(64, (100,), 64, 5), "784-300-100-10": Size(784, (300, 100), 100, 1)}
NUM_CLASSES = 10


def ratios(rounds: int = ROUNDS) -> dict[str, float]:
    """Measure the time of each step over that of the plain step of its size, by "method · sizes", on one thread."""
    with one_thread():
        return {name: ratio for size in SIZES for name, ratio in _of_size(size, rounds).items()}


def slower(reference: Mapping[str, float], found: Mapping[str, float], allowed: float) -> dict[str, float]:
    """Return, for each ratio more than `allowed` times its reference, their quotient."""
    return {name: found[name] / was for name, was in reference.items() if name in found and found[name] > allowed * was}


def differences(
    reference: Mapping[str, float], allowed: float, measure: Callable[[], Mapping[str, float]]
) -> list[str]:
    """Return one line for each ratio that only one side has, and for each that is too large, the worst first."""
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
    """Return the ratios too large in `found` and in ATTEMPTS − 1 further measurements, with their smallest excess."""
    worst = slower(reference, found, allowed)
    for _ in range(ATTEMPTS - 1):
        if not worst:
            break
        again = slower(reference, measure(), allowed)
        worst = {name: min(factor, again[name]) for name, factor in worst.items() if name in again}
    return worst


def _of_size(name: str, rounds: int) -> dict[str, float]:
    ours = {method: work for method in own_methods() if (work := _ours(method, SIZES[name]))}
    found = timed_in_turn({"": _plain(SIZES[name]), **ours}, rounds)
    best = {work: min(seconds) for work, seconds in found.items()}
    return {f"{method} · mlp {name}": best[method] / best[""] for method in ours}


def _examples(size: Size) -> tuple[Tensor, Tensor]:
    """Make TIMED_STEPS batches."""
    count = TIMED_STEPS * size.batch
    rng = torch.Generator().manual_seed(0)
    return torch.rand(count, size.features, generator=rng), torch.arange(count) % NUM_CLASSES


def _plain(size: Size) -> Callable[[], object]:
    """Make TIMED_STEPS of Adam on one network of torch.nn, with batches gathered by index as bdlbench's are."""
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
    """Make an epoch of TIMED_STEPS of `minimise` on a method's objective; None if it minimises nothing, or not this."""
    x, y = _examples(size)
    data = Data(x.expand(size.rows, *x.shape), y.expand(size.rows, len(y)))
    chosen = catalog.choice("models", "mlp", {"mlp": {"widths": "-".join(map(str, size.widths))}})
    model = catalog.build_model([chosen], Signature((size.features,), NUM_CLASSES, "categorical"))
    from_the_start = {"warm_start": 0.0} if "warm_start" in fields(catalog.load("methods", method)) else {}
    built = catalog.build_method([catalog.choice("methods", method, {method: from_the_start})])  # a sampler's own steps
    composed = any(chosen.metadata["entry"] for chosen in fields(type(built)).values())
    if built.unsupported(model) or composed:  # a method made of other methods' fits costs what those cost
        return None
    fits, _ = begin(lambda: built.fit(model, data, Streams.of_seeds(range(size.rows))), 1)
    plan = Plan(1, size.batch, 1e-4)
    if not fits:
        return None
    fit = fits[0]
    return lambda: last(minimise(fit.objective, fit.initial, fit.data, fit.rng, plan, fit.update))
