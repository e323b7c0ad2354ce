"""Frames through threads: order, bounds, drops, ages, silence, errors, the end."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from engine_folders import expected, fake_folder
from stream_doubles import Clock, flat, frames, no_thread_is_left, segmenter, until, values

import edgeseg
from edgeseg.errors import BundleError, DataError, EngineError, FrameError, UsageError
from edgeseg.runtime.camera import Captured, Counters
from edgeseg.runtime.segmenter import Stages
from edgeseg.runtime.stream import Stream, stream

pytestmark = [pytest.mark.rooms, pytest.mark.usefixtures(no_thread_is_left.__name__)]


# Order, bounds, overlap


def test_every_frame_comes_in_order_with_its_labels():
    given = frames(50)
    got = list(stream(segmenter(), given, policy="every"))
    assert [result.number for result in got] == list(range(50))
    for frame, result in zip(given, got, strict=True):
        assert result.frame is frame
        assert np.array_equal(result.labels, expected(frame))
        assert isinstance(result.stages, Stages)
        assert result.camera == "camera"
        assert not result.late


def test_labels_are_the_callers_own():
    got = list(stream(segmenter(), frames(12), policy="every"))
    for one in got:
        assert not any(np.shares_memory(one.labels, o.labels) for o in got if o is not one)


@pytest.mark.parametrize("policy", ["newest", "every"])
def test_nothing_in_nothing_out(policy: str):
    assert list(stream(segmenter(), [], policy=policy)) == []


def test_the_queue_is_bounded():
    """Until the caller takes one: 2 done, 1 decoded, 2 in work, 2 waiting, 1 in the hand."""
    taken = []

    def source() -> Iterator[np.ndarray]:
        for frame in frames(50):
            taken.append(1)
            yield frame

    with stream(segmenter(), source(), policy="every", queue=2) as segmented:
        assert until(lambda: len(taken) == 8)
        time.sleep(0.02)
        assert len(taken) == 8
        next(segmented)
        assert until(lambda: len(taken) == 9)
        time.sleep(0.02)
        assert len(taken) == 9


def test_the_four_steps_overlap(monkeypatch):
    """Each waits until the others are at work at the same time: one after the other would hang."""
    at_work = {name: threading.Event() for name in ("source", "engine", "caller")}

    def together(name: str) -> None:
        at_work[name].set()
        assert all(event.wait(5) for event in at_work.values())

    def source() -> Iterator[np.ndarray]:
        for index, frame in enumerate(frames(20)):
            if index == 8:
                together("source")
            yield frame

    def engine(images: np.ndarray) -> np.ndarray:
        if images[0, 0, 0, 0] == middle:
            together("engine")
        return expected(images)

    middle = frames(20)[5][0, 0, 0]
    for index, _ in enumerate(stream(segmenter(engine), source(), policy="every", depth=2)):
        if index == 3:
            together("caller")


def test_a_depth_of_one_prepares_no_frame_ahead():
    prepared, gate = [], threading.Event()
    watched = segmenter(lambda images: (gate.wait(5), expected(images))[1])
    prepare = watched.prepare

    def count(frame, work) -> None:
        prepared.append(1)
        prepare(frame, work)

    watched.prepare = count  # type: ignore[method-assign]
    with stream(watched, frames(10), policy="every", depth=1) as segmented:
        time.sleep(0.02)
        assert len(prepared) == 1
        gate.set()
        assert len(list(segmented)) == 10
    prepared.clear()
    gate.clear()
    with stream(watched, frames(10), policy="every", depth=2):
        assert until(lambda: len(prepared) == 2)
        gate.set()


# Drops


def test_the_newest_frame_takes_the_place_of_an_older_one():
    gate, shown = threading.Event(), threading.Event()

    def waiting_engine(images: np.ndarray) -> np.ndarray:
        shown.set()
        gate.wait(5)
        return expected(images)

    def camera() -> Iterator[np.ndarray]:
        yield flat(0)
        assert shown.wait(5)
        yield from (flat(value) for value in range(1, 20))
        gate.set()

    with stream(segmenter(waiting_engine), camera(), depth=1) as segmented:
        got = [next(segmented)]
        got += list(segmented)
    assert values(got)[-1] == 19
    assert len(got) <= 2
    assert [result.number for result in got] == values(got), "dropped frames are numbered too"
    assert segmented.counters == Counters(taken=20, dropped=20 - len(got), delivered=len(got))


def test_a_slow_caller_gets_the_newest_result():
    done = threading.Event()

    def camera() -> Iterator[np.ndarray]:
        for value in range(20):
            yield flat(value)
            time.sleep(0.002)
        done.set()

    with stream(segmenter(), camera()) as segmented:
        assert done.wait(5)
        assert until(lambda: segmented._finished)
        assert segmented.counters.dropped == 19, "before the end, too"
        assert values(list(segmented)) == [19]
        assert segmented.counters.dropped == 19


def test_every_frame_of_a_file_is_delivered():
    def slow_engine(images: np.ndarray) -> np.ndarray:
        time.sleep(0.002)
        return expected(images)

    with stream(segmenter(slow_engine), frames(30), policy="every") as segmented:
        assert len(list(segmented)) == 30
        assert segmented.counters == Counters(taken=30, delivered=30)


def test_what_waits_at_the_end_counts_as_dropped():
    with stream(segmenter(), frames(50), policy="every") as segmented:
        next(segmented)
    counters = segmented.counters
    assert counters.delivered == 1
    assert counters.taken == counters.dropped + 1 > 2


# Age


def test_age_counts_from_the_capture_and_late_is_beyond_the_deadline():
    clock, takes = Clock(), iter([0.25, 0.5, 0.75])

    def engine(images: np.ndarray) -> np.ndarray:
        clock.now += next(takes)
        return expected(images)

    def one_by_one() -> Iterator[np.ndarray]:
        for turn in range(3):
            assert until(lambda: len(got) == turn)  # noqa: B023
            yield flat(turn)

    got: list = []
    segmented = stream(segmenter(engine), one_by_one(), policy="every", deadline=0.5, clock=clock)
    for result in segmented:
        got.append(result)
    assert [result.age for result in got] == [0.25, 0.5, 0.75]
    assert [result.late for result in got] == [False, False, True]
    assert [result.captured for result in got] == [100.0, 100.25, 100.75]
    assert segmented.counters == Counters(taken=3, delivered=3, late=1)


def test_a_source_may_know_when_its_frame_was_taken():
    clock = Clock()
    given = [Captured(flat(1), 99.0), Captured(flat(2), 99.9)]
    got = list(stream(segmenter(), given, policy="every", deadline=0.5, clock=clock))
    assert [(r.captured, r.late) for r in got] == [(99.0, True), (99.9, False)]
    assert got[0].age == 1.0


def test_a_result_ages_while_it_waits_for_the_caller():
    clock = Clock()
    with stream(segmenter(), [flat(0)], deadline=0.5, clock=clock) as segmented:
        assert until(lambda: segmented._done)
        clock.now += 2
        result = next(segmented)
    assert result.late
    assert result.age == 2.0


# Errors and the end


def test_an_error_of_the_source_comes_after_the_frames_before_it():
    def source() -> Iterator[np.ndarray]:
        yield from frames(3)
        raise DataError("frame 3 is broken")

    segmented = stream(segmenter(), source(), policy="every")
    assert [next(segmented).number for _ in range(3)] == [0, 1, 2]
    with pytest.raises(DataError, match="frame 3 is broken"):
        next(segmented)
    with pytest.raises(StopIteration):
        next(segmented)


def test_an_error_of_the_engine_stops_the_source_after_the_frames_before_it():
    closed = []

    def source() -> Iterator[np.ndarray]:
        try:
            for index in range(1000):
                yield flat(index % 256)
        finally:
            closed.append(1)

    def broken(images: np.ndarray) -> np.ndarray:
        if images[0, 0, 0, 0] == 5:
            raise EngineError("the engine is gone")
        return expected(images)

    segmented = stream(segmenter(broken), source(), policy="every")
    assert values([next(segmented) for _ in range(5)]) == [0, 1, 2, 3, 4]
    with pytest.raises(EngineError, match="the engine is gone"):
        next(segmented)
    assert until(lambda: closed == [1])


def test_an_error_of_decode_reaches_the_caller():
    with pytest.raises(IndexError):
        list(stream(segmenter(lambda images: np.zeros((1, 3), np.uint8)), frames(3)))


def test_an_engine_that_hangs_is_an_error():
    clock, hang = Clock(), threading.Event()

    def stuck(images: np.ndarray) -> np.ndarray:
        hang.wait(5)
        return expected(images)

    segmented = stream(segmenter(stuck), {"rear": frames(1)}, watchdog=3.0, clock=clock)
    assert until(lambda: segmented._busy)
    clock.now += 4
    threading.Timer(0.05, hang.set).start()
    said = "the engine is at frame 0 of camera 'rear' for more than 3 s; a longer watchdog"
    with pytest.raises(EngineError, match=said):
        next(segmented)


def test_a_frame_of_wrong_shape_is_a_frame_error():
    with pytest.raises(FrameError, match=r"frame is uint8 of shape \(4, 4\)"):
        list(stream(segmenter(), [np.zeros((4, 4), np.uint8)]))


@pytest.mark.parametrize("policy", ["newest", "every"])
def test_closing_stops_the_threads_and_closes_the_source(policy: str):
    closed = []

    def endless() -> Iterator[np.ndarray]:
        try:
            while True:
                yield flat(1)
        finally:
            closed.append(1)

    segmented = stream(segmenter(), endless(), policy=policy)
    next(segmented)
    segmented.close()
    segmented.close()
    assert closed == [1]
    with pytest.raises(StopIteration):
        next(segmented)


def test_what_a_function_opened_is_closed():
    class Device:
        closed = 0

        def __iter__(self) -> Iterator[np.ndarray]:
            return iter(frames(2))

        def close(self) -> None:
            self.closed += 1

    device = Device()
    assert len(list(stream(segmenter(), lambda: device, policy="every"))) == 2
    assert device.closed == 1
    assert len(list(stream(segmenter(), device, policy="every"))) == 2
    assert device.closed == 1, "what the caller opened is the caller's"


# How it is called


def test_a_folder_is_loaded_and_released(tmp_path: Path):
    fake_folder(tmp_path / "m")
    with edgeseg.stream(tmp_path / "m", frames(3), frames="rgb", policy="every") as segmented:
        assert isinstance(segmented, Stream)
        assert len(list(segmented)) == 3
    with pytest.raises(EngineError, match="this Segmenter is closed"):
        segmented.segmenter.segment(flat(0))
    mine = segmenter()
    list(edgeseg.stream(mine, frames(1)))
    mine.segment(flat(0))


def test_a_folder_that_can_not_be_loaded_starts_nothing(tmp_path: Path):
    with pytest.raises(BundleError):
        stream(tmp_path / "nowhere", frames(1), frames="rgb")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"queue": 0}, "queue is 0; expected 1 or more frames"),
        ({"depth": 0}, "depth is 0; expected 1 or more frames"),
        ({"deadline": 0.0}, "deadline is 0; expected more than 0 seconds, or None"),
        ({"watchdog": -1.0}, "watchdog is -1; expected more than 0 seconds, or None"),
        ({"policy": "new"}, r"unknown policy 'new'. Did you mean 'newest'\?"),
        ({"frames": "bgr"}, "frames is 'bgr', but the Segmenter that is given knows its own"),
    ],
)
def test_what_is_refused(options, said):
    with pytest.raises(UsageError, match=said):
        stream(segmenter(), [], **options)


@pytest.mark.parametrize("source", [0, "drive.mp4", Path("drive.mp4"), None])
def test_what_is_no_source(source):
    said = f"the source of camera 'front' is a {type(source).__name__}; expected frames, or a"
    with pytest.raises(UsageError, match=said):
        stream(segmenter(), {"front": source})


def test_a_function_that_forgets_to_yield_is_not_called_again():
    called: list[int] = []
    segmented = stream(segmenter(), lambda: called.append(1))  # type: ignore[arg-type, return-value]
    said = "opens camera 'camera' returned a NoneType; expected frames: does it yield them"
    with pytest.raises(UsageError, match=said):
        next(segmented)
    assert called == [1]


def test_a_folder_needs_its_colours_and_a_stream_a_camera(tmp_path: Path):
    with pytest.raises(UsageError, match=r'frames is missing: .* such as "bgr"'):
        stream(tmp_path, [])
    with pytest.raises(UsageError, match="source holds no camera; expected one or more"):
        stream(segmenter(), {})
