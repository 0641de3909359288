"""Draw figures of a VAE from the kept parameters of records.

    python scripts/vae_figures.py FOLDER [FOLDER2D [FOLDER_M2]] results/vae             (bdlbench installed)

FOLDER: of a `vae` record, for samples and reconstructions; FOLDER2D: of one with `vae.latent=2`, for the latent space;
FOLDER_M2: of an `m2` record, for digits that share a style. How each is made: results/vae/README.md.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
import seaborn as sns
import torch
from kept_vae import Kept, kept
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

NAMES = {"fashion_mnist": "FashionMNIST", "mnist": "MNIST", "kmnist": "KMNIST"}
SEED = 0
GAP = 2  # pixels between pictures


def main(folders: list[Path], out: Path) -> None:
    """Draw every figure that the given folders allow."""
    out.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context({**sns.axes_style("white"), **sns.plotting_context("paper"), "font.size": 9}):
        vae = kept(folders[0], "vae")[0]
        samples(vae).savefig(out / "samples.png", dpi=200)
        reconstructions(vae).savefig(out / "reconstructions.png", dpi=200)
        if len(folders) > 1:
            flat = kept(folders[1], "vae", latent=2)[0]
            manifold(flat).savefig(out / "latent_manifold.png", dpi=200)
            scatter(flat).savefig(out / "latent_classes.png", dpi=200)
        if len(folders) > 2:
            styles(kept(folders[2], "m2")[0]).savefig(out / "m2_styles.png", dpi=200)


def samples(vae: Kept, side: int = 12) -> Figure:
    """Draw a grid of E[x | z], z ~ N(0, I)."""
    z = torch.randn(side * side, vae.model.latent, generator=torch.Generator().manual_seed(SEED))
    figure = Figure(figsize=(4.6, 4.9), layout="constrained")
    axis = figure.subplots()
    picture(axis, tiled(vae.decoded(z), side))
    axis.set_title(f"E[x | z], z ~ N(0, I)\n{vae.title}", fontsize="medium")
    return figure


def reconstructions(vae: Kept, columns: int = 16) -> Figure:
    """Draw test images, and images of each out-of-distribution set, above their reconstructions."""
    sets = {"test images": class_by_class(vae.task.test.x, vae.task.test.y, columns)}
    sets |= {f"out of distribution: {NAMES.get(name, name)}": x[:columns] for name, x in vae.task.ood.items()}
    figure = Figure(figsize=(6.4, 1.05 * len(sets) + 0.35), layout="constrained")
    figure.suptitle(f"{vae.title}: inputs above, E[x | mean of q(z | x)] below", fontsize="medium")
    for axis, (name, x) in zip(figure.subplots(len(sets), 1, squeeze=False)[:, 0], sets.items(), strict=True):
        pair = torch.cat([x.reshape(-1, *x.shape[-2:]), vae.reconstructed(x)])
        picture(axis, tiled(pair, columns))
        axis.set_title(name, loc="left", fontsize="small")
    return figure


def manifold(vae: Kept, side: int = 20) -> Figure:
    """Draw E[x | z] of latents on the grid of the prior's quantiles (Kingma & Welling 2014, figure 4)."""
    quantiles = (torch.arange(side) + 0.5) / side
    values = torch.special.ndtri(quantiles)
    z = torch.stack([values.repeat(side), values.flip(0).repeat_interleave(side)], dim=-1)  # rows downwards
    figure = Figure(figsize=(5.6, 5.7), layout="constrained")
    axis = figure.subplots()
    picture(axis, tiled(vae.decoded(z), side))
    shown = range(1, side, 3)
    size = vae.task.test.x.shape[-1] + 2 * GAP
    axis.set_xticks([size * (i + 0.5) for i in shown], [f"{values[i]:.1f}".replace("-", "−") for i in shown])
    axis.set_yticks([size * (side - i - 0.5) for i in shown], [f"{values[i]:.1f}".replace("-", "−") for i in shown])
    axis.set(xlabel="$z_1$, at quantiles of N(0, 1)", ylabel="$z_2$, at quantiles of N(0, 1)")
    axis.set_title(f"E[x | z]\n{vae.title}", fontsize="medium")
    return figure


def scatter(vae: Kept, count: int = 10_000) -> Figure:
    """Draw the means of q(z | x) of test images, coloured by class."""
    means, y = vae.means(vae.task.test.x[:count]), vae.task.test.y[:count]
    figure = Figure(figsize=(6.2, 5.4), layout="constrained")
    axis = figure.subplots()
    for c, colour in enumerate(sns.color_palette("tab10", int(y.max()) + 1)):
        points = means[y == c]
        axis.scatter(points[:, 0], points[:, 1], s=3, alpha=0.5, linewidths=0, color=colour, label=str(c))
    axis.set(xlabel="mean of $q(z_1 \\mid x)$", ylabel="mean of $q(z_2 \\mid x)$", aspect="equal")
    axis.set_title(f"{len(y):,} test images\n{vae.title}", fontsize="medium")
    legend = axis.legend(title="class", loc="center left", bbox_to_anchor=(1.0, 0.5), markerscale=4, frameon=False)
    for handle in legend.legend_handles:
        handle.set_alpha(1)
    sns.despine(figure)
    return figure


@torch.no_grad()
def styles(m2: Kept, count: int = 10) -> Figure:
    """Draw lines of a test image, then E[x | z, y] with the mean of q(z | x, its class) and every class y in turn."""
    x, y = m2.task.test.x[:count], m2.task.test.y[:count]
    latent = m2.model.encode(m2.layer, x.flatten(1)[None])[0].chunk(2, dim=-1)[0]  # (C, N, Z)
    z = latent[y, torch.arange(count)].expand(1, m2.model.signature.outputs, -1, -1)
    made = m2.model.decode(m2.layer, z)[0].sigmoid()  # (C, N, D)
    pictures = torch.cat([x.reshape(1, count, *x.shape[-2:]), made.unflatten(-1, x.shape[-2:])]).transpose(0, 1)
    figure = Figure(figsize=(5.6, 5.3), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, len(made)))
    picture(left, tiled(pictures[:, 0], 1))
    picture(right, tiled(pictures[:, 1:].flatten(0, 1), len(made)))
    left.set_title("x", fontsize="medium")
    right.set_title(f"E[x | z, y], y = 0 … {len(made) - 1}, the same z along a line", fontsize="medium")
    figure.suptitle(m2.title, fontsize="medium")
    return figure


def class_by_class(x: Tensor, y: Tensor, count: int) -> Tensor:
    """Return `count` images: the first of each class in turn, then the second of each, and so on."""
    rank = torch.stack([(y[: i + 1] == y[i]).sum() for i in range(len(y[:500]))])
    order = sorted(range(len(rank)), key=lambda i: (int(rank[i]), int(y[i])))
    return x[order[:count]]


def tiled(pictures: Tensor, columns: int) -> Tensor:
    """Return (N, H, W) side by side with a gap around each: (N / columns · (H + gap), columns · (W + gap))."""
    lines = torch.nn.functional.pad(pictures, (GAP, GAP, GAP, GAP)).unflatten(0, (-1, columns))
    return lines.transpose(1, 2).flatten(2).flatten(0, 1)


def picture(axis: Axes, image: Tensor) -> Any:
    """Draw ink in black, without ticks; pixel i spans i … i + 1."""
    height, width = image.shape
    axis.imshow(image.numpy(), cmap="gray_r", vmin=0, vmax=1, extent=(0, width, height, 0), interpolation="nearest")
    axis.set(xticks=[], yticks=[])


if __name__ == "__main__":
    *given, last = map(Path, sys.argv[1:])
    main(given, last)
