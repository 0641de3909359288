"""A model, a data set and a metric."""
from dataclasses import dataclass
from math import prod

import numpy as np
import torch

from bdlbench.extend import (
    Examples, Leaf, PerRow, Signature, Task, array_checksum, column_statistics, dense, each_row, option, output,
    stratified_split, unsupported,
)

@dataclass(frozen=True)
class SkipMLP:
    """Two hidden layers, the second beside a skip connection."""
    signature: Signature
    width: int = option(32, "units of both hidden layers", low=1)
    noise_sd: PerRow = option(1.0, "standard deviation of a Gaussian target", low=0, open_ends=True)

    def unsupported(self):
        return unsupported(self.signature)

    def leaves(self):
        inputs, width = prod(self.signature.input_shape), self.width
        sizes = {"first": (inputs, width, "input"), "second": (width, width, "weight")}
        sizes["head"] = (width, self.signature.outputs, "weight")
        weights = {f"{name}.weight": Leaf((o, i), role, i) for name, (i, o, role) in sizes.items()}
        return weights | {f"{name}.bias": Leaf((o,), "bias", i) for name, (i, o, _) in sizes.items()}

    def __call__(self, layer, x, rng):
        x = x.flatten(x.ndim - len(self.signature.input_shape))  # (R, B, D)
        h = layer("first.weight", dense, x, "first.bias").relu()
        h = h + layer("second.weight", dense, h, "second.bias").relu()
        return output(self.signature, layer("head.weight", dense, h, "head.bias"), self.noise_sd)

@dataclass(frozen=True)
class Clouds:
    """Three clouds of points in the plane; far from them a fourth, out of distribution."""
    count: int = option(120, "points in all", low=12)

    def load(self, split):
        rng = np.random.default_rng(7)  # or np.loadtxt of a file
        y = np.arange(self.count) % 3
        x = rng.normal(size=(self.count, 2)) + 3.0 * np.eye(3, 2)[y]
        train, test = stratified_split(y, "clouds", split)
        mean, sd = column_statistics(x[train])  # of training data alone
        far = rng.normal(size=(40, 2)) + 20
        scaled = lambda points: torch.tensor((points - mean) / sd, dtype=torch.float32)
        return Task(
            signature=Signature((2,), 3, "categorical"),
            train=Examples(scaled(x[train]), torch.tensor(y[train])),
            test=Examples(scaled(x[test]), torch.tensor(y[test])),
            ood={"far": scaled(far)},
            sources={"clouds": array_checksum(x, far)},
            standardised=(0,),
        )

class NLLQuantile:
    summary = "90 % quantile over test examples of the negative log predictive probability"
    unit, better, version = "nats", "lower", 1

    def __call__(self, evaluation):
        nll = -evaluation.test.log_prob(evaluation.y)  # (R, N)
        return {"": each_row(lambda row: row.quantile(0.9), nll)}

models, datasets, metrics = {"skip_mlp": SkipMLP}, {"clouds": Clouds}, {"nll_q90": NLLQuantile()}
