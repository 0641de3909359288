"""A data set that is another one each time."""

from dataclasses import dataclass

import torch

from bdlbench.extend import Examples, Signature, Task, option


@dataclass(frozen=True)
class Fresh:
    """Two blobs, from the generator that everybody shares."""

    num: int = option(40, "examples", low=2)

    def load(self, split):
        y = torch.arange(self.num) % 2
        x = torch.randn(self.num, 2) + 3 * y[:, None]
        test = torch.randn(self.num, 2) + 3 * y[:, None]
        return Task(Signature((2,), 2, "categorical"), Examples(x, y), Examples(test, y))


datasets = {"fresh": Fresh}
