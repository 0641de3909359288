import errno
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bdlbench.core.errors import Diverged
from bdlbench.core.layout import per_row
from bdlbench.core.streams import Streams
from bdlbench.data.task import Data
from bdlbench.training import checkpoints
from bdlbench.training.loop import NOTHING, Collect, Session, begin, last, minimise, session
from bdlbench.training.optimisers import Update, adam_step
from bdlbench.training.plan import DECAYS, Plan


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
        values = [decay(i / 100, FOUR) for i in range(101)]
        assert values[0] == 1
        assert values == sorted(values, reverse=True)
        assert values[-1] >= 0
    assert DECAYS["second_half"](0.5, FOUR) == 1
    assert DECAYS["second_half"](0.75, FOUR) == pytest.approx(0.5)
    assert DECAYS["linear"](0.25, FOUR) == pytest.approx(0.75)


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


@pytest.mark.parametrize(("steps", "epochs"), [(4, 2), (5, 3), (1, 1), (6, 3)])
def test_a_budget_in_steps_is_the_beginning_of_as_many_epochs(steps, epochs, tmp_path):
    """Two steps an epoch: the last epoch is cut short, its end is a state, and a finished fit resumes to it."""
    plan = Plan(100, 4, 0.1, steps=steps)
    assert (plan.steps_per_epoch(10), plan.total_steps(10), plan.total_epochs(10)) == (2, steps, epochs)
    whole, cut = [], []
    list(minimise(quadratic(whole), start(), data(), Streams.of_seeds([0, 1]), Plan(3, 4, 0.1)))
    states = list(minimise(quadratic(cut), start(), data(), Streams.of_seeds([0, 1]), plan))
    assert [state.epoch for state in states] == list(range(1, epochs + 1))
    assert states[-1].step == steps
    assert [(step, of) for _, step, of in cut] == [(i, steps) for i in range(steps)]  # decays and ramps reach their end
    assert all(torch.equal(a, b) for (a, _, _), (b, _, _) in zip(cut, whole, strict=False))
    for _ in range(2):
        with session(Session(tmp_path / "fit")):
            final = last(minimise(quadratic(), start(), data(), Streams.of_seeds([0, 1]), plan))
        assert (final.step, final.epoch) == (steps, epochs)
        assert torch.equal(final.flat, states[-1].flat)


def test_the_last_incomplete_batch_is_kept_where_asked():
    """23 examples by 5: five steps, the last over three, so that every example is seen once in every epoch."""
    seen, sizes = [], []

    def objective(flat, batch, noise, moment):
        seen.append(batch.y)
        sizes.append(batch.y.shape[1])
        return flat.square().sum(1)

    data = Data(torch.zeros(2, 23, 1), torch.arange(23.0).expand(2, 23))
    state = last(
        minimise(objective, numbers(2, 16), data, Streams.of_seeds((0, 1)), Plan(2, 5, 0.1, last_batch="kept"))
    )
    assert state.step == 10
    assert sizes == [5, 5, 5, 5, 3] * 2
    for epoch in (seen[:5], seen[5:]):
        assert torch.equal(torch.cat(epoch, 1).sort(1).values, data.y)
    dropped = [order.clone() for order in seen[:4]]
    seen.clear()
    last(minimise(objective, numbers(2, 16), data, Streams.of_seeds((0, 1)), Plan(1, 5, 0.1)))
    assert all(torch.equal(a, b) for a, b in zip(seen, dropped, strict=True))


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


def test_training_stops_when_no_row_is_finite(refused):
    with refused("loss", "finite", "1 epochs", error=Diverged):
        last(minimise(quadratic(target=math.nan), start(), data(), Streams.of_seeds([0, 1]), Plan(3, 4, 0.1)))


def test_a_listener_hears_every_step_and_no_file_is_written_without_a_path():
    heard = []
    with session(Session(listen=lambda done, total: heard.append((done, total)))) as current:
        list(minimise(quadratic(), start(), data(), Streams.of_seeds([0, 1]), Plan(2, 5, 0.1)))
    assert heard == [(i, 4) for i in range(1, 5)]
    assert current.files() == []
    assert current.examples == 20
    assert current.seconds > 0


def test_checkpoints_are_as_rare_as_asked_and_what_is_finished_is_kept(tmp_path):
    written = []

    def listen(done, total):
        written.append(list(tmp_path.iterdir()))

    with session(Session(tmp_path / "fit", 1000.0, listen)) as current:
        last(minimise(quadratic(), start(), data(), Streams.of_seeds([0, 1]), Plan(2, 5, 0.1)))
    assert written == [[]] * 4
    (file,) = current.files()
    assert int(checkpoints.read(file)["spent"][2]) == 4
    assert 0 < current.keeping < current.seconds


STEPS, AT = 10, 7
"""Of a fit in two epochs that is interrupted inside the second."""


class Interrupted(Exception):
    pass


def noisy(flat, batch, noise, moment):
    """A loss whose gradient needs noise, so that its position matters."""
    return ((flat - noise.normal((16,), flat)) * 0.1 + batch.y.mean(1, keepdim=True)).square().sum(-1)


def fit_until(path, stop=STEPS, notes=None, every=0.0, depends=None, target=noisy):
    """What a fit ends with, or None where it is interrupted after `stop` steps; and the steps that it did."""
    heard = []

    def listen(done, total):
        heard.append(done)
        if done == stop < total:
            raise Interrupted

    note = (lambda line: None) if notes is None else notes.append
    with session(Session(path, every, listen, depends=depends or {"torch": "2"}, note=note)):
        try:
            final = last(minimise(target, start(), data(), Streams.of_seeds([0, 1]), Plan(2, 2, 0.1)))
        except Interrupted:
            return None, heard
    return final, heard


def interrupted(path, **options):
    """The checkpoint of a fit that was interrupted, which holds the step before."""
    fit_until(path, AT, **options)
    return path.with_name(f"{path.name}.1.safetensors")


def test_an_interrupted_fit_goes_on_to_the_same_bits(tmp_path):
    whole, _ = fit_until(None)
    interrupted(tmp_path / "fit")
    resumed, heard = fit_until(tmp_path / "fit")
    assert heard[0] == AT and torch.equal(resumed.flat, whole.flat)


@pytest.mark.slow
def test_one_bit_anywhere_in_a_checkpoint_is_found_and_the_fit_begins_again(tmp_path):
    whole, _ = fit_until(None)
    content = interrupted(tmp_path / "fit").read_bytes()
    for place in range(0, len(content), 41):
        for bit in (0, 5):
            file = interrupted(tmp_path / "fit")
            spoilt = bytearray(file.read_bytes())
            spoilt[place % len(spoilt)] ^= 1 << bit
            file.write_bytes(spoilt)
            notes = []
            resumed, heard = fit_until(tmp_path / "fit", notes=notes)
            assert heard[0] == 1 and torch.equal(resumed.flat, whole.flat)
            assert len(notes) == 1 and f"{file}.aside" in notes[0] and "checksum" in notes[0]
            file.unlink()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: b"",
        lambda content: content[:-1],
        lambda content: content[: len(content) // 2],
        lambda content: content[:40],
        lambda content: content + b"\0",
        lambda content: content.partition(b"\n")[2],  # as a version without checksums wrote it
        lambda content: b"{}\n" + content.partition(b"\n")[2],
        lambda content: b"[1]\n",
        lambda content: b"[" * 100_000,
        lambda content: b'{"depends": {}, "schema": 2, "sha256": 3}\n',
        lambda content: b"\xff\xfe\n",
    ],
)
def test_what_is_no_whole_checkpoint_is_set_aside_whole(tmp_path, spoil):
    file = interrupted(tmp_path / "fit")
    spoilt = spoil(file.read_bytes())
    file.write_bytes(spoilt)
    notes = []
    _, heard = fit_until(tmp_path / "fit", notes=notes)
    assert heard[0] == 1 and len(notes) == 1
    assert file.with_name(file.name + ".aside").read_bytes() == spoilt


@pytest.mark.parametrize("change", [{"spent": [math.nan] * 3}, {"spent": [1.0, 2.0, 0.0]}])
def test_numbers_that_were_changed_in_a_checkpoint_are_found(tmp_path, change):
    """With the checksum of before: what writes a right one is a program that means it."""
    file = interrupted(tmp_path / "fit")
    tensors = checkpoints.read(file) | {k: torch.tensor(v, dtype=torch.float64) for k, v in change.items()}
    line = file.read_bytes().partition(b"\n")[0]
    checkpoints.write(file, tensors, {"torch": "2"})
    file.write_bytes(line + b"\n" + file.read_bytes().partition(b"\n")[2])
    notes = []
    assert fit_until(tmp_path / "fit", notes=notes)[1][0] == 1
    assert len(notes) == 1


def test_a_checkpoint_of_something_else_is_set_aside_and_says_what_changed(tmp_path):
    interrupted(tmp_path / "fit")
    notes = []
    assert fit_until(tmp_path / "fit", notes=notes, depends={"torch": "3", "device": "x"})[1][0] == 1
    assert "torch" in notes[0] or "device" in notes[0]
    interrupted(tmp_path / "other")
    with session(Session(tmp_path / "other", 0.0, depends={"torch": "2"}, note=notes.append)) as current:
        last(minimise(noisy, start() + 1.0, data(), Streams.of_seeds([0, 1]), Plan(2, 2, 0.1)))
    assert current.examples == 2 * STEPS and "the initial rows" in notes[1]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EFBIG, errno.EIO])
def test_a_full_disk_costs_no_checkpoint_and_no_training(tmp_path, monkeypatch, code):
    whole, _ = fit_until(None)
    file = interrupted(tmp_path / "fit")
    before, notes = file.read_bytes(), []

    def refusing(path, content):
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.files, "write_atomic", refusing)
        resumed, heard = fit_until(tmp_path / "fit", notes=notes)
    assert heard[0] == AT and torch.equal(resumed.flat, whole.flat)
    assert file.read_bytes() == before
    assert len(notes) == 1 and os.strerror(code) in notes[0]  # once, not at every step


@pytest.mark.slow
def test_a_limit_of_the_system_on_a_files_size_is_a_full_disk(tmp_path):
    """What the system itself does, in a process of its own: nothing half written stays, the older file does."""
    code = f"""
import resource, sys
sys.path[:0] = {sys.path!r}
from pathlib import Path
from test_loop import fit_until, interrupted
path = Path({str(tmp_path)!r}) / "fit"
file = interrupted(path)
before, notes = file.read_bytes(), []
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
final, heard = fit_until(path, notes=notes)
assert final is not None and heard[0] == 7, heard
assert file.read_bytes() == before and len(notes) == 1, notes
assert [p.name for p in path.parent.iterdir()] == ["fit.1.safetensors"]
"""
    here = str(Path(__file__).parent)
    done = subprocess.run([sys.executable, "-c", code], cwd=here, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


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
    assert resumed.epoch == final.epoch == 2
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


# Step rules


def momentum_rule(factor=0.9):
    """SGD with momentum, as torch.optim.SGD has it."""

    def step(flat, gradient, kept, rate, moment, noise):
        velocity = factor * kept["velocity"] + gradient
        return flat - per_row(rate, flat, 2) * velocity, {"velocity": velocity}

    return Update(lambda flat: {"velocity": torch.zeros_like(flat)}, step)


FOUR = Plan(4, 4, 0.1)


def fitted(rates=0.1, path=None, stop=0, update=None, collect=NOTHING, plan=FOUR, every=0.0):
    """The last state of two rows on a quadratic; interrupted after `stop` steps."""

    def listen(done, total):
        if done == stop:
            raise KeyboardInterrupt

    with session(Session(path, every, listen)):
        return last(
            minimise(
                quadratic(),
                start(),
                data(),
                Streams.of_seeds([0, 1]),
                replace(plan, learning_rate=rates),
                update,
                collect,
            )
        )


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("rates", [0.02, torch.tensor([0.02, 0.05], dtype=torch.float64)])
def test_a_rule_is_given_the_plans_rate_for_each_row_and_torchs_sgd_is_one(rates, decay):
    plan, row = Plan(5, 4, rates, decay), torch.zeros(16, requires_grad=True)
    found = fitted(rates, update=momentum_rule(), plan=plan)
    rate = rates if isinstance(rates, float) else rates[1].item()
    optimizer = torch.optim.SGD([row], lr=rate, momentum=0.9)
    for step in range(10):
        optimizer.param_groups[0]["lr"] = rate * DECAYS[decay](step / 10, plan)
        optimizer.zero_grad()
        (row - 3).square().sum().backward()
        optimizer.step()
    torch.testing.assert_close(found.flat[1], row.detach())
    assert (found.step, found.epoch) == (10, 5)


def noisy_rule():
    def step(flat, gradient, kept, rate, moment, noise):
        heat = noise.normal((16,), flat) * noise.bits((16,), flat, "signs").sign()
        return flat - rate * gradient + 0.1 * heat, {"count": kept["count"] + 1, "path": kept["path"] + heat.double()}

    return Update(lambda flat: {"count": torch.zeros(2, dtype=torch.int64), "path": flat.double()}, step)


def sums():
    """The sum of the rows over epochs, and the last rows."""
    names = lambda flat: {"sum": torch.zeros_like(flat, dtype=torch.float64), "last": flat}  # noqa: E731
    return Collect(names, lambda state, so_far: {"sum": so_far["sum"] + state.flat, "last": state.flat})


@pytest.mark.parametrize("rule", [None, momentum_rule(), noisy_rule()], ids=["adam", "momentum", "noise"])
def test_rules_and_collections_resume_to_the_same_bits_from_every_step(rule, tmp_path):
    whole = fitted(update=rule, collect=sums())
    for stop in range(2, 9):
        with pytest.raises(KeyboardInterrupt):
            fitted(path=tmp_path / f"fit {stop}", stop=stop, update=rule, collect=sums())
        found = fitted(path=tmp_path / f"fit {stop}", update=rule, collect=sums(), every=1000.0)
        assert torch.equal(found.flat, whole.flat)
        for mine, alone in ((found.kept, whole.kept), (found.collected, whole.collected)):
            assert mine.keys() == alone.keys()
            assert all(
                torch.equal(mine[name], value) and mine[name].dtype == value.dtype for name, value in alone.items()
            )


def test_what_is_collected_is_that_of_every_epoch_once_and_adam_does_not_change_it_in_place():
    states = [
        (s.epoch, s.flat.detach().clone())
        for s in minimise(quadratic(), start(), data(), Streams.of_seeds([0, 1]), Plan(4, 4, 0.1))
    ]
    assert [epoch for epoch, _ in states] == [1, 2, 3, 4]
    seen = []

    def add(state, so_far):
        assert all(torch.equal(kept, flat) for kept, (_, flat) in zip(seen, states, strict=False))
        seen.append(state.flat)
        return {"sum": so_far["sum"] + state.flat, "last": state.flat}

    found = fitted(collect=Collect(sums().start, add)).collected
    assert torch.equal(found["last"], states[-1][1])
    torch.testing.assert_close(found["sum"], sum(flat.double() for _, flat in states))


def test_tensors_that_are_changed_in_place_are_their_own(tmp_path):
    """What starts or comes back as one tensor under two names: else they would part when a run resumes."""

    def step(flat, gradient, kept, rate, moment, noise):
        kept["a"].add_(1)
        flat.sub_(kept["b"])
        return flat, {"a": kept["a"], "b": kept["a"]}

    def add(state, so_far):
        so_far["a"].add_(1)
        return {"a": so_far["a"] + so_far["b"], "b": state.kept["a"], "view": so_far["a"].T.contiguous().T}

    both = lambda flat: {"a": flat, "b": flat}  # noqa: E731
    rule, collect = Update(both, step), Collect(lambda flat: {"a": flat, "b": flat, "view": flat}, add)
    whole = fitted(update=rule, collect=collect)
    with pytest.raises(KeyboardInterrupt):
        fitted(path=tmp_path / "fit", stop=6, update=rule, collect=collect)
    found = fitted(path=tmp_path / "fit", update=rule, collect=collect, every=1000.0)
    assert torch.equal(found.flat, whole.flat)
    assert all(torch.equal(found.collected[name], value) for name, value in whole.collected.items())
    assert all(value.is_contiguous() for value in whole.collected.values())


def line_of(function):
    return f"{__file__}:{function.__code__.co_firstlineno}"


FLAWS = {
    "another name": (lambda t: {"b": t["a"]}, ["b", "a"]),
    "one more": (lambda t: {**t, "b": t["a"]}, ["a, b", "a"]),
    "nothing": (lambda t: None, ["a"]),
    "another shape": (lambda t: {"a": t["a"][:, :3]}, ["float32 (2, 3)", "float32 (2, 16)"]),
    "another type": (lambda t: {"a": t["a"].double()}, ["float64 (2, 16)", "float32 (2, 16)"]),
    "no tensor": (lambda t: {"a": 1.0}, ["float", "float32 (2, 16)"]),
}


@pytest.mark.parametrize("flaw", FLAWS)
@pytest.mark.parametrize("seam", ["update", "collect"])
def test_what_comes_back_in_another_form_is_refused_with_the_place(flaw, seam, refused):
    change, names = FLAWS[flaw]

    def step(flat, gradient, kept, rate, moment, noise):
        return flat, change(kept)

    def add(state, so_far):
        return change(so_far)

    one = lambda flat: {"a": torch.zeros_like(flat)}  # noqa: E731
    wrong = {"update": Update(one, step)} if seam == "update" else {"collect": Collect(one, add)}
    with refused(
        line_of(step if seam == "update" else add), *(["(rows"] if names == ["a"] and seam == "update" else names)
    ):
        fitted(**wrong)


@pytest.mark.parametrize(
    "rows", [lambda flat: flat, lambda flat: (flat,), lambda flat: (flat[:1], {}), lambda flat: (flat.double(), {})]
)
def test_a_rule_returns_rows_of_their_form_and_what_it_keeps(rows, refused):
    def step(flat, gradient, kept, rate, moment, noise):
        return rows(flat)

    with refused(line_of(step), "rows"):
        fitted(update=Update(lambda flat: {}, step))


@pytest.mark.parametrize(
    "given", [torch.zeros(2, 3), {"a": torch.zeros(())}, {"a": torch.zeros(3, 16)}, {"a": 0.0}, None]
)
def test_what_is_kept_starts_as_rows_by_name(given, refused):
    start_of = lambda flat: given  # noqa: E731
    for wrong in ({"update": Update(start_of, momentum_rule().step)}, {"collect": Collect(start_of, sums().add)}):
        with refused(line_of(start_of), "2 rows" if isinstance(given, dict) else "name"):
            fitted(**wrong)


def test_a_checkpoint_with_other_tensors_is_set_aside(tmp_path):
    wider = Collect(lambda flat: {"sum": flat.double(), "last": flat[:, :3]}, lambda state, gathered: gathered)
    for other in ({}, {"update": momentum_rule()}, {"collect": sums()}, {"update": momentum_rule(), "collect": wider}):
        fitted(path=tmp_path / "fit", update=momentum_rule(), collect=sums())
        notes = []
        with session(Session(tmp_path / "fit", note=notes.append)) as current:
            last(minimise(quadratic(), start(), data(), Streams.of_seeds([0, 1]), FOUR, **other))
        assert "other tensors" in notes[0] and current.examples == 32
        assert (tmp_path / "fit.1.safetensors.aside").exists()


def test_a_row_of_a_sampler_has_the_same_bits_alone():
    def chain(seeds, rates):
        rule = noisy_rule()
        examples = data(len(seeds))
        rule = Update(lambda flat: {"count": torch.zeros(len(flat)), "path": flat.double()}, rule.step)

        def step(flat, gradient, kept, rate, moment, noise):
            return rule.step(flat, gradient, kept, per_row(rate, flat, 2), moment, noise)

        plan = Plan(4, 4, rates)
        return last(
            minimise(quadratic(), start(len(seeds)), examples, Streams.of_seeds(seeds), plan, Update(rule.start, step))
        )

    rates = torch.tensor([0.1, 0.01, 0.05], dtype=torch.float64)
    together, alone = chain([5, 6, 7], rates), chain([6], rates[1:2])
    assert torch.equal(together.flat[1:2], alone.flat)
    assert torch.equal(together.kept["path"][1:2], alone.kept["path"])


def test_a_fit_that_diverges_at_its_end_diverges_again_when_resumed(tmp_path):
    """Its last checkpoint must not be taken for a fit that is done."""

    def objective(flat, batch, noise, moment):
        return (flat - (math.nan if moment.step == 3 else 1.0)).square().sum(-1)

    for _ in range(2):
        with pytest.raises(Diverged), session(Session(tmp_path / "fit", 0.0)):
            last(minimise(objective, start(), data(), Streams.of_seeds([0, 1]), Plan(2, 5, 0.1)))


def test_langevin_steps_sample_the_posterior():
    """U(w) = N (w − 3)² / 2 in 10 examples: N(3, 1/N). Steps of h make of it the variance 1 / (N (1 − h/2)) exactly."""
    rows, num, rate, burn_in, steps = 40, 10, 0.4, 50, 500

    def objective(flat, batch, noise, moment):
        return 0.5 * (flat - 3.0).square().sum(-1)

    def step(flat, gradient, kept, rate, moment, noise):
        return flat - rate * gradient + (2 * rate / num) ** 0.5 * noise.normal((16,), flat), kept

    def add(state, sums):
        w = state.flat.double() * (state.epoch > burn_in)
        return {"w": sums["w"] + w, "w²": sums["w²"] + w.square()}

    chain = Collect(lambda flat: {name: torch.zeros_like(flat, dtype=torch.float64) for name in ("w", "w²")}, add)
    update, rng = Update(lambda flat: {}, step), Streams.of_seeds(range(rows))
    plan = Plan(burn_in + steps, num, rate)
    found = last(minimise(objective, start(rows), data(rows, num), rng, plan, update, chain)).collected
    count, independent = rows * 16 * steps, (1 - 0.6) / (1 + 0.6)  # of an AR(1) chain with coefficient 1 − h
    mean, square = (found[name].sum().item() / count for name in ("w", "w²"))
    variance = 1 / (num * (1 - rate / 2))
    assert mean == pytest.approx(3, abs=5 * (variance / (count * independent)) ** 0.5)
    assert square - mean**2 == pytest.approx(variance, abs=5 * variance * (2 / (count * independent)) ** 0.5)


@pytest.mark.parametrize(("steps", "done"), [(1, 1), (3, 3), (4, 4), (99, 4)])
def test_a_fit_is_left_after_its_first_steps_whatever_its_author_catches(steps, done):
    x, after = numbers(2, 10, 1), []

    def loss(flat, batch, noise, moment):
        return (flat - 0.3).square().sum(-1)

    def fit():
        try:
            found = last(minimise(loss, numbers(2, 16), Data(x, x[..., 0]), Streams.of_seeds([0, 1]), Plan(2, 5, 0.1)))
        except Exception:
            after.append("swallowed")
        after.append("what follows the training")
        return found

    fits, returned = begin(fit, steps)
    assert returned is None and after == []
    assert [(one.state.step, one.first.steps) for one in fits] == [(done, done)]


def test_what_minimises_nothing_is_done_before_it_is_left():
    assert begin(lambda: "a closed form", 3) == ([], "a closed form")
