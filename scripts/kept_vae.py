"""Load the model of a record whose parameters were kept, to compute latents and images; other scripts import this."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bdlbench import catalog
from bdlbench.core.errors import BadInput
from bdlbench.core.spec import Choice
from bdlbench.core.streams import Streams
from bdlbench.data.task import Task
from bdlbench.networks.layers import Point
from bdlbench.protocols import Layer
from bdlbench.records import record as records
from bdlbench.records.record import Record

AT_ONCE = 1000
"""Images in a forward pass."""

NO_NOISE = Streams.of_seeds([0])
"""Streams for a binary image that is drawn but not used; nothing else here is random."""

NUM_OOD = 1000
"""Images of each out-of-distribution set, independent of the run's number."""


@dataclass(frozen=True)
class Kept:
    """The network of one replicate, and the data it was trained on.

    Attributes:
        model: The model.
        layer: Its parameters, R = 1.
        task: The replicate's split.
    """

    record: Record
    model: Any
    layer: Layer
    task: Task

    @property
    def title(self) -> str:
        """Return the data set, the model, and the options that differ between our figures."""
        cell = self.record.cell
        latent = cell.model.get("latent")
        size = f", {latent}-D latent" if latent is not None else ""
        return f"{cell.model.name} on {cell.dataset.name}{size}, {cell.method.get('epochs')} epochs"

    @torch.no_grad()
    def means(self, x: Tensor) -> Tensor:
        """Return the means of q(z | x) of images (N, *S) as they are, without binary draws of grey ones: (N, Z)."""
        grey = replace(self.model, signature=replace(self.model.signature, likelihood="discretised"))
        return torch.cat([grey(self.layer, part[None], NO_NOISE).mean[0] for part in x.split(AT_ONCE)])

    @torch.no_grad()
    def decoded(self, z: Tensor) -> Tensor:
        """Return E[x | z] of latents (N, Z): (N, H, W)."""
        output = self.model(self.layer, self.task.test.x[None, :1], NO_NOISE)
        return self._pictures(output.decode(z[None])[0])

    def reconstructed(self, x: Tensor) -> Tensor:
        """Return E[x | z] at the mean of q(z | x) of images (N, *S): (N, H, W)."""
        return self.decoded(self.means(x))

    def _pictures(self, raw: Tensor) -> Tensor:
        """Return the pixel means of a decoder's last layer (N, D · per_pixel)."""
        pixels = raw[:, : self.task.test.x[0].numel()]
        grey = 0.5 + 0.5 * pixels if self.model.signature.likelihood == "discretised" else pixels.sigmoid()
        return grey.clamp(0, 1).reshape(-1, *self.task.test.x.shape[-2:])


def kept(path: Path, model: str, **options: Any) -> list[Kept]:
    """Return each replicate of the first record of a point method with this model and these options.

    `path` is a folder of records, or one record. Raises BadInput where no such record has its parameters.
    """
    folder = path if path.is_dir() else path.parent
    for record in records.read(path):
        found = record.cell.model
        fits = found.name == model and all(found.get(key) == value for key, value in options.items())
        if fits and (folder / records.PARAMETERS / f"{record.name}.safetensors").exists():
            return [_kept(folder, record, row) for row in range(len(record.replicates))]
    wanted = " ".join([model, *(f"{key}={value}" for key, value in options.items())])
    raise BadInput(f"{path} holds no record of {wanted} with parameters: run it with --keep-parameters")


def _kept(folder: Path, record: Record, row: int) -> Kept:
    cell = record.cell
    more = {"num_ood": NUM_OOD} if cell.dataset.get("num_ood") is not None else {}
    dataset, model = _choice("datasets", cell.dataset, more), _choice("models", cell.model, {})
    task = catalog.build_dataset(dataset).load(record.replicates[row].split)
    state = {name: value[row : row + 1] for name, value in records.parameters(folder, record).items()}
    return Kept(record, catalog.build_model([model], task.signature), Point(state), task)


def _choice(kind: catalog.Kind, then: Choice, more: dict[str, Any]) -> Choice:
    """Return the entry of a record with its options, and with `more`."""
    return catalog.choice(kind, then.name, {then.name: dict(then.options) | more})
