"""Augmentation by torchvision's transforms."""

from __future__ import annotations

import pytest
import torch

from bdlbench.core.streams import Streams
from bdlbench.training.augmentation import augmentation

CROP_AND_FLIP = "RandomCrop size=8 padding=2 + RandomHorizontalFlip"


def images(rows=3, count=20):
    return torch.arange(1, rows * count * 64 + 1).float().view(rows, count, 1, 8, 8)


def streams(seeds, step=0):
    return Streams.of_seeds(seeds).child(f"augmentation {step}")


def test_every_image_is_moved_by_itself_and_a_row_alone_as_among_others():
    x, augment = images(), augmentation(CROP_AND_FLIP)
    together = augment(x, streams([3, 1, 4]))
    assert torch.equal(together[1:2], augment(x[1:2], streams([1])))
    assert not torch.equal(together, augment(x, streams([3, 1, 4], 1)))
    shifts = {tuple((moved != 0).nonzero().amin(0).tolist()) for moved in together[0, :, 0]}
    assert len(shifts) > 5  # each image has a crop of its own
    for moved, image in zip(together[0], x[0], strict=True):
        assert set(moved.flatten().tolist()) <= {0.0, *image.flatten().tolist()}
    rising = [(row[row != 0].diff() > 0).all().item() for row in together[0, :, 0, 4]]
    assert 0 < sum(rising) < len(rising)  # some are flipped


def test_it_leaves_torchs_generator_and_the_inputs_as_they_were():
    x, before = images(), torch.get_rng_state()
    kept = x.clone()
    augmentation(CROP_AND_FLIP)(x, streams([0, 1, 2]))
    assert torch.equal(torch.get_rng_state(), before) and torch.equal(x, kept)


def test_arguments_are_numbers_lists_truth_values_and_words():
    text = "RandomCrop size=8-8 padding=2-2 pad_if_needed=true padding_mode=reflect + RandomRotation degrees=5.5"
    assert augmentation(text)(images(), streams([0, 1, 2])).shape == images().shape


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("RandomCrob size=8", ("RandomCrob", "RandomCrop")),
        ("RandomCrop size", ("RandomCrop", "size")),
        ("RandomCrop sizes=8", ("RandomCrop", "sizes")),
        ("RandomCrop size=8 +", ("torchvision",)),
    ],
)
def test_what_cannot_be_made_is_refused_by_its_name(text, named, refused):
    with refused(*named):
        augmentation(text)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("MixUp num_classes=10", ("MixUp", "alone")),
        ("CutMix num_classes=10", ("CutMix", "alone")),
        ("Lambda lambd=3", ("Lambda", "alone")),
        ("ToPILImage", ("ToPILImage", "Image")),
        ("RandomHorizontalFlip + FiveCrop size=8", ("FiveCrop", "tuple")),
    ],
)
def test_what_moves_no_image_by_itself_is_refused(text, named, refused):
    with refused(*named):
        augmentation(text)(images(), streams([0, 1, 2]))


def test_a_transform_that_changes_the_size_is_refused_with_both_sizes(refused):
    with refused("1×4×4", "1×8×8"):
        augmentation("RandomCrop size=4")(images(), streams([0, 1, 2]))
