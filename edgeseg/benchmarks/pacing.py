"""A camera that runs at its own pace: which frames are late, which are lost, how even the answers.

Frame k arrives at k / fps seconds, whatever the network does. It is given to the newest frame that
has arrived; those that it was too slow for are lost. Waiting lets caches and clocks fall asleep, as
they do on a robot, so paced calls are often slower than calls made one after the other.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from time import perf_counter
from typing import Any

from edgeseg.benchmarks.latency import Around, summary_of
from edgeseg.errors import UsageError


@dataclass(frozen=True)
class Pace:
    """Frames a second, and milliseconds from a frame's arrival until its labels are due."""

    fps: float
    deadline_ms: float

    def __post_init__(self) -> None:
        if not 0 < self.fps <= 10_000:
            raise UsageError(f"--fps is {self.fps:g}; expected a number above 0, up to 10000")
        if not self.deadline_ms > 0:
            raise UsageError(f"--deadline-ms is {self.deadline_ms:g}; expected more than 0")


class Camera:
    """Waits for frames that come at `pace`, and notes when each was answered."""

    def __init__(
        self,
        pace: Pace,
        clock: Callable[[], float] = perf_counter,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._pace, self._clock, self._sleep = pace, clock, sleep
        self.start()

    def start(self) -> None:
        """Frame 0 arrives now; what was noted before is forgotten."""
        self._begin = self._clock()
        self._next = 0
        self._due = 0.0
        self._lost = 0
        self._responses: list[float] = []
        self._answers: list[float] = []

    def wait(self) -> None:
        """Return when the next frame has arrived: at once if the last call took too long."""
        elapsed = self._clock() - self._begin
        newest = math.floor(elapsed * self._pace.fps + 1e-9)
        if newest > self._next:
            self._lost += newest - self._next
            self._next = newest
        self._due = self._next / self._pace.fps
        if self._due > elapsed:
            self._sleep(self._due - elapsed)
        self._next += 1

    def answer(self) -> None:
        """The labels of the frame that `wait` gave are there."""
        now = self._clock() - self._begin
        self._responses.append((now - self._due) * 1e3)
        self._answers.append(now * 1e3)

    @property
    def around(self) -> Around:
        """For `time_calls`: frame 0 comes when warm-up is over."""
        return Around(self.start, self.wait, self.answer)

    def to_dict(self) -> dict[str, Any]:
        """The form of `pace` in a row.

        `response_ms` is from a frame's arrival to its labels; `jitter_ms` is by how much the time
        between two answers departs from the camera's period. `missed` are answers after their
        deadline and frames that were never looked at (`lost`).
        """
        late = sum(r > self._pace.deadline_ms for r in self._responses)
        frames = len(self._responses) + self._lost
        period = 1e3 / self._pace.fps
        gaps = [abs(b - a - period) for a, b in pairwise(self._answers)]
        return {
            "fps": self._pace.fps,
            "deadline_ms": self._pace.deadline_ms,
            "frames": frames,
            "late": late,
            "lost": self._lost,
            "missed": late + self._lost,
            "missed_percent": round(100 * (late + self._lost) / frames, 3) if frames else None,
            "response_ms": summary_of(self._responses) if self._responses else None,
            "jitter_ms": summary_of(gaps) if gaps else None,
        }
