"""Cameras -> labels; reading, preparation, engine, decode and the caller run side by side."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from os import PathLike
from types import TracebackType
from typing import TypeVar

import numpy as np

from edgeseg.errors import EngineError, UsageError, guess
from edgeseg.runtime.camera import Camera, Captured, Counters, Shot, Source, check_source
from edgeseg.runtime.segmenter import Segmenter, Stages, Workspace, load

__all__ = ["POLICIES", "Captured", "Counters", "Segmented", "Stream", "stream"]

T = TypeVar("T")
POLICIES = {
    "newest": "a frame that waits is dropped when a newer one comes: for cameras",
    "every": "the source waits: for files",
}
TICK = 0.01
"""Seconds between two looks at a camera that is watched."""
PATIENCE = 1.0
"""Seconds that `close` waits for a thread."""


@dataclass(frozen=True)
class Segmented:
    """A frame with its labels.

    `labels` (H, W) uint8 are the caller's own. `number` counts the camera's frames from 0, dropped
    ones too. `captured` is in seconds of the stream's clock, `age` the seconds from then until it
    was handed over, and `late` says that `age` is beyond the deadline.
    """

    frame: np.ndarray
    labels: np.ndarray
    stages: Stages
    camera: str
    number: int
    captured: float
    age: float = 0.0
    late: bool = False


def stream(
    segmenter: Segmenter | str | PathLike[str],
    source: Source | Mapping[str, Source],
    frames: str | None = None,
    *,
    policy: str = "newest",
    queue: int = 2,
    depth: int = 2,
    deadline: float | None = None,
    watchdog: float | None = None,
    clock: Callable[[], float] = time.monotonic,
    threads: int | None = None,
    inference_precision: str | None = None,
    allow_ungated: bool = False,
) -> Stream:
    """Iterate over `Segmented` frames of one camera, or of several by name, on one engine.

    `segmenter` is an open one, or an engine folder, which is loaded for `frames` (as `load` has it)
    and released at the end. A source yields frames, each in its own memory, or `Captured` ones that
    carry their time; a function that returns such frames is called again when they stop.

    With policy "newest" each camera has one frame waiting and one result, and a newer one takes its
    place; with "every" up to `queue` of each wait, and then the source does. `depth` frames are
    between preparation and labels at a time; 1 gives the least age, 2 the most frames per second.

    A result older than `deadline` seconds when it is handed over is marked late. A camera that owes
    a frame for `watchdog` seconds is opened again if its source is a function, else (or when that
    does not help) an EngineError; so is an engine that takes as long. Errors of sources and engine
    are raised in the caller's loop, after the frames before them. `close`, or the end of a `with`,
    stops all threads.
    """
    _check(policy, queue, depth, deadline, watchdog)
    cameras = dict(source) if isinstance(source, Mapping) else {"camera": source}
    if not cameras:
        raise UsageError("source holds no camera; expected one or more")
    for name, each in cameras.items():
        check_source(name, each)
    opened = isinstance(segmenter, Segmenter)
    if isinstance(segmenter, Segmenter):
        if frames is not None:
            raise UsageError(f"frames is '{frames}', but the Segmenter that is given knows its own")
    elif frames is None:
        raise UsageError('frames is missing: the order of the camera\'s colours, such as "bgr"')
    else:
        segmenter = load(
            segmenter, frames=frames, threads=threads,
            inference_precision=inference_precision, allow_ungated=allow_ungated,
        )  # fmt: skip
    return Stream(
        segmenter, cameras, newest=policy == "newest", queue=queue, depth=depth,
        deadline=deadline, watchdog=watchdog, clock=clock, owned=not opened,
    )  # fmt: skip


def _check(
    policy: str, queue: int, depth: int, deadline: float | None, watchdog: float | None
) -> None:
    if policy not in POLICIES:
        raise UsageError(f"unknown policy '{policy}'.{guess(policy, POLICIES)}")
    for name, count in (("queue", queue), ("depth", depth)):
        if count < 1:
            raise UsageError(f"{name} is {count}; expected 1 or more frames")
    for name, seconds in (("deadline", deadline), ("watchdog", watchdog)):
        if seconds is not None and not seconds > 0:
            raise UsageError(f"{name} is {seconds:g}; expected more than 0 seconds, or None")


@dataclass
class _Job:
    """A frame between preparation and labels."""

    shot: Shot
    work: Workspace


class Stream(Iterator[Segmented]):
    """What `stream` returns: an iterator that can be closed, and counts what becomes of frames."""

    def __init__(
        self,
        segmenter: Segmenter,
        cameras: Mapping[str, Source],
        *,
        newest: bool,
        queue: int,
        depth: int,
        deadline: float | None,
        watchdog: float | None,
        clock: Callable[[], float],
        owned: bool,
    ) -> None:
        self.segmenter = segmenter
        self._owned, self._newest, self._queue = owned, newest, queue
        self._deadline, self._watchdog, self._clock = deadline, watchdog, clock
        self._change = threading.Condition()
        self._cameras = [
            Camera(
                name, source, self._change, clock,
                room=1 if newest else queue, newest=newest, watchdog=watchdog,
            )
            for name, source in cameras.items()
        ]  # fmt: skip
        self._turn = deque(self._cameras)  # whose frame is prepared next
        self._free = deque(Workspace() for _ in range(depth))
        self._prepared: deque[_Job | None] = deque()  # None: nothing follows
        self._inferred: deque[_Job | None] = deque()
        self._done: deque[Segmented] = deque()
        self._error: BaseException | None = None
        self._broken = self._finished = self._closed = False
        self._busy: tuple[float, Shot] | None = None  # since when the engine is at which frame
        steps: tuple[tuple[str, Callable[[], None], deque[_Job | None]], ...] = (
            ("prepare", self._prepare, self._prepared),
            ("engine", self._infer, self._inferred),
            ("decode", self._decode, deque()),
        )
        self._threads = [
            threading.Thread(
                target=self._guard, args=(step, after), name=f"edgeseg {name}", daemon=True
            )
            for name, step, after in steps
        ]
        with self._change:
            for camera in self._cameras:
                camera.open()
        for thread in self._threads:
            thread.start()

    def __next__(self) -> Segmented:
        with self._change:
            while not (self._done or self._finished or self._closed):
                self._check_engine()
                self._change.wait(TICK if self._watchdog else None)
            if self._done and not self._closed:
                return self._deliver(self._done.popleft())
            error, self._error = self._error, None
        self.close()
        if error is not None:
            raise error
        raise StopIteration

    @property
    def cameras(self) -> dict[str, Counters]:
        """The counters of each camera, as they are now."""
        with self._change:
            return {camera.name: _sum([camera.counters]) for camera in self._cameras}

    @property
    def counters(self) -> Counters:
        """Those of all cameras together."""
        return _sum(list(self.cameras.values()))

    def close(self) -> None:
        """Stop all threads and let go of what waits, which counts as dropped; twice is fine.

        A source that is stuck inside a read is left behind; it ends with its read.
        """
        with self._change:
            already, self._closed = self._closed, True
            self._stop_cameras()
            for camera in self._cameras:
                camera.waiting.clear()
                camera.counters.dropped = camera.counters.taken - camera.counters.delivered
            self._done.clear()
            self._change.notify_all()
        if already:
            return
        for thread in self._threads:
            thread.join(PATIENCE)
        for camera in self._cameras:
            camera.join(PATIENCE)
        if self._owned:
            self.segmenter.close()

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _deliver(self, result: Segmented) -> Segmented:
        age = self._clock() - result.captured
        late = self._deadline is not None and age > self._deadline
        counters = next(c.counters for c in self._cameras if c.name == result.camera)
        counters.delivered += 1
        counters.late += late
        self._change.notify_all()
        return Segmented(
            result.frame, result.labels, result.stages, result.camera, result.number,
            result.captured, age, late,
        )  # fmt: skip

    def _check_engine(self) -> None:
        """An engine that hangs ends the stream."""
        if self._busy is None or self._watchdog is None:
            return
        since, shot = self._busy
        if self._clock() - since > self._watchdog:
            self._error = EngineError(
                f"the engine is at frame {shot.number} of camera '{shot.camera.name}' for more "
                f"than {self._watchdog:g} s; a longer watchdog, or a restart of the process"
            )
            self._finished = True

    # The three threads. Each hands its job on, and None when nothing follows.

    def _guard(self, step: Callable[[], None], after: deque[_Job | None]) -> None:
        """Run a thread's step; an error ends the stream after the frames before it."""
        try:
            step()
        except _ClosedError:
            pass
        except BaseException as raised:
            with self._change:
                self._error, self._broken = self._error or raised, True
                self._stop_cameras()
        with self._change:
            after.append(None)
            self._finished |= step == self._decode
            self._change.notify_all()

    def _prepare(self) -> None:
        while (job := self._next_job()) is not None:
            self.segmenter.prepare(job.shot.frame, job.work)
            self._hand_on(self._prepared, job)

    def _infer(self) -> None:
        while (job := self._take(self._prepared)) is not None:
            self._busy = self._clock(), job.shot
            self.segmenter.infer(job.work)
            self._busy = None
            self._hand_on(self._inferred, job)

    def _decode(self) -> None:
        while (job := self._take(self._inferred)) is not None:
            labels, shot = self.segmenter.finish(job.work), job.shot
            result = Segmented(
                shot.frame, labels, job.work.stages, shot.camera.name, shot.number, shot.captured
            )
            with self._change:
                self._free.append(job.work)
                self._change.notify_all()
                self._add_done(result, shot.camera)

    def _add_done(self, result: Segmented, camera: Camera) -> None:
        if self._newest:
            old = [waiting for waiting in self._done if waiting.camera == result.camera]
            for waiting in old:
                self._done.remove(waiting)
            camera.counters.dropped += len(old)
        else:
            self._change.wait_for(lambda: self._closed or len(self._done) < self._queue)
        if self._closed:
            raise _ClosedError
        self._done.append(result)
        self._change.notify_all()

    def _next_job(self) -> _Job | None:
        """The next camera's frame, once a workspace is free; None after the last one."""
        with self._change:
            while True:
                if self._closed or self._broken:
                    raise _ClosedError
                self._watch()
                ready = [camera for camera in self._turn if camera.waiting]
                if ready and self._free:
                    first = ready[0]
                    self._turn.remove(first)
                    self._turn.append(first)
                    job = _Job(first.waiting.popleft(), self._free.popleft())
                    self._change.notify_all()
                    return job
                if not ready and all(camera.ended for camera in self._cameras):
                    return None
                watched = any(camera.needs_watching for camera in self._cameras)
                self._change.wait(TICK if watched else None)

    def _watch(self) -> None:
        """Look after the cameras; one that is given up ends the stream, after the frames before."""
        now = self._clock()
        for camera in self._cameras:
            camera.watch(now)
            if camera.error is not None and self._error is None:
                self._error = camera.error
                self._stop_cameras()

    def _stop_cameras(self) -> None:
        for camera in self._cameras:
            camera.close()
        self._change.notify_all()

    def _hand_on(self, to: deque[_Job | None], job: _Job) -> None:
        with self._change:
            to.append(job)
            self._change.notify_all()

    def _take(self, queue: deque[_Job | None]) -> _Job | None:
        with self._change:
            self._change.wait_for(lambda: queue or self._closed)
            if self._closed:
                raise _ClosedError
            return queue.popleft()


class _ClosedError(Exception):
    """The stream was closed, or ended by an error in another thread."""


def _sum(counters: list[Counters]) -> Counters:
    names = [field.name for field in fields(Counters)]
    return Counters(**{n: sum(getattr(one, n) for one in counters) for n in names})
