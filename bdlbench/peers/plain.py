"""Plain torch: the deterministic baselines, and Bayesian networks written with autograd alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from bdlbench.kernels.kl import K1, K2, K3, LOG_ALPHA_LIMIT
from bdlbench.peers.work import Contender, Run

Loss = Callable[[Tensor, Tensor], Tensor]
MakeLinear = Callable[[int, int], nn.Module]

LENET_SIZES = (784, 300, 100, 10)
"""LeNet-300-100 (LeCun et al. 1998)."""

SMALL_SIZES = (13, 50, 1)
"""A network for a UCI regression set."""

RATE = 1e-3
PRIOR_SD = 1.0
INITIAL_LOG_SD = -5.0


@dataclass(frozen=True)
class Batches:
    """Random examples in `steps` batches an epoch.

    Attributes:
        batch: Examples in a batch.
        steps: Batches in an epoch.
        inputs: D.
        classes: Classes of y; 0 for numbers.
        x: Inputs (N, D), uniform.
        y: Targets (N,).
    """

    batch: int
    steps: int
    inputs: int = LENET_SIZES[0]
    classes: int = LENET_SIZES[-1]
    x: Tensor = field(init=False, compare=False)
    y: Tensor = field(init=False, compare=False)

    def __post_init__(self) -> None:
        """Draw the examples from a fixed seed."""
        generator = torch.Generator().manual_seed(0)
        total = self.batch * self.steps
        object.__setattr__(self, "x", torch.rand(total, self.inputs, generator=generator))
        y = torch.randint(max(self.classes, 2), (total,), generator=generator)
        object.__setattr__(self, "y", y if self.classes else y.float())

    @property
    def num_data(self) -> int:
        """N."""
        return len(self.x)


batches = cache(Batches)
"""Batches of a size, drawn once."""


def adam(parameters: Iterable[Tensor], fused: bool = True) -> torch.optim.Optimizer:
    """Return Adam with torch's defaults, or fused, which makes one pass over each parameter."""
    return torch.optim.Adam(parameters, lr=RATE, fused=True if fused else None)


def trained(loss: Loss, parameters: Iterable[Tensor], data: Batches, epochs: int, fused: bool = True) -> Run:
    """Return the usual training loop: shuffle, index, loss (x, y) -> (), backward, step."""
    optimizer, generator = adam(list(parameters), fused), torch.Generator().manual_seed(1)

    def run() -> None:
        for _ in range(epochs):
            for index in torch.randperm(data.num_data, generator=generator).split(data.batch):
                optimizer.zero_grad()
                loss(data.x[index], data.y[index]).backward()
                optimizer.step()

    return run


def network(linear: MakeLinear = nn.Linear, sizes: Sequence[int] = LENET_SIZES, rate: float = 0.0) -> nn.Sequential:
    """Build a ReLU network of these linear layers; a positive `rate` is the dropout rate of hidden units."""
    layers: list[nn.Module] = [linear(sizes[0], sizes[1])]
    for inputs, outputs in pairwise(sizes[1:]):
        layers += [nn.ReLU(), *([nn.Dropout(rate)] if rate else []), linear(inputs, outputs)]
    return nn.Sequential(*layers)


def misfit(out: Tensor, y: Tensor) -> Tensor:
    """Return the mean negative log-likelihood of classes, or of numbers under N(out, 1) up to a constant."""
    if y.is_floating_point():
        return 0.5 * functional.mse_loss(out.squeeze(-1), y)
    return functional.cross_entropy(out, y)


class LocalLinear(nn.Module):
    """A dense layer with a Gaussian for every weight, by local reparameterisation; prior N(0, PRIOR_SD²)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        """Initialise the means as in He et al. 2015."""
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, generator=generator) * (2 / inputs) ** 0.5)
        self.weight_log_sd = nn.Parameter(torch.full((outputs, inputs), INITIAL_LOG_SD))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.bias_log_sd = nn.Parameter(torch.full((outputs,), INITIAL_LOG_SD))
        self.noise = torch.Generator().manual_seed(2)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, I) to (B, O)."""
        mean = functional.linear(x, self.weight, self.bias)
        variance = functional.linear(x.square(), (2 * self.weight_log_sd).exp(), (2 * self.bias_log_sd).exp())
        return mean + (variance + 1e-16).sqrt() * torch.randn(mean.shape, generator=self.noise)

    def kl(self) -> Tensor:
        """Return KL(q ‖ prior) in nats, ()."""
        pairs = ((self.weight, self.weight_log_sd), (self.bias, self.bias_log_sd))
        terms = [(0.5 * (m.square() + (2 * s).exp()) / PRIOR_SD**2 - 0.5 - s).sum() for m, s in pairs]
        return terms[0] + terms[1]


class SparseLinear(nn.Module):
    """Sparse variational dropout (Molchanov et al. 2017) as in the authors' code: means and log variances."""

    def __init__(self, inputs: int, outputs: int) -> None:
        """Initialise the means as in He et al. 2015."""
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, generator=generator) * (2 / inputs) ** 0.5)
        self.log_variance = nn.Parameter(torch.full((outputs, inputs), -10.0))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.noise = torch.Generator().manual_seed(2)

    def log_alpha(self) -> Tensor:
        """Return log α, clipped."""
        ratio = self.log_variance - (self.weight.square() + 1e-16).log()
        return ratio.clamp(-LOG_ALPHA_LIMIT, LOG_ALPHA_LIMIT)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, I) to (B, O)."""
        mean = functional.linear(x, self.weight, self.bias)
        variance = functional.linear(x.square(), self.log_variance.exp())
        return mean + (variance + 1e-16).sqrt() * torch.randn(mean.shape, generator=self.noise)

    def kl(self) -> Tensor:
        """Return KL(q ‖ log-uniform) in nats up to a constant, (): eq. 14."""
        alpha = self.log_alpha()
        total: Tensor = (K1 - K1 * torch.sigmoid(K2 + K3 * alpha) + 0.5 * functional.softplus(-alpha)).sum()
        return total


def elbo_step(
    linear: MakeLinear, data: Batches, epochs: int, sizes: Sequence[int] = LENET_SIZES, fused: bool = True
) -> Run:
    """Train a network of layers with a method `kl`."""
    net = network(linear, sizes)
    layers: list[Any] = [layer for layer in net if hasattr(layer, "kl")]

    def loss(x: Tensor, y: Tensor) -> Tensor:
        kl: Tensor = sum(layer.kl() for layer in layers)
        return misfit(net(x), y) + kl / data.num_data

    return trained(loss, net.parameters(), data, epochs, fused)


def network_step(data: Batches, epochs: int, fused: bool, sizes: Sequence[int] = LENET_SIZES, rate: float = 0.0) -> Run:
    """Train a deterministic network, or one with dropout."""
    net = network(sizes=sizes, rate=rate)
    return trained(lambda x, y: misfit(net(x), y), net.parameters(), data, epochs, fused)


IMAGE, SEQUENCE, MODULE_CLASSES = (3, 32, 32), (16, 16), 10


def image_module(rate: float = 0.0) -> nn.Module:
    """Return a small CNN with BatchNorm, as people write it, for images (B, 3·32·32); `rate` is that of its dropout."""
    dropout = [nn.Dropout(rate)] if rate else []
    return nn.Sequential(
        nn.Unflatten(1, IMAGE),
        *(
            nn.Conv2d(3, 16, 3, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            *dropout,
        ),
        *(nn.Conv2d(16, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
        *(*dropout, nn.Flatten(), nn.Linear(32 * 64, MODULE_CLASSES)),
    )


class SequenceModule(nn.Module):
    """A classifier of sequences (B, 16·16) by torch's transformer encoder of two layers, without dropout."""

    def __init__(self) -> None:
        super().__init__()
        block = nn.TransformerEncoderLayer(64, 4, 128, dropout=0.0, batch_first=True)
        self.embed, self.encoder = nn.Linear(SEQUENCE[1], 64), nn.TransformerEncoder(block, 2, None, False)
        self.head = nn.Linear(64, MODULE_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, C)."""
        out: Tensor = self.head(self.encoder(self.embed(x.unflatten(1, SEQUENCE))).mean(1))
        return out


def module_step(make: Callable[[], nn.Module], data: Batches, epochs: int, fused: bool) -> Run:
    """Train a module by a hand-written loop."""
    net = make().train()
    return trained(lambda x, y: misfit(net(x), y), net.parameters(), data, epochs, fused)


def forward_passes(x: Callable[[], Tensor], passes: int, make: Callable[[], nn.Module] = network) -> Run:
    """Run the deterministic network on the same inputs `passes` times."""
    net, inputs = make().eval(), x()

    def run() -> None:
        with torch.inference_mode():
            for _ in range(passes):
                net(inputs)

    return run


def averaged(net: nn.Module, x: Callable[[], Tensor], passes: int) -> Run:
    """Average class probabilities over passes of a stochastic network, in the usual loop."""
    inputs = x()
    for layer in net.modules():  # BatchNorm predicts by its running statistics
        layer.train(not isinstance(layer, nn.modules.batchnorm._BatchNorm))

    def run() -> Tensor:
        with torch.inference_mode():
            total: Tensor = net(inputs).softmax(-1)
            for _ in range(passes - 1):
                total += net(inputs).softmax(-1)
            return total / passes

    return run


class ExampleVAE(nn.Module):
    """The network of PyTorch's examples (github.com/pytorch/examples, vae/main.py), 784-400-20."""

    def __init__(self) -> None:
        """Make the layers, with the example's names."""
        super().__init__()
        self.fc1, self.fc21, self.fc22 = nn.Linear(784, 400), nn.Linear(400, 20), nn.Linear(400, 20)
        self.fc3, self.fc4 = nn.Linear(20, 400), nn.Linear(400, 784)
        self.noise = torch.Generator().manual_seed(2)

    def forward(self, x: Tensor) -> Tensor:
        """Return −ELBO summed over the batch, (), for x (B, 784) in 0 … 1."""
        hidden = self.fc1(x).relu()
        mean, log_variance = self.fc21(hidden), self.fc22(hidden)
        z = mean + (0.5 * log_variance).exp() * torch.randn(mean.shape, generator=self.noise)
        pixels = self.fc4(self.fc3(z).relu()).sigmoid()
        misfit = functional.binary_cross_entropy(pixels, x, reduction="sum")
        loss: Tensor = misfit - 0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum()
        return loss


def vae_step(data: Batches, epochs: int, fused: bool) -> Run:
    """Train the example VAE."""
    vae = ExampleVAE()
    return trained(lambda x, y: vae(x), vae.parameters(), data, epochs, fused)


def one_after_another(build: Callable[[], Run], networks: int) -> Run:
    """Train networks of the same kind in turn."""
    runs = [build() for _ in range(networks)]

    def run() -> None:
        for each in runs:
            each()

    return run


class Stacked(nn.Module):
    """R dense layers with separate weights at once, (R, B, I) -> (R, B, O), by a batched product."""

    def __init__(self, rows: int, inputs: int, outputs: int, local: bool = False) -> None:
        """Initialise the layers; `local` gives each weight a Gaussian, by local reparameterisation."""
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(rows, inputs, outputs, generator=generator) * (2 / inputs) ** 0.5)
        self.bias = nn.Parameter(torch.zeros(rows, 1, outputs))
        if local:
            self.weight_log_sd = nn.Parameter(torch.full_like(self.weight, INITIAL_LOG_SD))
            self.bias_log_sd = nn.Parameter(torch.full_like(self.bias, INITIAL_LOG_SD))
        self.local, self.noise = local, torch.Generator().manual_seed(2)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (R, B, I) to (R, B, O)."""
        mean = torch.baddbmm(self.bias, x, self.weight)
        if not self.local:
            return mean
        variance = torch.baddbmm((2 * self.bias_log_sd).exp(), x.square(), (2 * self.weight_log_sd).exp())
        return mean + (variance + 1e-16).sqrt() * torch.randn(mean.shape, generator=self.noise)

    def kl(self) -> Tensor:
        """Return KL(q ‖ prior) summed over all R, ()."""
        if not self.local:
            return torch.zeros(())
        pairs = ((self.weight, self.weight_log_sd), (self.bias, self.bias_log_sd))
        terms = [(0.5 * (m.square() + (2 * s).exp()) / PRIOR_SD**2 - 0.5 - s).sum() for m, s in pairs]
        return terms[0] + terms[1]


def stacked_step(rows: int, data: Batches, epochs: int, local: bool, rate: float) -> Run:
    """Train R small networks at once, each on its own shuffle."""
    layer = partial(Stacked, rows, local=local)
    net = network(layer, SMALL_SIZES, rate)
    layers: list[Any] = [each for each in net if isinstance(each, Stacked)]
    optimizer, generator = adam(net.parameters()), torch.Generator().manual_seed(1)

    def run() -> None:
        for _ in range(epochs):
            order = torch.stack([torch.randperm(data.num_data, generator=generator) for _ in range(rows)])
            for index in order.split(data.batch, dim=1):
                optimizer.zero_grad()
                loss = 0.5 * (net(data.x[index]).squeeze(-1) - data.y[index]).square().mean(-1).sum()
                if local:
                    loss = loss + sum(each.kl() for each in layers) / data.num_data
                loss.backward()
                optimizer.step()

    return run


def baselines(build: Callable[[int, bool], Run], library: str = "plain torch") -> tuple[Contender, Contender]:
    """Return two contenders for the same training: default and fused Adam. The builder is build(epochs, fused)."""
    return (
        Contender(library, lambda count: build(count, False), "default Adam"),
        Contender(library, lambda count: build(count, True), "fused Adam"),
    )
