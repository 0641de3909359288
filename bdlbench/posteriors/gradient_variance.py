"""How much estimates of the gradient vary from batch to batch, by how the noise of the weights is drawn.

Kingma, Salimans & Welling 2015, §5.1: at given parameters, the variance of the gradient of the expected log-likelihood
of all N examples, Σ_n E_q log p(y_n | x_n, w), estimated by N/B times the sum over a batch of B examples. Half the
squared difference of two estimates from disjoint batches is an unbiased estimate of the variance of one: no full
gradient is needed, and pairs are independent draws of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from bdlbench.core.layout import Layout
from bdlbench.core.options import repeat_rows
from bdlbench.core.streams import Streams
from bdlbench.core.torch_private import sum_gradient
from bdlbench.data.task import Data, Examples
from bdlbench.networks.layers import Leaves, LocalNoise, Point, WeightNoise
from bdlbench.posteriors.fitting import is_linear
from bdlbench.protocols import Layer, Model

Unpack = Callable[[Tensor], tuple[Leaves, Leaves]]
"""Returns means and variances by leaf of any number of rows (R, Q), whose first P columns are the means."""

GradientEstimate = Callable[[Model, Unpack, Tensor, Examples, Streams], Tensor]
"""Returns an estimate (R, Q) of the gradient of the mean log-likelihood of a batch in rows (R, Q)."""

WEIGHTS_AT_ONCE = 1 << 22
"""Numbers of the weights of all examples that are held at once, where each example has weights of its own."""


def _estimate(rule: Callable[[Leaves, Leaves, Streams], Layer]) -> GradientEstimate:
    """Return the estimate in which one rule acts on the whole batch."""

    def gradient(model: Model, unpack: Unpack, flat: Tensor, batch: Examples, noise: Streams) -> Tensor:
        point = flat.detach().clone().requires_grad_()
        layer = rule(*unpack(point), noise)
        return sum_gradient(model(layer, batch.x, noise).elbo(batch.y).mean(-1), point)

    return gradient


def _without_noise(means: Leaves, variances: Leaves, noise: Streams) -> Layer:
    return Point(means)


_one_sample = _estimate(WeightNoise)


def _sample_for_each(model: Model, unpack: Unpack, flat: Tensor, batch: Examples, noise: Streams) -> Tensor:
    """Draw weights for each example: the examples become rows, some at a time, and each row one batch of one.

    Each example has a stream of its own, and is added by itself: how many are taken at a time depends on R.
    """
    rows, examples = batch.y.shape[:2]
    total, chunk = torch.zeros_like(flat), max(1, WEIGHTS_AT_ONCE // (rows * flat.shape[1]))
    for start in range(0, examples, chunk):
        x, y = batch.x[:, start : start + chunk], batch.y[:, start : start + chunk]
        count = y.shape[1]
        ones = Examples(x.flatten(0, 1).unsqueeze(1), y.flatten(0, 1).unsqueeze(1))  # (R·count, 1, …)
        keys = [noise.child(f"example {start + i}").keys for i in range(count)]
        own = Streams([of_example[row] for row in range(rows) for of_example in keys])
        wide = flat.repeat_interleave(count, 0)
        found = _one_sample(repeat_rows(model, count), unpack, wide, ones, own)
        for one in found.unflatten(0, (rows, count)).unbind(1):
            total += one
    return total / examples


ESTIMATES: Mapping[str, GradientEstimate] = {
    "local": _estimate(LocalNoise),
    "separate": _sample_for_each,
    "single": _one_sample,
    "none": _estimate(_without_noise),
}
"""Local reparameterisation; weights drawn for each example; weights drawn once for a batch; no noise of the weights."""


def gradient_variance(
    model: Model, layout: Layout, unpack: Unpack, flat: Tensor, data: Data, rng: Streams, batch_size: int, pairs: int
) -> dict[str, Tensor]:
    """Measure the variance of the gradient in the mean of a weight, by estimate, averaged over each linear map.

    All estimates see the same batches, so that their ratios vary less than they do.

    Args:
        model: The model.
        layout: Where each leaf lies in the first P columns of a row.
        unpack: unpack(flat) returns means and variances by leaf.
        flat: Rows (R, Q) at which the gradient is taken.
        data: The training data.
        rng: Streams (R,).
        batch_size: B, or N/2 where that is less.
        pairs: How many pairs of disjoint batches; each pair draws anew from all data.

    Returns:
        By name, (R,) float64 each: `gradient_variance[single fc1.weight]` in nats² per unit² of a weight;
        `gradient_variance_ratio[…]` of each estimate over that of local reparameterisation; and with two pairs or more
        `gradient_variance_ratio_error[…]`, the jackknife's standard error of that ratio, at these parameters.
    """
    names = [name for name, leaf in layout.leaves.items() if is_linear(leaf)]
    size, found = min(batch_size, data.num_data // 2), dict[str, list[Tensor]]()
    for pair in range(pairs):
        own = rng.child(f"pair {pair}")
        index = own.child("batches").permutation(data.num_data)[:, : 2 * size].to(data.x.device)
        batches = [data.batch(part.contiguous()) for part in index.split(size, dim=1)]
        for estimate, gradient in ESTIMATES.items():
            a, b = (gradient(model, unpack, flat, one, own.child(f"{estimate} {j}")) for j, one in enumerate(batches))
            half = layout.views(((a - b) * (data.num_data / math.sqrt(2)))[:, : layout.width])
            for name in names:
                square = torch.stack([row.double().square().mean() for row in half[name]])  # (R,)
                found.setdefault(f"{estimate} {name}", []).append(square)
    facts: dict[str, Tensor] = {}
    for key, squares in found.items():
        above, below = (torch.stack(each) for each in (squares, found[f"local {key.partition(' ')[2]}"]))  # (pairs, R)
        facts[f"gradient_variance[{key}]"] = above.mean(0)
        facts[f"gradient_variance_ratio[{key}]"] = above.sum(0) / below.sum(0)
        if pairs > 1:
            without = (above.sum(0) - above) / (below.sum(0) - below)  # (pairs, R)
            error = (without.var(0, correction=0) * (pairs - 1)).sqrt()
            facts[f"gradient_variance_ratio_error[{key}]"] = error
    return facts
