"""What Gaussian VI refuses, and that its draws have the covariance that it says."""

from __future__ import annotations

import pytest
import torch

from bdlbench.core.layout import Layout
from bdlbench.core.streams import Streams


def test_it_refuses_a_prior_that_is_no_gaussian_and_too_large_a_covariance(small) -> None:
    assert "Gaussian" in small.method("gaussian_vi").unsupported(small.suited("coin"))
    assert small.method("gaussian_vi").unsupported(small.suited("bayesian_linear_regression")) is None
    full = small.method("gaussian_vi", [{"gaussian_vi": {"covariance": "full"}}])
    assert full.unsupported(small.model("mlp")) is None
    wide = small.model("mlp", rows=[{"widths": "300-100"}])
    assert str(Layout(wide.leaves()).num_parameters) in full.unsupported(wide)


@pytest.mark.parametrize("options", [{"rank": 0}, {"rank": 2}, {"covariance": "full"}])
def test_draws_have_the_moments_that_it_tells(small, options) -> None:
    model = small.suited("bayesian_linear_regression")
    method = small.method("gaussian_vi", [{"gaussian_vi": {**options, "initial_log_sd": -0.5}}], epochs=3)
    posterior = method.fit(model, small.data(model, 1), Streams.of_seeds([3]))
    layout, count = Layout(model.leaves()), 20_000
    drawn = posterior.draw(Streams.of_seeds([5]).samples(0, count), False)
    weights = layout.packed(layout.joined({name: drawn.leaf(name) for name in layout.leaves})).squeeze(1).double()
    moments = posterior.moments()
    sd = moments.covariance[0].diagonal().sqrt()
    assert ((weights.mean(0) - moments.mean[0]).abs() < 5 * sd / count**0.5).all()
    assert ((torch.cov(weights.T) - moments.covariance[0]).abs() < 5 * 1.5 * sd.outer(sd) / count**0.5).all()
