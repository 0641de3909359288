"""Timing in turn, ratios within a round, and who is left out."""

import pytest

from bdlbench.peers.work import Contender, PeerRow, Timing, Work, measure, quartiles


def contender(library, calls, error=None, **more):
    def build(count):
        if error:
            raise error
        return lambda: calls.append((library, count))

    return Contender(library, build, **more)


def work(calls, *others, **more):
    plain, fastest = contender("plain", calls), contender("fast", calls)
    return Work("w", "a work", plain, fastest, others, count=3, **more)


def test_everyone_is_called_once_before_and_then_in_turn():
    calls = []
    row = measure(work(calls, contender("ours", calls), steps=4), rounds=2)
    assert calls == [("plain", 3), ("fast", 3), ("ours", 3)] * 3
    assert row.complete
    assert {len(timing.seconds) for timing in row.timings} == {2}


def test_seconds_are_of_one_step_or_of_the_whole_predictive(monkeypatch):
    monkeypatch.setattr("bdlbench.peers.work.timed_in_turn", lambda runs, rounds, warmup: {k: [24.0] for k in runs})
    assert measure(work([], steps=4), 1).plain.seconds == (2.0,)
    assert measure(work([], steps=4), 1, count=1).plain.seconds == (6.0,)
    assert measure(work([]), 1).plain.seconds == (24.0,)


def test_who_is_absent_or_fails_is_left_out_with_the_reason():
    calls = []
    gone = contender("gone", calls, ModuleNotFoundError("No module named 'x'", name="x"))
    broken = contender("broken", calls, RuntimeError("two\nlines"))
    row = measure(work(calls, gone, broken, contender("ours", calls)), 1)
    assert [row.of(one).failure for one in (gone, broken)] == ["not installed (x)", "RuntimeError: two"]
    assert not row.complete
    assert ("ours", 3) in calls


def test_a_baseline_that_fails_is_an_error():
    bad = Contender("plain", lambda count: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        measure(Work("w", "t", bad, bad, (), 1), 1)


def test_ratios_are_taken_within_a_round():
    one = Contender("a", list)
    mine, other = Timing(one, (2.0, 30.0, 4.0)), Timing(one, (1.0, 10.0, 1.0))
    assert mine.over(other) == (2.5, 3.0, 3.5)
    assert mine.spread == (3.0, 4.0, 17.0)


def test_one_baseline_is_timed_once():
    calls = []
    plain = contender("plain", calls)
    row = measure(Work("w", "t", plain, plain, (), 2), 1)
    assert calls == [("plain", 2)] * 2
    assert row.plain is row.fastest
    assert isinstance(row, PeerRow)


def test_quartiles():
    assert quartiles([3.0]) == (3.0, 3.0, 3.0)
    assert quartiles([1.0, 2.0, 3.0, 4.0, 5.0]) == (2.0, 3.0, 4.0)
