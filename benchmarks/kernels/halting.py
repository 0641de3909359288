"""How many layers a network uses."""

from benchmarks.problems import normal, one_thread, required


class Halting:
    """Of a thousand examples and ten layers."""

    def setup(self):
        one_thread()
        self.kernels = required("bdlbench.kernels.halting")
        self.logits = normal(1, 1000, 9)
        self.log_q = self.kernels.log_stopping(self.logits)

    def time_log_stopping(self):
        self.kernels.log_stopping(self.logits)

    def time_mode_known(self):
        self.kernels.mode_known(self.log_q)

    def time_categorical_kl(self):
        self.kernels.categorical_kl(self.log_q, self.kernels.log_geometric(0.1, 10, self.log_q))
