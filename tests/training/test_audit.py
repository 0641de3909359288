"""Factors of an objective, measured from it, against objectives whose factors are known."""

from dataclasses import replace

import pytest
import torch

from bdlbench import catalog
from bdlbench.core.streams import Streams
from bdlbench.data.task import Data
from bdlbench.runs import batch as run
from bdlbench.runs import lint, scoring, suites
from bdlbench.training.audit import audit
from bdlbench.training.loop import Fit, State
from bdlbench.training.plan import Plan
from bdlbench.training.terms import listening, term

N = 10


def fit_of(objective, flat=None, rows=2, steps=100):
    x = torch.arange(N).float().reshape(1, N, 1).expand(rows, N, 1)
    flat = torch.linspace(0.1, 1.7, 16).repeat(rows, 1) if flat is None else flat
    state = State(flat, {}, steps, flat[:, 0])
    fit = Fit(objective, flat, Data(x, x[..., 0]), Streams.of_seeds(range(rows)), Plan(1, 4, 0.1), steps)
    fit.state = state
    return fit


def gaussian(factor=1.0, ramp=lambda progress: 1.0, extra=0.0, scale=1.0, local=1.0):
    """−mean elbo + factor · ramp · KL / N + extra · |w|², where an elbo holds a latent's KL."""

    def objective(flat, batch, noise, moment):
        latent = term("local", flat[:, 2:3].square() + batch.y, "KL(z)")
        elbo = term("likelihood", -(flat[:, :1] - batch.y).square() - local * latent)
        kl = term("divergence", 0.5 * flat.square().sum(-1))
        return scale * (factor * ramp(moment.progress) * kl / N - elbo.mean(-1)) + extra * flat.square().sum(-1)

    return objective


@pytest.mark.parametrize("factor", [0.0, 0.1, 1.0, 1.01, 10.0])
@pytest.mark.parametrize("scale", [1.0, 7.0])
def test_the_temperature_is_the_factor_times_n_whatever_the_whole_is_scaled_by(factor, scale):
    found = audit(fit_of(gaussian(factor, scale=scale)))
    torch.testing.assert_close(found.temperature["divergence"], torch.full((2,), factor).double())
    torch.testing.assert_close(found.local["KL(z)"], torch.ones(2).double())
    assert found.ramp["divergence"].tolist() == [0, 0]
    assert found.undeclared.tolist() == pytest.approx([0, 0], abs=1e-6)


def test_the_factor_of_a_latents_divergence():
    found = audit(fit_of(gaussian(local=0.25)))
    torch.testing.assert_close(found.local["KL(z)"], torch.full((2,), 0.25).double())


def test_a_ramp_is_named_and_the_final_factor_counts():
    found = audit(fit_of(gaussian(ramp=lambda progress: min(1.0, 4 * progress))))
    assert found.ramp["divergence"].tolist() == [0.25, 0.25]
    torch.testing.assert_close(found.temperature["divergence"], torch.ones(2).double())
    unfinished = audit(fit_of(gaussian(ramp=lambda progress: progress)))
    torch.testing.assert_close(unfinished.temperature["divergence"], torch.full((2,), 0.99).double())


def test_a_penalty_that_no_term_declares_shows_by_its_share_of_the_gradient():
    found = audit(fit_of(gaussian(extra=0.01)))
    flat = torch.linspace(0.1, 1.7, 16).double()
    assert found.undeclared[0] * found.gradient_norm[0] == pytest.approx(0.02 * flat.norm().item(), rel=1e-5)


def test_an_objective_without_terms_is_said_to_have_none():
    found = audit(fit_of(lambda flat, batch, noise, moment: flat.square().sum(-1)))
    assert not found.named
    assert (found.temperature, found.local) == ({}, {})
    assert found.undeclared.tolist() == [1, 1]


def test_terms_are_heard_only_inside_the_block():
    value = torch.ones(2)
    with listening() as heard:
        assert term("divergence", value) is value
    term("divergence", value)
    assert [(t.kind, t.name) for t in heard] == [("divergence", "divergence")]


WITH_LATENT = ("vae", "conv_vae", "m2", "stopping_resnet", "constant_resnet")


@pytest.mark.parametrize("method", catalog.names("methods"))
@pytest.mark.parametrize("model", catalog.names("models"))
def test_every_method_has_a_final_factor_of_one_and_names_all_its_terms(small, method, model):
    from bdlbench.training.loop import begin

    built = small.suited(model)
    fits, _ = begin(lambda: small.method(method).fit(built, small.data(built, 2), Streams.of_seeds([0, 1])), 1)
    assert len(fits) == (method not in ("exact", "ols"))  # which minimise nothing
    for fit in fits:
        found = audit(fit)
        assert found.named
        of_mle = ("mle", "deep_ensemble", "temperature_scaling", "snapshot", "batch_ensemble")
        assert list(found.temperature) == ([] if method in of_mle else ["divergence"])
        assert bool(found.local) == (model in WITH_LATENT)
        assert all(torch.allclose(value, torch.ones(1).double()) for value in found.temperature.values())
        assert all(torch.allclose(value, torch.ones(1).double()) for value in found.local.values())
        assert (found.undeclared == 0).all()


def test_a_record_keeps_the_member_farthest_from_what_is_right():
    """Four members of two replicates, each with a ramp and factor of its own."""
    ramps = torch.tensor([0.25, 0.75, 0.0, 0.5])
    factors = torch.tensor([1.0, 0.9, 1.2, 1.0])

    def objective(flat, batch, noise, moment):
        rising = torch.where(moment.progress < ramps, 0.5, 1.0) * factors
        elbo = term("likelihood", -(flat[:, :1] - batch.y).square())
        return rising * term("divergence", flat.square().sum(-1)) / N - elbo.mean(-1)

    last_step = fit_of(objective, rows=4, steps=100)
    found = scoring.objectives([last_step], 2)
    assert [row.ramp["divergence"] for row in found] == pytest.approx([0.75, 0.5])
    assert [row.temperature["divergence"] for row in found] == pytest.approx([0.9, 1.2])


def test_an_objective_that_cannot_be_audited_is_not_named_and_the_cell_stays_good(monkeypatch, tmp_path):
    order = []
    peak = run.peak_memory_bytes
    monkeypatch.setattr(run, "peak_memory_bytes", lambda device: order.append("peak") or peak(device))

    def broken(fit):
        order.append("audit")
        raise RuntimeError("no second pass")

    monkeypatch.setattr(scoring, "audit", broken)
    suite = replace(suites.read_suite("quick"), samples=2)
    asked = suites.Overrides(
        ("mle",), ("mlp",), ("wine",), "2", settings=("mle.epochs=1", "mlp.widths=3"), device="cpu"
    )
    (batch,) = run.batches(suites.build_spec(suite, asked), ())
    (record,) = run.run_batch(batch, run.Settings(tmp_path)).records
    assert (len(record.replicates), record.failed) == (2, {})
    assert [row.named for row in record.values.objective] == [False, False]
    assert len(record.values.first_steps) == 2
    (flagged,) = lint.of_record("mine", record)
    assert (
        "could not be audited" in flagged.message and "RuntimeError: no second pass (test_audit.py:" in flagged.message
    )
    assert order == ["peak", "audit"]  # the audit's memory is not the cell's
