"""Compare every method with a reference posterior by NUTS: Bayesian logistic regression on breast_cancer.

    python -m pip install -c constraints.txt '.[reference]'
    python scripts/nuts_reference.py results/exact/breast_cancer_nuts                (bdlbench installed)

The posterior has no closed form. The reference is the No-U-Turn Sampler (Hoffman & Gelman 2014) of NumPyro: four chains
of 2,000 draws after 2,000 of warm-up; largest split R-hat and smallest effective sample size of any weight are stated.
The model is `logistic` with a standard normal prior on every weight and bias, two classes. Its likelihood sees only the
difference of the two classes' weights, whose prior is N(0, 2). NUTS samples this difference, with the same predictive.

Agreement is the fraction of test inputs with equal top-1 class; total variation is ½ Σ_c |p_c − q_c|, mean over test
inputs (Izmailov et al. 2021, §4). Five seeds of each method, split 0.
"""

from __future__ import annotations

import csv
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bdlbench import catalog
from bdlbench.core.streams import Streams
from bdlbench.data import task as data
from bdlbench.data.task import Task

CHAINS, WARMUP, DRAWS = 4, 2000, 2000
SEEDS = range(5)
SAMPLES = 1000
FULL_BATCH = {"epochs": 3000, "batch_size": 426, "learning_rate": 0.02, "decay": "linear"}
OPTIONS: dict[str, dict[str, Any]] = {
    **{name: FULL_BATCH for name in ("map", "laplace")},
    "mle": {**FULL_BATCH, "epochs": 3000},
    "mean_field_vi": {**FULL_BATCH, "initial_log_sd": -1.0},
    "mc_dropout": {**FULL_BATCH, "input_rate": 0.2},
    "dropconnect": {**FULL_BATCH, "rate": 0.2},
    "sparse_vd": FULL_BATCH,
}
"""All methods use the model's prior; dropout rates are 0.2. An ensemble has five members by MLE, its default."""


def load() -> Task:
    return catalog.build_dataset(catalog.choice("datasets", "breast_cancer", {})).load(0)


def nuts(task: Task, seed: int) -> tuple[np.ndarray, dict[str, float]]:
    """Return the probabilities of class 1 for the test inputs (N,), and the diagnostics of the chains."""
    import jax
    import numpyro
    from numpyro import distributions as dist
    from numpyro.diagnostics import effective_sample_size, split_gelman_rubin
    from numpyro.infer import MCMC, NUTS

    jax.config.update("jax_enable_x64", True)

    def model(x: Any, y: Any) -> None:
        w = numpyro.sample("w", dist.Normal(0.0, math.sqrt(2.0)).expand([x.shape[1]]).to_event(1))
        numpyro.sample("y", dist.Bernoulli(logits=x @ w), obs=y)

    sampler = MCMC(
        NUTS(model),
        num_warmup=WARMUP,
        num_samples=DRAWS,
        num_chains=CHAINS,
        chain_method="sequential",
        progress_bar=False,
    )
    sampler.run(jax.random.PRNGKey(seed), with_ones(task.train.x), task.train.y.numpy().astype(float))
    draws = np.asarray(sampler.get_samples(group_by_chain=True)["w"])  # (chains, draws, D + 1)
    logits = draws.reshape(-1, draws.shape[-1]) @ with_ones(task.test.x).T  # (M, N)
    diagnostics = {
        "nuts_max_rhat": float(split_gelman_rubin(draws).max()),
        "nuts_min_ess": float(effective_sample_size(draws).min()),
        "nuts_draws": float(CHAINS * DRAWS),
    }
    return (1 / (1 + np.exp(-logits))).mean(0), diagnostics


def with_ones(x: torch.Tensor) -> np.ndarray:
    return np.column_stack([x.double().numpy(), np.ones(len(x))])


def probabilities(method: str, task: Task) -> np.ndarray:
    """Return the probabilities (R, N) of class 1 by five seeds of a method."""
    problem = data.stack([task], [0] * len(SEEDS))
    model = catalog.build_model([catalog.choice("models", "logistic", {})], problem.signature)
    rng = Streams.of_seeds(SEEDS)
    posterior = catalog.build_method([catalog.choice("methods", method, OPTIONS)]).fit(model, problem.train, rng)
    found = posterior.predict(problem.test.x, SAMPLES, rng.child("predict"))
    return found.arrays()["probs"][..., 1].double().numpy()


def rows(task: Task) -> Iterator[dict[str, Any]]:
    reference, diagnostics = nuts(task, seed=0)
    again, _ = nuts(task, seed=1)
    yield score("NUTS, another seed", again[None], reference, diagnostics)
    blank = dict.fromkeys(diagnostics, "")
    for method in catalog.names("methods"):
        model = catalog.build_model([catalog.choice("models", "logistic", {})], task.signature)
        if catalog.build_method([catalog.choice("methods", method, OPTIONS)]).unsupported(model) is None:
            yield score(method, probabilities(method, task), reference, blank)


def score(name: str, found: np.ndarray, reference: np.ndarray, diagnostics: dict[str, Any]) -> dict[str, Any]:
    agreement = ((found > 0.5) == (reference > 0.5)).mean(1)
    variation = np.abs(found - reference).mean(1)  # with two classes, ½ Σ_c |p_c − q_c| is |p_1 − q_1|
    error = variation.std(ddof=1) / math.sqrt(len(variation)) if len(variation) > 1 else ""
    return {
        "method": name,
        "agreement": float(agreement.mean()),
        "total_variation": float(variation.mean()),
        "total_variation_se": error,
        **diagnostics,
    }


def write(path: Path, table: Sequence[dict[str, Any]]) -> None:
    with path.with_suffix(".csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(table[0]))
        writer.writeheader()
        writer.writerows(table)
    first = table[0]
    lines = [
        "# Bayesian logistic regression on breast_cancer: each method beside NUTS",
        "",
        f"Reference: {first['nuts_draws']:.0f} draws by NUTS, largest split R-hat {first['nuts_max_rhat']:.4f}, "
        f"smallest effective sample size {first['nuts_min_ess']:.0f}. Mean over five seeds.",
        "",
        "| method | agreement | total variation | standard error |",
        "| --- | --- | --- | --- |",
    ]
    for row in table:
        error = f"{row['total_variation_se']:.2g}" if row["total_variation_se"] != "" else ""
        lines.append(f"| {row['method']} | {row['agreement']:.4f} | {row['total_variation']:.4f} | {error} |")
    path.with_suffix(".md").write_text("\n".join(lines) + "\n")


def main(path: Path) -> None:
    torch.set_num_threads(1)
    path.parent.mkdir(parents=True, exist_ok=True)
    table = []
    for row in rows(load()):
        table.append(row)
        print(row, flush=True)
    write(path, [table[0], *sorted(table[1:], key=lambda row: row["total_variation"])])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
