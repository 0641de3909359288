"""The evidence lower bound of the training data, and how exactly it is known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from bdlbench.protocols import Evaluation, Metric


@dataclass(frozen=True)
class Elbo:
    """Σ_n E_q log p(y_n | x_n, w) − KL(q ‖ prior) over all training data, targets in original units.

    It is a sum over the training targets, not a mean. A density of y in original units is that of the standardised
    target divided by its standard deviation, so this is the method's bound − N log y_sd. Undefined for methods without
    a bound, such as one whose prior is improper.
    """

    summary: ClassVar[str] = "evidence lower bound of the training targets, in their original units; a sum"
    version: ClassVar[int] = 1
    unit: ClassVar[str] = "nats"
    better: ClassVar[Literal["higher"]] = "higher"

    def __call__(self, evaluation: Evaluation) -> dict[str, Tensor]:
        """Return {"": (R,)}."""
        return {} if evaluation.elbo is None else {"": evaluation.elbo}


@dataclass(frozen=True)
class ElboStandardError:
    """The Monte-Carlo standard error of `elbo`, from its draws of the weights. Undefined for a bound in closed form."""

    summary: ClassVar[str] = "Monte-Carlo standard error of elbo, from its draws of the weights"
    version: ClassVar[int] = 1
    unit: ClassVar[str] = "nats"
    better: ClassVar[Literal["lower"]] = "lower"

    def __call__(self, evaluation: Evaluation) -> dict[str, Tensor]:
        """Return {"": (R,)}."""
        error = evaluation.facts.get("elbo_standard_error")  # (R,)
        return {} if error is None else {"": error.double()}


metrics: dict[str, Metric] = {"elbo": Elbo(), "elbo_standard_error": ElboStandardError()}
