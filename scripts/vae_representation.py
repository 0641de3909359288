"""Measure how well simple classifiers do on a VAE's latent, from the kept parameters of a `vae` record.

    python scripts/vae_representation.py RECORDS results/vae             (bdlbench installed)

RECORDS: a folder with a record of `vae` on `binary_mnist` or `binary_fashion_mnist`, or the record itself. Writes
representation.csv and .md: the test accuracy of a linear classifier trained on all training images, and few_labels.csv
and .md: logistic regression and an SVM on few labels (M1 of Kingma et al. 2014), each on pixels, on as many principal
components as the latent has dimensions, and on the means of q(z | x).

All inputs are computed from the same grey pixels, 0 … 1. Principal components and the VAE use all training images and
no label. The linear classifier is multinomial logistic regression; its penalty, C of 0.01, 0.1, 1 or 10, is the best on
the last 10,000 training images after training on the first 20,000. With few labels, C is chosen among 0.1, 1, 10 and
100 by three-fold cross-validation on those labels, also for the SVM, whose Gaussian kernel has scikit-learn's width
"scale". Label draws are those of `labelled_mnist`, splits 0 to 9; where the record holds k seeds, draw i uses the VAE
at place i modulo k.
"""

from __future__ import annotations

import csv
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from kept_vae import Kept, kept
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.model_selection import GridSearchCV
from sklearn.svm import SVC

from bdlbench.catalog import build_dataset, choice
from bdlbench.data import splits
from bdlbench.data.task import Task

Floats = NDArray[np.float32]
Labels = NDArray[np.int64]

LABELS = (100, 300, 1000)
DRAWS = range(10)
PARTS = slice(20_000), slice(-10_000, None)  # training images to fit each penalty, and to choose between them
PENALTIES = (0.01, 0.1, 1.0, 10.0)
FEW_PENALTIES = (0.1, 1.0, 10.0, 100.0)


@dataclass(frozen=True)
class Features:
    """Inputs of a classifier for the training and the test images, (N, D) each."""

    name: str
    train: Floats
    test: Floats


@dataclass(frozen=True)
class Score:
    """Test accuracies under one heading, one for each repetition."""

    about: dict[str, Any]
    accuracies: list[float]

    def row(self) -> dict[str, Any]:
        """Return mean, standard error and n beside the heading."""
        n = len(self.accuracies)
        error = np.std(self.accuracies, ddof=1) / np.sqrt(n) if n > 1 else None
        shown = {
            "accuracy": f"{np.mean(self.accuracies):.4f}",
            "standard_error": "" if error is None else f"{error:.4f}",
        }
        return {**self.about, **shown, "n": n}


def main(path: Path, out: Path) -> None:
    """Write both tables."""
    out.mkdir(parents=True, exist_ok=True)
    vaes = kept(path, "vae")
    task = grey_task(vaes[0])
    plain, latents = plain_features(task, vaes[0].model.latent), [latent_features(vae, task) for vae in vaes]
    y, test_y = task.train.y.numpy(), task.test.y.numpy()
    sets = [[pixels] for pixels in plain] + [latents]
    about = f"VAE: {vaes[0].title}, seeds {', '.join(str(r.seed) for r in vaes[0].record.replicates)}."
    linear = [linear_score(each, y, test_y) for each in sets]
    write(out / "representation", about, linear)
    few = [score for count in LABELS for each in sets for score in few_labels(each, y, test_y, count)]
    write(out / "few_labels", about, few)


def grey_task(vae: Kept) -> Task:
    """Return all images of a binary data set before their binary draw."""
    name = str(vae.record.cell.dataset.name).replace("binary_", "grey_")
    return build_dataset(choice("datasets", name, {name: {"num_ood": 0}})).load(0)


def plain_features(task: Task, dimensions: int) -> list[Features]:
    """Return pixels, and the given number of their principal components."""
    train, test = (part.x.flatten(1).numpy() for part in (task.train, task.test))
    pca = PCA(dimensions, svd_solver="covariance_eigh").fit(train)
    components = Features(f"{dimensions} principal components", *map(pca.transform, (train, test)))
    return [Features(f"{train.shape[1]} pixels", train, test), components]


def latent_features(vae: Kept, task: Task) -> Features:
    """Return means of q(z | x)."""
    train, test = (vae.means(part.x).numpy() for part in (task.train, task.test))
    return Features(f"{vae.model.latent} posterior means of z", train, test)


def linear_score(sets: Sequence[Features], y: Labels, test_y: Labels) -> Score:
    """Score a linear classifier on all training images, one repetition for each of `sets`."""
    found = []
    for each in sets:
        (first, first_y), (last, last_y) = ((each.train[part], y[part]) for part in PARTS)
        right = {c: logistic(c).fit(first, first_y).score(last, last_y) for c in PENALTIES}
        found.append(float(logistic(max(right, key=right.__getitem__)).fit(each.train, y).score(each.test, test_y)))
    return Score({"inputs": sets[0].name, "classifier": "logistic regression", "labels": len(y)}, found)


def few_labels(sets: Sequence[Features], y: Labels, test_y: Labels, count: int) -> list[Score]:
    """Score both classifiers on `count` labels of each draw."""
    found: dict[str, list[float]] = {name: [] for name in CLASSIFIERS}
    for i, draw in enumerate(DRAWS):
        order, each = splits.chosen_of_official(y, count, "mnist", draw), sets[i % len(sets)]
        for name, accuracy in CLASSIFIERS.items():
            found[name].append(accuracy(each.train[order], y[order], each.test, test_y))
    return [
        Score({"inputs": sets[0].name, "classifier": name, "labels": count}, values) for name, values in found.items()
    ]


def linear_accuracy(x: Floats, y: Labels, test: Floats, test_y: Labels) -> float:
    """Return the accuracy of logistic regression."""
    return float(searched(logistic(1.0), x, y).score(test, test_y))


def svm_accuracy(x: Floats, y: Labels, test: Floats, test_y: Labels) -> float:
    """Return the accuracy of a one-against-one SVM.

    Its kernel is exp(−|x − x'|² / (D · variance of all numbers in x)).
    """
    width = 1 / (x.shape[1] * float(x.var()))
    model = searched(SVC(kernel="precomputed"), rbf_kernel(x, x, gamma=width), y)
    return float(model.score(rbf_kernel(test, x, gamma=width), test_y))


CLASSIFIERS = {"logistic regression": linear_accuracy, "SVM": svm_accuracy}


def searched(model: Any, x: Floats, y: Labels) -> Any:
    """Return the classifier with the C of the best mean accuracy over three folds."""
    return GridSearchCV(model, {"C": FEW_PENALTIES}, cv=3).fit(x, y)


def logistic(penalty: float) -> LogisticRegression:
    """Return a multinomial logistic regression with an L2 penalty."""
    return LogisticRegression(C=penalty, max_iter=200)


def write(path: Path, about: str, scores: Iterable[Score]) -> None:
    """Write <path>.csv, and <path>.md with the meaning of the columns."""
    rows = [score.row() for score in scores]
    with path.with_suffix(".csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    path.with_suffix(".md").write_text(f"{markdown(rows, in_words)}\n\n{about} Test accuracy, mean ± standard error.\n")


def in_words(row: Mapping[str, Any]) -> dict[str, str]:
    """Return a row as text."""
    shown = {key: str(row[key]) for key in row if key not in ("accuracy", "standard_error", "n")}
    error = f" ± {100 * float(row['standard_error']):.2f}" if row["standard_error"] else ""
    return {**shown, "accuracy": f"{100 * float(row['accuracy']):.2f} %{error}", "n": str(row["n"])}


def markdown(rows: Sequence[Mapping[str, Any]], words: Callable[[Mapping[str, Any]], Mapping[str, str]]) -> str:
    """Return a table whose rows are made by `words`."""
    shown = [words(row) for row in rows]
    lines = [list(shown[0]), ["---"] * len(shown[0]), *([*row.values()] for row in shown)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    warnings.simplefilter("ignore", ConvergenceWarning)  # 200 steps of a linear classifier on 784 pixels are enough
    main(*map(Path, sys.argv[1:]))
