"""A model whose posterior is known: y ~ N(θ, noise_sd²), θ ~ N(0, prior_sd²), whatever the input."""
from dataclasses import dataclass, field

import torch
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from bdlbench.extend import GaussianMixture, Leaf, Moments, PerRow, Signature, gaussian_prior, option, output

@dataclass(frozen=True)
class Location:
    """The mean of a normal variable (Bishop 2006, §2.3.6)."""
    signature: Signature
    noise_sd: PerRow = option(1.0, "standard deviation of the target", low=0, open_ends=True)
    prior_sd: PerRow = option(1.0, "standard deviation of the prior of θ", low=0, open_ends=True)

    def unsupported(self):
        return None if self.signature.likelihood == "gaussian" else "it fits a number with Gaussian noise"

    def leaves(self):
        return {"theta": Leaf((1,), "bias", 1)}

    def __call__(self, layer, x, rng):
        theta = layer.leaf("theta").unsqueeze(-2)  # ([M,] R, 1, 1)
        examples = x.shape[-1 - len(self.signature.input_shape)]
        return output(self.signature, theta.expand(*theta.shape[:-2], examples, 1), self.noise_sd)

    def prior(self, layout, like):  # the model's own, so that methods and the closed form have the same
        return gaussian_prior(layout, self.prior_sd, "none", like)

    def exact(self, data):
        y = data.y.double()  # (R, N)
        noise, prior = (torch.as_tensor(sd).to(y).expand(data.rows) for sd in (self.noise_sd, self.prior_sd))
        variance = 1 / (1 / prior**2 + data.num_data / noise**2)  # (R,)
        covariance = torch.eye(data.num_data).to(y) * noise.view(-1, 1, 1) ** 2 + prior.view(-1, 1, 1) ** 2
        evidence = MultivariateNormal(torch.zeros_like(y), covariance).log_prob(y)
        return LocationPosterior(variance * y.sum(1) / noise**2, variance, noise, evidence)

@dataclass(frozen=True)
class LocationPosterior:
    """N(mean, variance) of θ, (R,) float64 each."""
    mean: torch.Tensor
    variance: torch.Tensor
    noise_sd: torch.Tensor
    log_evidence: torch.Tensor  # log p(y), nats
    facts: dict = field(default_factory=dict)

    @property
    def state(self):  # what is stored
        return {"mean": self.mean, "variance": self.variance}

    @property
    def bound(self):  # the ELBO of the exact posterior is the evidence
        return self.log_evidence

    def moments(self):
        return Moments(self.mean[:, None], self.variance[:, None, None], gaussian=True)

    def kl(self, other):  # KL(other ‖ this), in nats
        theirs = Normal(other.mean[:, 0], other.covariance[:, 0, 0].sqrt())
        return kl_divergence(theirs, Normal(self.mean, self.variance.sqrt()))

    def predict(self, x, samples, rng, joint=False):  # one Gaussian for each example, (1, R, N)
        sd = (self.variance + self.noise_sd**2).sqrt()
        return GaussianMixture(*(one.to(x)[None, :, None].repeat(1, 1, x.shape[1]) for one in (self.mean, sd)))

    def measured(self, x, rng):
        return {}

models = {"location": Location}
