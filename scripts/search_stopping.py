"""Search the stopping suites' settings, such as the prior's strength, on held-out TRAINING images.

    python scripts/search_stopping.py SUITE OUT.csv [EPOCHS]     (bdlbench installed; $BDLBENCH_DATA)

Trains the suite's networks without the last fifth of its training images (at most 10,000), which it scores, one seed:
strengths, entropy weights and weight priors as rows of one batch, by q_mode; then each fixed depth. No test image is
scored.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path

import torch

from bdlbench import catalog
from bdlbench.core.spec import Choice
from bdlbench.core.streams import Streams
from bdlbench.data import task as data
from bdlbench.data.task import Examples, Task
from bdlbench.protocols import Evaluation
from bdlbench.runs import suites

STRENGTHS = (0.003, 0.01, 0.03)
ENTROPY = (0.1, 0.3)
"""Weights of q(z)'s entropy, as multiples of the strength."""
PRIOR_SDS = (0.3, 1.0)
SHOWN = ("accuracy", "nll", "depth", "flops", "flops_fraction")

Settings = dict[str, dict[str, object]]
Pairs = list[tuple[Choice, Choice]]


def main(suite_name: str, path: Path, epochs: str) -> None:
    """Write one CSV line for each row of each batch."""
    torch.set_num_threads(1)
    suite = suites.read_suite(suite_name)
    settings: Settings = {
        name: {key: values[0] for key, values in table.items()} for name, table in suite.options.items()
    }
    settings["map"]["epochs"] = epochs or settings["map"]["epochs"]
    (dataset,) = suite.grids[0].datasets
    task = validation_task(catalog.build_dataset(catalog.choice("datasets", dataset, {})).load(0))
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["model", "layers", "strength", "entropy_weight", "prior_sd", *SHOWN])
        for pairs in batches(settings, suite.options["constant_resnet"]["blocks"]):
            for (method, model), shown in zip(pairs, score(pairs, task), strict=True):
                options = dict(model.options)
                row = [options.get(name, "") for name in ("blocks", "strength", "entropy_weight")]
                writer.writerow([model.name, *row, dict(method.options)["prior_sd"], *shown])
            stream.flush()


def batches(settings: Settings, depths: tuple[object, ...]) -> Iterator[Pairs]:
    """Return all stopping networks at once, then each fixed depth under each weight prior."""

    def pair(name: str, sd: float, **options: object) -> tuple[Choice, Choice]:
        model = catalog.choice("models", name, {**settings, name: {**settings.get(name, {}), **options}})
        return catalog.choice("methods", "map", {**settings, "map": {**settings["map"], "prior_sd": sd}}), model

    grid = product(STRENGTHS, ENTROPY, PRIOR_SDS)
    yield [pair("stopping_resnet", sd, strength=s, entropy_weight=round(e * s, 6)) for s, e, sd in grid]
    for depth in depths:
        yield [pair("constant_resnet", sd, blocks=depth) for sd in PRIOR_SDS]


def validation_task(task: Task) -> Task:
    """Return the task with its last training images as the test set; the real test set is dropped."""
    x, y = task.train.x, task.train.y
    kept = len(x) - min(10_000, len(x) // 5)
    return replace(task, train=Examples(x[:kept], y[:kept]), test=Examples(x[kept:], y[kept:]), ood={})


def score(pairs: Pairs, task: Task) -> list[list[str]]:
    """Return the shown metrics of each row; all rows have seed 0."""
    methods, models = (list(column) for column in zip(*pairs, strict=True))
    seeds = [0] * len(pairs)
    problem = data.stack([task] * len(pairs), seeds)
    network, rng = catalog.build_model(models, problem.signature), Streams.of_seeds(seeds)
    posterior = catalog.build_method(methods).fit(network, problem.train, rng)
    test = posterior.predict(problem.test.x, 1, rng.child("predict"))
    evaluation = Evaluation(test, problem.test.y, {}, posterior.facts, None)
    columns = [catalog.load("metrics", name)(evaluation)[""].tolist() for name in SHOWN]
    return [[f"{value:.6g}" for value in row] for row in zip(*columns, strict=True)]


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else "")
