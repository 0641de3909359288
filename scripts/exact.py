"""Measure how far each method is from the exact posterior, on two conjugate models.

    python scripts/exact.py results/exact [coin order diabetes figures …]           (bdlbench installed)

coin      coin.csv, coin.md: KL(exact ‖ method) of the predictive for every N, summed over every possible count
order     order.csv, order.md: exact ≤ VI ≤ MAP at ten examples, 200 draws of the data as replicates of one batch
diabetes  diabetes.csv, diabetes.md: every method on real data, five splits
figures   coin.png, bands.png, ellipse.png

Without names, all are made. The harness's own cells (spec → batch → record) give every number but the coin's table.
"""

from __future__ import annotations

import csv
import math
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import seaborn as sns
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse
from scipy import special, stats

from bdlbench import catalog
from bdlbench.core.spec import Cell, Replicate
from bdlbench.core.streams import Streams
from bdlbench.data.task import Data, Signature
from bdlbench.kernels.beta import normal_mean
from bdlbench.runs import batch as run

Row = dict[str, Any]
NAMES = {
    "exact": "exact",
    "mean_field_vi": "mean-field VI",
    "laplace": "Laplace",
    "map": "MAP",
    "mle": "MLE",
    "mc_dropout": "MC dropout",
    "dropconnect": "DropConnect",
    "sparse_vd": "sparse VD",
    "deep_ensemble": "deep ensemble",
}
COLOURS = dict(zip(NAMES, sns.color_palette("deep", len(NAMES)), strict=True))

# The coin: every count of every N

SIZES = (1, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1000)
PRIORS = ((1.0, 1.0), (2.0, 2.0))
FLIPS = (1, 10)
"""The number of flips that are predicted jointly."""
DRAWS = 100
"""Posterior samples of the harness's VI, for the error of its Monte-Carlo average."""


def coin_rows() -> Iterator[Row]:
    for (alpha, beta), num, flips in ((p, n, f) for p in PRIORS for n in SIZES for f in FLIPS):
        counts = np.arange(num + 1)
        weights = stats.betabinom(num, alpha, beta).pmf(counts)  # data drawn from the model
        for method, divergence in coin_divergences(alpha, beta, counts, num, flips).items():
            infinite = np.isinf(divergence)
            yield {
                "prior": f"Beta({alpha:g}, {beta:g})",
                "N": num,
                "flips_predicted": flips,
                "method": method,
                "expected_kl_nats": math.inf if infinite.any() else float(weights @ divergence),
                "median_kl_nats": median(divergence, weights),
                "probability_infinite": float(weights[infinite].sum()),
            }


def coin_divergences(alpha: float, beta: float, counts: np.ndarray, num: int, flips: int) -> dict[str, np.ndarray]:
    """Return KL(exact ‖ method) in nats of the heads in the next `flips`, for each count: (N + 1,) by method."""
    after = alpha + counts, beta + num - counts
    outcomes = np.arange(flips + 1)
    exact = stats.betabinom(flips, after[0][:, None], after[1][:, None]).pmf(outcomes)  # (N + 1, flips + 1)
    mode = (after[0] - 1) / (after[0] + after[1] - 2)
    mean, sd = best_gaussian(*after)
    mixed = np.stack([binomial_under(mean, sd, k, flips) for k in outcomes], 1)
    found = {
        "mle": divergences(exact, stats.binom(flips, (counts / num)[:, None]).pmf(outcomes)),
        "map": divergences(exact, stats.binom(flips, mode[:, None]).pmf(outcomes)),
        "mean_field_vi": divergences(exact, mixed),
        "exact": np.zeros(num + 1),
    }
    if flips == 1:
        found[f"mean_field_vi, M={DRAWS}"] = found["mean_field_vi"] + monte_carlo(mean, sd)
    return found


def divergences(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Return KL(p ‖ q) of each row; values below a rounding error of zero become zero."""
    total = special.rel_entr(p, q).sum(1)
    return np.where(np.abs(total) < 1e-13, 0.0, total)


def best_gaussian(alpha: np.ndarray, beta: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and sd of the Gaussian of the logit that minimises KL(q ‖ Beta(alpha, beta)).

    The gradient is zero where E σ(z) = alpha / (alpha + beta), so VI's predictive of ONE flip is exact, and where sd²
    (alpha + beta) E σ(z)(1 − σ(z)) = 1.
    """
    a, b = torch.from_numpy(alpha), torch.from_numpy(beta)
    mean, sd = torch.log(a / b), torch.sqrt(1 / a + 1 / b)
    for _ in range(300):
        slope = normal_mean(mean, sd, lambda z: torch.sigmoid(z) * torch.sigmoid(-z))
        mean = mean + 0.5 * (a / (a + b) - normal_mean(mean, sd, torch.sigmoid)) / slope
        sd = (sd * ((a + b) * slope).rsqrt()).sqrt()
    return mean, sd


def binomial_under(mean: torch.Tensor, sd: torch.Tensor, heads: int, flips: int) -> np.ndarray:
    """Return E Binomial(heads; flips, σ(z)) over z ~ N(mean, sd²)."""
    log_sigmoid = torch.nn.functional.logsigmoid
    ways = math.comb(flips, heads)
    values = normal_mean(mean, sd, lambda z: (heads * log_sigmoid(z) + (flips - heads) * log_sigmoid(-z)).exp())
    return ways * values.numpy()


def monte_carlo(mean: torch.Tensor, sd: torch.Tensor) -> np.ndarray:
    """Return the mean KL of one flip that averaging π over `DRAWS` samples of q adds: V π / (2 M π (1 − π))."""
    pi = normal_mean(mean, sd, torch.sigmoid)
    variance = normal_mean(mean, sd, lambda z: torch.sigmoid(z).square()) - pi.square()
    return (variance / (2 * DRAWS * pi * (1 - pi))).numpy()


def median(values: np.ndarray, weights: np.ndarray) -> float:
    order = np.argsort(values)
    return float(values[order][np.searchsorted(weights[order].cumsum(), 0.5 - 1e-12)])


# The harness: order and real data

ORDER = ("exact", "mean_field_vi", "map")
FULL_BATCH = {"epochs": 1500, "batch_size": 10, "learning_rate": 0.03, "decay": "linear"}
NUM_DRAWS = 200


def measured(cell: Sequence[str], settings: dict[str, Any], replicates: Sequence[Replicate], samples: int) -> Row:
    """Return {metric: values (R,)} of one cell (method, model, data set), by the harness."""
    chosen = [
        catalog.choice(kind, name, settings) for kind, name in zip(("methods", "models", "datasets"), cell, strict=True)
    ]
    batch = run.Batch(tuple(run.Row(Cell(*chosen, samples=samples), replicate) for replicate in replicates))
    with tempfile.TemporaryDirectory() as folder:
        (record,) = run.run_batch(batch, run.Settings(Path(folder))).records
    if record.failed:
        raise RuntimeError(next(iter(record.failed.values())))
    return {name: np.array(entry.numbers) for name, entry in record.values.metrics.items()}


def order_rows() -> Iterator[Row]:
    """Return predictive KLs at N = 10 of each method, and each pair's paired difference, over 200 draws of the data."""
    replicates = [Replicate(r, r) for r in range(NUM_DRAWS)]
    for model, dataset, own in (
        ("coin", "coin_flips", {"coin": {"alpha": 2.0, "beta": 2.0}}),
        ("bayesian_linear_regression", "linear", {}),
    ):
        settings = {"map": FULL_BATCH, "mean_field_vi": {**FULL_BATCH, "initial_log_sd": -0.5}, **own}
        settings |= {"laplace": FULL_BATCH, "mle": FULL_BATCH, "mc_dropout": {**FULL_BATCH, "input_rate": 0.2}}
        methods = [*ORDER, *(("laplace", "mc_dropout") if model != "coin" else ())]
        found = {m: measured((m, model, dataset), settings, replicates, 500)["predictive_kl"] for m in methods}
        for method, values in found.items():
            yield {"model": model, "dataset": dataset, "what": method, **interval(values)}
        for better, worse in ((ORDER[0], ORDER[1]), (ORDER[1], ORDER[2])):
            yield {
                "model": model,
                "dataset": dataset,
                "what": f"{worse} − {better}",
                **interval(found[worse] - found[better]),
            }


def interval(values: np.ndarray) -> Row:
    """Return the mean and a 95 % t-interval."""
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))
    mean = float(values.mean())
    return {"mean_kl_nats": mean, "low_95": mean - half, "high_95": mean + half, "draws": len(values)}


REAL = {"epochs": 2000, "batch_size": 331, "learning_rate": 0.05, "decay": "linear"}
DIABETES: dict[str, Any] = {
    "bayesian_linear_regression": {"noise_sd": 0.7, "prior_sd": 0.2},  # near the largest evidence on training split 0
    **{name: REAL for name in ("mle", "map", "laplace", "sparse_vd")},
    "mc_dropout": {**REAL, "input_rate": 0.1},
    "dropconnect": {**REAL, "rate": 0.1},
    "mean_field_vi": {**REAL, "learning_rate": 0.03, "initial_log_sd": -3.0, "bound_samples": 1000},
}
SHOWN = ("rmse", "nll", "predictive_kl", "posterior_kl", "posterior_w2", "elbo_gap")


def diabetes_rows() -> Iterator[Row]:
    replicates = [Replicate(r, r) for r in range(5)]
    for method in (m for m in NAMES if m != "deep_ensemble"):
        found = measured((method, "bayesian_linear_regression", "diabetes"), DIABETES, replicates, 1000)
        row: Row = {"method": method}
        for metric in SHOWN:
            values = found.get(metric)
            row[metric] = "" if values is None else float(values.mean())
            row[f"{metric}_se"] = "" if values is None else float(values.std(ddof=1) / math.sqrt(len(values)))
        yield row


# Files


def write(path: Path, rows: Sequence[Row], title: str) -> None:
    """Write the rows as CSV with full precision, and as a Markdown table."""
    with path.with_suffix(".csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    lines = [f"# {title}", "", "| " + " | ".join(rows[0]) + " |", "|" + " --- |" * len(rows[0])]
    lines += ["| " + " | ".join(map(short, row.values())) + " |" for row in rows]
    path.with_suffix(".md").write_text("\n".join(lines) + "\n")


def short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


# Figures

LINES = {  # method of the table -> (label, colour, dashes, statistic)
    "mle": ("MLE (median: the mean is infinite)", COLOURS["mle"], "-", "median_kl_nats"),
    "map": ("MAP (median)", COLOURS["map"], "--", "median_kl_nats"),
    "mean_field_vi": ("mean-field VI (mean)", COLOURS["mean_field_vi"], "-", "expected_kl_nats"),
    f"mean_field_vi, M={DRAWS}": (
        f"mean-field VI by {DRAWS} posterior samples (mean)",
        COLOURS["mean_field_vi"],
        ":",
        "expected_kl_nats",
    ),
}


PLATE = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}


def coin_figure(path: Path) -> None:
    rows = list(coin_rows())
    figure = Figure(figsize=(9, 6.4), layout="constrained")
    axes = figure.subplots(2, 2, sharex=True, sharey="row")
    for i, flips in enumerate(FLIPS):
        for j, (alpha, beta) in enumerate(PRIORS):
            prior = f"Beta({alpha:g}, {beta:g})"
            mine = [row for row in rows if row["prior"] == prior and row["flips_predicted"] == flips]
            coin_panel(axes[i, j], mine)
            name = "uniform prior: MAP is MLE" if alpha == 1 else f"{prior} prior"
            axes[i, j].set_title(f"{name}, next {'flip' if flips == 1 else f'{flips} flips'}", fontsize="medium")
        axes[i, 0].set_ylabel("KL(exact ‖ method), nats")
    for axis in axes[1]:
        axis.set_xlabel("N, flips observed")
    for axis, words in zip(axes.flat, ["exact, and VI at its optimum: 0"] * 2 + ["exact: 0"] * 2, strict=True):
        axis.text(
            0.03, 0.06, f"{words}\nMLE, N ≤ 2: median infinite", transform=axis.transAxes, fontsize="small", bbox=PLATE
        )
    handles, labels = axes[0, 1].get_legend_handles_labels()
    known = dict(zip(labels, handles, strict=True)) | dict(
        zip(*reversed(axes[1, 1].get_legend_handles_labels()), strict=True)
    )
    figure.legend(known.values(), known.keys(), loc="outside lower center", ncols=2, frameon=False)
    figure.suptitle("A coin: point estimates are overconfident on little data, and the same in the limit")
    figure.savefig(path, dpi=160)


def coin_panel(axis: Any, rows: Sequence[Row]) -> None:
    for method, (label, colour, dashes, statistic) in LINES.items():
        points = [(row["N"], row[statistic]) for row in rows if row["method"] == method and row[statistic] > 1e-12]
        if points:
            axis.plot(*zip(*points, strict=True), dashes, color=colour, label=label, marker="o", markersize=3)
    axis.set(xscale="log", yscale="log")


def small_problem() -> tuple[Any, Data]:
    """Return eight examples with one input away from zero, so that weight and bias are correlated."""
    rng = np.random.default_rng(3)
    x = np.sort(rng.uniform(0.3, 2.2, 8))
    y = 0.4 + 0.9 * x + 0.4 * rng.normal(size=8)
    model = catalog.load("models", "bayesian_linear_regression")(Signature((1,), 1, "gaussian"), 1.0, 0.4)
    return model, Data(torch.from_numpy(x).reshape(1, -1, 1), torch.from_numpy(y).reshape(1, -1))


PICTURED = ("exact", "laplace", "mean_field_vi", "mc_dropout", "map")


def fit_small(method: str, model: Any, data: Data) -> Any:
    schedule = {"epochs": 3000, "batch_size": data.num_data, "learning_rate": 0.02, "decay": "linear"}
    extra = {"mean_field_vi": {"initial_log_sd": -1.0}, "mc_dropout": {"input_rate": 0.2}}
    settings = {} if method == "exact" else {method: schedule | extra.get(method, {})}
    return catalog.build_method([catalog.choice("methods", method, settings)]).fit(model, data, Streams.of_seeds([0]))


def bands_figure(path: Path) -> None:
    """Draw the predictive mean ± 2 sd of each method over the exact one."""
    model, data = small_problem()
    grid = torch.linspace(-2, 4.5, 131).double().reshape(1, -1, 1)
    predicted = {m: fit_small(m, model, data).predict(grid, 4000, Streams.of_seeds([0])) for m in PICTURED}
    figure = Figure(figsize=(11, 3.3), layout="constrained")
    axes = figure.subplots(1, len(PICTURED) - 1, sharex=True, sharey=True)
    x, exact = grid[0, :, 0], predicted["exact"]
    for axis, method in zip(axes, PICTURED[1:], strict=True):
        for name, found in (("exact", exact), (method, predicted[method])):
            mean, sd = found.mean[0], found.variance[0].sqrt()
            axis.plot(x, mean, color=COLOURS[name], label=NAMES[name], lw=1.5, ls="-" if name == "exact" else "--")
            axis.fill_between(x, mean - 2 * sd, mean + 2 * sd, color=COLOURS[name], alpha=0.22, lw=0)
        axis.plot(data.x[0, :, 0], data.y[0], "o", color="0.15", markersize=3.5, label="data")
        axis.set_xlabel("input x")
        axis.legend(loc="upper left", fontsize="small", frameon=False)
    axes[0].set_ylabel("target y (mean ± 2 sd)")
    figure.suptitle("Bayesian linear regression, 8 examples: predictive bands beside the exact one")
    figure.savefig(path, dpi=160)


def ellipse_figure(path: Path) -> None:
    """Draw the posterior of weight and bias: contours of two standard deviations."""
    model, data = small_problem()
    moments = {m: fit_small(m, model, data).moments() for m in PICTURED}
    figure = Figure(figsize=(6, 5.2), layout="constrained")
    axis = figure.subplots()
    styles = {"exact": "-", "laplace": ":", "mean_field_vi": "--", "mc_dropout": "-."}
    for method, style in styles.items():
        mean, covariance = moments[method].mean[0].numpy(), moments[method].covariance[0].numpy()
        values, vectors = np.linalg.eigh(covariance)
        angle = math.degrees(math.atan2(vectors[1, -1], vectors[0, -1]))
        width, height = 4 * np.sqrt(values.clip(1e-8)[::-1])
        label = {"mc_dropout": "MC dropout (moments; the bias is a point)", "laplace": "Laplace (is exact here)"}
        look = {"ls": style, "lw": 2.5 if method == "laplace" else 1.8}
        axis.add_patch(Ellipse(tuple(mean), width, height, angle=angle, fill=False, ec=COLOURS[method], **look))
        axis.plot([], [], color=COLOURS[method], label=label.get(method, NAMES[method]), **look)
    axis.plot(*moments["map"].mean[0].numpy(), "x", color=COLOURS["map"], ms=8, label="MAP (is the exact mean here)")
    axis.autoscale_view()
    axis.set(xlabel="weight", ylabel="bias", title="Posterior of a line's weight and bias: 2 sd contours")
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize="small")
    figure.savefig(path, dpi=160)


def figures(folder: Path) -> None:
    with mpl.rc_context({**sns.axes_style("whitegrid"), **sns.plotting_context("paper", font_scale=1.15)}):
        coin_figure(folder / "coin.png")
        bands_figure(folder / "bands.png")
        ellipse_figure(folder / "ellipse.png")


TABLES = {
    "coin": (
        coin_rows,
        "The coin: KL(exact ‖ method) of the predictive, over every count k under the prior predictive",
    ),
    "order": (
        order_rows,
        "Predictive KL at ten examples (coin: Beta(2, 2) prior), 200 draws of the data: mean and 95 % interval",
    ),
    "diabetes": (diabetes_rows, "Bayesian linear regression on diabetes: mean and standard error over five splits"),
}


def main(folder: Path, wanted: Sequence[str]) -> None:
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    for name in wanted or (*TABLES, "figures"):
        if name == "figures":
            figures(folder)
        else:
            rows, title = TABLES[name]
            write(folder / name, list(rows()), title)
        print(name, "done", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
