"""Contestants in turns: by a clock that stands except in calls."""

from __future__ import annotations

import pytest

from edgeseg.benchmarks.turns import SELDOM, Turn, take_turns, turn_of

pytestmark = pytest.mark.unit


class Clock:
    """Seconds; `takes` makes a turn whose call number n takes n + `ms` milliseconds."""

    def __init__(self) -> None:
        self.now, self.log = 0.0, ""

    def takes(self, name: str, ms: float) -> Turn:
        def call(index: int) -> None:
            self.log += name if index == 0 else ""
            self.now += (index + ms) / 1e3

        return turn_of(call, lambda: self.now)


def test_first_calls_and_rounds_are_dropped():
    clock = Clock()
    turns = {"a": clock.takes("a", 10), "b": clock.takes("b", 20)}
    found = take_turns(turns, rounds=3, calls=2, dropped=1, warm_up=2)
    for name, first in (("a", 10), ("b", 20)):
        assert len(found[name]) == 3
        for times in found[name]:
            assert times == pytest.approx([first + 1, first + 2])
    rounds = [clock.log[i : i + 2] for i in range(0, 10, 2)]
    assert len(clock.log) == 10
    assert {"".join(sorted(r)) for r in rounds} == {"ab"}


def test_the_order_is_drawn_anew_and_the_same_for_a_seed():
    logs = []
    for seed in (0, 0, 1):
        clock = Clock()
        take_turns({n: clock.takes(n, 1) for n in "abc"}, rounds=8, seed=seed)
        logs.append(clock.log)
    assert logs[0] == logs[1] != logs[2]
    assert len({logs[0][i : i + 3] for i in range(0, 24, 3)}) > 1


def test_the_slow_sit_out():
    clock = Clock()
    turns = {"quick": clock.takes("q", 1), "slow": clock.takes("s", 9)}
    found = take_turns(turns, rounds=SELDOM + 2, seldom=("slow",))
    assert [len(times) for times in found["quick"]] == [1] * (SELDOM + 2)
    assert [len(times) for times in found["slow"]] == [1] + [0] * (SELDOM - 1) + [1, 0]
