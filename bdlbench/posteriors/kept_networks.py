"""Networks that are kept along training, as a set: in the checkpoint while it grows, an equal mixture at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from bdlbench.core import memory
from bdlbench.core.layout import Layout
from bdlbench.posteriors.ensemble import EnsemblePosterior, mixture_of_points
from bdlbench.protocols import Model
from bdlbench.training.loop import Collect, State
from bdlbench.training.optimisers import Tensors

KEPT_NETWORKS = "networks"
"""The name of the set among the collected tensors, and so in the checkpoint."""


def keep_networks(epochs: Sequence[int]) -> Collect:
    """Keep the rows at the ends of some epochs, K of them.

    They take R·K·P numbers beside the rows themselves, in memory and in each checkpoint, from the start: what does not
    fit is refused before the first step, and a checkpoint does not grow.

    Args:
        epochs: After which epochs, counted from 1, in ascending order.

    Returns:
        What `minimise` collects: one tensor (R, K, P), whose end is filled first. Its `start` raises BadInput where the
        set is larger than the memory.
    """
    due = frozenset(epochs)

    def start(flat: Tensor) -> Tensors:
        rows, kept, width = len(flat), len(epochs), flat.shape[1]
        memory.refuse(
            rows * kept * width * flat.element_size(),
            f"{rows:,} × {kept:,} networks of {width:,} weights, which are kept along training,",
        )
        return {KEPT_NETWORKS: flat.new_zeros(rows, kept, width)}

    def add(state: State, collected: Tensors) -> Tensors:
        if state.epoch not in due:
            return collected
        return {KEPT_NETWORKS: torch.cat([collected[KEPT_NETWORKS][:, 1:], state.flat.unsqueeze(1)], 1)}

    return Collect(start, add)


def mixture_of_kept(model: Model, layout: Layout, state: State, epochs: Sequence[int]) -> EnsemblePosterior | None:
    """Return the equal mixture of the networks that have been kept so far.

    Args:
        model: The model.
        layout: Where each leaf lies in a row.
        state: A state of training that collects by `keep_networks(epochs)`.
        epochs: After which epochs a network is kept.

    Returns:
        The posterior of R replicates; None where no network is kept yet.
    """
    count = sum(epoch <= state.epoch for epoch in epochs)
    return mixture_of_points(model, layout, state.collected[KEPT_NETWORKS][:, -count:]) if count else None


def restored_mixture(model: Model, state: Mapping[str, Tensor]) -> EnsemblePosterior:
    """Return the mixture of stored networks.

    Args:
        model: The model.
        state: The leaves of K networks of each row, {name: (R, K, *S)}.

    Returns:
        The posterior of R replicates.
    """
    layout = Layout(model.leaves())
    return mixture_of_points(model, layout, layout.joined(state))


def cycle_ends(first: int, last: int, cycles: int) -> list[int]:
    """Divide epochs into cycles whose lengths differ by one epoch at most.

    Args:
        first: The epochs that are done before the first cycle.
        last: The epochs that are done after the last cycle.
        cycles: How many cycles; no more than there are epochs.

    Returns:
        The epochs that are done after each cycle.
    """
    count = min(cycles, last - first)
    return [first + (k + 1) * (last - first) // count for k in range(count)]
