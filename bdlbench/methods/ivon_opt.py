"""Variational inference by the optimiser of the library ivon-opt."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from bdlbench.core.options import option
from bdlbench.data.downloads import imported
from bdlbench.posteriors.fitting import training_option
from bdlbench.posteriors.trainers import Budget, MakeModule, Predict, from_trainer


def ivon_opt(
    make_module: MakeModule, train: TensorDataset, validation: Any, seed: int, budget: Budget, *,
    learning_rate: float = 0.1, prior_sd: float = 1.0, initial_hessian: float = 1.0,
) -> Predict:  # fmt: skip
    """ivon-opt: mean-field variational inference by an improved variational online Newton method (Shen et al. 2024)."""
    module, count = make_module(), len(train)
    optimizer = imported("ivon").IVON(
        module.parameters(), learning_rate, ess=count, weight_decay=prior_sd**-2 / count, hess_init=initial_hessian
    )
    for x, y in budget.batches(train):
        with optimizer.sampled_params(train=True):
            optimizer.zero_grad()
            make_module.nll(module(x), y).backward()
        optimizer.step()
    module.eval()

    def predict(x: Tensor, samples: int) -> Any:
        outputs = []
        for _ in range(samples):
            with torch.no_grad(), optimizer.sampled_params():
                outputs.append(module(x))
        return make_module.predictive(torch.stack(outputs))

    return predict


methods = {
    "ivon_opt": from_trainer(
        ivon_opt,
        needs="ivon",
        learning_rate=training_option("learning_rate", default=0.1, search=(0.01, 1.0)),
        initial_hessian=option(
            1.0, "the curvature that it starts from, per example", low=0, open_ends=True, search=(0.01, 10.0)
        ),
    )
}
