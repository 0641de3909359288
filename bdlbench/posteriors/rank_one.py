"""Ensembles whose members share their weights up to rank-one factors: layout, start, step rule and networks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from bdlbench.core.layout import Layout, Leaf, PerRow, per_row
from bdlbench.core.options import repeat_rows, row_of
from bdlbench.core.streams import Streams
from bdlbench.data.task import Examples
from bdlbench.networks.layers import Point, RankOne
from bdlbench.posteriors.curvature import Tap, linear_maps
from bdlbench.posteriors.fitting import is_linear
from bdlbench.protocols import Model
from bdlbench.training.optimisers import Tensors, Update, optimiser_of
from bdlbench.training.plan import Moment, Plan

INPUTS, OUTPUTS, BIASES = ".inputs", ".outputs", ".biases"
"""How the names of r, s and b end, behind the weight of their map."""

TRIED = 3
"""Examples in the batch by which a network is tried."""


@dataclass(frozen=True)
class SharedNetwork:
    """K networks w ∘ (s rᵀ) whose map `w` is one leaf: where each part lies in a row, (R, P + Q).

    A row begins with one whole network, whose biases are those of member 0. Behind it are r and s (K, units) of each
    map, and the biases of the other members (K − 1, units).

    Attributes:
        layout: One network, of width P.
        members: K.
        sizes: Inputs and outputs of each linear map, by its weight.
        biases: The bias of each map that has one, by its weight.
    """

    layout: Layout
    members: int
    sizes: Mapping[str, tuple[int, int]]
    biases: Mapping[str, str]

    @cached_property
    def factors(self) -> Layout:
        """The layout of what members do not share, of width Q."""
        leaves = {}
        for name, (inputs, outputs) in self.sizes.items():
            leaves[f"{name}{INPUTS}"] = Leaf((self.members, inputs), "scale", 1)
            leaves[f"{name}{OUTPUTS}"] = Leaf((self.members, outputs), "scale", 1)
            if name in self.biases and self.members > 1:
                leaves[f"{name}{BIASES}"] = Leaf((self.members - 1, outputs), "bias", 1)
        return Layout(leaves)

    @property
    def width(self) -> int:
        """P + Q."""
        return self.layout.width + self.factors.width

    @cached_property
    def scales(self) -> Tensor:
        """1 on r and s, 0 on biases and padding, (Q,)."""
        return self.factors.fill(lambda leaf: float(leaf.role == "scale"))

    @cached_property
    def _own_places(self) -> list[Tensor]:
        """Where the weights that all share, and the own biases of each member but the first, lie in a row: (P,)."""
        places, own = torch.arange(self.width).split([self.layout.width, self.factors.width])
        behind, found = self.factors.views(own), []
        for k in range(self.members - 1):
            found.append(places.clone())
            views = self.layout.views(found[-1])
            for name, bias in self.biases.items():
                views[bias].copy_(behind[f"{name}{BIASES}"][k])
        return found

    def split(self, flat: Tensor) -> tuple[Tensor, Tensor]:
        """Split rows (R, P + Q) into a network (R, P) and what members do not share (R, Q)."""
        return flat[..., : self.layout.width], flat[..., self.layout.width :]

    def start(self, network: Tensor, rng: Streams, sd: PerRow) -> Tensor:
        """Return rows (R, P + Q): a network (R, P), whose biases all members have, and factors from N(1, sd²)."""
        own, leaves = network.new_zeros(len(network), self.factors.width), self.layout.views(network)
        noise = self.factors.views(rng.normal((self.factors.width,), network))
        for name, view in self.factors.views(own).items():
            if name.endswith(BIASES):
                view.copy_(leaves[self.biases[name.removesuffix(BIASES)]].unsqueeze(1).expand_as(view))
            else:
                view.copy_(1 + per_row(sd, network, 3) * noise[name])
        return torch.cat([network, own], -1)

    def rule(self, flat: Tensor) -> RankOne:
        """Return the layer rule of rows (R, P + Q), for batches `of_members`."""
        network, own = self.split(flat)
        leaves, parts = self.layout.views(network), self.factors.views(own)
        inputs, outputs = ({name: parts[f"{name}{end}"] for name in self.sizes} for end in (INPUTS, OUTPUTS))
        return RankOne(leaves, inputs, outputs, self._biases(leaves, parts))

    def of_members(self, batch: Examples) -> Examples:
        """Repeat a batch (R, B, …) for each member: (R, K·B, …)."""
        x, y = (one.repeat(1, self.members, *(1,) * (one.ndim - 2)) for one in (batch.x, batch.y))
        return Examples(x, y)

    def without_factors(self, flat: Tensor) -> list[Tensor]:
        """Return, for each member, the weights that all share and its own biases, (R, P), of rows (R, P + Q)."""
        return [flat[:, : self.layout.width], *(flat[:, place.to(flat.device)] for place in self._own_places)]

    def networks(self, flat: Tensor) -> Tensor:
        """Return the network of each member, (R, K, P), of rows (R, P + Q)."""
        rule = self.rule(flat)
        whole = {
            name: leaf.unsqueeze(1).expand(-1, self.members, *leaf.shape[1:]) for name, leaf in rule.leaves.items()
        }
        for name, bias in self.biases.items():
            whole[bias] = rule.biases[name]
        for name, r in rule.inputs.items():
            outer = rule.outputs[name].unsqueeze(-1) * r.unsqueeze(-2)  # (R, K, outputs, inputs)
            whole[name] = whole[name] * outer.reshape(*outer.shape, *(1,) * (whole[name].ndim - 4))
        return self.layout.joined(whole)

    def state(self, flat: Tensor) -> dict[str, Tensor]:
        """Return rows (R, P + Q) by name, for a record's parameters: shared weights once."""
        network, own = self.split(flat)
        return {**self.layout.views(network), **self.factors.views(own)}

    def flat(self, state: Mapping[str, Tensor]) -> Tensor:
        """Return the rows (R, P + Q) of a stored state."""
        return torch.cat([self.layout.joined(state), self.factors.joined(state)], -1)

    def update(self, plan: Plan, factor_rate: PerRow) -> Update:
        """Return the plan's step rule, by which r and s move `factor_rate` times as far, and without weight decay.

        Rows (R, P + n Q) have what a method learns of r and s in n blocks.
        """
        nothing = self.factors.fill(lambda leaf: torch.nan if leaf.role == "scale" else 0.0, padding=torch.nan)
        assert plan.origin is not None
        own, width = optimiser_of(replace(plan, origin=torch.cat([plan.origin, nothing]))), self.layout.width

        def step(
            flat: Tensor, gradient: Tensor, kept: Tensors, rate: PerRow, moment: Moment, noise: Streams
        ) -> tuple[Tensor, Tensors]:
            before = flat[:, width:].clone()
            flat, kept = own.step(flat, gradient, kept, rate, moment, noise)
            times = torch.as_tensor(per_row(factor_rate, flat, 2)).to(flat)
            after = flat[:, width:]
            scales = self.scales.to(flat.device).repeat(after.shape[1] // len(self.scales)) > 0
            slower = torch.where(scales & (times != 1), before + times * (after - before), after)
            return torch.cat([flat[:, :width], slower], 1), kept

        return Update(own.start, step)

    def _biases(self, leaves: Mapping[str, Tensor], parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the biases of all members, (R, K, outputs), by the weight of their map."""
        first = {name: leaves[bias].unsqueeze(1) for name, bias in self.biases.items()}
        return {
            name: torch.cat([one, parts[f"{name}{BIASES}"]], 1) if self.members > 1 else one
            for name, one in first.items()
        }


def shared_network(model: Model, members: int) -> SharedNetwork:
    """Return how K networks share the maps of a model that `unshareable` accepts."""
    layout, taps = Layout(model.leaves()), _taps(model)
    sizes = {tap.weight: (layout.leaves[tap.weight].shape[1], layout.leaves[tap.weight].shape[0]) for tap in taps}
    return SharedNetwork(layout, members, sizes, {tap.weight: tap.bias for tap in taps if tap.bias})


def unshareable(model: Model) -> str | None:
    """Say why members cannot share the maps of a model; None where they can.

    The weight of each map must have the axes (outputs, inputs, …), so that op(x ∘ r, w) ∘ s = op(x, w ∘ s rᵀ), and its
    rows must be in the order of the examples, as those of a sequence may be: both are tried on random numbers.
    """
    layout, taps = Layout(model.leaves()), _taps(model)
    seen = {tap.weight for tap in taps}
    unseen = [name for name, leaf in layout.leaves.items() if is_linear(leaf) and name not in seen]
    if not taps:
        return "it has no linear map whose weight members could share"
    if unseen:
        return f"it predicts without {unseen[0]}, so it is not known whether members could share that"
    if len({(tap.weight, tap.bias) for tap in taps}) > len(seen):
        return "it uses one weight with several biases, of which each member would have one"
    for tap in taps:
        weight, axis = layout.leaves[tap.weight], tap.x.ndim - tap.op.trailing
        noise = Streams([0])
        w, x = noise.normal(weight.shape, tap.x), noise.normal(tap.x.shape, tap.x).squeeze(0)
        out = tap.op(x, w)
        if (out.shape[axis + 1], x.shape[axis + 1]) != weight.shape[:2]:
            return f"{tap.weight} is no matrix of outputs by inputs, as in a convolution with groups"
        r, s = (noise.normal((1, size), x) for size in (x.shape[axis + 1], out.shape[axis + 1]))
        behind = (1,) * (tap.op.trailing - 2)
        around = tap.op(x * r.reshape(*r.shape, *behind), w) * s.reshape(*s.shape, *behind)
        outer = (s.mT * r).reshape(1, *weight.shape[:2], *(1,) * (len(weight.shape) - 2))
        if not torch.allclose(around, tap.op(x, w * outer), rtol=1e-3, atol=1e-3 * float(around.abs().max())):
            return f"{tap.weight} is no matrix of outputs by inputs, as in a convolution with groups"
    several = [tap.weight for tap in taps if tap.x.shape[tap.x.ndim - tap.op.trailing] != TRIED]
    if several and not _are_apart(model, shared_network(model, 2)):
        return f"it applies {several[0]} to rows that are not in the order of the examples, so members cannot be told"
    return None


def _are_apart(model: Model, shared: SharedNetwork) -> bool:
    """Tell whether a network gives the examples of each member what the member's own network gives them."""
    noise, signature = Streams([0]), model.signature
    x = noise.normal((TRIED, *signature.input_shape), torch.zeros(()))
    y = x.new_zeros(1, TRIED, dtype=torch.int64 if signature.likelihood == "categorical" else None)
    flat = 0.3 * noise.normal((shared.width,), x)
    one, both = row_of(model, 0), shared.of_members(Examples(x, y))
    members = Point(shared.layout.views(shared.networks(flat).flatten(0, 1)))
    with torch.no_grad():
        together = one(shared.rule(flat), both.x, Streams([0], (1, 1))).elbo(both.y)
        count = shared.members
        alone = repeat_rows(one, count)(members, x.repeat_interleave(count, 0), Streams([0] * count, (1, count)))
        return torch.allclose(together.flatten(), alone.elbo(y.repeat_interleave(count, 0)).flatten(), 1e-3, 1e-4)


def _taps(model: Model) -> list[Tap]:
    """List the uses of linear maps in one network of a model."""
    x = torch.zeros(1, TRIED, *model.signature.input_shape)
    return linear_maps(row_of(model, 0), Layout(model.leaves()), x)
