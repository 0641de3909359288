"""A posterior of earlier data as the prior of further data, and as the place where training on them starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from bdlbench.core.layout import Layout, Leaf
from bdlbench.core.streams import Streams
from bdlbench.data.task import Data, Signature
from bdlbench.kernels.kl import RowPrior, add_normal_kl_gradient, normal_kl_sum, normal_log_density_sum
from bdlbench.protocols import Layer, Model, Output, Prior


@dataclass(frozen=True)
class FactorisedPrior:
    """N(mean, sd²) with a mean and an sd for every parameter of every row.

    Attributes:
        mean: Means (R, P).
        around: N(0, sd²) of the distance to the mean.
    """

    mean: Tensor
    around: RowPrior
    of_weights: ClassVar[bool] = True

    def log_density(self, flat: Tensor, valued: bool = True) -> Tensor:
        """Return log p of rows (R, P) in nats, (R,)."""
        return normal_log_density_sum(flat - self.mean, self.around, valued)

    def kl(self, mean: Tensor, log_sd: Tensor) -> Tensor:
        """Return KL(Π_i N(mean_i, sd_i²) ‖ p) of rows (R, P) in nats, (R,)."""
        return normal_kl_sum(mean - self.mean, log_sd, self.around)

    def add_kl_gradient(
        self, mean: Tensor, variance: Tensor, factor: Tensor, into_mean: Tensor, into_log_sd: Tensor
    ) -> None:
        """Add the gradient of `kl` in closed form."""
        add_normal_kl_gradient(mean - self.mean, variance, factor, self.around, into_mean, into_log_sd)


def factorised_prior(layout: Layout, means: Mapping[str, Tensor], log_sds: Mapping[str, Tensor]) -> FactorisedPrior:
    """Return N(mean, sd²) of leaves as a prior of rows.

    Args:
        layout: Where each leaf lies in a row.
        means: Means by leaf, (R, *S).
        log_sds: Logarithms of the standard deviations by leaf, (R, *S).

    Returns:
        The prior of rows (R, P).
    """
    mean, sd = layout.joined(means), layout.joined(log_sds).exp()  # on padding 0 and 1
    counted = layout.fill(lambda leaf: 1.0).to(mean)
    sd = torch.where(counted > 0, sd, 1.0)  # that of a buffer, which is no parameter, may be 0
    return FactorisedPrior(mean, RowPrior(sd, counted / sd.square(), counted))


@dataclass(frozen=True)
class Continued:
    """A model after earlier data: a prior of its own, and where training on further data starts.

    Attributes:
        model: The model.
        before: The prior of its parameters; None for a method that has none.
        means: Where its leaves start, (R, *S).
        log_sds: Where the logarithms of their standard deviations start, (R, *S); none for a method without spread.
    """

    model: Model
    before: Prior | None
    means: Mapping[str, Tensor]
    log_sds: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def signature(self) -> Signature:
        """What the model was built to fit."""
        return self.model.signature

    def unsupported(self) -> str | None:
        """Say why the model cannot fit its signature; None where it can."""
        return self.model.unsupported()

    def leaves(self) -> dict[str, Leaf]:
        """Return the leaves of the model."""
        return self.model.leaves()

    def __call__(self, layer: Layer, x: Tensor, rng: Streams) -> Output:
        """Compute the output of x ([M,] R, B, *input_shape)."""
        return self.model(layer, x, rng)

    def prior(self, layout: Layout, like: Tensor) -> Any:
        """Return the prior of the parameters."""
        return self.before

    def start(self, data: Data, rng: Streams) -> Mapping[str, Tensor]:
        """Return where all leaves start, (R, *S)."""
        return self.means

    def start_log_sd(self) -> Mapping[str, Tensor]:
        """Return where the logarithms of the standard deviations start, (R, *S)."""
        return self.log_sds
