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
