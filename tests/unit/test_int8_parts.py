"""The INT8 comparison's parts by pencil: suite, watched process, turns, scores."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import pytest

from edgeseg.errors import EngineError, RecipeError, UsageError
from edgeseg.pipeline.environments import install
from edgeseg.pipeline.int8_comparison_process import Ran, run_watched
from edgeseg.pipeline.int8_comparison_score import (
    Answers,
    float_scores,
    int8_scores,
    parity,
    same_labels,
)
from edgeseg.pipeline.int8_comparison_suite import Suite
from edgeseg.pipeline.int8_comparison_timing import compare
from edgeseg.recipe import read_recipe

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.unit


# Suite

SUITE = """
title = "t"
folder = "runs/x"
results = "x.json"
[environments.other]
packages = ["numpy==2.0"]
[models.a]
model = "espnet_q3"
size = [64, 96]
data = "synthetic:"
[models.b]
model = "espnet_q5"
size = [64, 96]
data = "synthetic:"
[methods.ours]
title = "ours"
kind = "edgeseg"
options.method = "mse"
[methods.theirs]
title = "theirs"
kind = "script"
script = "s.py"
environment = "other"
models = ["b"]
"""


def suite(tmp_path: Path, text: str = SUITE) -> Suite:
    path = tmp_path / "suite.toml"
    path.write_text(text)
    return read_recipe(Suite, path)


def test_a_suite_is_read(tmp_path):
    read = suite(tmp_path)
    assert read.models["a"].size == (64, 96)
    assert read.methods["ours"].options == {"method": "mse"}
    assert read.engines == ("onnxruntime", "openvino")
    assert read.python("") == Path(sys.executable)
    assert read.python("other") == Path("runs/x/env-other/bin/python")


def test_the_suite_of_the_project_is_read():
    read = read_recipe(Suite, ROOT / "benchmarks" / "suites" / "int8.toml")
    methods = read.methods.values()
    assert len(read.pairs()) == sum(len(m.models or read.models) for m in methods)
    for method in read.methods.values():
        assert not method.script or (ROOT / method.script).is_file()
    pinned = [p for e in read.environments.values() for p in e.packages]
    assert all("==" in package for package in pinned)


def test_pairs_of_names(tmp_path):
    read = suite(tmp_path)
    assert read.pairs() == [("a", "ours"), ("b", "ours"), ("b", "theirs")]
    assert read.pairs(["b"]) == [("b", "ours"), ("b", "theirs")]
    assert read.pairs(["ours"]) == [("a", "ours"), ("b", "ours")]
    assert read.pairs(["a", "ours"]) == [("a", "ours")]
    with pytest.raises(UsageError) as error:
        read.pairs(["our"])
    assert str(error.value) == "--only our: no such model or method. Did you mean 'ours'?"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('kind = "edgeseg"', 'kind = "edgesec"',
         "[methods.ours]: kind is 'edgesec'. Did you mean 'edgeseg'?"),
        ('script = "s.py"\n', "",
         "[methods.theirs]: key 'script' belongs to kind 'script', and kind is 'script'; "
         "give it"),
        ('kind = "edgeseg"', 'kind = "edgeseg"\nfolder = "f"',
         "[methods.ours]: key 'folder' belongs to kind 'folder', and kind is 'edgeseg'; "
         "leave it away"),
        ('kind = "edgeseg"', 'kind = "edgeseg"\nenvironment = "other"',
         "[methods.ours]: key 'environment' belongs to kind 'script', and kind is 'edgeseg'"),
        ('kind = "edgeseg"', 'kind = "edgeseg"\nout = "x.pb"',
         "[methods.ours]: out is 'x.pb'; expected a name in .onnx or .xml"),
        ('environment = "other"', 'environment = "othr"',
         "[methods.theirs]: no environment 'othr'. Did you mean 'other'?"),
        ('models = ["b"]', 'models = ["c"]', "[methods.theirs]: no model 'c'. Known: a, b."),
        ('title = "t"', 'title = "t"\nengines = ["openvin"]',
         "unknown engine 'openvin'. Did you mean 'openvino'?"),
    ],
)  # fmt: skip
def test_a_wrong_suite_is_refused(tmp_path, old, new, said):
    with pytest.raises(RecipeError) as error:
        suite(tmp_path, SUITE.replace(old, new, 1))
    assert str(error.value) == f"{tmp_path}/suite.toml: {said}"


def test_an_environment_that_is_there_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    python = suite(tmp_path).python("other")
    python.parent.mkdir(parents=True)
    (python.parents[1] / ".installed").write_text("numpy==2.0")
    said: list[str] = []
    read = suite(tmp_path)
    install(Path(read.folder), read.environments, said.append)
    assert said == []


def test_an_environment_that_fails_says_why(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\necho first >&2\necho 'no matching distribution' >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    read = suite(tmp_path)
    with pytest.raises(EngineError) as error:
        install(Path(read.folder), read.environments, lambda _: None)
    assert str(error.value) == "environment 'other' can't be made: no matching distribution"


# Watched process


def watched(tmp_path: Path, code: str, **limits: float) -> Ran:
    allowed = {"cap_mib": 500, "limit_seconds": 30.0, "every": 0.01} | limits
    return run_watched([sys.executable, "-c", code], tmp_path / "log", **allowed)  # type: ignore[arg-type]


def test_a_process_that_ends_well(tmp_path):
    code = """
import time
b = bytearray(60 << 20)
print('hello')
while time.process_time() < 0.5: pass
time.sleep(0.3)"""
    ran = watched(tmp_path, code)
    assert (ran.state, ran.reason) == ("done", "")
    assert 60 < ran.peak_mib < 120
    assert 0.4 <= ran.cpu_seconds < ran.seconds - 0.1
    assert 0.8 <= ran.seconds < 20
    assert (tmp_path / "log").read_text() == "hello\n"


def test_too_much_memory_is_a_result(tmp_path):
    code = "import time; b = bytearray(120 << 20); time.sleep(60)"
    ran = watched(tmp_path, code, cap_mib=100)
    assert (ran.state, ran.reason) == ("out of memory", "more than 100 MiB")
    assert ran.peak_mib > 100


def test_memory_of_what_it_starts_counts(tmp_path):
    inner = "import time; b = bytearray(120 << 20); time.sleep(60)"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}])"
    begin = time.monotonic()
    assert watched(tmp_path, code, cap_mib=100).state == "out of memory"
    assert time.monotonic() - begin < 30


def test_the_peak_of_what_has_ended_counts(tmp_path):
    inner = "import time; b = bytearray(60 << 20); time.sleep(0.3)"
    code = (
        f"import subprocess, sys, time; subprocess.run([sys.executable, '-c', {inner!r}]); "
        "time.sleep(0.2)"
    )
    assert watched(tmp_path, code).peak_mib > 60


def test_what_a_fork_shares_counts_once(tmp_path):
    """60 MiB in the parent, and four children that only look at them, one after the other."""
    code = """
import os, time
b = bytearray(60 << 20)
for _ in range(4):
    if not os.fork():
        time.sleep(0.15)
        os._exit(0)
    os.wait()
"""
    assert 60 < watched(tmp_path, code).peak_mib < 115


def test_too_long_is_a_result(tmp_path):
    ran = watched(tmp_path, "import time; time.sleep(60)", limit_seconds=0.3)
    assert (ran.state, ran.reason) == ("timed out", "more than 0.3 s")


@pytest.mark.parametrize(
    ("code", "state", "reason"),
    [
        ("raise ValueError('no such layer')", "failed", "ValueError: no such layer"),
        ("raise SystemExit(3)", "failed", "it said nothing"),
        ("raise MemoryError('512 GiB')", "out of memory", "MemoryError: 512 GiB"),
        ("import os; os.kill(os.getpid(), 11)", "failed", "killed by signal 11"),
    ],
)
def test_why_it_failed(tmp_path, code, state, reason):
    ran = watched(tmp_path, code)
    assert (ran.state, ran.reason) == (state, reason)


# Ratios


def test_ratio_is_of_blocks():
    """Float: 10 then 20 ms, INT8: 5 then 40: ratios 0.5 and 2, median 1.25."""
    found = compare([[10.0] * 10, [20.0] * 10], [[5.0] * 10, [40.0] * 10])
    assert found["ratio"] == [0.5, 1.25, 2.0]
    assert (found["float_p50_ms"], found["p50_ms"], found["n"]) == (10.0, 5.0, 20)


# Scores

NAMES = ("road", "car")


def answers(*called: list[list[int]], truth: list[list[int]]) -> Answers:
    """Frames of one truth, with these labels."""
    labels = [np.array(c, np.uint8) for c in called]
    counts = np.zeros((len(called), 2, 3), np.int64)
    for matrix, frame in zip(counts, labels, strict=True):
        for t, p in zip(np.ravel(truth), frame.ravel(), strict=True):
            matrix[t, p] += 1
    return Answers(labels, counts)


TRUTH = [[0, 0, 1, 1]]


def test_scores_against_float():
    """Float is right. INT8 calls a road pixel car in each frame: road 1/2, car 2/3."""
    floats = answers(TRUTH, TRUTH, truth=TRUTH)
    int8 = answers([[0, 1, 1, 1]], [[0, 1, 1, 1]], truth=TRUTH)
    assert float_scores(floats, NAMES) == {"miou": 100.0, "per_class": {"road": 100, "car": 100}}
    found = int8_scores(int8, floats, NAMES)
    assert found["miou"] == pytest.approx(100 * (1 / 2 + 2 / 3) / 2, abs=1e-3)
    assert found["per_class"] == {"road": 50.0, "car": 66.667}
    drop = 100 * (1 - 7 / 12)
    assert found["drop"] == pytest.approx({"value": drop, "low": drop, "high": drop}, abs=1e-3)
    assert (found["worst_class"], found["worst_class_drop"]) == ("road", 50.0)
    assert found["same"] == 75.0


def test_a_rare_class_is_not_the_worst():
    """One car pixel of 2000 is below a tenth of a percent: its loss is chance."""
    truth = [[0] * 1999 + [1]]
    floats, int8 = answers(truth, truth=truth), answers([[1] + [0] * 1999], truth=truth)
    assert int8_scores(int8, floats, NAMES)["worst_class"] == "road"


def test_away_from_boundaries():
    """0 0 0 0 0 1 1 1 1 1: within two pixels of the boundary are 3 to 6; 0 and 4 differ."""
    floats = answers([[0] * 5 + [1] * 5], truth=[[0] * 10])
    int8 = answers([[1] + [0] * 3 + [1] * 6], truth=[[0] * 10])
    assert same_labels(int8, floats) == {"same": 80.0, "same_inside": round(100 * 5 / 6, 3)}


def test_engines_are_compared_with_each_other():
    """Of 0 1 1 1 only the last pixel is more than two from the boundary, and there both agree."""
    a = answers(TRUTH, truth=TRUTH)
    b = answers([[0, 1, 1, 1]], truth=TRUTH)
    assert parity(b, a) == {"miou_apart": 41.667, "same": 75.0, "same_inside": 100.0}
