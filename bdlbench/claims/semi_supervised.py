"""A latent is useful for semi-supervised learning: a density of images learns from those without a label, too."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from bdlbench.runs.suites import Grid, Suite
from bdlbench.stats.hypotheses import Statement, over_splits
from bdlbench.studies.experiment import Experiment, Readings, Setup

COPIES = {20: 10, 50: 4}
"""By number of labels, how often a labelled image stands in the training set: 200 of about 1,500 entries."""
TEST_OVER_TRAIN = 450 / 1347

SUITE = Suite(
    title="M2 with 20 and 50 labelled digits beside the same network on the labels alone",
    version=1,
    seeds=8,
    samples=1,
    splits="each",
    selection="none",
    grids=(
        *(
            Grid(
                ("mle",),
                ("m2",),
                ("semi_digits",),
                {
                    "mle": {"epochs": [20], "learning_rate": [2e-3], "decay": ["second_half"]},
                    "semi_digits": {"num_labelled": [labels], "copies": [copies]},
                },
            )
            for labels, copies in COPIES.items()
        ),
        Grid(
            ("mle",),
            ("mlp",),
            ("digits",),
            {
                "mle": {"steps": [1000], "learning_rate": [1e-3], "decay": ["linear"]},
                "digits": {"num_train": [*COPIES]},
            },
        ),
    ),
    options={
        "mle": {"batch_size": [25]},
        "mlp": {"widths": ["100"]},
        "m2": {"widths": ["100"], "latent_widths": ["100-100"], "latent": [5], "alpha": [100.0]},
    },
)


def accuracies(measured: Readings, labels: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the accuracy in % with and without unlabelled images, (R,) by split."""
    both = measured.values("accuracy", model="m2", dataset__num_labelled=labels)
    alone = measured.values("accuracy", model="mlp", dataset__num_train=labels)
    return 100 * both, 100 * alone


def statements(measured: Readings) -> Sequence[Statement]:
    """State what unlabelled images add to the accuracy, by number of labels."""
    found = []
    for labels in COPIES:
        both, alone = accuracies(measured, labels)
        words = f"accuracy of M2 with {labels} labels less that of the labels alone"
        found.append(Statement(words, over_splits(both - alone, TEST_OVER_TRAIN), low=0.0, unit="points"))
    return found


def draw(measured: Readings) -> Figure:
    """Draw both accuracies of every split, by number of labels."""
    figure = Figure(figsize=(6.4, 3.4), layout="constrained")
    for place, (axes, labels) in enumerate(zip(figure.subplots(1, 2, sharey=True), COPIES, strict=True)):
        both, alone = accuracies(measured, labels)
        axes.plot([0, 1], np.stack([alone, both]), "o-", color="C0", alpha=0.3, linewidth=0.8)
        axes.plot([0, 1], [alone.mean(), both.mean()], "s-", color="C1", linewidth=2, label="mean")
        axes.set(title=f"{labels} labels", xlim=(-0.45, 1.45))
        axes.set_xticks([0, 1], ["labels alone", "M2: and images\nwithout a label"])
        if not place:
            axes.set_ylabel("test accuracy in %")
            axes.legend(frameon=False, loc="lower right")
    return figure


claims = {
    "semi_supervised": Experiment(
        title="A latent is useful for semi-supervised learning",
        slide="Variational Inference to the rescue",
        hypothesis="With 20 and with 50 labelled digits, a classifier that is trained together with a density of the "
        "images given class and latent (M2), on the labelled and the unlabelled images, is more accurate than the same "
        "classifier trained on the labelled images alone.",
        paragraph="Images are many and labels few. The model M2 (Kingma et al. 2014) explains every image by its class "
        "and by a latent for all else, such as slant and stroke. Where a label is missing, the class is one more "
        "latent and is summed out, so that images without a label teach the classifier, too. Beside it stands the same "
        "classifier, a network with one hidden layer, on the labelled images alone. Each thin line is one split with a "
        "draw of its own of which images keep their label; the thick line joins the means. A line that rises says that "
        "the unlabelled images helped.",
        bundled=Setup(
            SUITE,
            "8×8 digits, eight splits; 20 or 50 labelled and about 1,300 unlabelled images; classifier 64-100-10, a "
            "latent of 5 dimensions. The options of M2 are those that the suite `semi_supervised` chose on training "
            "images of MNIST, with smaller networks.",
        ),
        statements=statements,
        draw=draw,
        alt="Test accuracy of every split with the labels alone and with unlabelled images too, for 20 and 50 labels",
    ),
}
