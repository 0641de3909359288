"""The marginal density of a VAE detects out-of-domain data: trained on each of two sets, asked about the other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from bdlbench.runs.suites import Grid, Suite
from bdlbench.stats.hypotheses import Statement, over_replicates, over_splits
from bdlbench.studies.experiment import Experiment, Readings, Setup

BOUND = 0.8
"""The least AUROC of a score that detects: "excellent" in Hosmer & Lemeshow 2000, §5.2.4."""
PAIRS = {
    "binary_digits": ("digits", "photos", 450 / 1347),
    "binary_photos": ("photos", "digits", 2120 / 1347),
    "binary_mnist": ("mnist", "fashion_mnist", 0.0),
    "binary_fashion_mnist": ("fashion_mnist", "mnist", 0.0),
}
"""By data set: what it is called, the other set, and N_test / N_train of its splits; 0 for seeds on one split."""
WORDS = {"digits": "digits", "photos": "photographs", "mnist": "digits", "fashion_mnist": "clothes"}
SCORES = {"density": "−log p(x)", "likelihood_regret": "likelihood regret"}

SUITE = Suite(
    title="A VAE of digits asked about patches of photographs, and the other way round",
    version=1,
    seeds=6,
    samples=1,
    splits="each",
    selection="none",
    grids=(Grid(("mle",), ("vae",), ("binary_digits", "binary_photos")),),
    options={
        "mle": {"epochs": [60], "learning_rate": [3e-3], "decay": ["linear"]},
        "vae": {"widths": ["64"], "latent": [8], "test_samples": [50], "regret_steps": [10]},
        "binary_photos": {"num_train": [1347]},
    },
)

FULL = Suite(
    title="A VAE of MNIST asked about FashionMNIST, and the other way round",
    version=1,
    seeds=3,
    samples=1,
    selection="none",
    grids=(
        Grid(
            ("mle",),
            ("vae",),
            ("binary_mnist",),
            {"mle": {"epochs": [10]}, "vae": {"test_samples": [100]}, "binary_mnist": {"num_ood": [2000]}},
        ),
        Grid(
            ("mle",),
            ("vae",),
            ("binary_fashion_mnist",),
            {"mle": {"epochs": [40]}, "vae": {"test_samples": [500]}, "binary_fashion_mnist": {"num_ood": [2000]}},
        ),
    ),
    options={
        "mle": {"batch_size": [100], "learning_rate": [2e-3], "decay": ["linear"]},
        "vae": {"regret_steps": [0]},
    },
)


def statements(measured: Readings) -> Sequence[Statement]:
    """State the AUROC of the density for each way round."""
    found = []
    for name in dict.fromkeys(measured.frame.dataset):
        inside, outside, ratio = PAIRS[name]
        values = measured.values(f"ood_auroc_density[{outside}]", dataset=name)
        words = f"trained on {WORDS[inside]}, AUROC of −log p(x) for {WORDS[outside]}"
        found.append(Statement(words, over_splits(values, ratio) if ratio else over_replicates(values), low=BOUND))
    return found


def draw(measured: Readings) -> Figure:
    """Draw the AUROC of the density, and of the likelihood regret where it was measured, for each way round."""
    figure = Figure(figsize=(6.4, 3.2), layout="constrained")
    axes = figure.subplots()
    names = list(dict.fromkeys(measured.frame.dataset))
    for colour, (score, words) in enumerate(SCORES.items()):
        for place, name in enumerate(names):
            metric = f"ood_auroc_{score}[{PAIRS[name][1]}]"
            if metric not in set(measured.frame.metric):
                continue
            values = measured.values(metric, dataset=name)
            at = place - 0.12 + 0.24 * colour
            axes.plot(np.full(len(values), at), values, "os"[colour], color=f"C{colour}", alpha=0.4)
            axes.plot([at - 0.08, at + 0.08], [values.mean()] * 2, color=f"C{colour}", linewidth=2)
            if not place:
                axes.plot([], [], "os"[colour], color=f"C{colour}", label=words)
    axes.axhline(0.5, color="0.5", linewidth=0.8, linestyle="--", label="chance")
    axes.axhline(BOUND, color="0.5", linewidth=0.8, linestyle=":", label="bound of the hypothesis")
    axes.set(ylim=(-0.03, 1.03), xlim=(-0.5, len(names) - 0.5), ylabel="AUROC: other set against test set")
    axes.set_xticks(
        range(len(names)),
        [f"trained on {WORDS[PAIRS[name][0]]},\nasked about {WORDS[PAIRS[name][1]]}" for name in names],
    )
    figure.legend(frameon=False, loc="outside upper left", ncols=4, fontsize="small")
    return figure


claims = {
    "vae_ood": Experiment(
        title="The marginal density of a VAE detects out-of-domain data",
        slide="Bayesian Generative Modeling",
        hypothesis=f"Whichever of two sets of images a VAE is trained on, its −log p(x) ranks the images of the other "
        f"set above new images of its own with an AUROC of at least {BOUND}.",
        paragraph="A model of the density p(x) should find images improbable that are unlike those that it has learnt. "
        "A variational autoencoder is trained on one set of images, and asked how probable new images of that set and "
        "images of another set are. The AUROC is the probability that an image of the other set gets the larger "
        "−log p(x): one is perfect, one half is chance, and below one half the other set is the more probable one. "
        "Both ways round are asked, because the claim has a known failure: a model of a varied set may give simple "
        "images of another kind a higher density than its own (Nalisnick et al. 2019). The second score, which the "
        "claim is not about, subtracts how probable the best encoding of the very image would make it (likelihood "
        "regret, Xiao et al. 2020), so that what is simple is not rewarded. Each mark is a replicate.",
        bundled=Setup(
            SUITE,
            "Binary 8×8 digits, and binary 8×8 patches of two photographs, 1,347 training images each, six splits; a "
            "VAE with 64 hidden units and 8 latent dimensions, 60 epochs; log p(x) by 50 importance samples. Nothing "
            "was searched for.",
        ),
        full=Setup(
            FULL,
            "Binary MNIST and FashionMNIST, three seeds; the VAE 784-200-200-50, 10 epochs on digits with 100 "
            "importance samples and 40 epochs on clothes with 500; 2,000 images of the other set.",
        ),
        statements=statements,
        draw=draw,
        alt="AUROC of minus log density and of the likelihood regret for two ways round: trained on one set of images, "
        "asked about the other",
    ),
}
