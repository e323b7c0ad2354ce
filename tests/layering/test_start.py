"""What `import edgeseg` brings, and what its first use does: which modules, how much memory."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.layering

MEBIBYTES = 60
"""Resident with `edgeseg.load` at hand, numpy included."""

START = """
import json, sys
from pathlib import Path

bare = set(sys.modules)
import edgeseg
alone = set(sys.modules) - bare
import numpy
before = set(sys.modules)
edgeseg.load, edgeseg.Segmenter, edgeseg.FakeEngine
status = Path("/proc/self/status")
lines = status.read_text().splitlines() if status.exists() else []
resident = [int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS")]
print(json.dumps([sorted(alone), sorted(set(sys.modules) - before), resident]))
"""


@pytest.fixture(scope="module")
def start() -> tuple[list[str], list[str], list[float]]:
    """What the import brings, what its names then bring beside numpy, MiB."""
    done = subprocess.run([sys.executable, "-c", START], capture_output=True, text=True, check=True)
    alone, used, resident = json.loads(done.stdout)
    return alone, used, resident


def test_the_import_alone_brings_nothing(start):
    assert start[0] == ["edgeseg"]


def test_the_first_use_brings_the_runtime_alone(start):
    ours = {name for name in start[1] if name.partition(".")[0] == "edgeseg"}
    below = ("bundle", "disk", "errors", "frame", "labels", "recipe")
    allowed = {f"edgeseg.{name}" for name in below}
    runtime = {name for name in ours if (name + ".").startswith("edgeseg.runtime.")}
    assert ours - runtime <= allowed
    engines = {name for name in runtime if name.startswith("edgeseg.runtime.engine_")}
    assert engines == {"edgeseg.runtime.engine_fake"}
    assert "edgeseg.runtime.stream" not in runtime


def test_nothing_is_imported_that_only_other_verbs_need(start):
    foreign = {name.partition(".")[0] for name in start[1]} - set(sys.stdlib_module_names)
    assert foreign <= {"edgeseg"}
    heavy = {
        "argparse", "asyncio", "difflib", "http", "logging", "shutil", "subprocess", "tempfile",
        "unittest",
    }  # fmt: skip
    assert heavy & set(start[1]) == set()


def test_memory_after_the_first_use(start):
    if not start[2]:
        pytest.skip("this system has no /proc/self/status")
    assert start[2][0] < MEBIBYTES


def test_names_are_those_of_their_modules():
    import edgeseg
    from edgeseg.runtime.engine_fake import FakeEngine
    from edgeseg.runtime.refiner import EngineRefiner, load_refiner
    from edgeseg.runtime.segmenter import Segmenter, load
    from edgeseg.runtime.stream import Captured, stream

    found = [getattr(edgeseg, name) for name in edgeseg.__all__]
    assert found == [
        Captured, EngineRefiner, FakeEngine, Segmenter, edgeseg.__version__, load, load_refiner,
        stream,
    ]  # fmt: skip
    assert set(edgeseg.__all__) <= set(dir(edgeseg))
    with pytest.raises(AttributeError, match="module 'edgeseg' has no attribute 'streams'"):
        edgeseg.streams  # noqa: B018
