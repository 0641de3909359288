"""This package as a contender, through its public interface: `fit` of a method, and `predict` of its posterior."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from bdlbench import catalog
from bdlbench.core.streams import Streams
from bdlbench.data.task import Data, Signature
from bdlbench.networks.from_module import from_module
from bdlbench.peers.work import OURS, Contender, Run
from bdlbench.protocols import Posterior

PeerOptions = Mapping[str, Any]

PREDICTS_MORE = "also ten group means and the expected entropy"


def fitted(method: str, model: str, options: Mapping[str, PeerOptions], signature: Signature, data: Data) -> Posterior:
    """Fit a registered method on a registered model.

    Args:
        method: The name of the method.
        model: The name of the model.
        options: {entry: {option: value}}.
        signature: The shape and likelihood of the data.
        data: Training data; each of its rows trains a replicate.

    Returns:
        The posterior.
    """
    built = catalog.build_model([catalog.choice("models", model, options)], signature)
    trainer = catalog.build_method([catalog.choice("methods", method, options)])
    return trainer.fit(built, data, Streams.of_seeds(range(data.rows)))


def training(
    method: str,
    data: Callable[[], Data],
    signature: Signature,
    batch: int,
    options: PeerOptions | None = None,
    model: tuple[str, PeerOptions] = ("mlp", {"widths": "300-100"}),
    differs: str = "",
) -> Contender:
    """Time `count` epochs of `fit`, with all its work before the first and after the last step."""

    def build(count: int) -> Run:
        chosen = {method: {"epochs": count, "batch_size": batch, **(options or {})}, model[0]: model[1]}
        examples = data()
        return lambda: fitted(method, model[0], chosen, signature, examples)

    return Contender(OURS, build, differs=differs)


def training_module(
    make: Callable[[], nn.Module],
    method: str,
    data: Callable[[], Data],
    signature: Signature,
    batch: int,
    options: PeerOptions | None = None,
) -> Contender:
    """Time `count` epochs of `fit` of an `nn.Module`, with all its work before the first and after the last step."""

    def build(count: int) -> Run:
        chosen = {method: {"epochs": count, "batch_size": batch, **(options or {})}}
        trainer = catalog.build_method([catalog.choice("methods", method, chosen)])
        model, examples = from_module(make)(signature), data()
        model.leaves()  # the trial is no part of a fit
        return lambda: trainer.fit(model, examples, Streams.of_seeds(range(examples.rows)))

    return Contender(OURS, build)


def predicting_module(
    make: Callable[[], nn.Module], method: str, data: Callable[[], Data], signature: Signature, x: Callable[[], Tensor]
) -> Contender:
    """Time `predict` of x (N, …) by an `nn.Module` from `count` samples, after one epoch of training."""

    def build(count: int) -> Run:
        trainer = catalog.build_method([catalog.choice("methods", method, {method: {"epochs": 1}})])
        posterior, inputs = trainer.fit(from_module(make)(signature), data(), Streams.of_seeds([0])), x().unsqueeze(0)
        return lambda: posterior.predict(inputs, count, Streams.of_seeds([0]))

    return Contender(OURS, build, differs=PREDICTS_MORE)


def predicting(
    method: str,
    data: Callable[[], Data],
    signature: Signature,
    x: Callable[[], Tensor],
    options: PeerOptions,
    joint: bool,
) -> Contender:
    """Time `predict` of x (N, …) from `count` samples, by a posterior that was trained for one epoch."""

    def build(count: int) -> Run:
        settings = {method: {"epochs": 1, **options}, "mlp": {"widths": "300-100"}}
        posterior, inputs = fitted(method, "mlp", settings, signature, data()), x().unsqueeze(0)
        return lambda: posterior.predict(inputs, count, Streams.of_seeds([0]), joint)

    return Contender(OURS, build, differs=PREDICTS_MORE)
