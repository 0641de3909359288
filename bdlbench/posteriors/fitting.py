"""What methods in weight space share when they fit: initial rows, Gaussian priors, the objective of one network."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from bdlbench.core.errors import BadInput
from bdlbench.core.layout import Layout, Leaf, PerRow, per_row
from bdlbench.core.options import option
from bdlbench.core.streams import Streams
from bdlbench.data.task import Data, Examples
from bdlbench.kernels.elbo import negative_elbo
from bdlbench.kernels.kl import (
    MixtureScales,
    RowPrior,
    add_normal_kl_gradient,
    normal_kl_sum,
    normal_log_density,
    normal_log_density_sum,
    row_sum,
    scale_mixture_log_density,
    scale_mixture_slope,
)
from bdlbench.posteriors.adversarial import ReachUnit, adversarial_elbo
from bdlbench.predictives.mixtures import by_vectors
from bdlbench.protocols import HasStart, Layer, Model, OwnsPrior, Prior
from bdlbench.training.loop import NOTHING, Collect, PosteriorAt, States, minimise
from bdlbench.training.optimisers import Update
from bdlbench.training.plan import Moment, Plan, asked
from bdlbench.training.recipe import recipe_option
from bdlbench.training.terms import term

PriorScaling = Literal["none", "fan_in", "noise"]

NO_NOISE = -1000.0
"""A log standard deviation whose exponential is 0 in float64 too."""

_OPTIONS: dict[str, dict[str, Any]] = {
    "prior_sd": {
        "default": 1.0,
        "help": "standard deviation of the Gaussian prior",
        "low": 0,
        "open_ends": True,
        "search": (0.1, 30.0),
    },
    "prior_scaling": {
        "default": "none",
        "help": "divide the prior's sd by √fan_in, or multiply it by the noise_sd of a Gaussian target?",
        "choices": get_args(PriorScaling),
    },
    "adversarial": {
        "default": 0.0,
        "help": "ε: half of the loss is of inputs moved by ε along the sign of its gradient; 0: none",
        "low": 0,
        "later": True,
    },
    "adversarial_unit": {
        "default": "range",
        "help": "ε is a part of the range, or of the sd, of each input over the training data",
        "choices": get_args(ReachUnit),
        "later": True,
    },
}


def training_option(name: str, **changes: Any) -> Any:
    """Return the option that methods which train a network have in common, for the field `name` of one of them.

    Args:
        name: prior_sd, prior_scaling, adversarial, adversarial_unit, or an option of `Recipe`, such as epochs.
        **changes: What is different in this method, by the names of `option`: its default, its help, its range.

    Returns:
        A dataclass field.
    """
    return option(**{**_OPTIONS[name], **changes}) if name in _OPTIONS else recipe_option(name, **changes)


def initial_rows(layout: Layout, rng: Streams, like: Tensor) -> Tensor:
    """Draw initial rows (R, P) on the device of `like`, each leaf as its `init` says.

    "kaiming": linear maps from N(0, 2 / fan_in) (He et al. 2015). "glorot": uniform in ±√(6 / (fan_in + fan_out))
    (Glorot & Bengio 2010, eq. 16), the default of Keras. "small": from N(0, 0.01²). "torch": linear maps and biases
    uniform in ±1/√fan_in, as in torch's own layers. All other biases, and scales, start at zero.
    """
    noise = rng.normal((layout.width,), like)

    def scale(leaf: Leaf) -> float:
        """Return the standard deviation of a normal start, the half width of a uniform one."""
        if leaf.role == "scale" or (leaf.role == "bias" and leaf.init != "torch"):
            return 0.0
        fan_out = leaf.shape[0] * math.prod(leaf.shape[2:])
        known = {"kaiming": 2 / leaf.fan_in, "glorot": 6 / (leaf.fan_in + fan_out), "torch": 1 / leaf.fan_in}
        return 0.01 if leaf.init == "small" else math.sqrt(known[leaf.init])

    rows = noise * layout.fill(scale).to(like.device)
    uniform = [name for name, leaf in layout.leaves.items() if leaf.init in ("glorot", "torch")]
    if uniform:  # 2Φ(z) − 1 = erf(z / √2)
        spread = by_vectors(torch.erf, noise / math.sqrt(2)) * layout.fill(scale).to(like.device)
        for name, view in layout.views(rows).items():
            if name in uniform:
                view.copy_(layout.views(spread)[name])
    return rows


def initial_network(model: Model, data: Data, rng: Streams) -> Tensor:
    """Draw the initial parameters of one network for each row.

    Linear maps start from N(0, 2 / fan_in) (He et al. 2015), biases and scales at zero, and the leaves of a model that
    `HasStart` where the model says.

    Args:
        model: The model.
        data: The training data.
        rng: Streams (R,).

    Returns:
        Rows (R, P).
    """
    layout = Layout(model.leaves())
    rows = initial_rows(layout, rng, data.x)
    if isinstance(model, HasStart):
        views = layout.views(rows)
        for name, value in model.start(data, rng.child("start")).items():
            views[name].copy_(value)
    return rows


def equal_log_sd(layout: Layout, value: PerRow, like: Tensor) -> Tensor:
    """Return log standard deviations that are all `value`, a number or (R,), in the shape of rows `like` (R, P).

    Buffers have no noise: there it is −1000, whose exponential is 0.
    """
    rows = torch.as_tensor(value, dtype=like.dtype, device=like.device).reshape(-1, 1).expand_as(like)
    if not layout.buffers:
        return rows
    rows = rows.clone()
    for place in layout.buffers.values():
        rows[:, place] = NO_NOISE
    return rows


def is_linear(leaf: Leaf) -> bool:
    """Tell whether a leaf is a linear map, not a bias or a scale.

    Args:
        leaf: The leaf.

    Returns:
        True for a linear map.
    """
    return leaf.role in ("input", "weight")


def dropout_rates(layout: Layout, input_rate: PerRow, rate: PerRow) -> dict[str, PerRow]:
    """Return the dropout rate at the input of each linear map: `input_rate` where it reads the data, else `rate`."""
    by_role = {"input": input_rate, "weight": rate}
    return {name: by_role[leaf.role] for name, leaf in layout.leaves.items() if leaf.role in by_role}


@dataclass(frozen=True)
class GaussianPrior:
    """N(0, sd²) on every parameter."""

    rows: RowPrior
    of_weights: ClassVar[bool] = True

    def log_density(self, flat: Tensor, valued: bool = True) -> Tensor:
        """Return log p of rows (R, P) in nats, (R,)."""
        return normal_log_density_sum(flat, self.rows, valued)

    def kl(self, mean: Tensor, log_sd: Tensor) -> Tensor:
        """Return KL(Π_i N(mean_i, sd_i²) ‖ p) of rows (R, P) in nats, (R,)."""
        return normal_kl_sum(mean, log_sd, self.rows)

    def add_kl_gradient(
        self, mean: Tensor, variance: Tensor, factor: Tensor, into_mean: Tensor, into_log_sd: Tensor
    ) -> None:
        """Add the gradient of `kl` in closed form."""
        add_normal_kl_gradient(mean, variance, factor, self.rows, into_mean, into_log_sd)


@dataclass(frozen=True)
class LearntPriorSd:
    """N(0, s²) with one s for each leaf, the one that makes the KL smallest: s² = mean of mean² + variance (R,).

    As a function of q the smallest KL has the gradient of the KL at that s, held fixed (envelope theorem).
    """

    layout: Layout

    def kl(self, mean: Tensor, log_sd: Tensor) -> Tensor:
        """Return the smallest KL of rows (R, P) in nats, (R,)."""
        return normal_kl_sum(mean, log_sd, self.fitted(mean, (2 * log_sd).exp()))

    def add_kl_gradient(
        self, mean: Tensor, variance: Tensor, factor: Tensor, into_mean: Tensor, into_log_sd: Tensor
    ) -> None:
        """Add the gradient of `kl` in closed form."""
        add_normal_kl_gradient(mean, variance, factor, self.fitted(mean, variance), into_mean, into_log_sd)

    def fitted(self, mean: Tensor, variance: Tensor) -> RowPrior:
        """Return the prior of each leaf that fits rows of means and variances (R, P) best."""
        counted = self.layout.fill(lambda leaf: 1.0).to(mean)
        squares = self.layout.views(mean.square() + variance)
        means = {  # summed row by row, so that the order of addition does not depend on R
            name: torch.stack([(row.sum() / row.numel()).expand(row.shape) for row in leaf])
            for name, leaf in squares.items()
        }
        square = self.layout.joined(means) + (1 - counted)  # 1 on padding, which has no scale
        return RowPrior(square.sqrt(), counted / square, counted)


@dataclass(frozen=True)
class ScaleMixture:
    """A mixture of two Gaussians around zero for every parameter, whose KL is a sampled log ratio.

    log q(w) − log p(w) at w = mean + sd · epsilon, Blundell et al. 2015, eq. 2; its mean over epsilon is the KL.

    Attributes:
        scales: The mixture.
        counted: 1 on weights, 0 on padding, (P,).
        epsilon: Standard normal numbers (R, P) of the sample.
    """

    scales: MixtureScales
    counted: Tensor
    epsilon: Tensor

    def kl(self, mean: Tensor, log_sd: Tensor) -> Tensor:
        """Return the log ratio of rows (R, P) at the sample, in nats, (R,)."""
        value = torch.addcmul(mean, log_sd.exp(), self.epsilon)
        log_q = normal_log_density(self.epsilon, 1.0) - log_sd
        return row_sum((log_q - scale_mixture_log_density(value, self.scales)) * self.counted)

    def add_kl_gradient(
        self, mean: Tensor, variance: Tensor, factor: Tensor, into_mean: Tensor, into_log_sd: Tensor
    ) -> None:
        """Add the gradient of `kl` in closed form: −slope in the mean, −slope · sd · epsilon − 1 in log sd."""
        moved = variance.sqrt() * self.epsilon
        slope = scale_mixture_slope(mean + moved, self.scales) * (self.counted * factor)
        into_mean.sub_(slope)
        into_log_sd.sub_(slope * moved).addcmul_(self.counted, factor, value=-1)


def gaussian_prior(layout: Layout, sd: PerRow, scaling: PriorScaling, like: Tensor) -> GaussianPrior:
    """Return N(0, sd²) on every parameter, as the prior of a model that has its own.

    Args:
        layout: Where each leaf lies in a row.
        sd: Standard deviation, a number or (R,).
        scaling: "fan_in" divides it by √fan_in on linear maps (Neal 1996, §2.1); "none" leaves it.
        like: A tensor whose device and dtype the prior takes.

    Returns:
        The prior of rows (R, P).
    """
    by_fan_in = scaling == "fan_in"
    factor = layout.fill(lambda leaf: leaf.fan_in**-0.5 if by_fan_in and is_linear(leaf) else 1.0, padding=1.0)
    counted = layout.fill(lambda leaf: 1.0).to(like.device)
    scaled = factor.to(like.device) * per_row(sd, like, 2)
    sd = scaled if scaled.ndim == 2 else scaled.unsqueeze(0)
    return GaussianPrior(RowPrior(sd, counted / sd.square(), counted))


def prior_of(model: Model, layout: Layout, sd: PerRow, scaling: PriorScaling, like: Tensor) -> Prior:
    """Return the model's own prior where it has one, else the Gaussian of a method's options.

    Args:
        model: The model.
        layout: Where each leaf lies in a row.
        sd: Standard deviation of the Gaussian, a number or (R,).
        scaling: "fan_in" divides it by √fan_in on linear maps (Neal 1996, §2.1); "noise" multiplies it by the noise_sd
            of the model, as an L2 penalty of squared errors does; "none" leaves it.
        like: A tensor whose device and dtype the prior takes.

    Returns:
        The prior of rows (R, P).

    Raises:
        BadInput: Scaling is "noise", and the model has no `noise_sd`.
    """
    if isinstance(model, OwnsPrior):
        return model.prior(layout, like)
    if scaling == "noise":
        noise_sd: PerRow | None = getattr(model, "noise_sd", None)
        if noise_sd is None:
            raise BadInput("prior_scaling=noise: the model has no noise_sd that a prior could be multiplied by")
        sd = sd * noise_sd
    return gaussian_prior(layout, sd, scaling, like)


def fit_network(
    model: Model,
    data: Data,
    rng: Streams,
    plan: Plan,
    rule: Callable[[Tensor, Streams], Layer],
    prior: Prior | None = None,
    update: Update | None = None,
    collect: Collect = NOTHING,
    posterior: PosteriorAt | None = None,
    reach: Tensor | None = None,
) -> States:
    """Minimise −[mean_b elbo_b + log p(w) / N] over one network for each row.

    Args:
        model: The model.
        data: The training data.
        rng: Streams (R,).
        plan: Epochs, batch size, optimiser, learning rate and the rest of the recipe.
        rule: `rule(flat, noise)` returns the layer rule by which rows (R, P) act.
        prior: The prior of the parameters; None for maximum likelihood.
        update: The step rule; None for the plan's optimiser.
        collect: What is gathered after every epoch.
        posterior: The posterior that training would give if it ended with a state: what is watched and validated.
        reach: How far adversarial training moves each input, (R, 1, *S); None: no such training.

    Returns:
        The states of training; `last` takes the final one.
    """

    def objective(flat: Tensor, batch: Examples, noise: Streams, moment: Moment) -> Tensor:
        layer = rule(flat, noise)

        def elbo_of(x: Tensor) -> Tensor:
            return trained_elbo(model, layer, Examples(x, batch.y), noise, plan)

        elbo = elbo_of(batch.x) if reach is None else adversarial_elbo(elbo_of, batch.x, reach)
        elbo = term("likelihood", elbo)
        penalty = term("divergence", -prior.log_density(flat, moment.reported)) if prior is not None else 0.0
        return negative_elbo(elbo, penalty, data.num_data)

    initial = initial_network(model, data, rng.child("init"))
    return minimise(objective, initial, data, rng, plan, update, collect, posterior)


def trained_elbo(model: Model, layer: Layer, batch: Examples, noise: Streams, plan: Plan) -> Tensor:
    """Return what training raises for each example: its elbo, of a target smoothed as the plan says.

    With label smoothing ε it is (1 − ε) elbo(y) + ε/C Σ_c elbo(c), the cross-entropy from a target that is spread over
    the classes (Szegedy et al. 2016, §7).

    Args:
        model: The model.
        layer: The layer rule.
        batch: Inputs (R, B, *S) and targets (R, B).
        noise: Streams (R,).
        plan: The plan, which has ε.

    Returns:
        Nats, (R, B).
    """
    output = model(layer, batch.x, noise)
    elbo = output.elbo(batch.y)
    if not asked(plan.label_smoothing):
        return elbo
    classes = model.signature.outputs
    others = torch.stack([output.elbo(torch.full_like(batch.y, c)) for c in range(classes)]).mean(0)
    return elbo + per_row(plan.label_smoothing, elbo, 2) * (others - elbo)


def expected_log_likelihood(
    model: Model, rule: Callable[[Streams], Layer], data: Data, rng: Streams, samples: int
) -> tuple[Tensor, Tensor]:
    """Return Σ_n E_q elbo_n of all training data in nats, (R,) float64, and the sum of each draw (samples, R).

    There are `samples` draws, in blocks of examples.
    """
    total = torch.zeros(data.rows, dtype=torch.float64, device=data.x.device)
    draws = total.new_zeros(samples, data.rows)
    with torch.inference_mode():
        for i, start in enumerate(range(0, data.num_data, 1000)):
            x, y = data.x[:, start : start + 1000], data.y[:, start : start + 1000]
            for m in range(samples):
                noise = rng.child(f"block {i}").samples(m, 1)
                elbo = model(rule(noise), x, noise).elbo(y)
                part = torch.stack([row.double().sum() for row in elbo.reshape(data.rows, -1)])
                total += part
                draws[m] += part
    return total / samples, draws
