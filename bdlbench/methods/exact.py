"""The exact posterior."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bdlbench.core.errors import BadInput
from bdlbench.core.streams import Streams
from bdlbench.data.task import Data
from bdlbench.protocols import Conjugate, ConjugateUpdates, Model, Posterior


@dataclass(frozen=True)
class Exact:
    """Exact inference: the model's own closed form of the posterior, the predictive and the evidence.

    p(w | D) = p(D | w) p(w) / p(D). Every approximation on a conjugate model is compared with it.
    """

    def unsupported(self, model: Model) -> str | None:
        """Refuse a model that is not conjugate."""
        return None if isinstance(model, Conjugate) else "it has no closed-form posterior"

    def fit(self, model: Model, data: Data, rng: Streams) -> Posterior:
        """Return the posterior that the model computes."""
        if not isinstance(model, Conjugate):
            raise TypeError(f"{type(model).__name__} has no closed-form posterior")
        return model.exact(data)

    def updated(self, model: Model, posterior: Any, data: Data, rng: Streams) -> Posterior:
        """Return the posterior that the model computes of earlier and further data."""
        if not isinstance(model, ConjugateUpdates):
            raise BadInput(f"{type(model).__name__} has no `exact_update`, which takes its posterior for a prior")
        return model.exact_update(posterior, data)


methods = {"exact": Exact}
