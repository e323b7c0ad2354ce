"""What a board draws, how warm it gets and whether it slows itself down while it is timed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from time import perf_counter
from types import TracebackType
from typing import Any

from edgeseg.runtime.sensors import Reading, Sensors, total_of

INTERVAL = 0.2
"""Seconds between two readings: the meters average over about so long themselves."""

Series = list[tuple[float, Reading]]


@dataclass(frozen=True)
class Span:
    """Readings from `begin` to `end` seconds; the first and the last stand for what is outside."""

    begin: float
    end: float
    readings: Sequence[tuple[float, Reading]]


class Recorder:
    """Reads the sensors from a thread of its own, from the start of a `with` to its end."""

    def __init__(
        self,
        sensors: Sensors,
        interval: float = INTERVAL,
        clock: Callable[[], float] = perf_counter,
    ) -> None:
        self._sensors, self._interval, self._clock = sensors, interval, clock
        self._series: Series = []
        self._begin = self._end = 0.0
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Recorder:
        self.begin()
        if self._sensors:
            self._thread = threading.Thread(target=self._run, name="edgeseg-sensors", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end = self._clock()
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()
            self._look()

    def begin(self) -> None:
        """What is of interest begins now; what was read before is forgotten."""
        if self._sensors:
            first = (self._clock(), self._sensors.read())
            self._series = [first]
        self._begin = self._clock()

    def span(self) -> Span:
        """What was read since `begin`."""
        return Span(self._begin, self._end or self._clock(), tuple(self._series))

    def _run(self) -> None:
        while not self._stopped.wait(self._interval):
            self._look()

    def _look(self) -> None:
        now = self._clock()
        self._series.append((now, self._sensors.read()))


def energy(span: Span) -> float | None:
    """Joules that the module took: watts times seconds between readings (trapezoids)."""
    watts = [(t, r.total_w) for t, r in span.readings if r.total_w is not None]
    if not watts:
        return None
    inside = [(min(max(t, span.begin), span.end), w) for t, w in watts]
    points = [(span.begin, inside[0][1]), *inside, (span.end, inside[-1][1])]
    return sum((b - a) * (v + w) / 2 for (a, v), (b, w) in pairwise(points))


def to_power(span: Span, frames: int) -> dict[str, Any] | None:
    """The form of `power` in a row: watts, and millijoules a frame; None without a meter."""
    if not any(r.rails_w for _, r in span.readings):
        return None
    joules = energy(span)
    totals = [r.total_w for _, r in span.readings if r.total_w is not None]
    return {
        "total_w": _spread(totals),
        "total_is": list(total_of(span.readings[0][1].rails_w)),
        "rails_w": _by_name(span, lambda r: r.rails_w),
        "energy_j": None if joules is None else round(joules, 3),
        "energy_mj_per_frame": None if joules is None else round(joules * 1e3 / frames, 3),
    }


def to_conditions(span: Span, sensors: Sensors) -> dict[str, Any] | None:
    """The form of `conditions` in a row; None on a machine without sensors.

    Temperatures, clocks (with what is allowed), how busy the memory was, fan, and every reading, so
    that a slow call can be laid beside what the board did at that time. `unread` says what a board
    has and did not show.
    """
    if not span.readings:
        return None
    limits = sensors.clocks()
    clocks = _by_name(span, lambda r: r.clocks_mhz)
    for name, clock in clocks.items():
        if name in limits:
            clock.update(allowed=[limits[name].low, limits[name].high], locked=limits[name].locked)
    fans = [r.fan_percent for _, r in span.readings if r.fan_percent is not None]
    busy = [r.emc_percent for _, r in span.readings if r.emc_percent is not None]
    return {
        "readings": len(span.readings),
        "temperatures_c": _by_name(span, lambda r: r.temperatures_c),
        "clocks_mhz": clocks,
        "emc_percent": _spread(busy),
        "fan_percent": _spread(fans),
        "unread": list(sensors.unread),
        "samples": _samples(span),
    }


def throttling(span: Span, sensors: Sensors) -> list[str] | None:
    """A sentence for each way in which the machine slowed itself down; None if it doesn't tell."""
    if not sensors.tells_throttling:
        return None
    if not span.readings:
        return []
    said = []
    states: dict[str, int] = {}
    for _, reading in span.readings:
        for name, state in reading.caps.items():
            states[name] = max(state, states.get(name, 0))
    for name, state in states.items():
        seen = sum(name in r.caps for _, r in span.readings)
        said.append(
            f"{name} held it back in {seen} of {len(span.readings)} readings (state {state})"
        )
    first, last = span.readings[0][1].events, span.readings[-1][1].events
    for name, count in last.items():
        more = count - first.get(name, count)
        if more > 0:
            said.append(f"{name}: {more} time{'' if more == 1 else 's'}")
    return said


def _spread(values: Sequence[float]) -> dict[str, float] | None:
    """Mean, least and most."""
    if not values:
        return None
    return {
        "mean": round(fmean(values), 3),
        "min": round(min(values), 3),
        "max": round(max(values), 3),
    }


def _by_name(span: Span, read: Callable[[Reading], dict[str, float]]) -> dict[str, dict[str, Any]]:
    found = {}
    for name in dict.fromkeys(n for _, r in span.readings for n in read(r)):
        spread = _spread([v for _, r in span.readings if (v := read(r).get(name)) is not None])
        if spread is not None:
            found[name] = dict(spread)
    return found


def _samples(span: Span) -> dict[str, Any]:
    """Every reading, column by column; `t_s` counts from the first timed call."""
    readings = span.readings

    def column(read: Callable[[Reading], dict[str, float]]) -> dict[str, list[float | None]]:
        names = dict.fromkeys(n for _, r in readings for n in read(r))
        return {n: [_rounded(read(r).get(n)) for _, r in readings] for n in names}

    return {
        "t_s": [round(t - span.begin, 3) for t, _ in readings],
        "total_w": [_rounded(r.total_w) for _, r in readings],
        "rails_w": column(lambda r: r.rails_w),
        "temperatures_c": column(lambda r: r.temperatures_c),
        "clocks_mhz": column(lambda r: r.clocks_mhz),
        "emc_percent": [_rounded(r.emc_percent) for _, r in readings],
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
