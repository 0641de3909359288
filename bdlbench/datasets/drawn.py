"""Data drawn from a conjugate model itself, so that the exact posterior has the right assumptions too. No download."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from scipy.special import ndtri

from bdlbench.core import memory
from bdlbench.core.options import option
from bdlbench.data.downloads import RemoteFile, array_checksum
from bdlbench.data.splits import checked, random_uniform
from bdlbench.data.task import Examples, Signature, Task

NUM_TEST = 100


@dataclass(frozen=True)
class CoinFlips:
    """Flips of a coin (the lecture's example): 10 for training and 100 for testing, all drawn anew for each split.

    Class 1 is heads. The input is the number one and carries no information. No OOD set.
    """

    num_train: int = option(10, "flips to learn from", low=1)
    heads: float = option(0.5, "probability of heads", low=0, high=1, open_ends=True)

    files: ClassVar[tuple[RemoteFile, ...]] = ()
    origin: ClassVar[str] = "drawn anew for each split"

    def load(self, split: int) -> Task:
        """Draw one split, any number from 0.

        Raises:
            BadInput: The split is negative.
        """
        memory.refuse(8 * (self.num_train + NUM_TEST), f"coin_flips: {self.num_train:,} flips")
        y = (random_uniform(self.num_train + NUM_TEST, "coin_flips", checked(split)) < self.heads).astype(np.int64)
        x = torch.ones(len(y), 1)
        train, test = _parts(x, torch.from_numpy(y), self.num_train)
        return Task(Signature((1,), 2, "categorical"), train, test, sources={"drawn": array_checksum(y)})


@dataclass(frozen=True)
class Linear:
    """Data of a linear model with Gaussian noise (the lecture's example): all drawn anew for each split.

    y = w·x + b + noise_sd · ε, with w, b, ε and the inputs standard normal; 100 examples for testing. This is what
    `bayesian_linear_regression` assumes with prior_sd = 1 and the same noise_sd. No OOD set, no scaling.
    """

    num_train: int = option(10, "examples to learn from", low=1)
    features: int = option(5, "inputs", low=1)
    noise_sd: float = option(1.0, "standard deviation of the noise", low=0, open_ends=True)

    files: ClassVar[tuple[RemoteFile, ...]] = ()
    origin: ClassVar[str] = "drawn anew for each split"

    def load(self, split: int) -> Task:
        """Draw one split, any number from 0.

        Raises:
            BadInput: The split is negative.
        """
        rows = self.num_train + NUM_TEST
        what = f"linear: {self.num_train:,} examples of {self.features:,} features"
        memory.refuse(8 * (rows + 1) * (self.features + 1), what)
        normal = ndtri(random_uniform((rows + 1) * (self.features + 1), "linear", checked(split)))
        table = normal.reshape(rows + 1, self.features + 1)
        weights, features, noise = table[0], table[1:, :-1], table[1:, -1]  # the last weight is the bias
        y = features @ weights[:-1] + weights[-1] + self.noise_sd * noise
        x, y = features.astype(np.float32), y.astype(np.float32)
        train, test = _parts(torch.from_numpy(x), torch.from_numpy(y), self.num_train)
        signature = Signature((self.features,), 1, "gaussian")
        return Task(signature, train, test, sources={"drawn": array_checksum(x, y)})


def _parts(x: torch.Tensor, y: torch.Tensor, num_train: int) -> tuple[Examples, Examples]:
    return Examples(x[:num_train], y[:num_train]), Examples(x[num_train:], y[num_train:])


datasets = {"coin_flips": CoinFlips, "linear": Linear}
