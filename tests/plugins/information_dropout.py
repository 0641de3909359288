"""Dropout by log-normal noise, as Achille & Soatto (2018), at a fixed width."""
from dataclasses import dataclass, field

from bdlbench.extend import Layout, PerRow, Plan, WeightPosterior, fit_network, last, option, per_row


@dataclass(frozen=True)
class LogNormalNoise:
    """The rule op(x · exp(s ε − s²/2), w) with ε ~ N(0, 1), so that the factor has mean 1."""
    leaves: dict
    width: PerRow  # s
    noise: object  # streams (R,) in training, (M, R) for posterior samples
    joint: bool
    kept: dict = field(default_factory=dict)  # a joint draw is one network: its noise is drawn once for each leaf

    def __call__(self, name, op, x, bias=""):
        shape = x.shape[-op.trailing:]  # (B, …), the axes of x after [M,] R
        epsilon = self.kept.get(name)
        if epsilon is None:
            epsilon = self.noise.normal((1, *shape[1:]) if self.joint else shape, x)
            if self.joint:
                self.kept[name] = epsilon
        s = per_row(self.width, x, 1 + op.trailing)  # counted from R: (R, 1, …)
        return op(x * (s * epsilon - s**2 / 2).exp(), self.leaves[name], self.leaves[bias] if bias else None)

    def leaf(self, name):
        return self.leaves[name]

@dataclass(frozen=True)
class InformationDropout:
    """Log-normal noise of a fixed width on the input of every linear map."""
    epochs: int = option(60, "passes over the training data", low=1)
    width: PerRow = option(0.3, "standard deviation of the logarithm of the noise", low=0)

    def unsupported(self, model):
        return None

    def fit(self, model, data, rng):
        layout = Layout(model.leaves())
        rule = lambda flat, noise, joint=False: LogNormalNoise(layout.views(flat), self.width, noise, joint)
        flat = last(fit_network(model, data, rng, Plan(self.epochs, 64, 1e-3), rule)).flat
        return WeightPosterior(model, layout.views(flat), lambda noise, joint: rule(flat, noise, joint))

methods = {"information_dropout": InformationDropout}
