"""Linear maps over the replicate axis."""

from benchmarks.problems import normal, one_thread


class Product:
    """Forwards and backwards: a large layer, and the small ones of many networks."""

    params = (["1 x 100x784x300", "1 x 1000x784x300", "20 x 64x64x50"],)
    param_names = ("size",)

    def setup(self, size):
        from bdlbench.kernels import linear

        one_thread()
        rows, _, sizes = size.split()
        n, k, m = map(int, sizes.split("x"))
        self.product = linear.product
        self.a, self.b = normal(int(rows), n, k).requires_grad_(), normal(int(rows), k, m, seed=1).requires_grad_()

    def time_product(self, size):
        self.product(self.a, self.b).sum().backward()


class Convolution:
    """Forwards and backwards: LeNet-5's second layer."""

    params = ([1, 5],)
    param_names = ("replicates",)

    def setup(self, replicates):
        from bdlbench.kernels.linear import Conv2d

        one_thread()
        self.op = Conv2d()
        self.x = normal(replicates, 64, 6, 14, 14).requires_grad_()
        self.weight = normal(replicates, 16, 6, 5, 5, seed=1).requires_grad_()

    def time_conv2d(self, replicates):
        self.op(self.x, self.weight).sum().backward()
