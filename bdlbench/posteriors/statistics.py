"""Statistics of BatchNorm for networks that no training has seen: computed anew of the training data, for each draw."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from bdlbench.networks.layers import Point
from bdlbench.protocols import HasStatistics, Model

EXAMPLES_OF_STATISTICS = 500
"""Training examples that make one batch of statistics; each channel has as many numbers as its images have pixels."""


def with_statistics(model: Model, leaves: Mapping[str, Tensor], x: Tensor) -> Mapping[str, Tensor]:
    """Return drawn leaves with the statistics that the networks have of the first training examples.

    Maddox et al. 2019, algorithm 1, where it says "batch_norm_update".

    Args:
        model: The model.
        leaves: Drawn networks, {name: ([M,] R, *S)}.
        x: Training inputs (R, N, …).

    Returns:
        The same leaves; those of a model without such statistics as they are.
    """
    if not isinstance(model, HasStatistics):
        return leaves
    rows, some = x.shape[0], x[:, :EXAMPLES_OF_STATISTICS]
    name, buffer = next(iter(model.leaves().items()))
    lead = leaves[name].shape[: leaves[name].ndim - len(buffer.shape)]
    flat = {name: value.reshape(-1, *value.shape[len(lead) :]) for name, value in leaves.items()}
    count = lead.numel() // rows
    given = some.expand(count, *some.shape).flatten(0, 1)  # (M·R, n, …)
    found = model.statistics(Point(flat), given)
    return {**leaves, **{name: value.unflatten(0, lead) for name, value in found.items()}}
