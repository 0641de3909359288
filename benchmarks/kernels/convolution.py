"""Convolutions over the replicate axis."""

from benchmarks.problems import normal, one_thread, required


class Convolution:
    """Forwards and backwards: LeNet-5's second layer."""

    params = ([1, 5],)
    param_names = ("replicates",)

    def setup(self, replicates):
        one_thread()
        self.op = required("bdlbench.kernels.convolution").Conv2d()
        self.x = normal(replicates, 64, 6, 14, 14).requires_grad_()
        self.weight = normal(replicates, 16, 6, 5, 5, seed=1).requires_grad_()

    def time_conv2d(self, replicates):
        self.op(self.x, self.weight).sum().backward()
