"""The seams: what a model, a method, a posterior, a data set and a metric are.

A model is written once against a `Layer` rule and says where its linear maps sit; a method says how each one acts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from torch import Tensor, nn

from bdlbench.core.layout import Layout, Leaf, LinearOp
from bdlbench.core.streams import Streams
from bdlbench.data.task import Data, Signature, Task
from bdlbench.kernels.factorised import Divergence
from bdlbench.predictives.mixtures import Predicted, Predictive


class Layer(Protocol):
    """How the linear maps of a model act under one inference method."""

    def __call__(self, name: str, op: LinearOp, x: Tensor, bias: str = "") -> Tensor:
        """Apply a linear map.

        Args:
            name: The leaf that is its weight.
            op: The map, such as `dense` or a `Convolution`.
            x: Inputs ([M,] R, B, …).
            bias: The leaf that is its bias, or "" for none.

        Returns:
            ([M,] R, B, …).
        """
        ...

    def leaf(self, name: str) -> Tensor:
        """Return a leaf that stands alone, such as a scale.

        Args:
            name: The leaf.

        Returns:
            ([M,] R, *S).
        """
        ...


class Accumulator(Protocol):
    """Reduces outputs over posterior samples, in order, into a predictive."""

    def add(self, output: Any) -> None:
        """Add the next m samples.

        Args:
            output: An output of the kind that made this accumulator.
        """
        ...

    def finish(self) -> Predictive:
        """Return the predictive of all samples added.

        Returns:
            The predictive of R replicates.
        """
        ...


class Output(Protocol):
    """What a model returns. It owns the likelihood, and any latent of its own."""

    def elbo(self, y: Tensor) -> Tensor:
        """Return each example's contribution to the ELBO.

        That is log p(y | x), or with a latent E_q(z|x) log p(y | x, z) − KL(q(z | x) ‖ p(z)).

        Args:
            y: Targets (R, B).

        Returns:
            Nats, ([M,] R, B).
        """
        ...

    def accumulator(self, samples: int) -> Accumulator:
        """Return an empty accumulator for outputs of this kind.

        Args:
            samples: M, how many outputs will be added.

        Returns:
            The accumulator.
        """
        ...


class Model(Protocol):
    """A frozen dataclass: `signature` first, then its options."""

    @property
    def signature(self) -> Signature:
        """What the model was built to fit."""
        ...

    def unsupported(self) -> str | None:
        """Say why the model cannot fit its signature.

        Returns:
            The reason, or None where it can.
        """
        ...

    def leaves(self) -> dict[str, Leaf]:
        """Describe the parameter arrays of ONE replicate.

        Returns:
            {name: leaf}.
        """
        ...

    def __call__(self, layer: Layer, x: Tensor, rng: Streams) -> Output:
        """Compute the output of the network.

        Args:
            layer: How its linear maps act.
            x: Inputs ([M,] R, B, *input_shape).
            rng: Streams for what the model itself draws, one for each network: (R,) while it is trained, (M, R) where
                posterior samples predict. A network that does otherwise in training (BatchNorm) goes by that.

        Returns:
            The output, which owns the likelihood.
        """
        ...


@runtime_checkable
class HasStart(Protocol):
    """A model that knows where some of its leaves should start: from its training data, or by its own draws."""

    def start(self, data: Data, rng: Streams) -> Mapping[str, Tensor]:
        """Return the leaves that should start elsewhere than `posteriors.fitting.initial_rows` puts them.

        Args:
            data: The training data.
            rng: Streams (R,) of the start.

        Returns:
            Leaves by name, (1 or R, *S).
        """
        ...


@runtime_checkable
class HasSpread(Protocol):
    """A model that knows how sure of its leaves a method that learns their spread should start."""

    def start_log_sd(self) -> Mapping[str, Tensor]:
        """Return the leaves whose spread should start elsewhere than the method's options say.

        Returns:
            Logarithms of standard deviations by leaf, (1 or R, *S).
        """
        ...


@runtime_checkable
class HasStatistics(Protocol):
    """A model with buffers that are statistics of its inputs, as BatchNorm's are."""

    def statistics(self, layer: Layer, x: Tensor) -> Mapping[str, Tensor]:
        """Compute the statistics of a network anew, of which the layer rule knows all other leaves.

        Args:
            layer: How its linear maps act.
            x: Inputs (R, B, *input_shape), which are one batch.

        Returns:
            The buffers by name, (R, *S); {} where the network has none.
        """
        ...


@runtime_checkable
class HasRemark(Protocol):
    """A model of which a person should know something before it trains."""

    def remark(self) -> str | None:
        """Say it in one line.

        Returns:
            The line, or None where there is nothing to say.
        """
        ...


@runtime_checkable
class HasTargetUnits(Protocol):
    """A model with options in the target's original units."""

    def with_target_sd(self, y_sd: Tensor) -> Any:
        """Bring these options to the scale that the model sees.

        Args:
            y_sd: Standard deviation of each row's training targets in original units, (R,) float64.

        Returns:
            The model, row r of which has its options on the scale of y / y_sd[r].
        """
        ...


class Prior(Divergence, Protocol):
    """A distribution of the parameters before data: rows (R, P) as `Layout` arranges them, padding not counted.

    As a `Divergence` it is the second argument of KL(Π_i N(mean_i, sd_i²) ‖ p).
    """

    @property
    def of_weights(self) -> bool:
        """Whether `log_density` is a density of the weights themselves, so that its curvature is one of the weights."""
        ...

    def log_density(self, flat: Tensor, valued: bool = True) -> Tensor:
        """Return log p of each row; differentiable.

        Args:
            flat: Rows (R, P).
            valued: Whether the value is read; if not, only its gradient need be right.

        Returns:
            Nats, (R,).
        """
        ...


@runtime_checkable
class HasModule(Protocol):
    """A model that was written as a torch module. Trainers from outside get this module, unchanged."""

    def module(self, rng: Streams) -> nn.Module:
        """Make the module anew.

        Args:
            rng: Streams (1,) of the start, as `HasStart.start` gets them.

        Returns:
            The module, on inputs (B, *S).
        """
        ...


@runtime_checkable
class OwnsPrior(Protocol):
    """A model whose prior is part of it. It replaces a method's own prior."""

    def prior(self, layout: Layout, like: Tensor) -> Prior:
        """Return the prior of the model's parameters.

        Args:
            layout: Where each leaf lies in a row.
            like: A tensor whose device and dtype the prior takes.

        Returns:
            The prior of rows (R, P).
        """
        ...


@runtime_checkable
class Timed(Protocol):
    """A model that can do more than one thing at prediction, and measures what that saves."""

    def measured(self, layer: Layer, x: Tensor) -> Mapping[str, Tensor]:
        """Measure what the clock says; the numbers differ from call to call.

        Args:
            layer: How the linear maps act.
            x: Inputs (R, N, …).

        Returns:
            Ratios, or seconds, by name, (R,) each.
        """
        ...


@runtime_checkable
class HasFisher(Protocol):
    """An output with a known Fisher information, the curvature of the generalised Gauss-Newton method."""

    def fisher_targets(self) -> list[tuple[Tensor, Tensor]]:
        """Return targets with weights such that Σ weight · ∇log p(target) ∇log p(target)ᵀ is the Fisher information.

        Returns:
            (target, weight) pairs, (R, B) each.
        """
        ...


@runtime_checkable
class HasLocation(Protocol):
    """An output that is a distribution around what the last layer gives, so that the network can be linearised."""

    @property
    def location(self) -> Tensor:
        """Class logits, or the mean of a number: ([M,] R, B, C)."""
        ...

    def moved(self, location: Tensor) -> Output:
        """Return this output around another location.

        Args:
            location: ([M,] R, B, C).

        Returns:
            The output.
        """
        ...

    def spread(self, variance: Tensor) -> Output:
        """Return this output where its location is uncertain, in closed form: exact of a number, near of classes.

        Args:
            variance: Of each location, whose distribution is Gaussian, (R, B, C).

        Returns:
            The output.
        """
        ...


@dataclass(frozen=True)
class Moments:
    """Mean and covariance of a network's P parameters, leaf after leaf without padding, in float64.

    Attributes:
        mean: (R, P).
        covariance: (R, P, P).
        gaussian: Whether the distribution is the Gaussian with these moments. If not, it may have no density at all.
    """

    mean: Tensor
    covariance: Tensor
    gaussian: bool = False


class Posterior(Protocol):
    """What a method has learnt of R replicates."""

    @property
    def state(self) -> Mapping[str, Tensor]:
        """All that defines the posterior, {name: (R, …)}: it is hashed, stored and compared bit for bit."""
        ...

    @property
    def bound(self) -> Tensor | None:
        """The ELBO of the training data in nats, (R,); None where a prior is improper or absent."""
        ...

    @property
    def facts(self) -> Mapping[str, Tensor]:
        """What the method knows of itself, such as `sparsity[fc1.weight]`, (R,) each."""
        ...

    def predict(self, x: Tensor, samples: int, rng: Streams, joint: bool = False) -> Predictive:
        """Predict the targets of new inputs.

        Args:
            x: Inputs (R, N, …).
            samples: M, the number of draws; fewer are made where the posterior has fewer to give.
            rng: Streams (R,) of prediction noise.
            joint: Whether to draw functions, so that each sample is one set of weights for all examples.

        Returns:
            The predictive of R replicates on N inputs.
        """
        ...

    def moments(self) -> Moments | None:
        """Return the moments of the weights. Asked for only where the exact posterior is known.

        Returns:
            The moments, or None where they are not known.
        """
        ...

    def measured(self, x: Tensor, rng: Streams) -> Mapping[str, Tensor]:
        """Measure what the clock says of predicting, for the record's `cost`.

        Args:
            x: Inputs (R, N, …).
            rng: Streams (R,) of prediction noise.

        Returns:
            Numbers by name, (R,) each; {} where the model measures nothing.
        """
        ...


class ExactPosterior(Posterior, Protocol):
    """A posterior in closed form. Its predictive is exact too, whatever `samples` says."""

    @property
    def log_evidence(self) -> Tensor:
        """log p(training targets | inputs) in nats, (R,) float64."""
        ...

    def kl(self, other: Moments) -> Tensor:
        """Return KL(the Gaussian `other` ‖ this posterior).

        Args:
            other: The moments of the Gaussian.

        Returns:
            Nats, (R,) float64.
        """
        ...


@runtime_checkable
class Conjugate(Protocol):
    """A model whose posterior has a closed form."""

    def exact(self, data: Data) -> ExactPosterior:
        """Return the exact posterior of each row.

        Args:
            data: The training data.

        Returns:
            The posterior of R replicates.
        """
        ...


@runtime_checkable
class ConjugateUpdates(Protocol):
    """A conjugate model whose exact posterior can be the prior of further data."""

    def exact_update(self, posterior: Any, data: Data) -> ExactPosterior:
        """Return the exact posterior of earlier and further data.

        Args:
            posterior: The exact posterior of earlier data, as the model made it.
            data: The further data.

        Returns:
            The posterior of R replicates, with the evidence of all data.
        """
        ...


@runtime_checkable
class HasLeastSquares(Protocol):
    """A model whose most likely parameters are a least-squares fit."""

    def least_squares(self, data: Data) -> Mapping[str, Tensor]:
        """Return the parameters of maximum likelihood.

        Args:
            data: The training data.

        Returns:
            All leaves by name, (R, *S).
        """
        ...


class Method(Protocol):
    """A frozen dataclass: its fields are the hyper-parameters, its defaults those of the paper."""

    def unsupported(self, model: Model) -> str | None:
        """Say why the method cannot train this model.

        Args:
            model: The model.

        Returns:
            The reason, or None where it can.
        """
        ...

    def fit(self, model: Model, data: Data, rng: Streams) -> Posterior:
        """Minimise −[Σ_n elbo_n − KL(weights)] / N of each row.

        Args:
            model: The model.
            data: The training data of R replicates.
            rng: Streams (R,), from which named children are taken.

        Returns:
            The posterior of R replicates.
        """
        ...


@runtime_checkable
class Restores(Protocol):
    """A method whose posterior can be rebuilt from its stored state, to predict what it predicted before."""

    def restored(self, model: Model, state: Mapping[str, Tensor]) -> Posterior | None:
        """Rebuild the posterior; facts, bound and moments may be absent.

        Args:
            model: The model.
            state: `Posterior.state`, {name: (R, …)}.

        Returns:
            The posterior, or None where it cannot be rebuilt.
        """
        ...


@runtime_checkable
class Updates(Method, Protocol):
    """A method whose posterior can be the prior of further data."""

    def updated(self, model: Model, posterior: Any, data: Data, rng: Streams) -> Posterior:
        """Fit further data, with the posterior of earlier data as the prior.

        Args:
            model: The model.
            posterior: What the method made of earlier data.
            data: The further data of R replicates.
            rng: Streams (R,), from which named children are taken.

        Returns:
            The posterior of R replicates. Its bound is that of all data, or None.
        """
        ...


class Dataset(Protocol):
    """A frozen dataclass: its fields are the options of the data set."""

    def load(self, split: int) -> Task:
        """Load one split, the same on every call.

        Args:
            split: Its number, from 0.

        Returns:
            The split.

        Raises:
            DataUnavailable: Files are absent and cannot be downloaded.
        """
        ...


@dataclass(frozen=True)
class Reference:
    """The exact posterior of the training data, and what it predicts for the test set."""

    posterior: ExactPosterior
    test: Predictive


class Scored(Protocol):
    """What a metric may read of the predictions for an out-of-distribution set."""

    @property
    def scores(self) -> dict[str, Tensor]:
        """Scores by name, (R, N) each, higher = more out of distribution."""
        ...


TEST = "test"
"""The population of test examples, shifted or not. Each out-of-distribution set is a population of its own name."""

ALL_SHIFTS = "shifted"
"""The key of a metric's mean over all shifts of the test set."""


@dataclass(frozen=True)
class ShiftedTest:
    """The predictions for a shifted test set, and its targets.

    Attributes:
        predicted: Its predictive.
        y: Its targets in original units, (R, N').
        of_test: Whether its examples are the test examples, shifted and in their order. Each is then one example with
            what it was shifted from, and they are of the population `TEST`; else the set is a population of its name.
    """

    predicted: Predicted
    y: Tensor
    of_test: bool


@dataclass(frozen=True)
class Calibration:
    """The predictions for rows that no method saw and that are like the test rows, and their classes y (R, n)."""

    predicted: Predicted
    y: Tensor


@dataclass(frozen=True)
class Truth:
    """What is known of a test set that was drawn from a known process.

    Attributes:
        predicted: The predictive of this process, in original units: no method can do better.
        functions: log p(c | x) of every class c by each function that was drawn for all test inputs, (M, R, N, C) nats,
            where the data set was asked for some. From them targets can be drawn anew that no record has.
    """

    predicted: Predicted
    functions: Tensor | None = None  # (M, R, N, C) nats


@dataclass(frozen=True)
class Evaluation:
    """What a metric sees: the predictions for the test set and each out-of-distribution set, and the posterior's facts.

    Attributes:
        test: The predictive of the test set.
        y: The targets of the test set in original units, (R, N).
        ood: The predictions for each out-of-distribution set, by its name.
        facts: What the method knows of itself, (R,) each.
        num_parameters: Parameters of one network; None where the predictions come without one.
        bound: The ELBO of the training data on the scale that the model sees, nats, (R,), or None.
        elbo: The same of the targets in original units, (R,) float64, or None.
        moments: The moments of the weights where the model is conjugate and they are known, else None.
        reference: The exact posterior where the model is conjugate, else None.
        shifts: The predictions for each shifted test set, by its name.
        calibration: The predictions for calibration rows, where the data set was asked for some.
        functions: log p(y | x) of the test targets by each function that was drawn for all of them, (M, R, N) nats,
            where the data set was asked for some.
        truth: What is known of the process that drew the test set; None where nothing is.
        gold: What a reference predicts for the test set, where a table is made and one fits; else None.
        inputs: The test inputs, (R, N, *S); None where predictions are read from a record, which does not keep them.
    """

    test: Predicted
    y: Tensor  # (R, N)
    ood: Mapping[str, Scored]
    facts: Mapping[str, Tensor]  # (R,) each
    num_parameters: int | None
    bound: Tensor | None = None  # (R,) nats
    moments: Moments | None = None
    reference: Reference | None = None
    elbo: Tensor | None = None  # (R,) nats
    shifts: Mapping[str, ShiftedTest] = field(default_factory=dict)
    inputs: Tensor | None = None  # (R, N, *S)
    gold: Predicted | None = None
    calibration: Calibration | None = None
    functions: Tensor | None = None  # (M, R, N) nats
    truth: Truth | None = None


class Metric(Protocol):
    """A number with a unit and a direction."""

    @property
    def summary(self) -> str:
        """One line: what is measured."""
        ...

    @property
    def unit(self) -> str:
        """The unit of its values: nats, a fraction, a count or another."""
        ...

    @property
    def better(self) -> Literal["higher", "lower"]:
        """Which direction is an improvement."""
        ...

    def __call__(self, evaluation: Evaluation) -> dict[str, Tensor]:
        """Compute the metric of each replicate.

        Args:
            evaluation: What was predicted.

        Returns:
            Values (R,) float64, keyed by out-of-distribution set or layer, or by "" for a single value; {} where
            undefined.
        """
        ...


@runtime_checkable
class Versioned(Protocol):
    """A metric that says which of its meanings this is, from 1 on.

    Whoever changes what a metric means raises its version, and no table or comparison mixes the two. Without a version
    the name of the metric's class stands for what it means.
    """

    @property
    def version(self) -> int:
        """The number of this meaning."""
        ...


@runtime_checkable
class UnderShift(Protocol):
    """A metric of the test set that says whether it is also asked of each shifted test set, for columns `name[shift]`.

    It is called with that set in the place of the test set, and knows nothing else of shifts. Its value of the key ""
    is kept.
    """

    @property
    def under_shift(self) -> bool:
        """Whether it is."""
        ...


@runtime_checkable
class ReadsReference(Protocol):
    """A metric that says that it compares with `Evaluation.gold`: it has values only where a reference is given."""

    @property
    def reads_reference(self) -> bool:
        """Whether it does."""
        ...


@runtime_checkable
class MeanOverExamples(Protocol):
    """A metric that is a mean over test examples and tells what each contributes. Other metrics are jackknifed."""

    def by_example(self, evaluation: Evaluation) -> dict[str, Tensor]:
        """Return the contribution of each example, whose mean over N is the value.

        Args:
            evaluation: What was predicted.

        Returns:
            (R, N) float64 each, by the same keys as the values.
        """
        ...


@runtime_checkable
class WithoutBlocks(Protocol):
    """A metric that computes its values without each block of examples faster than by being called again for each."""

    def without_blocks(self, evaluation: Evaluation, population: str, block: Tensor) -> dict[str, Tensor]:
        """Compute the values without each block of examples of one population; other populations stay whole.

        Args:
            evaluation: What was predicted.
            population: `TEST`, or the name of an out-of-distribution set.
            block: The block of each of its examples, (N,) int64 from 0.

        Returns:
            (R, blocks) float64 each, by those of its keys that use the population.
        """
        ...
