"""Loading data, which every run does before it trains."""

from benchmarks.problems import one_thread


class Load:
    """One split of a data set that comes with scikit-learn."""

    params = (["digits", "diabetes", "breast_cancer"],)
    param_names = ("dataset",)

    def setup(self, dataset):
        from bdlbench import catalog

        one_thread()
        if dataset not in catalog.names("datasets"):
            raise NotImplementedError
        self.built = catalog.build_dataset(catalog.choice("datasets", dataset, {}))

    def time_load(self, dataset):
        self.built.load(0)


class Gather:
    """A batch of 100 for each of R replicates, from data that all share and from their own."""

    params = ([True, False],)
    param_names = ("shared",)

    def setup(self, shared):
        import torch

        from bdlbench.data.task import Data

        one_thread()
        x, y = torch.zeros(1, 1000, 784), torch.zeros(1, 1000)
        self.data = Data(x.expand(20, -1, -1), y.expand(20, -1))
        if not shared:
            self.data = Data(self.data.x.contiguous(), self.data.y.contiguous())
        self.index = torch.randint(1000, (20, 100), generator=torch.Generator().manual_seed(0))

    def time_batch(self, shared):
        self.data.batch(self.index)
