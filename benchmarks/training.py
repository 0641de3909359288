"""Training steps as the harness runs them: some epochs of two batches by `fit`."""

from benchmarks.problems import EPOCHS, LENET, STEPS, fitting

SMALL = {"model": ("mlp", {"widths": "50"}), "likelihood": "gaussian", "shape": (13,), "classes": 0}
OPTIONS = {
    "mean_field_vi": {"bound_samples": 1},
    "mean_field_vi (weight)": {"bound_samples": 1, "estimator": "weight"},
    "mc_dropout": {"input_rate": 0.0},
}


class ELBOStep:
    """20 steps of LeNet-300-100 with batches of 100; 4 with batches of 1000."""

    params = (["mle", "mc_dropout", "mean_field_vi", "mean_field_vi (weight)", "sparse_vd"], sorted(EPOCHS))
    param_names = ("method", "batch")

    def setup(self, method, batch):
        self.run = fitting(method.partition(" ")[0], batch, OPTIONS.get(method), LENET, steps=STEPS)

    def time_steps(self, method, batch):
        self.run()


class Replicates:
    """50 steps of R networks 13-50-1 at once, batches of 32."""

    params = (["mle", "mc_dropout", "mean_field_vi"], [1, 20, 100])
    param_names = ("method", "replicates")

    def setup(self, method, replicates):
        self.run = fitting(method, 32, OPTIONS.get(method), epochs=5, steps=10, rows=replicates, **SMALL)

    def time_steps(self, method, replicates):
        self.run()


class Memory:
    """The peak memory of a fit of LeNet-300-100."""

    params = (["mle", "mean_field_vi"],)
    param_names = ("method",)

    def setup(self, method):
        self.run = fitting(method, 1000, OPTIONS.get(method), epochs=1)

    def peakmem_fit(self, method):
        self.run()
