"""Memory that is kept from step to step, counted by the page faults of a process of its own."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from edgeseg.training import allocator, loop

pytestmark = pytest.mark.torch

MIB = 32
PAGES = MIB * 256
PROGRAM = f"""
import resource, sys
import torch
from edgeseg.training.allocator import keep_freed_memory

torch.set_num_threads(1)
if sys.argv[1] == "keep":
    keep_freed_memory()
for _ in range(20):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    first = torch.ones({MIB} << 18)
    second = torch.ones({MIB} << 19)
    del first
    third = torch.ones({MIB} << 17)
    del second, third
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
"""Tensors of one, two and a half times MIB that do not all end at once.

The pages of the last step are counted: where the heap begins is random, and it takes some steps
(five in the slowest of ten processes) until every tensor finds a gap that fits.
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has mallopt")
def test_tensors_as_large_as_the_last_ones_take_no_new_pages():
    faults = {}
    for how in ("keep", "as it is"):
        words = [sys.executable, "-c", PROGRAM, how]
        faults[how] = int(subprocess.run(words, check=True, capture_output=True).stdout)
    assert faults["keep"] < PAGES / 100
    assert faults["as it is"] > faults["keep"]


def test_without_glibc_nothing_happens(monkeypatch):
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: object())
    allocator.keep_freed_memory()


def test_training_on_a_cpu_keeps_memory(monkeypatch, tmp_path):
    """Before it opens anything: here that is refused."""
    from edgeseg.errors import TrainingError
    from edgeseg.training.plan import Recipe

    called = []
    monkeypatch.setattr(loop, "keep_freed_memory", lambda: called.append(True))
    recipe = Recipe("espnet_q3", "camvid:nowhere", size=(64, 64), steps=1, batch=2)
    with pytest.raises(TrainingError):
        loop.train(recipe, tmp_path / "run", resume=True)
    assert called == [True]
