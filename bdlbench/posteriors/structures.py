"""Structures of a Gaussian's precision Λ = curvature + the prior's: a full matrix, Kronecker factors, a diagonal.

Each is one entry of `STRUCTURES`: what it needs of the curvature, its root, draws, and variances. The root is what is
kept of R rows: a draw is w = mean + root · ε, with root rootᵀ = Λ⁻¹.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from bdlbench.core.layout import Layout
from bdlbench.core.streams import Streams
from bdlbench.data.task import Data
from bdlbench.kernels.linear import product
from bdlbench.posteriors.curvature import KroneckerFactors, fisher_information, kronecker_factors
from bdlbench.protocols import Model

StructureName = Literal["full", "kron", "diagonal"]

Root = Mapping[str, Tensor]
"""Tensors by name, (R, …) each; of one replicate without the axis R."""


@dataclass(frozen=True)
class Structure:
    """A structure of Λ for some leaves of a network, of which `part` is the layout.

    Attributes:
        curvature: curvature(model, layout, part, flat, data) of the one network flat (1, P).
        root: root(part, curvature, precision) returns the root in float64 and −½ log |Λ| for a prior's precision (p,),
            without padding.
        draw: draw(part, root, noise, like) returns root · ε in rows ([M,] R, P of the part), padded, for noise of lead
            (M, R).
        variances: variances(part, root, slopes) returns the variance of slopesᵀ w, (n,), of ONE replicate for slopes
            (n, p).
        covariance: covariance(part, root) returns Λ⁻¹ of ONE replicate, (p, p) float64.
    """

    curvature: Callable[[Model, Layout, Layout, Tensor, Data], Any]
    root: Callable[[Layout, Any, Tensor], tuple[Root, Tensor]]
    draw: Callable[[Layout, Root, Streams, Tensor], Tensor]
    variances: Callable[[Layout, Root, Tensor], Tensor]
    covariance: Callable[[Layout, Root], Tensor]


# A full matrix: Λ = L Lᵀ, and the root is L⁻¹, (n, P) with a column for each place of a padded row


def _full_root(part: Layout, curvature: Tensor, precision: Tensor) -> tuple[Root, Tensor]:
    factor = torch.linalg.cholesky(curvature + torch.diag(precision))
    identity = torch.eye(len(factor), dtype=factor.dtype, device=factor.device)
    scale = torch.linalg.solve_triangular(factor, identity, upper=False)
    return {"scale": _padded(part, scale)}, -factor.diagonal().log().sum()


def _full_draw(part: Layout, root: Root, noise: Streams, like: Tensor) -> Tensor:
    epsilon = noise.normal((1, root["scale"].shape[-2]), like)  # (M, R, 1, n)
    return product(epsilon, root["scale"]).squeeze(-2)


def _full_variances(part: Layout, root: Root, slopes: Tensor) -> Tensor:
    return (slopes @ part.packed(root["scale"]).mT).square().sum(-1)


def _full_covariance(part: Layout, root: Root) -> Tensor:
    scale = part.packed(root["scale"].double())
    return scale.mT @ scale


# A diagonal: the root is the standard deviations, (P,)


def _diagonal_root(part: Layout, curvature: Tensor, precision: Tensor) -> tuple[Root, Tensor]:
    total = curvature + precision
    return {"scale": _padded(part, total.rsqrt())}, -0.5 * total.log().sum()


def _diagonal_draw(part: Layout, root: Root, noise: Streams, like: Tensor) -> Tensor:
    return noise.normal((part.width,), like) * root["scale"]


def _diagonal_variances(part: Layout, root: Root, slopes: Tensor) -> Tensor:
    return (slopes * part.packed(root["scale"])).square().sum(-1)


def _diagonal_covariance(part: Layout, root: Root) -> Tensor:
    return torch.diag(part.packed(root["scale"].double()).square())


# Kronecker factors: of each leaf Λ = (U ⊗ V) (diag(G) ⊗ diag(A) + δ) (U ⊗ V)ᵀ by eigenvectors, and the root is U, V and
# the standard deviations between them, (g, o, i) as in `KroneckerFactors`


def _kron_root(part: Layout, curvature: Mapping[str, KroneckerFactors], precision: Tensor) -> tuple[Root, Tensor]:
    root, half_log_volume = {}, precision.new_zeros(())
    sizes = [leaf.size for leaf in part.leaves.values() if leaf.role != "buffer"]
    for (name, factors), prior in zip(curvature.items(), precision.split(sizes), strict=True):
        values = factors.values.unsqueeze(-1)  # (g, o, 1)
        if factors.in_values is not None and factors.in_vectors is not None:
            values = values * factors.in_values.unsqueeze(-2)
            root[f"{name}.in"] = factors.in_vectors
        if factors.vectors is not None:
            root[f"{name}.out"] = factors.vectors
        total = values + (prior.mean() if factors.vectors is not None else prior.reshape(values.shape))
        root[f"{name}.scale"] = total.rsqrt()
        half_log_volume = half_log_volume - 0.5 * total.log().sum()
    return root, half_log_volume


def _kron_draw(part: Layout, root: Root, noise: Streams, like: Tensor) -> Tensor:
    drawn = {}
    for name, leaf in part.leaves.items():
        if leaf.role == "buffer":
            drawn[name] = like.new_zeros(*noise.lead, *leaf.shape)
            continue
        value = noise.normal(root[f"{name}.scale"].shape[1:], like) * root[f"{name}.scale"]  # (M, R, g, o, i)
        if f"{name}.out" in root:
            value = product(root[f"{name}.out"], value)
        if f"{name}.in" in root:
            value = product(value, root[f"{name}.in"].mT)
        drawn[name] = value.reshape(*noise.lead, *leaf.shape)
    return part.joined(drawn)


def _kron_variances(part: Layout, root: Root, slopes: Tensor) -> Tensor:
    kept = [(name, leaf) for name, leaf in part.leaves.items() if leaf.role != "buffer"]
    total = slopes.new_zeros(len(slopes))
    for (name, _), own in zip(kept, slopes.split([leaf.size for _, leaf in kept], -1), strict=True):
        value = own.reshape(len(slopes), *root[f"{name}.scale"].shape)  # (n, g, o, i)
        if f"{name}.out" in root:
            value = root[f"{name}.out"].mT @ value
        if f"{name}.in" in root:
            value = value @ root[f"{name}.in"]
        total = total + (value * root[f"{name}.scale"]).square().flatten(1).sum(-1)
    return total


def _kron_covariance(part: Layout, root: Root) -> Tensor:
    blocks = []
    for name, leaf in part.leaves.items():
        if leaf.role == "buffer":
            continue
        scale = root[f"{name}.scale"].double()
        nothing = torch.eye(1, dtype=scale.dtype, device=scale.device)
        for group, sd in enumerate(scale):
            outs = root[f"{name}.out"][group].double() if f"{name}.out" in root else torch.eye(len(sd)).to(scale)
            ins = root[f"{name}.in"][group].double() if f"{name}.in" in root else nothing
            basis = torch.kron(outs, ins) * sd.flatten()
            blocks.append(basis @ basis.mT)
    whole: Tensor = torch.block_diag(*blocks)
    return whole


def _padded(part: Layout, packed: Tensor) -> Tensor:
    """Return (…, p) with zeros where a row has padding and buffers, (…, P)."""
    padded = packed.new_zeros(*packed.shape[:-1], part.width)
    padded[..., part.fill(lambda leaf: 1.0).bool().to(packed.device)] = packed
    return padded


STRUCTURES: Mapping[StructureName, Structure] = {
    "full": Structure(
        lambda model, layout, part, flat, data: fisher_information(model, layout, flat, data, False, part),
        _full_root,
        _full_draw,
        _full_variances,
        _full_covariance,
    ),
    "kron": Structure(kronecker_factors, _kron_root, _kron_draw, _kron_variances, _kron_covariance),
    "diagonal": Structure(
        lambda model, layout, part, flat, data: fisher_information(model, layout, flat, data, True, part),
        _diagonal_root,
        _diagonal_draw,
        _diagonal_variances,
        _diagonal_covariance,
    ),
}
"""The structures by the name that an option has for them."""
