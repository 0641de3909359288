"""Ratios to plain torch and to the limit, timed in turn: they are reliable on noisy machines, unlike seconds."""

from statistics import median

from benchmarks.problems import one_thread, required

ROUNDS = 5
ROWS = ["local-100", "weight-100", "sparse-100", "local-1000", "weight-1000", "sparse-1000", "vae"]
AT_ONCE = ["replicates-mle", "replicates-dropout", "replicates-mean-field"]
PREDICTIVES = ["predictive-local", "dropout-0.5", "dropout-0.3", "module-image-mc_dropout"]
MODULES = ["module-image-mle", "module-image-mean_field_vi", "module-image-mean_field_vi-weight", "module-sequence-mle"]
SAMPLES, EPOCHS = 20, 8
"""Epochs or samples of a call in OverPlain: fewer than in `bdlbench peers`."""


class OverPlain:
    """This package over plain torch at its fastest (fused Adam; equally many forward passes), like `peers`."""

    params = ([*ROWS, *AT_ONCE, *PREDICTIVES, *MODULES],)
    param_names = ("row",)

    def setup(self, row):
        one_thread()
        self.measure = required("bdlbench.peers.work").measure
        self.work = alone(required("bdlbench.peers.works").works()[row])

    def track_over_plain(self, row):
        timed = self.measure(self.work, ROUNDS, SAMPLES if row in PREDICTIVES else EPOCHS)
        return timed.timings[-1].over(timed.fastest)[1]

    track_over_plain.unit = "ratio"


def alone(work):
    """Return the row with only its fastest baseline and this package."""
    from dataclasses import replace

    ours = next(one for one in work.contenders if one.library == "bdlbench")
    return replace(work, plain=work.fastest, contenders=(ours,))


class OverLimit:
    """Steps of LeNet-300-100 over their unavoidable work: matrix products, and one pass of fused Adam."""

    params = (["mle", "mean_field_vi", "mean_field_vi (weight)", "sparse_vd"], [100, 1000])
    param_names = ("method", "batch")

    def setup(self, method, batch):
        from benchmarks.problems import EPOCHS, LENET, STEPS, fitting
        from benchmarks.training import OPTIONS

        self.clock = required("bdlbench.core.clock")
        if not hasattr(self.clock, "timed_in_turn"):
            raise NotImplementedError
        local, single = method in ("mean_field_vi", "sparse_vd"), method == "mle"
        steps = EPOCHS[batch] * STEPS
        self.works = {
            "ours": fitting(method.partition(" ")[0], batch, OPTIONS.get(method), LENET, steps=STEPS),
            "limit": bare_steps(batch, steps, products=1 + local, parameters=2 - single),
        }

    def track_over_limit(self, method, batch):
        seconds = self.clock.timed_in_turn(self.works, ROUNDS)
        return median(ours / limit for ours, limit in zip(seconds["ours"], seconds["limit"], strict=True))

    track_over_limit.unit = "ratio"


def bare_steps(batch, steps, products, parameters):
    """Return a call that does only the products of steps, forward and backward, and one pass of Adam a step.

    `products` counts the products of each linear map (2 where mean and variance have one each), and `parameters` the
    numbers for each weight.
    """
    import torch
    from torch.optim.adam import adam

    from benchmarks.problems import normal

    sizes = [(784, 300), (300, 100), (100, 10)]
    layers = [(normal(batch, i), normal(i, o), normal(batch, o)) for i, o in sizes]
    flat, gradient, mean, square = (normal(parameters * 266_610, seed=k).square() for k in range(4))
    options = {"amsgrad": False, "beta1": 0.9, "beta2": 0.999, "lr": 1e-3, "weight_decay": 0.0, "eps": 1e-8}

    def run():
        for step in range(steps):
            for _ in range(products):
                for k, (x, weight, out) in enumerate(layers):
                    x @ weight
                    x.mT @ out
                    if k:  # the gradient of the data is not needed
                        out @ weight.mT
            count = [torch.tensor(float(step))]
            adam([flat], [gradient], [mean], [square], [], count, fused=True, maximize=False, **options)

    return run
