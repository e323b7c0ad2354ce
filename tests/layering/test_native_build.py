"""hatch_build.py: what is compiled, and what is said where it can't be."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from edgeseg.runtime import decode_native, prepare_native

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.layering


@pytest.fixture(scope="module")
def hook() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tree(tmp_path: Path, monkeypatch) -> Path:
    """A checkout with the sources and an old library; no compiler is on the path."""
    (tmp_path / "edgeseg" / "runtime").mkdir(parents=True)
    for name in decode_native.SOURCES:
        shutil.copy(decode_native.FOLDER / name, tmp_path / "edgeseg" / "runtime")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    for name in ("CC", "EDGESEG_NATIVE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def library(hook: ModuleType, tree: Path, content: str = "old") -> Path:
    path: Path = hook.library_path(tree)
    path.write_text(content)
    return path


def compiler(tree: Path, name: str, script: str) -> Path:
    path = tree / "bin" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


WRITES = 'while test "$1" != -o; do shift; done; echo new > "$2"'
"""A compiler that writes the file after -o, with the shell alone."""


def test_both_sides_know_the_same_sources_and_place(hook: ModuleType):
    assert hook.SOURCES == decode_native.SOURCES
    assert hook.library_path(ROOT) == decode_native.library_path()
    held = {p.name for p in decode_native.FOLDER.iterdir() if p.suffix in (".c", ".h")}
    assert held == set(hook.SOURCES)


def test_flags_keep_labels_identical(hook: ModuleType):
    assert "-ffp-contract=off" in hook.FLAGS
    assert not any("fast" in flag or "march" in flag for flag in hook.FLAGS)


def test_without_a_compiler_the_wheel_is_pure_and_it_is_said(hook, tree: Path, capsys):
    old = library(hook, tree)
    assert not hook.native(tree)
    assert not old.exists()
    assert capsys.readouterr().err == (
        "edgeseg: no native decode, labels are decoded in numpy: there is no C compiler "
        "(cc, gcc, clang; or name one by CC)\n"
    )


def test_a_compiler_that_is_required_and_missing_ends_the_installation(hook, tree, monkeypatch):
    monkeypatch.setenv("EDGESEG_NATIVE", "require")
    with pytest.raises(SystemExit, match="edgeseg: no native decode: there is no C compiler"):
        hook.native(tree)


def test_a_compiler_that_fails_is_quoted(hook, tree: Path, capsys):
    compiler(tree, "gcc", "echo 'stdio.h: no such file' >&2; exit 1")
    old = library(hook, tree)
    assert not hook.native(tree)
    assert not old.exists()
    assert "gcc failed: stdio.h: no such file\n" in capsys.readouterr().err


def test_a_compiler_that_can_not_be_run_is_named(hook, tree: Path, monkeypatch, capsys):
    monkeypatch.setenv("CC", "nowhere/cc -m64")
    assert not hook.native(tree)
    assert "nowhere/cc -m64 can't be run: " in capsys.readouterr().err


def test_no_native_decode_is_wanted(hook, tree: Path, monkeypatch):
    compiler(tree, "cc", WRITES)
    monkeypatch.setenv("EDGESEG_NATIVE", "no")
    old = library(hook, tree)
    assert not hook.native(tree, in_place=False)
    assert old.exists(), "a wheel made beside it takes nothing away"
    assert not hook.native(tree)
    assert not old.exists()
    monkeypatch.setenv("EDGESEG_NATIVE", "yes")
    with pytest.raises(SystemExit, match="EDGESEG_NATIVE is 'yes'; expected one of auto, require"):
        hook.native(tree)


def test_a_new_library_takes_the_place_of_the_old_one(hook, tree: Path):
    compiler(tree, "clang", WRITES)
    assert library(hook, tree).read_text() == "old"
    assert hook.native(tree)
    assert hook.library_path(tree).read_text() == "new\n"
    left = {p.name for p in (tree / "edgeseg" / "runtime").iterdir()}
    assert left == {*hook.SOURCES, hook.library_path(tree).name}


def test_a_wheel_takes_a_library_that_is_current(hook: ModuleType, tree: Path):
    compiler(tree, "cc", WRITES)
    current = library(hook, tree, f"made of {hook.source_hash(tree)}")
    assert hook.native(tree, in_place=False)
    assert current.read_text().startswith("made of ")
    assert hook.source_hash(tree) == decode_native.source_hash()
    assert hook.native(tree)
    assert current.read_text() == "new\n"
    assert hook.native(tree, in_place=False)


def test_the_platform_is_that_of_this_python(hook: ModuleType, monkeypatch):
    if sys.platform == "linux":
        assert hook.platform_tag() == f"linux_{os.uname().machine}"
    monkeypatch.setattr(hook.sysconfig, "get_platform", lambda: "macosx-11.0-universal2")
    monkeypatch.setattr(hook.platform, "machine", lambda: "arm64")
    assert hook.platform_tag() == "macosx_11_0_arm64"


CHECKED = "instruction sets {}, jobs 60, wrong 0\n19491ce275e6d683\n"
"""What decode_check.c prints on every machine; seen on x86-64 (gcc, clang) and aarch64 (qemu)."""


PREPARED = "instruction set {}, jobs 200, wrong 0\n18a4d34d09be0d4b\n"
"""The same of prepare_check.c; seen on x86-64 (AVX2) and aarch64 (NEON, qemu)."""


def check_of(name: str, compiler: list[str], folder: Path, *more: str) -> Path:
    """A program of tests/native, compiled."""
    program, source = folder / name, ROOT / "tests" / "native" / f"{name}.c"
    flags = ("-std=c11", "-O1", "-ffp-contract=off", "-pthread", *more)
    subprocess.run([*compiler, *flags, str(source), "-o", str(program), "-lm"], check=True)
    return program


def said_by(*command: object) -> str:
    words = [str(word) for word in command]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def test_random_jobs_have_the_checksum_of_other_machines(hook: ModuleType, tmp_path: Path):
    compiler = hook.find_compiler()
    if compiler is None:
        pytest.skip("there is no C compiler here")
    here = sum(decode_native.ISAS[isa] for isa in decode_native.available())
    assert said_by(check_of("decode_check", compiler, tmp_path), 60) == CHECKED.format(here)
    fastest = prepare_native.ISAS[prepare_native.available()[0]]
    assert said_by(check_of("prepare_check", compiler, tmp_path), 200) == PREPARED.format(fastest)


def test_neon_prepares_the_same_bytes(tmp_path: Path):
    compiler, emulator = "aarch64-linux-gnu-gcc", shutil.which("qemu-aarch64-static")
    if shutil.which(compiler) is None or emulator is None:
        pytest.skip(f"there is no {compiler} and qemu-aarch64-static here")
    program = check_of("prepare_check", [compiler], tmp_path, "-static")
    assert said_by(emulator, program, 200) == PREPARED.format(prepare_native.ISAS["neon"])
