"""Search the semi-supervised settings on validation data, equally many for the network alone and for M2.

    python scripts/search_semi_supervised.py results/search/semi_supervised.csv     (bdlbench installed)

Six settings each, on three label draws (splits 10 to 12, which the table does not use) of 100 labels, by accuracy on
5,000 other TRAINING images, the last of each draw's order, which neither side is given. No test image is read. All
draws, and settings that can be, are rows of one batch.
"""

from __future__ import annotations

import csv
import itertools
import math
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from bdlbench import catalog
from bdlbench.core.spec import Choice
from bdlbench.core.streams import Streams
from bdlbench.data import task as data
from bdlbench.data.task import Examples, Task

DRAWS = range(10, 13)
NUM_VALIDATION = 5_000
NUM_TRAIN = 60_000
SHARED: dict[str, dict[str, Any]] = {
    "mle": {"batch_size": 25, "decay": "linear"},
    "mlp": {"widths": "300"},
    "m2": {"widths": "300", "latent_widths": "100-100", "latent": 5},
    "semi_mnist": {"num_labelled": 100, "num_unlabelled": 5_000, "copies": 10, "pool": 2},
    "labelled_mnist": {"num_labelled": 100, "pool": 2},
}
"""Options that all settings and the table share."""

SETTINGS: dict[tuple[str, str], list[dict[str, dict[str, Any]]]] = {
    ("mlp", "labelled_mnist"): [
        {"mle": {"learning_rate": rate, "epochs": epochs}}
        for epochs, rate in itertools.product((100, 400), (3e-4, 1e-3, 3e-3))
    ],
    ("m2", "semi_mnist"): [
        {"mle": {"learning_rate": rate, "epochs": 8}, "m2": {"alpha": alpha}}
        for alpha, rate in itertools.product((30.0, 100.0, 300.0), (1e-3, 2e-3))
    ],
}
"""The settings of each model on its data set."""

Row = tuple[Choice, Choice, int]
"""A method, a model, and the number of their setting."""


def main(path: Path) -> None:
    """Write one CSV row for each setting, best first within a model."""
    torch.set_num_threads(1)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["model", "dataset", "setting", "validation_accuracy", "standard_error", "draws"])
        for (model, dataset), settings in SETTINGS.items():
            for row in search(model, dataset, settings):
                writer.writerow(row)
                stream.flush()
                print(*row, flush=True)


def search(model: str, dataset: str, settings: list[dict[str, dict[str, Any]]]) -> list[tuple[object, ...]]:
    """Return (model, data set, setting, accuracy, its standard error, number of draws) of each setting, best first."""
    tasks = [validation_task(dataset, draw) for draw in DRAWS]
    groups: dict[tuple[Choice, Choice], list[Row]] = {}
    for i, setting in enumerate(settings):
        options = {name: {**SHARED.get(name, {}), **setting.get(name, {})} for name in {**SHARED, **setting}}
        method, network = catalog.choice("methods", "mle", options), catalog.choice("models", model, options)
        key = catalog.batch_key("methods", method), catalog.batch_key("models", network)
        groups.setdefault(key, []).append((method, network, i))
    found: dict[int, torch.Tensor] = {}
    for rows in groups.values():
        found |= zip((i for _, _, i in rows), accuracies(rows, tasks), strict=True)
    ranked = sorted(found, key=lambda i: -float(found[i].mean()))
    return [(model, dataset, spelled(settings[i]), *summary(found[i])) for i in ranked]


def validation_task(dataset: str, draw: int) -> Task:
    """Return the training part of a draw, with the last images of the draw's order as its test set."""
    task = catalog.build_dataset(catalog.choice("datasets", dataset, SHARED)).load(draw)
    whole = {"labelled_mnist": {**SHARED["labelled_mnist"], "num_labelled": NUM_TRAIN}}
    last = catalog.build_dataset(catalog.choice("datasets", "labelled_mnist", whole)).load(draw).train
    return replace(task, test=Examples(last.x[-NUM_VALIDATION:].clone(), last.y[-NUM_VALIDATION:].clone()))


def accuracies(rows: list[Row], tasks: list[Task]) -> torch.Tensor:
    """Return accuracies on each draw's validation images, (settings, draws), all trained as one batch."""
    methods, models = ([choice for choice in column for _ in tasks] for column in list(zip(*rows, strict=True))[:2])
    problem = data.stack(tasks, [*range(len(tasks))] * len(rows))
    rng = Streams.of_seeds([*DRAWS] * len(rows))
    network = catalog.build_model(models, problem.signature)
    posterior = catalog.build_method(methods).fit(network, problem.train, rng)
    probs = posterior.predict(problem.test.x, 1, rng.child("predict")).arrays()["probs"]
    return (probs.argmax(-1) == problem.test.y).double().mean(1).unflatten(0, (len(rows), len(tasks)))


def summary(values: torch.Tensor) -> tuple[str, str, int]:
    """Return mean, standard error and n."""
    return f"{values.mean():.4f}", f"{values.std() / math.sqrt(len(values)):.4f}", len(values)


def spelled(setting: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the setting as --set takes it."""
    return " ".join(f"{name}.{option}={value}" for name, table in setting.items() for option, value in table.items())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
