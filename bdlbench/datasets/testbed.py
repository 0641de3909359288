"""The generated problems of the Neural Testbed, whose class probabilities are known. No download."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from scipy.special import log_softmax, ndtr, ndtri

from bdlbench.core import memory
from bdlbench.core.options import option
from bdlbench.data.downloads import RemoteFile, array_checksum
from bdlbench.data.splits import Reals, checked, random_uniform
from bdlbench.data.task import Examples, Signature, Task

HIDDEN = 50
"""Units of each of the two hidden layers of the true function."""


@dataclass(frozen=True)
class NeuralTestbed:
    """Classes drawn from a random network (Osband et al. 2022, §3): function and examples anew for each split.

    The true function is a ReLU network with two hidden layers of 50 units, whose logits are divided by the temperature:
    the lower it is, the surer are the classes. Weights are normal with variance 1/fan-in, cut off at two standard
    deviations; biases of the first layer are normal with variance 1/input_dim, others zero. Inputs are standard normal,
    for training and for testing, and are not scaled. The class probabilities of the test inputs are `Task.truth`. No
    OOD set.

    This is the protocol of the authors' code; its streams of random numbers are JAX's, so its problems are others from
    the same distribution.
    """

    input_dim: int = option(2, "inputs; the paper has 2, 10 and 100", low=1)
    train_ratio: int = option(10, "training examples for each input; the paper has 1, 10, 100 and 1000", low=1)
    temperature: float = option(
        0.1, "what the logits are divided by; the paper has .01, .1 and .5", low=0, open_ends=True
    )
    num_classes: int = option(2, "classes", low=2)
    num_test: int = option(1000, "examples for testing", low=1)

    files: ClassVar[tuple[RemoteFile, ...]] = ()
    origin: ClassVar[str] = "drawn anew for each split"

    def load(self, split: int) -> Task:
        """Draw one split, any number from 0.

        Raises:
            BadInput: The split is negative.
        """
        num_train = self.train_ratio * self.input_dim
        rows = num_train + self.num_test
        what = f"testbed: {rows:,} examples of {self.input_dim:,} inputs"
        memory.refuse(8 * rows * (self.input_dim + HIDDEN + self.num_classes), what)
        key = ("testbed", self.input_dim, self.train_ratio, repr(self.temperature), self.num_classes, checked(split))
        x = ndtri(random_uniform(rows * self.input_dim, *key, "inputs")).reshape(rows, -1).astype(np.float32)
        log_probs = log_softmax(true_logits(x.astype(np.float64), self.num_classes, *key) / self.temperature, axis=1)
        below = np.exp(log_probs).cumsum(1)[:, :-1]  # (rows, C − 1)
        y = (random_uniform(rows, *key, "classes")[:, None] > below).sum(1).astype(np.int64)
        train, test = (
            Examples(torch.from_numpy(x[part]), torch.from_numpy(y[part]))
            for part in np.split(np.arange(rows), [num_train])
        )
        return Task(
            Signature((self.input_dim,), self.num_classes, "categorical"),
            train,
            test,
            sources={"drawn": array_checksum(x, y)},
            truth={"log_probs": torch.from_numpy(log_probs[num_train:])},
        )


def true_logits(x: Reals, num_classes: int, *key: str | int) -> Reals:
    """Return the logits of the random network that `key` fixes, before the temperature.

    Args:
        x: Inputs (N, D).
        num_classes: C.
        *key: What fixes the network.

    Returns:
        (N, C) float64.
    """
    cut = ndtr(-2.0)
    for layer, outputs in enumerate((HIDDEN, HIDDEN, num_classes)):
        inputs = x.shape[1]
        uniform = random_uniform(inputs * outputs, *key, "weights", layer).reshape(inputs, outputs)
        weights = ndtri(cut + (1 - 2 * cut) * uniform) / np.sqrt(inputs)
        biases = ndtri(random_uniform(outputs, *key, "biases")) / np.sqrt(inputs) if layer == 0 else 0.0
        x = (np.maximum(x, 0.0) if layer else x) @ weights + biases
    return x


datasets = {"testbed": NeuralTestbed}
