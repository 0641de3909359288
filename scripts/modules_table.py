"""Try modules, each as its library or author wrote it, under the methods, and write what works into the documentation.

python scripts/modules_table.py docs/modules.md [NAME …]

Each cell is a fit of three rows for two epochs on sixteen examples. It works where what it learns and predicts is
finite, and one of the rows predicts the same alone. With names, only these modules are tried, and the other lines of
the table stay. A minute and 12 GB for the largest.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from bdlbench.core.errors import BadInput
from bdlbench.data.downloads import import_torchvision
from bdlbench.data.task import Data, Signature
from bdlbench.extend import from_module
from bdlbench.gate import contracts

METHODS = (
    *("mle", "map", "mc_dropout", "dropconnect", "mean_field_vi", "sparse_vd", "deep_ensemble", "swag", "laplace"),
)
SEEDS, ROWS, EXAMPLES, BATCH = (3, 1, 4), 3, 16, 8
LAPLACE_LIMIT = 12_000_000
"""Parameters beyond which the curvature of each example does not fit into the memory of a usual machine."""
MARKS = "<!-- modules tried -->", "<!-- end modules tried -->"


class Sequences(nn.Module):
    """A classifier of sequences: an encoder, and a head on its last step."""

    def __init__(self, encoder: nn.Module, width: int) -> None:
        super().__init__()
        self.encoder, self.head = encoder, nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        out = self.encoder(x)
        return self.head((out[0] if isinstance(out, tuple) else out)[:, -1])


class Bag(nn.Module):
    """A classifier of texts: the mean of the embeddings of their words."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.EmbeddingBag(17, 8), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.words((16 * x).long()))


class Packed(nn.Module):
    """A classifier of sequences that end where a row is all 0: as packed sequences, which hold no two rows apart."""

    def __init__(self) -> None:
        super().__init__()
        self.gru, self.head = nn.GRU(8, 16, batch_first=True), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        lengths = (x.sum(-1) > 0).sum(1).clamp(min=1).cpu()
        steps = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return self.head(self.gru(steps)[1][-1])


class TimeFirst(nn.Module):
    """A network that reshapes with the time before the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.steps, self.norm, self.head = nn.Linear(8, 6), nn.BatchNorm1d(6), nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        steps = self.norm(self.steps(x.transpose(0, 1).reshape(-1, 8))).relu()
        return self.head(steps.view(8, len(x), 6).transpose(0, 1).flatten(1))


class Centred(nn.Module):
    """A network that subtracts the mean of the batch, in prediction too."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x - x.mean(0))


def small_cnn() -> nn.Module:
    """Two convolutions with BatchNorm and Dropout."""
    return nn.Sequential(
        *(nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True), nn.Dropout(0.2)),
        *(nn.Flatten(), nn.Linear(256, 10)),
    )


def transformer() -> nn.Module:
    """Return torch's encoder with its own dropout."""
    block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    return Sequences(nn.TransformerEncoder(block, 2, enable_nested_tensor=False), 8)


def of_torchvision(name: str, **options: Any) -> Callable[[], nn.Module]:
    """Return a maker of one of torchvision's models, untrained."""
    import_torchvision()
    from torchvision import models

    return partial(getattr(models, name), num_classes=10, **options)


VIT = {"image_size": 32, "patch_size": 8, "num_layers": 2, "num_heads": 2, "hidden_dim": 32, "mlp_dim": 64}
TRIED: dict[str, tuple[str, Callable[[], Callable[[], nn.Module]]]] = {
    "a CNN with BatchNorm and Dropout": ("digits", lambda: small_cnn),
    "`LSTM` classifier": ("rows", lambda: lambda: Sequences(nn.LSTM(8, 16, 2, batch_first=True, dropout=0.1), 16)),
    "`TransformerEncoder` classifier": ("rows", lambda: transformer),
    "`EmbeddingBag` classifier of texts": ("words", lambda: Bag),
    "torchvision `resnet18`": ("large", lambda: of_torchvision("resnet18")),
    "torchvision `mobilenet_v3_small`": ("large", lambda: of_torchvision("mobilenet_v3_small")),
    "torchvision `convnext_tiny`": ("large", lambda: of_torchvision("convnext_tiny")),
    "torchvision `VisionTransformer`, tiny": ("large", lambda: of_torchvision("VisionTransformer", **VIT)),
    "`GRU` on packed sequences (apart)": ("rows", lambda: Packed),
    "time before batch, BatchNorm (apart)": ("rows", lambda: TimeFirst),
    "`x - x.mean(0)`": ("words", lambda: Centred),
    "`Linear` with `weight_norm`": ("words", lambda: lambda: weight_norm(nn.Linear(64, 10))),
    "`Linear` with `spectral_norm`": ("words", lambda: lambda: spectral_norm(nn.Linear(64, 10))),
    "`BatchNorm1d(momentum=None)`": (
        "words",
        lambda: lambda: nn.Sequential(nn.BatchNorm1d(64, momentum=None), nn.Linear(64, 10)),
    ),
}


def data_of(kind: str) -> tuple[Signature, Data, Tensor]:
    """Return signature, training data and test inputs, made of the digits: as images, rows, words or large images."""
    images = torch.tensor(load_digits().images[: EXAMPLES + 6] / 16, dtype=torch.float32)
    y = torch.tensor(load_digits().target[:EXAMPLES])
    shaped = {
        "digits": images.unsqueeze(1),
        "rows": images,
        "words": images.flatten(1),
        "large": images.repeat_interleave(4, 1).repeat_interleave(4, 2).unsqueeze(1).repeat(1, 3, 1, 1),
    }[kind]
    train, test = (part.expand(ROWS, *part.shape) for part in (shaped[:EXAMPLES], shaped[EXAMPLES:]))
    return Signature(tuple(shaped.shape[1:]), 10, "categorical"), Data(train, y.expand(ROWS, -1)), test


def tried(kind: str, make: Callable[[], nn.Module], method_name: str) -> str:
    """Return "yes", or the reason why not, of a fit and its predictions."""
    signature, data, x = data_of(kind)
    model: Any = from_module(make)(signature)
    settings = {**contracts.quick(epochs=2, batch_size=BATCH), "deep_ensemble": {"members": 2}}
    method = contracts.method_of(method_name, settings)
    try:
        if reason := model.unsupported() or method.unsupported(model):
            return str(reason)
    except BadInput as error:
        return str(error)
    size = sum(leaf.size for leaf in model.leaves().values())
    if method_name == "laplace" and size > LAPLACE_LIMIT:
        return f"its {size / 1e6:.0f} million parameters make the curvature of each example too large for memory"
    together = method.fit(model, data, contracts.streams(SEEDS))
    predicted = together.predict(x, 4, contracts.streams(SEEDS)).log_prob(torch.zeros(x.shape[:2], dtype=torch.int64))
    alone = method.fit(model, contracts.row(data, 1), contracts.streams(SEEDS[1:2]))
    single = alone.predict(x[1:2].clone(), 4, contracts.streams(SEEDS[1:2]))
    again = single.log_prob(torch.zeros(1, x.shape[1], dtype=torch.int64))
    if not (predicted.isfinite().all() and all(value.isfinite().all() for value in together.state.values())):
        return "its numbers are not finite after two epochs"
    return "yes" if torch.allclose(predicted[1:2], again, rtol=1e-2, atol=1e-2) else "a row differs alone"


def line(name: str) -> tuple[str, list[str]]:
    """Return a line of the table, and the reasons that it points to."""
    kind, make = TRIED[name]
    found = {method: tried(kind, make(), method) for method in METHODS}
    reasons = list(dict.fromkeys(reason for reason in found.values() if reason != "yes"))
    cells = ["yes" if reason == "yes" else "no" for reason in found.values()]
    return f"| {name} | {' | '.join(cells)} | {'; '.join(reasons)} |", reasons


def main(page: Path, names: list[str]) -> None:
    """Write the lines of these modules, or of all, between the marks."""
    torch.set_num_threads(1)
    text = page.read_text("utf-8")
    before = re.search(f"{MARKS[0]}(.*){MARKS[1]}", text, re.DOTALL)
    known = {part.split(" | ")[0].removeprefix("| "): part for part in before[1].splitlines()} if before else {}
    for name in names or TRIED:
        known[name] = line(name)[0]
        print(known[name], flush=True)
    head = [f"| module | {' | '.join(f'`{method}`' for method in METHODS)} | why not |", f"| {'--- | ' * 10}--- |"]
    block = "\n".join([MARKS[0], "", *head, *(known[name] for name in TRIED if name in known), "", MARKS[1]])
    page.write_text(re.sub(f"{MARKS[0]}.*{MARKS[1]}", lambda _: block, text, flags=re.DOTALL), "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
