"""Timed calls with all that belongs to them: stages, sensors, a camera's pace, a long run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from edgeseg.benchmarks.job import Job
from edgeseg.benchmarks.latency import Around, Latency, summary_of, time_calls
from edgeseg.benchmarks.pacing import Camera, Pace
from edgeseg.benchmarks.power import Recorder, Span, throttling, to_conditions, to_power
from edgeseg.benchmarks.soak import Probe, resident_mib, soak
from edgeseg.runtime.sensors import Sensors

Steps = tuple[float | None, float, float]
"""Milliseconds of `prepare` (None: there is none), `engine` and `decode`."""
Call = Callable[[int], Steps]
"""(number of the call) -> how long its stages took."""


@dataclass(frozen=True)
class Timed:
    """What one stretch of timed calls gave; None for what was not asked or has no sensor."""

    latency: Latency
    stages: dict[str, Any]
    power: dict[str, Any] | None
    conditions: dict[str, Any] | None
    throttled: list[str] | None
    pace: dict[str, Any] | None


def time_steadily(call: Call, job: Job, sensors: Sensors, batch: int) -> Timed:
    """Time calls by the job's rule, at its pace, with an eye on the sensors."""
    camera = None if job.pace is None else Camera(job.pace)
    with Recorder(sensors) as recorder:
        latency, steps = time_calls(call, job.rule, batch=batch, around=_around(camera, recorder))
    span = recorder.span()
    return Timed(
        latency,
        _stages(steps, latency),
        to_power(span, batch * len(latency.samples)),
        to_conditions(span, sensors),
        throttling(span, sensors),
        None if camera is None else camera.to_dict(),
    )


def soak_steadily(
    call: Call,
    seconds: float,
    pace: Pace | None,
    sensors: Sensors,
    device: Callable[[], float | None],
) -> dict[str, Any]:
    """The form of `soak` in a row: drift, growth, and what the sensors said in each window."""
    camera = None if pace is None else Camera(pace)
    with Recorder(sensors, interval=1.0) as recorder:
        probe = Probe(resident_mib, device, _board(recorder))
        found = soak(call, seconds, probe, around=_around(camera, recorder))
    span = recorder.span()
    return {
        **found,
        "power": to_power(span, found["calls"]),
        "throttled": throttling(span, sensors),
        "pace": None if camera is None else camera.to_dict(),
    }


def _around(camera: Camera | None, recorder: Recorder) -> Around:
    if camera is None:
        return Around(recorder.begin)

    def begin() -> None:
        recorder.begin()
        camera.start()

    return Around(begin, camera.wait, camera.answer)


def _board(recorder: Recorder) -> Callable[[], dict[str, Any]]:
    """Mean watts and the hottest degree since the window before; nothing without sensors."""
    seen = 0

    def look() -> dict[str, Any]:
        nonlocal seen
        span = recorder.span()
        new = Span(span.begin, span.end, span.readings[seen:])
        seen = len(span.readings)
        watts = [r.total_w for _, r in new.readings if r.total_w is not None]
        degrees = [v for _, r in new.readings for v in r.temperatures_c.values()]
        found: dict[str, Any] = {}
        if span.readings and span.readings[0][1].rails_w:
            found["total_w"] = round(fmean(watts), 3) if watts else None
        if span.readings and span.readings[0][1].temperatures_c:
            found["hottest_c"] = round(max(degrees), 2) if degrees else None
        return found

    return look


def _stages(steps: Sequence[Steps], latency: Latency) -> dict[str, Any]:
    prepare = [s[0] for s in steps if s[0] is not None]
    return {
        "prepare": summary_of(prepare) if prepare else None,
        "engine": summary_of([s[1] for s in steps]),
        "decode": summary_of([s[2] for s in steps]),
        "call": latency.summary(),
    }
