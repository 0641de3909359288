"""KL divergences of flat rows, with their gradients."""

from benchmarks.problems import normal, one_thread

WEIGHTS = 266_624
"""LeNet-300-100, padded."""


class KL:
    """KL of R networks of LeNet's size, forwards and backwards."""

    params = ([1, 20],)
    param_names = ("replicates",)

    def setup(self, replicates):
        from inspect import signature

        import torch

        from bdlbench.kernels import kl
        from bdlbench.posteriors.fitting import gaussian_prior
        from bdlbench.types import Layout, Leaf

        one_thread()
        self.kernels, self.counted = kl, torch.ones(WEIGHTS)
        self.mean = (normal(replicates, WEIGHTS) * 0.05).requires_grad_()
        self.log_sd = (normal(replicates, WEIGHTS, seed=1) - 5).requires_grad_()
        self.prior = gaussian_prior(Layout({"weight": Leaf((WEIGHTS,), "weight", 784)}), 1.0, "none", self.mean)
        asks_for_variance = "variance" in signature(self.prior.kl).parameters  # since a training step has it at hand
        self.given = [(2 * self.log_sd.detach()).exp()] if asks_for_variance else []

    def time_normal(self, replicates):
        self.prior.kl(self.mean, self.log_sd, *self.given).sum().backward()

    def time_log_uniform(self, replicates):
        alpha = self.kernels.log_alpha(self.mean.detach(), self.log_sd.detach())
        self.kernels.log_uniform_kl_sum(self.mean, self.log_sd, alpha, self.counted).sum().backward()
