"""The page of the classic systems: what stands there, how it is measured, that it is current."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from edgeseg.benchmarks.classics_table import PAGE, classics, page
from edgeseg.errors import ComparisonError, EngineError, UsageError
from edgeseg.models import MODELS, REFINERS, WORK
from edgeseg.models.figures import FIGURES
from edgeseg.pipeline.classics import (
    Unit,
    bench_in_process,
    build_ahead,
    build_in_process,
    measure,
    units,
)
from edgeseg.pipeline.classics import main as classics_main
from edgeseg.pipeline.study_results import majority

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[2]


def row(model: str, target: str, p50: float | None, size: tuple[int, int] = (256, 512)) -> dict:
    return {
        "model": f"{model} (random weights)", "target": target, "precision": "int8",
        "inference_precision": "f32", "size": list(size), "threads": 2, "peak_rss_mib": 321.4,
        "latency_ms": {"p50": p50, "samples": [7.0, 900.0, 8.0]},
        "machine": {"cpu": "a cpu", "cores": 2},
    }  # fmt: skip


RESULT = {
    "command": "edgeseg bench unet enet --weights random",
    "results": [
        row("unet", "openvino", 12.34),
        row("unet", "onnxruntime", None),
        row("enet", "openvino", 9.0, (512, 1024)),
    ],
    "failed": [{"folder": "unet 512x1024", "error": "no memory"}],
}
STUDY = {
    "command": "edgeseg study x.toml",
    "missing": ["segnet"],
    "runs": [
        {
            "variant": name, "model": name, "size": [64, 128], "steps": 150, "macs": macs,
            "miou": {"value": 21.26}, "pixel_accuracy": 80.04,
            "majority": {"miou": 2.14, "pixel_accuracy": 38.9},
        }
        for name, macs in (("unet", 2), ("enet", 1))
    ],
}  # fmt: skip


def test_every_classic_has_its_row():
    assert classics()[0] == "enet"
    assert set(classics()) <= set(MODELS)
    assert set(FIGURES) <= {*classics(), *REFINERS}
    lines = page([], []).splitlines()
    for name in (*classics(), *REFINERS):
        (line,) = [x for x in lines if x.startswith(f"| `{name}` |")]
        assert f"| {WORK[name][0] / 1e6:.2f} |" in line
    assert page([], []).count("No result yet") == 2


def test_published_stands_beside_counted():
    (line,) = [x for x in page([], []).splitlines() if x.startswith("| `bisenetv1_r18` |")]
    assert line.endswith("| 13.24 | 7.40 | 29.58 | 13.3 | 13.2 | 118 | 1024x2048 | 118.3 |")


def test_latencies_are_those_of_the_result():
    """Systems in the order of the list; too few calls say how many; what is missing is a dash."""
    text = page([RESULT], [])
    dash = "\N{EN DASH}"
    assert "| system | size | ONNX Runtime INT8 ms | MiB | OpenVINO INT8 ms | MiB |" in text
    rows = [x for x in text.splitlines() if x.startswith(("| `unet` | 2", "| `enet` | 5"))]
    assert rows == [
        f"| `enet` | 512x1024 | {dash} | {dash} | 9.0 | 321 |",
        "| `unet` | 256x512 | 8.0 (3) | 321 | 12.3 | 321 |",
    ]
    assert "On a cpu with 2 threads:" in text
    assert "- unet 512x1024: no memory" in text
    assert "edgeseg bench unet enet --weights random" in text


def test_what_was_neither_measured_nor_failed_is_named():
    text = page([RESULT], [])
    for size, there, missing in (
        ("256x512", {"unet"}, {"enet", "segnet"}),
        ("512x1024", {"enet", "unet"}, {"segnet"}),
    ):
        (line,) = [x for x in text.splitlines() if x.startswith(f"Not measured yet at {size}: ")]
        assert all(f"`{name}`" in line for name in missing)
        assert not any(f"`{name}`" in line for name in there)


def test_what_was_learned_stands_beside_the_majority_class():
    text = page([], [STUDY])
    rows = [x for x in text.splitlines() if "| 64x128 |" in x]
    assert rows == [
        f"| `{name}` | {name} | 64x128 | 150 | 21.3 | 2.1 | 80.0 | 38.9 |"
        for name in ("enet", "unet")
    ]
    assert "Not trained yet: segnet." in text
    assert "edgeseg study x.toml" in text


def test_the_majority_class_by_hand():
    """Six of ten pixels are of class 0, four of class 2, none of class 1: IoU 60 and 0."""
    counts = np.array([[5, 0, 1, 0], [0, 0, 0, 0], [1, 2, 0, 1]])
    assert majority(counts) == {"miou": 30.0, "pixel_accuracy": 60.0}


def test_the_stored_page_is_current():
    kept = ROOT / "benchmarks" / "results" / "classics"
    results = [p for p in (kept / "latency.json", kept / "trained" / "study.json") if p.exists()]
    PAGE.update(ROOT / "benchmarks" / "CLASSICS.md", results, check=True)


def test_a_page_that_is_not_current_is_an_error(tmp_path):
    path = tmp_path / "PAGE.md"
    path.write_text("old")
    with pytest.raises(ComparisonError, match=r"PAGE\.md is not what the results say"):
        PAGE.update(path, [], check=True)
    assert PAGE.main([str(path)]) == 0
    PAGE.update(path, [], check=True)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({}, "is no result of 'edgeseg bench': 'command' is missing"),
        ({"runs": []}, "is no result of 'edgeseg study': 'command' is missing"),
    ],
)
def test_what_is_no_result_is_refused(tmp_path, content, said):
    path = tmp_path / "x.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UsageError, match=said):
        PAGE.update(tmp_path / "PAGE.md", [path], check=False)


# Measuring, a system and a size at a time


def measured(out: Path, seconds: float, bench) -> list[str]:
    said: list[str] = []
    measure(out, seconds, bench, said.append)
    return said


def test_cheap_systems_come_first_and_a_second_run_goes_on(tmp_path):
    order = units()
    assert len(order) == 2 * len([*classics(), *REFINERS])
    assert order[0].key == "fast_scnn 256x512"
    assert order[-1].key == "cascadepsp_r50 512x1024"
    out = tmp_path / "latency.json"
    called: list[str] = []

    def bench(unit: Unit, seconds: float) -> dict:
        called.append(f"{unit.name} {unit.size[0]}")
        if len(called) == 3:
            raise subprocess.TimeoutExpired("edgeseg", seconds)
        if unit.name == "enet":
            raise EngineError("it crashed")
        return {"results": [row(unit.name, "openvino", 1.0, unit.size)], "failed": []}

    assert measured(out, 60.0, bench)[-1].endswith("the time was over before it was done")
    assert called == ["fast_scnn 256", "enet 256", "fast_scnn 512"]
    content = json.loads(out.read_text())
    assert list(content["done"]) == ["fast_scnn 256x512", "enet 256x512"]
    assert content["failed"] == [{"folder": "enet 256x512", "error": "it crashed"}]
    measured(out, 60.0, bench)
    assert called[3:5] == ["fast_scnn 512", "icnet 256"]
    assert len(called) == len(order) + 1
    assert list(json.loads(out.read_text())["done"]) == [unit.key for unit in order]


def test_engines_are_built_ahead_and_not_twice(tmp_path, monkeypatch):
    """Nor those of systems that are measured; one that fails or takes too long is left."""
    monkeypatch.setattr("edgeseg.pipeline.classics.WORKPLACE", tmp_path / "work")
    out = tmp_path / "latency.json"
    measure(out, 60.0, one_bench("fast_scnn 256x512"), lambda _: None)
    called: list[str] = []

    def build(unit: Unit, seconds: float) -> dict:
        called.append(unit.key)
        if len(called) == 2:
            raise EngineError("it crashed")
        if len(called) == 4:
            raise subprocess.TimeoutExpired("edgeseg", seconds)
        unit.folder.mkdir(parents=True)
        (unit.folder / "built.json").write_text("{}")
        return {"failed": []}

    said: list[str] = []
    build_ahead(out, 60.0, build, said.append)
    assert called == [unit.key for unit in units()[1:5]]
    assert said[1:] == [
        f"{called[1]}: it crashed", f"{called[2]}: built, 0 failed",
        f"{called[3]}: the time was over before it was built",
    ]  # fmt: skip
    build_ahead(out, 60.0, build, said.append)
    assert called[4:6] == [called[1], called[3]]


def one_bench(key: str):
    """Measures that system; for the next the time is over."""

    def bench(unit: Unit, seconds: float) -> dict:
        if unit.key != key:
            raise subprocess.TimeoutExpired("edgeseg", seconds)
        return {"results": [], "failed": []}

    return bench


def test_what_would_not_be_done_in_time_is_not_begun(tmp_path, monkeypatch):
    """The first takes 10 s: the second, of 2.3 times the MACs, does not fit into 20."""
    now = iter((0.0, 0.0, 0.0, 10.0, 10.0))
    clock = SimpleNamespace(monotonic=lambda: next(now))
    monkeypatch.setattr("edgeseg.pipeline.classics.time", clock)
    said = measured(tmp_path / "x.json", 20.0, lambda *_: {"results": [], "failed": []})
    assert said == [
        "fast_scnn 256x512: 10 s, 0 failed", "enet 256x512: 10 s are left, and it takes 23",
    ]  # fmt: skip


def test_a_result_of_another_machine_is_not_gone_on_with(tmp_path):
    out = tmp_path / "x.json"
    empty = {"command": "", "done": {}, "results": [], "failed": []}
    out.write_text(json.dumps({"machine": {"fingerprint": "abc", "libraries": {}}, **empty}))
    with pytest.raises(ComparisonError, match=r"other versions \(fingerprint: abc, now"):
        measured(out, 1.0, lambda *_: {})
    assert classics_main([str(out), "--seconds", "1"]) == ComparisonError.exit_code
    out.write_text("{}")
    with pytest.raises(UsageError, match=r"is no result of 'edgeseg.pipeline.classics': 'command'"):
        measured(out, 1.0, lambda *_: {})


def test_what_takes_too_long_is_ended_with_all_it_started(tmp_path, monkeypatch):
    """A row is measured in a process of its own: here a long sleep."""
    stands_for_python("#!/bin/sh\nsleep 60 &\necho $! > pid\nwait\n", tmp_path, monkeypatch)
    with pytest.raises(subprocess.TimeoutExpired):
        bench_in_process(Unit("enet", (256, 512)), 1.0)
    state = Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}/stat")
    until = time.monotonic() + 5
    while sleeps(state):
        assert time.monotonic() < until, "the sleep goes on"
        time.sleep(0.01)


BUILDS_AND_MEASURES = """#!/bin/sh
echo "$@" >> calls
for out; do :; done
mkdir -p "$out"
case "$@" in
*--build-only*)
    echo '{"folders": ["one", "two"], "failed": [{"folder": "x"}]}' > "$out/built.json" ;;
*)
    echo '{"results": [1, 2], "failed": [{"folder": "y"}]}' > "$out/results.json" ;;
esac
"""
"""What `edgeseg bench` writes, in no time."""


def test_what_was_built_is_measured_and_gone(tmp_path, monkeypatch):
    """Built ahead or not: one building, then the folders that it named."""
    stands_for_python(BUILDS_AND_MEASURES, tmp_path, monkeypatch)
    unit = Unit("fast_scnn", (64, 128))
    found = {"results": [1, 2], "failed": [{"folder": "x"}, {"folder": "y"}]}
    assert bench_in_process(unit, 9.0) == found
    assert not unit.folder.exists()
    assert build_in_process(unit, 9.0)["folders"] == ["one", "two"]
    assert bench_in_process(unit, 9.0) == found
    calls = (tmp_path / "calls").read_text().splitlines()
    assert ["--build-only" in call for call in calls] == [True, False, True, False]
    assert calls[0].startswith("-m edgeseg bench fast_scnn --weights random --sizes 64x128")
    assert calls[1].startswith("-m edgeseg bench one two --data synthetic:size=64x128,count=60")
    assert not unit.folder.exists()


def test_what_fails_leaves_no_engines(tmp_path, monkeypatch):
    stands_for_python("#!/bin/sh\necho 'edgeseg: no memory' >&2\nexit 3\n", tmp_path, monkeypatch)
    unit = Unit("enet", (256, 512))
    unit.folder.mkdir(parents=True)
    with pytest.raises(EngineError, match=r"--build-only.* ended with 3: edgeseg: no memory"):
        bench_in_process(unit, 9.0)
    assert not unit.folder.exists()


def stands_for_python(script: str, folder: Path, monkeypatch) -> None:
    """What is called instead of Python, in that folder."""
    python = folder / "python"
    python.write_text(script)
    python.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(python))
    monkeypatch.chdir(folder)


def sleeps(state: Path) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return state.read_text().split()[2] != "Z"
    except OSError:
        return False
