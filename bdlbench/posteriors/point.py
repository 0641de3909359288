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
    """A point mass at each row of `flat` (R, P): one deterministic network, no variance of the weights."""
    state, moments = layout.views(flat), partial(point_moments, layout, flat)
    return WeightPosterior(model, state, lambda noise, joint: Point(state), deterministic=True, moments=moments)
