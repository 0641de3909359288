"""The curvature of a log joint density around one replicate's weights, and the slope of what a network gives.

Each example is a row of its own, so the replicate axis gives the gradient of every example.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from bdlbench.core.errors import BadInput
from bdlbench.core.layout import Layout, LinearOp
from bdlbench.core.streams import Streams
from bdlbench.data.task import Data
from bdlbench.kernels.convolution import Geometry
from bdlbench.networks.layers import Point
from bdlbench.protocols import HasFisher, HasLocation, Layer, Model, Output, Prior

BLOCK = 64
"""Examples whose gradients are held at once; a change of it changes bits."""

MOST_NUMBERS = 1 << 26
"""Numbers of such gradients that are held at once, 256 MiB: of a network of a million weights a whole block."""


def point_output(model: Model, layout: Layout, flat: Tensor, x: Tensor) -> Output:
    """Return the output of the networks `flat` (R, P) on x (R, B, …), where the output has no latent.

    Nothing is drawn: the streams are those of one posterior sample, so that the network predicts and does not train.
    """
    return _output(model, Point(layout.views(flat)), x)


def linear_maps(model: Model, layout: Layout, x: Tensor) -> list[Tap]:
    """List the uses of linear maps in a network, in the order in which it applies them.

    Args:
        model: The model.
        layout: Where each leaf lies in a row.
        x: Inputs (1, B, …).

    Returns:
        What goes into each map where all parameters are 0.
    """
    rule = Tapped(layout.views(torch.zeros(1, layout.width).to(x)))
    _output(model, rule, x)
    return rule.taps


def other_uses(model: Model, layout: Layout, maps: Sequence[Tap], x: Tensor) -> list[str]:
    """Name the weights and biases of linear maps that a network also uses in another way, as tied weights are.

    Args:
        model: The model.
        layout: Where each leaf lies in a row.
        maps: Its uses of linear maps.
        x: Inputs (1, B, …).

    Returns:
        Names of leaves.
    """
    flat = torch.full((1, layout.width), 0.1).to(x)
    leaves = {name: value.clone().requires_grad_() for name, value in layout.views(flat).items()}
    names = list(dict.fromkeys(name for one in maps for name in (one.weight, one.bias) if name))
    with torch.enable_grad():
        output = _output(model, _WithoutMaps(leaves), x)
        target, _ = next(iter(_fisher(output).fisher_targets()))
        total = output.elbo(target).sum()
        if not total.requires_grad:
            return []
        slopes: tuple[Tensor | None, ...] = torch.autograd.grad(
            total, [leaves[name] for name in names], allow_unused=True
        )
    return [name for name, slope in zip(names, slopes, strict=True) if slope is not None]


def is_factored(op: LinearOp) -> bool:
    """Tell whether the curvature of a linear map has known Kronecker factors: of a dense map or a convolution."""
    return op.trailing == 2 or isinstance(getattr(op, "geometry", None), Geometry)


def fisher_information(
    model: Model, layout: Layout, flat: Tensor, data: Data, diagonal: bool, part: Layout | None = None
) -> Tensor:
    """Return Σ_n E ∇log p(y | x_n) ∇log p(y | x_n)ᵀ of the one network `flat` (1, P), for some of its leaves.

    This is the generalised Gauss-Newton matrix Σ_n J_nᵀ H_n J_n for likelihoods that are exponential families of the
    network's output (Martens 2020, §9.2); on a linear model it is the Hessian.

    Args:
        model: The model.
        layout: Where each leaf lies in a row.
        flat: The network, (1, P).
        data: The examples.
        diagonal: Whether the diagonal is enough.
        part: The leaves that are asked for; None for all.

    Returns:
        float64 (p, p), or its diagonal (p,), without padding.

    Raises:
        TypeError: The output has no known Fisher information.
    """
    part = layout if part is None else part
    size = part.num_parameters
    total = flat.new_zeros((size,) if diagonal else (size, size), dtype=torch.float64)
    for x in _blocks(data, part.width):
        rows = _part_of(layout, part, flat).expand(len(x), -1).clone().requires_grad_()
        output = _output(model, Point({**layout.views(flat.expand(len(x), -1)), **part.views(rows)}), x)
        for target, weight in _fisher(output).fisher_targets():
            (gradient,) = torch.autograd.grad(output.elbo(target).sum(), rows, retain_graph=True)
            scaled = part.packed(gradient).double() * weight.double().sqrt()  # (B, p)
            total += scaled.square().sum(0) if diagonal else scaled.mT @ scaled
    return total


class KroneckerFactors(NamedTuple):
    """The Kronecker factors of a leaf's curvature, G ⊗ A, by eigenvalues and eigenvectors, in each of g groups.

    A leaf is (g, o, i): g groups of o outputs and i inputs, of which a dense map has one. A bias has no A, and a leaf
    that is in no linear map has only the diagonal of its curvature, as the eigenvalues of G.

    Attributes:
        values: Eigenvalues of G, (g, o).
        vectors: Eigenvectors of G in columns, (g, o, o); None for a diagonal.
        in_values: Eigenvalues of A, (g, i), or None.
        in_vectors: Eigenvectors of A in columns, (g, i, i), or None.
    """

    values: Tensor
    vectors: Tensor | None = None
    in_values: Tensor | None = None
    in_vectors: Tensor | None = None


def kronecker_factors(
    model: Model, layout: Layout, part: Layout, flat: Tensor, data: Data
) -> dict[str, KroneckerFactors]:
    """Return the Kronecker-factored curvature of some leaves of the one network `flat` (1, P).

    For the weight of a linear map with inputs a and pre-activations s, Σ_n E ∇∇ᵀ ≈ G ⊗ A with A = mean a aᵀ and G = Σ
    E (∂log p/∂s)(∂log p/∂s)ᵀ (Martens & Grosse 2015; Botev et al. 2017). Means and sums are over examples, and over the
    positions of a convolution or a sequence (Grosse & Martens 2016). A bias has G alone. Leaves that are in no linear
    map, such as gains, have the diagonal of their curvature.

    Args:
        model: The model.
        layout: Where each leaf lies in a row.
        part: The leaves that are asked for.
        flat: The network, (1, P).
        data: The examples.

    Returns:
        KroneckerFactors by leaf, float64.

    Raises:
        TypeError: The output has no known Fisher information.
    """
    maps = linear_maps(model, layout, data.x[:1, :1])
    of_maps = {name for one in maps for name in (one.weight, one.bias)}
    loose = [name for name, leaf in part.leaves.items() if name not in of_maps and leaf.role != "buffer"]
    grams: dict[str, Tensor] = {}  # Σ a aᵀ of a weight, (g, i, i)
    slopes: dict[str, Tensor] = {}  # G of a weight or bias, (g, o, o); of a loose leaf its diagonal, (1, o)
    positions: Counter[str] = Counter()
    for x in _blocks(data, layout.width):
        leaves = layout.views(flat.expand(len(x), -1))
        leaves |= {name: leaves[name].clone().requires_grad_() for name in loose}
        rule = Tapped(leaves, part.leaves.keys())
        output = _output(model, rule, x)
        uses = _uses(rule.taps, len(x))
        for tap in (use[0]._replace(x=torch.cat([tap.x for tap in use])) for use in uses):
            inputs = _inputs(tap, layout.leaves[tap.weight].shape)  # (g, b, i)
            grams[tap.weight] = grams.get(tap.weight, 0.0) + inputs.mT @ inputs
            positions[tap.weight] += inputs.shape[1]
        wanted = [*(tap.zeros for use in uses for tap in use), *(leaves[name] for name in loose)]
        for target, weight in _fisher(output).fisher_targets():
            found = torch.autograd.grad(
                output.elbo(target).sum(), wanted, retain_graph=True, allow_unused=True, materialize_grads=True
            )
            pieces = iter(found)
            joined = [torch.cat([next(pieces) for _ in use]) for use in uses]
            scaled = [
                one.double() * weight.double().sqrt().reshape(-1, *(1,) * (one.ndim - 1)) for one in [*joined, *pieces]
            ]
            for use, slope in zip(uses, scaled, strict=False):
                outer = _slopes(use[0], slope)  # (g, b, o)
                for name in filter(None, (use[0].weight, use[0].bias)):
                    slopes[name] = slopes.get(name, 0.0) + outer.mT @ outer
            for name, slope in zip(loose, scaled[len(uses) :], strict=True):
                slopes[name] = slopes.get(name, 0.0) + slope.flatten(1).square().sum(0, keepdim=True)
    factors = {}
    for name in (name for name, leaf in part.leaves.items() if leaf.role != "buffer"):
        if name in loose:
            factors[name] = KroneckerFactors(slopes[name])
        elif name in grams:
            factors[name] = KroneckerFactors(*_spectrum(slopes[name]), *_spectrum(grams[name] / positions[name]))
        else:
            factors[name] = KroneckerFactors(*_spectrum(slopes[name]))
    return factors


def jacobian(model: Model, layout: Layout, part: Layout, flat: Tensor, x: Tensor) -> Tensor:
    """Return the slope of the output's location in some leaves of the one network `flat` (1, P).

    Args:
        model: The model, whose output has a location.
        layout: Where each leaf lies in a row.
        part: The leaves that are asked for.
        flat: The network, (1, P).
        x: Inputs (B, …).

    Returns:
        ∂ location / ∂ w, (B, C, p).
    """
    rows = _part_of(layout, part, flat).expand(len(x), -1).clone().requires_grad_()
    with torch.enable_grad():
        output = _output(
            model, Point({**layout.views(flat.expand(len(x), -1)), **part.views(rows)}), x.unsqueeze(1).clone()
        )
        assert isinstance(output, HasLocation)
        slopes = [torch.autograd.grad(one.sum(), rows, retain_graph=True)[0] for one in output.location.unbind(-1)]
    return torch.stack([part.packed(slope) for slope in slopes], 1)


def prior_precision(prior: Prior, layout: Layout, flat: Tensor) -> Tensor:
    """Return −∂² log p / ∂w² of a factorised prior at the one network `flat` (1, P), float64, (P,) without padding."""
    at = flat.detach().double().clone().requires_grad_()
    (slope,) = torch.autograd.grad(prior.log_density(at).sum(), at, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), at)
    return -layout.packed(curvature).squeeze(0)


class Tap(NamedTuple):
    """One use of a linear map.

    Attributes:
        weight: The leaf that is its weight.
        bias: The leaf that is its bias, or "".
        op: The map.
        x: Its inputs (R, B, …).
        zeros: What was added to its result (R, B, …), so that the gradient there can be taken.
    """

    weight: str
    bias: str
    op: LinearOp
    x: Tensor
    zeros: Tensor


@dataclass(frozen=True)
class Tapped:
    """The rule op(x, w), which keeps what goes into a linear map, and lets the gradient of what comes out be taken.

    Attributes:
        leaves: {name: (R, *S)}.
        of: Leaves whose maps are tapped, by their weight; None for all.
        taps: What was kept, in order.
    """

    leaves: Mapping[str, Tensor]
    of: Collection[str] | None = None
    taps: list[Tap] = field(default_factory=list)

    def __call__(self, name: str, op: LinearOp, x: Tensor, bias: str = "") -> Tensor:
        """Apply `op` with the leaves."""
        out = Point(self.leaves)(name, op, x, bias)
        if self.of is not None and name not in self.of:
            return out
        zeros = torch.zeros_like(out).requires_grad_()
        self.taps.append(Tap(name, bias, op, x.detach(), zeros))
        return out + zeros

    def leaf(self, name: str) -> Tensor:
        """Return the leaf itself."""
        return self.leaves[name]


@dataclass(frozen=True)
class _WithoutMaps:
    """The rule op(x, w) through which no gradient reaches the weights of a map, but that of all other uses does."""

    leaves: Mapping[str, Tensor]

    def __call__(self, name: str, op: LinearOp, x: Tensor, bias: str = "") -> Tensor:
        return Point({leaf: value.detach() for leaf, value in self.leaves.items()})(name, op, x, bias)

    def leaf(self, name: str) -> Tensor:
        return self.leaves[name]


def _uses(taps: Sequence[Tap], rows: int) -> list[Sequence[Tap]]:
    """Return the taps of each use of a map: one of all rows, or one for each row where rows ran one by one, in order.

    Raises:
        BadInput: Rows that ran one by one did not use the same maps.
    """
    if all(len(tap.x) == rows for tap in taps):
        return [[tap] for tap in taps]
    each, rest = divmod(len(taps), rows)
    uses = [taps[use::each] for use in range(each)] if each and not rest else []
    if not uses or any(len({(tap.weight, tap.bias) for tap in use}) > 1 for use in uses):
        raise BadInput("laplace: hessian=kron: examples use different maps of this network: take hessian=diagonal")
    return uses


def _blocks(data: Data, numbers: int) -> Iterator[Tensor]:
    """Yield the inputs of the only row, (B, 1, …): as many at once as leave room for `numbers` of each."""
    size = min(BLOCK, max(1, MOST_NUMBERS // numbers))
    for start in range(0, data.num_data, size):
        yield data.x[0, start : start + size].unsqueeze(1).clone()


def _part_of(layout: Layout, part: Layout, flat: Tensor) -> Tensor:
    """Return some leaves of rows (R, P) as rows (R, p) of their own."""
    leaves = layout.views(flat)
    return part.joined({name: leaves[name] for name in part.leaves})


def _output(model: Model, layer: Layer, x: Tensor) -> Output:
    return model(layer, x, Streams([0] * len(x), (1, len(x))))


def _fisher(output: Output) -> HasFisher:
    if not isinstance(output, HasFisher):
        raise TypeError(f"{type(output).__name__} has no Fisher information")
    return output


def _inputs(tap: Tap, shape: tuple[int, ...]) -> Tensor:
    """Return what is multiplied by the weights of each group at each example and position, (g, b, i) float64."""
    geometry: Geometry | None = getattr(tap.op, "geometry", None)
    if geometry is None:
        return tap.x.double().reshape(1, -1, tap.x.shape[-1])
    images, size = tap.x.flatten(0, 1).double(), math.prod(shape[1:])
    pick = torch.eye(size, dtype=images.dtype, device=images.device).reshape(size, *shape[1:])
    pick = pick.repeat(geometry.groups, *(1,) * (pick.ndim - 1))
    patches = torch.convolution(images, pick, None, *geometry[:3], False, [0] * len(geometry.stride), geometry.groups)
    by_group: Tensor = patches.flatten(2).unflatten(1, (geometry.groups, size))  # (b, g, i, positions)
    return by_group.permute(1, 0, 3, 2).flatten(1, 2)


def _slopes(tap: Tap, gradient: Tensor) -> Tensor:
    """Return the gradient of each group's pre-activations at each example and position, (g, b, o)."""
    geometry: Geometry | None = getattr(tap.op, "geometry", None)
    if geometry is None:
        return gradient.reshape(1, -1, gradient.shape[-1])
    by_group: Tensor = gradient.flatten(0, 1).flatten(2).unflatten(1, (geometry.groups, -1))  # (b, g, o, positions)
    return by_group.permute(1, 0, 3, 2).flatten(1, 2)


def _spectrum(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Return eigenvalues (g, n), none below 0, and eigenvectors (g, n, n) of symmetric matrices (g, n, n)."""
    values, vectors = torch.linalg.eigh(matrices)
    return values.clamp_min(0.0), vectors
