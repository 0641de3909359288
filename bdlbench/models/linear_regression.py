"""Linear regression with Gaussian noise of unknown size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from bdlbench.core.layout import Leaf
from bdlbench.core.streams import Streams
from bdlbench.data.task import Data, Signature
from bdlbench.kernels import gaussian
from bdlbench.networks.blocks import affine, dense_leaves, flatten
from bdlbench.networks.likelihoods import output
from bdlbench.protocols import Layer, Output


@dataclass(frozen=True)
class LinearRegression:
    """Linear regression: y ~ N(w·x + b, σ²), with w, b and log σ to be learnt. Bishop 2006, §3.1.1."""

    signature: Signature

    def unsupported(self) -> str | None:
        """Refuse all targets but one number."""
        fits = self.signature.likelihood == "gaussian" and self.signature.outputs == 1
        return None if fits else "linear regression fits one number with Gaussian noise"

    def leaves(self) -> dict[str, Leaf]:
        """Return fc1.weight, fc1.bias and log_noise_sd, which starts at 0."""
        dense = dense_leaves("fc1", prod(self.signature.input_shape), 1, first=True)
        return dense | {"log_noise_sd": Leaf((1,), "scale", 1)}

    def __call__(self, layer: Layer, x: Tensor, rng: Streams) -> Output:
        """Compute the output of x ([M,] R, B, *input_shape)."""
        raw = affine(layer, "fc1", flatten(x, len(self.signature.input_shape)))  # ([M,] R, B, 1)
        return output(self.signature, raw, 1.0, layer.leaf("log_noise_sd").exp())

    def least_squares(self, data: Data) -> Mapping[str, Tensor]:
        """Compute the most likely leaves in float64, one row after another, so that no row's bits depend on others.

        A target that is met exactly has the noise of its rounding, not none.
        """
        rounding = torch.finfo(data.x.dtype).eps
        rows = [
            gaussian.least_squares(x.double().flatten(1), y.double().clone(), rounding)
            for x, y in zip(data.x, data.y, strict=True)
        ]
        w, b, sd = (torch.stack(parts).to(data.x.dtype) for parts in zip(*rows, strict=True))  # (R, D), (R,), (R,)
        log_sd = sd.clamp_min(rounding).log()
        return {"fc1.weight": w[:, None], "fc1.bias": b[:, None], "log_noise_sd": log_sd[:, None]}


models = {"linear_regression": LinearRegression}
