"""The rows of the table: each work with its contenders, and what each computes differently."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial

import torch
from torch import Tensor, nn

from bdlbench.core.errors import unknown
from bdlbench.data.task import Data, Signature
from bdlbench.peers import libraries, ours, plain, trajectories
from bdlbench.peers.plain import LENET_SIZES, SMALL_SIZES, baselines, batches
from bdlbench.peers.trajectories import Chains
from bdlbench.peers.work import AUTOGRAD, OURS, PLAIN_NAME, Contender, Run, Work

CLASSIFICATION = Signature((LENET_SIZES[0],), LENET_SIZES[-1], "categorical")
NUMBER = Signature((SMALL_SIZES[0],), 1, "gaussian")
BINARY_IMAGES = Signature((LENET_SIZES[0],), LENET_SIZES[-1], "bernoulli")

BATCH_SIZES = (100, 1000)
STEPS = {100: 5, 1000: 2}
EPOCHS = {100: 10, 1000: 10}
"""Batches of an epoch, and epochs of a call, by batch size. Work that `fit` does once, or once an epoch, weighs more
here than in a real training, where an epoch has hundreds of steps."""

SMALL_STEPS, SMALL_EPOCHS = 10, 5

SMALL_BATCH = 32
NETWORKS = 20
SAMPLES, INPUTS = 100, 1000

LOG_RATIO_KL = "KL by log q − log p of the sampled weights, not in closed form"
MEAN_KL = "KL averaged over a layer's weights, not summed"
POSITIVE = "sd = softplus(ρ)"
FLIPOUT = "one weight sample whose signs differ by example: two products, noise shared between examples"


def works() -> dict[str, Work]:
    """Return all rows by name, in the order of the table."""
    training = [make(batch) for batch in BATCH_SIZES for make in (local, weight, sparse)]
    networks = [replicates(kind, method, options) for kind, (method, options) in REPLICATED.items()]
    modules = [module("image"), module("image", "local"), module("image", "weight"), module("sequence")]
    modules.append(module_dropout())
    others = [predictive(False), predictive(True), dropout(0.5), dropout(0.3), vae(), *networks, laplace(), *modules]
    others += [leapfrog(sizes, chains) for sizes in TRAJECTORIES for chains in (1, CHAINS)]
    return {work.name: work for work in [*training, *others]}


def chosen(names: Sequence[str]) -> list[Work]:
    """Return the rows of these names, or all rows if there are no names.

    Raises:
        BadInput: A name is unknown; the text names the nearest.
    """
    known = works()
    for name in names:
        if name not in known:
            raise unknown("row", name, known)
    return [known[name] for name in names] or list(known.values())


def local(batch: int) -> Work:
    """Return the row of mean field with local reparameterisation."""
    data = partial(batches, batch, STEPS[batch])
    options = {"estimator": "local", "bound_samples": 1}
    theirs = (
        ours.training(
            "mean_field_vi", _rows(data), CLASSIFICATION, batch, options, differs="also the ELBO when it is done"
        ),
        Contender(AUTOGRAD, lambda count: plain.elbo_step(plain.LocalLinear, data(), count)),
        Contender("TyXe", lambda count: libraries.tyxe_step(True, data(), count)),
        Contender(
            "bayesian-torch",
            lambda count: libraries.bayesian_torch_step("LinearFlipout", data(), count),
            "Flipout",
            in_class=False,
            differs=f"{FLIPOUT}; {MEAN_KL}; {POSITIVE}",
        ),
    )
    return _step(f"local-{batch}", f"mean field, local reparameterisation, batch {batch}", batch, theirs)


def weight(batch: int) -> Work:
    """Return the row of mean field with one weight sample for the batch."""
    data = partial(batches, batch, STEPS[batch])
    options = {"estimator": "weight", "bound_samples": 1}
    theirs = (
        ours.training(
            "mean_field_vi", _rows(data), CLASSIFICATION, batch, options, differs="also the ELBO when it is done"
        ),
        Contender("torchbnn", lambda count: libraries.torchbnn_step(data(), count)),
        Contender(
            "bayesian-torch",
            lambda count: libraries.bayesian_torch_step("LinearReparameterization", data(), count),
            differs=f"{MEAN_KL}; {POSITIVE}",
        ),
        Contender("BLiTZ", lambda c: libraries.blitz_step(data(), c), differs=f"{LOG_RATIO_KL}; {POSITIVE}"),
        Contender("Pyro", lambda count: libraries.pyro_step(data(), count), differs=POSITIVE),
        Contender("TyXe", lambda count: libraries.tyxe_step(False, data(), count)),
        Contender(
            "torch-uncertainty",
            lambda count: libraries.torch_uncertainty_step(data(), count),
            differs=f"{LOG_RATIO_KL}, by a mixture prior with one part, averaged over layers; {POSITIVE}",
        ),
    )
    return _step(f"weight-{batch}", f"mean field, one weight sample, batch {batch}", batch, theirs)


def sparse(batch: int) -> Work:
    """Return the row of sparse variational dropout."""
    data = partial(batches, batch, STEPS[batch])
    theirs = (
        ours.training(
            "sparse_vd", _rows(data), CLASSIFICATION, batch, differs="leaves out the means of dropped weights"
        ),
        Contender(AUTOGRAD, lambda count: plain.elbo_step(plain.SparseLinear, data(), count)),
    )
    return _step(f"sparse-{batch}", f"sparse VD, batch {batch}", batch, theirs)


def predictive(joint: bool) -> Work:
    """Return the row of the mean-field predictive."""
    data = partial(batches, 100, STEPS[100])
    options = {"estimator": "local", "bound_samples": 1}
    own = ours.predicting("mean_field_vi", _rows(data), CLASSIFICATION, inputs, options, joint)
    local_net = Contender(AUTOGRAD, lambda count: plain.averaged(plain.network(plain.LocalLinear), inputs, count))
    tyxe = Contender("TyXe", lambda count: libraries.tyxe_predictive(not joint, data(), inputs, count))
    sampled = (
        Contender("torchbnn", lambda count: libraries.torchbnn_predictive(inputs, count)),
        Contender(
            "bayesian-torch",
            lambda count: libraries.bayesian_torch_predictive("LinearReparameterization", inputs, count),
        ),
        Contender("BLiTZ", lambda c: libraries.blitz_predictive(inputs, c), differs="also log q and log p"),
        Contender("Pyro", lambda count: libraries.pyro_predictive(data(), inputs, count)),
        Contender(
            "torch-uncertainty",
            lambda count: libraries.torch_uncertainty_predictive(inputs, count),
            differs="also log q and log p",
        ),
    )
    others = tuple(replace(one, in_class=joint, variant="" if joint else "weight samples") for one in sampled)
    kind = "one weight sample for all inputs" if joint else "noise of its own for each input"
    name = "predictive-weight" if joint else "predictive-local"
    contenders = (own, *(() if joint else (local_net,)), tyxe, *others)
    return _prediction(name, f"mean-field predictive, {kind}, {SAMPLES} samples × {INPUTS} inputs", contenders)


def dropout(rate: float) -> Work:
    """Return the row of the predictive of MC dropout on hidden units."""
    options = {"rate": rate, "input_rate": 0.0}
    usual = Contender(AUTOGRAD, lambda c: plain.averaged(plain.network(rate=rate), inputs, c), "nn.Dropout loop")
    library = Contender(
        "torch-uncertainty", lambda count: libraries.torch_uncertainty_dropout(plain.network(rate=rate), inputs, count)
    )
    own = ours.predicting(
        "mc_dropout", _rows(partial(batches, 100, STEPS[100])), CLASSIFICATION, inputs, options, False
    )
    title = f"MC dropout predictive, p = {rate:g}, {SAMPLES} samples × {INPUTS} inputs"
    return _prediction(f"dropout-{rate:g}", title, (own, usual, library))


def vae() -> Work:
    """Return the row of the variational autoencoder of PyTorch's examples."""
    data, batch = partial(batches, 100, STEPS[100]), 100
    model = ("vae", {"widths": "400", "latent": 20, "activation": "relu"})
    default, fused = baselines(lambda count, fused: plain.vae_step(data(), count, fused), "PyTorch's example VAE")
    own = ours.training(
        "mle", _rows(data), BINARY_IMAGES, batch, model=model, differs="takes a binary draw of the pixels"
    )
    return Work("vae", f"VAE step, 784-400-20, batch {batch}", default, fused, (own,), EPOCHS[batch], STEPS[batch])


MODULES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "image": (plain.image_module, plain.IMAGE),
    "sequence": (plain.SequenceModule, plain.SEQUENCE),
}
MODULE_BATCH, MODULE_STEPS, MODULE_EPOCHS = 64, 5, 5
IMAGE_SAMPLES, IMAGE_INPUTS = 20, 250


def module(kind: str, estimator: str = "") -> Work:
    """Return the row of an `nn.Module` as its author wrote it, over a hand-written loop.

    It is trained by maximum likelihood, or by mean field with an estimator.
    """
    make, shape = MODULES[kind]
    data = partial(batches, MODULE_BATCH, MODULE_STEPS, math.prod(shape))
    signature = Signature((math.prod(shape),), plain.MODULE_CLASSES, "categorical")
    method = "mean_field_vi" if estimator else "mle"
    options = {"estimator": estimator, "bound_samples": 1} if estimator else {}
    contenders = [ours.training_module(make, method, _rows(data), signature, MODULE_BATCH, options)]
    if estimator:
        local = estimator == "local"
        theirs = "Flipout" if local else "Reparameterization"
        contenders.append(
            Contender(
                "bayesian-torch",
                lambda count: libraries.bayesian_torch_module(make, theirs, data(), count),
                f"dnn_to_bnn, {theirs}",
                in_class=not local,
                differs=f"{FLIPOUT}; {MEAN_KL}; {POSITIVE}" if local else f"{MEAN_KL}; {POSITIVE}",
            )
        )
    default, fused = baselines(lambda count, fused: plain.module_step(make, data(), count, fused))
    words = "a small CNN with BatchNorm, 32×32" if kind == "image" else "a transformer encoder of two layers"
    kinds = {"": "maximum likelihood", "local": "mean field", "weight": "mean field, one weight sample"}
    title = f"nn.Module, {words}, {kinds[estimator]}, batch {MODULE_BATCH}"
    name = f"module-{kind}-{method}" + ("-weight" if estimator == "weight" else "")
    return Work(name, title, default, fused, tuple(contenders), MODULE_EPOCHS, MODULE_STEPS)


def module_dropout(rate: float = 0.25) -> Work:
    """Return the row of the predictive of MC dropout of an `nn.Module` by its own dropout layers."""
    make, size = partial(plain.image_module, rate), math.prod(plain.IMAGE)
    data = partial(batches, MODULE_BATCH, MODULE_STEPS, size)
    signature = Signature((size,), plain.MODULE_CLASSES, "categorical")
    own = ours.predicting_module(make, "mc_dropout", _rows(data), signature, images)
    theirs = (
        Contender(AUTOGRAD, lambda count: plain.averaged(make(), images, count), "nn.Dropout loop"),
        Contender("torch-uncertainty", lambda count: libraries.torch_uncertainty_dropout(make(), images, count)),
    )
    passes = Contender(PLAIN_NAME, lambda count: plain.forward_passes(images, count, make), "forward passes")
    title = f"nn.Module, a small CNN with BatchNorm and Dropout, 32×32, MC dropout predictive, p = {rate:g}, "
    title += f"{IMAGE_SAMPLES} samples × {IMAGE_INPUTS} inputs"
    return Work("module-image-mc_dropout", title, passes, passes, (own, *theirs), IMAGE_SAMPLES)


REPLICATED: dict[str, tuple[str, ours.PeerOptions]] = {
    "mle": ("mle", {}),
    "dropout": ("mc_dropout", {"rate": 0.5, "input_rate": 0.0}),
    "mean-field": ("mean_field_vi", {"estimator": "local", "bound_samples": 1}),
}


def replicates(kind: str, method: str, options: ours.PeerOptions) -> Work:
    """Return the row of many small networks at once, over the same networks trained in turn by plain torch."""
    data = partial(batches, SMALL_BATCH, SMALL_STEPS, SMALL_SIZES[0], 0)
    local, rate = kind == "mean-field", 0.5 if kind == "dropout" else 0.0

    def serial(count: int, fused: bool) -> Run:
        if local:
            one = partial(plain.elbo_step, plain.LocalLinear, data(), count, SMALL_SIZES, fused)
        else:
            one = partial(plain.network_step, data(), count, fused, SMALL_SIZES, rate)
        return plain.one_after_another(one, NETWORKS)

    rows = _rows(data, NETWORKS)
    own = ours.training(method, rows, NUMBER, SMALL_BATCH, options, ("mlp", {"widths": str(SMALL_SIZES[1])}))
    stacked = Contender(
        AUTOGRAD, lambda count: plain.stacked_step(NETWORKS, data(), count, local, rate), "batched products"
    )
    default, fused = baselines(serial, f"{NETWORKS} in turn")
    title = (
        f"{NETWORKS} networks {'-'.join(map(str, SMALL_SIZES))} at once, {kind.replace('-', ' ')}, batch {SMALL_BATCH}"
    )
    return Work(f"replicates-{kind}", title, default, fused, (own, stacked), SMALL_EPOCHS, SMALL_STEPS, True)


def laplace() -> Work:
    """Return the row of MAP training and the full Gauss-Newton matrix of a small regression network."""
    data = partial(batches, SMALL_BATCH, SMALL_STEPS, SMALL_SIZES[0], 0)
    model = ("mlp", {"widths": str(SMALL_SIZES[1])})
    own = ours.training(
        "laplace", _rows(data), NUMBER, SMALL_BATCH, {"hessian": "full"}, model, differs="the matrix in float64"
    )
    theirs = Contender("laplace-torch", lambda count: libraries.laplace_torch_fit(data(), count))
    default, fused = baselines(lambda count, fused: plain.network_step(data(), count, fused, SMALL_SIZES), PLAIN_NAME)
    epochs = 2 * SMALL_EPOCHS
    sizes = "-".join(map(str, SMALL_SIZES))
    title = f"Laplace, full curvature of {sizes} after {epochs} epochs of MAP, batch {SMALL_BATCH}"
    return Work("laplace", title, default, fused, (own, theirs), epochs, SMALL_STEPS)


TRAJECTORIES: dict[tuple[int, ...], tuple[int, int]] = {(13, 16, 3): (133, 20), (64, 50, 10): (500, 4)}
"""Networks that chains are of: examples, as many as wine has and a part of digits; and trajectories of a call."""

CHAINS = 4
LEAPFROG_STEPS = 50


def leapfrog(sizes: tuple[int, ...], count: int) -> Work:
    """Return the row of leapfrog steps of HMC, by one chain or by several at once, over the same by plain autograd.

    The step of several chains at once is a step of each; the baseline follows them in turn. What JAX compiles is
    compiled before.
    """
    examples, often = TRAJECTORIES[sizes]
    data = partial(batches, examples, 1, sizes[0], sizes[-1])

    def contender(library: str, follow: Callable[[Chains, int], Run], differs: str = "") -> Contender:
        return Contender(
            library, lambda times: follow(Chains(data(), sizes, count), times * LEAPFROG_STEPS), differs=differs
        )

    baseline = contender(f"{count} in turn" if count > 1 else PLAIN_NAME, trajectories.plain_leapfrog)
    others = (
        contender(OURS, trajectories.our_leapfrog, "energies in float64; steps are not compiled"),
        contender("BlackJAX", trajectories.blackjax_leapfrog, "compiled"),
        contender("NumPyro", trajectories.numpyro_leapfrog, "compiled"),
    )
    name = "-".join(map(str, sizes))
    title = f"HMC, a leapfrog step of {name} on {examples} examples, "
    title += f"{count} chains at once" if count > 1 else "one chain"
    return Work(
        f"leapfrog-{sizes[1]}-{count}", title, baseline, baseline, others, often, LEAPFROG_STEPS, serial=count > 1
    )


@cache
def inputs() -> Tensor:
    """Return test inputs (INPUTS, 784), uniform."""
    return torch.rand(INPUTS, LENET_SIZES[0], generator=torch.Generator().manual_seed(3))


@cache
def images() -> Tensor:
    """Return test images (IMAGE_INPUTS, 3·32·32), uniform."""
    return torch.rand(IMAGE_INPUTS, math.prod(plain.IMAGE), generator=torch.Generator().manual_seed(3))


def _rows(data: Callable[[], plain.Batches], rows: int = 1) -> Callable[[], Data]:
    """Repeat the examples for each of `rows` replicates."""

    def build() -> Data:
        drawn = data()
        return Data(drawn.x.expand(rows, *drawn.x.shape), drawn.y.expand(rows, *drawn.y.shape))

    return build


def _step(name: str, title: str, batch: int, contenders: tuple[Contender, ...]) -> Work:
    """Return a row whose baseline is the deterministic step of the same network."""
    data = partial(batches, batch, STEPS[batch])
    default, fused = baselines(lambda count, fused: plain.network_step(data(), count, fused))
    return Work(name, title, default, fused, contenders, EPOCHS[batch], STEPS[batch])


def _prediction(name: str, title: str, contenders: tuple[Contender, ...]) -> Work:
    """Return a row whose baseline is an equal number of plain forward passes."""
    passes = Contender(PLAIN_NAME, lambda count: plain.forward_passes(inputs, count), "forward passes")
    return Work(name, title, passes, passes, contenders, SAMPLES)
