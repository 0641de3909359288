"""Search a suite's options on validation data, with the same number of settings for every method.

    python scripts/search_defaults.py quick results/search/quick.csv [METHOD …]     (bdlbench installed)

Each method gets a grid of 12 settings (three learning rates × four settings of its own), five seeds each, trained on
80 % of the TRAINING examples and scored by NLL on the other 20 %. All settings and seeds of a method are rows of one
batch. No test example is read. The suite's TOML holds the best setting of each method; among settings within a standard
error, the one nearer to the published default.
"""

from __future__ import annotations

import csv
import itertools
import sys
from dataclasses import replace
from pathlib import Path

import torch

from bdlbench import catalog
from bdlbench.core.spec import Choice
from bdlbench.core.streams import Streams
from bdlbench.data import task as data
from bdlbench.data.task import Examples, Task
from bdlbench.runs import suites

SEEDS = range(5)
RATES = (1e-3, 3e-3, 1e-2)
OWN: dict[str, list[dict[str, object]]] = {
    "mle": [{"decay": "constant"}, {"decay": "linear"}, {"decay": "second_half"}, {"batch_size": 128}],
    "map": [{"prior_sd": sd} for sd in (0.3, 1.0, 3.0, 10.0)],
    "mc_dropout": [
        {"rate": p, "input_rate": q, "prior_sd": sd}
        for p, q, sd in ((0.5, 0.2, 1.0), (0.5, 0.0, 3.0), (0.3, 0.0, 3.0), (0.1, 0.0, 3.0))
    ],
    "dropconnect": [{"rate": p, "prior_sd": sd} for p, sd in ((0.5, 1.0), (0.1, 3.0), (0.05, 3.0), (0.02, 3.0))],
    "mean_field_vi": [
        {"prior_sd": sd, "prior_scaling": scaling}
        for sd, scaling in ((1.0, "none"), (3.0, "none"), (1.41, "fan_in"), (4.0, "fan_in"))
    ],
    "sparse_vd": [{"initial_log_variance": v} for v in (-10.0, -8.0, -6.0, -5.0)],
}
"""Four settings of each method's own options, each tried with each learning rate."""


def main(suite_name: str, path: Path) -> None:
    """Search for every method of the suite on its first data set and model; write one CSV row for each setting."""
    torch.set_num_threads(1)
    suite = suites.read_suite(suite_name)
    grid, settings = suite.grids[0], {k: {o: v[0] for o, v in t.items()} for k, t in suite.options.items()}
    task = validation_task(catalog.build_dataset(catalog.choice("datasets", grid.datasets[0], settings)).load(0))
    model = catalog.choice("models", grid.models[0], settings)
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["method", "options", "validation_nll", "standard_error", "validation_accuracy"])
        for name in sys.argv[3:] or OWN:
            for row in search(name, task, model, settings, suite.samples):
                writer.writerow(row)
                stream.flush()
                print(*row, flush=True)


def validation_task(task: Task) -> Task:
    """Return the training examples of `task`, the last fifth of them as its test set."""
    cut = len(task.train.y) * 4 // 5
    order = torch.randperm(len(task.train.y), generator=torch.Generator().manual_seed(0))
    first, second = order[:cut], order[cut:]
    x, y = task.train.x, task.train.y
    return replace(task, train=Examples(x[first], y[first]), test=Examples(x[second], y[second]), ood={})


def search(
    name: str, task: Task, model: Choice, settings: dict[str, dict[str, object]], samples: int
) -> list[tuple[object, ...]]:
    """Return (method, options, NLL, its standard error over seeds, accuracy) of each setting, best first."""
    grid = [own | {"learning_rate": rate} for own, rate in itertools.product(OWN[name], RATES)]
    batches: dict[Choice, list[tuple[dict[str, object], Choice]]] = {}
    for setting in grid:
        chosen = catalog.choice("methods", name, {**settings, name: {**settings.get(name, {}), **setting}})
        batches.setdefault(catalog.batch_key("methods", chosen), []).append((setting, chosen))
    rows = [row for batch in batches.values() for row in score(name, batch, task, model, samples)]
    return sorted(rows, key=lambda row: float(str(row[2])))


def score(
    name: str, batch: list[tuple[dict[str, object], Choice]], task: Task, model: Choice, samples: int
) -> list[tuple[object, ...]]:
    """Return the rows of settings that can be trained together."""
    grid = [setting for setting, _ in batch]
    choices = [chosen for _, chosen in batch for _ in SEEDS]
    problem = data.stack([task], [0] * len(choices))
    network = catalog.build_model([model] * len(choices), problem.signature)
    rng = Streams.of_seeds([*SEEDS] * len(batch))
    posterior = catalog.build_method(choices).fit(network, problem.train, rng)
    predictive = posterior.predict(problem.test.x, samples, rng.child("predict"))
    nll = -predictive.log_prob(problem.test.y).mean(1).unflatten(0, (-1, len(SEEDS)))
    right = (predictive.arrays()["probs"].argmax(-1) == problem.test.y).float().mean(1).unflatten(0, nll.shape)
    spread = nll.std(1) / len(SEEDS) ** 0.5
    return [
        (name, setting, f"{nll[i].mean():.4f}", f"{spread[i]:.4f}", f"{right[i].mean():.4f}")
        for i, setting in enumerate(grid)
    ]


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
