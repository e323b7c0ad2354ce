"""A calibrating process under watch: how long, how much memory, and why it ended.

Running out of memory or of time is a result. The cap is on what the process holds (resident memory
of it and what it starts), not on addresses: engines reserve many gigabytes that they never touch.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

EVERY = 0.05
"""Seconds between two looks."""
STATES = ("done", "out of memory", "timed out", "failed")


@dataclass(frozen=True)
class Ran:
    """`state` is one of STATES; `reason` says why it is not "done".

    `seconds` by the clock, which other programs make longer, and of all cores together.
    """

    state: str
    reason: str
    seconds: float | None = None
    cpu_seconds: float | None = None
    peak_mib: float | None = None


def run_watched(
    words: Sequence[str], log: Path, *, cap_mib: int, limit_seconds: float, every: float = EVERY
) -> Ran:
    """Run a program to its end, or kill it past `cap_mib` or `limit_seconds`; output goes to `log`.

    Peak memory is the largest sum, of any look, of the process (its own peak so far) and of what it
    has started and still runs; of pages that those share they count their part.
    """
    begin, used = time.monotonic(), _cpu_seconds()
    peak = 0.0
    stopped = ""
    with log.open("wb") as file:
        process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
        )
        try:
            while process.poll() is None:
                own, *others = _descendants(process.pid)
                peak = max(peak, _peak_mib(own) + sum(_shared_mib(pid) for pid in others))
                if peak > cap_mib:
                    stopped = "out of memory"
                elif time.monotonic() - begin > limit_seconds:
                    stopped = "timed out"
                if stopped:
                    break
                time.sleep(every)
        finally:
            _kill(process)
    seconds, used = time.monotonic() - begin, _cpu_seconds() - used
    state, reason = _verdict(stopped, process.returncode, log, cap_mib, limit_seconds)
    return Ran(state, reason, *(round(v, 1) for v in (seconds, used, peak)))


def _verdict(
    stopped: str, code: int, log: Path, cap_mib: int, limit_seconds: float
) -> tuple[str, str]:
    if stopped == "out of memory":
        return stopped, f"more than {cap_mib} MiB"
    if stopped == "timed out":
        return stopped, f"more than {limit_seconds:g} s"
    if code == 0:
        return "done", ""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    last = lines[-1].strip() if lines else "it said nothing"
    if "MemoryError" in last or "bad_alloc" in last:
        return "out of memory", last
    return "failed", f"killed by signal {-code}" if code < 0 else last


def _cpu_seconds() -> float:
    """Of all processes that this one has started and that have ended."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return ended.ru_utime + ended.ru_stime


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End the process, and what it started, if it still runs."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _descendants(pid: int) -> list[int]:
    """The process and all below it that still run."""
    found = [pid]
    for parent in found:
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            found += [int(word) for word in _read(children).split()]
    return found


def _peak_mib(pid: int) -> float:
    """Peak resident memory of a process so far (VmHWM), 0 once it has ended."""
    for line in _read(Path(f"/proc/{pid}/status")).splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return 0.0


def _shared_mib(pid: int) -> float:
    """Memory of a process now, what it shares divided by its sharers (Pss); 0 once it has ended."""
    for line in _read(Path(f"/proc/{pid}/smaps_rollup")).splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    return 0.0


def _read(path: Path) -> str:
    """The text of a file of /proc, "" when the process is gone."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
