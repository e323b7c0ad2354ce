"""A camera's pace and a long run, on a clock that the test sets; sums by hand."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
from recorded_boards import put

from edgeseg.benchmarks.latency import Around, StopRule, time_calls
from edgeseg.benchmarks.pacing import Camera, Pace
from edgeseg.benchmarks.soak import Probe, check_soak, judged, peak_mib, resident_mib, soak
from edgeseg.cli.bench import duration
from edgeseg.errors import UsageError

pytestmark = pytest.mark.unit


class Clock:
    """Seconds; sleeping and working make them go by."""

    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(round(seconds, 6))
        self.now += seconds


def drive(works: list[float], pace: Pace) -> tuple[dict, list[float]]:
    """A camera whose frames take these seconds each."""
    clock = Clock()
    camera = Camera(pace, clock, clock.sleep)
    for seconds in works:
        camera.wait()
        clock.now += seconds
        camera.answer()
    return camera.to_dict(), clock.slept


def test_a_quick_network_waits_for_each_frame():
    found, slept = drive([0.02, 0.02, 0.02], Pace(10, 100))
    # frames at 0, 0.1, 0.2 s: answers 20 ms after each
    assert slept == [0.08, 0.08]
    assert (found["frames"], found["late"], found["lost"], found["missed"]) == (3, 0, 0, 0)
    assert found["missed_percent"] == 0
    assert found["response_ms"]["max"] == 20
    assert found["jitter_ms"]["max"] == 0


def test_a_slow_call_is_late_and_loses_the_frames_behind_it():
    found, slept = drive([0.02, 0.35, 0.02], Pace(10, 100))
    # Frame 1 comes at 0.1 and is answered at 0.45: late. Frames 2, 3 and 4 came meanwhile; the
    # newest, 4, came at 0.4 and is answered at 0.47, within its deadline; 2 and 3 are lost.
    assert slept == [0.08]
    assert (found["frames"], found["late"], found["lost"], found["missed"]) == (5, 1, 2, 3)
    assert found["missed_percent"] == 60
    assert found["response_ms"]["max"] == 350
    # answers at 0.02, 0.45 and 0.47: gaps of 430 and 20 ms, 330 and 80 off the period
    assert found["jitter_ms"]["max"] == pytest.approx(330)


def test_a_deadline_shorter_than_the_period():
    found, _ = drive([0.02, 0.04], Pace(10, 30))
    assert (found["frames"], found["late"], found["lost"]) == (2, 1, 0)


def test_a_camera_without_answers():
    camera = Camera(Pace(30, 33), Clock())
    found = camera.to_dict()
    assert (found["frames"], found["missed_percent"], found["response_ms"]) == (0, None, None)


@pytest.mark.parametrize(
    ("fps", "deadline", "said"),
    [
        (0, 33, "--fps is 0; expected a number above 0"),
        (20_000, 33, "--fps is 20000; expected a number above 0, up to 10000"),
        (30, 0, "--deadline-ms is 0; expected more than 0"),
    ],
)
def test_a_pace_that_makes_no_sense_is_refused(fps: float, deadline: float, said: str):
    with pytest.raises(UsageError, match=said):
        Pace(fps, deadline)


def test_what_stands_around_a_call_is_in_no_sample():
    clock = Clock()
    order: list[str] = []

    def step(name: str, seconds: float) -> None:
        order.append(name)
        clock.now += seconds

    around = Around(lambda: step("begin", 5), lambda: step("before", 7), lambda: step("after", 11))
    rule = StopRule(2, 0, 1000, warm_up_calls=1, warm_up_seconds=0)
    latency, _ = time_calls(lambda i: step(f"call {i}", 0.5), rule, clock=clock, around=around)
    assert latency.samples == (500, 500)
    assert order == [
        "call 0", "begin", "before", "call 0", "after", "before", "call 1", "after",
    ]  # fmt: skip


# The long run


def window(t: float, ms: float, host: float | None, device: float | None = None) -> dict:
    return {"t_s": t, "n": 10, "median_ms": ms, "max_ms": 2 * ms, "host_mib": host,
            "device_mib": device}  # fmt: skip


def test_drift_and_growth_by_hand():
    # ten windows of 72 s: a fifth is two of them
    millis = [10, 10.2, 10, 10, 10, 10, 10, 10, 11, 11.2]
    hosts = [100, 100, 101, 102, 103, 104, 105, 106, 107, 109]
    pairs = enumerate(zip(millis, hosts, strict=True), start=1)
    found = judged([window(72.0 * i, m, h) for i, (m, h) in pairs])
    assert (found["first_ms"], found["last_ms"]) == (10.1, 11.1)
    assert found["drift_percent"] == 9.9  # 11.1 / 10.1
    assert found["calls"] == 100
    assert found["max_ms"] == 22.4
    host = found["host_growth"]
    assert (host["first_mib"], host["last_mib"], host["mib"]) == (100, 108, 8)
    # 8 MiB between the middles of the two fifths: 0.8 of 648 s
    assert host["mib_per_hour"] == pytest.approx(8 * 3600 / 518.4, abs=0.01)
    assert host["grew"]
    assert found["device_growth"] is None
    assert not found["steady"]
    assert found["found"] == [
        "latency rose by 9.9 %, from 10.10 to 11.10 ms",
        "host memory grew by 8.0 MiB",
    ]


def test_a_steady_run():
    found = judged([window(i + 1.0, 10, 500 + i * 0.3, 64.0) for i in range(10)])
    assert found["steady"]
    assert found["found"] == []
    assert found["host_growth"]["mib"] == 2.4  # more than 2 MiB, and less than 1 % of 500
    assert found["host_growth"]["mib_per_hour"] is None  # ten seconds say nothing of an hour
    assert found["device_growth"]["mib"] == 0


def test_a_little_is_no_growth_even_of_a_small_process():
    found = judged([window(i + 1.0, 10, 10 + i * 0.2) for i in range(10)])
    assert found["host_growth"]["mib"] == 1.6  # 16 % of it, and less than 2 MiB
    assert found["steady"]


def test_device_memory_that_grows_is_told():
    found = judged([window(i + 1.0, 10, None, 100.0 + 10 * i) for i in range(5)])
    assert found["host_growth"] is None
    assert found["found"] == ["device memory grew by 40.0 MiB"]


def test_latency_that_falls_is_no_steady_run_either():
    assert judged([window(i + 1.0, 10 - i, 1) for i in range(5)])["found"] == [
        "latency fell by 40.0 %, from 10.00 to 6.00 ms"
    ]


def test_a_soak_of_ten_seconds():
    clock = Clock()
    calls: list[int] = []

    def call(index: int) -> None:
        calls.append(index)
        clock.now += 0.25

    memory = iter(range(100, 200))
    probe = Probe(lambda: float(next(memory)), board=lambda: {"total_w": 5.0})
    found = soak(call, 10.0, probe, clock=clock)
    assert calls == list(range(40))
    assert found["seconds"] == 10
    assert found["calls"] == 40
    assert len(found["windows"]) == 10
    assert found["windows"][0] == {
        "t_s": 1.0, "n": 4, "median_ms": 250.0, "max_ms": 250.0, "host_mib": 100.0,
        "device_mib": None, "total_w": 5.0,
    }  # fmt: skip
    assert found["host_growth"]["mib"] == 8  # 100.5 to 108.5


def test_a_window_has_at_least_one_call():
    clock = Clock()

    def call(_: int) -> None:
        clock.now += 5

    found = soak(call, 10.0, Probe(lambda: None), clock=clock)
    assert [w["n"] for w in found["windows"]] == [1] * 10


@pytest.mark.parametrize(
    ("text", "seconds"), [("10s", 10), ("90s", 90), ("30m", 1800), ("1.5h", 5400)]
)
def test_durations(text: str, seconds: float):
    assert duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("30", "'30' is no time such as 90s, 30m or 2h"),
        ("-1s", "is no time such as"),
        ("9s", "--soak 9s is too short to tell drift from chance; give 10s or more"),
    ],
)
def test_durations_that_are_refused(text: str, said: str):
    with pytest.raises(argparse.ArgumentTypeError, match=said):
        duration(text)


def test_a_soak_of_no_time_is_refused():
    with pytest.raises(UsageError, match="too short to tell drift"):
        check_soak(0)


def test_memory_of_a_process(tmp_path: Path):
    put(tmp_path, "status", "Name:\tpython\nVmHWM:\t  204800 kB\nVmRSS:\t  102400 kB\n")
    assert (resident_mib(tmp_path), peak_mib(tmp_path)) == (100.0, 200.0)
    assert resident_mib(tmp_path / "gone") is None
    put(tmp_path, "status", "Name:\tpython\n")
    assert peak_mib(tmp_path) is None
