"""Cameras, clocks and frames for tests of streams."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from engine_folders import SIZE, TABLE, expected

from edgeseg.runtime.engine_fake import FakeEngine
from edgeseg.runtime.segmenter import Segmenter


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def segmenter(answer=expected) -> Segmenter:
    return Segmenter.of(FakeEngine(answer=answer), TABLE, size=SIZE)


def frames(count: int, seed: int = 0) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [random.integers(0, 256, (*SIZE, 3)).astype(np.uint8) for _ in range(count)]


def flat(value: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    return np.full((*size, 3), value, np.uint8)


def values(results: list) -> list[int]:
    return [int(result.frame[0, 0, 0]) for result in results]


def until(condition: Callable[[], object], seconds: float = 5.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.002)
    return False


@pytest.fixture
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert until(lambda: set(threading.enumerate()) <= before), threading.enumerate()


class Stuck:
    """A camera that gives some frames and then hangs until the test lets go."""

    def __init__(self, *given: list[np.ndarray]) -> None:
        self.given, self.opened, self.closed = list(given), 0, 0
        self.let_go = threading.Event()

    def __call__(self) -> Iterator[np.ndarray]:
        mine, self.opened = self.given[self.opened], self.opened + 1
        last = self.opened == len(self.given)

        def read() -> Iterator[np.ndarray]:
            try:
                yield from mine
                if not last:
                    self.let_go.wait(5)
            finally:
                self.closed += 1

        return read()
