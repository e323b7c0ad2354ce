"""Power, heat and throttling while calls are timed: on recorded boards, energy by hand."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from recorded_boards import board_tree, put

from edgeseg.benchmarks.power import (
    Recorder,
    Span,
    energy,
    throttling,
    to_conditions,
    to_power,
)
from edgeseg.runtime.gpu import used_mib
from edgeseg.runtime.sensors import Reading, Sensors

pytestmark = pytest.mark.unit

NANO_POWER = "sys/class/hwmon/hwmon1/curr1_input"


def watts(value: float) -> Reading:
    return Reading({"VDD_IN": value, "VDD_SOC": 1.0})


def test_energy_is_watts_times_seconds():
    #  8 W until 11 s, rising to 12 W at 13 s, and on until 14 s: 8 + 20 + 12 J
    span = Span(10.0, 14.0, [(11.0, watts(8)), (13.0, watts(12))])
    assert energy(span) == pytest.approx(40.0)
    found = to_power(span, frames=100)
    assert found is not None
    assert found["energy_j"] == 40
    assert found["energy_mj_per_frame"] == 400
    assert found["total_is"] == ["VDD_IN"]
    assert found["total_w"] == {"mean": 10, "min": 8, "max": 12}
    assert found["rails_w"]["VDD_SOC"] == {"mean": 1, "min": 1, "max": 1}


def test_readings_outside_of_the_timed_stretch_count_for_none_of_their_own_time():
    span = Span(10.0, 11.0, [(8.0, watts(4)), (12.0, watts(10))])
    assert energy(span) == pytest.approx(7.0)  # from 4 W at its begin to 10 W at its end


def test_one_reading_stands_for_all():
    assert energy(Span(10.0, 12.0, [(11.0, watts(3))])) == pytest.approx(6.0)


def test_rails_without_a_known_total_have_no_energy():
    span = Span(0.0, 1.0, [(0.0, Reading({"SOME_RAIL": 2.0}))])
    found = to_power(span, 1)
    assert found is not None
    assert found["energy_mj_per_frame"] is found["total_w"] is None
    assert found["rails_w"]["SOME_RAIL"]["mean"] == 2


def test_a_machine_without_a_meter(tmp_path: Path):
    sensors = Sensors(tmp_path)
    with Recorder(sensors) as recorder:
        pass
    span = recorder.span()
    assert to_power(span, 1) is None
    assert to_conditions(span, sensors) is None
    assert throttling(span, sensors) is None
    assert energy(span) is None


def test_what_is_recorded_of_a_board(tmp_path: Path):
    sensors = Sensors(board_tree("orin_nano", tmp_path))
    with Recorder(sensors, interval=0.01) as recorder:
        recorder.begin()
        time.sleep(0.1)
        put(tmp_path, NANO_POWER, "2000\n")  # 10 W instead of 8
        time.sleep(0.1)
    span = recorder.span()
    assert len(span.readings) > 4
    power = to_power(span, 10)
    assert power is not None
    assert (power["total_w"]["min"], power["total_w"]["max"]) == (8, 10)
    assert 0.2 * 8 * 0.9 < power["energy_j"] < 0.2 * 10 * 3  # a busy machine sleeps longer
    assert power["energy_mj_per_frame"] == pytest.approx(power["energy_j"] * 100, abs=0.1)
    found = to_conditions(span, sensors)
    assert found is not None
    assert found["readings"] == len(span.readings)
    assert found["temperatures_c"]["tj"]["max"] == 50.75
    assert found["clocks_mhz"]["gpu"]["allowed"] == [306, 1020]
    assert found["clocks_mhz"]["gpu"]["locked"] is False
    assert found["clocks_mhz"]["emc"]["mean"] == 2133
    assert found["emc_percent"] == {"mean": 25, "min": 25, "max": 25}
    assert found["unread"] == []
    assert found["fan_percent"]["mean"] == 40
    samples = found["samples"]
    assert samples["total_w"][0] == 8
    assert samples["total_w"][-1] == 10
    assert len(samples["t_s"]) == len(samples["rails_w"]["VDD_SOC"]) == len(span.readings)
    assert samples["t_s"] == sorted(samples["t_s"])
    assert samples["emc_percent"] == [25.0] * len(span.readings)
    assert throttling(span, sensors) == []


def test_what_came_before_begin_is_forgotten(tmp_path: Path):
    sensors = Sensors(board_tree("orin_nano", tmp_path))
    put(tmp_path, NANO_POWER, "9000\n")
    with Recorder(sensors, interval=60) as recorder:
        put(tmp_path, NANO_POWER, "1600\n")
        recorder.begin()
    assert [r.rails_w["VDD_IN"] for _, r in recorder.span().readings] == [8, 8]


def test_a_cap_is_throttling(tmp_path: Path):
    sensors = Sensors(board_tree("agx_orin", tmp_path))
    with Recorder(sensors, interval=60) as recorder:
        pass
    assert throttling(recorder.span(), sensors) == [
        "gpu-throttle-alert held it back in 2 of 2 readings (state 1)"
    ]
    found = to_conditions(recorder.span(), sensors)
    assert found is not None
    assert found["emc_percent"] is None
    assert found["unread"] == ["the memory's clock and use (emc) are shown to root only: sudo"]


def test_over_current_is_throttling_when_it_is_counted_meanwhile(tmp_path: Path):
    sensors = Sensors(board_tree("orin_nano", tmp_path))
    with Recorder(sensors, interval=60) as recorder:
        put(tmp_path, "sys/class/hwmon/hwmon3/oc3_event_cnt", "40\n")  # 37 before
        put(tmp_path, "sys/class/hwmon/hwmon3/oc1_event_cnt", "1\n")
    assert throttling(recorder.span(), sensors) == [
        "under-voltage (oc1): 1 time",
        "instantaneous over-current (oc3): 3 times",
    ]


# Memory of a GPU


class Driver:
    """libcuda's calls for memory; counts what is held."""

    def __init__(self, **answers: int) -> None:
        self.answers, self.held, self.pushed = answers, 0, 0

    def cuInit(self, flags: int) -> int:
        return self.answers.get("init", 0)

    def cuDeviceGet(self, device, index: int) -> int:
        return self.answers.get("device", 0)

    def cuDevicePrimaryCtxRetain(self, context, device) -> int:
        self.held += 1
        return self.answers.get("retain", 0)

    def cuDevicePrimaryCtxRelease_v2(self, device) -> int:
        self.held -= 1
        return 0

    def cuCtxPushCurrent_v2(self, context) -> int:
        self.pushed += 1
        return 0

    def cuCtxPopCurrent_v2(self, context) -> int:
        self.pushed -= 1
        return 0

    def cuMemGetInfo_v2(self, free, total) -> int:
        free._obj.value, total._obj.value = 3 * 2**30, 8 * 2**30
        return self.answers.get("info", 0)


def test_used_memory_is_what_is_not_free_and_nothing_stays_held():
    driver = Driver()
    assert used_mib(lambda: driver) == 5120
    assert (driver.held, driver.pushed) == (0, 0)


@pytest.mark.parametrize("call", ["init", "device", "retain", "info"])
def test_a_driver_that_refuses_tells_nothing(call: str):
    assert used_mib(lambda: Driver(**{call: 999})) is None
    assert used_mib(lambda: None) is None
