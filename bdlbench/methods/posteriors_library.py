"""A sampler and variational inference by the library posteriors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call
from torch.utils.data import TensorDataset

from bdlbench.core.options import option
from bdlbench.data.downloads import imported
from bdlbench.posteriors.fitting import training_option
from bdlbench.posteriors.trainers import Budget, MakeModule, Predict, from_trainer
from bdlbench.protocols import Model


def posteriors_sghmc(
    make_module: MakeModule, train: TensorDataset, validation: Any, seed: int, budget: Budget, *,
    learning_rate: float = 0.1, prior_sd: float = 1.0, friction: float = 1.0, burn_in: float = 0.5, kept: int = 20,
) -> Predict:  # fmt: skip
    """posteriors: stochastic gradient Hamiltonian Monte Carlo (Chen et al. 2014): networks after a burn-in."""
    library, module, networks = imported("posteriors"), make_module(), []
    log_posterior = _log_posterior(make_module, module, prior_sd, len(train))
    start = {name: value.detach().clone() for name, value in module.named_parameters()}
    sampler = library.sgmcmc.sghmc.build(
        log_posterior, learning_rate, alpha=friction, temperature=1 / len(train), momenta=0.0
    )
    state, steps = sampler.init(start), budget.num_steps(train)
    taken = {round(steps * (1 - (1 - burn_in) * k / kept)) for k in range(kept)}
    for step, batch in enumerate(budget.batches(train), start=1):
        state, _ = sampler.update(state, batch)
        networks += [dict(state.params)] if step in taken else []
    return _predict(make_module, module, lambda samples: networks[-samples:])


def posteriors_vi(
    make_module: MakeModule, train: TensorDataset, validation: Any, seed: int, budget: Budget, *,
    learning_rate: float = 1e-3, prior_sd: float = 1.0, initial_log_sd: float = -3.0,
) -> Predict:  # fmt: skip
    """posteriors: variational inference by a diagonal Gaussian, one weight sample a step, sticking the landing."""
    library, module, adam = imported("posteriors"), make_module(), imported("torchopt").adam(lr=learning_rate)
    log_posterior = _log_posterior(make_module, module, prior_sd, len(train))
    start = {name: value.detach().clone() for name, value in module.named_parameters()}
    method = library.vi.diag.build(log_posterior, adam, temperature=1 / len(train), init_log_sds=initial_log_sd)
    state = method.init(start)
    for batch in budget.batches(train):
        state, _ = method.update(state, batch)
    return _predict(make_module, module, lambda samples: [library.vi.diag.sample(state) for _ in range(samples)])


def _log_posterior(make_module: MakeModule, module: Any, prior_sd: float, count: int) -> Any:
    """Return log p(w | data) / N of a batch, as posteriors wants it, with the outputs."""
    log_prior = imported("posteriors").diag_normal_log_prob

    def of_batch(parameters: Any, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        outputs = functional_call(module, dict(parameters), batch[0])
        return log_prior(parameters, sd_diag=prior_sd) / count - make_module.nll(outputs, batch[1]), outputs

    return of_batch


def _predict(make_module: MakeModule, module: Any, draw: Any) -> Predict:
    """Return what predicts by the networks of draw(samples)."""
    module.eval()

    def predict(x: Tensor, samples: int) -> Any:
        with torch.no_grad():
            outputs = torch.stack([functional_call(module, dict(one), x) for one in draw(samples)])
        return make_module.predictive(outputs)

    return predict


def _changes_buffers(method: Any, model: Model) -> str | None:
    """Refuse a module that changes buffers in its forward, such as BatchNorm: torch.func cannot differentiate it."""
    if not any(leaf.role == "buffer" for leaf in model.leaves().values()):
        return None
    return "posteriors takes gradients by torch.func, under which BatchNorm cannot change its statistics"


methods = {
    "posteriors_sghmc": from_trainer(
        posteriors_sghmc,
        needs="posteriors",
        refuses=_changes_buffers,
        learning_rate=training_option("learning_rate", default=0.1, search=(0.01, 1.0)),
        friction=option(
            1.0,
            "friction of the momenta; learning_rate · friction of each is lost in a step",
            low=0,
            search=(0.1, 10.0),
        ),
        burn_in=option(
            0.5, "part of the steps that comes before the first network that is kept", low=0, high=1, open_ends="high"
        ),
        kept=option(20, "networks that are kept", low=1),
    ),
    "posteriors_vi": from_trainer(
        posteriors_vi,
        needs="posteriors",
        refuses=_changes_buffers,
        initial_log_sd=option(-3.0, "log standard deviation of q at the start", low=-30, high=5, search=(-8.0, -1.0)),
    ),
}
