"""A residual network that decides for each image after how many layers to stop, and its twin that never stops early."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import prod
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from bdlbench.core import memory
from bdlbench.core.clock import Stopwatch
from bdlbench.core.layout import Leaf, PerRow
from bdlbench.core.options import option
from bdlbench.core.streams import Streams
from bdlbench.data.task import Signature
from bdlbench.kernels.convolution import Conv2d, select_images
from bdlbench.kernels.halting import margin
from bdlbench.networks.blocks import affine, conv_leaves, convolution, dense_leaves, group_norm, norm_leaves, relu
from bdlbench.networks.depth_output import DepthModel, Exits, Expectation, StoppingOutput
from bdlbench.networks.layers import Point
from bdlbench.protocols import Layer

SAME = Conv2d(padding=1)
BATCHES = {1: 64, 256: 2}
"""Batch sizes that are timed, and how many batches of each."""
REPEATS = 5
"""How often the batches of one size are run, in turn with the full network; the median counts."""


class Stream(NamedTuple):
    """The sum x that a layer passes on, and a = relu(norm(x)), which the next layer and the head both read."""

    x: Tensor
    a: Tensor


@dataclass(frozen=True)
class Network:
    """Layers of one shape after a strided stem, with one head for every depth.

    H_l(x) = x + conv_l(relu(norm_{l−1}(x))). The head reads the cells × cells means of relu(norm_l(x)) through one
    hidden layer, so an exit costs two small dense maps. Group normalisation mixes no examples; its offset serves as the
    bias of the convolution before it.
    """

    signature: Signature
    channels: int
    blocks: int
    groups: int
    kernel: int
    stride: int
    cells: int
    hidden: int

    def unsupported(self) -> str | None:
        """Say why the signature cannot be fitted; None where it can."""
        if len(self.signature.input_shape) != 3:
            return f"it needs images, not inputs of shape {self.signature.input_shape}"
        if self.signature.likelihood != "categorical":
            return f"it has no {self.signature.likelihood} likelihood"
        if self.channels % self.groups:
            return f"its {self.groups} groups do not divide {self.channels} channels"
        return None if self.kernel % 2 else f"its kernel={self.kernel} is even: give an odd number"

    def leaves(self) -> dict[str, Leaf]:
        """Return stem, stem.norm, layer<l>, layer<l>.norm, hidden and head."""
        memory.refuse(self.blocks << 10, f"{self.blocks:,} layers")
        leaves = conv_leaves("stem", self.signature.input_shape[0], self.channels, self.kernel, first=True)
        leaves |= norm_leaves("stem.norm", self.channels)
        for name in self.layers():
            leaves[f"{name}.weight"] = Leaf((self.channels, self.channels, 3, 3), "weight", 9 * self.channels)
            leaves |= norm_leaves(f"{name}.norm", self.channels)
        leaves |= dense_leaves("hidden", self.channels * self.cells**2, self.hidden)
        return leaves | dense_leaves("head", self.hidden, self.signature.outputs)

    def layers(self) -> list[str]:
        """List the names of the layers, in order."""
        return [f"layer{i}" for i in range(1, self.blocks + 1)]

    def enter(self, layer: Layer, image: Tensor) -> Stream:
        """Apply the stem to images ([M,] R, B, C, H, W)."""
        stem = Conv2d(self.stride, self.kernel // 2)
        return self._stream(layer, "stem", convolution(layer, "stem", stem, image))

    def advance(self, layer: Layer, name: str, stream: Stream) -> Stream:
        """Apply one more layer."""
        return self._stream(layer, name, stream.x + layer(f"{name}.weight", SAME, stream.a))

    def head(self, layer: Layer, stream: Stream) -> Tensor:
        """Return the class logits at this depth, ([M,] R, B, C)."""
        a = stream.a
        means = adaptive_avg_pool2d(a.reshape(-1, *a.shape[-3:]), self.cells)
        return affine(layer, "head", relu(affine(layer, "hidden", means.reshape(*a.shape[:-3], -1))))

    def full(self, layer: Layer, image: Tensor) -> Tensor:
        """Return the class logits after all layers."""
        stream = self.enter(layer, image)
        for name in self.layers():
            stream = self.advance(layer, name, stream)
        return self.head(layer, stream)

    def flops(self, layers: int, heads: int) -> int:
        """Return the FLOPs for one image of the stem and these many layers and heads.

        2 for each multiply-add, nothing else.
        """
        colours, *size = self.signature.input_shape
        area = prod(-(-side // self.stride) for side in size)  # positions after the stem
        stem, layer = area * self.channels * colours * self.kernel**2, area * self.channels**2 * 9
        head = self.hidden * (self.channels * self.cells**2 + self.signature.outputs)
        return 2 * (stem + layers * layer + heads * head)

    def _stream(self, layer: Layer, name: str, x: Tensor) -> Stream:
        return Stream(x, group_norm(layer, f"{name}.norm", x, self.groups, rectified=True))


@dataclass(frozen=True)
class StoppingResNet:
    """Residual network with a latent number of layers z for each image, from halting probabilities along the way.

    H_l(x) = [l ≤ z] F_l(x) + x, with a prior that prefers few layers and q(z = l | x) = h_l Π_{j<l} (1 − h_j)
    (Figurnov, Sobolev & Vetrov 2017). One shared head gives class logits at every depth. The halting logit there is
    scale · margin + bias_l, with the margin between the two most probable classes. The decision reads the logits and
    does not shape them: a halting unit of its own would learn from training images, on which every exit is right in the
    end, and would stop blindly on other images. entropy_weight = 1 trains by the ELBO, 0 by the paper's amortised MAP.
    """

    signature: Signature
    channels: int = option(16, "channels of every layer", low=1)
    blocks: int = option(6, "layers, L", low=1)
    groups: int = option(4, "groups of the normalisation; divides the channels", low=1)
    kernel: int = option(5, "width of the stem's kernel, odd", low=1)
    stride: int = option(2, "stride of the stem", low=1)
    cells: int = option(2, "the head reads means over cells × cells parts of the image", low=1)
    hidden: int = option(32, "units of the head's hidden layer", low=1)
    strength: PerRow = option(0.1, "nats that the prior takes for each further layer", low=0, high=100)
    entropy_weight: PerRow = option(1.0, "of q(z)'s entropy: 1 is the ELBO, 0 amortised MAP", low=0, high=1)
    exploration: PerRow = option(0.0, "share of the prior in the posterior that is trained", low=0, high=1)
    first_halting: PerRow = option(-2.0, "halting logit where two classes are equal, before training", low=-30, high=30)
    expectation: Expectation = option("exact", "over q(z) in training", choices=("exact", "sampled"))
    temperature: PerRow = option(0.5, "of the sampled, relaxed depth", low=0, high=100, open_ends=True)

    @property
    def network(self) -> Network:
        """The layers and the head."""
        return _network(self)

    def unsupported(self) -> str | None:
        """Say why the signature cannot be fitted; None where it can."""
        return self.network.unsupported()

    def leaves(self) -> dict[str, Leaf]:
        """Return the leaves of the network, and of the halting logit: halting.scale (1), halting.bias (L)."""
        halting = {"halting.scale": Leaf((1,), "scale", 1), "halting.bias": Leaf((self.blocks,), "bias", 1)}
        return self.network.leaves() | halting

    def __call__(self, layer: Layer, x: Tensor, rng: Streams) -> StoppingOutput:
        """Compute all depths of x ([M,] R, B, C, H, W) in one pass."""
        net, said = self.network, []
        stream = net.enter(layer, x)
        for name in net.layers():
            stream = net.advance(layer, name, stream)
            said.append(net.head(layer, stream))
        logits = torch.stack(said, -1)  # ([M,] R, B, C, L)
        scale, bias = self._halting(layer)
        halting = scale.unsqueeze(-2) * margin(logits.detach(), -2) + bias.unsqueeze(-2)  # ([M,] R, B, L)
        depth = DepthModel(self.strength, self.entropy_weight, self.exploration, self.expectation, self.temperature)
        return StoppingOutput(logits, halting[..., :-1], depth, self.exits(), rng)

    def _halting(self, layer: Layer) -> tuple[Tensor, Tensor]:
        """Return scale ([M,] R, 1) and bias ([M,] R, L) of the halting logit."""
        bias = layer.leaf("halting.bias")
        return 1 + layer.leaf("halting.scale"), bias + torch.as_tensor(self.first_halting).to(bias).reshape(-1, 1)

    def exits(self) -> Exits:
        """Return one exit after each layer."""
        depths = tuple(range(1, self.blocks + 1))
        return Exits(depths, tuple(self.network.flops(d, d) for d in depths), self.network.flops(self.blocks, 1))

    def stopper(self, leaves: Mapping[str, Tensor], first: float) -> Stopper:
        """Return ONE network of these leaves {name: (*S)}, with its `first_halting`, ready to predict."""
        layer = Point({name: leaf.unsqueeze(0) for name, leaf in leaves.items()})
        scale, bias = (part[0].tolist() for part in replace(self, first_halting=first)._halting(layer))
        return Stopper(self.network, layer, scale[0], tuple(bias))

    def measured(self, layer: Layer, x: Tensor) -> dict[str, Tensor]:
        """Return `speedup[B]` (R,): seconds of the plain network over seconds of stopping, for batches of B images.

        The plain network computes all layers. It is measured on the first examples of x (R, N, …) with one network: a
        weight sample, or the weights without masks.
        """
        leaves = {name: layer.leaf(name).reshape(-1, *leaf.shape) for name, leaf in self.leaves().items()}
        first = torch.as_tensor(self.first_halting, dtype=torch.float64).expand(len(x)).tolist()
        rows = [self.stopper({name: leaf[r] for name, leaf in leaves.items()}, first[r]) for r in range(len(x))]
        return {
            f"speedup[{size}]": torch.tensor([_speedup(*row, size) for row in zip(rows, x, strict=True)])
            for size in BATCHES
        }


@dataclass(frozen=True)
class ConstantResNet:
    """The residual network of `stopping_resnet` that always uses all its layers, with a head after the last only."""

    signature: Signature
    channels: int = option(16, "channels of every layer", low=1)
    blocks: int = option(6, "layers", low=1)
    groups: int = option(4, "groups of the normalisation; divides the channels", low=1)
    kernel: int = option(5, "width of the stem's kernel, odd", low=1)
    stride: int = option(2, "stride of the stem", low=1)
    cells: int = option(2, "the head reads means over cells × cells parts of the image", low=1)
    hidden: int = option(32, "units of the head's hidden layer", low=1)

    @property
    def network(self) -> Network:
        """The layers and the head."""
        return _network(self)

    def unsupported(self) -> str | None:
        """Say why the signature cannot be fitted; None where it can."""
        return self.network.unsupported()

    def leaves(self) -> dict[str, Leaf]:
        """Return the leaves of the network."""
        return self.network.leaves()

    def __call__(self, layer: Layer, x: Tensor, rng: Streams) -> StoppingOutput:
        """Compute the single exit of x ([M,] R, B, C, H, W). It states depth and FLOPs, as `stopping_resnet` does."""
        logits = self.network.full(layer, x)
        flops = self.network.flops(self.blocks, 1)
        exits = Exits((self.blocks,), (flops,), flops)
        return StoppingOutput(logits.unsqueeze(-1), logits[..., :0], DepthModel(0.0), exits, rng)


@dataclass(frozen=True)
class Stopper:
    """One network that really stops: an example whose exit is known leaves the batch.

    Attributes:
        network: The layers and the head.
        layer: The layer rule, with leaves (1, *S).
        scale: Scale of the halting logit.
        bias: Bias of the halting logit at each depth.
    """

    network: Network
    layer: Layer
    scale: float
    bias: tuple[float, ...]

    def __call__(self, x: Tensor, noise: Tensor | None = None) -> Stopped:
        """Predict x (B, C, H, W) by q_mode, or by q_sample where standard logistic noise (B, L − 1) is given.

        Exits are the same as those of all depths at once, and logits are the same up to rounding.
        """
        net, alive = self.network, [_Way() for _ in range(len(x))]
        ways, said, passed = alive, [], 0
        stream = net.enter(self.layer, x.unsqueeze(0))
        for depth, name in enumerate(net.layers(), start=1):
            stream = net.advance(self.layer, name, stream)
            logits = net.head(self.layer, stream)[0]  # (b, C) of the b examples that have not left
            halts = enumerate(zip(alive, self._halts(logits, depth, noise), strict=True), start=passed)
            stay = [place - passed for place, (way, halt) in halts if way.on(halt, depth, place)]
            said.append(logits)
            passed += len(logits)
            if not stay:
                break
            if len(stay) < len(alive):
                index, alive = torch.tensor(stay, device=x.device), [alive[i] for i in stay]
                stream = Stream(*(select_images(t, index) for t in stream))
                noise = None if noise is None else noise.index_select(0, index)
        chosen = torch.tensor([way.position for way in ways], device=x.device)
        depths, layers = torch.tensor([[way.depth for way in ways], [way.layers for way in ways]])
        return Stopped(torch.cat(said).index_select(0, chosen), depths, layers)

    def _halts(self, logits: Tensor, depth: int, noise: Tensor | None) -> list[float]:
        """Return the probability of each example to halt at this depth, 1 at the last; 0 or 1 where noise decides."""
        if depth == self.network.blocks:
            return [1.0] * len(logits)
        halting = margin(logits) * self.scale + self.bias[depth - 1]
        return (halting.sigmoid() if noise is None else (halting + noise[:, depth - 1] > 0).float()).tolist()


class Stopped(NamedTuple):
    """The result for each example: logits (N, C) at its exit, the exit's depth, and the layers computed, (N,) int64."""

    logits: Tensor
    depth: Tensor
    layers: Tensor


@dataclass
class _Way:
    """The progress of one example: P(z > l), and q(z), depth and place among the answers of its best exit so far.

    Plain numbers: for one example at a time, tensors of one element would cost more than a layer.
    """

    left: float = 1.0
    best: float = -1.0
    depth: int = 0
    position: int = 0
    layers: int = 0

    def on(self, halt: float, depth: int, position: int) -> bool:
        """Pass one exit with its halting probability; tell whether a later exit could still be more probable."""
        q = self.left * halt
        if q > self.best:
            self.best, self.depth, self.position = q, depth, position
        self.left, self.layers = self.left - q, depth
        return self.left > self.best


def _network(model: StoppingResNet | ConstantResNet) -> Network:
    shape = (model.channels, model.blocks, model.groups, model.kernel, model.stride, model.cells, model.hidden)
    return Network(model.signature, *shape)


def _speedup(stopper: Stopper, x: Tensor, size: int) -> float:
    """Return seconds of the plain network over seconds of stopping on the first batches of x (N, …), timed in turn."""
    batches = x[: size * BATCHES[size]].split(size)

    def full() -> None:
        for batch in batches:
            stopper.network.full(stopper.layer, batch.unsqueeze(0))

    def stopping() -> None:
        for batch in batches:
            stopper(batch)

    with torch.inference_mode():
        ratios = [_seconds(full, x) / _seconds(stopping, x) for _ in range(REPEATS + 1)]
    return median(ratios[1:])


def _seconds(work: Callable[[], None], like: Tensor) -> float:
    watch = Stopwatch(like.device)
    work()
    return watch.seconds()


models = {"stopping_resnet": StoppingResNet, "constant_resnet": ConstantResNet}
