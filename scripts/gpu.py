"""Measure throughput on a GPU beside the matrix and copy ceilings of that GPU, by device events.

    python scripts/gpu.py results/gpu [--device cuda] [--rounds 5]     (bdlbench installed)

Writes OUT/throughput.md: the ceilings, by precision; training steps and predictives of LeNet-300-100 for growing
batches, until the chip is full; replicates of a small network; each precision's error against float64; a plain step as
a CUDA graph. Without a CUDA device every line says "not measured"; `--device cpu` measures the parts that run on a CPU.

Only operations of matrix products count, 2 for each multiply-add: 6 × weights × examples for a step (without the
gradient of the data), twice as many where mean and variance have a product each. Bytes are the least that a step must
move: parameters, gradients and both moments of Adam, read once, and all but the gradients written once.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn

from bdlbench import catalog
from bdlbench.core import files
from bdlbench.core.clock import timed_in_turn
from bdlbench.core.streams import Streams
from bdlbench.data.task import Data, Signature
from bdlbench.protocols import Posterior

NOT_MEASURED = "not measured"
SIZES = (784, 300, 100, 10)
SMALL = (13, 50, 1)
STEPS = 4
OPTIONS = {"mean_field_vi": {"bound_samples": 1}, "mc_dropout": {"input_rate": 0.0}}
PRODUCTS = {"mle": 1, "mc_dropout": 1, "mean_field_vi": 2, "sparse_vd": 2}


@dataclass(frozen=True)
class Extent:
    """The size of the measurement; a test uses a small one."""

    batches: tuple[int, ...] = (100, 1_000, 10_000, 100_000)
    replicates: tuple[int, ...] = (1, 10, 100, 1_000)
    samples: int = 100
    square: int = 8192
    copied: int = 1 << 28
    epochs: int = 5
    rounds: int = 5


@dataclass(frozen=True)
class Ceilings:
    """Operations per second of a large product, by precision, and bytes per second of a copy (read and written)."""

    matrix: dict[str, float]
    copy: float


@contextmanager
def float32_products(precision: str) -> Iterator[None]:
    """Set `torch.set_float32_matmul_precision` within a block."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


PRECISIONS: dict[str, Callable[[torch.device], AbstractContextManager[object]]] = {
    "float32": lambda device: nullcontext(),
    "tf32": lambda device: float32_products("high"),
    "bf16": lambda device: torch.autocast(device.type, torch.bfloat16),
}
"""Named options. tf32: products of float32 with 10 bits of mantissa; bf16: products by autocast."""


def drawn(shape: tuple[int, ...], device: torch.device, seed: int = 0) -> Tensor:
    """Return uniform numbers, the same on every device."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)).to(device)


def seconds(work: Callable[[], object], device: torch.device, rounds: int) -> float:
    """Return the median over rounds, after one round that warms up."""
    return median(timed_in_turn({"": work}, rounds, device)[""])


def ceilings(device: torch.device, extent: Extent) -> Ceilings:
    """Measure the ceilings of this device."""
    n = extent.square
    a, b = drawn((n, n), device), drawn((n, n), device, 1)
    matrix = {}
    for name, precision in PRECISIONS.items():
        with precision(device):
            matrix[name] = 2 * n**3 / seconds(lambda: a @ b, device, extent.rounds)
    source = torch.zeros(extent.copied, device=device)
    target = torch.empty_like(source)
    moved = 2 * source.numel() * source.element_size()
    return Ceilings(matrix, moved / seconds(lambda: target.copy_(source), device, extent.rounds))


def fitting(
    method: str, data: Data, batch: int, sizes: tuple[int, ...], likelihood: str, epochs: int
) -> Callable[[], Posterior]:
    """Return `fit` of a registered method as a call."""
    options = {method: {"epochs": epochs, "batch_size": batch, **OPTIONS.get(method, {})}}
    options["mlp"] = {"widths": "-".join(map(str, sizes[1:-1]))}
    model = catalog.build_model(
        [catalog.choice("models", "mlp", options)], Signature(tuple(data.x.shape[2:]), sizes[-1], likelihood)
    )
    trainer = catalog.build_method([catalog.choice("methods", method, options)])
    return lambda: trainer.fit(model, data, Streams.of_seeds(range(data.rows)))


def training_data(batch: int, sizes: tuple[int, ...], rows: int, device: torch.device) -> Data:
    """Return STEPS batches that all rows share, with classes or one number as targets."""
    x = drawn((STEPS * batch, sizes[0]), device)
    y = (x[:, 0] * sizes[-1]).long() if sizes[-1] > 1 else x[:, 0]
    return Data(x.expand(rows, *x.shape), y.expand(rows, *y.shape))


def weights(sizes: tuple[int, ...]) -> int:
    """Return the number of weights of all linear maps."""
    return sum(a * b for a, b in pairwise(sizes))


def of_the_limit(rate: float, operations: float, moved: float, limit: Ceilings, precision: str) -> str:
    """Return the fractions of the matrix and copy ceilings, for a rate of units with these operations and bytes."""
    return f"{rate * operations / limit.matrix[precision]:.1%} | {rate * moved / limit.copy:.1%}"


def step_lines(device: torch.device, extent: Extent, limit: Ceilings) -> Iterator[str]:
    """Time training of LeNet-300-100: examples per second, by method, batch and precision."""
    count = weights(SIZES)
    for method, products in PRODUCTS.items():
        for batch in extent.batches:
            data = training_data(batch, SIZES, 1, device)
            for precision, within in PRECISIONS.items():
                with within(device):
                    work = fitting(method, data, batch, SIZES, "categorical", extent.epochs)
                    spent = seconds(work, device, extent.rounds) / (STEPS * extent.epochs)
                operations = products * 2 * batch * (3 * count - SIZES[0] * SIZES[1])
                limits = of_the_limit(1 / spent, operations, 7 * 4 * products * count, limit, precision)
                yield f"{method} | {batch} | {precision} | {batch / spent:.4g} | {limits}"


def predictive_lines(device: torch.device, extent: Extent, limit: Ceilings) -> Iterator[str]:
    """Time predictives of LeNet-300-100: samples × examples per second."""
    data = training_data(100, SIZES, 1, device)
    for method, products in PRODUCTS.items():
        posterior = fitting(method, data, 100, SIZES, "categorical", 1)()
        samples = extent.samples if products > 1 or method == "mc_dropout" else 1
        for batch in extent.batches:
            x = drawn((1, batch, SIZES[0]), device)
            for precision, within in PRECISIONS.items():
                with within(device):
                    work = lambda x=x, p=posterior, m=samples: p.predict(x, m, Streams.of_seeds([0]))  # noqa: E731
                    rate = samples * batch / seconds(work, device, extent.rounds)
                limits = of_the_limit(rate, 2 * products * weights(SIZES), 0, limit, precision)
                yield f"{method} | {batch} × {samples} | {precision} | {rate:.4g} | {limits}"


def replicate_lines(device: torch.device, extent: Extent) -> Iterator[str]:
    """Time networks 13-50-1 at once: steps of networks per second."""
    for method in PRODUCTS:
        for rows in extent.replicates:
            data = training_data(32, SMALL, rows, device)
            work = fitting(method, data, 32, SMALL, "gaussian", extent.epochs)
            spent = seconds(work, device, extent.rounds) / (STEPS * extent.epochs)
            yield f"{method} | {rows} | {rows / spent:.4g}"


def network(device: torch.device, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    """Build LeNet-300-100 in plain torch from a fixed seed."""
    layers: list[nn.Module] = []
    for k, (inputs, outputs) in enumerate(pairwise(SIZES)):
        layer = nn.Linear(inputs, outputs)
        layer.weight.data = (drawn((outputs, inputs), torch.device("cpu"), k) - 0.5) * (24 / inputs) ** 0.5
        layer.bias.data.zero_()
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1]).to(device, dtype)


def error_lines(device: torch.device) -> Iterator[str]:
    """Measure the largest error of log-probabilities against float64, in nats, over a thousand inputs."""
    x = drawn((1000, SIZES[0]), device)
    with torch.inference_mode():
        exact = network(device, torch.float64)(x.double()).log_softmax(-1)
        for name, precision in PRECISIONS.items():
            with precision(device):
                found = network(device)(x)
            yield f"{name} | {(found.double().log_softmax(-1) - exact).abs().max():.2g}"


def graph_lines(device: torch.device, extent: Extent) -> Iterator[str]:
    """Time a plain training step at batch 100, alone and as one CUDA graph."""
    x = drawn((100, SIZES[0]), device)
    y, net = (x[:, 0] * SIZES[-1]).long(), network(device)
    on_gpu = device.type == "cuda"
    optimizer = torch.optim.Adam(net.parameters(), fused=True, capturable=on_gpu)

    def step() -> None:
        optimizer.zero_grad(set_to_none=False)
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()

    for _ in range(3):
        step()
    works: dict[str, Callable[[], object]] = {"plain step": step}
    if on_gpu:
        works["as a CUDA graph"] = captured(step).replay
    for name, spent in timed_in_turn(works, extent.rounds, device).items():
        yield f"{name} | {median(spent) * 1e6:.4g}"
    if not on_gpu:
        yield f"as a CUDA graph | {NOT_MEASURED}"


def captured(step: Callable[[], None]) -> torch.cuda.CUDAGraph:
    """Capture a step as a graph, warmed up on its own stream, as torch's notes require."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph


HEADS = {
    "Ceilings": ("what", "per second"),
    "Training, examples per second": ("method", "batch", "precision", "rate", "of the matrix ceiling", "of the copy"),
    "Prediction, samples × examples per second": ("method", "inputs × M", "precision", "rate", "of matrix", "of copy"),
    "Replicates of 13-50-1, steps of networks per second": ("method", "networks", "rate"),
    "Error of log-probabilities against float64": ("precision", "nats, at most"),
    "Step of batch 100": ("how", "µs"),
}


def measured(device: torch.device, extent: Extent) -> dict[str, list[str]]:
    """Return the lines of every table, in the order of HEADS."""
    limit = ceilings(device, extent)
    first = [f"product of {extent.square}², {name} | {rate:.4g} operations" for name, rate in limit.matrix.items()]
    found = [
        [*first, f"copy of {4 * extent.copied >> 20} MiB | {limit.copy:.4g} bytes"],
        list(step_lines(device, extent, limit)),
        list(predictive_lines(device, extent, limit)),
        list(replicate_lines(device, extent)),
        list(error_lines(device)),
        list(graph_lines(device, extent)),
    ]
    return dict(zip(HEADS, found, strict=True))


def document(where: str, tables: dict[str, list[str]]) -> str:
    """Return Markdown. Tables without lines say that nothing was measured."""
    text = f"# Throughput on {where}\n\n`python scripts/gpu.py results/gpu`, torch {torch.__version__}.\n"
    for title, heads in HEADS.items():
        text += f"\n## {title}\n\n| {' | '.join(heads)} |\n|{' --- |' * len(heads)}\n"
        lines = tables.get(title) or [" | ".join([NOT_MEASURED, *[""] * (len(heads) - 1)])]
        text += "".join(f"| {line} |\n" for line in lines)
    return text


def main(argv: list[str] | None = None) -> int:
    """Write the tables; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("out", type=Path, help="a folder")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--rounds", type=int, default=Extent.rounds)
    given = parser.parse_args(argv)
    if given.device == "cuda" and not torch.cuda.is_available():
        where, tables = "a GPU: none was at hand", {}
    else:
        device = torch.device(given.device)
        where = torch.cuda.get_device_name() if device.type == "cuda" else "a CPU"
        tables = measured(device, Extent(rounds=given.rounds))
    files.write_atomic(given.out / "throughput.md", document(where, tables).encode())
    print(document(where, tables))
    return 0


if __name__ == "__main__":
    sys.exit(main())
