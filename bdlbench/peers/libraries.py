"""Other libraries, used as their documentation shows, with their fastest settings.

A library is imported only when it is used. Libraries draw noise by their own code, from torch's ambient generator.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from bdlbench.data.downloads import imported
from bdlbench.peers.plain import (
    INITIAL_LOG_SD,
    LENET_SIZES,
    PRIOR_SD,
    SMALL_SIZES,
    Batches,
    averaged,
    misfit,
    network,
    trained,
)
from bdlbench.peers.work import Run

INITIAL_SD = 0.01
DISTRIBUTIONS = {
    "torchbnn": "torchbnn",
    "bayesian-torch": "bayesian-torch",
    "BLiTZ": "blitz-bayesian-pytorch",
    "Pyro": "pyro-ppl",
    "TyXe": "tyxe",
    "torch-uncertainty": "torch-uncertainty",
    "laplace-torch": "laplace-torch",
    "BlackJAX": "blackjax",
    "NumPyro": "numpyro",
}
"""The name of each library in the table, and on the package index."""

Inputs = Callable[[], Tensor]


# torchbnn


def torchbnn_network() -> nn.Sequential:
    """Build LeNet-300-100 with prior N(0, 1)."""
    layer = imported("torchbnn").BayesLinear
    return network(lambda inputs, outputs: layer(0.0, PRIOR_SD, inputs, outputs))


def torchbnn_step(data: Batches, epochs: int) -> Run:
    """Train with weight samples and the KL in closed form."""
    net, kl = torchbnn_network(), imported("torchbnn").BKLLoss(reduction="sum")
    return trained(lambda x, y: misfit(net(x), y) + kl(net).squeeze() / data.num_data, net.parameters(), data, epochs)


def torchbnn_predictive(x: Inputs, samples: int) -> Run:
    """Predict with a forward pass for each sample."""
    return averaged(torchbnn_network(), x, samples)


# bayesian-torch


class BayesianTorch(nn.Module):
    """LeNet-300-100 from layers of bayesian-torch, which return their KL beside their output."""

    def __init__(self, layer: Any) -> None:
        """Take the class of layer: LinearReparameterization or LinearFlipout."""
        super().__init__()
        pairs = pairwise(LENET_SIZES)
        self.layers = nn.ModuleList([layer(inputs, outputs) for inputs, outputs in pairs])

    def with_kl(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (B, C) and the KL, ()."""
        x, total = self.layers[0](x)
        for layer in self.layers[1:]:
            x, kl = layer(x.relu())
            total = total + kl
        return x, total

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, C) only."""
        x = self.layers[0](x, return_kl=False)
        for layer in self.layers[1:]:
            x = layer(x.relu(), return_kl=False)
        return x


def bayesian_torch_network(layer: str) -> BayesianTorch:
    """Build the network from a layer, given by its name in bayesian_torch.layers."""
    return BayesianTorch(getattr(imported("bayesian_torch.layers"), layer))


def bayesian_torch_step(layer: str, data: Batches, epochs: int) -> Run:
    """Train with the KL from the forward pass."""
    net = bayesian_torch_network(layer)

    def loss(x: Tensor, y: Tensor) -> Tensor:
        out, kl = net.with_kl(x)
        return misfit(out, y) + kl / data.num_data

    return trained(loss, net.parameters(), data, epochs)


def bayesian_torch_predictive(layer: str, x: Inputs, samples: int) -> Run:
    """Predict with a forward pass for each sample, without the KL."""
    return averaged(bayesian_torch_network(layer), x, samples)


def bayesian_torch_module(make: Callable[[], nn.Module], estimator: str, data: Batches, epochs: int) -> Run:
    """Train a module whose layers the library has converted, by the estimator Flipout or Reparameterization."""
    net, converter = make().train(), imported("bayesian_torch.models.dnn_to_bnn")
    prior = {"prior_mu": 0.0, "prior_sigma": PRIOR_SD, "posterior_mu_init": 0.0, "posterior_rho_init": INITIAL_LOG_SD}
    converter.dnn_to_bnn(net, {**prior, "type": estimator, "moped_enable": False})

    def loss(x: Tensor, y: Tensor) -> Tensor:
        kl: Tensor = converter.get_kl_loss(net)
        return misfit(net(x), y) + kl / data.num_data

    return trained(loss, net.parameters(), data, epochs)


# BLiTZ


def blitz_network() -> Any:
    """Build LeNet-300-100 as a variational estimator.

    The prior is a single Gaussian, which saves half of the work of its default mixture.
    """
    layer = imported("blitz.modules").BayesianLinear
    prior = torch.distributions.Normal(0.0, PRIOR_SD)

    class Estimator(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = network(lambda inputs, outputs: layer(inputs, outputs, prior_dist=prior))

        def forward(self, x: Tensor) -> Any:
            return self.net(x)

    return imported("blitz.utils").variational_estimator(Estimator)()


def blitz_step(data: Batches, epochs: int) -> Run:
    """Train by `sample_elbo` with one sample."""
    net = blitz_network()

    def loss(x: Tensor, y: Tensor) -> Tensor:
        total: Tensor = net.sample_elbo(x, y, functional.cross_entropy, 1, 1 / data.num_data)
        return total

    return trained(loss, net.parameters(), data, epochs)


def blitz_predictive(x: Inputs, samples: int) -> Run:
    """Predict with a forward pass for each sample; the layers compute log q and log p in each pass."""
    return averaged(blitz_network(), x, samples)


# torch-uncertainty


def torch_uncertainty_network() -> nn.Sequential:
    """Build LeNet-300-100; the prior is a mixture with all its weight on N(0, 1)."""
    layer = imported("torch_uncertainty.layers").BayesLinear
    return network(lambda inputs, outputs: layer(inputs, outputs, prior_sigma_1=PRIOR_SD))


def torch_uncertainty_step(data: Batches, epochs: int) -> Run:
    """Train by `ELBOLoss` with one sample."""
    net = torch_uncertainty_network()
    elbo = imported("torch_uncertainty.losses").ELBOLoss(net, nn.CrossEntropyLoss(), 1 / data.num_data, 1)
    return trained(lambda x, y: elbo(x, y).squeeze(), net.parameters(), data, epochs)


def torch_uncertainty_predictive(x: Inputs, samples: int) -> Run:
    """Predict by `StochasticModel`, then average the class probabilities."""
    wrapped = imported("torch_uncertainty.methods").StochasticModel(torch_uncertainty_network(), samples)
    return _mean_of_samples(wrapped, x, samples)


def torch_uncertainty_dropout(net: nn.Module, x: Inputs, samples: int) -> Run:
    """Predict by `mc_dropout` in a loop; its default, one large batch, is slower on a CPU."""
    wrap = imported("torch_uncertainty.methods").mc_dropout
    return _mean_of_samples(wrap(net, samples, on_batch=False), x, samples)


def _mean_of_samples(wrapped: nn.Module, x: Inputs, samples: int) -> Run:
    inputs = x()
    wrapped.eval()

    def run() -> Tensor:
        with torch.inference_mode():
            logits: Tensor = wrapped(inputs)
            mean: Tensor = logits.unflatten(0, (samples, -1)).softmax(-1).mean(0)
            return mean

    return run


# Pyro and TyXe


def pyro_settings() -> AbstractContextManager[None]:
    """Return Pyro's fastest settings.

    Validation costs time and is off. Parameters live in modules instead of one store for all.
    """
    names = ("validate_distributions_pyro", "validate_distributions_torch", "validate_infer", "validate_poutine")
    settings: AbstractContextManager[None] = imported("pyro").settings.context(
        module_local_params=True, **dict.fromkeys(names, False)
    )
    return settings


def _settled(build: Callable[[], Run]) -> Run:
    """Build and run under Pyro's fastest settings."""
    with pyro_settings():
        run = build()

    def settled() -> object:
        with pyro_settings():
            return run()

    return settled


def pyro_guide(data: Batches) -> tuple[Any, Any]:
    """Build LeNet-300-100 as a Pyro model with N(0, 1) priors, and its initialised `AutoNormal` guide."""
    pyro, pyro_nn = imported("pyro"), imported("pyro.nn")
    normal, categorical = pyro.distributions.Normal, pyro.distributions.Categorical

    def linear(inputs: int, outputs: int) -> Any:
        layer = pyro_nn.PyroModule[nn.Linear](inputs, outputs)
        layer.weight = pyro_nn.PyroSample(normal(0.0, PRIOR_SD).expand([outputs, inputs]).to_event(2))
        layer.bias = pyro_nn.PyroSample(normal(0.0, PRIOR_SD).expand([outputs]).to_event(1))
        return layer

    class Model(pyro_nn.PyroModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            layers = [linear(*pair) for pair in pairwise(LENET_SIZES)]
            self.net = pyro_nn.PyroModule[nn.Sequential](layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])

        def forward(self, x: Tensor, y: Tensor | None = None) -> Any:
            logits = self.net(x)
            if y is not None:
                with pyro.plate("data", data.num_data, subsample=y):
                    pyro.sample("y", categorical(logits=logits), obs=y)
            return logits

    model = Model()
    guide = imported("pyro.infer.autoguide").AutoNormal(model, init_scale=INITIAL_SD)
    guide(data.x[:2], data.y[:2])
    return model, guide


def pyro_step(data: Batches, epochs: int) -> Run:
    """Train by `TraceMeanField_ELBO`, whose KL is in closed form.

    One torch optimiser replaces Pyro's optimisers, of which each parameter has its own.
    """

    def build() -> Run:
        model, guide = pyro_guide(data)
        elbo = imported("pyro.infer").TraceMeanField_ELBO()
        return trained(
            lambda x, y: elbo.differentiable_loss(model, guide, x, y) / data.num_data, guide.parameters(), data, epochs
        )

    return _settled(build)


def pyro_predictive(data: Batches, x: Inputs, samples: int) -> Run:
    """Predict by the guide and the model for each sample."""

    def build() -> Run:
        model, guide = pyro_guide(data)
        poutine = imported("pyro.poutine")

        class Sampled(nn.Module):
            def forward(self, x: Tensor) -> Any:
                return poutine.replay(model, trace=poutine.trace(guide).get_trace(x))(x)

        return averaged(Sampled(), x, samples)

    return _settled(build)


def tyxe_network(data: Batches) -> Any:
    """Build LeNet-300-100 as an initialised `VariationalBNN` with prior N(0, 1)."""
    tyxe, normal = imported("tyxe"), imported("pyro.distributions").Normal
    if not hasattr(util := imported("pyro.util"), "deep_getattr"):  # tyxe 0.0.2 needs it, and Pyro 1.9 lacks it
        util.deep_getattr = lambda obj, name: attrgetter(name)(obj)
    likelihood = tyxe.likelihoods.Categorical(dataset_size=data.num_data)

    def guide(net: Any) -> Any:
        return tyxe.guides.AutoNormal(net, init_scale=INITIAL_SD)

    bnn = tyxe.VariationalBNN(network(), tyxe.priors.IIDPrior(normal(0.0, PRIOR_SD)), likelihood, guide)
    bnn.guide(data.x[:2])
    return bnn


def tyxe_estimator(local: bool) -> AbstractContextManager[Any]:
    """Choose local reparameterisation, or else a sample of the weights."""
    messenger: AbstractContextManager[Any] = imported("tyxe").poutine.local_reparameterization()
    return messenger if local else nullcontext()


def tyxe_step(local: bool, data: Batches, epochs: int) -> Run:
    """Train TyXe's model and guide by `TraceMeanField_ELBO`.

    One torch optimiser replaces Pyro's optimisers, of which each parameter has its own.
    """

    def build() -> Run:
        bnn, elbo = tyxe_network(data), imported("pyro.infer").TraceMeanField_ELBO()
        run = trained(
            lambda x, y: elbo.differentiable_loss(bnn.model, bnn.guide, x, y) / data.num_data,
            bnn.net_guide.parameters(),
            data,
            epochs,
        )

        def estimated() -> None:
            with tyxe_estimator(local):
                run()

        return estimated

    return _settled(build)


def tyxe_predictive(local: bool, data: Batches, x: Inputs, samples: int) -> Run:
    """Predict by `predict`, which averages probabilities and returns their logarithms."""

    def build() -> Run:
        bnn, inputs = tyxe_network(data), x()

        def run() -> object:
            with tyxe_estimator(local):
                return bnn.predict(inputs, num_predictions=samples).exp()

        return run

    return _settled(build)


# laplace-torch


def laplace_torch_fit(data: Batches, epochs: int) -> Run:
    """Train a small regression network by MAP in plain torch, then fit the full Gauss-Newton matrix."""
    laplace = imported("laplace")
    net = network(sizes=SMALL_SIZES)
    train = trained(lambda x, y: misfit(net(x), y), net.parameters(), data, epochs)
    pairs = torch.utils.data.TensorDataset(data.x, data.y.unsqueeze(-1))
    loader: Any = torch.utils.data.DataLoader(pairs, batch_size=data.num_data)

    def run() -> None:
        train()
        fitted = laplace.Laplace(net, "regression", subset_of_weights="all", hessian_structure="full")
        fitted.fit(loader)
        fitted.log_marginal_likelihood()

    return run
