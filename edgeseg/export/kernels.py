"""pixels.cu -> a cubin for the GPU that is here, by nvcc; running it needs none."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from edgeseg.bundle import KernelsRecord
from edgeseg.runtime.pixel_jobs import FOLDER, SOURCES, source_hash

FLAGS = ("-cubin", "-O3", "-std=c++17", "-fmad=false")
"""No multiplication and addition may become one rounding: labels would not be those of the CPU."""
PLACES = ("/usr/local/cuda/bin/nvcc",)
TOOLKIT = "JetPack's and NVIDIA's apt repositories have it in cuda-nvcc; put it on the PATH"
SECONDS = 300


def find_nvcc() -> str | None:
    """The nvcc of the environment's CUDA_HOME, of the PATH, or where CUDA installs it."""
    home = os.environ.get("CUDA_HOME")
    named = [f"{home}/bin/nvcc"] if home else []
    found = [*named, shutil.which("nvcc"), *PLACES]
    return next((path for path in found if path and os.access(path, os.X_OK)), None)


def nvcc_version(nvcc: str) -> str:
    """`"nvcc 13.0.88"`; empty where it can't be run."""
    try:
        done = subprocess.run(
            [nvcc, "--version"], capture_output=True, text=True, timeout=SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    found = re.search(r"\bV(\d[\d.]*)", done.stdout)
    return f"nvcc {found.group(1)}" if found and done.returncode == 0 else ""


def compile_kernels(folder: Path, capability: str | None, nvcc: str | None) -> KernelsRecord:
    """Compile into `folder` for a compute capability ("8.7"); or a record that says why not.

    The file is named by the hash of sources, capability, compiler and flags.
    """
    if capability is None:
        return KernelsRecord(why="this machine has no GPU to compile kernels for")
    if nvcc is None:
        return KernelsRecord(why=f"there was no nvcc to compile kernels with: {TOOLKIT}")
    version = nvcc_version(nvcc)
    if not version:
        return KernelsRecord(why=f"{nvcc} can't be run, so no kernels were compiled: {TOOLKIT}")
    source = source_hash()
    told = "\n".join((source, capability, version, *FLAGS))
    name = f"pixels-{hashlib.sha256(told.encode()).hexdigest()[:16]}.cubin"
    failure = run_nvcc(nvcc, capability, folder / name)
    if failure:
        return KernelsRecord(why=f"{version} did not compile the kernels: {failure}")
    return KernelsRecord(name, capability, version, source)


def run_nvcc(nvcc: str, capability: str, to: Path) -> str:
    """Compile for a compute capability; why that failed, or nothing."""
    with tempfile.TemporaryDirectory(prefix="edgeseg-") as temporary:
        for name in SOURCES:
            shutil.copyfile(FOLDER / name, Path(temporary) / name)
        arch = f"-arch=sm_{capability.replace('.', '')}"
        command = [nvcc, *FLAGS, arch, SOURCES[0], "-o", "made.cubin"]
        try:
            done = subprocess.run(
                command, cwd=temporary, capture_output=True, text=True, timeout=SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            return f"it took more than {SECONDS} s"
        made = Path(temporary) / "made.cubin"
        if done.returncode or not made.exists():
            lines = done.stderr.strip().splitlines()
            return lines[0] if lines else f"exit code {done.returncode}"
        shutil.copyfile(made, to)
    return ""
