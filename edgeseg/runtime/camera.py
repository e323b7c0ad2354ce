"""A source of frames that is read in a thread of its own, and opened again when it falls silent."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeseg.errors import EngineError, UsageError

ATTEMPTS = 5
"""How often a source is opened again without a frame in between."""
PAUSE = 1.0
"""Seconds between two attempts after an error."""
LEFT_BEHIND = 3
"""Threads stuck inside a read of an abandoned source, above which no new one is started."""


@dataclass(frozen=True)
class Captured:
    """A frame, and when it was taken in seconds of the stream's clock (`time.monotonic`)."""

    frame: np.ndarray
    at: float


Frames = Iterable["np.ndarray | Captured"]
Source = Frames | Callable[[], Frames]
"""Frames, each in its own memory; or a function that opens the camera and returns them."""


def check_source(name: str, source: object) -> None:
    """UsageError unless `source` holds frames, or is a function that may return some."""
    if not callable(source) and not _may_hold_frames(source):
        raise UsageError(
            f"the source of camera '{name}' is a {type(source).__name__}; expected frames, or a "
            "function that opens the camera and yields them, as in examples/opencv_loop.py"
        )


def _may_hold_frames(source: object) -> bool:
    one_by_one = hasattr(source, "__iter__") or hasattr(source, "__getitem__")
    return one_by_one and not isinstance(source, (str, bytes, os.PathLike))


@dataclass
class Counters:
    """What became of a camera's frames. Once the stream is closed, taken = delivered + dropped.

    `late` ones are among the delivered. `stalls` counts how often the source fell silent or failed.
    """

    taken: int = 0
    dropped: int = 0
    delivered: int = 0
    late: int = 0
    stalls: int = 0


@dataclass(frozen=True)
class Shot:
    """A frame on its way: `number` counts the frames of its camera from 0."""

    camera: Camera
    frame: np.ndarray
    number: int
    captured: float


class Camera:
    """One source. Whoever touches it holds `change`, the condition that a whole stream shares.

    `room` frames wait at most; with `newest` an old one makes room for a new one, else the source
    waits. `error` is set once nothing helps any more.
    """

    def __init__(
        self,
        name: str,
        source: Source,
        change: threading.Condition,
        clock: Callable[[], float],
        *,
        room: int,
        newest: bool,
        watchdog: float | None,
    ) -> None:
        self.name = name
        self.counters = Counters()
        self.waiting: deque[Shot] = deque()
        self.ended = False
        self.error: BaseException | None = None
        self._source, self._change, self._clock = source, change, clock
        self._room, self._newest, self._watchdog = room, newest, watchdog
        self._run = 0  # the reader that is listened to; others are left behind
        self._asked: float | None = None  # since when the source owes a frame
        self._failure: BaseException | None = None
        self._failed_at = 0.0
        self._attempts = 0
        self._threads: list[threading.Thread] = []

    def open(self) -> None:
        """Start to read; a reader before it is no longer listened to."""
        self._run += 1
        self._asked, self._failure = self._clock(), None
        self._threads = [t for t in self._threads if t.is_alive()]
        name = f"edgeseg camera {self.name}"
        thread = threading.Thread(target=self._read, args=(self._run,), name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def close(self) -> None:
        """Listen no more. A reader ends with the read that it is in."""
        self._run += 1
        self._asked, self._failure, self.ended = None, None, True

    def join(self, timeout: float) -> None:
        """Wait for the readers, without `change`."""
        for thread in self._threads:
            thread.join(timeout)

    def watch(self, now: float) -> None:
        """Open the source again where it is silent or failed, or give it up: sets `error`."""
        if self.ended or self.error is not None:
            return
        if self._failure is not None:
            hopeless = not callable(self._source) or isinstance(self._failure, UsageError)
            if hopeless or self._attempts >= ATTEMPTS:
                self._give_up(self._failure)
            elif now - self._failed_at >= (PAUSE if self._attempts else 0):
                self._attempts += 1
                self.open()
        elif self._is_silent(now):
            self.counters.stalls += 1
            stuck = sum(thread.is_alive() for thread in self._threads)
            if callable(self._source) and self._attempts < ATTEMPTS and stuck <= LEFT_BEHIND:
                self._attempts += 1
                self.open()
            else:
                self._give_up(EngineError(self._silence()))

    @property
    def needs_watching(self) -> bool:
        """Whether time alone can change something."""
        return not self.ended and (self._watchdog is not None or self._failure is not None)

    def _is_silent(self, now: float) -> bool:
        since, patience = self._asked, self._watchdog
        return since is not None and patience is not None and now - since > patience

    def _silence(self) -> str:
        said = f"camera '{self.name}': no frame for {self._watchdog:g} s"
        if self._attempts:
            said += f", and it was opened again {self._attempts} times"
        advice = "is it (or the disk) still there?"
        if not callable(self._source):
            advice += " A function that opens it, given as the source, would be called again"
        return f"{said}; {advice}"

    def _give_up(self, error: BaseException) -> None:
        self.close()
        self.error = error

    def _read(self, run: int) -> None:
        """The thread: open, read, close."""
        opened: list[Any] = []
        error: BaseException | None = None
        try:
            frames = self._source
            if callable(frames):
                frames = frames()
                if not _may_hold_frames(frames):
                    raise UsageError(
                        f"the function that opens camera '{self.name}' returned a "
                        f"{type(frames).__name__}; expected frames: does it yield them?"
                    )
                opened.append(frames)
            iterator = iter(frames)
            if iterator is not frames or not opened:
                opened.insert(0, iterator)
            for item in iterator:
                if not self._put(item, run):
                    break
        except BaseException as raised:
            error = raised
        for closing in opened:
            try:
                getattr(closing, "close", _nothing)()
            except BaseException as raised:
                error = error or raised
        self._end(run, error)

    def _put(self, item: np.ndarray | Captured, run: int) -> bool:
        """Let a frame wait; False where nobody listens any more."""
        at = self._clock()
        frame = item
        if isinstance(item, Captured):
            frame, at = item.frame, item.at
        with self._change:
            if run != self._run:
                return False
            shot = Shot(self, frame, self.counters.taken, at)  # type: ignore[arg-type]
            self.counters.taken += 1
            self._asked, self._attempts = None, 0
            while self._newest and len(self.waiting) >= self._room:
                self.waiting.popleft()
                self.counters.dropped += 1
            self._change.wait_for(lambda: run != self._run or len(self.waiting) < self._room)
            if run != self._run:
                return False
            self.waiting.append(shot)
            self._asked = self._clock()
            self._change.notify_all()
        return True

    def _end(self, run: int, error: BaseException | None) -> None:
        with self._change:
            if run != self._run:
                return
            self._asked = None
            if error is None:
                self.ended = True
            else:
                self._failure, self._failed_at = error, self._clock()
                self.counters.stalls += 1
            self._change.notify_all()


def _nothing() -> None:
    pass
