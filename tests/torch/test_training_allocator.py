"""Memory that is kept from step to step, counted by the page faults of a process of its own."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from edgeseg.training import allocator

pytestmark = pytest.mark.torch

MIB = 32
PAGES = MIB * 256
PROGRAM = f"""
import resource, sys
import numpy as np
from edgeseg.training.allocator import keep_freed_memory

if sys.argv[1] == "keep":
    assert keep_freed_memory()
for _ in range(5):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.empty({MIB} << 20, np.uint8).fill(1)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has mallopt")
def test_a_tensor_as_large_as_the_last_one_takes_no_new_pages():
    faults = {}
    for how in ("keep", "as it is"):
        words = [sys.executable, "-c", PROGRAM, how]
        faults[how] = int(subprocess.run(words, check=True, capture_output=True).stdout)
    assert faults["keep"] < PAGES / 100
    assert faults["as it is"] > faults["keep"]


def test_without_glibc_nothing_happens(monkeypatch):
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: object())
    assert allocator.keep_freed_memory() is False
