"""Predictives of posteriors, and the reduction of their samples."""

from benchmarks.problems import fitting, normal, one_thread
from benchmarks.training import OPTIONS

SAMPLES, INPUTS = 20, 1000


class Predictive:
    """20 samples × 1000 inputs of LeNet-300-100."""

    params = (["mle", "mc_dropout", "mean_field_vi", "sparse_vd"],)
    param_names = ("method",)

    def setup(self, method):
        from bdlbench.core.streams import Streams

        self.posterior = fitting(method, 100, OPTIONS.get(method), epochs=1)()
        self.x, self.rng = normal(1, INPUTS, 784).abs(), Streams.of_seeds([0])

    def time_predict(self, method):
        self.posterior.predict(self.x, SAMPLES, self.rng)

    def time_predict_joint(self, method):
        self.posterior.predict(self.x, SAMPLES, self.rng, joint=True)

    def peakmem_predict(self, method):
        self.posterior.predict(self.x, SAMPLES, self.rng)


class Reduction:
    """Class probabilities of 20 samples × 1000 inputs, and the statistics that are computed from them."""

    def setup(self):
        from bdlbench.networks.likelihoods import CategoricalOutput
        from bdlbench.predictives.mixtures import CategoricalSum

        one_thread()
        self.sum, self.output = CategoricalSum, CategoricalOutput(normal(SAMPLES, 1, INPUTS, 10))

    def time_mean(self):
        total = self.sum(SAMPLES)
        total.add(self.output)
        return total.finish().scores
