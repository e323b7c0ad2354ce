"""Frames through threads: order, bounds, drops, errors, the end."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
from engine_folders import SIZE, TABLE, expected

from edgeseg.errors import DataError, EngineError, FrameError, UsageError
from edgeseg.runtime.engine_fake import FakeEngine
from edgeseg.runtime.segmenter import Segmenter, Stages
from edgeseg.runtime.stream import stream

pytestmark = pytest.mark.rooms


def segmenter(answer=expected) -> Segmenter:
    return Segmenter.of(FakeEngine(answer=answer), TABLE, size=SIZE)


def frames(count: int, seed: int = 0) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [random.integers(0, 256, (*SIZE, 3)).astype(np.uint8) for _ in range(count)]


def threads_end(before: set[threading.Thread], seconds: float = 5.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if set(threading.enumerate()) <= before:
            return True
        time.sleep(0.01)
    return False


def test_every_frame_comes_in_order_with_its_labels():
    given = frames(50)
    got = list(stream(segmenter(), given))
    assert len(got) == 50
    for frame, (same, labels, stages) in zip(given, got, strict=True):
        assert same is frame
        assert np.array_equal(labels, expected(frame))
        assert isinstance(stages, Stages)


def test_nothing_in_nothing_out():
    assert list(stream(segmenter(), [])) == []


def test_the_queue_is_bounded():
    """Until the caller takes one: 2 done, 1 in each thread's hands, 2 waiting."""
    taken = []

    def source() -> Iterator[np.ndarray]:
        for frame in frames(50):
            taken.append(1)
            yield frame

    with stream(segmenter(), source(), queue=2) as segmented:
        time.sleep(0.3)
        assert len(taken) == 6
        next(segmented)
        time.sleep(0.1)
        assert len(taken) == 7


def test_reading_and_segmenting_and_the_caller_overlap():
    """Ten frames of three steps of 30 ms: one after the other would be 900 ms."""

    def slow_source() -> Iterator[np.ndarray]:
        for frame in frames(10):
            time.sleep(0.03)
            yield frame

    def slow_engine(images: np.ndarray) -> np.ndarray:
        time.sleep(0.03)
        return expected(images)

    start = time.monotonic()
    for _ in stream(segmenter(slow_engine), slow_source()):
        time.sleep(0.03)
    assert time.monotonic() - start < 0.75


def test_a_camera_drops_old_frames_and_counts_them():
    gate = threading.Event()

    def waiting_engine(images: np.ndarray) -> np.ndarray:
        gate.wait(5)
        return expected(images)

    def camera() -> Iterator[np.ndarray]:
        for value in range(20):
            yield np.full((*SIZE, 3), value, np.uint8)
            time.sleep(0.005)
        gate.set()

    with stream(segmenter(waiting_engine), camera(), queue=2, drop=True) as segmented:
        values = [int(frame[0, 0, 0]) for frame, _, _ in segmented]
        assert values[1:] == [18, 19]
        assert segmented.dropped == 17


def test_a_file_never_drops():
    def slow_engine(images: np.ndarray) -> np.ndarray:
        time.sleep(0.005)
        return expected(images)

    with stream(segmenter(slow_engine), frames(30)) as segmented:
        assert len(list(segmented)) == 30
        assert segmented.dropped == 0


def test_an_error_of_the_source_comes_after_the_frames_before_it():
    def source() -> Iterator[np.ndarray]:
        yield from frames(3)
        raise DataError("frame 3 is broken")

    got = []
    with pytest.raises(DataError, match="frame 3 is broken"):
        got.extend(iter(stream(segmenter(), source())))
    before = stream(segmenter(), source())
    assert sum(1 for _ in zip(range(3), before, strict=False)) == 3


def test_an_error_of_the_engine_stops_the_source():
    before = set(threading.enumerate())
    closed = []

    def source() -> Iterator[np.ndarray]:
        try:
            while True:
                yield frames(1)[0]
        finally:
            closed.append(1)

    def broken(images: np.ndarray) -> np.ndarray:
        raise EngineError("the engine is gone")

    with pytest.raises(EngineError, match="the engine is gone"):
        next(stream(segmenter(broken), source()))
    assert threads_end(before)
    assert closed == [1]


def test_a_frame_of_wrong_shape_is_a_frame_error():
    with pytest.raises(FrameError, match=r"frame is uint8 of shape \(4, 4\)"):
        list(stream(segmenter(), [np.zeros((4, 4), np.uint8)]))


def test_closing_stops_the_threads_and_closes_the_source():
    before = set(threading.enumerate())
    closed = []

    def endless() -> Iterator[np.ndarray]:
        try:
            while True:
                yield frames(1)[0]
        finally:
            closed.append(1)

    segmented = stream(segmenter(), endless())
    next(segmented)
    segmented.close()
    segmented.close()
    assert threads_end(before)
    assert closed == [1]
    with pytest.raises(StopIteration):
        next(segmented)


def test_leaving_a_with_block_stops_the_threads():
    before = set(threading.enumerate())
    with stream(segmenter(), iter(frames(1) * 1000)) as segmented:
        next(segmented)
    assert threads_end(before)


def test_a_silent_camera_is_an_engine_error():
    silence = threading.Event()

    def dead_camera() -> Iterator[np.ndarray]:
        yield frames(1)[0]
        silence.wait(3)

    segmented = stream(segmenter(), dead_camera(), drop=True, watchdog=0.1)
    next(segmented)
    with pytest.raises(EngineError, match=r"no frame for 0.1 s; is the camera"):
        next(segmented)
    silence.set()


def test_a_queue_of_nothing_is_refused():
    with pytest.raises(UsageError, match="queue is 0; expected 1 or more"):
        stream(segmenter(), [], queue=0)


def test_three_cameras_share_one_segmenter():
    shared = segmenter()
    results: dict[int, list[tuple[np.ndarray, np.ndarray]]] = {}

    def camera(number: int) -> None:
        seen = stream(shared, frames(40, seed=number))
        results[number] = [(frame, labels) for frame, labels, _ in seen]

    cameras = [threading.Thread(target=camera, args=(n,)) for n in range(3)]
    for thread in cameras:
        thread.start()
    for thread in cameras:
        thread.join(20)
    for number in range(3):
        assert len(results[number]) == 40
        for given, (frame, labels) in zip(frames(40, seed=number), results[number], strict=True):
            assert np.array_equal(frame, given)
            assert np.array_equal(labels, expected(given))
