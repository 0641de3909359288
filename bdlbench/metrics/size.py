"""How large a model is, and how much of it is left."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from bdlbench.protocols import Evaluation, Metric


@dataclass(frozen=True)
class Fact:
    """What the posterior states of itself under `fact`, and under `fact[layer]` for each layer it names.

    Undefined where it states neither.
    """

    version: ClassVar[int] = 1

    fact: str
    summary: str
    unit: str
    better: Literal["higher", "lower"]

    def __call__(self, evaluation: Evaluation) -> dict[str, Tensor]:
        """{"": (R,), layer: (R,), …}."""
        stated = {
            name.removeprefix(self.fact): value.double()
            for name, value in evaluation.facts.items()
            if name == self.fact or name.startswith(f"{self.fact}[")
        }
        return {key.removeprefix("[").removesuffix("]"): value for key, value in stated.items()}


@dataclass(frozen=True)
class Parameters:
    """The number of parameters of one replicate. Undefined for predictions that were made elsewhere."""

    summary: ClassVar[str] = "number of parameters of one network of the model"
    version: ClassVar[int] = 1
    unit: ClassVar[str] = "count"
    better: ClassVar[Literal["lower"]] = "lower"

    def __call__(self, evaluation: Evaluation) -> dict[str, Tensor]:
        """{"": (R,)}, the same for every row."""
        y, count = evaluation.y, evaluation.num_parameters
        return {} if count is None else {"": torch.full(y.shape[:1], count, dtype=torch.float64, device=y.device)}


metrics: dict[str, Metric] = {
    "sparsity": Fact("sparsity", "fraction of the weights that are exactly zero", "fraction", "higher"),
    "compression": Fact("compression", "number of weights over number of weights that are not zero", "×", "higher"),
    "parameters": Parameters(),
}
