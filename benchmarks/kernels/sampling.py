"""How noise enters a linear map: drawing it, and using it."""

from benchmarks.problems import normal, one_thread


class Sampling:
    """Of the hidden units of a batch."""

    params = ([100, 1000],)
    param_names = ("batch",)

    def setup(self, batch):
        import torch

        from bdlbench.kernels import sampling

        one_thread()
        self.kernels = sampling
        self.mean, self.noise = normal(1, batch, 300), normal(1, batch, 300, seed=1)
        self.variance = self.mean.square()
        self.bits = torch.randint(
            -(2**15), 2**15, (1, batch, 300), dtype=torch.int16, generator=torch.Generator().manual_seed(0)
        )

    def time_perturbed(self, batch):
        self.kernels.perturbed(self.mean, self.variance, self.noise)

    def time_keep_mask(self, batch):
        self.kernels.keep_mask(self.bits, 0.3, 2, self.mean)
