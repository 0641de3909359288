"""Write tables and the convergence curve of the VAE from records, with published numbers beside ours.

    python scripts/vae_tables.py results/vae

The commands that make the records are in results/vae/README.md. Writes density.{csv,md}, ood.{csv,md} and
convergence.png into the folder of the records.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from bdlbench import api
from bdlbench.reproduce import papers

SCORES = {
    "ood_auroc_density": "log p(x)",
    "ood_auroc_negative_elbo": "ELBO",
    "ood_auroc_likelihood_regret": "likelihood regret",
}


def summary(folder: Path) -> pd.DataFrame:
    """Return one row for each `vae` cell and metric, with the options that differ between cells as columns."""
    frame = api.table(folder, ["*"])
    frame = frame[frame["model"] == "vae"]
    return frame.assign(
        passes=frame["method.epochs"], rate=frame["method.learning_rate"], num_ood=frame["dataset.num_ood"]
    )


def density_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the nats of the test images by passes over the training data, published numbers below."""
    chosen = frame[(frame["dataset"] == "binary_mnist") & (frame["num_ood"] == 0)]
    wide = chosen.pivot_table(index=["passes", "rate"], columns="metric", values="mean").reset_index()
    rows = [
        {
            "source": "bdlbench",
            "passes": int(row["passes"]),
            "learning rate": row["rate"],
            "negative ELBO (nats)": round(row["negative_elbo"], 2),
            "importance-weighted NLL (nats)": round(row["nll"], 2),
            "k": int(row["importance_samples"]),
            "active units": f"{row['active_units']:.0f}",
        }
        for _, row in wide.iterrows()
    ]
    for paper in map(papers.read, ("burda2016", "xqding")):
        rows += [
            {"source": paper.citation, "passes": 3280, "importance-weighted NLL (nats)": row.printed, "k": 5000}
            for row in paper.rows
            if row.method == "VAE, k = 1" and row.ours.metric == "nll"
        ]
    return pd.DataFrame(rows)


def ood_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the AUROC of each score for each pair of sets, with the published number where there is one."""
    cited = {(row.dataset, row.ours.metric): row.printed for row in papers.read("lpath").rows}
    rows = []
    for _, row in frame[frame["metric"].str.partition("[")[0].isin(SCORES)].iterrows():
        metric, _, ood = row["metric"].removesuffix("]").partition("[")
        rows.append(
            {
                "trained on": row["dataset"],
                "out of distribution": f"binary {ood}",
                "score": SCORES[metric],
                "AUROC": f"{row['mean']:.4f} ± {row['standard_error']:.4f}",
                "seeds": row["n"],
                "published": cited.get((row["dataset"], row["metric"]), ""),
            }
        )
    order = list(SCORES.values())
    if not rows:
        return pd.DataFrame(columns=["trained on", "out of distribution", "score", "AUROC", "seeds", "published"])
    return pd.DataFrame(rows).sort_values(
        ["trained on", "out of distribution", "score"], key=lambda c: c.map(order.index) if c.name == "score" else c
    )


def draw_convergence(table: pd.DataFrame, path: Path) -> None:
    """Draw nats over passes at the learning rate that most cells have, with the published number as a line."""
    ours = table[table["source"] == "bdlbench"]
    ours = ours[ours["learning rate"] == ours["learning rate"].mode()[0]]
    figure = Figure(figsize=(5.5, 3.6), layout="constrained")
    axis = figure.subplots()
    for column, colour in zip(
        ("negative ELBO (nats)", "importance-weighted NLL (nats)"), sns.color_palette("deep", 2), strict=True
    ):
        axis.plot(ours["passes"], ours[column], "o-", color=colour, label=column.removesuffix(" (nats)"))
    axis.axhline(86.76, color="0.4", linestyle="--", linewidth=1, label="published NLL, 3,280 passes")
    axis.set(xscale="log", xlabel="passes over the training images", ylabel="nats per test image")
    axis.set_xticks(ours["passes"], [f"{p:,}" for p in ours["passes"]])
    axis.minorticks_off()
    axis.legend(frameon=False)
    figure.savefig(path, dpi=200)


def main(folder: Path) -> None:
    """Write all tables and the curve."""
    frame = summary(folder)
    density, ood = density_table(frame), ood_table(frame)
    for name, table in {"density": density, "ood": ood}.items():
        table.to_csv(folder / f"{name}.csv", index=False)
        (folder / f"{name}.md").write_text(markdown(table), "utf-8")
    with sns.axes_style("whitegrid"):
        draw_convergence(density, folder / "convergence.png")


def markdown(table: pd.DataFrame) -> str:
    """Return a table in GitHub's Markdown."""
    lines = [list(table.columns), ["---"] * table.shape[1], *table.astype(object).fillna("").values.tolist()]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines) + "\n"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
