"""Rows of weights taken apart into Gaussian leaves, and their gradient with that of the KL."""

from benchmarks.problems import normal, one_thread

WEIGHTS = 266_624
"""LeNet-300-100, padded."""


class KL:
    """R networks of LeNet's size, forwards and backwards, without the value of the KL, as most steps are."""

    params = ([1, 20],)
    param_names = ("replicates",)

    def setup(self, replicates):
        import torch

        try:
            from bdlbench.kernels import factorised
        except ImportError as error:
            raise NotImplementedError("before rows had one gradient") from error
        from bdlbench.core.layout import Layout, Leaf
        from bdlbench.posteriors.fitting import gaussian_prior

        one_thread()
        self.kernels, self.layout = factorised, Layout({"weight": Leaf((WEIGHTS,), "weight", 784)})
        rows = torch.cat([normal(replicates, WEIGHTS) * 0.05, normal(replicates, WEIGHTS, seed=1) - 5], -1)
        self.flat, self.noise = rows.requires_grad_(), normal(replicates, WEIGHTS, seed=2)
        self.counted, self.limit = torch.ones(WEIGHTS), torch.full((1, WEIGHTS), 3.0)
        self.prior = gaussian_prior(self.layout, 1.0, "none", self.noise)
        self.gradient = torch.ones(replicates, WEIGHTS)

    def time_factorised(self, replicates):
        mean, variance, kl = self.kernels.factorised(self.flat, self.layout, self.prior, False)
        self._back(mean["weight"], variance["weight"], kl)

    def time_sampled(self, replicates):
        leaves, kl = self.kernels.sampled(self.flat, self.noise, self.layout, self.prior, False)
        self._back(leaves["weight"], kl)

    def time_sparse(self, replicates):
        mean, variance, kl = self.kernels.sparse(self.flat, self.layout, ["weight"], self.counted, self.limit, False)
        self._back(mean["weight"], variance["weight"], kl)

    def _back(self, *results):
        import torch

        torch.autograd.grad(results, self.flat, [self.gradient] * (len(results) - 1) + [self.gradient[:, 0]])
