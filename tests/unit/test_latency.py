"""The timer with a clock of our own; the machine from made-up files."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeseg.benchmarks.latency import PERCENTILES, Latency, StopRule, needed, time_calls
from edgeseg.benchmarks.machine import busy_seconds, machine, power_mode
from edgeseg.errors import UsageError

pytestmark = pytest.mark.unit


class Clock:
    """Seconds that pass only when told."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def shuffled(n):
    """1 .. n, not in order (7919 is prime and divides no n used here)."""
    return tuple(float(i * 7919 % n + 1) for i in range(n))


def test_percentiles_are_null_below_ten_over_one_minus_q():
    assert {k: needed(q) for k, q in PERCENTILES.items()} == {
        "p50": 20,
        "p90": 100,
        "p99": 1000,
        "p999": 10000,
    }
    assert Latency(shuffled(19)).summary() == {
        "p50": None, "p90": None, "p99": None, "p999": None, "max": 19.0, "n": 19,
    }  # fmt: skip
    assert Latency(shuffled(20)).summary()["p50"] == 10
    assert Latency(shuffled(99)).summary()["p90"] is None
    hundred = Latency(shuffled(100)).summary()
    assert (hundred["p50"], hundred["p90"], hundred["p99"]) == (50, 90, None)
    assert Latency(shuffled(999)).summary()["p99"] is None
    thousand = Latency(shuffled(1000)).summary()
    assert (thousand["p90"], thousand["p99"], thousand["p999"]) == (900, 990, None)
    assert Latency(shuffled(9999)).summary()["p999"] is None
    assert Latency(shuffled(10000)).summary() == {
        "p50": 5000, "p90": 9000, "p99": 9900, "p999": 9990, "max": 10000, "n": 10000,
    }  # fmt: skip


def test_nearest_rank_rounds_up_and_outliers_stay():
    # 21 samples: the 11th is the first with at least half at or below it.
    latency = Latency((1e6, *(float(i) for i in range(20))))
    assert latency.percentile(PERCENTILES["p50"]) == 10.0
    assert latency.summary()["max"] == 1e6
    assert latency.to_dict()["samples"][0] == 1e6
    assert latency.to_dict()["n"] == len(latency.to_dict()["samples"]) == 21


def test_throughput_counts_frames_of_a_batch():
    assert Latency((10.0, 30.0)).throughput == 50.0
    assert Latency((10.0, 30.0), batch=4).throughput == 200.0


def test_samples_are_exactly_what_the_clock_says_and_warm_up_is_apart():
    clock, seen = Clock(), []
    durations = [9.0, 9.0, 9.0, 0.010, 0.030, 0.020]

    def call(index):
        seen.append(index)
        clock.now += durations[len(seen) - 1]
        return index * 10

    rule = StopRule(min_samples=3, min_seconds=0, max_seconds=50, warm_up_calls=3)
    latency, results = time_calls(call, rule, clock=clock)
    assert latency.samples == pytest.approx((10.0, 30.0, 20.0))
    assert results == [0, 10, 20]
    assert seen == [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize(
    ("samples", "least", "most", "expected"),
    [
        (5, 0.0, 60.0, 5),  # samples decide
        (5, 2.0, 60.0, 8),  # seconds decide: 8 * 0.25 s
        (100, 0.0, 1.0, 4),  # the bound decides
        (1, 0.0, 0.1, 1),  # one call is longer than the bound: it is kept
    ],
)
def test_stop_rule(samples, least, most, expected):
    clock = Clock()

    def call(_):
        clock.now += 0.25

    rule = StopRule(samples, least, most, warm_up_calls=2, warm_up_seconds=0)
    assert len(time_calls(call, rule, clock=clock)[0].samples) == expected


def test_warm_up_lasts_its_seconds():
    clock, calls = Clock(), []

    def call(index):
        calls.append(index)
        clock.now += 0.25

    rule = StopRule(1, 0, 1, warm_up_calls=1, warm_up_seconds=1.0)
    time_calls(call, rule, clock=clock)
    assert calls == [0, 1, 2, 3, 0]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"min_samples": 0}, "min_samples is 0; expected 1 or more"),
        ({"min_seconds": 9, "max_seconds": 3}, "at least 9 s and at most 3 s: the first must be"),
        ({"warm_up_calls": -1}, "can't be negative"),
    ],
)
def test_stop_rule_refuses(values, message):
    with pytest.raises(UsageError, match=message):
        StopRule(**values)


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


JETSON = {
    "proc/cpuinfo": "processor\t: 0\nFeatures\t: fp asimd asimdhp asimddp\n"
    "CPU implementer\t: 0x41\nCPU part\t: 0xd42\n",
    "proc/device-tree/model": "NVIDIA Jetson AGX Orin Developer Kit\0",
    "proc/meminfo": "MemTotal:       31457280 kB\n",
    "etc/os-release": 'NAME="Ubuntu"\nPRETTY_NAME="Ubuntu 22.04.4 LTS"\n',
    "etc/nvpmodel.conf": "# < POWER_MODEL ID=2 NAME=COMMENT >\n< POWER_MODEL ID=0 NAME=MAXN >\n"
    "< POWER_MODEL ID=2 NAME=MODE_30W >\n",
    "var/lib/nvpmodel/status": "pmode:0002\n",
    "sys/fs/cgroup/cpu.max": "150000 100000\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "schedutil\n",
}


def test_a_jetson_from_its_files(tmp_path):
    found = machine(write(tmp_path, JETSON))
    assert found["cpu"] == "Arm implementer 0x41 part 0xd42"
    assert found["board"] == "NVIDIA Jetson AGX Orin Developer Kit"
    assert found["features"] == ["dotprod", "fp16", "neon"]
    assert found["memory_gib"] == 30
    assert found["os"] == "Ubuntu 22.04.4 LTS"
    assert found["power_mode"] == "2 MODE_30W"
    assert found["quota"] == 1.5
    assert found["libraries"]["numpy"]


def test_power_mode_without_a_jetson(tmp_path):
    assert power_mode(tmp_path) is None
    governor = "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"
    assert power_mode(write(tmp_path, {governor: "performance\n"})) == "performance"
    assert power_mode(write(tmp_path, {"var/lib/nvpmodel/status": "pmode:0007"})) == "7"


def test_a_desktop_from_its_files(tmp_path):
    cpuinfo = "model name\t: Some CPU @ 3 GHz\nflags\t\t: fpu avx2 avx512f avx512_vnni\n"
    found = machine(write(tmp_path, {"proc/cpuinfo": cpuinfo}))
    assert found["cpu"] == "Some CPU @ 3 GHz"
    assert found["features"] == ["avx2", "avx512", "avx512_vnni"]
    assert found["board"] is found["power_mode"] is found["memory_gib"] is found["quota"] is None


def test_fingerprint_is_the_machine_and_not_its_load(tmp_path):
    one = machine(write(tmp_path, JETSON))["fingerprint"]
    write(tmp_path, {"var/lib/nvpmodel/status": "pmode:0000", "etc/os-release": ""})
    assert machine(tmp_path)["fingerprint"] == one
    write(tmp_path, {"proc/meminfo": "MemTotal:       62914560 kB\n"})
    assert machine(tmp_path)["fingerprint"] != one
    assert machine()["fingerprint"] == machine()["fingerprint"]


def test_busy_seconds_of_the_visible_cores(tmp_path, monkeypatch):
    assert busy_seconds(tmp_path) is None
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {1, 2})
    monkeypatch.setattr("os.sysconf", lambda _: 100)
    #                user nice system idle iowait irq softirq steal guest
    stat = (
        "cpu  9 9 9 9 9 9 9 9 9 9\ncpu0 100 0 0 0 0 0 0 0 0 0\n"
        "cpu1 100 10 20 9999 9999 1 2 67 5 5\ncpu2 50 0 0 0 0 0 0 0 0 0\nintr 5\n"
    )
    assert busy_seconds(write(tmp_path, {"proc/stat": stat})) == 2.5
