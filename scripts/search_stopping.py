"""What the prior's strength does on images held out of MNIST's TRAINING set: how the suite `stopping` was chosen.

    python scripts/search_stopping.py OUT.csv [EPOCHS]     (bdlbench installed; $BDLBENCH_DATA)

Trains on the first 50,000 training images and scores the last 10,000, one seed: each strength of the prior by q_mode,
then each fixed depth. No test image is scored.
"""

from __future__ import annotations

import csv
import sys
from dataclasses import replace
from pathlib import Path

import torch

from bdlbench import catalog, data, plan
from bdlbench.data import Examples, Task
from bdlbench.protocols import Evaluation
from bdlbench.rng import Streams
from bdlbench.spec import Choice

STRENGTHS = (0.003, 0.01, 0.02, 0.05)
DEPTHS = (1, 2, 3, 4, 5, 6, 8)
SHOWN = ("accuracy", "nll", "depth", "flops", "flops_fraction")


def main(path: Path, epochs: str) -> None:
    """One CSV line for each strength and each fixed depth."""
    torch.set_num_threads(1)
    suite = plan.read_suite("stopping")
    settings = {entry: {name: values[0] for name, values in table.items()} for entry, table in suite.options.items()}
    settings["map"]["epochs"] = epochs or settings["map"]["epochs"]
    task = validation_task(catalog.build_dataset(catalog.choice("datasets", "mnist", {})).load(0))
    method = catalog.choice("methods", "map", settings)
    models = [variant("stopping_resnet", settings, strength=s, entropy_weight=0.3 * s) for s in STRENGTHS]
    models += [variant("constant_resnet", settings, blocks=depth) for depth in DEPTHS]
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["model", "layers", "strength", *SHOWN])
        for model in models:
            options = dict(model.options)
            writer.writerow([model.name, options["blocks"], options.get("strength", ""), *score(method, model, task)])
            stream.flush()


def variant(name: str, settings: dict[str, dict[str, object]], **options: object) -> Choice:
    """The suite's model with other options."""
    return catalog.choice("models", name, {**settings, name: {**settings.get(name, {}), **options}})


def validation_task(task: Task) -> Task:
    """The last 10,000 training images as the test set; the real one is dropped."""
    x, y = task.train.x, task.train.y
    return replace(task, train=Examples(x[:-10000], y[:-10000]), test=Examples(x[-10000:], y[-10000:]), ood={})


def score(method: Choice, model: Choice, task: Task) -> list[str]:
    """The shown metrics of one seed."""
    problem = data.stack([task], [0])
    network, rng = catalog.build_model([model], problem.signature), Streams.of_seeds([0])
    posterior = catalog.build_method([method]).fit(network, problem.train, rng)
    test = posterior.predict(problem.test.x, 1, rng.child("predict"))
    evaluation = Evaluation(test, problem.test.y, {}, posterior.facts, 0)
    return [f"{float(catalog.load('metrics', name)(evaluation)['']):.6g}" for name in SHOWN]


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "")
