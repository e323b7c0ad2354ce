"""What a board's sensors say: power rails, temperatures, clocks, memory, fan, throttling.

Read from files under /sys, nothing is run. A sensor that is not there, or that says nothing at the
moment (the GPU's own temperature while the GPU is off), is left out of a reading.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

# fmt: off
TOTALS = (
    # rails that make up all that the module takes     on
    ("VDD_IN",),                                       # Orin Nano, Orin NX
    ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"),      # AGX Orin; the last holds the memory's
    ("VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0"),     # Thor; VIN is the carrier board's input
)
ALARMS = {
    "oc1": "under-voltage (oc1)",
    "oc2": "average over-current (oc2)",
    "oc3": "instantaneous over-current (oc3)",
}
# fmt: on
CAPS = re.compile(r".*-alert|(cpufreq|devfreq|thermal-cpufreq|thermal-devfreq)-.*|Processor")
"""Cooling devices that slow something down; fans are none."""

GPUS = re.compile(r"[0-9a-f]+\.(gpu|ga10b|gv11b)|gpu-gpc-0")
"""Names of the GPU's clock under /sys/class/devfreq: Orin, Xavier; Thor."""

MEMORY_BUSY = (
    "sys/kernel/debug/cactmon/mc_all",
    "sys/kernel/actmon_avg_activity/mc_all",
)
"""Thousands of the memory's clocks in which it was busy, a second: by the kernel's driver for Orin
(root's), and by that of kernels before. Thor has a counter of its firmware in a unit not known."""

_CHUNK = 4096


@dataclass(frozen=True)
class Clock:
    """MHz: what is allowed now; `locked` when there is no choice left (`jetson_clocks`)."""

    low: float
    high: float

    @property
    def locked(self) -> bool:
        """Whether the clock stands still."""
        return self.low == self.high


@dataclass(frozen=True)
class Reading:
    """One look at every sensor: watts, degrees, MHz.

    `caps` are states above 0 of cooling devices that slow something down; `events` are counters
    since the system's start; `emc_percent` says in how many of its clocks the memory was busy.
    """

    rails_w: dict[str, float] = field(default_factory=dict)
    temperatures_c: dict[str, float] = field(default_factory=dict)
    clocks_mhz: dict[str, float] = field(default_factory=dict)
    caps: dict[str, int] = field(default_factory=dict)
    events: dict[str, int] = field(default_factory=dict)
    fan_percent: float | None = None
    fan_rpm: int | None = None
    emc_percent: float | None = None

    @property
    def total_w(self) -> float | None:
        """All that the module takes; None where the rails do not tell."""
        names = total_of(self.rails_w)
        return sum(self.rails_w[n] for n in names) if names else None


def total_of(rails: dict[str, float]) -> tuple[str, ...]:
    """The rails whose sum is the module's power; none where that is not known."""
    return next((names for names in TOTALS if all(n in rails for n in names)), ())


class Sensors:
    """The sensors of one machine: found when made, read again and again.

    `root` is where sys lies. Safe to read from a thread of its own.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        chips = {path: text(path / "name") for path in _folders(root / "sys/class/hwmon", "hwmon")}
        self._rails = dict(rail for path, name in chips.items() for rail in _rails(path, name))
        self._alarms = [
            (ALARMS.get(path.name[:3], path.name[:3]), path)
            for folder, name in chips.items()
            if name == "soctherm_oc"
            for path in sorted(folder.glob("oc*_event_cnt"))
            if text(folder / f"{path.name[:3]}_throt_en") == "1"
        ]
        self._alarms += _throttle_counts(root)
        self._fan = next((p / "pwm1" for p, n in chips.items() if n == "pwmfan"), None)
        self._tachometer = next((p / "rpm" for p, n in chips.items() if n == "pwm_tach"), None)
        thermal = root / "sys/class/thermal"
        self._zones = [
            (_zone_name(text(path / "type")), path / "temp")
            for path in _folders(thermal, "thermal_zone")
        ]
        self._cooling = [
            (kind, path / "cur_state")
            for path in _folders(thermal, "cooling_device")
            if CAPS.fullmatch(kind := text(path / "type"))
        ]
        self._clocks = dict(_clocks(root))
        busy = (root / path for path in MEMORY_BUSY)
        self._memory = next((path for path in busy if number(path) is not None), None)

    @property
    def rails(self) -> tuple[str, ...]:
        """Names of the power rails that have a meter."""
        return tuple(self._rails)

    @property
    def tells_throttling(self) -> bool:
        """Whether this machine says when it slows itself down."""
        return bool(self._cooling or self._alarms)

    @property
    def unread(self) -> tuple[str, ...]:
        """What a Jetson has and does not show to this program; a sentence each."""
        if "gpu" not in self._clocks:
            return ()
        if "emc" not in self._clocks:
            return ("the memory's clock and use (emc) are shown to root only: sudo",)
        if self._memory is None:
            return (f"the memory's use (emc) is not shown: no /{MEMORY_BUSY[0]} (Orin, as root)",)
        return ()

    def __bool__(self) -> bool:
        return bool(self._rails or self._zones or self._clocks or self.tells_throttling)

    def read(self) -> Reading:
        """Look at every sensor once."""
        caps = {kind: number(path) for kind, path in self._cooling}
        duty = number(self._fan) if self._fan else None
        clocks = {
            n: v * c.scale for n, c in self._clocks.items() if (v := number(c.now)) is not None
        }
        return Reading(
            {n: w for n, paths in self._rails.items() if (w := _watts(paths)) is not None},
            {n: v / 1000 for n, p in self._zones if (v := number(p)) is not None and v > -200_000},
            clocks,
            {kind: state for kind, state in caps.items() if state is not None and state > 0},
            _summed((name, number(path)) for name, path in self._alarms),
            None if duty is None else round(100 * duty / 255, 1),
            number(self._tachometer) if self._tachometer else None,
            self._emc_percent(clocks.get("emc")),
        )

    def _emc_percent(self, mhz: float | None) -> float | None:
        busy = number(self._memory) if self._memory else None
        return None if busy is None or not mhz else round(busy / mhz / 10, 1)

    def clocks(self) -> dict[str, Clock]:
        """What each clock may do at the moment."""
        found = {}
        for name, clock in self._clocks.items():
            low, high = number(clock.low), number(clock.high)
            if low is not None and high is not None:
                found[name] = Clock(low * clock.scale, high * clock.scale)
        return found


@dataclass(frozen=True)
class _ClockFiles:
    """Files of one clock; times `scale` they are MHz."""

    now: Path
    low: Path
    high: Path
    scale: float


def _rails(folder: Path, chip: str) -> Iterator[tuple[str, tuple[Path, ...]]]:
    """(label, files) of the rails that an INA sensor measures: power in uW, or mV and mA.

    The INA3221 has further channels that are no rail: shunt voltages, which have no label, and
    their sum, which has no current.
    """
    if not chip.startswith("ina"):
        return
    labels = {p.name[2:-6]: text(p) for p in sorted(folder.glob("in*_label"))}
    if not labels:
        labels = {"1": text(folder / "label")}
    for channel, label in labels.items():
        power, amps = folder / f"power{channel}_input", folder / f"curr{channel}_input"
        if not label or "NC" in label.split():
            continue
        if power.exists():
            yield label, (power,)
        elif amps.exists():
            yield label, (folder / f"in{channel}_input", amps)


def _watts(paths: tuple[Path, ...]) -> float | None:
    values = [number(path) for path in paths]
    if len(values) == 1:
        return None if values[0] is None else values[0] / 1e6
    volts, amps = values
    return None if volts is None or amps is None else volts * amps / 1e6


def _clocks(root: Path) -> Iterator[tuple[str, _ClockFiles]]:
    """Every policy of the CPUs, the GPU and the memory (EMC), as far as they can be read."""
    for path in _folders(root / "sys/devices/system/cpu/cpufreq", "policy"):
        now, low, high = (path / f"scaling_{n}_freq" for n in ("cur", "min", "max"))
        yield f"cpu{path.name[6:]}", _ClockFiles(now, low, high, 1e-3)
    devfreq = root / "sys/class/devfreq"
    for path in sorted(devfreq.glob("*")) if devfreq.is_dir() else ():
        name = "gpu" if GPUS.fullmatch(path.name) else "emc" if path.name == "bwmgr" else None
        if name is not None:
            now, low, high = (path / f"{n}_freq" for n in ("cur", "min", "max"))
            yield name, _ClockFiles(now, low, high, 1e-6)
    emc = root / "sys/kernel/debug/bpmp/debug/clk/emc"  # as root only
    if number(emc / "rate") is not None:
        yield "emc", _ClockFiles(emc / "rate", emc / "min_rate", emc / "max_rate", 1e-6)


def _throttle_counts(root: Path) -> list[tuple[str, Path]]:
    """An x86 core's own counters of how often heat slowed it down."""
    cpus = root / "sys/devices/system/cpu"
    return [
        ("the CPU was too hot", path)
        for path in sorted(cpus.glob("cpu[0-9]*/thermal_throttle/core_throttle_count"))
    ]


def _summed(counts: Iterator[tuple[str, int | None]]) -> dict[str, int]:
    found: dict[str, int] = {}
    for name, count in counts:
        if count is not None:
            found[name] = found.get(name, 0) + count
    return found


def _folders(parent: Path, prefix: str) -> list[Path]:
    """Folders `prefix`0, `prefix`1, ... in the order of their numbers."""
    found = [
        (int(name), parent / f"{prefix}{name}")
        for path in (parent.iterdir() if parent.is_dir() else ())
        if path.name.startswith(prefix) and (name := path.name[len(prefix) :]).isdigit()
    ]
    return [path for _, path in sorted(found)]


def _zone_name(kind: str) -> str:
    return kind.lower().removesuffix("-thermal").removesuffix("-therm")


def text(path: Path) -> str:
    """What a small file says, stripped; "" for one that can't be read.

    Without Python's buffers: those turn "try again later", which these files may answer, into a
    TypeError.
    """
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError:
        return ""
    try:
        return os.read(file, _CHUNK).decode("utf-8", errors="replace").strip("\0\n ")
    except OSError:
        return ""
    finally:
        os.close(file)


def number(path: Path) -> int | None:
    """The whole number in a small file, or None."""
    words = text(path).split()
    try:
        return int(words[0]) if words else None
    except ValueError:
        return None
