"""Wheels for old glibc, what they need, and the script that emulates an Arm machine."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "test_aarch64.sh"

pytestmark = pytest.mark.layering


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


hook = load(ROOT / "hatch_build.py")


FOLDERS: dict[str, Path] = {}
"""Where the library of a processor was compiled, once for all tests."""


def compiled(folder: Path, machine: str, monkeypatch) -> bytes:
    """The library for manylinux_2_28 on one processor; skipped where nothing compiles for it."""
    monkeypatch.setenv("EDGESEG_PLATFORM", f"manylinux_2_28_{machine}")
    monkeypatch.delenv("CC", raising=False)
    if hook.find_compiler() is None:
        pytest.skip(f"there is no {machine}-linux-gnu-gcc here")
    if machine not in FOLDERS:
        without = shutil.ignore_patterns("*.so", "__pycache__")
        shutil.copytree(ROOT / hook.FOLDER, folder / hook.FOLDER, ignore=without)
        assert hook.build(folder) == ""
        FOLDERS[machine] = folder
    made: bytes = (FOLDERS[machine] / hook.FOLDER / f"decode.linux_{machine}.so").read_bytes()
    return made


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_library_needs_glibc_2_28_at_most(machine: str, tmp_path: Path, monkeypatch):
    library = compiled(tmp_path, machine, monkeypatch)
    needs = hook.read_needs(library)
    assert needs.machine == machine
    assert "pthread_create" in needs.versions[hook.FIRST[machine]]
    assert set(needs.libraries) <= {"libc.so.6", "libm.so.6", "libpthread.so.0"}
    numbers = [tuple(map(int, name.removeprefix("GLIBC_").split("."))) for name in needs.versions]
    assert max(numbers) <= (2, 28)
    assert numbers == sorted(numbers)


def test_a_newer_glibc_is_refused(tmp_path: Path, monkeypatch):
    library = compiled(tmp_path, "x86_64", monkeypatch)
    target = hook.Target("x86_64", (2, 28))
    assert hook.why_not(hook.read_needs(library), target) == ""
    newer = library.replace(b"GLIBC_2.14\0", b"GLIBC_2.29\0")
    assert hook.why_not(hook.read_needs(newer), target) == (
        "needs GLIBC_2.29 (memcpy); expected 2.28 or older"
    )
    assert hook.why_not(hook.read_needs(library), hook.Target("x86_64", (2, 13))) == (
        "needs GLIBC_2.14 (memcpy); expected 2.13 or older"
    )


def needs(**changes: object) -> object:
    fields = {"machine": "aarch64", "libraries": ("libpthread.so.0", "libc.so.6"), "versions": {}}
    return hook.Needs(**{**fields, **changes})


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (needs(), ""),
        (needs(versions={"GLIBC_2.17": ("free",), "GLIBC_2.28": ("thrd_create",)}), ""),
        (needs(machine="x86_64"), "is for x86_64, not aarch64"),
        (
            needs(libraries=("libpthread.so.0", "libgomp.so.1")),
            "needs libgomp.so.1, which not every system has",
        ),
        (
            needs(libraries=("libc.so.6",)),
            "does not name libpthread.so.0, where threads are before glibc 2.34",
        ),
        (
            needs(versions={"GLIBC_2.17": ("free",), "GLIBC_2.34": ("dlsym", "pthread_create")}),
            "needs GLIBC_2.34 (dlsym, pthread_create); expected 2.28 or older",
        ),
        (
            needs(versions={"GLIBC_ABI_DT_RELR": ()}),
            "needs GLIBC_ABI_DT_RELR (); expected 2.28 or older",
        ),
    ],
)
def test_why_a_library_does_not_serve_a_platform(found: object, why: str):
    assert hook.why_not(found, hook.Target("aarch64", (2, 28))) == why


def test_what_is_no_library_is_refused():
    with pytest.raises(SystemExit, match="what was compiled is no 64-bit little-endian ELF"):
        hook.read_needs(b"\x7fELF\x01\x01" + bytes(99))


def test_a_library_that_was_refused_fails_the_wheel(tmp_path: Path, monkeypatch):
    """Also where EDGESEG_NATIVE would let a pure wheel pass."""
    library = tmp_path / "made"
    library.write_bytes(
        compiled(tmp_path, "x86_64", monkeypatch).replace(b"GLIBC_2.14\0", b"GLIBC_2.29\0")
    )
    compiler = tmp_path / "cc"
    compiler.write_text(f'#!/bin/sh\nwhile test "$1" != -o; do shift; done; cp "{library}" "$2"\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))
    monkeypatch.setenv("EDGESEG_NATIVE", "auto")
    why = r"cc made a library that needs GLIBC_2.29 \(memcpy\); expected 2.28 or older"
    with pytest.raises(SystemExit, match=why):
        hook.native(FOLDERS["x86_64"], in_place=False)


def test_a_platform_needs_its_compiler(tmp_path: Path, monkeypatch):
    (tmp_path / hook.FOLDER).mkdir(parents=True)
    monkeypatch.setenv("EDGESEG_PLATFORM", "manylinux_2_28_aarch64")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(SystemExit, match=r"no C compiler \(aarch64-linux-gnu-gcc; or name one by"):
        hook.native(tmp_path, in_place=False)
    monkeypatch.setenv("EDGESEG_PLATFORM", "manylinux2014_armv7l")
    with pytest.raises(SystemExit, match="'manylinux2014_armv7l'; expected a name such as manyl"):
        hook.native(tmp_path, in_place=False)


def test_wheels_are_named_for_their_platform_and_hold_one_library(tmp_path: Path):
    if shutil.which("x86_64-linux-gnu-gcc") is None:
        pytest.skip("there is no x86_64-linux-gnu-gcc here")
    script = load(ROOT / "scripts" / "build_wheels.py")
    (wheel,) = script.build(tmp_path, ("manylinux_2_28_x86_64",))
    assert wheel.name.endswith("-py3-none-manylinux_2_28_x86_64.whl")
    with zipfile.ZipFile(wheel) as packed:
        held = [name for name in packed.namelist() if name.endswith(".so")]
    assert held == ["edgeseg/runtime/decode.linux_x86_64.so"]
    said = script.describe(wheel)
    assert f"{held[0]}, x86_64, needs " in said
    assert "  GLIBC_2.14   memcpy" in said


def test_fixed_labels_say_what_differs(tmp_path: Path, capsys):
    script = load(ROOT / "scripts" / "fixed_labels.py")
    assert script.write(tmp_path, []) == 0
    assert script.check(tmp_path, []) == 0
    assert "compared with 40: 0 wrong" in capsys.readouterr().out
    expected = dict(np.load(tmp_path / "expected.npz"))
    expected["prepare nv12 96x160"][5, 6, 1] ^= 1
    np.savez(tmp_path / "expected.npz", **expected, gone=np.zeros(1))
    assert script.check(tmp_path, []) == 1
    said = capsys.readouterr().out
    assert "prepare nv12 96x160 by numpy: 1 of 46080 differ, the first at [5 6 1]\n" in said
    assert "gone: not computed here\n" in said


def test_labels_of_int8_may_differ_a_little():
    script = load(ROOT / "scripts" / "fixed_labels.py")
    labels = np.zeros(1000, np.uint8)
    two, three = labels.copy(), labels.copy()
    two[:2] = three[:3] = 1
    assert script._excused("labels int8", labels, two)
    assert not script._excused("labels int8", labels, three)
    assert not script._excused("labels fp32", labels, two)


# The script


def fakes(tree: Path, fails: str) -> dict[str, str]:
    """A checkout with the script, and commands that only write down that they were called."""
    (tree / "scripts").mkdir()
    shutil.copy(SCRIPT, tree / "scripts")
    (tree / "bin").mkdir()
    names = ("mount", "umount", "debootstrap", "qemu-aarch64-static", "update-binfmts", "chroot",
             "aarch64-linux-gnu-gcc", "apt-get", "mountpoint")  # fmt: skip
    for name in names:
        code = 1 if name == fails else 0
        path = tree / "bin" / name
        path.write_text(f'#!/bin/sh\necho "{name} $*" >> "{tree}/called"\nexit {code}\n')
        path.chmod(0o755)
    return {**os.environ, "PATH": f"{tree}/bin:/usr/bin:/bin", "EDGESEG_ARM_CACHE": f"{tree}/arm"}


@pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0 or os.uname().machine != "x86_64",
    reason="the script refuses all but root on x86-64",
)
@pytest.mark.parametrize(
    ("fails", "said"),
    [
        ("debootstrap", "debootstrap got no system: {arm}/debootstrap.log; EDGESEG_ARM_MIRROR=URL"),
        (
            "chroot",
            "debootstrap's second stage failed: {arm}/debootstrap.log and {arm}/root/deboot",
        ),
    ],
)
def test_nothing_stays_mounted_when_a_stage_fails(tmp_path: Path, fails: str, said: str):
    environment = fakes(tmp_path, fails)
    command = [tmp_path / "scripts" / SCRIPT.name]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stdout + done.stderr
    assert said.format(arm=tmp_path / "arm") in done.stderr
    called = (tmp_path / "called").read_text().splitlines()
    root = f"{tmp_path}/arm/root"
    assert (f"mount -t proc proc {root}/proc" in called) == (fails == "chroot")
    mounted = [line.split()[-1] for line in called if line.startswith("mount ")]
    let_go = [line.split()[-1] for line in called if line.startswith("umount ")]
    assert let_go == mounted[::-1]
    assert not (tmp_path / "arm" / "made").exists(), "half a system would be taken for a whole one"


def test_the_script_is_strict_bash_and_names_tests_that_exist():
    done = subprocess.run(["bash", "-n", SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    text = SCRIPT.read_text()
    assert "set -euo pipefail" in text
    assert SCRIPT.stat().st_mode & 0o111
    listed = text.partition("tests=(")[2].partition(")")[0]
    shown = subprocess.run(
        ["bash", "-c", f"printf '%s\\n' {' '.join(listed.split())}"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    tests = shown.stdout.split()
    assert len(tests) > 10
    for name in tests:
        assert (ROOT / name).is_file(), name
