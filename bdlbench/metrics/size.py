"""The size of a model, and how much of it remains after pruning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from bdlbench.protocols import Evaluation, Metric


@dataclass(frozen=True)
class Fact:
    """A fact that the posterior states about itself as `fact`, and as `fact[layer]` for each layer.

    Undefined if the posterior states neither.
    """

    version: ClassVar[int] = 1

    fact: str
    summary: str
    unit: str
    better: Literal["higher", "lower"]

    def __call__(self, evaluation: Evaluation) -> dict[str, Tensor]:
        """Return {"": (R,), layer: (R,), …}."""
        stated = {
            name.removeprefix(self.fact): value.double()
            for name, value in evaluation.facts.items()
            if name == self.fact or name.startswith(f"{self.fact}[")
        }
        return {key.removeprefix("[").removesuffix("]"): value for key, value in stated.items()}


@dataclass(frozen=True)
class Parameters:
    """The number of parameters of one replicate. Undefined for predictions made elsewhere."""

    summary: ClassVar[str] = "number of parameters of one network of the model"
    version: ClassVar[int] = 1
    unit: ClassVar[str] = "count"
    better: ClassVar[Literal["lower"]] = "lower"

    def __call__(self, evaluation: Evaluation) -> dict[str, Tensor]:
        """Return {"": (R,)}, the same for every row."""
        y, count = evaluation.y, evaluation.num_parameters
        return {} if count is None else {"": torch.full(y.shape[:1], count, dtype=torch.float64, device=y.device)}


metrics: dict[str, Metric] = {
    "sparsity": Fact("sparsity", "fraction of the weights that are exactly zero", "fraction", "higher"),
    "compression": Fact("compression", "number of weights over number of weights that are not zero", "×", "higher"),
    "parameters": Parameters(),
}
