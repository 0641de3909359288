"""Works are timed in turn, and nothing but the rounds asked for is kept."""

import pytest

from bdlbench.clock import timed_in_turn


def test_works_take_turns_after_the_warm_up():
    called = []
    works = {"a": lambda: called.append("a"), "b": lambda: called.append("b")}
    seconds = timed_in_turn(works, 3, warmup=2)
    assert called == ["a", "b"] * 5
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3}
    assert all(value >= 0 for values in seconds.values() for value in values)


def test_each_work_gets_its_own_time(monkeypatch):
    clock = iter(range(100))
    durations = {"short": 1, "long": 5}
    monkeypatch.setattr("time.perf_counter", lambda: float(next(clock)))
    works = {name: lambda n=n: [next(clock) for _ in range(n)] for name, n in durations.items()}
    assert timed_in_turn(works, 2) == {"short": [2.0, 2.0], "long": [6.0, 6.0]}


def test_no_round_is_refused():
    with pytest.raises(ValueError, match="0 rounds"):
        timed_in_turn({"a": list}, 0)
