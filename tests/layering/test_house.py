"""The house around the code: Makefile, constraints, CI, hooks, wheel; what no file may hold."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from edgeseg.cli import EXTRAS
from edgeseg.recipe import read_toml
from edgeseg.runtime.engine import NEEDS

ROOT = Path(__file__).resolve().parents[2]
PROJECT = read_toml(ROOT / "pyproject.toml")

pytestmark = pytest.mark.layering


def tracked() -> list[Path]:
    command = ("git", "ls-files", "--cached", "--others", "--exclude-standard")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return [p for line in sorted(set(done.stdout.splitlines())) if (p := ROOT / line).is_file()]


def texts() -> list[tuple[str, str]]:
    """(name, content) of every tracked text file."""
    found = []
    for path in tracked():
        content = path.read_bytes()
        if b"\0" not in content[:4096] and path.suffix not in (".jpg", ".png"):
            found.append((str(path.relative_to(ROOT)), content.decode("utf-8")))
    return found


def script(name: str) -> ModuleType:
    """A module of .ci, which is no package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / ".ci" / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# What no file may hold. The patterns are written so that they do not find themselves.

MACHINE = re.compile(r"(?<![\w.$}/-])/(?:work|root|home|opt|mnt)/\w|/[t]mp/w\b")
REGISTRY = re.compile(
    r"py[p]i\.|python[h]osted|download\.py[t]orch|index[-]url|find[-]links|npm[j]s|debian\.[o]rg",
    re.IGNORECASE,
)


def test_patterns_find_what_they_should():
    for text in ("cd /" + "work/main", "(/ro" + "ot/x)", "--out /t" + "mp/w/e"):
        assert MACHINE.search(text), text
    assert not MACHINE.search("../shared/data runs/home/x $OUT/work/x")
    assert REGISTRY.search("--extra-index" + "-url x")
    assert not REGISTRY.search("torch==2.13.0")


def test_no_path_of_a_machine_and_no_registry_host():
    for name, text in texts():
        for pattern in (MACHINE, REGISTRY):
            found = pattern.search(text)
            assert not found, f"{name}: {found and found.group()!r}"


def test_files_are_short():
    """400 lines are a sign, not a limit: longer files are listed, much longer ones refused."""
    long = {n: t.count("\n") for n, t in texts() if n.endswith(".py") and t.count("\n") > 400}
    for name, lines in sorted(long.items()):
        sys.stderr.write(f"{name} has {lines} lines\n")
    assert {name for name, lines in long.items() if lines > 600} == set()


def test_test_modules_have_names_of_their_own():
    """Two of one name can't be collected together."""
    names = [p.name for p in tracked() if p.name.startswith("test_") and p.suffix == ".py"]
    assert sorted(names) == sorted(set(names))


def test_pictures_are_small():
    for path in tracked():
        if path.suffix in (".jpg", ".png"):
            assert path.stat().st_size < 150_000, path
        assert path.stat().st_size < 5_000_000, path


# pyproject.toml and constraints.txt


def requirements() -> list[Requirement]:
    lines = list(PROJECT["project"]["dependencies"])
    for extra in PROJECT["project"]["optional-dependencies"].values():
        lines += extra
    return [Requirement(line) for line in lines]


def pins() -> dict[str, Requirement]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(r.name): r for r in found}


def test_every_dependency_is_pinned_to_one_version():
    pinned = pins()
    for requirement in requirements():
        name = canonicalize_name(requirement.name)
        if name in ("edgeseg", "tomli"):
            continue  # itself; for Python 3.10
        assert name in pinned, f"{name} is not in constraints.txt"
    for pin in pinned.values():
        assert [s.operator for s in pin.specifier] == ["=="], str(pin)
    for requirement in requirements():
        pin = pinned.get(canonicalize_name(requirement.name))
        if pin is not None:
            (specifier,) = pin.specifier
            assert requirement.specifier.contains(specifier.version), f"{requirement}: {pin}"


def test_constraints_are_those_of_the_cpu():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert "torch==2.13.0" in lines
    strange = re.compile(r"nvidia|cuda|triton|\+|@|^-")
    assert [line for line in lines if not line.startswith("#") and strange.search(line)] == []


def test_extras_are_those_that_messages_name():
    extras = PROJECT["project"]["optional-dependencies"]
    wanted = {"onnxruntime", "openvino", "tensorrt-rtx", "video", "train", "export", "all", "dev"}
    assert set(extras) == wanted
    told = [*EXTRAS.values(), *(install for _, install in NEEDS.values())]
    named = {n for text in told for n in re.findall(r"edgeseg\[([\w-]+)\]", text)}
    assert named <= wanted
    assert not any("tensorrt" in line for line in extras["all"]), "it is not for every machine"
    assert not any(r.name == "tensorrt" for r in requirements()), "it comes from the system"


def test_the_base_needs_little():
    names = [Requirement(line).name for line in PROJECT["project"]["dependencies"]]
    assert names == ["numpy", "pillow", "tomli"]
    assert "tomli>=2; python_version < '3.11'" in PROJECT["project"]["dependencies"]


def test_python_3_10_is_the_oldest_everywhere():
    assert PROJECT["project"]["requires-python"] == ">=3.10"
    assert PROJECT["tool"]["ruff"]["target-version"] == "py310"
    assert PROJECT["tool"]["mypy"]["python_version"] == "3.10"


def test_every_room_is_in_the_contracts():
    layers, torch = PROJECT["tool"]["importlinter"]["contracts"]
    assert layers["exhaustive"] is True
    rooms = {
        p.stem
        for p in (ROOT / "edgeseg").iterdir()
        if p.suffix == ".py" or (p / "__init__.py").exists()
    } - {"__init__", "__main__"}
    assert {r.strip() for line in layers["layers"] for r in line.split("|")} == rooms
    held = set(torch["source_modules"])
    free = {f"edgeseg.{room}" for room in rooms - {"models", "training", "export"}}
    free |= {
        f"edgeseg.export.{p.stem}"
        for p in (ROOT / "edgeseg" / "export").glob("*.py")
        if p.stem not in ("__init__", "to_onnx")
    }
    assert held == free


# Makefile, CI, hooks


def test_make_knows_its_targets():
    makefile = (ROOT / "Makefile").read_text()
    for target in ("setup", "quickstart", "check", "fix", "test", "test-all"):
        found = re.search(rf"^{target}:(.*)$", makefile, flags=re.MULTILINE)
        assert found, target
        before = {"setup": ["$(STAMP)"], "test": ["setup", "$(RTX)"]}
        assert found.group(1).split() == before.get(target.removesuffix("-all"), ["setup"])
    done = subprocess.run(
        ["make", "--dry-run", "--always-make", "test"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "--constraint constraints.txt --editable '.[dev]'" in done.stdout
    assert "--constraint constraints.txt 'edgeseg[tensorrt-rtx]'" in done.stdout
    assert '-m "not chain and not gpu and not long"' in done.stdout


def test_tensorrt_rtx_is_for_tests_alone():
    """`make quickstart` and `make setup` do without its 230 MB."""
    for target in ("quickstart", "setup", "check"):
        done = subprocess.run(
            ["make", "--dry-run", "--always-make", target],
            cwd=ROOT, capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert "tensorrt" not in done.stdout, target
    extras = PROJECT["project"]["optional-dependencies"]
    assert [name for name, lines in extras.items() if "tensorrt" in str(lines)] == ["tensorrt-rtx"]


def make_with(tmp_path: Path, python: str) -> subprocess.CompletedProcess[str]:
    """`make setup` in an empty project with this shell script as its Python."""
    for name in ("Makefile", "constraints.txt", "pyproject.toml"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\n{python}\n")
    program.chmod(0o755)
    return subprocess.run(
        ["make", "setup", f"PYTHON={program}"],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


FAKE_VENV = """
case "$1" in
-c) exit 0 ;;
-m) mkdir -p .venv/bin; cp "$0" .venv/bin/python; echo made >> log
    test "$2" != pip || { echo pip >> log; exit FAILS; } ;;
esac
"""


def test_a_failed_installation_leaves_no_environment(tmp_path: Path):
    done = make_with(tmp_path, FAKE_VENV.replace("FAILS", "1"))
    assert done.returncode != 0
    assert not (tmp_path / ".venv").exists()


def test_an_environment_is_made_once_and_again_when_a_pin_changes(tmp_path: Path):
    ok = FAKE_VENV.replace("FAILS", "0")
    assert make_with(tmp_path, ok).returncode == 0
    assert (tmp_path / ".venv" / ".installed").exists()
    log = tmp_path / "log"
    assert log.read_text().split() == ["made", "made", "pip"]
    log.write_text("")
    again = subprocess.run(["make", "setup", f"PYTHON={tmp_path}/python"], cwd=tmp_path, check=True)
    assert again.returncode == 0
    assert log.read_text() == ""
    later = (tmp_path / ".venv" / ".installed").stat().st_mtime + 10
    os.utime(tmp_path / "constraints.txt", (later, later))
    subprocess.run(["make", "setup", f"PYTHON={tmp_path}/python"], cwd=tmp_path, check=True)
    assert log.read_text().split() == ["made", "pip"]


def test_an_old_python_is_refused_by_name(tmp_path: Path):
    old = "import sys; sys.version_info = (3, 9); sys.version = '3.9.2 (old)'"
    done = make_with(tmp_path, f'exec {sys.executable} -c "{old}; $2"')
    assert done.returncode != 0
    assert "edgeseg needs Python 3.10 or later, this is 3.9.2" in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_ci_is_strict_bash_and_requires_the_data():
    path = ROOT / ".ci" / "run"
    text = path.read_text()
    assert path.stat().st_mode & 0o111
    assert text.startswith("#!/usr/bin/env bash\n")
    assert "set -euo pipefail" in text
    assert "export EDGESEG_REQUIRE_DATA=1" in text
    for step in ("make setup", "make check", "make test", "-m pytest", "tiers.py"):
        assert step in text
    done = subprocess.run(["bash", "-n", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_hooks_need_no_network():
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    assert [r["repo"] for r in config["repos"]] == ["local"]
    hooks = config["repos"][0]["hooks"]
    makefile = (ROOT / "Makefile").read_text().replace("$(BIN)", ".venv/bin")
    for hook in hooks:
        assert hook["language"] == "system"
        assert hook["entry"].replace(" --force-exclude", "") in makefile, hook["id"]
    done = subprocess.run(
        [Path(sys.executable).with_name("pre-commit"), "validate-config"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


# The counter of tiers


def test_fewer_tests_are_a_sentence():
    tiers = script("tiers")
    expected = {"unit": 3, "golden": 2}
    assert tiers.compare({"unit": 3, "golden": 5}, expected) == []
    (said,) = tiers.compare({"unit": 2, "golden": 2}, expected)
    assert said.startswith("tier 'unit': 2 tests passed, 3 expected.")
    assert len(tiers.compare({}, expected)) == 2


def test_expected_tiers_are_all_there():
    tiers = script("tiers")
    expected = tiers.read_expected()
    assert tuple(expected) == tiers.TIERS
    assert all(number > 0 for number in expected.values())


SUITE = """
import pytest

@pytest.mark.unit
def test_passes(): pass

@pytest.mark.unit
def test_skips(): pytest.skip("no data")

@pytest.mark.golden
@pytest.mark.parametrize("n", [1, 2])
def test_twice(n): pass
"""


def test_the_plugin_counts_what_passed(tmp_path: Path, monkeypatch):
    counts = tmp_path / "counts.json"
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n unit: u\n golden: g\n")
    (tmp_path / "unit").mkdir()
    (tmp_path / "unit" / "test_it.py").write_text(SUITE)
    monkeypatch.setenv("PYTHONPATH", str(ROOT / ".ci"))
    monkeypatch.setenv("EDGESEG_TIER_COUNTS", str(counts))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    counts.write_text('{"unit": 10, "chain": 1}')
    subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "tiers", "-p", "no:cacheprovider"],
        cwd=tmp_path, capture_output=True, timeout=60, check=True,
    )  # fmt: skip
    assert json.loads(counts.read_text()) == {"unit": 11, "chain": 1, "golden": 2}


def test_pins_are_printed_without_build_tags():
    lines = script("pin").pins()
    assert not any("+" in line or line.startswith(("edgeseg", "pip=")) for line in lines)
    names = [line.partition("==")[0] for line in lines]
    assert names == sorted(names)
    assert any(line.startswith("numpy==") for line in lines)
