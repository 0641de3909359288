"""Ordinary least squares."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from bdlbench.core.layout import Layout
from bdlbench.core.streams import Streams
from bdlbench.data.task import Data
from bdlbench.posteriors.point import point_posterior
from bdlbench.protocols import HasLeastSquares, Model, Posterior


@dataclass(frozen=True)
class OLS:
    """Ordinary least squares: the most likely linear model in closed form, its noise that of the residuals.

    Minimises Σ_n (y_n − w·x_n − b)²; σ² = (1/N) Σ_n (y_n − w·x_n − b)². Bishop 2006, eq. 3.15 and 3.21.
    """

    def unsupported(self, model: Model) -> str | None:
        """Refuse a model that least squares does not fit."""
        return None if isinstance(model, HasLeastSquares) else "its most likely weights are no least-squares fit"

    def fit(self, model: Model, data: Data, rng: Streams) -> Posterior:
        """Return the network that the model computes."""
        if not isinstance(model, HasLeastSquares):
            raise TypeError(f"{type(model).__name__} has no least-squares fit")
        return self.restored(model, model.least_squares(data))

    def restored(self, model: Model, state: Mapping[str, Tensor]) -> Posterior:
        """Return the network of these leaves."""
        layout = Layout(model.leaves())
        return point_posterior(model, layout, layout.joined(state))


methods = {"ols": OLS}
