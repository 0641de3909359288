"""What the clock promises whatever the time is: who is called, how often, in which order."""

import pytest
import torch

from bdlbench.core import clock


class Ticking:
    """A stopwatch on which only works take time."""

    time = 0.0

    def __init__(self, device):
        self.start = Ticking.time

    def seconds(self):
        return Ticking.time - self.start


@pytest.fixture
def spend(monkeypatch):
    monkeypatch.setattr(clock, "Stopwatch", Ticking)
    monkeypatch.setattr(clock, "_waited", lambda: 0.0)

    def spend(seconds):
        Ticking.time += seconds

    return spend


def test_works_take_turns_and_the_first_round_is_left_out(spend):
    order = []

    def work(name, first, later):
        def once():
            spend(later if name in order else first)
            order.append(name)

        return once

    works = {"slow": work("slow", 100.0, 3.0), "quick": work("quick", 50.0, 1.0)}
    found = clock.timed_in_turn(works, rounds=3, calls=2, device=torch.device("cpu"))
    assert order == ["slow", "slow", "quick", "quick"] * 4
    assert found == {"slow": [3.0] * 3, "quick": [1.0] * 3}


def test_as_many_rounds_go_before_as_are_asked_for(spend):
    called = []
    assert clock.timed_in_turn({"a": lambda: called.append("a")}, 3, warmup=2)["a"] == [0.0] * 3
    assert called == ["a"] * 5


def test_no_round_is_refused(refused):
    with refused("0 rounds", error=ValueError):
        clock.timed_in_turn({"a": list}, 0)


@pytest.mark.parametrize(("device", "seconds"), [("cpu", 2.0), ("cuda", 3.0)])
def test_what_a_thread_waited_is_taken_off_a_processors_time_alone(spend, monkeypatch, device, seconds):
    monkeypatch.setattr(clock, "_waited", lambda: Ticking.time / 3)
    found = clock.timed_in_turn({"a": lambda: spend(3.0)}, 2, torch.device(device))
    assert found["a"] == pytest.approx([seconds] * 2)
