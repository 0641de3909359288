"""Write a table and figures of the stopping ResNet: accuracy against compute, beside networks of fixed depth.

    python scripts/stopping_curve.py RECORDS OUT [TITLE]     (bdlbench installed; $BDLBENCH_DATA for the images)

RECORDS is a folder that `bdlbench run` wrote with cells of `stopping_resnet` and `constant_resnet` on one data set.
Writes OUT/curve.csv, OUT/curve.md, OUT/curve.png, and OUT/images.png: the images that leave first and last, of the cell
whose depths differ most. FLOPs are 2×MAC of convolutions and dense maps, every head counted.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from bdlbench import catalog
from bdlbench.records import record as records
from bdlbench.records.record import Record

STOPPING, CONSTANT = "stopping_resnet", "constant_resnet"
SHOWN = ("accuracy", "nll", "ece", "depth", "flops", "flops_fraction")
COLOURS = {CONSTANT: "#4c72b0", STOPPING: "#c44e52"}


def main(folder: Path, out: Path, title: str) -> None:
    """Read, tabulate and draw."""
    found = [r for r in records.read(folder) if r.replicates and r.cell.model.name in COLOURS]
    found.sort(key=lambda r: (r.cell.model.name, r.cell.model.get("blocks"), -r.cell.model.get("strength", 0.0)))
    out.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame([row_of(folder, record) for record in found])
    table.to_csv(out / "curve.csv", index=False)
    (out / "curve.md").write_text(markdown(table))
    draw_curve(table, title).savefig(out / "curve.png", dpi=200)
    stopping = [r for r in found if r.cell.model.name == STOPPING]
    if stopping:
        draw_images(folder, widest(folder, stopping)).savefig(out / "images.png", dpi=200)


def row_of(folder: Path, record: Record) -> dict[str, Any]:
    """Return mean and standard error over seeds of the shown metrics, shares of exits, and measured speed-ups."""
    model, metrics = record.cell.model, record.values.metrics
    row: dict[str, Any] = {
        "model": model.name,
        "layers": model.get("blocks"),
        "strength": model.get("strength"),
        "entropy_weight": model.get("entropy_weight"),
        "method": record.cell.method.name,
        "seeds": len(record.replicates),
    }
    for name, metric in metrics.items():
        if name.partition("[")[0] in (*SHOWN, "accuracy_by_rule", "nll_by_rule", "ece_by_depth") or "ood_auroc" in name:
            values = np.array(metric.numbers)
            row[name] = values.mean()
            row[f"{name} se"] = values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else np.nan
    if record.cell.model.name == STOPPING:
        depth = records.predictions(folder, record)["test.halted_depth"]
        row |= {f"share leaving at {d}": float((depth == d).double().mean()) for d in range(1, model.get("blocks") + 1)}
    return row | {name: value for name, value in record.cost.items() if name.startswith("speedup")}


def markdown(table: pd.DataFrame) -> str:
    """Return the main columns, rounded; the CSV has all."""
    names = ["accuracy", "nll", "ece", "depth", "flops", "flops_fraction"]
    header = ["network", "accuracy %", "NLL", "ECE", "mean depth", "MFLOPs", "of full", "speed-up at 256", "at 1"]
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    scale = {"accuracy": (100, 2), "nll": (1, 4), "ece": (1, 4), "depth": (1, 2), "flops": (1e-6, 2)}
    for _, row in table.iterrows():
        plain = row["model"] == CONSTANT
        label = f"fixed, layers: {row['layers']}" if plain else f"stopping, strength {row['strength']:g}"
        cells = [label]
        for name in names[:-1]:
            factor, digits = scale[name]
            error = f" ± {factor * row[f'{name} se']:.{digits}f}" if row[f"{name} se"] > 0 else ""
            cells.append(f"{factor * row[name]:.{digits}f}{error}")
        cells.append("" if plain else f"{100 * row['flops_fraction']:.1f} %")
        cells += ["" if plain else f"{row[f'speedup[{size}]']:.2f}" for size in (256, 1)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def draw_curve(table: pd.DataFrame, title: str) -> Figure:
    """Draw accuracy over mean FLOPs, a point for each cell, with bars of one standard error over seeds."""
    figure = Figure(figsize=(5.6, 4.2), layout="constrained")
    axis = figure.subplots()
    for name, label, marker in (
        (CONSTANT, "fixed depth (number of layers)", "s"),
        (STOPPING, "stopping (prior strength, nats a layer)", "o"),
    ):
        rows = table[table["model"] == name].sort_values("flops")
        x, y = rows["flops"] / 1e6, 100 * rows["accuracy"]
        bars = {"xerr": rows["flops se"] / 1e6, "yerr": 100 * rows["accuracy se"]}
        axis.errorbar(x, y, **bars, color=COLOURS[name], marker=marker, ms=5, capsize=2, lw=1.2, label=label)
        name_points(axis, rows, name)
    axis.set(xlabel="mean MFLOPs for one image (2×MAC, heads counted)", ylabel="test accuracy, %", title=title)
    axis.grid(alpha=0.3)
    axis.margins(x=0.13, y=0.1)
    figure.legend(loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    return figure


def name_points(axis: Any, rows: pd.DataFrame, name: str) -> None:
    """Write layers, or prior strengths, beside the points; points of equal cost share one label."""
    aside = {"xytext": (-5, 5), "ha": "right"} if name == CONSTANT else {"xytext": (6, -11), "ha": "left"}
    apart = rows["flops"].diff() > 0.03 * rows["flops"].max()  # of rows by rising cost
    for _, same in rows.groupby(apart.cumsum()):
        top = same.loc[same["accuracy"].idxmax()]
        label = ", ".join(f"{value:g}" for value in sorted(same["layers" if name == CONSTANT else "strength"]))
        place = (top["flops"] / 1e6, 100 * top["accuracy"])
        axis.annotate(label, place, **aside, textcoords="offset points", fontsize=8, color=COLOURS[name])


def widest(folder: Path, stopping: list[Record]) -> Record:
    """Return the cell whose depths differ most between images."""
    return max(stopping, key=lambda r: float(records.predictions(folder, r)["test.halted_depth"].float().std()))


def draw_images(folder: Path, record: Record, count: int = 16) -> Figure:
    """Draw the test images of least and greatest expected depth, averaged over seeds, with label and mean depth."""
    arrays = records.predictions(folder, record)
    score, halted = arrays["test.depth"].mean(0), arrays["test.halted_depth"].mean(0)
    wrong = (arrays["test.log_probs"].argmax(-1) != arrays["test.y"]).float().mean(0)
    order = score.argsort(stable=True)
    task = catalog.build_dataset(catalog.choice("datasets", record.cell.dataset.name, {})).load(0)
    figure = Figure(figsize=(8.2, 2.1), layout="constrained")
    halves = figure.subfigures(1, 2, wspace=0.04)
    for part, name, index in zip(halves, ("fewest", "most"), (order[:count], order.flip(0)[:count]), strict=True):
        part.suptitle(f"{name} layers: {float(halted[index].mean()):.2f} on average", fontsize=10)
        for axis, i in zip(part.subplots(2, count // 2).flat, index.tolist(), strict=True):
            axis.imshow(picture(task.test.x[i]), cmap="gray_r", interpolation="nearest")
            axis.set_title(f"{int(task.test.y[i])}: {float(halted[i]):.1f}", fontsize=8, pad=2)
            axis.set_xticks([])
            axis.set_yticks([])
            for side in axis.spines.values():
                side.set(color="#c44e52" if wrong[i] > 0.5 else "#bbbbbb", linewidth=2 if wrong[i] > 0.5 else 0.8)
    figure.supxlabel("class: layers, mean over seeds; red frame: wrong in most seeds", fontsize=8)
    return figure


def picture(x: torch.Tensor) -> np.ndarray:
    """Return an input (C, H, W) as an image between 0 and 1."""
    shown = (x - x.min()) / (x.max() - x.min())
    return shown[0].numpy() if len(shown) == 1 else shown.permute(1, 2, 0).numpy()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else "")
