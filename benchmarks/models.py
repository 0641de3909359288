"""Models with a latent variable."""

from benchmarks.problems import examples, fitting, required

VAE = ("vae", {"widths": "400", "latent": 20, "activation": "relu", "test_samples": 10, "regret_steps": 0})


class VAEStep:
    """20 steps of the network of PyTorch's examples in batches of 100, then log p(x) of 200 images by 10 draws."""

    def setup(self):
        from bdlbench.core.streams import Streams

        required("bdlbench.models.vae")
        self.run = fitting("mle", 100, model=VAE, likelihood="bernoulli")
        self.posterior, self.rng = self.run(), Streams.of_seeds([0])
        self.x = examples(100).x

    def time_steps(self):
        self.run()

    def time_log_prob(self):
        self.posterior.predict(self.x, 1, self.rng)


class StoppingResNet:
    """One epoch of 64 images of the size of scanned digits, and a prediction that stops."""

    def setup(self):
        from bdlbench.core.streams import Streams

        required("bdlbench.models.stopping_resnet")
        model = ("stopping_resnet", {"channels": 8, "blocks": 4, "groups": 2, "kernel": 3})
        self.run = fitting("map", 32, model=model, epochs=1, shape=(1, 8, 8))
        self.posterior, self.rng = self.run(), Streams.of_seeds([0])
        self.x = examples(32, shape=(1, 8, 8)).x

    def time_steps(self):
        self.run()

    def time_predict(self):
        self.posterior.predict(self.x, 1, self.rng)
