"""Write a table and a figure of test error and of the weights left over training, beside the published end.

    python scripts/sparsity_curves.py PAPER RECORDS     (bdlbench installed)

PAPER is a name of `bdlbench reproduce`, such as molchanov2017; RECORDS is a folder of its records, whose suite asked
for curves of accuracy, compression and sparsity. Writes RECORDS/curves.md and RECORDS/curves.png: the mean over seeds,
and in the figure each seed; a KL that goes on falling above the threshold is dashed.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from bdlbench import api
from bdlbench.reproduce import papers

AT = (2, 6, 10, 16, 20, 30, 50, 100, 150, 200)
"""The epochs of the table."""
KL = "method.kl_above_threshold"
DASHES = {"constant": "-", "falling": "--"}
COLOURS = ("#0173b2", "#de8f05", "#029e73", "#d55e00")


def main(name: str, folder: Path) -> None:
    """Read, bring to the paper's units, tabulate and draw."""
    rows = [row for row in papers.read(name).rows if not row.cause]
    published = {row.quantity: row.number.value for row in rows}
    measured = api.curves(folder).set_index("metric").fillna({KL: "falling"})  # its default, which no cell holds
    found = pd.concat(
        measured.loc[[row.ours.metric]].assign(
            quantity=row.quantity, value=lambda part, row=row: row.ours.scale * part["value"] + row.ours.offset
        )
        for row in rows
    )
    (folder / "curves.md").write_text(markdown(found, published), "utf-8")
    draw(found, published).savefig(folder / "curves.png", dpi=150)


def markdown(found: pd.DataFrame, published: Mapping[str, float]) -> str:
    """Return the means over seeds by epoch, and the published numbers, for each KL above the threshold."""
    head = ["KL above the threshold", "seeds", "epoch", *(name.replace("_percent", " %") for name in published)]
    lines = [f"| {' | '.join(head)} |", f"| :-- |{' --: |' * (len(head) - 1)}"]
    for kl, rows in found.groupby(KL):
        means = rows.pivot_table(index="epoch", columns="quantity", values="value")
        for epoch in [epoch for epoch in AT if epoch in means.index]:
            cells = [kl, rows["seed"].nunique(), epoch, *(f"{means.loc[epoch, name]:.2f}" for name in published)]
            lines.append(f"| {' | '.join(map(str, cells))} |")
    lines.append(f"| published |  |  | {' | '.join(f'{value:g}' for value in published.values())} |")
    return "\n".join(lines) + "\n"


def draw(found: pd.DataFrame, published: Mapping[str, float]) -> Figure:
    """Draw the error, and the weights left by layer, over the epochs; dotted lines are the published ends."""
    layers = [name for name in published if name.startswith("sparsity_percent[")]
    figure = Figure(figsize=(9.5, 4.0), layout="constrained")
    left, right = figure.subplots(1, 2, subplot_kw={"yscale": "log"})
    lines = [
        (left, "error_percent", "0.2", "error"),
        *((right, layer, colour, layer[17:-8]) for layer, colour in zip(layers, COLOURS, strict=False)),
    ]
    for kl, rows in found.groupby(KL):
        by_seed = rows.pivot_table(index="epoch", columns=["quantity", "seed"], values="value")
        for axis, name, colour, label in lines:
            seeds = by_seed[name] if axis is left else 100 - by_seed[name]  # (epochs, seeds), %
            axis.plot(seeds.index, seeds, color=colour, lw=0.5, alpha=0.5, ls=DASHES[kl])
            axis.plot(seeds.index, seeds.mean(axis=1), color=colour, lw=1.6, ls=DASHES[kl], label=f"{label}, {kl} KL")
    for axis, name, colour, _ in lines:
        axis.axhline(published[name] if axis is left else 100 - published[name], color=colour, lw=1, ls=":")
    left.set(ylabel="test error of the pruned means", title="Dotted: published")
    right.set(ylabel="weights left (log α below 3)", title="Dotted: published")
    for axis, ticks in ((left, (1, 1.5, 2, 3, 5, 10, 20, 50)), (right, (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100))):
        low, high = axis.get_ylim()
        axis.set(xlabel="epoch", ylim=(low, high))
        axis.set_yticks([tick for tick in ticks if low <= tick <= high])
        axis.yaxis.set_major_formatter(lambda value, _: f"{value:g} %")
        axis.yaxis.set_minor_formatter(NullFormatter())
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8, frameon=False)
    return figure


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
