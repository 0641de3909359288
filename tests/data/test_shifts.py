"""Shifted images against what each shift must do, and the option that names shifts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from bdlbench import catalog
from bdlbench.data.shifts import SHIFT_KINDS, shifted_images
from bdlbench.data.splits import Bytes


def column(at: int) -> Bytes:
    """An image with one white column, (1, 1, 8, 8)."""
    image = np.zeros((1, 1, 8, 8), np.uint8)
    image[..., at] = 255
    return image


def test_a_translation_by_whole_pixels_moves_them_to_the_right() -> None:
    found = shifted_images(column(3), "translation")
    assert np.array_equal(found["translation 2"], column(4))  # 2/16 of eight pixels
    assert np.array_equal(found["translation 4"], column(5))
    assert found["translation 1"][0, 0, 0].tolist() == [0, 0, 0, 128, 128, 0, 0, 0]


def test_a_rotation_turns_the_image_counterclockwise_and_keeps_its_grey() -> None:
    image = np.zeros((1, 1, 28, 28), np.uint8)
    image[..., 4:8, 13:15] = 255  # above the centre
    found = shifted_images(image, "rotation")
    grey = np.arange(28) - 13.5
    for severity in range(1, 6):
        turned = found[f"rotation {severity}"][0, 0].astype(float)
        right, down = (turned.sum(axis) @ grey / turned.sum() for axis in (0, 1))
        assert np.degrees(np.arctan2(-right, -down)) == pytest.approx(15 * severity, abs=0.5)
        assert turned.sum() == pytest.approx(image.sum(), rel=0.05)  # bilinear


def test_noise_has_its_standard_deviation_and_is_one_image_in_several_strengths() -> None:
    grey = np.full((50, 1, 28, 28), 128, np.uint8)
    found = shifted_images(grey, "noise", "mine", 0)
    one, three = (found[f"noise {severity}"].astype(float) - 128 for severity in (1, 3))
    assert one.std() / 255 == pytest.approx(0.1, rel=0.01)
    inside = np.abs(three) < 120  # not cut at black or white
    assert np.abs(three - 3 * one)[inside].max() <= 2  # rounding: 3 · ½ + ½
    assert np.array_equal(found["noise 2"], shifted_images(grey, "noise", "mine", 0)["noise 2"])
    assert not np.array_equal(found["noise 2"], shifted_images(grey, "noise", "mine", 1)["noise 2"])


def test_a_blur_keeps_a_constant_image_and_spreads_a_point_by_its_standard_deviation() -> None:
    grey = np.full((1, 3, 28, 28), 90, np.uint8)
    assert all((image == 90).all() for image in shifted_images(grey, "blur").values())
    line = np.zeros((1, 1, 29, 29), np.uint8)
    line[..., 14] = 255
    for severity in (1, 3):
        row = shifted_images(line, "blur")[f"blur {severity}"][0, 0, 14].astype(float)
        spread = np.sqrt(row @ (np.arange(29) - 14) ** 2 / row.sum())
        assert spread == pytest.approx(0.03 * severity * 29, rel=0.05)


def test_contrast_is_lost_around_the_mean_grey_of_the_image() -> None:
    image = np.array([0, 200, 0, 200], np.uint8).reshape(1, 1, 2, 2)
    assert shifted_images(image, "contrast")["contrast 4"].flatten().tolist() == [60, 140, 60, 140]  # 100 ± 0.4 · 100


def test_all_are_the_kinds_at_five_severities() -> None:
    found = shifted_images(column(3), "all")
    assert list(found) == [f"{kind} {severity}" for kind in SHIFT_KINDS for severity in range(1, 6)]
    assert shifted_images(column(3), "none") == {}


@pytest.mark.parametrize(
    ("written", "named"),
    [
        ("noise+rotation", "rotation+noise"),
        ("noise+noise", "shifts=noise"),
        ("+".join(SHIFT_KINDS), "shifts=all"),
        ("rotatoin", "rotation"),
        ("", "none"),
    ],
)
def test_a_choice_of_shifts_has_one_spelling(written: str, named: str, refused: Any) -> None:
    with refused(named):
        shifted_images(column(3), written)


def test_the_option_is_no_part_of_older_cells_and_its_test_images_are_those_that_are_shifted() -> None:
    plain = catalog.choice("datasets", "digits", {})
    assert plain.options == (("num_train", 0),)
    task = catalog.load_task(catalog.choice("datasets", "digits", {"digits": {"shifts": "rotation+noise"}}), 1)
    assert list(task.shifts) == [f"{kind} {severity}" for kind in ("rotation", "noise") for severity in range(1, 6)]
    plain_task = catalog.load_task(plain, 1)
    assert torch.equal(task.test.x, plain_task.test.x)
    assert task.sources.keys() - plain_task.sources.keys() == {"shifts of the test images"}
    gap = task.shifts["noise 1"].x - task.test.x
    inside = (task.shifts["noise 1"].x > 0) & (task.shifts["noise 1"].x < 1)
    assert float(gap[inside].std()) == pytest.approx(0.1, rel=0.15)
    assert all(shift.y is None and shift.x.shape == task.test.x.shape for shift in task.shifts.values())
