"""The seams: what a model, a method, a posterior, a data set and a metric are.

A model is written once against a `Layer` rule and says where its linear maps sit; a method says how each one acts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from torch import Tensor

from bdlbench.core.layout import Layout, Leaf, LinearOp
from bdlbench.core.streams import Streams
from bdlbench.data.task import Data, Signature, Task
from bdlbench.kernels.factorised import Divergence
from bdlbench.predictives.mixtures import Predicted, Predictive


class Layer(Protocol):
    """How the linear maps of a model act under one inference method."""

    def __call__(self, name: str, op: LinearOp, x: Tensor, bias: str = "") -> Tensor:
        """Apply `op` with leaf `name`, and the leaf `bias` where one is named, to x ([M,] R, B, …)."""
        ...

    def leaf(self, name: str) -> Tensor:
        """A leaf that stands alone, such as a scale: ([M,] R, *S)."""
        ...


class Accumulator(Protocol):
    """Reduces outputs over posterior samples, in order, into a predictive."""

    def add(self, output: Any) -> None:
        """The next m samples: an output of the kind that made this accumulator."""
        ...

    def finish(self) -> Predictive:
        """The predictive of all samples added."""
        ...


class Output(Protocol):
    """What a model returns: it owns the likelihood, and any latent of its own."""

    def elbo(self, y: Tensor) -> Tensor:
        """([M,] R, B) nats: log p(y | x); with a latent, E_q(z|x) log p(y | x, z) − KL(q(z | x) ‖ p(z))."""
        ...

    def accumulator(self, samples: int) -> Accumulator:
        """An empty sum over `samples` outputs such as this one."""
        ...


class Model(Protocol):
    """A frozen dataclass: `signature` first, then its options."""

    @property
    def signature(self) -> Signature:
        """What the model was built to fit."""
        ...

    def unsupported(self) -> str | None:
        """Why the model cannot fit its signature, or None."""
        ...

    def leaves(self) -> dict[str, Leaf]:
        """The parameter arrays of ONE replicate, by name."""
        ...

    def __call__(self, layer: Layer, x: Tensor, rng: Streams) -> Output:
        """x: ([M,] R, B, *input_shape)."""
        ...


@runtime_checkable
class HasStart(Protocol):
    """A model that knows from its training data where some of its leaves should start."""

    def start(self, data: Data) -> Mapping[str, Tensor]:
        """Leaves by name, (1 or R, *S); the others start as `posteriors.fitting.initial_rows` says."""
        ...


class Prior(Divergence, Protocol):
    """A distribution of the parameters before data: rows (R, P) as `Layout` lays them out, padding not counted.

    As a `Divergence` it is the second argument of KL(Π_i N(mean_i, sd_i²) ‖ p).
    """

    @property
    def of_weights(self) -> bool:
        """Whether `log_density` is a density of the weights themselves, so that its curvature is one of the weights."""
        ...

    def log_density(self, flat: Tensor, valued: bool = True) -> Tensor:
        """log p of rows (R, P), in nats: (R,), differentiable. Where not `valued` only the gradient need be right."""
        ...


@runtime_checkable
class OwnsPrior(Protocol):
    """A model whose prior is part of it: a method's own prior then has no say."""

    def prior(self, layout: Layout, like: Tensor) -> Prior:
        """The prior of its rows, on the device and in the dtype of `like`."""
        ...


@runtime_checkable
class Timed(Protocol):
    """A model that can do more than one thing at prediction, and measures what that saves."""

    def measured(self, layer: Layer, x: Tensor) -> Mapping[str, Tensor]:
        """Ratios or seconds by name, (R,) each, of the networks of `layer` on x (R, N, …): never the same twice."""
        ...


@runtime_checkable
class HasFisher(Protocol):
    """An output whose Fisher information is known: the generalised Gauss-Newton method's curvature."""

    def fisher_targets(self) -> list[tuple[Tensor, Tensor]]:
        """(target, weight) pairs, (R, B) each: Σ weight · ∇log p(target) ∇log p(target)ᵀ is the Fisher information."""
        ...


@dataclass(frozen=True)
class Moments:
    """Mean (R, P) and covariance (R, P, P), float64, of a network's P parameters, leaf after leaf without padding.

    gaussian: whether the distribution is the Gaussian of these moments; else it may have no density at all.
    """

    mean: Tensor
    covariance: Tensor
    gaussian: bool = False


class Posterior(Protocol):
    """What a method has learnt of R replicates."""

    @property
    def state(self) -> Mapping[str, Tensor]:
        """All that defines the posterior, {name: (R, …)}: hashed, stored, compared bit for bit."""
        ...

    @property
    def bound(self) -> Tensor | None:
        """(R,) the ELBO of the training data in nats; None where a prior is improper or absent."""
        ...

    @property
    def facts(self) -> Mapping[str, Tensor]:
        """(R,) each: what the method knows of itself, such as `sparsity[fc1.weight]`."""
        ...

    def predict(self, x: Tensor, samples: int, rng: Streams, joint: bool = False) -> Predictive:
        """The predictive of x (R, N, …) from `samples` draws; fewer where the posterior has fewer to give.

        joint: draw functions, each sample one set of weights for all examples.
        """
        ...

    def moments(self) -> Moments | None:
        """Of the weights; None where they are not known. Asked for only where the exact posterior is at hand."""
        ...

    def measured(self, x: Tensor, rng: Streams) -> Mapping[str, Tensor]:
        """What the clock says of predicting x (R, N, …), (R,) each, for the record's `cost`; {} where nobody asked."""
        ...


class ExactPosterior(Posterior, Protocol):
    """A posterior in closed form: its predictive is exact too, whatever `samples`."""

    @property
    def log_evidence(self) -> Tensor:
        """(R,) log p(training targets | inputs) in nats, float64."""
        ...

    def kl(self, other: Moments) -> Tensor:
        """KL(the Gaussian `other` ‖ this) in nats, (R,) float64."""
        ...


@runtime_checkable
class Conjugate(Protocol):
    """A model whose posterior has a closed form."""

    def exact(self, data: Data) -> ExactPosterior:
        """The posterior of each row."""
        ...


class Method(Protocol):
    """A frozen dataclass: its fields are the hyper-parameters, its defaults the paper's."""

    def unsupported(self, model: Model) -> str | None:
        """Why the method cannot train this model, or None."""
        ...

    def fit(self, model: Model, data: Data, rng: Streams) -> Posterior:
        """Minimises −[Σ_n elbo_n − KL(weights)] / N of each row."""
        ...


@runtime_checkable
class Restores(Protocol):
    """A method whose posterior can be had back from what was kept of it, to predict what it predicted."""

    def restored(self, model: Model, state: Mapping[str, Tensor]) -> Posterior | None:
        """The posterior of `state` {name: (R, …)}; facts, bound and moments may be absent. None where it cannot."""
        ...


class Dataset(Protocol):
    """A frozen dataclass: its fields are the options of the data set."""

    def load(self, split: int) -> Task:
        """Split `split`, the same on every call. Raises DataUnavailable where the files are not to be had."""
        ...


@dataclass(frozen=True)
class Reference:
    """The exact posterior of the training data, and what it predicts of the test set."""

    posterior: ExactPosterior
    test: Predictive


class Scored(Protocol):
    """What is asked of the predictions of an out-of-distribution set."""

    @property
    def scores(self) -> dict[str, Tensor]:
        """(R, N) each, higher = more out of distribution."""
        ...


TEST = "test"
"""The population of test examples; each out-of-distribution set is one of its own name."""


@dataclass(frozen=True)
class Evaluation:
    """What a metric sees: predictives of the test set and of each out-of-distribution set, the posterior's facts.

    num_parameters: of one network; None where the predictions come without one.
    Where the model is conjugate also the exact posterior, and the method's bound and moments, to be held against it.
    """

    test: Predicted
    y: Tensor  # (R, N)
    ood: Mapping[str, Scored]
    facts: Mapping[str, Tensor]  # (R,) each
    num_parameters: int | None
    bound: Tensor | None = None  # (R,) nats
    moments: Moments | None = None
    reference: Reference | None = None


class Metric(Protocol):
    """A number with a unit and a direction."""

    @property
    def summary(self) -> str:
        """One line: what is measured."""
        ...

    @property
    def unit(self) -> str:
        """nats, a fraction, a count, …"""
        ...

    @property
    def better(self) -> Literal["higher", "lower"]:
        """Which direction is an improvement."""
        ...

    def __call__(self, evaluation: Evaluation) -> dict[str, Tensor]:
        """(R,) float64 each, keyed by out-of-distribution set or layer, "" for one value; {} where undefined."""
        ...


@runtime_checkable
class MeanOverExamples(Protocol):
    """A metric that is a mean over test examples says what each contributes; others are left to the jackknife."""

    def by_example(self, evaluation: Evaluation) -> dict[str, Tensor]:
        """(R, N) float64 each, by the same keys: the mean over N is the value."""
        ...


@runtime_checkable
class WithoutBlocks(Protocol):
    """A metric that tells its values without each block of examples faster than by being asked anew for each."""

    def without_blocks(self, evaluation: Evaluation, population: str, block: Tensor) -> dict[str, Tensor]:
        """(R, blocks) float64 each, by those of its keys that use the population: TEST, or an OOD set by its name.

        block: (N,) int64 from 0, the block of each example of it; other populations stay whole.
        """
        ...
