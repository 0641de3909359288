"""Random streams that belong to rows."""

from benchmarks.problems import normal, one_thread


class Draws:
    """A million numbers of R rows, drawn in training and for posterior samples."""

    params = ([1, 20],)
    param_names = ("replicates",)

    def setup(self, replicates):
        from bdlbench.core.streams import Streams

        one_thread()
        self.streams, self.like = Streams.of_seeds(range(replicates)), normal(1)
        self.length = 1_000_000 // replicates

    def time_normal(self, replicates):
        self.streams.child("noise").normal((self.length,), self.like)

    def time_bits(self, replicates):
        self.streams.child("noise").bits((self.length,), self.like)

    def time_samples(self, replicates):
        self.streams.samples(0, 10).normal((self.length // 10,), self.like)
