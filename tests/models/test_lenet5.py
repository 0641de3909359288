"""LeNet-5 of Caffe and of the sparse variational dropout code: activations and starts."""

import pytest
import torch
from torch.nn.functional import conv2d, max_pool2d

from bdlbench.core.layout import Layout
from bdlbench.core.streams import Streams
from bdlbench.data.task import Signature
from bdlbench.models.lenet5 import LeNet5
from bdlbench.networks.layers import Point
from bdlbench.posteriors.fitting import initial_rows

ROWS = Streams.of_seeds((0,))
SIGNATURE = Signature((1, 16, 16), 3, "categorical")


def test_rectified_has_a_relu_after_each_convolution():
    x = torch.randn(1, 5, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    for rectified in (False, True):
        model = LeNet5(SIGNATURE, channels=(2, 3), hidden=7, rectified=rectified)
        w = Layout(model.leaves()).views(initial_rows(Layout(model.leaves()), ROWS, x))
        h = x[0]
        for name in ("conv1", "conv2"):
            h = conv2d(h, w[f"{name}.weight"][0], w[f"{name}.bias"][0])
            h = max_pool2d(h.relu() if rectified else h, 2)
        h = (h.flatten(1) @ w["fc1.weight"][0].T + w["fc1.bias"][0]).relu()
        logits = h @ w["fc2.weight"][0].T + w["fc2.bias"][0]
        torch.testing.assert_close(model(Point(w), x, ROWS).logits[0], logits, rtol=1e-4, atol=1e-5)


def test_dense_layers_and_convolutions_start_each_in_their_own_way():
    model = LeNet5(SIGNATURE, init="small", conv_init="glorot")
    layout = Layout(model.leaves())
    w = layout.views(initial_rows(layout, ROWS, torch.zeros(1)))
    for name in ("fc1", "fc2"):
        assert abs(w[f"{name}.weight"].std() / 0.01 - 1) < 0.05
    limit = (6 / (25 * (20 + 50))) ** 0.5  # Glorot & Bengio 2010, eq. 16, with a field of 5 × 5
    assert 0.99 * limit < w["conv2.weight"].abs().max() <= limit
    assert abs(w["conv2.weight"].std() / (limit / 3**0.5) - 1) < 0.02
    assert not any(value.any() for name, value in w.items() if name.endswith("bias"))


@pytest.mark.parametrize("padding", ["none", "same"])
def test_a_third_convolution_has_no_pooling_and_padding_keeps_the_size(padding):
    """Against torch's own layers; the images are no square."""
    x = torch.randn(1, 3, 1, 32, 36, generator=torch.Generator().manual_seed(1))
    given = {"channels": (2, 3, 4), "hidden": 7, "rectified": True, "padding": padding}
    model = LeNet5(Signature((1, 32, 36), 3, "categorical"), **given)
    w = Layout(model.leaves()).views(initial_rows(Layout(model.leaves()), ROWS, x))
    h = x[0]
    for name in ("conv1", "conv2", "conv3"):
        h = conv2d(h, w[f"{name}.weight"][0], w[f"{name}.bias"][0], padding="valid" if padding == "none" else "same")
        h = max_pool2d(h, 2).relu() if name != "conv3" else h.relu()
    h = (h.flatten(1) @ w["fc1.weight"][0].T + w["fc1.bias"][0]).relu()
    logits = h @ w["fc2.weight"][0].T + w["fc2.bias"][0]
    torch.testing.assert_close(model(Point(w), x, ROWS).logits[0], logits, rtol=1e-4, atol=1e-5)


def test_the_lenet5_of_uncertainty_baselines_has_its_shapes():
    options = {"channels": (6, 16, 120), "hidden": 84, "padding": "same"}
    leaves = LeNet5(Signature((1, 28, 28), 10, "categorical"), **options).leaves()
    shapes = {name: leaf.shape for name, leaf in leaves.items() if name.endswith("weight")}
    assert shapes == {
        "conv1.weight": (6, 1, 5, 5),
        "conv2.weight": (16, 6, 5, 5),
        "conv3.weight": (120, 16, 5, 5),
        "fc1.weight": (84, 120 * 7 * 7),
        "fc2.weight": (10, 84),
    }


@pytest.mark.parametrize(
    ("channels", "padding", "smallest"), [((2, 3), "none", 16), ((2, 3, 4), "none", 32), ((2, 3, 4), "same", 4)]
)
def test_an_image_that_is_too_small_is_refused_and_no_other(channels, padding, smallest):
    for side, fits in ((smallest - 1, False), (smallest, True)):
        model = LeNet5(Signature((1, side, side), 3, "categorical"), channels=channels, padding=padding)
        reason = model.unsupported()
        assert (reason is None) == fits
        assert fits or f"{smallest}×{smallest}" in reason
        assert not fits or min(model.leaves()["fc1.weight"].shape) > 0
    assert "two or three" in LeNet5(SIGNATURE, channels=(2,)).unsupported()
