"""The package's own turn, by its public seams: `fit` of a registered method, and `predict` of the posterior."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from bdlbench import catalog
from bdlbench.core.streams import Streams
from bdlbench.data.task import Data, Signature
from bdlbench.peers.work import OURS, Contender, Run
from bdlbench.protocols import Posterior

PeerOptions = Mapping[str, Any]


def fitted(method: str, model: str, options: Mapping[str, PeerOptions], signature: Signature, data: Data) -> Posterior:
    """`fit` of registered entries with these options, {entry: {option: value}}: one row for each row of the data."""
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
    """`count` epochs of `fit`, whatever it costs: initial rows, steps, and what a method does when they are done."""

    def build(count: int) -> Run:
        chosen = {method: {"epochs": count, "batch_size": batch, **(options or {})}, model[0]: model[1]}
        examples = data()
        return lambda: fitted(method, model[0], chosen, signature, examples)

    return Contender(OURS, build, differs=differs)


def predicting(
    method: str,
    data: Callable[[], Data],
    signature: Signature,
    x: Callable[[], Tensor],
    options: PeerOptions,
    joint: bool,
) -> Contender:
    """`predict` of x (N, …) from `count` samples, by a posterior that was trained for one epoch."""
    differs = "also ten group means and the expected entropy"

    def build(count: int) -> Run:
        settings = {method: {"epochs": 1, **options}, "mlp": {"widths": "300-100"}}
        posterior, inputs = fitted(method, "mlp", settings, signature, data()), x().unsqueeze(0)
        return lambda: posterior.predict(inputs, count, Streams.of_seeds([0]), joint)

    return Contender(OURS, build, differs=differs)
