"""KL divergences of flat rows, with their gradients."""

from benchmarks.problems import normal, one_thread

WEIGHTS = 266_624
"""LeNet-300-100, padded."""


class KL:
    """KL of R networks of LeNet's size, forwards and backwards."""

    params = ([1, 20],)
    param_names = ("replicates",)

    def setup(self, replicates):
        import torch

        from bdlbench.kernels import kl

        one_thread()
        self.kernels = kl
        self.mean = (normal(replicates, WEIGHTS) * 0.05).requires_grad_()
        self.log_sd = (normal(replicates, WEIGHTS, seed=1) - 5).requires_grad_()
        self.counted, self.prior_sd = torch.ones(WEIGHTS), torch.ones(1, WEIGHTS)

    def time_normal(self, replicates):
        self.kernels.normal_kl_sum(self.mean, self.log_sd, self.prior_sd, self.counted).sum().backward()

    def time_log_uniform(self, replicates):
        alpha = self.kernels.log_alpha(self.mean.detach(), self.log_sd.detach())
        self.kernels.log_uniform_kl_sum(self.mean, self.log_sd, alpha, self.counted).sum().backward()
