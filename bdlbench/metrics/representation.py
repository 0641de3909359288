"""How much of an input's class a linear classifier reads from its latent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from bdlbench.data.splits import permutation
from bdlbench.protocols import Evaluation, Metric

FOLDS = 5
PENALTY = 0.01
"""The ridge of the classifier for each example it learns from, on features of variance one."""


@dataclass(frozen=True)
class LinearProbe:
    """Accuracy of a linear classifier on the latent's posterior means, on pixels, and on principal components.

    It is trained and tested on the test set, of which the encoder has seen nothing, by five-fold cross-validation:
    least squares with a small ridge from features, standardised on the other folds, to the classes. Folds are drawn
    once for any set of that size. There are as many components as the latent has dimensions, of the other folds'
    pixels. Undefined without a latent, without classes, and for predictions read from a record, which does not keep the
    inputs.
    """

    summary: ClassVar[str] = (
        "cross-validated accuracy of a linear classifier on the latent means, pixels, or components"
    )
    version: ClassVar[int] = 1
    unit: ClassVar[str] = "fraction"
    better: ClassVar[Literal["higher"]] = "higher"

    def __call__(self, evaluation: Evaluation) -> dict[str, Tensor]:
        """Compute {"latent": (R,), "pixels": (R,), "components": (R,)}."""
        latent, inputs, y = evaluation.test.arrays().get("latent_mean"), evaluation.inputs, evaluation.y
        if latent is None or inputs is None or y.is_floating_point() or y.shape[1] < FOLDS:
            return {}
        found: dict[str, list[float]] = {"latent": [], "pixels": [], "components": []}
        for r, labels in enumerate(y):  # row by row: the bits of one
            means, pixels = latent[r].double().clone(), inputs[r].flatten(1).double().clone()  # (N, Z), (N, D)
            drawn = torch.from_numpy(permutation(len(labels), "linear_probe") % FOLDS)  # places may go by class
            fold, right = drawn.to(labels.device), dict.fromkeys(found, 0)
            for k in range(FOLDS):
                learn, test = fold != k, fold == k
                centred = pixels - pixels[learn].mean(0)
                basis = torch.linalg.svd(centred[learn], full_matrices=False).Vh[: means.shape[1]]  # (Z, D)
                for name, features in (("latent", means), ("pixels", pixels), ("components", centred @ basis.mT)):
                    guess = _classified(features[learn], labels[learn], features[test])
                    right[name] += int((guess == labels[test]).sum())
            for name, count in right.items():
                found[name].append(count / len(labels))
        return {name: torch.tensor(values, dtype=torch.float64) for name, values in found.items()}


def _classified(x: Tensor, y: Tensor, test: Tensor) -> Tensor:
    """Return the class (n,) of each of test (n, D) by least squares from x (N, D) to the indicators of y (N,)."""
    mean, sd = x.mean(0), x.std(0, correction=0)
    sd = torch.where(sd > 0, sd, 1.0)
    x, test = (x - mean) / sd, (test - mean) / sd
    target = torch.nn.functional.one_hot(y).double()  # (N, C)
    gram = x.mT @ x + PENALTY * len(x) * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    weights: Tensor = torch.linalg.solve(gram, x.mT @ (target - target.mean(0)))
    return (test @ weights + target.mean(0)).argmax(1)


metrics: dict[str, Metric] = {"linear_probe": LinearProbe()}
