"""Measure the cost of more seeds: training time of 1, 5 and 20 seeds, beside 20 plain `torch.nn` trainings.

    python scripts/replicates.py [--seconds 10] [--repeats 3] [--epochs N] [--method NAME …]

MLP 64-50-10 on digits, batches of 64, Adam at 1e-3, one thread; as many epochs as make one seed take `--seconds`. In
each repeat the four are timed in turn; the table holds medians, of seconds and of each repeat's own ratios. The plain
trainings are written as most people write them, one after the other: `nn.Module`, autograd, `torch.optim.Adam`, tensors
in memory, no data loader. The accuracy of both shows that they do the same work.

It also proves that seed 3 alone, among 5 and among 20 has the same parameters, values and predictions, bit for bit.
Prints Markdown. Exit code 1 if a bit differs, or if 5 seeds cost more than 1.6 times one seed or 20 more than 4 times.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from bdlbench import catalog
from bdlbench.core.clock import Stopwatch
from bdlbench.core.spec import Cell, Replicate
from bdlbench.records import record as records
from bdlbench.records.arrays import row_axis
from bdlbench.records.record import Record
from bdlbench.runs.batch import Batch, Row, Settings, run_batch

BATCH = 64
SAMPLES = 20
ALONE = 3
SEEDS: tuple[Sequence[int], ...] = ([ALONE], range(5), range(20))
LIMITS = (1.6, 4.0)
"""The largest cost of 5 seeds and of 20, in units of one seed."""


class MeanFieldLinear(nn.Module):
    """A dense layer with a Gaussian for every weight, by local reparameterisation; prior N(0, 1)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) * (2 / inputs) ** 0.5)
        self.weight_log_sd = nn.Parameter(torch.full((outputs, inputs), -5.0))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.bias_log_sd = nn.Parameter(torch.full((outputs,), -5.0))

    def forward(self, x: Tensor) -> Tensor:
        mean = functional.linear(x, self.weight, self.bias)
        variance = functional.linear(x.square(), (2 * self.weight_log_sd).exp(), (2 * self.bias_log_sd).exp())
        return mean + variance.sqrt() * torch.randn_like(mean)

    def kl(self) -> Tensor:
        """Return KL(q ‖ prior) in nats."""
        pairs = ((self.weight, self.weight_log_sd), (self.bias, self.bias_log_sd))
        return sum((0.5 * (mean.square() + (2 * log_sd).exp() - 1) - log_sd).sum() for mean, log_sd in pairs)


def plain(linear: Callable[[int, int], nn.Module]) -> nn.Sequential:
    """Build an MLP 64-50-10."""
    return nn.Sequential(linear(64, 50), nn.ReLU(), linear(50, 10))


PLAIN: dict[str, Callable[[], nn.Sequential]] = {
    "mle": lambda: plain(nn.Linear),
    "mean_field_vi": lambda: plain(MeanFieldLinear),
}
"""The plain counterpart of each method."""


def train_plain(network: nn.Sequential, x: Tensor, y: Tensor, epochs: int) -> None:
    """Train in the usual loop; x (N, D), y (N,)."""
    optimizer = torch.optim.Adam(network.parameters())
    stochastic = [layer for layer in network if isinstance(layer, MeanFieldLinear)]
    for _ in range(epochs):
        order = torch.randperm(len(x))
        for start in range(0, len(x) - BATCH + 1, BATCH):
            index = order[start : start + BATCH]
            loss = functional.cross_entropy(network(x[index]), y[index])
            if stochastic:
                loss = loss + sum(layer.kl() for layer in stochastic) / len(x)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


class Timed(NamedTuple):
    """Seconds of training, and mean test accuracy."""

    seconds: float
    accuracy: float


def time_plain(name: str, epochs: int, seeds: Sequence[int]) -> Timed:
    """Time plain trainings, one network after the other."""
    task = catalog.build_dataset(catalog.choice("datasets", "digits", {})).load(0)
    x, y = task.train.x.flatten(1), task.train.y
    seconds, right = 0.0, []
    for seed in seeds:
        torch.manual_seed(seed)
        watch = Stopwatch(torch.device("cpu"))
        network = PLAIN[name]()
        train_plain(network, x, y, epochs)
        seconds += watch.seconds()
        with torch.no_grad():
            probs = sum(network(task.test.x.flatten(1)).softmax(-1) for _ in range(SAMPLES))
        right.append((probs.argmax(-1) == task.test.y).double().mean().item())
    return Timed(seconds, sum(right) / len(right))


def train(name: str, epochs: int, seeds: Sequence[int], folder: Path) -> Record:
    """Train all seeds at once, as `run` does."""
    cell = Cell(
        method=catalog.choice("methods", name, {name: {"epochs": epochs, "batch_size": BATCH}}),
        model=catalog.choice("models", "mlp", {"mlp": {"widths": "50"}}),
        dataset=catalog.choice("datasets", "digits", {}),
        samples=SAMPLES,
    )
    batch = Batch(tuple(Row(cell, Replicate(seed)) for seed in seeds))
    (record,) = run_batch(batch, Settings(folder)).records
    return record


def timed(record: Record) -> Timed:
    """Return the times that the record states."""
    accuracy = record.values.metrics["accuracy"].numbers
    return Timed(record.train_seconds or math.nan, sum(accuracy) / len(accuracy))


def stored(folder: Path, record: Record, seed: int) -> dict[str, object]:
    """Return every value of one seed, and the bytes of its predictions."""
    i = record.replicates.index(Replicate(seed))
    arrays = records.predictions(folder, record)
    rows = {k: v.select(row_axis(k), i).contiguous().numpy().tobytes() for k, v in arrays.items()}
    return {"values": record.values.take([i]), **rows}


class Turn(NamedTuple):
    """One repeat of one method: 1, 5 and 20 seeds, the plain trainings, and whether seed 3 kept its bits."""

    at_once: list[Timed]
    plain: Timed
    same_bits: bool


def take_turn(name: str, epochs: int) -> Turn:
    """Time all four, one after the other."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        trained = [train(name, epochs, seeds, folder) for seeds in SEEDS]
        alone, *among = [stored(folder, record, ALONE) for record in trained]
    serial = time_plain(name, epochs, SEEDS[-1])
    return Turn([timed(record) for record in trained], serial, all(other == alone for other in among))


def calibrate(name: str, seconds: float, trial: int = 100) -> int:
    """Return the epochs with which one seed takes about `seconds`; the first trial only warms up."""
    with tempfile.TemporaryDirectory() as place:
        spent = [train(name, trial, [ALONE], Path(place)).train_seconds or math.nan for _ in range(2)]
    return max(1, round(seconds / spent[-1] * trial))


def describe(name: str, epochs: int, turns: Sequence[Turn]) -> tuple[str, bool]:
    """Return a row of the table, and whether all requirements hold."""
    seconds = [median(turn.at_once[k].seconds for turn in turns) for k in range(len(SEEDS))]
    ratios = [median(turn.at_once[k].seconds / turn.at_once[0].seconds for turn in turns) for k in (1, 2)]
    serial = median(turn.plain.seconds for turn in turns)
    gain = median(turn.plain.seconds / turn.at_once[-1].seconds for turn in turns)
    accuracy = f"{turns[0].at_once[-1].accuracy:.1%}, {turns[0].plain.accuracy:.1%}"
    same = all(turn.same_bits for turn in turns)
    times = " | ".join(f"{value:.2f} s" for value in seconds)
    paid = " | ".join(f"{value:.2f}×" for value in ratios)
    bits = "same bits" if same else "BITS DIFFER"
    row = f"| {name} | {epochs} | {times} | {paid} | {serial:.2f} s | {gain:.1f}× | {accuracy} | {bits} |"
    return row, same and all(ratio <= limit for ratio, limit in zip(ratios, LIMITS, strict=True))


def main() -> int:
    """Time every method, print the table, and return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=10.0, help="of one seed; epochs are chosen for it")
    parser.add_argument("--repeats", type=int, default=3, help="turns; the table holds medians")
    parser.add_argument("--epochs", type=int, default=0, help="instead of --seconds")
    parser.add_argument("--method", action="append", choices=list(PLAIN), help="default: both")
    given = parser.parse_args()
    torch.set_num_threads(1)
    print("| method | epochs | 1 seed | 5 seeds | 20 seeds | 5 / 1 | 20 / 1 | 20 plain, one after the other ", end="")
    print("| 20 plain / 20 at once | accuracy of both | seed 3 alone, of 5, of 20 |")
    print("|" + "---|" * 11)
    good = True
    for name in given.method or PLAIN:
        epochs = given.epochs or calibrate(name, given.seconds)
        row, holds = describe(name, epochs, [take_turn(name, epochs) for _ in range(given.repeats)])
        print(row, flush=True)
        good = good and holds
    verdict = "holds" if good else "DOES NOT HOLD"
    print(f"\n5 seeds at most {LIMITS[0]:g}×, 20 at most {LIMITS[1]:g}×, same bits: {verdict}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
