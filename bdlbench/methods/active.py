"""Active learning: labels are bought, round by round, where the posterior is unsure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import Tensor

from bdlbench.core.errors import BadInput
from bdlbench.core.options import option
from bdlbench.core.streams import Streams
from bdlbench.data.task import Data
from bdlbench.posteriors.acquisition import BOUGHT_BY, Acquisition, highest
from bdlbench.protocols import Method, Model, Posterior, Restores


@dataclass(frozen=True)
class Active:
    """Active learning: another method on a part of the training data that grows by what its posterior asks for.

    It starts with the labels of `start` examples, drawn at random. In each of `rounds` rounds the method is trained
    from its start on the examples that have a label, `samples` draws of its posterior predict all others, and the
    `step` examples of the highest score get theirs (Gal, Islam & Ghahramani 2017). What is returned is trained on all
    start + rounds · step of them, with the streams that the method has alone. No label is read before it is bought.

    acquisition=random buys the next examples of the order that the first ones began, and trains in no round. The first
    examples, and with them those of every round, depend on the seed alone, so acquisitions are compared in pairs.
    """

    method: Method | Any = option("mc_dropout", "method that is trained; its own options apply", entry="methods")
    acquisition: Acquisition = option("bald", "what is bought: the highest score", choices=get_args(Acquisition))
    start: int = option(20, "labels before the first round", low=1)
    step: int = option(10, "labels that a round buys", low=1)
    rounds: int = option(8, "rounds of buying", low=0)
    samples: int = option(20, "posterior samples behind the scores", low=1)

    def unsupported(self, model: Model) -> str | None:
        """Say why the method cannot train this model, or why its predictions have no score; None where it can."""
        if model.signature.likelihood != "categorical":
            return f"it buys by scores of classes, which a {model.signature.likelihood} target does not have"
        reason: str | None = self.method.unsupported(model)
        return reason

    def fit(self, model: Model, data: Data, rng: Streams) -> Posterior:
        """Buy labels and train on them.

        Raises:
            BadInput: There are fewer examples than labels to buy, or the score needs several samples of the posterior.
        """
        budget = self.start + self.rounds * self.step
        if budget > data.num_data:
            raise BadInput(
                f"active: start={self.start}, step={self.step} and rounds={self.rounds} buy {budget} labels, and there "
                f"are {data.num_data} training examples"
            )
        order = rng.child("pool").permutation(data.num_data).to(data.x.device)  # (R, N)
        score = BOUGHT_BY[self.acquisition]
        if score is None:
            return self._trained(model, data, order[:, :budget], rng)
        labelled = order[:, : self.start]
        for k in range(self.rounds):
            streams = rng.child(f"round {k}")
            posterior = self._trained(model, data, labelled, streams)
            predictive = posterior.predict(data.x, self.samples, streams.child("acquisition"))
            if score == "mutual_information" and predictive.samples < 2:
                raise BadInput("active: acquisition=bald needs a posterior of several samples: take entropy")
            labelled = torch.cat([labelled, highest(predictive.scores[score], labelled, self.step)], -1)
        return self._trained(model, data, labelled, rng)

    def restored(self, model: Model, state: Mapping[str, Tensor]) -> Posterior | None:
        """Rebuild the last posterior, where its method can."""
        return self.method.restored(model, state) if isinstance(self.method, Restores) else None

    def _trained(self, model: Model, data: Data, labelled: Tensor, rng: Streams) -> Posterior:
        """Train on these examples of each row, (R, K)."""
        some = data.batch(labelled)
        posterior: Posterior = self.method.fit(model, Data(some.x, some.y), rng)
        return posterior


methods = {"active": Active}
