"""Efficient ensembles by the library torch-uncertainty."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from bdlbench.core.options import option
from bdlbench.data.downloads import imported
from bdlbench.posteriors.trainers import Budget, MakeModule, Predict, from_trainer
from bdlbench.protocols import Model


def batch_ensemble(
    make_module: MakeModule, train: TensorDataset, validation: Any, seed: int, budget: Budget, *,
    learning_rate: float = 1e-3, members: int = 4,
) -> Predict:  # fmt: skip
    """torch-uncertainty: a batch ensemble, whose members share weights up to two vectors a layer (Wen et al. 2020)."""
    convert = imported("torch_uncertainty.methods").batch_ensemble
    module = convert(make_module(), members, repeat_training_inputs=True, convert_layers=True)
    return _trained(make_module, module, members, train, budget, learning_rate)


def packed_ensemble(
    make_module: MakeModule, train: TensorDataset, validation: Any, seed: int, budget: Budget, *,
    learning_rate: float = 1e-3, members: int = 4, alpha: int = 2, gamma: int = 1,
) -> Predict:  # fmt: skip
    """torch-uncertainty: a packed ensemble, small networks in grouped layers of one (Laurent et al. 2023)."""
    layers, module = imported("torch_uncertainty.layers"), make_module()
    found = [name for name, one in module.named_modules() if isinstance(one, nn.Linear | nn.Conv2d)]
    for name in found:
        old: Any = module.get_submodule(name)
        pack = {"alpha": alpha, "num_estimators": members, "gamma": gamma, "first": name == found[0]}
        if isinstance(old, nn.Linear):
            new = layers.PackedLinear(old.in_features, old.out_features, last=name == found[-1], **pack)
        else:
            sizes = (old.in_channels, old.out_channels, old.kernel_size)
            new = layers.PackedConv2d(*sizes, stride=old.stride, padding=old.padding, **pack)
        module.set_submodule(name, new.to(old.weight.device))
    return _trained(make_module, module, members, train, budget, learning_rate)


def _trained(
    make_module: MakeModule, module: Any, members: int, train: TensorDataset, budget: Budget, rate: float
) -> Predict:
    """Train a network that has the outputs of its members one after the other, (M·B, …), by Adam."""
    optimizer = torch.optim.Adam(module.parameters(), rate)
    for x, y in budget.batches(train):
        optimizer.zero_grad()
        make_module.nll(module(x), y.repeat(members, *(1,) * (y.ndim - 1))).backward()
        optimizer.step()
    module.eval()

    def predict(x: Tensor, samples: int) -> Any:
        return make_module.predictive(module(x).detach().unflatten(0, (members, -1)))

    return predict


def _not_flat(method: Any, model: Model) -> str | None:
    """Refuse a network with layers inside of others, which the library does not convert."""
    nested = any(name.count(".") > 1 for name in model.leaves())
    return "torch-uncertainty converts layers at the top of a network alone" if nested else None


def _not_packable(method: Any, model: Model) -> str | None:
    """Refuse widths that cannot be divided among the members, and scales of single channels."""
    roles, groups = {leaf.role for leaf in model.leaves().values()}, method.members * method.gamma
    if "scale" in roles:
        return "a normalisation's scales have no packed counterpart"
    *hidden, _ = [leaf.shape[0] for leaf in model.leaves().values() if leaf.role in ("input", "weight")] or [1]
    wrong = [width for width in hidden if width * method.alpha % groups]
    return f"its width {wrong[0]} · alpha is no multiple of members · gamma = {groups}" if wrong else None


methods = {
    "torch_uncertainty_batch": from_trainer(
        batch_ensemble,
        needs="torch_uncertainty",
        refuses=_not_flat,
        members=option(4, "networks in the ensemble", low=1),
    ),
    "torch_uncertainty_packed": from_trainer(
        packed_ensemble,
        needs="torch_uncertainty",
        refuses=_not_packable,
        members=option(4, "networks in the ensemble", low=1),
        alpha=option(2, "width of the whole network, in widths of the one it was", low=1),
        gamma=option(1, "groups within a member's layer", low=1),
    ),
}
