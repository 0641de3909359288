"""Time ways to convolve for several networks at once on this machine, as a Markdown table.

    OMP_NUM_THREADS=1 python scripts/convolutions.py [BATCH]     (bdlbench installed)

The numbers are milliseconds per network of one forward and backward pass, medians of interleaved repetitions, for
layers of LeNet-5 and of the residual networks: one product, and the two of local reparameterisation (x with the means,
x² with the variances). The choice in `bdlbench.kernels.convolution.WAYS` rests on them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from statistics import median
from time import perf_counter

import torch
from torch import Tensor
from torch.nn import functional

from bdlbench.kernels.convolution import Conv2d, Convolution, image_last

ROWS = (1, 5, 20)
LAYERS = {
    "LeNet-5 conv1, 1→20, 5×5 on 28×28": (Conv2d(), (1, 28, 28), (20, 1, 5, 5)),
    "LeNet-5 conv2, 20→50, 5×5 on 12×12": (Conv2d(), (20, 12, 12), (50, 20, 5, 5)),
    "ResNet stem, 1→16, 5×5 stride 2 on 28×28": (Conv2d(2, 2), (1, 28, 28), (16, 1, 5, 5)),
    "ResNet layer, 16→16, 3×3 on 14×14": (Conv2d(padding=1), (16, 14, 14), (16, 16, 3, 3)),
}
"""Operation, shape of an image, shape of a weight. The first layer does not need the gradient of its images."""

Way = Callable[[Convolution, Tensor, Tensor], Tensor]


def grouped(op: Convolution, x: Tensor, weight: Tensor) -> Tensor:
    """Convolve once, with the rows as groups."""
    rows = len(x)
    out = functional.conv2d(x.transpose(0, 1).flatten(1, 2), weight.flatten(0, 1), None, *op.geometry[:2], groups=rows)
    return out.unflatten(1, (rows, -1)).transpose(0, 1)


def loop(op: Convolution, x: Tensor, weight: Tensor) -> Tensor:
    """Convolve row by row, with images in their usual memory order."""
    return torch.stack([functional.conv2d(a, w, None, *op.geometry[:2]) for a, w in zip(x, weight, strict=True)])


def channels_last(op: Convolution, x: Tensor, weight: Tensor) -> Tensor:
    """Convolve as the package does on a CPU."""
    return op(image_last(x), weight)


def folding(op: Convolution, x: Tensor, weight: Tensor) -> Tensor:
    """Convolve by im2col and one batched product."""
    rows, examples, _, height, width = x.shape
    k, stride, padding = weight.shape[-1], op.geometry.stride[0], op.geometry.padding[0]
    columns = functional.unfold(x.flatten(0, 1), k, padding=padding, stride=stride)  # (R·B, C·k², H'·W')
    side = (height + 2 * padding - k) // stride + 1, (width + 2 * padding - k) // stride + 1
    out = weight.flatten(2).unsqueeze(1) @ columns.unflatten(0, (rows, examples))
    return out.unflatten(-1, side)


WAYS: dict[str, Way] = {
    "grouped": grouped,
    "loop": loop,
    "loop, channels last": channels_last,
    "folding": folding,
}


def step(way: Way, op: Convolution, x: Tensor, weights: list[Tensor]) -> float:
    """Return seconds of the products' forward and backward pass."""
    started = perf_counter()
    images = [x, x.square()][: len(weights)]
    total = [way(op, image, weight) for image, weight in zip(images, weights, strict=True)]
    torch.autograd.backward(total, [part.detach() for part in total])
    return perf_counter() - started


def row_of(name: str, rows: int, products: int, batch: int) -> list[str]:
    """Return a line of the table: the layer, rows, products, and milliseconds per row by each way."""
    op, image, kernel = LAYERS[name]
    rng = torch.Generator().manual_seed(0)
    x = torch.rand(rows, batch, *image, generator=rng).requires_grad_(image[0] > 1)
    weights = [torch.randn(rows, *kernel, generator=rng).requires_grad_() for _ in range(products)]
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(3 + 20 // rows):
        for way, times in seconds.items():
            times.append(step(WAYS[way], op, x, weights))
    middle = {way: median(times[1:]) / rows * 1e3 for way, times in seconds.items()}
    best = min(middle.values())
    shown = [f"**{value:.2f}**" if value == best else f"{value:.2f}" for value in middle.values()]
    return [name, str(rows), str(products), *shown]


def main(batch: int) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    heads = ["layer", "R", "products", *WAYS]
    print("|", " | ".join(heads), "|")
    print("|", " | ".join("---" for _ in heads), "|")
    for name in LAYERS:
        for rows in ROWS:
            for products in (1, 2):
                print("|", " | ".join(row_of(name, rows, products, batch)), "|", flush=True)
    print(f"\nms per network; batch {batch}, torch {torch.__version__}, one thread, CPU")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
