"""The exact posterior."""

from __future__ import annotations

from dataclasses import dataclass

from bdlbench.core.streams import Streams
from bdlbench.data.task import Data
from bdlbench.protocols import Conjugate, Model, Posterior


@dataclass(frozen=True)
class Exact:
    """Exact inference: the model's own closed form, of the posterior, the predictive and the evidence.

    p(w | D) = p(D | w) p(w) / p(D). What every approximation on a conjugate model is held against.
    """

    def unsupported(self, model: Model) -> str | None:
        """Only conjugate models have one."""
        return None if isinstance(model, Conjugate) else "it has no closed-form posterior"

    def fit(self, model: Model, data: Data, rng: Streams) -> Posterior:
        """Ask the model."""
        if not isinstance(model, Conjugate):
            raise TypeError(f"{type(model).__name__} has no closed-form posterior")
        return model.exact(data)


methods = {"exact": Exact}
