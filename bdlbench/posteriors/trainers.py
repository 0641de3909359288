"""Training code from outside as a method: a plain function that trains a torch module, and returns what predicts by it.

    def train(make_module, train, validation, seed, budget, *, learning_rate=1e-3):
        ...
        return predict

    methods = {"mine": from_trainer(train)}

Rows are trained one after the other, since such code knows no replicate axis.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, make_dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, gaussian_nll_loss
from torch.utils.data import TensorDataset

from bdlbench.core import torch_state
from bdlbench.core.errors import BadInput, Diverged
from bdlbench.core.foreign import written
from bdlbench.core.layout import Layout
from bdlbench.core.options import option, row_of
from bdlbench.core.streams import Streams
from bdlbench.data.task import Data
from bdlbench.networks.likelihoods import CategoricalOutput
from bdlbench.networks.plain_module import PlainModule, no_plain_module, noise_sd
from bdlbench.posteriors.fitting import initial_network, training_option
from bdlbench.posteriors.weights import EXAMPLES
from bdlbench.predictives.mixtures import CategoricalSum, GaussianMixture, Predictive
from bdlbench.protocols import HasModule, Model, Moments
from bdlbench.training.loop import predicted

Predict = Callable[[Tensor, int], Tensor | tuple[Tensor, Tensor]]
"""predict(x, samples), with x (n, *S), gives class logits (M, n, C), or a number's means and variances, (M, n) each."""

Trainer = Callable[..., Predict]
"""train(make_module, train, validation, seed, budget, **options) gives `predict`."""

GIVEN = 5
"""How many arguments a trainer is given by position."""

PREDICTED_EXAMPLES = 16
"""How many training examples are predicted for the record: what was learnt may lie outside the module that was made."""


@dataclass(frozen=True)
class Budget:
    """How long a trainer may train.

    Attributes:
        epochs: Passes over the training data; `steps` replaces them.
        batch_size: Examples in a batch.
        steps: Steps in all; 0: as many as `epochs` take.
    """

    epochs: int
    batch_size: int
    steps: int = 0

    def num_steps(self, train: TensorDataset) -> int:
        """Return how many batches `batches` gives.

        Args:
            train: The training data.

        Returns:
            The number of steps.
        """
        return self.steps or self.epochs * max(1, len(train) // self.batch_size)

    def batches(self, train: TensorDataset) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield x and y of shuffled batches, as long as the budget lasts; an incomplete last batch is dropped.

        The order is drawn from torch's own generator, which the trainer's seed has set.

        Args:
            train: The training data.

        Yields:
            x (B, *S) and y (B,), or (B, 1) of numbers.
        """
        size, left = min(self.batch_size, len(train)), self.num_steps(train)
        while left > 0:
            order = torch.randperm(len(train), generator=torch.default_generator)
            for start in range(0, min(left, len(train) // size) * size, size):
                yield train[order[start : start + size]]
                left -= 1


def from_trainer(
    train: Trainer, needs: str = "", refuses: Callable[[Any, Model], str | None] | None = None, **options: Any
) -> type:
    """Make a method of a function that trains.

    It is called for one replicate at a time as train(make_module, train, validation, seed, budget, **options). `train`
    and `validation` (None unless the option `validation` asks for a share) are TensorDatasets of x (n, *S) and y: (n,)
    int64 classes, or (n, 1) standardised numbers. `seed` is the row's own; torch's, NumPy's and Python's generators are
    seeded with it, and put back. What it returns is `Predict`.

    The keywords of `train` that follow the five and have a default are options of the method, beside `epochs`,
    `batch_size`, `steps` and `validation`. A number may differ between replicates. An option with the name of one that
    other methods have, such as `learning_rate`, has its range and its help.

    Args:
        train: The trainer. Its docstring is the method's.
        needs: A module that must be installed, by the extra of bdlbench that has its name: "laplace".
        refuses: refuses(method, model) says why a model cannot be trained, or None where it can.
        **options: What `option` or `training_option` returns, for options that need a range, choices or help of their
            own.

    Returns:
        The class, for a dict `methods`.

    Raises:
        BadInput: The function does not take what it is given, or an argument has no default.
    """
    known = {
        "epochs": training_option("epochs"),
        "batch_size": training_option("batch_size"),
        "steps": training_option("steps"),
        "validation": training_option("validation", help="share of the training rows that is given apart"),
    }
    own = _own_options(train)
    if stray := sorted(options.keys() - known.keys() - own.keys()):
        raise BadInput(f"from_trainer: {stray[0]} is no argument of {train.__name__} ({written(train)})")
    if twice := sorted(own.keys() & known.keys()):
        raise BadInput(f"{train.__name__} ({written(train)}): {twice[0]} is in `budget`, so it cannot be an argument")
    declared = known | own | options
    columns = [(name, _annotation(name, one.default), one) for name, one in declared.items()]
    words = {
        "__doc__": inspect.getdoc(train) or f"{train.__name__}: a trainer without a docstring.",
        "__module__": train.__module__,
        "row_by_row": True,
        "made_by": staticmethod(train),
        "unsupported": lambda self, model: _unsupported(model, needs) or (refuses and refuses(self, model)),
        "fit": lambda self, model, data, rng: _fit(self, train, tuple(own), model, data, rng),
    }
    return make_dataclass(train.__name__, columns, namespace=words, frozen=True)


def _own_options(train: Trainer) -> dict[str, Any]:
    """Return the options that a trainer's arguments declare."""
    parameters = list(inspect.signature(train).parameters.values())
    where = f"{train.__name__} ({written(train)})"
    wrong = [p.name for p in parameters[:GIVEN] if p.kind not in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if len(parameters) < GIVEN or wrong:
        raise BadInput(f"{where} does not take what it is given: make_module, train, validation, seed, budget")
    if missing := [p.name for p in parameters[GIVEN:] if p.default is p.empty]:
        raise BadInput(f"{where}: {missing[0]} has no default, so it is no option: give it one")
    return {p.name: _option(p.name, p.default, train) for p in parameters[GIVEN:]}


def _option(name: str, default: Any, train: Trainer) -> Any:
    """Return the option that other methods share, with this default, or one that is the trainer's own."""
    try:
        return training_option(name, default=default)
    except KeyError:
        return option(default, f"`{name}` of {train.__name__}")


def _annotation(name: str, default: Any) -> str:
    """Return the annotation of an option: a number may differ between replicates, but for the share held out."""
    return "PerRow" if isinstance(default, float) and name != "validation" else type(default).__name__


def _unsupported(model: Model, needs: str) -> str | None:
    """Say why a model cannot be trained from outside: it is no plain module, or the library is not installed."""
    if needs and find_spec(needs) is None:
        return f"it needs a library that is not installed: pip install 'bdlbench[{needs.replace('_', '-')}]'"
    if model.signature.likelihood not in ("categorical", "gaussian"):
        return f"a trainer from outside has classes or a number to learn, not a {model.signature.likelihood} target"
    return no_plain_module(row_of(model, 0))


@dataclass(frozen=True)
class TrainerPosterior:
    """What a trainer returned for each row.

    Attributes:
        classes: C; 0 where the target is a number.
        predicts: `predict` of each row.
        where: The trainer's file and line, for messages.
        state: The modules that were made, as training left them, and predictions of the first training examples.
        facts: None.
        bound: None: what was minimised is not known.
    """

    classes: int
    predicts: tuple[Predict, ...]
    where: str
    state: Mapping[str, Tensor] = field(default_factory=dict)
    facts: Mapping[str, Tensor] = field(default_factory=dict)
    bound: Tensor | None = None

    def predict(self, x: Tensor, samples: int, rng: Streams, joint: bool = False) -> Predictive:
        """Ask each row's `predict`, some examples at a time.

        Args:
            x: Inputs (R, N, …).
            samples: M, the number of draws; the trainer may give fewer, or one for each of its networks.
            rng: Streams (R,), from which generators of the process are seeded.
            joint: Must be False: which draws are of one network is not known.

        Returns:
            The predictive of R replicates on N inputs.

        Raises:
            BadInput: What it gives has another shape, or is no logits, or `joint` is asked for.
            Diverged: Something is not finite.
        """
        if joint:
            raise BadInput(f"trainer {self.where}: it cannot draw jointly, since only it knows its networks")
        blocks = x.split(EXAMPLES, dim=1)
        found = []
        for i, block in enumerate(blocks):
            streams = rng.child(f"block {i}")
            rows = [self.of_row(r, block[r].clone(), samples, streams) for r in range(len(x))]
            if len({len(row[0]) for row in rows}) > 1:
                raise BadInput(
                    f"trainer {self.where}: its rows give differently many samples, {[len(r[0]) for r in rows]}"
                )
            found.append(self._reduced([torch.stack(parts, 1) for parts in zip(*rows, strict=True)]))
            predicted((i + 1) / len(blocks))
        return found[0].join(found[1:])

    def moments(self) -> Moments | None:
        """Return None: the weights are the trainer's own."""
        return None

    def measured(self, x: Tensor, rng: Streams) -> Mapping[str, Tensor]:
        """Return {}: nothing is measured."""
        return {}

    def of_row(self, r: int, x: Tensor, samples: int, streams: Streams) -> tuple[Tensor, ...]:
        """Return what row r predicts for x (n, *S), checked: logits (M, n, C), or means and sds (M, n) each."""
        with torch_state.stirred(_seed(streams, r)), torch.enable_grad():
            given: Any = self.predicts[r](x, samples)
        parts = given if isinstance(given, tuple) else (given,)
        shapes = [tuple(part.shape) if isinstance(part, Tensor) else type(part).__name__ for part in parts]
        if self.classes:
            fits = len(parts) == 1 and shapes[0][1:] == (len(x), self.classes) and len(shapes[0]) == 3
            wanted = f"logits (M, {len(x)}, {self.classes})"
        else:
            fits = len(parts) == 2 and all(tuple(s)[1:] in ((len(x),), (len(x), 1)) for s in shapes)
            wanted = f"means and variances (M, {len(x)}) each"
        if not fits or not len(parts[0]) or len({len(part) for part in parts}) > 1:
            raise BadInput(f"trainer {self.where}: predict gives {' and '.join(map(str, shapes))}, not {wanted}")
        parts = tuple(part.detach() for part in parts)
        if not all(part.isfinite().all() for part in parts):
            raise Diverged(f"trainer {self.where}: predict gives numbers that are not finite")
        if self.classes:
            if _are_probabilities(parts[0]):
                raise BadInput(f"trainer {self.where}: predict gives probabilities, not logits: take their logarithm")
            return parts
        means, variances = (part.reshape(len(part), len(x)) for part in parts)
        if not (variances > 0).all():
            raise BadInput(f"trainer {self.where}: predict gives the variance {variances.min():g}, not a positive one")
        return means, variances.sqrt()

    def _reduced(self, parts: list[Tensor]) -> Predictive:
        """Reduce logits (M, R, n, C), or means and standard deviations (M, R, n), over M."""
        if not self.classes:
            return GaussianMixture(parts[0], parts[1])
        total = CategoricalSum(len(parts[0]))
        total.add(CategoricalOutput(parts[0]))
        return total.finish()


def _fit(method: Any, train: Trainer, own: Sequence[str], model: Model, data: Data, rng: Streams) -> TrainerPosterior:
    """Call the trainer for one row after another."""
    where, classes = written(train), model.signature.outputs if model.signature.likelihood == "categorical" else 0
    order = rng.child("validation").permutation(data.num_data).to(data.x.device)  # as `data.validation` holds out
    predicts, states = [], []
    for r in range(data.rows):
        options, streams = row_of(method, r), Streams([rng.keys[r]])
        x, y = data.x[r].clone(), data.y[r].clone() if classes else data.y[r].unsqueeze(-1)
        given, validation = TensorDataset(x, y), None
        if options.validation:
            kept = math.floor(round((1 - options.validation) * data.num_data, 9))  # as there: 1 − 0.9 is below 0.1
            if not 0 < kept < data.num_data:
                raise BadInput(f"validation={options.validation:g} of {data.num_data} examples leaves none on one side")
            given, validation = (TensorDataset(x[index], y[index]) for index in (order[r, :kept], order[r, kept:]))
        make_module = MakeModule(row_of(model, r), data.row(r), streams)
        seed = _seed(streams.child("trainer"))
        with torch_state.stirred(seed), torch.enable_grad():
            budget = Budget(options.epochs, options.batch_size, options.steps)
            chosen = {name: getattr(options, name) for name in own}
            predict = train(make_module, given, validation, seed, budget, **chosen)
        if not callable(predict):
            raise BadInput(f"trainer {where}: it returns a {type(predict).__name__}, not predict(x, samples)")
        predicts.append(predict)
        posterior = TrainerPosterior(classes, (predict,), where)
        first = posterior.of_row(0, x[:PREDICTED_EXAMPLES], 1, streams.child("fingerprint"))
        states.append(make_module.state() | {f"predicted{i or ''}": part for i, part in enumerate(first)})
    shapes = [{name: tuple(value.shape) for name, value in state.items()} for state in states]
    if any(one != shapes[0] for one in shapes):
        raise BadInput(f"trainer {where}: what it learns has other shapes for other replicates")
    return TrainerPosterior(
        classes, tuple(predicts), where, {n: torch.stack([s[n] for s in states]) for n in states[0]}
    )


class MakeModule:
    """Makes a new torch module at every call: on inputs (B, *S), with outputs (B, C), or (B, 1) of a number.

    The first starts where the row's network starts under other methods, the k-th where member k of an ensemble does.

    Attributes:
        noise_sd: Standard deviation of a Gaussian target on the scale that the module sees; None of classes.
    """

    def __init__(self, model: Model, data: Data, streams: Streams) -> None:
        """Take the model, the data and the streams of one replicate."""
        self.noise_sd = noise_sd(model)
        self._model, self._data, self._streams = model, data, streams
        self._made: list[nn.Module] = []

    def __call__(self) -> nn.Module:
        """Make the next module."""
        streams = Streams([self._streams.members(len(self._made) + 1).keys[-1]]).child("init")
        if isinstance(self._model, HasModule):
            module = self._model.module(streams.child("start"))
        else:
            layout = Layout(self._model.leaves())
            flat = initial_network(self._model, self._data, streams).detach()
            module = PlainModule(self._model, {name: value[0] for name, value in layout.views(flat).items()})
        self._made.append(module.to(self._data.x.device))
        return self._made[-1]

    def nll(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Compute the negative log-likelihood of the model.

        Args:
            outputs: What the module returns: (B, C), or (B, 1) or (B,) of a number.
            y: Targets (B,) or (B, 1).

        Returns:
            Its mean over the examples, in nats.
        """
        if self.noise_sd is None:
            return cross_entropy(outputs, y)
        variance = torch.full_like(y, self.noise_sd**2)
        return gaussian_nll_loss(outputs.reshape(y.shape), y, variance, full=True)

    def predictive(self, outputs: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Return what a trainer's `predict` has to return, where M networks have these outputs.

        Args:
            outputs: (M, n, C), or (M, n, 1) of a number.

        Returns:
            The logits themselves, or means and variances (M, n, 1) each.
        """
        return outputs if self.noise_sd is None else (outputs, torch.full_like(outputs, self.noise_sd**2))

    def state(self) -> dict[str, Tensor]:
        """Return the tensors of all modules that were made, as they are now; the k-th module's begin with `k.`."""
        return {
            f"{k}.{name}" if k else name: value.detach().clone()
            for k, module in enumerate(self._made)
            for name, value in module.state_dict().items()
        }


def _seed(streams: Streams, r: int = 0) -> int:
    """Return what generators of the process take as a seed, of row r."""
    return streams.keys[r] % 2**31


def _are_probabilities(logits: Tensor) -> bool:
    """Tell whether all numbers lie in [0, 1] and add up to one over the classes."""
    return bool(((logits >= 0) & (logits <= 1)).all() and ((logits.sum(-1) - 1).abs() < 1e-3).all())
