"""Every method's objective and its gradient at a fixed float64 state: 1 % of a KL's weight shows in the third digit.

This reveals faults too small for statistics of trained networks. Data, parameters and noise are computed in float64
from raw words, so they do not depend on random number generators that change between versions or processors.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from typing import Any, cast

import torch
from scipy.special import ndtri
from torch import Tensor

from bdlbench import catalog
from bdlbench.core import foreign
from bdlbench.core.options import fields
from bdlbench.core.streams import Streams
from bdlbench.data.splits import random_words
from bdlbench.data.task import Data, Likelihood, Signature
from bdlbench.gate.contracts import own_methods
from bdlbench.protocols import HasModule, Model
from bdlbench.training.audit import Audit, audit
from bdlbench.training.loop import Fit, begin
from bdlbench.training.recipe import Recipe

ROWS, EXAMPLES = 2, 12
TOLERANCE = 1e-8
"""Relative; float64 rounds at 1e-16, and a sum of a thousand terms in another order at 1e-14."""

SHAPES = ((5,), (1, 5, 7), (1, 8, 8), (1, 16, 16), (1, 28, 28))
TARGETS: tuple[tuple[int, Likelihood], ...] = (
    (3, "categorical"),
    (2, "categorical"),
    (1, "gaussian"),
    (3, "bernoulli"),
)

MeasuredObjective = dict[str, Any]
"""objective and gradient_norm (each a list over rows), and by name the terms, temperatures and local factors."""


@dataclass
class FixedStreams:
    """Noise that never changes, in place of `core.streams.Streams`; draws depend on the path and their order."""

    lead: tuple[int, ...]
    path: tuple[str, ...] = ()
    drawn: int = field(default=0, init=False)

    def child(self, name: str) -> FixedStreams:
        """Return the streams of another name."""
        return FixedStreams(self.lead, (*self.path, name))

    def samples(self, first: int, count: int) -> FixedStreams:
        """Return streams (count, *lead)."""
        return FixedStreams((count, *self.lead), (*self.path, f"sample {first}"))

    def members(self, count: int) -> FixedStreams:
        """Return streams (R·count,)."""
        return FixedStreams((self.lead[0] * count,), (*self.path, "members"))

    def normal(self, shape: Sequence[int], like: Tensor, name: str = "") -> Tensor:
        """Draw standard normal numbers (*lead, *shape)."""
        return torch.from_numpy(ndtri(self._uniform(shape).numpy())).to(like)

    def bits(self, shape: Sequence[int], like: Tensor, name: str = "") -> Tensor:
        """Draw uniform int16 numbers (*lead, *shape)."""
        return (self._uniform(shape) * 65536 - 32768).floor().to(like.device, torch.int16)

    def permutation(self, length: int) -> Tensor:
        """Return the identity permutation, (*lead, length)."""
        return torch.arange(length).expand(*self.lead, length)

    def _uniform(self, shape: Sequence[int]) -> Tensor:
        """Draw numbers between 0 and 1, both excluded, (*lead, *shape) float64."""
        size = (*self.lead, *shape)
        words = random_words(math.prod(size), *self.path, self.drawn)
        self.drawn += 1
        return torch.from_numpy(((words >> 11).astype("float64") + 0.5) / 2**53).reshape(size)


def measure() -> dict[str, MeasuredObjective]:
    """Measure every method of the catalog on every model that it supports, by "method · model"; not on modules."""
    return dict(_measured())


def is_measured(content: Any) -> bool:
    """Return whether the content of a file has the form of the result of `measure`."""
    return isinstance(content, dict) and all(
        isinstance(case, dict)
        and all(_is_column(case.get(key)) for key in ("objective", "gradient_norm"))
        and all(_is_table(case.get(key)) for key in _NOTHING)
        for case in content.values()
    )


def _is_column(content: Any) -> bool:
    return isinstance(content, list) and all(isinstance(value, int | float) for value in content)


def _is_table(content: Any) -> bool:
    return isinstance(content, dict) and all(map(_is_column, content.values()))


def differences(reference: Mapping[str, MeasuredObjective], found: Mapping[str, MeasuredObjective]) -> list[str]:
    """Return one line for each case that differs from the reference, with the responsible part of its objective."""
    lines = [f"{name}: no such case any more" for name in reference if name not in found]
    for name, here in found.items():
        if name not in reference:
            lines.append(f"{name}: not in the reference")
        elif (there := reference[name]) != here and (parts := _parts(there, here)):
            lines.append(f"{name}: " + "; ".join(parts))
    return lines


def _parts(there: MeasuredObjective, here: MeasuredObjective) -> list[str]:
    """Return the terms and factors of a case that differ, or the whole objective if none does."""
    parts = []
    for kind, words in (
        ("temperature", "the factor of its {} is {}/N, was {}/N: kernels/elbo.py, or what it is given"),
        ("local", "the latent's {} has the factor {}, had {}"),
        ("terms", "its {} is {}, was {}"),
    ):
        for name in sorted({*there[kind], *here[kind]}):
            was, now = there[kind].get(name), here[kind].get(name)
            if _apart(was, now):
                parts.append(words.format(name, _spelled(now), _spelled(was)))
    if parts:
        return parts
    for kind, words in (("objective", "its objective"), ("gradient_norm", "the norm of its gradient")):
        if _apart(there[kind], here[kind]):
            parts.append(f"{words} is {_spelled(here[kind])}, was {_spelled(there[kind])}")
    return parts


def _apart(a: Sequence[float] | None, b: Sequence[float] | None) -> bool:
    if a is None or b is None or len(a) != len(b):
        return a is not b
    return not all(math.isclose(x, y, rel_tol=TOLERANCE, abs_tol=1e-12) for x, y in zip(a, b, strict=True))


def _spelled(values: Sequence[float] | None) -> str:
    return "absent" if values is None else f"{values[0]:.9g}" if values else "not there"


def _measured() -> Iterator[tuple[str, MeasuredObjective]]:
    small = tomllib.loads((resources.files("bdlbench.gate") / "objectives.toml").read_text("utf-8"))
    for model_name in catalog.names("models"):
        model: Any = _suited(model_name, small)
        if isinstance(model, HasModule):  # torch's generator starts it, and other models have its layers too
            continue
        for method_name in own_methods() if model else ():
            for label, settings in _variants(method_name, small, model_name == next(iter(small))):
                method = catalog.build_method([catalog.choice("methods", method_name, settings)])
                asked = foreign.calling(f"method {method_name} on {model_name}", method)
                with asked, foreign.calling(f"model {model_name} in {method_name}", model):
                    found = _case(method, model) if model and method.unsupported(model) is None else None
                if found is not None:
                    yield f"{method_name}{label} · {model_name}", found


def _variants(method: str, small: Mapping[str, Any], all_choices: bool) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the method with its defaults, and with every choice of each option, one at a time."""
    yield "", small
    for option, chosen in fields(catalog.load("methods", method)).items() if all_choices else ():
        for value in chosen.metadata["choices"] if option not in fields(Recipe) else ():  # no part of an objective
            if value != chosen.default:
                yield f" ({option} {value})", {**small, method: {**small.get(method, {}), option: value}}


def _suited(name: str, small: Mapping[str, Any]) -> Model | None:
    """Return the model in its small form, for the first target and shape that it supports."""
    chosen = catalog.choice("models", name, small)
    signatures = (Signature(shape, *target) for target in TARGETS for shape in SHAPES)
    models = (catalog.build_model([chosen], signature) for signature in signatures)
    return next((model for model in models if model.unsupported() is None), None)


def _case(method: Any, model: Model) -> MeasuredObjective:
    """Measure the objective of a method's last fit, near its start.

    If nothing is minimised, it is what was reached: the bound, or without one the likelihood of the training data.
    """
    data = _data(model.signature)
    rng = cast(Streams, FixedStreams((ROWS,)))
    fits, done = begin(lambda: method.fit(model, data, rng), 1)
    if fits:
        return _of_audit(_near_the_start(fits[-1]))
    posterior: Any = done
    if posterior.bound is not None:
        reached = posterior.bound / data.num_data
    else:
        reached = posterior.predict(data.x, 1, rng).log_prob(data.y).mean(-1)
    return {"objective": (-reached).tolist(), "gradient_norm": [], **_NOTHING}


_NOTHING: MeasuredObjective = {"terms": {}, "temperature": {}, "local": {}}


def _near_the_start(fit: Fit) -> Audit:
    """Audit a little off the start, because biases and some gradients are zero at it."""
    off = cast(Streams, FixedStreams((len(fit.initial),), ("state",))).normal(fit.initial.shape[1:], fit.initial)
    return audit(replace(fit, initial=fit.initial + 0.1 * off, state=None))


def _of_audit(found: Audit) -> MeasuredObjective:
    columns = {"terms": found.values, "temperature": found.temperature, "local": found.local}
    whole = {"objective": found.objective.tolist(), "gradient_norm": found.gradient_norm.tolist()}
    return whole | {key: {name: v.tolist() for name, v in table.items()} for key, table in columns.items()}


def _data(signature: Signature) -> Data:
    """Return ROWS different data sets of EXAMPLES examples, with inputs between 0 and 1, float64."""
    like = torch.zeros((), dtype=torch.float64)
    rng = FixedStreams((ROWS,), ("data",))
    x = rng._uniform((EXAMPLES, *signature.input_shape))
    if signature.likelihood == "gaussian":
        return Data(x, rng.normal((EXAMPLES,), like))
    return Data(x, (rng._uniform((EXAMPLES,)) * max(2, signature.outputs)).long())
