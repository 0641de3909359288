"""The registered data sets: splits, preprocessing, out-of-distribution sets; the real files where they are at hand."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bdlbench.core.errors import DataUnavailable
from bdlbench.core.options import fields, resolve
from bdlbench.data import downloads, splits
from bdlbench.data.downloads import RemoteFile
from bdlbench.data.task import Task
from bdlbench.datasets import cifar, digits, mnist, tables

BUNDLED: dict[str, Any] = {**digits.datasets, **tables.datasets}
FILED: dict[str, Any] = {**mnist.datasets, **cifar.datasets}
ENTRIES = {**BUNDLED, **FILED}
SMALL = {"semi_mnist": {"num_labelled": 20, "num_unlabelled": 15, "copies": 2}, "labelled_mnist": {"num_labelled": 20}}
WITH_NUM_TRAIN = [name for name, entry in ENTRIES.items() if "num_train" in fields(entry)]


def small(file: RemoteFile, folder: Path) -> RemoteFile:
    """A made-up file of 50 examples, five of each class, in the place and format of `file`; its declaration.

    Of CIFAR-100, two of each class.
    """
    noise = np.random.default_rng(len(file.path) + sum(file.path.encode()))
    labels = (np.arange(50) % 10).astype(np.uint8)
    if "cifar-100" in file.path:
        fine = np.arange(200, dtype=np.uint8) % 100
        pixels = noise.integers(0, 200, (200, 3072), dtype=np.uint8)
        content = np.concatenate([fine[:, None] // 5, fine[:, None], pixels], axis=1).tobytes()
    elif file.path.endswith(".bin"):
        pixels = noise.integers(0, 200, (50, 3072), dtype=np.uint8)
        content = np.concatenate([labels[:, None], pixels], axis=1).tobytes()
    else:
        array = labels if "labels" in file.path else noise.integers(0, 200, (50, 28, 28), dtype=np.uint8)
        content = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, dtype=">i4").tobytes() + array.tobytes()
    path = folder / file.path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return replace(file, size=len(content), sha256=hashlib.sha256(content).hexdigest())


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Task]:
    """load(name, split, **options), from made-up files where the set needs any."""

    def loader(name: str, split: int = 0, **options: int) -> Task:
        entry = ENTRIES[name]
        if entry.files and downloads.root() != tmp_path:
            monkeypatch.setenv("BDLBENCH_DATA", str(tmp_path))
            for other in FILED.values():
                monkeypatch.setattr(other, "files", tuple(small(file, tmp_path) for file in other.files))
        task: Task = entry(**resolve(entry, name, {**SMALL.get(name, {}), **options})).load(split)
        return task

    return loader


def same(a: Task, b: Task) -> bool:
    tensors = [(t.train.x, t.train.y, t.test.x, t.test.y, *t.ood.values()) for t in (a, b)]
    return all(torch.equal(u, v) for u, v in zip(*tensors, strict=True)) and a.sources == b.sources


def rows(x: torch.Tensor) -> list[bytes]:
    return [row.numpy().tobytes() for row in x]


@pytest.mark.parametrize("name", ENTRIES)
def test_a_task_keeps_its_promises(load: Callable[..., Task], name: str) -> None:
    task = load(name)
    shape = task.signature.input_shape
    for x in (task.train.x, task.test.x, *task.ood.values()):
        assert x.shape[1:] == shape
        assert x.dtype == torch.float32
        assert x.is_contiguous()
        assert torch.isfinite(x).all()
    for part in (task.train, task.test):
        assert part.y.dtype == torch.int64
        assert part.y.shape == part.x.shape[:1]
        assert part.y[part.y >= 0].unique().tolist() == list(range(task.signature.outputs))
    others = {"binary": "bernoulli", "grey": "discretised", "semi": "semi_categorical"}
    assert task.signature.likelihood == others.get(name.partition("_")[0], "categorical")
    assert (task.train.y.min() < 0) == (task.signature.likelihood == "semi_categorical")
    assert task.sources
    assert all(len(value) == 64 for value in task.sources.values())
    assert {f.path for f in ENTRIES[name].files} <= task.sources.keys()


@pytest.mark.parametrize("name", ENTRIES)
def test_an_entry_describes_itself_in_one_line(name: str) -> None:
    summary = ENTRIES[name].__doc__.splitlines()[0]
    assert summary.endswith(".")
    assert len(summary) < 110


@pytest.mark.parametrize("name", ENTRIES)
def test_a_split_is_the_same_on_every_call(load: Callable[..., Task], name: str) -> None:
    assert same(load(name, 3), load(name, 3))


@pytest.mark.parametrize("name", BUNDLED)
def test_another_split_is_another_division(load: Callable[..., Task], name: str) -> None:
    assert set(rows(load(name, 0).test.x)) != set(rows(load(name, 1).test.x))


@pytest.mark.parametrize("name", ENTRIES)
def test_splits_are_numbered_from_zero(load: Callable[..., Task], name: str, refused: Any) -> None:
    with refused("split -1", "exist"):
        load(name, -1)


@pytest.mark.parametrize("name", WITH_NUM_TRAIN)
def test_smaller_training_sets_lie_in_larger_ones(load: Callable[..., Task], name: str) -> None:
    smaller, larger = (load(name, 1, num_train=n) for n in (17, 40))
    assert torch.equal(larger.train.y[:17], smaller.train.y)
    assert smaller.train.x.shape[0] == 17
    counts = smaller.train.y.bincount(minlength=smaller.signature.outputs)
    assert counts.max() - counts.min() <= 1
    other = load(name, 2, num_train=17)
    assert not torch.equal(other.train.x, smaller.train.x)
    assert torch.equal(other.test.y, smaller.test.y) == (name in FILED)  # the official test set, or a split of its own


@pytest.mark.parametrize("name", WITH_NUM_TRAIN)
def test_no_more_training_examples_than_there_are(load: Callable[..., Task], name: str, refused: Any) -> None:
    plain = name.removeprefix("binary_").removeprefix("grey_")  # these load the plain set, which tells it
    with refused("num_train=60001", name if name == "binary_photos" else plain):
        load(name, num_train=60_001)


def test_smaller_training_sets_of_digits_are_its_beginning(load: Callable[..., Task]) -> None:
    assert torch.equal(load("digits", 4, num_train=100).train.x, load("digits", 4).train.x[:100])


@pytest.mark.parametrize("split", range(5))
def test_stratified_splits_are_disjoint_complete_and_in_proportion(split: int) -> None:
    labels = np.random.default_rng(split).choice(4, size=203, p=[0.6, 0.25, 0.1, 0.05])
    train, test = splits.stratified_split(labels, "made_up", split)
    assert sorted([*train, *test]) == list(range(203))
    assert len(test) == 51
    expected = 51 / 203 * np.bincount(labels)
    assert (np.abs(np.bincount(labels[test], minlength=4) - expected) <= 1).all()


def test_splits_are_the_same_on_every_machine() -> None:
    """Pinned: a change of these numbers is a change of every protocol."""
    assert splits.random_words(2, "digits", 0).tolist() == [13332240122543524782, 7948414030245870709]
    assert splits.permutation(8, "digits", 0).tolist() == [4, 2, 6, 1, 3, 7, 0, 5]


@pytest.mark.parametrize("name", tables.datasets)
def test_tables_are_standardised_by_their_training_part_alone(load: Callable[..., Task], name: str) -> None:
    task = load(name, 2)
    torch.testing.assert_close(task.train.x.mean(dim=0), torch.zeros(task.signature.input_shape), atol=1e-5, rtol=0)
    torch.testing.assert_close(
        task.train.x.std(dim=0, correction=0), torch.ones(task.signature.input_shape), atol=1e-5, rtol=0
    )
    assert (task.test.x.mean(dim=0).abs() > 1e-4).all()
    assert task.statistics["average_sd"] > 0


@pytest.mark.parametrize("name", [n for n in WITH_NUM_TRAIN if n in FILED and not n.startswith(("binary", "grey"))])
def test_pixels_are_standardised_by_the_training_images_used(load: Callable[..., Task], name: str) -> None:
    task = load(name, num_train=20)
    dims = (0, 2, 3)
    channels = task.signature.input_shape[0]
    torch.testing.assert_close(task.train.x.mean(dim=dims), torch.zeros(channels), atol=1e-5, rtol=0)
    torch.testing.assert_close(task.train.x.std(dim=dims, correction=0), torch.ones(channels), atol=1e-5, rtol=0)
    assert (task.test.x.mean(dim=dims).abs() > 1e-5).all()
    assert task.statistics != load(name).statistics


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "kmnist"])
def test_the_mean_image_of_the_training_images_used_is_taken_from_all_images(
    load: Callable[..., Task], name: str, tmp_path: Path
) -> None:
    task = load(name, num_train=20, pixels="mean_image")
    files = [tmp_path / file.path for file in ENTRIES[name].files]
    train, test, ood = (np.frombuffer(files[i].read_bytes()[16:], np.uint8).reshape(-1, 28, 28) for i in (0, 2, 4))
    grey = load(name, num_train=20)  # the same images, standardised
    sd, mean = grey.statistics["pixel_sd"] * 255, grey.statistics["pixel_mean"] * 255
    used = np.rint(grey.train.x.numpy()[:, 0] * sd + mean)
    assert set(map(bytes, used.astype(np.uint8))) <= set(map(bytes, train))
    mean_image = sum(used) / 20
    for x, images in ((task.train.x, used), (task.test.x, test), (next(iter(task.ood.values())), ood)):
        np.testing.assert_allclose(x.numpy()[:, 0], (images / 256 - mean_image / 256), atol=1e-6)
    assert task.statistics == {"pixel_mean": pytest.approx(mean_image.mean() / 256)}


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "kmnist"])
def test_pixels_of_the_unit_are_a_part_of_255(load: Callable[..., Task], name: str, tmp_path: Path) -> None:
    task = load(name, num_train=20, pixels="unit")
    test = np.frombuffer((tmp_path / ENTRIES[name].files[2].path).read_bytes()[16:], np.uint8).reshape(-1, 1, 28, 28)
    np.testing.assert_allclose(task.test.x.numpy(), test / 255, atol=1e-7)
    assert (task.train.x.min(), task.train.x.max() <= 1) == (0, True)
    assert task.statistics == {}


def test_pixel_statistics_are_those_of_the_pixels() -> None:
    images = np.random.default_rng(0).integers(0, 256, (1003, 3, 2, 2), dtype=np.uint8)
    mean, sd = splits.pixel_statistics(images)
    np.testing.assert_allclose(mean, (images / 255).mean(axis=(0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(sd, (images / 255).std(axis=(0, 2, 3)), rtol=1e-12)
    expected = (images / 255 - mean[:, None, None]) / sd[:, None, None]
    np.testing.assert_allclose(splits.standardised_pixels(images, mean, sd).numpy(), expected, atol=1e-5)


def test_constant_images_are_refused(refused: Any) -> None:
    with refused("training", "images", "vary"):
        splits.pixel_statistics(np.full((2, 1, 3, 3), 7, dtype=np.uint8))


def test_a_constant_column_is_only_centred() -> None:
    mean, sd = splits.column_statistics(np.array([[1.0, 5.0], [3.0, 5.0]]))
    assert (mean.tolist(), sd.tolist()) == ([2.0, 5.0], [1.0, 1.0])


@pytest.mark.parametrize("value", [0.998, 0.1, -1e120, 1e-300, 0.0])
def test_a_constant_column_has_sd_1_whatever_rounding_makes_of_it(value: float) -> None:
    table = np.full((10_741, 2), value)
    table[1, 1] = np.nextafter(value, 2 * value)  # constant but for rounding
    assert splits.column_statistics(table)[1].tolist() == [1.0, 1.0]
    narrow = np.array([[1e6], [1e6 + 1e-3]])  # but this is a column that varies
    assert splits.column_statistics(narrow)[1][0] == pytest.approx(5e-4, rel=1e-3)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_column_that_is_not_finite_is_refused_by_its_number(value: float, refused: Any) -> None:
    table = np.ones((4, 3))
    table[2, 1] = value
    with refused("column 1", "row 2", value):
        splits.column_statistics(table)
    with refused("no", "rows"):
        splits.column_statistics(np.ones((0, 3)))


def test_digits(load: Callable[..., Task]) -> None:
    task = load("digits")
    assert (len(task.train.y), len(task.test.y), task.signature.input_shape) == (1347, 450, (1, 8, 8))
    assert (task.train.y.bincount() + task.test.y.bincount()).tolist() == [
        178,
        182,
        177,
        183,
        181,
        182,
        181,
        179,
        174,
        180,
    ]
    assert (task.train.x.min(), task.train.x.max()) == (0, 1)
    photos = task.ood["photos"]
    assert photos.shape == (1000, 1, 8, 8)
    assert (photos.min() >= 0) & (photos.max() <= 1)
    assert torch.equal(photos, load("digits", 5).ood["photos"])


def test_a_patch_is_a_piece_of_a_photograph(load: Callable[..., Task]) -> None:
    from sklearn.datasets import load_sample_images

    grey = [photo.mean(axis=-1) / 255 for photo in load_sample_images().images]
    tiles = {
        g[i : i + 8, j : j + 8].astype(np.float32).round(5).tobytes()
        for g in grey
        for i in range(0, 424, 8)
        for j in range(0, 640, 8)
    }
    patches = [patch.round(5).tobytes() for patch in load("digits").ood["photos"].numpy()[:, 0]]
    assert sum(patch in tiles for patch in patches) == 1000


def test_near_digits_hold_back_eight_and_nine(load: Callable[..., Task]) -> None:
    near, full = load("digits_near", 1), load("digits", 1)
    assert near.signature.outputs == 8
    assert near.ood["near"].shape == (354, 1, 8, 8)
    assert torch.equal(near.test.x, full.test.x[full.test.y < 8])
    held_back = torch.cat([part.x[part.y >= 8] for part in (full.train, full.test)])
    assert sorted(rows(near.ood["near"])) == sorted(rows(held_back))


@pytest.mark.parametrize(("name", "sizes"), [("breast_cancer", (426, 143, 30, 2)), ("wine", (133, 45, 13, 3))])
def test_tables(load: Callable[..., Task], name: str, sizes: Sequence[int]) -> None:
    task = load(name)
    assert (len(task.train.y), len(task.test.y), *task.signature.input_shape, task.signature.outputs) == sizes
    assert not task.ood


def test_an_ood_set_gets_the_training_sets_transform(load: Callable[..., Task]) -> None:
    fashion, digit = load("fashion_mnist"), load("mnist")
    assert list(fashion.ood) == ["mnist", "kmnist"]
    mean, sd = (fashion.statistics[k] - digit.statistics[k] for k in ("pixel_mean", "pixel_sd"))
    assert mean != 0 or sd != 0
    pixels = [
        t * s.statistics["pixel_sd"] + s.statistics["pixel_mean"]
        for t, s in ((digit.test.x, digit), (fashion.ood["mnist"], fashion))
    ]
    torch.testing.assert_close(*pixels)


def test_an_absent_ood_set_is_named(
    load: Callable[..., Task], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Any
) -> None:
    load("mnist")
    (tmp_path / "KMNIST/raw/t10k-images-idx3-ubyte").unlink()
    monkeypatch.setattr(downloads, "_writable", lambda _: False)
    with refused("mnist", "KMNIST", "t10k-images-idx3-ubyte", "absent", error=DataUnavailable):
        load("mnist")


def test_kmnist_is_not_trained_on_an_empty_file(load: Callable[..., Task], tmp_path: Path, refused: Any) -> None:
    load("kmnist")
    (tmp_path / "KMNIST/raw/train-images-idx3-ubyte").write_bytes(b"")
    with refused("kmnist", "KMNIST", "train-images-idx3-ubyte", "empty", error=DataUnavailable):
        load("kmnist")
    assert load("mnist").ood["kmnist"].shape[0] == 50


def test_uniform_noise_covers_every_pixel_value(load: Callable[..., Task]) -> None:
    task = load("cifar10_part")
    uniform = task.ood["uniform"]
    assert uniform.shape == (2000, 3, 32, 32)
    mean, sd = (np.array([task.statistics[f"pixel_{k}[{c}]"] for c in range(3)]) for k in ("mean", "sd"))
    pixels = uniform.numpy() * sd[:, None, None] + mean[:, None, None]
    np.testing.assert_allclose(pixels.mean(), 0.5, atol=0.001)  # ± 8 standard errors
    np.testing.assert_allclose([pixels.min(), pixels.max()], [0, 1], atol=1e-5)
    assert len(load("cifar10").train.y) == 250


# Images whose density is modelled


def images(task: Task) -> dict[str, torch.Tensor]:
    return {"test": task.test.x, **task.ood}


@pytest.mark.parametrize(
    ("binary", "plain"),
    [("binary_digits", "digits"), ("binary_mnist", "mnist"), ("binary_fashion_mnist", "fashion_mnist")],
)
def test_binary_sets_are_drawn_once_and_keep_split_and_labels(
    load: Callable[..., Task], binary: str, plain: str
) -> None:
    task, grey = load(binary, 2), load(plain, 2)
    for x in images(task).values():
        assert set(x.unique().tolist()) == {0, 1}
    assert (task.train.x.min() >= 0) & (task.train.x.max() <= 1)
    assert len(task.train.x.unique()) > 10  # a model draws from the grey ones anew each time
    assert torch.equal(task.train.y, grey.train.y)
    assert torch.equal(task.test.y, grey.test.y)
    assert task.ood.keys() == grey.ood.keys()
    assert all(torch.equal(x, load(binary, 2).ood[name]) for name, x in task.ood.items())
    assert task.sources == grey.sources
    assert task.statistics == {}


def test_a_test_pixel_is_one_as_often_as_it_is_grey(load: Callable[..., Task]) -> None:
    binary, grey = images(load("binary_digits")), images(load("digits"))
    for name, x in grey.items():
        certain = (x == 0) | (x == 1)
        assert torch.equal(binary[name][certain], x[certain])
        middle = x[~certain]
        error = (binary[name][~certain].mean() - middle.mean()).abs()
        assert error < 1 / 256 + 5 * (middle * (1 - middle)).mean().sqrt() / len(middle) ** 0.5


def test_the_draws_of_different_sets_are_independent(load: Callable[..., Task]) -> None:
    first, second = (
        splits.binary_pixels(torch.full((1000,), 0.5), "binary_digits", name) for name in ("test", "photos")
    )
    assert (first == second).float().mean().item() == pytest.approx(0.5, abs=5 / 2 / 1000**0.5)
    assert not torch.equal(load("binary_digits", 0).test.x, load("binary_digits", 1).test.x)
    official = (load("binary_mnist", split, num_train=20).test.x for split in (0, 1))
    assert torch.equal(*official)  # the official test set, drawn once for all


def test_binary_pixels_are_the_same_on_every_machine() -> None:
    """Pinned: a change of these numbers is a change of every protocol."""
    drawn = splits.binary_pixels(torch.linspace(0, 1, 12), "digits", 0)
    assert drawn.tolist() == [0, 0, 0, 1, 0, 0, 1, 0, 1, 1, 1, 1]
    assert splits.binary_pixels(torch.tensor([0.0, 1.0]).repeat(2000), "edges").tolist() == [0, 1] * 2000


def test_few_digits_keep_their_label_and_come_first(load: Callable[..., Task]) -> None:
    task, plain = load("semi_digits", 2, num_labelled=30, copies=3), load("digits", 2)
    for part in (task.train.x[:90], task.train.y[:90]):
        assert all(torch.equal(copy, part[:30]) for copy in part.chunk(3))
    few = load("digits", 2, num_train=30).train
    assert torch.equal(task.train.x[:30], few.x)
    assert torch.equal(task.train.y[:30], few.y)
    assert few.y.bincount().tolist() == [3] * 10
    assert (task.train.y[90:] == -1).all()
    assert sorted(rows(torch.cat([few.x, task.train.x[90:]]))) == sorted(rows(plain.train.x))
    assert torch.equal(task.test.x, plain.test.x)
    assert task.ood == {}


def test_patches_of_photographs_are_drawn_once_and_digits_are_the_other_set(load: Callable[..., Task]) -> None:
    task, scans = load("binary_photos", 2), load("digits", 2)
    assert (len(task.train.y), len(task.test.y)) == (6360, 2120)
    for part in (task.train, task.test):
        assert part.y.bincount().tolist() == [len(part.y) // 2] * 2
    assert set(task.test.x.unique().tolist()) == set(task.ood["digits"].unique().tolist()) == {0, 1}
    assert len(task.train.x.unique()) > 100  # a model draws from the grey ones anew each time
    some = set(rows(load("digits").ood["photos"]))  # they are patches of the same photographs, cut alike
    assert some & set(rows(task.train.x))
    grey = torch.cat([scans.train.x, scans.test.x])
    assert task.ood["digits"].mean().item() == pytest.approx(grey.mean().item(), abs=0.01)
    assert torch.equal(task.ood["digits"], load("binary_photos", 0).ood["digits"])
    assert not torch.equal(task.test.x, load("binary_photos", 0).test.x)


@pytest.mark.parametrize(("grey", "plain"), [("grey_mnist", "mnist"), ("grey_fashion_mnist", "fashion_mnist")])
def test_grey_sets_are_the_256_levels(load: Callable[..., Task], grey: str, plain: str) -> None:
    task, standardised = load(grey, num_train=20), load(plain, num_train=20)
    mean, sd = (standardised.statistics[name] for name in ("pixel_mean", "pixel_sd"))
    pairs = [(task.train.x, standardised.train.x), (task.test.x, standardised.test.x)]
    for x, z in [*pairs, *((x, standardised.ood[name]) for name, x in task.ood.items())]:
        assert torch.equal(x * 255, (x * 255).round())
        assert (x.min() >= 0) & (x.max() <= 1)
        torch.testing.assert_close(x, z * sd + mean)
    assert torch.equal(task.train.y, standardised.train.y)


@pytest.mark.parametrize("name", ["binary_mnist", "binary_fashion_mnist", "grey_mnist", "grey_fashion_mnist"])
def test_fewer_ood_images_are_the_first_ones(load: Callable[..., Task], name: str, refused: Any) -> None:
    whole, few, none = (load(name, **options) for options in ({}, {"num_ood": 7}, {"num_ood": 0}))
    assert none.ood == {}
    for key, x in few.ood.items():
        assert x.shape[0] == 7
        assert torch.equal(x, whole.ood[key][:7])
    with refused(f"{name}.num_ood=10001", "[0, 10000]"):
        load(name, num_ood=10_001)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "kmnist"])
def test_standardised_images_are_what_they_always_were(load: Callable[..., Task], name: str) -> None:
    task = load(name, 1, num_train=20)
    files = {Path(f.path).name: downloads.root() / f.path for f in ENTRIES[name].files[:4]}
    pixels = downloads.read_idx(files["train-images-idx3-ubyte"], (28, 28))[:, None]
    labels = downloads.read_idx(files["train-labels-idx1-ubyte"])
    picked = splits.chosen_of_official(labels, 20, name, 1)
    mean, sd = splits.pixel_statistics(pixels[picked])
    assert torch.equal(task.train.x, splits.standardised_pixels(pixels[picked], mean, sd))
    test = downloads.read_idx(files["t10k-images-idx3-ubyte"], (28, 28))[:, None]
    assert torch.equal(task.test.x, splits.standardised_pixels(test, mean, sd))
    assert task.statistics == {"pixel_mean": float(mean[0]), "pixel_sd": float(sd[0])}


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "kmnist"])
def test_shifts_of_an_official_test_set_are_moved_before_they_are_standardised(
    load: Callable[..., Task], name: str
) -> None:
    task = load(name, 0, num_train=20, shifts="translation+noise")
    moved, black = task.shifts["translation 4"].x, -task.statistics["pixel_mean"] / task.statistics["pixel_sd"]
    assert torch.equal(moved[..., 7:], task.test.x[..., :-7])  # 4/16 of 28 pixels
    assert torch.allclose(moved[..., :7], torch.tensor(black, dtype=torch.float32))
    other = load(name, 1, num_train=20, shifts="translation+noise")  # splits share the test set, and its shifts
    raw = [t.shifts["noise 3"].x * t.statistics["pixel_sd"] + t.statistics["pixel_mean"] for t in (task, other)]
    assert torch.allclose(*raw, atol=1e-5)
    assert task.sources["shifts of the test images"] == other.sources["shifts of the test images"]


@pytest.mark.parametrize("name", ["digits", "digits_near"])
def test_shifts_of_a_split_have_noise_of_their_own(load: Callable[..., Task], name: str) -> None:
    tasks = [load(name, split, shifts="noise") for split in (0, 0, 1)]
    noise = [(task.shifts["noise 1"].x - task.test.x)[:300] for task in tasks]
    assert torch.equal(noise[0], noise[1])
    grey = [((task.test.x > 0.3) & (task.test.x < 0.7))[:300] for task in tasks]  # where noise is not cut
    both = grey[0] & grey[2]
    assert not torch.allclose(noise[0][both], noise[2][both], atol=0.05)


def real(name: str) -> Task:
    """The set itself; skips where it is not at hand. Nothing is downloaded."""
    wanting = [path for path, state in downloads.status(ENTRIES[name].files) if state != "verified"]
    if wanting:
        pytest.skip(f"{name} is not in the store: {wanting[0]} is wanting; set BDLBENCH_DATA")
    task: Task = ENTRIES[name]().load(0)
    return task


@pytest.mark.data
@pytest.mark.parametrize(("name", "mean", "sd"), [("mnist", 0.1307, 0.3081), ("fashion_mnist", 0.2860, 0.3530)])
def test_real_idx_sets(name: str, mean: float, sd: float) -> None:
    task = real(name)
    assert task.statistics == pytest.approx({"pixel_mean": mean, "pixel_sd": sd}, abs=5e-5)
    assert task.train.x.shape == (60_000, 1, 28, 28)
    assert task.test.x.shape == (10_000, 1, 28, 28)
    assert [x.shape[0] for x in task.ood.values()] == [10_000, 10_000]
    counts = {
        "mnist": [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949],
        "fashion_mnist": [6000] * 10,
    }
    assert task.train.y.bincount().tolist() == counts[name]


@pytest.mark.parametrize("name", ["cifar10", "cifar10_part", "cifar100"])
def test_shifts_of_colour_images_are_moved_before_they_are_standardised(
    load: Callable[..., Task], name: str, refused: Any
) -> None:
    task = load(name, 0, num_train=20, shifts="translation+contrast")
    assert set(task.shifts) == {f"{kind} {s}" for kind in ("translation", "contrast") for s in range(1, 6)}
    moved = task.shifts["translation 4"]  # by 4/16 of 32 pixels
    assert moved.y is None
    assert moved.x.shape == task.test.x.shape
    assert torch.equal(moved.x[..., 8:], task.test.x[..., :-8])
    for c in range(3):  # what moves in is black, by each channel's own statistics
        black = -task.statistics[f"pixel_mean[{c}]"] / task.statistics[f"pixel_sd[{c}]"]
        assert torch.allclose(moved.x[:, c, :, :8], torch.tensor(black, dtype=torch.float32))
    assert torch.equal(
        load(name, 1, shifts="noise").shifts["noise 3"].x, load(name, 1, shifts="all").shifts["noise 3"].x
    )
    plain = load(name, 0, num_train=20)
    assert (plain.shifts, plain.sources.keys()) == ({}, task.sources.keys() - {"shifts of the test images"})
    assert torch.equal(plain.test.x, task.test.x)
    with refused("shift", "snow"):
        load(name, shifts="snow")


def test_part_of_the_test_images_are_its_first(load: Callable[..., Task], refused: Any) -> None:
    whole, part = load("cifar10_part"), load("cifar10_part", num_test=7, shifts="noise")
    assert torch.equal(part.test.x, whole.test.x[:7])
    assert torch.equal(part.test.y, whole.test.y[:7])
    assert part.shifts["noise 1"].x.shape[0] == 7
    assert torch.equal(part.train.x, whole.train.x)
    with refused("num_test=51", "50", "cifar10_part"):
        load("cifar10_part", num_test=51)


def test_cifar_100_has_a_hundred_classes_and_is_read_by_its_fine_labels(load: Callable[..., Task]) -> None:
    task = load("cifar100")
    assert task.signature.outputs == 100
    assert task.test.y.tolist() == [*range(100)] * 2


@pytest.mark.data
def test_real_cifar10_part() -> None:
    task = real("cifar10_part")
    assert task.train.x.shape == (20_000, 3, 32, 32)
    assert task.test.x.shape == (10_000, 3, 32, 32)
    full = {"pixel_mean[0]": 0.4914, "pixel_mean[1]": 0.4822, "pixel_mean[2]": 0.4465}  # of all 50,000
    assert {k: task.statistics[k] for k in full} == pytest.approx(full, abs=0.005)


@pytest.mark.data
def test_real_kmnist_is_whole_or_refused(refused: Any) -> None:
    states = dict(downloads.status(mnist.Kmnist.files))
    if states["KMNIST/raw/train-images-idx3-ubyte"] != "wrong size":
        pytest.skip("the store holds no stand-in for KMNIST's training images")
    with refused("kmnist", "KMNIST", "training", "images", error=DataUnavailable):
        mnist.Kmnist().load(0)
