"""A long run: does latency drift, does memory grow?"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from edgeseg.benchmarks.latency import Around
from edgeseg.errors import UsageError

WINDOWS = 60
"""At most so many parts of a run, each of a second or more."""

SHORTEST = 10.0
"""Seconds below which a drift can't be told from chance."""

HOURLY = 600.0
"""Seconds below which growth is not put down to an hour."""

DRIFT = 5.0
"""Percent by which latency may change from the first fifth of a run to the last."""

GROWTH_MIB, GROWTH_PERCENT = 2.0, 1.0
"""Memory has grown when it has by more than both."""


@dataclass(frozen=True)
class Probe:
    """What is looked at after each part of a run, in MiB; None where it can't be told."""

    host: Callable[[], float | None]
    device: Callable[[], float | None] = lambda: None
    board: Callable[[], dict[str, Any]] = dict


def check_soak(seconds: float) -> None:
    """UsageError for a run that is too short to tell anything."""
    if seconds < SHORTEST:
        raise UsageError(
            f"--soak {seconds:g}s is too short to tell drift from chance; give {SHORTEST:g}s or "
            "more, and 30m before you rely on it"
        )


def soak(
    call: Callable[[int], object],
    seconds: float,
    probe: Probe,
    *,
    around: Around | None = None,
    clock: Callable[[], float] = perf_counter,
) -> dict[str, Any]:
    """Call for so long; the form of `soak` in a row.

    Latency is kept window by window (median, most, number), so that the measurement itself does
    not make memory grow.
    """
    around = around or Around()
    parts = max(5, min(WINDOWS, int(seconds)))
    around.begin()
    begin, index = clock(), 0
    windows: list[dict[str, Any]] = []
    for part in range(1, parts + 1):
        end = begin + seconds * part / parts
        samples = array("d")
        while not samples or clock() < end:
            around.before()
            start = clock()
            call(index)
            samples.append((clock() - start) * 1e3)
            around.after()
            index += 1
        windows.append(
            {
                "t_s": round(clock() - begin, 3),
                "n": len(samples),
                "median_ms": round(median(samples), 3),
                "max_ms": round(max(samples), 3),
                "host_mib": probe.host(),
                "device_mib": probe.device(),
                **probe.board(),
            }
        )
    return {"seconds": round(clock() - begin, 3), **judged(windows), "windows": windows}


def judged(windows: list[dict[str, Any]]) -> dict[str, Any]:
    """Drift of latency and growth of memory, from the first fifth of the windows to the last."""
    before, after = _ends(windows, "median_ms")
    assert before is not None
    assert after is not None
    drift = 100 * (after / before - 1)
    host, device = _growth(windows, "host_mib"), _growth(windows, "device_mib")
    said = []
    if abs(drift) > DRIFT:
        said.append(
            f"latency {'rose' if drift > 0 else 'fell'} by {abs(drift):.1f} %, from {before:.2f} "
            f"to {after:.2f} ms"
        )
    for name, found in (("host", host), ("device", device)):
        if found and found["grew"]:
            said.append(f"{name} memory grew by {found['mib']:.1f} MiB")
    return {
        "calls": sum(w["n"] for w in windows),
        "max_ms": max(w["max_ms"] for w in windows),
        "first_ms": round(before, 3),
        "last_ms": round(after, 3),
        "drift_percent": round(drift, 2),
        "host_growth": host,
        "device_growth": device,
        "steady": not said,
        "found": said,
    }


def _ends(windows: list[dict[str, Any]], key: str) -> tuple[float | None, float | None]:
    """Medians of the first fifth and of the last."""
    fifth = max(1, len(windows) // 5)
    first = [w[key] for w in windows[:fifth] if w[key] is not None]
    last = [w[key] for w in windows[-fifth:] if w[key] is not None]
    return (median(first) if first else None, median(last) if last else None)


def _growth(windows: list[dict[str, Any]], key: str) -> dict[str, Any] | None:
    before, after = _ends(windows, key)
    if before is None or after is None:
        return None
    grown = after - before
    hours = (windows[-1]["t_s"] - windows[0]["t_s"]) * 0.8 / 3600  # from middle to middle
    long = windows[-1]["t_s"] >= HOURLY
    return {
        "first_mib": round(before, 2),
        "last_mib": round(after, 2),
        "mib": round(grown, 2),
        "mib_per_hour": round(grown / hours, 2) if long else None,
        "grew": grown > GROWTH_MIB and grown > before * GROWTH_PERCENT / 100,
    }


def resident_mib(process: Path = Path("/proc/self")) -> float | None:
    """MiB of this process that lie in memory now (VmRSS)."""
    return _status(process, "VmRSS")


def peak_mib(process: Path = Path("/proc/self")) -> float | None:
    """The most that `resident_mib` ever was (VmHWM)."""
    return _status(process, "VmHWM")


def _status(process: Path, key: str) -> float | None:
    try:
        status = (process / "status").read_text(encoding="ascii")
    except OSError:
        return None
    for line in status.splitlines():
        if line.startswith(f"{key}:"):
            return round(int(line.split()[1]) / 1024, 1)
    return None
