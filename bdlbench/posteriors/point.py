"""The posterior of a method that learns one network."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from bdlbench.core.layout import Layout
from bdlbench.networks.layers import Point
from bdlbench.posteriors.moments import point_moments
from bdlbench.posteriors.weights import WeightPosterior
from bdlbench.protocols import Model


def point_posterior(model: Model, layout: Layout, flat: Tensor) -> WeightPosterior:
    """Return a point mass at each row: one deterministic network, without variance of the weights.

    Args:
        model: The model.
        layout: Where each leaf lies in a row.
        flat: Rows (R, P).

    Returns:
        The posterior of R replicates.
    """
    state, moments = layout.views(flat), partial(point_moments, layout, flat)
    return WeightPosterior(model, state, lambda noise, joint: Point(state), deterministic=True, moments=moments)
