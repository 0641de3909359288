"""Laplace approximations by the library laplace-torch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from bdlbench.core.options import option
from bdlbench.data.downloads import imported
from bdlbench.posteriors.trainers import Budget, MakeModule, Predict, from_trainer
from bdlbench.protocols import Model

SMALLEST = torch.finfo(torch.float32).tiny


def laplace_torch(
    make_module: MakeModule, train: TensorDataset, validation: Any, seed: int, budget: Budget, *,
    learning_rate: float = 1e-3, prior_sd: float = 1.0, weights: str = "last_layer", hessian: str = "kron",
    link: str = "probit",
) -> Predict:  # fmt: skip
    """laplace-torch: a Gaussian around the MAP, over the last layer or all weights (Daxberger et al. 2021)."""
    module, noise_sd, precision = make_module(), make_module.noise_sd, prior_sd**-2
    optimizer = torch.optim.Adam(module.parameters(), learning_rate)
    for x, y in budget.batches(train):
        optimizer.zero_grad()
        squares = torch.stack([w.square().sum() for w in module.parameters()]).sum()
        (make_module.nll(module(x), y) + 0.5 * precision * squares / len(train)).backward()
        optimizer.step()
    around = imported("laplace").Laplace(
        module, "classification" if noise_sd is None else "regression", subset_of_weights=weights,
        hessian_structure=hessian, prior_precision=precision, sigma_noise=noise_sd or 1.0,
    )  # fmt: skip
    around.fit(DataLoader(train, budget.batch_size))

    def predict(x: Tensor, samples: int) -> Any:
        if noise_sd is not None:
            mean, variance = around(x)  # of the network; (n, 1) and (n, 1, 1)
            return mean.T, variance[:, 0].T + noise_sd**2
        if link == "probit":
            return around(x, link_approx="probit").clamp_min(SMALLEST).log()[None]
        way = "nn" if link == "weights" else "glm"
        return around.predictive_samples(x, pred_type=way, n_samples=samples).clamp_min(SMALLEST).log()

    return predict


def refuses(method: Any, model: Model) -> str | None:
    """Refuse a network without a layer below its last, and Kronecker factors of what is no linear map or its bias."""
    roles = [leaf.role for leaf in model.leaves().values()]
    maps = sum(role in ("input", "weight") for role in roles)
    if method.weights == "last_layer" and maps < 2:
        return "laplace-torch finds no last layer where there is one layer alone: take weights=all"
    apart = "scale" in roles or maps == 0
    return "laplace-torch has Kronecker factors of linear maps alone" if method.weights == "all" and apart else None


methods = {
    "laplace_torch": from_trainer(
        laplace_torch,
        needs="laplace",
        refuses=refuses,
        weights=option("last_layer", "weights that are uncertain", choices=("last_layer", "all")),
        hessian=option("kron", "structure of the curvature", choices=("kron", "diag", "full")),
        link=option(
            "probit",
            "how classes are predicted: by the linearised network, in closed form or by mc, or by sampled weights",
            choices=("probit", "mc", "weights"),
        ),
    )
}
