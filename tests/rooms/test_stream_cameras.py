"""Cameras that fall silent, fail or change, and several on one engine."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
from engine_folders import SIZE, expected
from stream_doubles import Clock, Stuck, flat, frames, no_thread_is_left, segmenter, until, values

from edgeseg.errors import DataError, EngineError
from edgeseg.runtime import camera as cameras
from edgeseg.runtime.camera import Counters
from edgeseg.runtime.stream import stream

pytestmark = [pytest.mark.rooms, pytest.mark.usefixtures(no_thread_is_left.__name__)]


# Cameras that fall silent, fail, change


def test_a_silent_camera_is_opened_again():
    clock = Clock()
    camera = Stuck([flat(0)], [flat(1), flat(2)])
    with stream(segmenter(), camera, policy="every", watchdog=2.0, clock=clock) as segmented:
        assert values([next(segmented)]) == [0]
        clock.now += 1.9
        time.sleep(0.03)
        assert camera.opened == 1, "silent, but not for long enough"
        clock.now += 0.2
        assert values([next(segmented), next(segmented)]) == [1, 2]
        assert segmented.counters == Counters(taken=3, delivered=3, stalls=1)
        camera.let_go.set()
        assert list(segmented) == []
    assert until(lambda: camera.closed == 2), "the stuck one is closed when its read ends"


def test_frames_of_a_camera_that_was_given_up_are_not_taken():
    clock, let_go = Clock(), threading.Event()

    def first() -> Iterator[np.ndarray]:
        let_go.wait(5)
        yield flat(99)

    sources = [first(), iter([flat(1)])]
    segmented = stream(segmenter(), lambda: sources.pop(0), watchdog=2.0, clock=clock)
    clock.now += 3
    assert until(lambda: segmented.counters.stalls == 1)
    let_go.set()
    assert values(list(segmented)) == [1]


def test_a_camera_that_stays_silent_is_given_up(monkeypatch):
    monkeypatch.setattr(cameras, "ATTEMPTS", 2)
    clock, camera = Clock(), Stuck([flat(0)], [], [], [])
    segmented = stream(segmenter(), {"front": camera}, watchdog=2.0, clock=clock)
    next(segmented)
    for stalls in (1, 2, 3):
        clock.now += 3
        assert until(lambda: segmented.counters.stalls == stalls)  # noqa: B023
    said = "camera 'front': no frame for 2 s, and it was opened again 2 times; is it"
    camera.let_go.set()
    with pytest.raises(EngineError, match=said):
        next(segmented)


def test_attempts_count_from_the_last_frame(monkeypatch):
    """A camera that fails after each frame is opened as often as it likes."""
    monkeypatch.setattr(cameras, "ATTEMPTS", 1)
    opened = []

    def camera() -> Iterator[np.ndarray]:
        opened.append(1)
        yield flat(len(opened))
        if len(opened) < 6:
            raise DataError("unplugged")

    segmented = stream(segmenter(), camera, policy="every", clock=Clock())
    assert values(list(segmented)) == [1, 2, 3, 4, 5, 6]
    assert segmented.counters == Counters(taken=6, delivered=6, stalls=5)


def test_no_more_threads_than_some_are_stuck(monkeypatch):
    monkeypatch.setattr(cameras, "ATTEMPTS", 100)
    monkeypatch.setattr(cameras, "LEFT_BEHIND", 2)
    clock, camera = Clock(), Stuck(*[[]] * 9)
    segmented = stream(segmenter(), camera, watchdog=2.0, clock=clock)
    for stalls in (1, 2, 3):
        clock.now += 3
        assert until(lambda: segmented.counters.stalls == stalls)  # noqa: B023
    assert camera.opened == 3
    camera.let_go.set()
    with pytest.raises(EngineError, match="no frame for 2 s, and it was opened again 2 times"):
        next(segmented)


def test_a_silent_source_that_can_not_be_opened_again_is_an_error():
    clock, silence = Clock(), threading.Event()

    def dead_camera() -> Iterator[np.ndarray]:
        yield flat(7)
        silence.wait(5)

    segmented = stream(segmenter(), dead_camera(), watchdog=0.1, clock=clock)
    assert values([next(segmented)]) == [7]
    clock.now += 0.2
    assert until(lambda: segmented.counters.stalls == 1)
    silence.set()
    said = r"no frame for 0.1 s; is it \(or the disk\) still there\? A function that opens it"
    with pytest.raises(EngineError, match=said):
        next(segmented)


def test_a_source_that_waits_for_the_caller_is_not_silent():
    clock = Clock()
    with stream(segmenter(), frames(30), policy="every", watchdog=1.0, clock=clock) as segmented:
        camera = segmented._cameras[0]
        for taken in range(1, 23):
            next(segmented)
            full = min(30, taken + 8)
            assert until(lambda: camera.counters.taken == full and camera._asked is None)  # noqa: B023
            clock.now += 5
        assert segmented.counters.stalls == 0


def test_a_camera_that_fails_is_opened_again():
    clock, opened = Clock(), []

    def camera() -> Iterator[np.ndarray]:
        opened.append(clock.now)
        yield flat(len(opened))
        if len(opened) < 3:
            raise DataError("unplugged")

    segmented = stream(segmenter(), camera, policy="every", clock=clock)
    assert values(list(segmented)) == [1, 2, 3]
    assert segmented.counters == Counters(taken=3, delivered=3, stalls=2)


def test_a_camera_that_can_not_be_opened_is_tried_with_pauses(monkeypatch):
    monkeypatch.setattr(cameras, "ATTEMPTS", 2)
    clock, opened = Clock(), []

    def camera() -> Iterator[np.ndarray]:
        opened.append(clock.now)
        raise DataError("camera:0: no such camera")

    segmented = stream(segmenter(), camera, clock=clock)
    assert until(lambda: len(opened) == 2), "the first time at once"
    clock.now += cameras.PAUSE / 2
    time.sleep(0.03)
    assert len(opened) == 2
    clock.now += cameras.PAUSE
    assert until(lambda: len(opened) == 3)
    with pytest.raises(DataError, match="camera:0: no such camera"):
        next(segmented)
    assert segmented.counters.stalls == 3


def test_a_camera_may_change_its_size():
    sizes = [SIZE, (5, 7), (30, 20), SIZE]
    got = list(stream(segmenter(), [flat(9, size) for size in sizes], policy="every"))
    assert [result.labels.shape for result in got] == sizes


# Several cameras


def test_cameras_share_an_engine_and_take_turns():
    given = {f"cam{n}": frames(20, seed=n) for n in range(3)}
    with stream(segmenter(), given, policy="every") as segmented:
        got = list(segmented)
        counters = segmented.cameras
    for name, sent in given.items():
        mine = [result for result in got if result.camera == name]
        assert [result.number for result in mine] == list(range(20))
        for frame, result in zip(sent, mine, strict=True):
            assert result.frame is frame
            assert np.array_equal(result.labels, expected(frame))
        assert counters[name] == Counters(taken=20, delivered=20)
    assert segmented.counters.delivered == 60


def test_a_fast_camera_does_not_starve_a_slow_one():
    """Both have a frame waiting whenever the engine is free, so they come in turn."""

    def slow(images: np.ndarray) -> np.ndarray:
        time.sleep(0.002)
        return expected(images)

    both = {"a": frames(40), "b": frames(40)}
    with stream(segmenter(slow), both, policy="every") as segmented:
        order = [next(segmented).camera for _ in range(30)]
    assert 8 <= order[6:].count("a") <= 16


def test_one_camera_that_is_given_up_ends_the_stream_after_the_frames_before_it():
    def broken() -> Iterator[np.ndarray]:
        yield from frames(3)
        raise DataError("frame 3 is broken")

    got = []
    with pytest.raises(DataError, match="frame 3 is broken"):
        got.extend(stream(segmenter(), {"a": broken(), "b": []}, policy="every"))


def test_streams_may_share_a_segmenter():
    shared = segmenter()
    results: dict[int, list] = {}

    def camera(number: int) -> None:
        results[number] = list(stream(shared, frames(40, seed=number), policy="every"))

    threads = [threading.Thread(target=camera, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    for number in range(3):
        for given, result in zip(frames(40, seed=number), results[number], strict=True):
            assert np.array_equal(result.frame, given)
            assert np.array_equal(result.labels, expected(given))
