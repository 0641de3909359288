"""The objectives at a fixed state: they do not move by themselves, and one per cent of anything shows."""

import math

import pytest
import torch

from bdlbench import catalog
from bdlbench.gate import objectives
from bdlbench.gate.contracts import own_methods
from bdlbench.gate.objectives import FixedStreams


@pytest.fixture(scope="module")
def catalogs():
    """Of every method and model of the catalog, which takes seconds."""
    return objectives.measure()


def case(method):
    """The method on the mlp, as `measure` has it."""
    settings = {"mlp": {"widths": "6"}, "mean_field_vi": {"initial_log_sd": -1.0}}
    built = catalog.build_method([catalog.choice("methods", method, settings)])
    return objectives._case(built, objectives._suited("mlp", settings))


@pytest.fixture(scope="module")
def reference():
    return {f"{method} · mlp": case(method) for method in ("map", "mean_field_vi")}


def test_fixed_streams_are_normal_uniform_and_repeat_themselves():
    like = torch.zeros((), dtype=torch.float64)
    first, again = (FixedStreams((2,)).child("noise").normal((5000,), like) for _ in range(2))
    assert torch.equal(first, again)
    assert first.mean().item() == pytest.approx(0, abs=4 / math.sqrt(10_000))
    assert first.std().item() == pytest.approx(1, abs=4 / math.sqrt(20_000))
    rng = FixedStreams((2,))
    bits = rng.bits((5000,), like)
    assert bits.dtype == torch.int16
    assert (bits < 0).double().mean().item() == pytest.approx(0.5, abs=0.02)
    assert not torch.equal(bits, rng.bits((5000,), like))
    assert rng.samples(0, 3).normal((4,), like).shape == (3, 2, 4)
    assert rng.members(3).normal((4,), like).shape == (6, 4)


@pytest.mark.slow
def test_an_objective_is_what_its_formula_says(catalogs):
    """MLE's is the mean negative log-likelihood: its only term."""
    found = catalogs["mle · mlp"]
    assert found["objective"] == pytest.approx([-value for value in found["terms"]["likelihood"]])
    found = catalogs["mean_field_vi · mlp"]
    expected = [
        kl / objectives.EXAMPLES - fit
        for kl, fit in zip(found["terms"]["divergence"], found["terms"]["likelihood"], strict=True)
    ]
    assert found["objective"] == pytest.approx(expected, rel=1e-12)


@pytest.mark.slow
def test_every_method_is_there_and_a_second_look_sees_the_same(catalogs, reference):
    for method in own_methods():
        assert any(name.startswith(f"{method} · ") for name in catalogs)
    assert "mean_field_vi (estimator flipout) · mlp" in catalogs
    assert objectives.differences({name: catalogs[name] for name in reference}, reference) == []
    moved = {**catalogs, "new · mlp": catalogs["mle · mlp"]}
    del moved["map · mlp"]
    assert objectives.differences(catalogs, catalogs) == []
    assert objectives.differences(catalogs, moved) == [
        "map · mlp: no such case any more",
        "new · mlp: not in the reference",
    ]


@pytest.mark.parametrize("factor", [1.01, 1 + 1e-7])
def test_a_kl_that_is_a_little_too_heavy_is_named(reference, factor, monkeypatch):
    from bdlbench.kernels.elbo import negative_elbo
    from bdlbench.methods import mean_field_vi

    monkeypatch.setattr(mean_field_vi, "negative_elbo", lambda elbo, kl, n: negative_elbo(elbo, factor * kl, n))
    name = "mean_field_vi · mlp"
    (line,) = objectives.differences({name: reference[name]}, {name: case("mean_field_vi")})
    assert line.startswith(f"{name}: the factor of its divergence is {factor:.9g}/N, was 1/N: kernels/elbo.py")


def test_a_gradient_that_is_wrong_alone_is_seen(reference):
    there = reference["map · mlp"]
    here = {**there, "gradient_norm": [value * (1 + 1e-6) for value in there["gradient_norm"]]}
    (line,) = objectives.differences({"map · mlp": there}, {"map · mlp": here})
    assert "the norm of its gradient is" in line
    rounded = {**there, "gradient_norm": [value * (1 + 1e-12) for value in there["gradient_norm"]]}
    assert objectives.differences({"map · mlp": there}, {"map · mlp": rounded}) == []


def test_a_method_of_others_that_fails_on_a_model_is_named_with_its_line(tmp_path, monkeypatch, refused):
    """`gate` asks every method on every model, also on those without a linear map; it ended as an internal error."""
    path = tmp_path / "mine.py"
    path.write_text(
        "from dataclasses import dataclass\n\n@dataclass(frozen=True)\nclass Mine:\n"
        '    """Fails."""\n    def unsupported(self, model): return None\n'
        "    def fit(self, model, data, rng): return [][0]\n\nmethods = {'mine': Mine}\n"
    )
    monkeypatch.setattr(catalog, "_plugins", {kind: {} for kind in catalog.KINDS})
    catalog.add_plugin(path)
    monkeypatch.setattr(catalog, "names", lambda kind: {"methods": ("mine",), "models": ("mlp",)}[kind])
    with refused("method mine", "mlp", "mine.py:7", "IndexError"):
        objectives.measure()
