"""The test suite's own guards: every test names a tier; required data may not be skipped."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.layering

SUITE = "import pytest\n\n{mark}def test_it({fixture}):\n    pass\n"


def suite(tmp_path: Path, mark: str, fixture: str = "", **environment: str) -> tuple[int, str]:
    """Run a suite of one test under the project's conftest; its exit code and what it said."""
    (tmp_path / "tests").mkdir()
    shutil.copy(ROOT / "tests" / "conftest.py", tmp_path / "tests")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "tests" / "test_it.py").write_text(SUITE.format(mark=mark, fixture=fixture))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests"],
        cwd=tmp_path, env={**os.environ, **environment},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def test_a_test_without_a_tier_is_an_error(tmp_path: Path):
    code, said = suite(tmp_path, "@pytest.mark.skipif(False, reason='no tier')\n")
    assert code == pytest.ExitCode.USAGE_ERROR
    assert "1 tests name no tier" in said
    assert "test_it.py::test_it" in said


def test_a_test_with_a_tier_runs(tmp_path: Path):
    code, said = suite(tmp_path, "@pytest.mark.unit\n")
    assert code == 0, said


def test_a_misspelt_tier_is_an_error(tmp_path: Path):
    code, said = suite(tmp_path, "@pytest.mark.unti\n")
    assert code != 0
    assert "'unti' not found in `markers`" in said


def test_real_data_that_is_not_here_is_a_sentence(tmp_path: Path):
    code, said = suite(tmp_path, "@pytest.mark.unit\n", "camvid", EDGESEG_REQUIRE_DATA="0")
    assert code == 0
    assert "real data is not here: ../shared/data/camvid" in said


def test_real_data_that_is_required_fails(tmp_path: Path):
    code, said = suite(tmp_path, "@pytest.mark.unit\n", "camvid", EDGESEG_REQUIRE_DATA="1")
    assert code == 1
    assert "EDGESEG_REQUIRE_DATA=1 asks for it" in said


XFAIL = "@pytest.mark.unit\n@pytest.mark.xfail(reason='known', strict=True)\n"


def counted(tmp_path: Path, test: str, *options: str) -> tuple[int, dict[str, int]]:
    """The exit code of a suite of one module, and what .ci/tiers.py counts of it."""
    counts = tmp_path / "counts.json"
    (tmp_path / "tests").mkdir()
    shutil.copy(ROOT / "tests" / "conftest.py", tmp_path / "tests")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "tests" / "test_it.py").write_text(f"import pytest\n\n{test}")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "tiers", "tests"]
    done = subprocess.run(
        [*command, *options],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, "EDGESEG_TIER_COUNTS": str(counts), "PYTHONPATH": str(ROOT / ".ci")},
    )  # fmt: skip
    assert done.returncode < 2, done.stdout + done.stderr
    return done.returncode, json.loads(counts.read_text())


@pytest.mark.parametrize("processes", [[], ["-n", "2"]])
@pytest.mark.parametrize("holds", [False, True])
def test_what_fails_as_marked_counts_and_what_does_not_fails(
    tmp_path: Path, holds: bool, processes: list[str]
):
    test = f"{XFAIL}def test_it():\n    assert {holds}\n"
    assert counted(tmp_path, test, *processes) == (int(holds), {} if holds else {"unit": 1})


def test_what_only_some_processors_have_is_not_counted(tmp_path: Path):
    mark = '@pytest.mark.unit\n@pytest.mark.parametrize("isa", ["avx512", "avx2", "c"])\n'
    assert counted(tmp_path, f"{mark}def test_it(isa):\n    pass\n") == (0, {"unit": 1})
