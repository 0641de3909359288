"""A data set with fewer targets than inputs."""

from dataclasses import dataclass

import torch

from bdlbench.extend import Examples, Signature, Task


@dataclass(frozen=True)
class Short:
    """Blobs whose last target was lost."""

    def load(self, split):
        x, y = torch.rand(40, 2, generator=torch.Generator().manual_seed(split)), torch.arange(40) % 2
        return Task(Signature((2,), 2, "categorical"), Examples(x, y[:39]), Examples(x, y))


datasets = {"short": Short}
