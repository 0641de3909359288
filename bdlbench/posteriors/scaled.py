"""A posterior of another method whose class probabilities are made more or less sure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from bdlbench.core.errors import BadInput
from bdlbench.core.streams import Streams
from bdlbench.predictives.mixtures import OfClasses, Predictive
from bdlbench.protocols import Moments, Posterior

TEMPERATURE = "predictive.temperature"
"""The temperature's name among the tensors of the posterior, whose own have the names of leaves."""


@dataclass(frozen=True)
class ScaledPosterior:
    """A posterior whose predictive is scaled.

    Attributes:
        posterior: The posterior.
        temperature: T of each row, (R,).
    """

    posterior: Posterior
    temperature: Tensor

    @property
    def state(self) -> Mapping[str, Tensor]:
        """The tensors of the posterior, and the temperature."""
        return {**self.posterior.state, TEMPERATURE: self.temperature}

    @property
    def bound(self) -> Tensor | None:
        """The ELBO of the posterior itself."""
        return self.posterior.bound

    @property
    def facts(self) -> Mapping[str, Tensor]:
        """What the posterior knows of itself, and the temperature."""
        return {**self.posterior.facts, "temperature": self.temperature.double()}

    def predict(self, x: Tensor, samples: int, rng: Streams, joint: bool = False) -> Predictive:
        """Predict as the posterior does, and scale the mean over samples."""
        return of_classes(self.posterior.predict(x, samples, rng, joint)).tempered(self.temperature)

    def moments(self) -> Moments | None:
        """Return the moments of the posterior's weights."""
        return self.posterior.moments()

    def measured(self, x: Tensor, rng: Streams) -> Mapping[str, Tensor]:
        """Measure what the clock says of the posterior."""
        return self.posterior.measured(x, rng)


def of_classes(predictive: Predictive) -> OfClasses:
    """Return a predictive that has class probabilities. Raises BadInput for another."""
    if not isinstance(predictive, OfClasses):
        raise BadInput(f"temperature_scaling: a {type(predictive).__name__} has no probabilities that could be scaled")
    return predictive
