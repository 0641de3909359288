"""Write a table and a figure of the variance of gradient estimates beside the published one.

    python scripts/gradient_variance.py RECORDS OUT          (bdlbench installed)

RECORDS is a folder that `bdlbench run kingma2015` wrote. Writes OUT/gradient_variance.md and OUT/gradient_variance.png:
of the bottom and of the top layer, after each number of epochs, the variance of each estimate over that by local
reparameterisation. An interval is of the geometric mean over seeds, by Student's t on the logarithms.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy import stats

from bdlbench.records import record as records
from bdlbench.records.record import Record
from bdlbench.reproduce import papers

PRINTED = {
    "none": "no dropout noise",
    "local": "local reparameterization",
    "separate": "separate weight samples",
    "single": "single weight sample",
}
"""The paper's names of the estimates, in its order of variance."""

COLOURS = {"none": "#55a868", "local": "#4c72b0", "separate": "#dd8452", "single": "#c44e52"}


def main(folder: Path, out: Path) -> None:
    """Read, tabulate and draw."""
    out.mkdir(parents=True, exist_ok=True)
    by_epochs: dict[int, list[Record]] = {}
    for record in records.read(folder):
        by_epochs.setdefault(record.cell.method.get("epochs"), []).append(record)
    cells = sorted(by_epochs.items())
    table = pd.concat([rows_of(epochs, found) for epochs, found in cells], ignore_index=True)
    errors = [test_error(epochs, found) for epochs, found in cells]
    (out / "gradient_variance.md").write_text(markdown(table, errors))
    draw(table).savefig(out / "gradient_variance.png", dpi=150)


def rows_of(epochs: int, found: list[Record]) -> pd.DataFrame:
    """Return a row for each layer and estimate of one cell, over the seeds of all its records."""
    names = found[0].values.facts
    facts = {name: np.concatenate([np.array(one.values.facts[name], dtype=float) for one in found]) for name in names}
    leaves = [
        key.partition("[local ")[2].removesuffix("]") for key in facts if key.startswith("gradient_variance[local")
    ]
    printed = {(row.method, row.quantity): row.number.value for row in papers.read("kingma2015").rows if row.cause}
    rows = []
    for layer, leaf in (("top", leaves[-1]), ("bottom", leaves[0])):
        published = {e: printed[n, f"gradient_variance[{layer} layer, {epochs} epochs]"] for e, n in PRINTED.items()}
        for estimate in PRINTED:
            key = f"[{estimate} {leaf}]"
            ratios = np.log(facts[f"gradient_variance_ratio{key}"])
            half = stats.t.ppf(0.975, len(ratios) - 1) * ratios.std(ddof=1) / len(ratios) ** 0.5
            rows.append(
                {
                    **{"layer": layer, "epochs": epochs, "estimate": estimate},
                    "published variance": published[estimate],
                    "published ratio": published[estimate] / published["local"],
                    "variance": facts[f"gradient_variance{key}"].mean(),
                    "ratio": np.exp(ratios.mean()),
                    "low": np.exp(ratios.mean() - half),
                    "high": np.exp(ratios.mean() + half),
                    "error": facts[f"gradient_variance_ratio_error{key}"].mean(),
                    "seeds": len(ratios),
                }
            )
    return pd.DataFrame(rows)


def test_error(epochs: int, found: list[Record]) -> str:
    """Return the test error of a cell in words."""
    values = 100 * (1 - np.concatenate([one.values.metrics["accuracy"].numbers for one in found]))
    error = values.std(ddof=1) / len(values) ** 0.5
    return f"{values.mean():.2f} ± {error:.2f} % after {epochs} epochs ({len(values)} seeds)"


def markdown(table: pd.DataFrame, errors: list[str]) -> str:
    """Return the table, and below it what its columns are and whether the order is the published one."""
    head = ["layer", "epochs", "estimate", "variance", "published", "over local", "95 %", "± in one seed", "published"]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    orders = []
    for (layer, epochs), rows in table.groupby(["layer", "epochs"], sort=False):
        for _, row in rows.iterrows():
            local = row["estimate"] == "local"
            ours = ["1", "", ""] if local else [f"{row['ratio']:.2g}", f"{row['low']:.2g} to {row['high']:.2g}"]
            ours += [] if local else [f"{row['error']:.1g}"]
            told = [layer, str(epochs), PRINTED[row["estimate"]], f"{row['variance']:.1e}"]
            told += [f"{row['published variance']:.1e}", *ours, "1" if local else f"{row['published ratio']:.2g}"]
            lines.append("| " + " | ".join(told) + " |")
        same = (
            rows.sort_values("ratio")["estimate"].tolist() == rows.sort_values("published ratio")["estimate"].tolist()
        )
        orders.append(f"{layer} layer, {epochs} epochs: {'the published order' if same else 'ANOTHER ORDER'}")
    words = [
        "95 %: an interval of the geometric mean over seeds, by Student's t.",
        "± in one seed: the standard error of the ratio at one seed's parameters, over its pairs of batches.",
        "Variances depend on the widths and on α, which the paper does not state with its table: only ratios compare.",
        f"Order: {'; '.join(orders)}.",
        f"Test error: {'; '.join(errors)}.",
    ]
    return "\n".join([*lines, "", *words]) + "\n"


def draw(table: pd.DataFrame) -> Figure:
    """Draw ratios for each layer and number of epochs, ours with intervals beside the published ones."""
    figure = Figure(figsize=(8.4, 3.6), layout="constrained")
    axes = figure.subplots(1, table["layer"].nunique(), sharey=True)
    for axis, (layer, rows) in zip(axes, table.groupby("layer", sort=False), strict=True):
        groups = list(rows.groupby("epochs", sort=False))
        for place, (_, some) in enumerate(groups):
            for step, (_, row) in enumerate(some[some["estimate"] != "local"].iterrows()):
                x, colour = place + 0.27 * (step - 1), COLOURS[row["estimate"]]
                label = PRINTED[row["estimate"]] if place == 0 else None
                bars = [[row["ratio"] - row["low"]], [row["high"] - row["ratio"]]]
                axis.errorbar([x], [row["ratio"]], bars, color=colour, marker="o", ms=5, capsize=3, label=label)
                words = "published" if (place, step) == (0, 0) else None
                axis.plot([x + 0.09], [row["published ratio"]], "D", mfc="none", mec=colour, ms=6, label=words)
        axis.axhline(1, color=COLOURS["local"], lw=1, label=PRINTED["local"])
        axis.set_xticks(range(len(groups)), [f"{epochs} epochs" for epochs, _ in groups])
        axis.set(yscale="log", title=f"{layer} layer", xlim=(-0.6, len(groups) - 0.4))
        axis.grid(alpha=0.3, axis="y")
    axes[0].set_ylabel("variance over that by\nlocal reparameterization")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    return figure


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
