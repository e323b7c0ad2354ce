"""A race: contestants that turn the same camera frames into labels, in turns, as ratios.

Each contestant is a process of its own (`race_worker`) that waits while another runs. In a round
each makes some calls, in an order drawn anew; the first calls of a turn, in which caches and
threads come back, are not counted. A ratio is taken round by round, so what disturbs the machine
for seconds meets both sides of it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import IO, Any

import numpy as np

from edgeseg.benchmarks.latency import summary_of
from edgeseg.benchmarks.measure import Watch
from edgeseg.benchmarks.turns import take_turns
from edgeseg.errors import EngineError

DRAWS = 2000
DROPPED = 2
"""Calls at the start of a turn that are not counted."""


@dataclass(frozen=True)
class Contestant:
    """Who takes part: `entry` is what `race_worker` opens; `against` is whose time divides."""

    name: str
    title: str
    precision: str
    entry: dict[str, Any]
    against: str


class Worker:
    """The process of one contestant; close it or use it in a `with`."""

    def __init__(self, contestant: Contestant, threads: int) -> None:
        self.name = contestant.name
        words = [sys.executable, "-m", "edgeseg.benchmarks.race_worker"]
        limits = {key: str(threads) for key in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            [*words, json.dumps(contestant.entry)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors,
            text=True, env={**os.environ, **limits},
        )  # fmt: skip
        self.version = str(self._answer()["ready"])

    def run(self, calls: int) -> list[float]:
        """Milliseconds of so many calls."""
        return [float(ms) for ms in self._order(f"run {calls}")]

    def labels(self) -> np.ndarray:
        """(N, h, w) uint8 labels of all frames."""
        with tempfile.TemporaryDirectory(prefix="edgeseg-race-") as scratch:
            path = Path(scratch) / "labels.npy"
            self._order(f"labels {path}")
            found: np.ndarray = np.load(path)
            return found

    def cpu_seconds(self) -> float:
        """What the process has used of all cores so far."""
        stat = Path(f"/proc/{self._process.pid}/stat").read_text(encoding="ascii")
        user, system = stat.rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process; closing twice is fine."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._errors):
            if pipe is not None:
                pipe.close()

    def _order(self, line: str) -> Any:
        stdin: IO[str] | None = self._process.stdin
        assert stdin is not None
        try:
            print(line, file=stdin, flush=True)
        except BrokenPipeError:
            raise self._died() from None
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._died()
        return json.loads(line)

    def _died(self) -> EngineError:
        code = self._process.wait()
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").strip().splitlines()
        why = f"killed by signal {-code}" if code < 0 else (said or ["it said nothing"])[-1]
        self.close()
        return EngineError(f"{self.name} can't take part: {why}")


def run_race(
    workers: Sequence[Worker], *, rounds: int, calls: int, dropped: int = DROPPED
) -> dict[str, np.ndarray]:
    """Name -> (rounds, calls) milliseconds. A first round is warm-up and is not kept."""
    turns = {worker.name: worker.run for worker in workers}
    times = take_turns(turns, rounds=rounds, calls=calls, dropped=dropped, warm_up=1)
    return {name: np.array(found) for name, found in times.items()}


class Others:
    """How many cores programs that are no contestant keep busy from its making to `cores`."""

    def __init__(self, workers: Sequence[Worker]) -> None:
        self._workers, self._watch = workers, Watch()
        self._begin, self._used = perf_counter(), self._sum()

    def cores(self) -> float | None:
        """None where the system does not tell or less than a second went by."""
        self._watch.stop()
        if self._watch.cores is None:
            return None
        used = (self._sum() - self._used) / (perf_counter() - self._begin)
        return round(max(0.0, self._watch.cores - used), 2)

    def _sum(self) -> float:
        return sum(worker.cpu_seconds() for worker in self._workers)


def ratio(times: np.ndarray, ours: np.ndarray, seed: int = 0) -> list[float]:
    """(rounds, calls) of a contestant and of ours -> [low, median, high] of time over ours.

    One quotient a round, of the medians of its calls; the middle is their median, the bounds hold
    95 % of the medians of rounds drawn with replacement.
    """
    quotients = np.median(times, 1) / np.median(ours, 1)
    drawn = np.random.default_rng(seed).choice(quotients, (DRAWS, len(quotients)))
    low, high = np.percentile(np.median(drawn, 1), (2.5, 97.5))
    return [round(float(v), 3) for v in (low, np.median(quotients), high)]


def results(
    contestants: Sequence[Contestant],
    versions: dict[str, str],
    times: dict[str, np.ndarray],
    labels: dict[str, np.ndarray],
    inside: np.ndarray,
    reference: str,
) -> list[dict[str, Any]]:
    """One row a contestant, from the fastest on.

    `agreement` is the percent of labels that are those of `reference` where `inside` (N, h, w) is
    true: not in the padding. None for a contestant of other classes or another size.
    """
    rows = []
    for c in contestants:
        if c.name not in times:
            continue
        ms = times[c.name]
        rows.append(
            {
                "name": c.name,
                "title": c.title,
                "precision": c.precision,
                "version": versions[c.name],
                "p50_ms": round(float(np.median(ms)), 3),
                "against": c.against,
                "ratio": ratio(ms, times[c.against]) if c.against in times else None,
                "agreement": _agreement(c, labels, inside, reference),
                "latency_ms": summary_of(ms.ravel().tolist()),
                "rounds_ms": [round(float(v), 3) for v in np.median(ms, 1)],
            }
        )
    return sorted(rows, key=lambda row: float(str(row["p50_ms"])))


def _agreement(
    c: Contestant, labels: dict[str, np.ndarray], inside: np.ndarray, reference: str
) -> float | None:
    own, other = labels.get(c.name), labels.get(reference)
    if own is None or other is None or own.shape != other.shape:
        return None
    return round(100.0 * float(np.mean((own == other)[inside])), 3)
