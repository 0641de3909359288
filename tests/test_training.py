import math
from dataclasses import replace

import pytest
import torch

from bdlbench.data import Data
from bdlbench.errors import Diverged
from bdlbench.rng import Streams
from bdlbench.training import DECAYS, Plan, Session, adam_step, last, minimise, session


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def take_steps(flat, rates, steps=5, factor=1.0):
    flat, mean, square = flat.clone(), torch.zeros_like(flat), torch.zeros_like(flat)
    for step in range(1, steps + 1):
        adam_step(flat, (flat - 0.3).sin(), mean, square, step, rates, factor)
    return flat


def take_torchs_steps(row, rate, steps=5):
    row = row.clone().requires_grad_()
    optimizer = torch.optim.Adam([row], lr=rate)
    for _ in range(steps):
        row.grad = (row.detach() - 0.3).sin()
        optimizer.step()
    return row.detach()


@pytest.mark.parametrize("rates", [0.01, torch.tensor([0.01, 0.1, 1e-4], dtype=torch.float64)])
def test_adam_is_torchs(rates):
    flat = numbers(3, 48)
    found = take_steps(flat, rates)
    for r in range(3):
        rate = rates if isinstance(rates, float) else rates[r].item()
        torch.testing.assert_close(found[r], take_torchs_steps(flat[r], rate), rtol=1e-6, atol=1e-6)


def test_the_factor_scales_the_rate():
    flat = numbers(3, 48)
    assert torch.equal(take_steps(flat, 0.02, factor=0.5), take_steps(flat, 0.01))


@pytest.mark.parametrize("width", [16, 32, 48, 64, 80, 112, 240, 496, 1008, 4096, 20_000])
def test_adams_bits_for_a_row_do_not_depend_on_the_other_rows(threads, width):
    flat = numbers(7, width)
    alone = torch.cat([take_steps(flat[r : r + 1], 0.01) for r in range(7)])
    for rows in range(1, 8):
        assert torch.equal(take_steps(flat[:rows], 0.01), alone[:rows])
        swept = torch.full((rows,), 0.01, dtype=torch.float64)
        assert torch.equal(take_steps(flat[:rows], swept), alone[:rows])


def test_decays_start_at_one_and_do_not_rise():
    for decay in DECAYS.values():
        values = [decay(i / 100) for i in range(101)]
        assert values[0] == 1
        assert values == sorted(values, reverse=True)
        assert values[-1] >= 0
    assert DECAYS["second_half"](0.5) == 1
    assert DECAYS["second_half"](0.75) == pytest.approx(0.5)
    assert DECAYS["linear"](0.25) == pytest.approx(0.75)


def data(rows=2, num=10):
    x = torch.arange(num).float().reshape(1, num, 1).expand(rows, num, 1)
    return Data(x, x[..., 0])


def quadratic(seen=None, target=3.0):
    def objective(flat, batch, noise, moment):
        if seen is not None:
            seen.append((batch.y.clone(), moment.step, moment.steps))
        return (flat - target).square().sum(-1)

    return objective


def start(rows=2):
    return torch.zeros(rows, 16)


def test_an_epoch_shows_each_example_at_most_once_in_each_rows_own_order():
    seen = []
    states = list(minimise(quadratic(seen), start(), data(), Streams.of_seeds([0, 1]), Plan(3, 4, 0.1)))
    assert [state.step for state in states] == [2, 4, 6]
    assert [(step, steps) for _, step, steps in seen] == [(i, 6) for i in range(6)]
    epochs = [torch.cat([seen[i][0], seen[i + 1][0]], 1) for i in (0, 2, 4)]  # (R, 8) of ten
    for epoch in epochs:
        assert all(len(set(row.tolist())) == 8 for row in epoch)
        assert not torch.equal(epoch[0], epoch[1])
    assert not torch.equal(epochs[0], epochs[1])


def test_a_batch_larger_than_the_data_is_all_of_it():
    seen = []
    list(minimise(quadratic(seen), start(), data(), Streams.of_seeds([0, 1]), Plan(2, 64, 0.1)))
    assert [batch.shape for batch, _, _ in seen] == [(2, 10)] * 2


def test_a_quadratic_is_minimised_and_the_start_is_left_alone():
    initial = start()
    final = last(minimise(quadratic(), initial, data(), Streams.of_seeds([0, 1]), Plan(200, 4, 0.1)))
    torch.testing.assert_close(final.flat, torch.full((2, 16), 3.0), rtol=0, atol=1e-3)
    assert (initial == 0).all()
    assert final.loss.shape == (2,)


def test_a_gradient_does_not_reach_other_rows():
    def objective(flat, batch, noise, moment):
        return (flat - torch.tensor([[1.0], [math.nan]])).square().sum(-1)

    final = last(minimise(objective, start(), data(), Streams.of_seeds([0, 1]), Plan(3, 4, 0.1)))
    assert final.flat[0].isfinite().all()
    assert final.flat[1].isnan().all()


def test_training_stops_when_no_row_is_finite():
    with pytest.raises(Diverged, match="not finite in any replicate after 1 epochs"):
        last(minimise(quadratic(target=math.nan), start(), data(), Streams.of_seeds([0, 1]), Plan(3, 4, 0.1)))


def test_a_listener_hears_every_step_and_no_file_is_written_without_a_path():
    heard = []
    with session(Session(listen=lambda done, total: heard.append((done, total)))) as current:
        list(minimise(quadratic(), start(), data(), Streams.of_seeds([0, 1]), Plan(2, 5, 0.1)))
    assert heard == [(i, 4) for i in range(1, 5)]
    assert current.files() == []
    assert current.examples == 20
    assert current.seconds > 0


def test_checkpoints_are_as_rare_as_asked(tmp_path):
    with session(Session(tmp_path / "fit", 1000.0)) as current:
        last(minimise(quadratic(), start(), data(), Streams.of_seeds([0, 1]), Plan(2, 5, 0.1)))
    assert not any(file.exists() for file in current.files())


def test_each_fit_of_a_session_has_its_own_checkpoint_and_a_finished_one_is_not_repeated(tmp_path):
    def fit():
        heard = []
        with session(Session(tmp_path / "fit", 0.0, lambda done, total: heard.append(done))) as current:
            for target in (1.0, 2.0):
                final = last(
                    minimise(quadratic(target=target), start(), data(), Streams.of_seeds([0, 1]), Plan(2, 5, 0.1))
                )
        return current, heard, final

    current, heard, final = fit()
    assert [file.exists() for file in current.files()] == [True, True]
    assert len(heard) == 8
    again, heard, resumed = fit()
    assert heard == []
    assert torch.equal(final.flat, resumed.flat)
    assert again.seconds >= current.seconds_before


def test_what_is_loaded_lies_on_a_boundary_as_a_products_bits_depend_on_it(tmp_path):
    for _ in range(2):
        with session(Session(tmp_path / "fit", 0.0)):
            final = last(minimise(quadratic(), start(), data(), Streams.of_seeds([0, 1]), Plan(2, 5, 0.1)))
    assert final.flat.data_ptr() % 64 == 0


@pytest.mark.parametrize("method", ["map", "mean_field_vi", "sparse_vd"])
def test_the_loss_is_whole_at_the_fingerprint_and_no_bit_of_the_parameters_depends_on_that(small, method):
    """Inside an epoch too, where objectives leave out terms whose gradient is known without their value."""
    model = small.model("mlp")
    built, examples = small.method(method, epochs=3), small.data(model, 2)

    def fit(mark):
        with session(Session(mark=mark)) as current:
            built.fit(model, examples, Streams.of_seeds([0, 1]))
        return current.fits[0]

    marked, unmarked = fit(3), fit(10_000)  # four steps an epoch, the second is of all twelve
    assert torch.equal(marked.state.flat, unmarked.state.flat)
    heard = []

    def whole(objective):
        def heeding(flat, batch, noise, moment):
            loss = objective(flat, batch, noise, replace(moment, reported=True))
            heard.append(loss.detach().double().tolist())
            return loss

        return heeding

    again = replace(marked, objective=whole(marked.objective))
    last(minimise(again.objective, again.initial, again.data, again.rng, again.plan))
    assert marked.first.steps == 3
    assert marked.first.loss == heard[2]
