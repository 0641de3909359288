"""Everyone does the work that the row names: as many steps, the same objective, the same networks."""

from importlib.util import find_spec
from itertools import pairwise

import pytest
import torch
from torch.distributions import Bernoulli, Normal, kl_divergence

from bdlbench.kernels.kl import log_alpha, log_uniform_kl
from bdlbench.peers import libraries, plain, works
from bdlbench.peers.work import AUTOGRAD, OURS, measure

TINY = plain.Batches(4, 2)
SMALL = plain.Batches(4, 2, plain.SMALL_SIZES[0], 0)


def inputs():
    return torch.rand(6, plain.LENET_SIZES[0], generator=torch.Generator().manual_seed(0))


def test_an_unknown_row_is_refused_with_the_nearest(refused):
    with refused("row", "local-10", "local-100"):
        works.chosen(["local-10"])
    assert [work.name for work in works.chosen([])] == list(works.works())


def test_every_row_has_us_and_names_what_it_is():
    for name, work in works.works().items():
        assert work.name == name
        assert [c.library for c in work.contenders].count(OURS) == 1
        assert work.serial == (name.startswith("replicates") or name in ("leapfrog-16-4", "leapfrog-50-4"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "local-100",
        "predictive-local",
        "replicates-mean-field",
        "laplace",
        "vae",
        "module-image-mle",
        "module-image-mean_field_vi-weight",
        "module-image-mc_dropout",
        "module-sequence-mle",
        "leapfrog-16-1",
        "leapfrog-16-4",
    ],
)
def test_ours_and_plain_torch_run(name):
    work = works.works()[name]
    known = [c for c in work.contenders if c.library in (OURS, AUTOGRAD)]
    row = measure(type(work)(**{**vars(work), "contenders": tuple(known)}), rounds=1, count=1)
    assert row.complete, [timing.failure for timing in row.timings]


def test_the_loop_takes_every_step_on_every_example():
    seen = []
    weight = torch.zeros(1, requires_grad=True)

    def loss(x, y):
        seen.append(x)
        return (weight * x.mean()).sum()

    plain.trained(loss, [weight], TINY, epochs=3)()
    assert len(seen) == 3 * TINY.steps
    assert torch.equal(torch.cat(seen[:2]).sort(0).values, TINY.x.sort(0).values)


def test_local_reparameterisation_has_the_moments_and_the_kl_of_its_weights():
    layer = plain.LocalLinear(5, 3)
    with torch.no_grad():
        layer.weight_log_sd.fill_(-1.0)
        layer.bias_log_sd.fill_(-2.0)
    x = torch.rand(1, 5, generator=torch.Generator().manual_seed(0)).expand(200_000, 5)
    out = layer(x)
    variance = x[0].square().sum() * torch.tensor(-2.0).exp() + torch.tensor(-4.0).exp()
    torch.testing.assert_close(out.mean(0), layer.weight @ x[0] + layer.bias, atol=4 * (variance / 2e5) ** 0.5, rtol=0)
    torch.testing.assert_close(out.var(0), variance.expand(3), rtol=0.02, atol=0)
    exact = sum(
        kl_divergence(Normal(m, s.exp()), Normal(0.0, plain.PRIOR_SD)).sum()
        for m, s in ((layer.weight, layer.weight_log_sd), (layer.bias, layer.bias_log_sd))
    )
    torch.testing.assert_close(layer.kl(), exact)


def test_sparse_layer_has_the_kl_of_the_paper():
    layer = plain.SparseLinear(5, 3)
    expected = log_uniform_kl(log_alpha(layer.weight, layer.log_variance)).sum()
    torch.testing.assert_close(layer.kl(), expected)


def test_the_example_vae_is_a_negative_elbo():
    vae, x = plain.ExampleVAE(), torch.rand(3, 784, generator=torch.Generator().manual_seed(0)).round()
    hidden = vae.fc1(x).relu()
    q = Normal(vae.fc21(hidden), (0.5 * vae.fc22(hidden)).exp())
    noise = torch.randn(q.mean.shape, generator=torch.Generator().manual_seed(2))
    pixels = Bernoulli(logits=vae.fc4(vae.fc3(q.mean + q.stddev * noise).relu()))
    expected = kl_divergence(q, Normal(0.0, 1.0)).sum() - pixels.log_prob(x).sum()
    torch.testing.assert_close(vae(x), expected, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("local", [True, False])
def test_stacked_layers_are_rows_of_single_ones(local):
    stacked = plain.Stacked(2, 4, 3, local)
    x = torch.rand(2, 5, 4, generator=torch.Generator().manual_seed(0))
    if local:
        with torch.no_grad():
            stacked.weight_log_sd.fill_(-30.0)
            stacked.bias_log_sd.fill_(-30.0)
    expected = torch.stack([x[r] @ stacked.weight[r] + stacked.bias[r] for r in range(2)])
    torch.testing.assert_close(stacked(x), expected, atol=1e-5, rtol=1e-5)


def test_the_usual_loop_averages_probabilities():
    probs = plain.averaged(plain.network(rate=0.5), inputs, 5)()
    torch.testing.assert_close(probs.sum(-1), torch.ones(6))


def needs(library):
    """Skips where it is not installed; does not import it, which is `libraries.imported`'s to do."""
    if find_spec(library) is None:
        pytest.skip(f"{library} is not installed")


STEPS = {
    "torchbnn": libraries.torchbnn_step,
    "bayesian_torch": lambda data, epochs: libraries.bayesian_torch_step("LinearFlipout", data, epochs),
    "blitz": libraries.blitz_step,
    "pyro": libraries.pyro_step,
    "tyxe": lambda data, epochs: libraries.tyxe_step(True, data, epochs),
    "lightning": libraries.torch_uncertainty_step,  # without which torch-uncertainty does not import
    "laplace": lambda data, epochs: libraries.laplace_torch_fit(SMALL, epochs),
}
PREDICTIVES = {
    "torchbnn": libraries.torchbnn_predictive,
    "bayesian_torch": lambda x, m: libraries.bayesian_torch_predictive("LinearReparameterization", x, m),
    "blitz": libraries.blitz_predictive,
    "pyro": lambda x, m: libraries.pyro_predictive(TINY, x, m),
    "tyxe": lambda x, m: libraries.tyxe_predictive(True, TINY, x, m),
    "lightning": libraries.torch_uncertainty_predictive,
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("library", STEPS)
def test_libraries_train(library, monkeypatch):
    needs(library)
    taken = []
    step = torch.optim.Adam.step
    monkeypatch.setattr(torch.optim.Adam, "step", lambda self, *rest: taken.append(self) or step(self, *rest))
    STEPS[library](TINY, 2)()
    assert len(taken) == 2 * TINY.steps
    groups = [p for group in taken[0].param_groups for p in group["params"] if p in taken[0].state]
    assert all(bool(torch.isfinite(p).all()) for p in groups)
    sizes = plain.SMALL_SIZES if library == "laplace" else plain.LENET_SIZES
    weights = sum((i + 1) * o for i, o in pairwise(sizes))
    assert sum(p.numel() for p in groups) == weights * (1 if library == "laplace" else 2)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("estimator", ["Flipout", "Reparameterization"])
def test_bayesian_torch_trains_a_module_that_it_converts(estimator):
    needs("bayesian_torch")
    data = plain.Batches(4, 2, 3 * 32 * 32)
    libraries.bayesian_torch_module(plain.image_module, estimator, data, 1)()


def test_a_module_averages_over_its_dropout_alone():
    """BatchNorm predicts by its running statistics, whatever else is in the batch."""
    x = torch.rand(5, 3 * 32 * 32, generator=torch.Generator().manual_seed(0))
    module = plain.image_module()
    few, all_of_them = plain.averaged(module, lambda: x[:2], 2)(), plain.averaged(module, lambda: x, 2)()
    torch.testing.assert_close(few, all_of_them[:2])
    assert not torch.equal(*(plain.averaged(plain.image_module(0.5), lambda: x[:2], k)() for k in (1, 2)))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("library", PREDICTIVES)
def test_libraries_predict(library):
    needs(library)
    probs = PREDICTIVES[library](inputs, 3)()
    torch.testing.assert_close(probs.sum(-1), torch.ones(6))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("local", [True, False])
def test_tyxe_draws_noise_by_example_only_in_its_own_class(local):
    needs("tyxe")
    same = torch.ones(6, plain.LENET_SIZES[0])
    with libraries.pyro_settings():
        network = libraries.tyxe_network(TINY)
        with libraries.tyxe_estimator(local):
            logits = network.predict(same, num_predictions=1, aggregate=False)[0]
    assert bool((logits - logits[0]).abs().max() > 1e-4 * logits.abs().max()) is local
