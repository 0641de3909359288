"""Sets that a person adds to any data set, on the scale of its training rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bdlbench import catalog
from bdlbench.core.errors import DataUnavailable
from bdlbench.core.spec import Cell, Choice
from bdlbench.data.task import Task

NOISE = np.random.default_rng(5)
IMAGES = NOISE.integers(0, 255, (6, 8, 8), dtype=np.uint8)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BDLBENCH_DATA", str(tmp_path / "store"))


def load(name: str, **options: Any) -> Task:
    return catalog.load_task(catalog.choice("datasets", name, {name: options}), 0)


def pictures(folder: str, images: Any = IMAGES, classes: Any = "000111") -> None:
    for i, (image, title) in enumerate(zip(images, classes, strict=True)):
        Path(folder, title).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(Path(folder, title, f"{i}.png"))


@pytest.mark.slow
def test_images_are_added_to_a_data_set_of_images() -> None:
    pictures("far away")
    task = load("digits", ood="image_folder:far away")
    assert set(task.ood) == {"photos", "far_away"}
    assert torch.equal(task.ood["far_away"], torch.from_numpy(IMAGES[:, None]).float() / 255)
    assert "far away" in task.sources
    np.savez("far.npz", x=IMAGES)
    assert torch.equal(load("digits", ood="npz:far.npz").ood["far"], task.ood["far_away"])
    np.savez("far.npz", x=IMAGES / 255)
    assert torch.equal(load("digits", ood="npz:far.npz").ood["far"], task.ood["far_away"])
    large = np.repeat(np.repeat(np.stack([IMAGES] * 3, -1), 2, 1), 2, 2)
    pictures("large", large)
    assert load("digits", ood="image_folder:large").ood["large"].shape == (6, 1, 8, 8)
    plain = load("digits")
    assert torch.equal(task.train.x, plain.train.x)
    assert set(plain.ood) == {"photos"}


@pytest.mark.slow
def test_a_shifted_test_set_has_targets_of_its_own() -> None:
    pictures("shifted", classes="337700")
    task = load("digits", shift="image_folder:shifted")
    found = task.shifts["shifted"]
    assert found.y is not None
    assert sorted(found.y.tolist()) == [0, 0, 3, 3, 7, 7]
    np.savez("other.npz", x=IMAGES, y=[3, 3, 7, 7, 0, 0])
    other = load("digits", shift="npz:other.npz").shifts["other"]
    assert other.y is not None
    assert other.y.tolist() == [3, 3, 7, 7, 0, 0]


def test_tables_are_added_on_the_scale_of_the_training_rows() -> None:
    table = NOISE.normal(3, 2, (40, 2))
    lines = [f"{a},{b},{'xy'[i % 2]},{a + b}" for i, (a, b) in enumerate(table)]
    Path("t.csv").write_text("\n".join(["a,b,c,y", *lines]) + "\n")
    plain = load("csv", path="t.csv", target="y")
    Path("far.csv").write_text(
        "\n".join(["c,b,a", *(",".join(reversed(line.split(",")[:3])) for line in lines)]) + "\n"
    )
    task = load("csv", path="t.csv", target="y", ood="csv:far.csv", shift="csv:t.csv")
    every = torch.cat([plain.train.x, plain.test.x])
    for x in (task.ood["far"], task.shifts["t"].x):
        assert sorted(map(tuple, x.tolist())) == sorted(map(tuple, every.tolist()))
    y = task.shifts["t"].y
    assert y is not None
    torch.testing.assert_close(y * task.y_sd + task.y_mean, torch.tensor(table.sum(1), dtype=torch.float32))
    np.savez("far.npz", x=NOISE.normal(size=(5, 13)).astype(np.longdouble))
    wine = load("wine", ood="npz:far.npz")
    assert wine.ood["far"].shape == (5, 13)


def test_classes_of_a_shifted_set_go_by_name() -> None:
    lines = [f"{i}.5,{('no', 'yes', 'ask')[i % 3]}" for i in range(30)]
    Path("t.csv").write_text("\n".join(["a,y", *lines]) + "\n")
    Path("late.csv").write_text("a,y\n1.5,yes\n2.5,ask\n")
    task = load("csv", path="t.csv", target="y", shift="csv:late.csv")
    assert task.shifts["late"].y is not None
    assert task.shifts["late"].y.tolist() == [2, 0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("digits", {"ood": "far"}, ["digits.ood='far'", "image_folder:far"]),
        ("digits", {"ood": "folder:far"}, ["'folder'", "image_folder"]),
        ("digits", {"ood": "npz:t.csv"}, ["t.csv", "npz"]),
        ("digits", {"ood": "npz:wide.npz"}, ["wide.npz", "(1, 9, 9)", "(1, 8, 8)"]),
        ("digits", {"ood": "npz:negative.npz"}, ["negative.npz", "0", "1"]),
        ("digits", {"shift": "npz:bare.npz"}, ["bare.npz", "y_test"]),
        ("digits", {"shift": "npz:eleven.npz"}, ["eleven.npz", "'11'"]),
        ("wine", {"ood": "npz:scalar.npz"}, ["scalar.npz", "()"]),
        ("digits", {"ood": "csv:t.csv"}, ["t.csv", "(1, 8, 8)"]),
        ("digits", {"ood": "image_folder:empty"}, ["empty"]),
        ("digits", {"ood": "image_folder:t.csv"}, ["digits.ood=t.csv"]),
        ("wine", {"ood": "image_folder:pics"}, ["pics", "(13,)"]),
        ("binary_digits", {"ood": "npz:bare.npz"}, ["binary_digits.ood"]),
    ],
)
def test_a_bad_set_is_refused_in_one_line(name: str, options: dict[str, Any], told: list[str], refused: Any) -> None:
    Path("t.csv").write_text("a,y\n" + "".join(f"{i}.5,{i}.25\n" for i in range(20)))
    Path("empty").mkdir()
    pictures("pics")
    np.savez("wide.npz", x=np.zeros((3, 9, 9), dtype=np.uint8))
    np.savez("negative.npz", x=np.full((3, 8, 8), -1.0))
    np.savez("bare.npz", x=IMAGES)
    np.savez("scalar.npz", x=3.0)
    np.savez("eleven.npz", x=IMAGES, y=[11] * 6)
    with refused(*told):
        load(name, **options)


def test_a_cell_names_an_added_set_by_name_and_content(refused: Any) -> None:
    Path("sub").mkdir()
    np.savez("far.npz", x=IMAGES)
    Path("sub/far.npz").write_bytes(Path("far.npz").read_bytes())

    def key(**options: Any) -> str:
        return Cell(Choice("map"), Choice("mlp"), catalog.choice("datasets", "digits", {"digits": options}), 1).key

    assert key(ood="npz:far.npz") == key(ood="npz:sub/far.npz") != key()
    assert key(ood="npz:far.npz") != key(shift="npz:far.npz")
    then = catalog.choice("datasets", "digits", {"digits": {"ood": "npz:far.npz"}})
    assert catalog.recorded("datasets", then) == then
    np.savez("far.npz", x=IMAGES[:3])
    with refused("digits.ood=far.npz", error=DataUnavailable):
        catalog.load_task(then, 0)


def test_an_unknown_option_of_a_data_set_is_still_refused(refused: Any) -> None:
    with refused("'oood'"):
        load("digits", oood="npz:far.npz")
    with refused("'ood'"):
        catalog.choice("models", "mlp", {"mlp": {"ood": "npz:far.npz"}})
