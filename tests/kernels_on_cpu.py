"""pixels.cu compiled by the C compiler: its threads one after the other, called through ctypes."""

from __future__ import annotations

import ctypes
import functools
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest

from edgeseg.runtime.pixel_jobs import DECODE, PREPARE, DecodeJob, PrepareJob

SOURCE = Path(__file__).parent / "native" / "pixels_on_cpu.c"
FLAGS = ("-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-ffp-contract=off", "-fPIC", "-shared")
STRUCTS: dict[str, type[ctypes.Structure]] = {PREPARE: PrepareJob, DECODE: DecodeJob}


class Index(ctypes.Structure):
    """CUDA's blockIdx, blockDim and threadIdx."""

    _fields_ = tuple((name, ctypes.c_uint) for name in "xyz")


@functools.cache
def library() -> ctypes.CDLL:
    """The compiled file; the test is skipped where there is no compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("there is no C compiler here")
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "pixels.so"
        command = [compiler, *FLAGS, str(SOURCE), "-o", str(made), "-lm"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return ctypes.CDLL(str(made))


class CpuKernel:
    """One kernel, as the double of PyCUDA calls it."""

    def __init__(self, name: str) -> None:
        self.struct = STRUCTS[name]
        self._run: Any = getattr(library(), f"run_{name.removeprefix('edgeseg_')}")
        self._run.argtypes = (ctypes.POINTER(self.struct), Index, Index)

    def pointers(self, argument: bytes) -> list[int]:
        """The addresses that the struct holds."""
        job = self.struct.from_buffer_copy(argument)
        fields: Any = self.struct._fields_
        return [getattr(job, n) or 0 for n, kind in fields if kind is ctypes.c_void_p]

    def run(self, argument: bytes, grid: tuple[int, ...], block: tuple[int, ...]) -> None:
        """Every thread of every block."""
        job = self.struct.from_buffer_copy(argument)
        self._run(ctypes.byref(job), Index(*grid), Index(*block))


def kernels() -> dict[str, CpuKernel]:
    """Both of them, by name."""
    return {name: CpuKernel(name) for name in STRUCTS}
