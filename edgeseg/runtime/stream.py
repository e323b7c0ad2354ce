"""A stream of frames -> labels, with reading, segmenting and the caller's work at the same time."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Generic, TypeVar

import numpy as np

from edgeseg.errors import EngineError, UsageError
from edgeseg.runtime.segmenter import Segmenter, Stages

T = TypeVar("T")
Segmented = tuple[np.ndarray, np.ndarray, Stages]
"""A frame (H, W, 3) uint8, its labels (H, W) uint8, and how long each stage took."""


def stream(
    segmenter: Segmenter,
    frames: Iterable[np.ndarray],
    queue: int = 2,
    drop: bool = False,
    watchdog: float | None = None,
) -> Stream:
    """Iterate over (frame, labels, stages), in the order of the frames.

    One thread takes frames, one segments them, and the caller's loop runs beside both; at most
    `queue` items wait between two of them. With `drop` (a camera) the oldest waiting frame makes
    room for a new one and is counted in `dropped`; without it (a file) the source waits. `watchdog`
    is the number of seconds after which a silent source is an EngineError. An error of the source
    or of the engine is raised in the caller's loop, after the frames before it. `close`, or the end
    of a `with`, stops both threads. Several streams may share one Segmenter. Each frame must have
    its own memory.
    """
    return Stream(segmenter, frames, queue, drop, watchdog)


class Stream(Iterator[Segmented]):
    """What `stream` returns: an iterator that can be closed and counts what it dropped."""

    def __init__(
        self,
        segmenter: Segmenter,
        frames: Iterable[np.ndarray],
        queue: int,
        drop: bool,
        watchdog: float | None,
    ) -> None:
        if queue < 1:
            raise UsageError(f"queue is {queue}; expected 1 or more frames")
        self.dropped = 0
        self._watchdog = watchdog
        self._waiting: _Channel[np.ndarray] = _Channel(queue)
        self._done: _Channel[Segmented] = _Channel(queue)
        self._threads = (
            threading.Thread(target=self._read, args=(frames, drop), daemon=True),
            threading.Thread(target=self._segment, args=(segmenter,), daemon=True),
        )
        for thread in self._threads:
            thread.start()

    def __next__(self) -> Segmented:
        try:
            return self._done.get(self._watchdog)
        except _EndedError:
            self.close()
            raise StopIteration from None
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Stop both threads; frames that wait are let go. Closing twice is fine.

        A source that is stuck inside a read is left behind; it ends with its read.
        """
        self._waiting.close()
        self._done.close()
        for thread in self._threads:
            thread.join(timeout=1.0)

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _read(self, frames: Iterable[np.ndarray], drop: bool) -> None:
        source = iter(frames)
        error: BaseException | None = None
        try:
            for frame in source:
                self.dropped += self._waiting.put(frame, drop)
        except _EndedError:
            pass
        except BaseException as raised:
            error = raised
        try:
            getattr(source, "close", _nothing)()
        except BaseException as raised:
            error = error or raised
        self._waiting.finish(error)

    def _segment(self, segmenter: Segmenter) -> None:
        try:
            while True:
                frame = self._waiting.get(None)
                labels, stages = segmenter.timed(frame)
                self._done.put((frame, labels, stages), False)
        except _EndedError:
            self._done.finish(None)
        except BaseException as raised:
            self._waiting.close()
            self._done.finish(raised)


class _EndedError(Exception):
    """A channel has ended, or nobody listens any more."""


class _Channel(Generic[T]):
    """A bounded queue between two threads that either of them can end."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._items: deque[T] = deque()
        self._change = threading.Condition()
        self._error: BaseException | None = None
        self._finished = self._closed = False

    def put(self, item: T, drop: bool) -> int:
        """Add an item; how many old ones were dropped for it. Raises _EndedError once closed."""
        dropped = 0
        with self._change:
            while drop and len(self._items) >= self._size:
                self._items.popleft()
                dropped += 1
            self._change.wait_for(lambda: self._closed or len(self._items) < self._size)
            if self._closed:
                raise _EndedError
            self._items.append(item)
            self._change.notify_all()
        return dropped

    def get(self, patience: float | None) -> T:
        """The next item; after the last one the sender's error or _EndedError."""
        with self._change:
            if not self._change.wait_for(
                lambda: self._items or self._finished or self._closed, patience
            ):
                raise EngineError(
                    f"no frame for {patience:g} s; is the camera (or the disk) still there?"
                )
            if self._items and not self._closed:
                item = self._items.popleft()
                self._change.notify_all()
                return item
            if self._error is not None and not self._closed:
                raise self._error
            raise _EndedError

    def finish(self, error: BaseException | None) -> None:
        """The sender's end: no item follows."""
        with self._change:
            self._error, self._finished = error, True
            self._change.notify_all()

    def close(self) -> None:
        """The receiver's end: items are let go, and the sender's next `put` raises."""
        with self._change:
            self._closed = True
            self._items.clear()
            self._change.notify_all()


def _nothing() -> None:
    pass
