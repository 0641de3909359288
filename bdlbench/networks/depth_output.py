"""The output and the predictive of a network of uncertain depth; the output owns the latent depth z."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self

import torch
from torch import Tensor

from bdlbench.core.layout import PerRow
from bdlbench.core.streams import Streams
from bdlbench.kernels import halting
from bdlbench.predictives.mixtures import Categorical, CategoricalSum, join_facts, log_mean, log_sum, ordered_sum
from bdlbench.protocols import Accumulator
from bdlbench.training.terms import term

Expectation = Literal["exact", "sampled"]

DEPTH_RULES = {
    "q_mode": "p(y | z*) at the mode z* of q: the headline, whose cost is stated",
    "q_marginal": "Σ_z q(z) p(y | z)",
    "q_sample": "p(y | z) at one z drawn from q, by halting decisions along the network",
    "prior": "Σ_z p(z) p(y | z), the exact marginal of the model: q plays no part",
    "joint": "p(y | z*) at the mode (y*, z*) of the exact joint posterior p(y, z | x) = p(y | x, z) p(z): predicts y*",
}
"""The rules that turn all depths into one prediction; p(y | z) is the head's prediction after z layers."""


@dataclass(frozen=True)
class DepthModel:
    """The prior of the depth, truncated geometric p(z = l) ∝ exp(−strength · l), and how q(z) is trained against it.

    Attributes:
        strength: Nats that each further layer costs.
        entropy_weight: Weight of the entropy of q in the objective; 1 gives the ELBO.
        exploration: Share of p in the distribution that is trained, (1 − exploration) q + exploration p.
        expectation: Whether training takes the expectation over all exits, or samples one relaxed depth.
        temperature: Temperature of the relaxed depth.
    """

    strength: PerRow
    entropy_weight: PerRow = 1.0
    exploration: PerRow = 0.0
    expectation: Expectation = "exact"
    temperature: PerRow = 1.0

    def log_prior(self, exits: int, like: Tensor) -> Tensor:
        """Return log p(z) in nats: (L,), or (R, 1, L)."""
        log_p = halting.log_geometric(self.strength, exits, like)
        return log_p if log_p.ndim == 1 else log_p.unsqueeze(1)


@dataclass(frozen=True)
class Exits:
    """Where a network can be left, in order.

    FLOPs are those of one example: 2 for each multiply-add of convolutions and dense maps, with every head on the way;
    nothing else is counted.

    Attributes:
        depths: Layers before each exit.
        flops: FLOPs up to each exit.
        full_flops: FLOPs of all layers and one head at the end.
    """

    depths: tuple[int, ...]
    flops: tuple[int, ...]
    full_flops: int


@dataclass(frozen=True)
class StoppingOutput:
    """What a network predicts at each of its L exits.

    Attributes:
        exit_logits: Class logits ([M,] R, B, C, L).
        halting: Halting logits ([M,] R, B, L − 1).
        model: The prior of the depth, and how q(z) is trained.
        exits: Depth and cost of each exit.
        rng: Streams of the latent depth, one for each network; read only where a depth is sampled.
    """

    exit_logits: Tensor
    halting: Tensor
    model: DepthModel
    exits: Exits
    rng: Streams

    @property
    def log_q(self) -> Tensor:
        """log q(z | x) in nats, ([M,] R, B, L)."""
        return halting.log_stopping(self.halting)

    @property
    def log_prior(self) -> Tensor:
        """log p(z) in nats; broadcasts to `log_q`."""
        return self.model.log_prior(len(self.exits.depths), self.halting)

    @property
    def logits(self) -> Tensor:
        """Class logits at the mode of q, ([M,] R, B, C)."""
        return self.at(halting.mode(self.log_q))

    def at(self, exit: Tensor) -> Tensor:
        """Return class logits at one exit for each example: exits ([M,] R, B) int64 from 0 -> ([M,] R, B, C)."""
        return self.exit_logits.take_along_dim(exit[..., None, None], -1)[..., 0]

    def log_likelihood(self, y: Tensor) -> Tensor:
        """Return log p(y | x, z) in nats for every z, ([M,] R, B, L), of classes y (R, B)."""
        log_probs = self.exit_logits.log_softmax(-2)
        return log_probs.take_along_dim(y.expand(log_probs.shape[:-2])[..., None, None], -2)[..., 0, :]

    def elbo(self, y: Tensor) -> Tensor:
        """Return E_r log p(y | x, z) − KL(r(z | x) ‖ p(z)) in nats, ([M,] R, B), with r = (1 − e) q + e p.

        e is the exploration. With an entropy weight w it is E_r [log p(y | x, z) + log p(z)] + w H(r). Since H ≥ 0, w <
        1 bounds the same evidence from further below; w = 0, where the best r is a point, is the amortised MAP of
        Figurnov et al. 2017. Any r gives a bound; e > 0 keeps every exit in training, even where q would never stop.
        The expectation of the likelihood is exact, or that of one relaxed depth: log p(y | Σ_l s_l logits_l) with a
        relaxed one-hot s.
        """
        log_r, weight = self._explored(), self._by_row(self.model.entropy_weight)
        r = log_r.exp()
        fit = self._relaxed_log_likelihood(y, log_r) if self.sampled else (r * self.log_likelihood(y)).sum(-1)
        cross_entropy = term("local", -(r * self.log_prior).sum(-1), "E_q[−log p(z)]")
        negative_entropy = term("local", (r * log_r).sum(-1), "−H(q(z | x))")
        return fit - cross_entropy - weight[..., 0] * negative_entropy

    @property
    def sampled(self) -> bool:
        """Whether the objective draws a depth."""
        return self.model.expectation == "sampled"

    def log_evidence(self, y: Tensor) -> Tensor:
        """Return log Σ_z p(z) p(y | x, z) in nats, ([M,] R, B), of which `elbo` is a lower bound."""
        return (self.log_prior + self.log_likelihood(y)).logsumexp(-1)

    def accumulator(self, samples: int) -> Accumulator:
        """Return an accumulator that averages the probabilities of each rule."""
        return StoppingSum(samples)

    def noise(self) -> Tensor:
        """Draw standard logistic numbers, one for each halting decision: ([M,] R, B, L − 1)."""
        return halting.logistic(self.rng.normal(self.halting.shape[-2:], self.halting)).view_as(self.halting)

    def rules(self) -> dict[str, Tensor]:
        """Return log class probabilities ([M,] R, B, C) by each rule except q_mode; {} where there is one exit."""
        if len(self.exits.depths) == 1:
            return {}
        log_probs, log_p = self.exit_logits.log_softmax(-2), self.log_prior
        joint_mode = (log_p + log_probs.amax(-2)).argmax(-1)
        return {
            "q_marginal": log_sum(log_probs + self.log_q.unsqueeze(-2)),
            "q_sample": self.at(halting.sampled(self.halting, self.noise())).log_softmax(-1),
            "prior": log_sum(log_probs + log_p.unsqueeze(-2)),
            "joint": self.at(joint_mode).log_softmax(-1),
        }

    def full(self) -> Tensor:
        """Return log class probabilities after all layers, ([M,] R, B, C)."""
        return self.exit_logits[..., -1].log_softmax(-1)

    def facts(self) -> dict[str, Tensor]:
        """Return, ([M,] R, B) each: the depth of the mode of q, E_q z, and the FLOPs after which the mode is known."""
        depths, flops = (torch.tensor(v).to(self.halting) for v in (self.exits.depths, self.exits.flops))
        known = flops[halting.mode_known(self.log_q)]
        return {
            "halted_depth": depths[halting.mode(self.log_q)],
            "expected_depth": (self.log_q.exp() * depths).sum(-1),
            "flops": known,
            "full_flops": torch.full_like(known, self.exits.full_flops),
        }

    def _explored(self) -> Tensor:
        """Return log of (1 − e) q + e p, ([M,] R, B, L)."""
        return halting.mixed(self.log_q, self.log_prior, self._by_row(self.model.exploration))

    def _relaxed_log_likelihood(self, y: Tensor, log_r: Tensor) -> Tensor:
        halts, temperature = halting.halting_logits(log_r), self._by_row(self.model.temperature)
        weights = halting.relaxed(halts, self.noise(), temperature).unsqueeze(-2)
        mixed = (self.exit_logits * weights).sum(-1).log_softmax(-1)  # ([M,] R, B, C)
        return mixed.take_along_dim(y.expand(mixed.shape[:-1]).unsqueeze(-1), -1)[..., 0]

    def _by_row(self, value: PerRow) -> Tensor:
        """Shape a number, or one for each row, as (1 or R, 1, 1)."""
        return torch.as_tensor(value).to(self.halting).reshape(-1, 1, 1)


class StoppingSum:
    """Accumulates the predictions of each network by each rule, sample by sample, into a `StoppingPredictive`."""

    def __init__(self, samples: int) -> None:
        self.mode = CategoricalSum(samples)
        self.rules: dict[str, list[Tensor]] = {}
        self.facts: dict[str, list[Tensor]] = {}
        self.full: dict[str, list[Tensor]] = {}
        self.exits = 0

    def add(self, output: StoppingOutput) -> None:
        """Add the next m samples, or the only one."""
        self.mode.add(output)
        self.exits = len(output.exits.depths)
        lead = output.exit_logits.ndim == 5  # else one sample, without the axis M
        told = ((self.rules, output.rules()), (self.facts, output.facts()), (self.full, {"full": output.full()}))
        for kept, values in told:
            for name, value in values.items():
                kept.setdefault(name, []).extend(value.float() if lead else value.float().unsqueeze(0))

    def finish(self) -> StoppingPredictive:
        """Return the predictive of the samples added: means over them."""
        rules = {name: log_mean(samples) for name, samples in self.rules.items()}
        facts = {name: ordered_sum(samples) / len(samples) for name, samples in self.facts.items()}
        return StoppingPredictive(self.mode.finish(), rules, facts, self.exits, log_mean(self.full["full"]))


@dataclass(frozen=True)
class StoppingPredictive:
    """What M networks of uncertain depth predict.

    Attributes:
        mode: The prediction by q_mode, whose cost is stated.
        others: Log of the mean class probabilities by each other rule, (R, N, C) in nats.
        facts: Means over networks (R, N): halted_depth (of the mode of q), expected_depth (E_q z, which is also the
            out-of-distribution score `depth`), flops (of one network, until the mode is known), full_flops (of all its
            layers and one head).
        exits: L.
        full: Log of the mean class probabilities after all layers, (R, N, C) in nats.
    """

    mode: Categorical
    others: Mapping[str, Tensor]
    facts: Mapping[str, Tensor]
    exits: int
    full: Tensor

    @property
    def samples(self) -> int:
        """M."""
        return self.mode.samples

    @property
    def probs(self) -> Tensor:
        """Class probabilities by q_mode, (R, N, C)."""
        return self.mode.probs

    @property
    def log_probs(self) -> Tensor:
        """Their logarithms in nats, (R, N, C) float64."""
        return self.mode.log_probs

    @property
    def group_log_probs(self) -> Tensor:
        """Their logarithms by each group of samples, (G, R, N, C)."""
        return self.mode.group_log_probs

    @property
    def rules(self) -> dict[str, Tensor]:
        """Log class probabilities (R, N, C) in nats, by the name of the rule."""
        return {"q_mode": self.mode.log_probs.float(), **self.others}

    @property
    def scores(self) -> dict[str, Tensor]:
        """The scores of q_mode's class probabilities, and the depth E_q z where there are several exits."""
        scores = self.mode.scores
        return {**scores, "depth": self.facts["expected_depth"]} if self.others else scores

    def log_prob(self, y: Tensor) -> Tensor:
        """Return log p(y | x) by q_mode in nats, (R, N)."""
        return self.mode.log_prob(y)

    def group_log_prob(self, y: Tensor) -> Tensor:
        """Return log p(y | x) by q_mode in nats for each group of samples, (G, R, N)."""
        return self.mode.group_log_prob(y)

    def arrays(self) -> dict[str, Tensor]:
        """Return q_mode's class probabilities, with its depth and FLOPs."""
        return {**self.mode.arrays(), "halted_depth": self.facts["halted_depth"], "flops": self.facts["flops"]}

    def in_units(self, y_mean: Tensor, y_sd: Tensor) -> Self:
        """Return itself: classes have no scale."""
        return self

    def tempered(self, temperature: Tensor) -> Self:
        """Return the prediction by q_mode at temperatures (R,); what the other rules predict stays."""
        return replace(self, mode=self.mode.tempered(temperature))

    def mix(self, members: int) -> Self:
        """Average over members; the FLOPs stay those of one network."""

        def by_member(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {name: value.unflatten(0, (-1, members)).transpose(0, 1) for name, value in values.items()}

        others = {name: log_mean(value) for name, value in by_member(self.others).items()}
        facts = {name: ordered_sum(value) / members for name, value in by_member(self.facts).items()}
        full = log_mean(by_member({"full": self.full})["full"])
        return type(self)(self.mode.mix(members), others, facts, self.exits, full)

    def join(self, later: Sequence[Self]) -> Self:
        """Append the predictives of later examples, along N."""
        mode = self.mode.join([block.mode for block in later])
        others, facts = (join_facts([getattr(b, n) for b in (self, *later)]) for n in ("others", "facts"))
        return type(self)(mode, others, facts, self.exits, torch.cat([b.full for b in (self, *later)], 1))
