"""The problems of the benchmarks, drawn from fixed seeds, and calls of the package, which import it when they run."""

LENET = ("mlp", {"widths": "300-100"})
STEPS = 2
EPOCHS = {100: 10, 1000: 2}
"""Batches of an epoch, and epochs of one call, by batch size."""


def one_thread():
    """Set torch to one thread, and memory as `run` sets it, on commits that can."""
    from contextlib import suppress

    import torch

    torch.set_num_threads(1)
    with suppress(ModuleNotFoundError):
        from bdlbench.core.memory import keep_freed_memory

        keep_freed_memory()


def normal(*shape, seed=0):
    """Return standard normal numbers."""
    import torch

    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def examples(batch, steps=STEPS, shape=(784,), classes=10, rows=1):
    """Return training data that `rows` replicates share: uniform inputs; classes, or numbers where `classes` is 0."""
    import torch

    from bdlbench.data.task import Data

    generator = torch.Generator().manual_seed(0)
    x = torch.rand(batch * steps, *shape, generator=generator)
    y = torch.randint(max(classes, 2), (batch * steps,), generator=generator)
    y = y if classes else y.float()
    return Data(x.expand(rows, *x.shape), y.expand(rows, *y.shape))


def fitting(method, batch, options=None, model=LENET, likelihood="categorical", epochs=0, **sizes):
    """Return a call that fits a registered method to `examples`, by default for EPOCHS epochs."""
    from bdlbench import catalog
    from bdlbench.core.streams import Streams
    from bdlbench.data.task import Signature

    one_thread()
    data = examples(batch, **sizes)
    outputs = sizes.get("classes", 10) or 1
    signature = Signature(tuple(data.x.shape[2:]), outputs, likelihood)
    chosen = {method: {"epochs": epochs or EPOCHS[batch], "batch_size": batch, **(options or {})}, model[0]: model[1]}
    trainer = catalog.build_method([catalog.choice("methods", method, chosen)])
    built = catalog.build_model([catalog.choice("models", model[0], chosen)], signature)
    return lambda: trainer.fit(built, data, Streams.of_seeds(range(data.rows)))


def required(name):
    """Import a module of the package; skip the benchmark on commits that lack it."""
    from importlib import import_module

    try:
        return import_module(name)
    except ModuleNotFoundError:
        raise NotImplementedError from None
