"""What `import edgeseg` costs: which modules, how much memory, how long beside numpy alone."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.layering

MEBIBYTES = 60
"""Resident after `import edgeseg`, numpy included."""

START = """
import json, sys, time
from pathlib import Path

clocks = [time.process_time()]
import numpy
clocks.append(time.process_time())
before = set(sys.modules)
import edgeseg
clocks.append(time.process_time())
status = Path("/proc/self/status")
lines = status.read_text().splitlines() if status.exists() else []
resident = [int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS")]
times = [b - a for a, b in zip(clocks, clocks[1:])]
print(json.dumps([sorted(set(sys.modules) - before), resident, times]))
"""


@pytest.fixture(scope="module")
def start() -> tuple[list[str], list[float], tuple[float, float]]:
    done = subprocess.run([sys.executable, "-c", START], capture_output=True, text=True, check=True)
    modules, resident, times = json.loads(done.stdout)
    return modules, resident, times


def test_the_runtime_alone_is_imported(start):
    ours = {name for name in start[0] if name.partition(".")[0] == "edgeseg"}
    below = ("bundle", "disk", "errors", "frame", "labels", "recipe")
    allowed = {"edgeseg", *(f"edgeseg.{name}" for name in below)}
    runtime = {name for name in ours if (name + ".").startswith("edgeseg.runtime.")}
    assert ours - runtime <= allowed
    engines = {name for name in runtime if name.startswith("edgeseg.runtime.engine_")}
    assert engines == {"edgeseg.runtime.engine_fake"}


def test_nothing_is_imported_that_only_other_verbs_need(start):
    foreign = {name.partition(".")[0] for name in start[0]} - set(sys.stdlib_module_names)
    assert foreign <= {"edgeseg"}
    heavy = {"argparse", "asyncio", "http", "logging", "shutil", "tempfile", "unittest"}
    assert heavy & set(start[0]) == set()


def test_memory_after_the_import(start):
    if not start[1]:
        pytest.skip("this system has no /proc/self/status")
    assert start[1][0] < MEBIBYTES


def test_the_import_takes_no_more_than_numpy_does(start):
    """Both on this machine, in one process; twice as long is allowed where it is busy."""
    numpys, ours = start[2]
    assert ours < 2 * numpys, f"numpy {1e3 * numpys:.0f} ms, edgeseg {1e3 * ours:.0f} ms"


def test_streams_are_imported_when_they_are_used(start):
    import edgeseg
    from edgeseg.runtime.stream import Captured, stream

    assert "edgeseg.runtime.stream" not in start[0]
    assert edgeseg.stream is stream
    assert edgeseg.Captured is Captured
    with pytest.raises(AttributeError, match="module 'edgeseg' has no attribute 'streams'"):
        edgeseg.streams  # noqa: B018
