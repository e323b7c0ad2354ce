"""How long a call takes: every sample kept, percentiles only where the samples bear them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from time import perf_counter
from typing import Any, TypeVar

from edgeseg.errors import UsageError

R = TypeVar("R")

# fmt: off
PERCENTILES = {
    "p50":  Fraction(50, 100),
    "p90":  Fraction(90, 100),
    "p99":  Fraction(99, 100),
    "p999": Fraction(999, 1000),
}
# fmt: on


def needed(q: Fraction) -> int:
    """Samples below which percentile `q` is not reported: 10 / (1 - q)."""
    return int(10 / (1 - q))


@dataclass(frozen=True)
class StopRule:
    """When to stop: after `min_samples` and `min_seconds`, but never later than `max_seconds`.

    Warm-up comes before and apart: at least `warm_up_calls` calls and `warm_up_seconds`.
    """

    min_samples: int = 1000
    min_seconds: float = 3.0
    max_seconds: float = 20.0
    warm_up_calls: int = 3
    warm_up_seconds: float = 0.5

    def __post_init__(self) -> None:
        if self.min_samples < 1:
            raise UsageError(f"min_samples is {self.min_samples}; expected 1 or more")
        if not 0 <= self.min_seconds <= self.max_seconds:
            raise UsageError(
                f"timing for at least {self.min_seconds:g} s and at most {self.max_seconds:g} s: "
                "the first must be 0 or more and no larger than the second"
            )
        if self.warm_up_calls < 0 or self.warm_up_seconds < 0:
            raise UsageError("warm-up calls and seconds can't be negative")


@dataclass(frozen=True)
class Latency:
    """Milliseconds of each call, in the order in which they were made; `batch` frames a call."""

    samples: tuple[float, ...]
    batch: int = 1

    def percentile(self, q: Fraction) -> float | None:
        """The smallest sample with at least a share `q` of all samples at or below it.

        (Nearest rank: always a sample that was measured.) None below 10 / (1 - q) samples.
        """
        n = len(self.samples)
        if n < needed(q):
            return None
        return sorted(self.samples)[-(-q.numerator * n // q.denominator) - 1]

    @property
    def throughput(self) -> float:
        """Frames per second of calls made one after the other."""
        return self.batch * len(self.samples) * 1e3 / sum(self.samples)

    def summary(self) -> dict[str, float | int | None]:
        """Keys p50, p90, p99, p999, max, n; a percentile without enough samples is None."""
        found: dict[str, float | int | None] = {}
        for name, q in PERCENTILES.items():
            value = self.percentile(q)
            found[name] = None if value is None else round(value, 3)
        return {**found, "max": round(max(self.samples), 3), "n": len(self.samples)}

    def to_dict(self) -> dict[str, Any]:
        """`summary` and the samples themselves; all in steps of a microsecond."""
        return {**self.summary(), "samples": [round(s, 3) for s in self.samples]}


@dataclass(frozen=True)
class Around:
    """What else is done: once when warm-up is over, and before and after each timed call."""

    begin: Callable[[], object] = lambda: None
    before: Callable[[], object] = lambda: None
    after: Callable[[], object] = lambda: None


def time_calls(
    call: Callable[[int], R],
    rule: StopRule,
    *,
    batch: int = 1,
    clock: Callable[[], float] = perf_counter,
    around: Around | None = None,
) -> tuple[Latency, list[R]]:
    """Call `call(0)`, `call(1)`, ... until `rule` says stop; latencies, and what was returned.

    `clock` gives seconds and never goes back. Warm-up calls count from 0 too and are dropped.
    What `around` does is in no sample.
    """
    around = around or Around()
    _warm_up(call, rule, clock)
    around.begin()
    samples: list[float] = []
    results: list[R] = []
    begin = clock()
    while True:
        around.before()
        start = clock()
        results.append(call(len(samples)))
        end = clock()
        around.after()
        samples.append((end - start) * 1e3)
        elapsed = end - begin
        enough = len(samples) >= rule.min_samples and elapsed >= rule.min_seconds
        if enough or elapsed >= rule.max_seconds:
            return Latency(tuple(samples), batch), results


def _warm_up(call: Callable[[int], object], rule: StopRule, clock: Callable[[], float]) -> None:
    begin, calls = clock(), 0
    while calls < rule.warm_up_calls or clock() - begin < rule.warm_up_seconds:
        call(calls)
        calls += 1


def summary_of(samples: Sequence[float]) -> dict[str, float | int | None]:
    """`Latency.summary` of plain milliseconds."""
    return Latency(tuple(samples)).summary()
