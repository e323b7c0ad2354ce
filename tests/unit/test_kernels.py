"""Compiling pixels.cu at 'edgeseg build': which nvcc, under which name, what is said without."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from edgeseg.bundle import KernelsRecord
from edgeseg.export import kernels
from edgeseg.export.kernels import TOOLKIT, compile_kernels, find_nvcc, nvcc_version
from edgeseg.runtime.pixel_jobs import SOURCES, source_hash, why_not

pytestmark = pytest.mark.unit

VERSION = 'echo "Cuda compilation tools, release 12.6, V12.6.68"; exit'
WRITES = """
case "$1" in --version) {version};; esac
echo "$@" > "$LOG"
ls >> "$LOG"
while test "$1" != -o; do shift; done
echo made > "$2"
"""


@pytest.fixture
def nvcc(tmp_path: Path, monkeypatch):
    """A function that puts a compiler of that script there; it writes what it was told to `log`."""
    monkeypatch.setenv("LOG", str(tmp_path / "log"))

    def put(script: str = WRITES.format(version=VERSION), place: str = "bin") -> str:
        path = tmp_path / place / "nvcc"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return str(path)

    return put


def test_kernels_are_compiled_for_the_gpu(nvcc, tmp_path):
    (tmp_path / "folder").mkdir()
    made = compile_kernels(tmp_path / "folder", "8.7", nvcc())
    assert made.file is not None
    assert made == KernelsRecord(made.file, "8.7", "nvcc 12.6.68", source_hash())
    assert (tmp_path / "folder" / made.file).read_text() == "made\n"
    assert why_not(made, "8.7") == ""
    told, *seen = (tmp_path / "log").read_text().splitlines()
    assert told == "-cubin -O3 -std=c++17 -fmad=false -arch=sm_87 pixels.cu -o made.cubin"
    assert set(seen) == set(SOURCES)


def test_the_name_is_that_of_what_went_in(nvcc, tmp_path, monkeypatch):
    def name(capability: str = "8.7", version: str = "V12.6.68") -> str:
        compiler = nvcc(WRITES.format(version=f'echo "{version}"; exit'))
        made = compile_kernels(tmp_path, capability, compiler).file
        assert made is not None
        return made

    first = name()
    assert first == name()
    others = {name("11.0"), name(version="V13.0.88")}
    monkeypatch.setattr(kernels, "source_hash", lambda: "other sources")
    others.add(name())
    assert len(others | {first}) == 4
    assert all(n.startswith("pixels-") and n.endswith(".cubin") for n in others)


@pytest.mark.parametrize(
    ("capability", "script", "why"),
    [
        (None, None, "this machine has no GPU to compile kernels for"),
        ("8.7", None, f"there was no nvcc to compile kernels with: {TOOLKIT}"),
        ("8.7", "exit 1", f"{{nvcc}} can't be run, so no kernels were compiled: {TOOLKIT}"),
        (
            "12.1",
            f'case "$1" in --version) {VERSION};; esac\n'
            "echo \"nvcc fatal: Unsupported gpu architecture 'sm_121'\" >&2; exit 1",
            "nvcc 12.6.68 did not compile the kernels: nvcc fatal: Unsupported gpu architecture "
            "'sm_121'",
        ),
        (
            "8.7",
            f'case "$1" in --version) {VERSION};; esac\nexit 3',
            "nvcc 12.6.68 did not compile the kernels: exit code 3",
        ),
    ],
)
def test_without_kernels_the_record_says_why(nvcc, tmp_path, capability, script, why):
    compiler = nvcc(script) if script else None
    made = compile_kernels(tmp_path, capability, compiler)
    assert made == KernelsRecord(why=why.format(nvcc=compiler))
    assert not list(tmp_path.glob("*.cubin"))
    assert why_not(made, "8.7") == made.why


def test_a_compiler_that_never_ends(nvcc, tmp_path, monkeypatch):
    monkeypatch.setattr(kernels, "SECONDS", 0.2)
    script = f'case "$1" in --version) {VERSION};; esac\nexec sleep 30'
    made = compile_kernels(tmp_path, "8.7", nvcc(script))
    assert made.why == "nvcc 12.6.68 did not compile the kernels: it took more than 0.2 s"


def test_which_nvcc(nvcc, tmp_path, monkeypatch):
    monkeypatch.setattr(kernels, "PLACES", (str(tmp_path / "usual/bin/nvcc"),))
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    monkeypatch.delenv("CUDA_HOME", raising=False)
    assert find_nvcc() is None
    usual = nvcc(place="usual/bin")
    assert find_nvcc() == usual
    on_path = nvcc(place="path")
    assert find_nvcc() == on_path
    home = nvcc(place="home/bin")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "home"))
    assert find_nvcc() == home
    assert nvcc_version(str(tmp_path / "nothing")) == ""


def test_flags_keep_labels_identical():
    assert "-fmad=false" in kernels.FLAGS
    assert not any("fast" in flag for flag in kernels.FLAGS)


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="there is no nvcc here")
def test_nvcc_says_its_version():
    nvcc = find_nvcc()
    assert nvcc is not None
    assert nvcc_version(nvcc).startswith("nvcc 1")
