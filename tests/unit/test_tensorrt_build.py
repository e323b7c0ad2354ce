"""One path builds with every release of TensorRT: seen on doubles of 8.6, 10.x and 11.x."""

from __future__ import annotations

import ctypes
import hashlib
import signal
import sys
from pathlib import Path

import pytest
from tensorrt_doubles import Behaviour, double

from edgeseg.errors import EngineError, GraphError, UsageError
from edgeseg.export.build_options import FLAGS, BuildOptions
from edgeseg.export.tensorrt_build import available_mib, build_plan
from edgeseg.export.tensorrt_versions import MEMBERS, RELEASES, release_of
from edgeseg.runtime.gpu import Gpu, find_gpu, read_jetpack

pytestmark = pytest.mark.unit

MIB = 1 << 20
PLAIN = BuildOptions()


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    (tmp_path / "network.onnx").write_bytes(b"onnx")
    return tmp_path / "network.onnx"


def built(graph, version="10.3.0", does=None, precision="fp32", options=PLAIN, **more):
    """(what was built, what the library was asked, what was said)."""
    does = does or Behaviour()
    said: list[str] = []
    trt = double(version, does)
    plan = build_plan(trt, "tensorrt", graph, precision, options, said.append, **more)
    return plan, does.calls, said


def refused(graph, kind=EngineError, **asked) -> str:
    with pytest.raises(kind) as error:
        built(graph, **asked)
    return str(error.value)


# The releases


@pytest.mark.parametrize(
    ("version", "precision", "asked"),
    [
        ("8.6.2", "fp32", [("network", "EXPLICIT_BATCH")]),
        ("8.6.2", "fp16", [("network", "EXPLICIT_BATCH"), ("set_flag", "FP16")]),
        ("8.6.2", "int8", [("network", "EXPLICIT_BATCH"), ("set_flag", "INT8")]),
        ("10.3.0", "fp32", [("network", "STRONGLY_TYPED")]),
        ("10.3.0", "fp16", [("network", "STRONGLY_TYPED")]),
        ("10.3.0", "int8", [("network", "STRONGLY_TYPED")]),
        ("10.13.3.9", "int8", [("network", "STRONGLY_TYPED")]),
        ("11.0.0", "fp16", [("network",)]),
        ("11.4.1", "int8", [("network",)]),
    ],
)
def test_types_are_said_as_each_release_wants_them(graph, version, precision, asked):
    plan, calls, said = built(graph, version, precision=precision)
    assert calls == asked
    assert (plan.data, plan.layers, plan.warnings, said) == (b"plan", 5, 0, [])
    assert (plan.gpu_layers, plan.cache_sha256) == (None, None)


@pytest.mark.parametrize("version", ["8.5.2", "7.1"])
def test_a_release_that_is_too_old(version):
    with pytest.raises(EngineError) as error:
        release_of("tensorrt", version)
    assert str(error.value) == (
        f"TensorRT {version} is too old; edgeseg builds with 8.6 or later (JetPack 6 or later has "
        "it)"
    )


def test_the_table_is_in_order_and_finds_the_last_row():
    for library in ("tensorrt", "tensorrt-rtx"):
        since = [r.since for r in RELEASES if r.library == library]
        assert since == sorted(since)
    assert release_of("tensorrt", "10.7.0.23").dla is not None
    assert release_of("tensorrt", "10.8.0").dla is None
    assert release_of("tensorrt", "11.4.0").dla is None
    assert release_of("tensorrt", "11.4.1").dla is not None
    assert release_of("tensorrt", "12.0").since == (11, 4, 1)
    assert release_of("tensorrt-rtx", "1.7.1.116").options == ("workspace_mib",)
    assert set(MEMBERS) <= {*FLAGS, "ampere+", "same-capability"}


# What a user may ask


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        ({"workspace_mib": 512}, [("pool", "WORKSPACE", 512 * MIB)]),
        (
            {"memory_mib": 64},
            [("pool", "TACTIC_DRAM", 64 * MIB), ("pool", "WORKSPACE", 64 * MIB)],
        ),
        (
            {"memory_mib": 64, "workspace_mib": 16},
            [("pool", "TACTIC_DRAM", 64 * MIB), ("pool", "WORKSPACE", 16 * MIB)],
        ),
        ({"version_compatible": True}, [("set_flag", "VERSION_COMPATIBLE")]),
        ({"hardware_compatible": "ampere+"}, [("hardware_compatibility_level", "AMPERE_PLUS")]),
        (
            {"hardware_compatible": "same-capability"},
            [("hardware_compatibility_level", "SAME_COMPUTE_CAPABILITY")],
        ),
    ],
)
def test_options_reach_the_builder(graph, tmp_path, options, asked):
    calls = built(graph, "11.0.0", options=BuildOptions(**options), root=tmp_path)[1]
    assert calls == [("network",), *asked]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"hardware_compatible": "same-capability"}, "--hardware-compatible same-capability needs "
         "HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY, and TensorRT 8.6.2 has none; leave "
         "the flag away or build with a later TensorRT"),
        ({"memory_mib": 64}, "--build-memory needs MemoryPoolType.TACTIC_DRAM, and TensorRT 8.6.2"),
    ],
)  # fmt: skip
def test_an_option_that_a_release_does_not_have(graph, tmp_path, options, said):
    asked = {"version": "8.6.2", "options": BuildOptions(**options), "root": tmp_path}
    assert refused(graph, **asked).startswith(said)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"cache_sha256": "0" * 64}, "--pin-cache pins a timing cache: give --timing-cache FILE"),
        ({"cache_sha256": "xyz", "timing_cache": Path("t")}, "--pin-cache is 'xyz'; expected a"),
        ({"hardware_compatible": "amper"}, "unknown --hardware-compatible 'amper'. Did you mean"),
    ],
)
def test_options_that_can_not_be(options, said):
    with pytest.raises(UsageError) as error:
        BuildOptions(**options)
    assert str(error.value).startswith(said)


def test_what_was_asked_is_told_without_paths():
    asked = BuildOptions(timing_cache=Path("/somewhere/orin.cache"), dla=0, workspace_mib=1)
    assert asked.asked() == {"workspace_mib": 1, "timing_cache": "orin.cache", "dla": 0}
    assert PLAIN.asked() == {}


# Memory


def meminfo(root: Path, available_kib: int) -> Path:
    (root / "proc").mkdir()
    (root / "proc/meminfo").write_text(f"MemTotal: 8000000 kB\nMemAvailable: {available_kib} kB\n")
    return root


def test_a_budget_that_the_board_does_not_have(graph, tmp_path):
    root = meminfo(tmp_path, 1500 * 1024)
    assert available_mib(root) == 1500
    said = refused(graph, options=BuildOptions(memory_mib=2000), root=root)
    assert said.startswith("--build-memory is 2000 MiB and this machine has 1500 MiB left; stop")
    built(graph, options=BuildOptions(memory_mib=1500), root=root)
    assert available_mib(tmp_path / "nowhere") is None


# Timing caches


def test_a_timing_cache_is_made_read_and_written_again(graph, tmp_path):
    options = BuildOptions(timing_cache=tmp_path / "orin.cache")
    plan, calls, _ = built(graph, options=options)
    assert ("create_timing_cache", b"") in calls
    assert (tmp_path / "orin.cache").read_bytes() == b"+timed"
    assert plan.cache_sha256 == hashlib.sha256(b"+timed").hexdigest()
    assert ("create_timing_cache", b"+timed") in built(graph, options=options)[1]
    assert (tmp_path / "orin.cache").read_bytes() == b"+timed+timed"


def test_a_pinned_cache_is_not_written_and_a_miss_is_an_error(graph, tmp_path):
    (tmp_path / "orin.cache").write_bytes(b"times")
    pin = hashlib.sha256(b"times").hexdigest()
    options = BuildOptions(timing_cache=tmp_path / "orin.cache", cache_sha256=pin)
    plan, calls, _ = built(graph, options=options)
    assert ("set_flag", "ERROR_ON_TIMING_CACHE_MISS") in calls
    assert (tmp_path / "orin.cache").read_bytes() == b"times"
    assert plan.cache_sha256 == pin
    said = refused(graph, version="8.6.2", options=options)
    assert said.startswith("--pin-cache needs BuilderFlag.ERROR_ON_TIMING_CACHE_MISS")
    miss = Behaviour(plan=None, said=(("ERROR", "timing cache miss"),))
    said = refused(graph, does=miss, options=options)
    assert said == "TensorRT 10.3.0 can't build network.onnx: timing cache miss"


def test_a_pinned_cache_that_is_another_or_not_there(graph, tmp_path):
    options = BuildOptions(timing_cache=tmp_path / "orin.cache", cache_sha256="0" * 64)
    assert refused(graph, options=options).endswith(
        "orin.cache: no such timing cache, and --pin-cache says what is in it"
    )
    (tmp_path / "orin.cache").write_bytes(b"times")
    said = refused(graph, options=options)
    assert hashlib.sha256(b"times").hexdigest() in said
    assert said.endswith("give the file that was pinned, or pin this one")


def test_a_cache_of_another_gpu(graph, tmp_path):
    options = BuildOptions(timing_cache=tmp_path / "orin.cache")
    said = refused(graph, does=Behaviour(cache_fits=False), options=options)
    assert "orin.cache: a timing cache of another TensorRT or GPU; give another file" in said
    assert not (tmp_path / "orin.cache").exists()


# DLA


@pytest.mark.parametrize(
    ("version", "typed"),
    [
        ("8.6.2", [("network", "EXPLICIT_BATCH"), ("set_flag", "FP16")]),
        ("10.7.0", [("network", "EXPLICIT_BATCH"), ("set_flag", "FP16")]),
        ("11.4.1", [("network",)]),
    ],
)
def test_a_dla_takes_what_it_can_and_the_gpu_the_rest(graph, version, typed):
    plan, calls, said = built(graph, version, precision="fp16", options=BuildOptions(dla=1))
    assert calls == [
        *typed, ("default_device_type", "DLA"), ("DLA_core", 1), ("set_flag", "GPU_FALLBACK"),
    ]  # fmt: skip
    assert (plan.layers, plan.gpu_layers) == (5, {"RESIZE": 2, "PARAMETRIC_RELU": 1})
    assert said == [
        f"TensorRT {version}: the DLA takes 2 of 5 layers; GPU: 2 RESIZE, 1 PARAMETRIC_RELU"
    ]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"version": "10.13.3"}, "TensorRT 10.13.3 has no DLA; TensorRT has it up to 10.7"),
        ({"version": "11.0.0"}, "TensorRT 11.0.0 has no DLA; "),
        ({"precision": "int8"}, "a DLA runs fp16 here, and this network is int8; export it with"),
        ({"does": Behaviour(dla_cores=0)}, "--dla 0: this board has 0 DLA cores, counted from 0"),
    ],
)
def test_a_dla_that_can_not_be(graph, asked, said):
    line = {"version": "10.3.0", "precision": "fp16", **asked}
    assert refused(graph, options=BuildOptions(dla=0), **line).startswith(said)


# What goes wrong


def test_operators_are_refused_by_name(graph):
    errors = (("NonZero", "n1", "no such thing"), ("Foo", "n2", "unknown"))
    said = refused(graph, GraphError, does=Behaviour(errors=errors))
    assert said == (
        "TensorRT 10.3.0 refuses network.onnx: operator NonZero of node 'n1': no such thing; "
        "operator Foo of node 'n2': unknown. Leave that operator out of the model, or take "
        "another target"
    )
    said = refused(graph, GraphError, version="8.6.2", does=Behaviour(errors=errors))
    assert "refuses network.onnx: node 0: no such thing; node 1: unknown. " in said


def test_a_build_that_fails_says_the_last_error(graph):
    said = (("ERROR", "first"), ("WARNING", "hm"), ("INTERNAL_ERROR", "out of memory"))
    failed = refused(graph, does=Behaviour(plan=None, said=said))
    assert failed == "TensorRT 10.3.0 can't build network.onnx: out of memory"
    silent = refused(graph, does=Behaviour(plan=None))
    assert silent == "TensorRT 10.3.0 can't build network.onnx: it does not say why"


def test_warnings_are_shown_and_counted(graph):
    lines = (("WARNING", "slow"), ("INFO", "x"), ("WARNING", "slow"), ("WARNING", "odd"))
    plan, _, said = built(graph, does=Behaviour(said=lines))
    assert plan.warnings == 3
    assert said == [
        "TensorRT 10.3.0: warning: slow (2 times)",
        "TensorRT 10.3.0: warning: odd",
    ]


def test_warnings_of_one_build_are_not_those_of_the_next(graph):
    does = Behaviour(said=(("WARNING", "slow"),))
    trt = double("11.0.0", does)
    for _ in range(2):
        plan = build_plan(trt, "tensorrt", graph, "fp32", PLAIN, print)
        assert plan.warnings == 1


def test_ctrl_c_waits_for_tensorrt_and_ends_the_build(graph, capsys):
    """An exception in a callback would end the process: the build is asked to stop instead."""
    before = signal.getsignal(signal.SIGINT)
    does = Behaviour(while_building=lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        built(graph, does=does)
    assert [m.step_complete("Building", 0) for m in does.monitors] == [False]
    assert signal.getsignal(signal.SIGINT) is before
    said = "\rinterrupted: waiting for TensorRT to end the step it is in\n"
    assert capsys.readouterr().err == said
    old = Behaviour(while_building=does.while_building)
    with pytest.raises(KeyboardInterrupt):  # 8.6 tells no progress: after the build, then
        built(graph, "8.6.2", old)


# Progress


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_for_terminals(graph, capsys, monkeypatch, terminal):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    built(graph)
    shown = capsys.readouterr().err
    assert shown == ("\rBuilding: 1/2 \x1b[K\r\x1b[K" if terminal else "")


# The machine


class Driver:
    """The CUDA driver's C functions, on one GPU; `init` is what cuInit answers."""

    def __init__(self, init: int = 0, devices: int = 1) -> None:
        self.init, self.devices = init, devices

    def cuInit(self, flags: int) -> int:
        assert flags == 0
        return self.init

    def cuDeviceGet(self, device, ordinal: int) -> int:
        device._obj.value = 0
        return 0 if ordinal < self.devices else 101

    def cuDeviceGetName(self, name, size: int, device) -> int:
        assert size == ctypes.sizeof(name)
        name.value = b"Orin"
        return 0

    def cuDriverGetVersion(self, version) -> int:
        version._obj.value = 12060
        return 0

    def cuDeviceGetAttribute(self, value, attribute: int, device) -> int:
        value._obj.value = {75: 8, 76: 7}[attribute]
        return 0


def test_the_gpu_is_named_by_its_driver():
    assert find_gpu(Driver) == Gpu("Orin", "8.7", "12.6")


@pytest.mark.parametrize("driver", [None, Driver(init=999), Driver(devices=0)])
def test_no_gpu(driver):
    assert find_gpu(lambda: driver) is None


@pytest.mark.parametrize(
    ("release", "jetpack"),
    [
        ("# R36 (release), REVISION: 4.3, GCID: 38968081", "6.1 or 6.2 (L4T 36.4.3)"),
        ("# R36 (release), REVISION: 3.0, GCID: 36923193", "6.0 (L4T 36.3.0)"),
        ("# R38 (release), REVISION: 4.0, GCID: 1", "7.1 (L4T 38.4.0)"),
        ("# R99 (release), REVISION: 1.0, GCID: 1", "L4T 99.1.0"),
        ("something else", None),
    ],
)
def test_jetpack_is_read_from_its_file(tmp_path, release, jetpack):
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/nv_tegra_release").write_text(release)
    assert read_jetpack(tmp_path) == jetpack


def test_no_jetson_has_no_jetpack(tmp_path):
    assert read_jetpack(tmp_path) is None
