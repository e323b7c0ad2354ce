"""Contestants take turns, so that what disturbs the machine for seconds meets all of them.

In a round each has one turn of some calls, in an order drawn anew. The first calls of a turn, in
which caches and threads come back, and the first round may be left out.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from time import perf_counter

import numpy as np

Turn = Callable[[int], Sequence[float]]
"""How many calls -> the milliseconds of each."""
SELDOM = 8
"""Who is slow takes part in every eighth round."""


def turn_of(call: Callable[[int], object], clock: Callable[[], float] = perf_counter) -> Turn:
    """A turn makes `call(0)`, `call(1)`, ...; `clock` gives seconds."""

    def turn(calls: int) -> list[float]:
        times = []
        for index in range(calls):
            begin = clock()
            call(index)
            times.append((clock() - begin) * 1e3)
        return times

    return turn


def take_turns(
    turns: Mapping[str, Turn],
    *,
    rounds: int,
    calls: int = 1,
    dropped: int = 0,
    warm_up: int = 0,
    seldom: Collection[str] = (),
    seed: int = 0,
) -> dict[str, list[list[float]]]:
    """Name -> for each round the milliseconds of `calls` calls, after `dropped` that are not kept.

    `warm_up` rounds come first and are not kept. Those in `seldom` sit out all but every SELDOM-th
    round: the milliseconds of such a round are an empty list.
    """
    random, names = np.random.default_rng(seed), list(turns)
    found: dict[str, list[list[float]]] = {name: [] for name in names}
    for number in range(-warm_up, rounds):
        for index in random.permutation(len(names)):
            name = names[int(index)]
            takes_part = name not in seldom or number % SELDOM == 0
            times = list(turns[name](dropped + calls)[dropped:]) if takes_part else []
            if number >= 0:
                found[name].append(times)
    return found
