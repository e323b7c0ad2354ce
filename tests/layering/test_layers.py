"""Who may import whom; the bare environment; Python 3.10; the wheel."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import numpy
import pytest

from edgeseg.cli import VERBS
from edgeseg.runtime.decode_native import library_path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "edgeseg"
SOURCES = sorted(PACKAGE.rglob("*.py"))

pytestmark = pytest.mark.layering


def run(*command: str | Path, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, **options
    )


def test_import_contracts_hold():
    script = Path(sys.executable).with_name("lint-imports")
    done = run(script, "--no-cache", cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


# The bare environment: Python, numpy, edgeseg, and nothing else


RUNTIME = """
import sys
import numpy as np
import edgeseg
import edgeseg.runtime.segmenter, edgeseg.runtime.stream, edgeseg.runtime.preflight
from edgeseg.errors import EngineError
from edgeseg.labels import CLASS_TABLES
from edgeseg.runtime.engine import open_engine
from edgeseg.runtime.engine_fake import FakeEngine
from edgeseg.runtime.segmenter import Segmenter
from edgeseg.runtime.stream import stream

frame = np.zeros((30, 40, 3), np.uint8)
segmenter = Segmenter.of(FakeEngine(), CLASS_TABLES["camvid11"], size=(64, 128))
assert segmenter.segment(frame).shape == (30, 40)
assert len(list(stream(segmenter, [frame] * 3, policy="every"))) == 3
for name in ("onnxruntime", "openvino", "torch"):
    try:
        open_engine(name, segmenter.bundle)
    except EngineError as error:
        assert f"engine '{name}' needs '{name}'. Install it: pip install" in str(error), error
    else:
        raise SystemExit(f"{name} is not bare")
third = {"torch", "PIL", "onnx", "onnxruntime", "openvino", "av", "tomli", "safetensors"}
print(*sorted(third & set(sys.modules)))
"""


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a new environment that sees numpy and edgeseg only."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder / "venv", with_pip=False, symlinks=True)
    only = folder / "only"
    only.mkdir()
    site = Path(numpy.__file__).resolve().parents[1]
    for name in ("numpy", "numpy.libs"):
        if (site / name).exists():
            (only / name).symlink_to(site / name)
    (only / "edgeseg").symlink_to(PACKAGE)
    (packages,) = (folder / "venv" / "lib").glob("python*/site-packages")
    (packages / "only.pth").write_text(str(only))
    return folder / "venv" / "bin" / "python"


def in_bare(python: Path, program: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    return run(python, "-c", program, env=environment, cwd="/")


def test_the_bare_environment_is_bare(bare_python: Path):
    for module in ("PIL", "torch", "onnxruntime", "pytest"):
        done = in_bare(bare_python, f"import {module}")
        assert "ModuleNotFoundError" in done.stderr


def test_the_runtime_needs_numpy_only(bare_python: Path):
    done = in_bare(bare_python, RUNTIME)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""


def test_help_needs_numpy_only(bare_python: Path):
    program = "from edgeseg.cli import main; raise SystemExit(main(['--help']))"
    done = in_bare(bare_python, program)
    assert done.returncode == 0, done.stderr
    assert "quickstart" in done.stdout


def test_doctor_needs_numpy_only(bare_python: Path):
    program = "from edgeseg.cli import main; raise SystemExit(main(['doctor']))"
    done = in_bare(bare_python, program)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("not installed") == 8
    assert "pip install 'edgeseg[openvino]'" in done.stdout


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_without_its_libraries_is_one_line(bare_python: Path, verb: str):
    program = f"from edgeseg.cli import main; raise SystemExit(main(['{verb}', '--help']))"
    done = in_bare(bare_python, program)
    if done.returncode == 0:
        assert "example:" in done.stdout
    else:
        assert done.returncode == 2, done.stderr
        assert re.fullmatch(
            rf"edgeseg: '{verb}' needs '\w+'. Install it: pip install 'edgeseg.*'\n", done.stderr
        )


# Python 3.10


def imports_of(tree: ast.AST) -> list[tuple[ast.stmt, str]]:
    """Every import with the name of its top module."""
    found: list[tuple[ast.stmt, str]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node, alias.name.partition(".")[0]) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.append((node, node.module.partition(".")[0]))
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_python_3_10_can_read_it(path: Path):
    ast.parse(path.read_text(encoding="utf-8"), str(path), feature_version=(3, 10))


def test_new_modules_of_the_standard_library_are_guarded():
    """`tomllib` is 3.11's: it is imported in one place, beside `tomli`, under a version check."""
    places = []
    for path in SOURCES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        guarded = {
            id(statement)
            for node in ast.walk(tree)
            if isinstance(node, ast.If) and "sys.version_info" in ast.unparse(node.test)
            for statement in node.body
        }
        places += [
            (path, id(n) in guarded) for n, module in imports_of(tree) if module == "tomllib"
        ]
    assert places == [(PACKAGE / "recipe.py", True)]


def test_names_that_python_3_10_does_not_have():
    """What 3.11 and later brought into modules that 3.10 has."""
    late = re.compile(
        r"from typing import [^\n]*\b(Self|Never|LiteralString|assert_never|override)\b"
        r"|from enum import [^\n]*\bStrEnum\b|datetime\.UTC|from datetime import [^\n]*\bUTC\b"
        r"|hashlib\.file_digest|contextlib\.chdir|ExceptionGroup|itertools\.batched"
        r"|tempfile\.\w+\([^)]*delete_on_close|\.walk\(\)\s*:\s*#\s*Path"
    )
    for path in SOURCES:
        found = late.search(path.read_text(encoding="utf-8"))
        assert found is None, f"{path}: {found and found.group()}"


# Habits that a linter does not know


def test_an_import_that_is_tried_is_a_door():
    """No module goes on without a library: who tries an import raises in every handler."""
    for path in SOURCES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Try) and any(
                isinstance(s, ast.Import | ast.ImportFrom) for s in node.body
            ):
                for handler in node.handlers:
                    assert isinstance(handler.body[-1], ast.Raise), f"{path}:{node.lineno}"


# The wheel


def make_wheel(folder: Path, native: str) -> tuple[str, set[str], set[str]]:
    """The wheel's name, its files of the package and its metadata."""
    command = (sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder)
    done = run(*command, cwd=ROOT, env={**os.environ, "EDGESEG_NATIVE": native})
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    metadata = {n for n in names if re.match(r"edgeseg-[^/]+\.dist-info/", n)}
    return wheel.name, names - metadata, metadata


def test_the_wheel_holds_the_package_and_nothing_else(tmp_path: Path):
    name, package, metadata = make_wheel(tmp_path, "no")
    assert name.endswith("-py3-none-any.whl")
    assert all(n.startswith("edgeseg/") for n in package)
    tracked = run(
        "git", "ls-files", "-co", "--exclude-standard", "edgeseg", cwd=ROOT
    ).stdout.split()
    assert {n for n in tracked if not n.endswith(".py")} == {n for n in package if n[-3:] != ".py"}
    assert {"edgeseg/py.typed", "edgeseg/benchmarks/report.css"} <= package
    wanted = {str(p.relative_to(ROOT)) for p in SOURCES}
    assert {n for n in package if n.endswith(".py")} == wanted
    assert not any("test" in Path(n).name or "__pycache__" in n for n in package)
    assert any(n.endswith("entry_points.txt") for n in metadata)


def test_a_wheel_with_native_decode_is_for_one_platform_and_every_python(tmp_path: Path):
    if not any(shutil.which(c) for c in ("cc", "gcc", "clang")):
        pytest.skip("there is no C compiler here")
    name, package, metadata = make_wheel(tmp_path, "require")
    platform_tag = sysconfig.get_platform().replace("-", "_").replace(".", "_")
    assert name.endswith(f"-py3-none-{platform_tag}.whl")
    (library,) = (n for n in package if n.endswith(".so"))
    assert Path(library).name == library_path().name
    assert library.startswith("edgeseg/runtime/decode.")
    (about,) = (n for n in metadata if n.endswith("/WHEEL"))
    wheel = zipfile.ZipFile(next(tmp_path.glob("*.whl")))
    files = [i for i in wheel.infolist() if not re.match("edgeseg/weights/[^/]+/", i.filename)]
    assert sum(i.compress_size for i in files) < 1_000_000, "more than 1 MB without the weights"
    text = wheel.read(about).decode()
    assert "Root-Is-Purelib: false" in text
