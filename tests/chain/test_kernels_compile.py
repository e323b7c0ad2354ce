"""pixels.cu compiles with nvcc for each architecture that it offers from sm_75 on."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from edgeseg.export.kernels import find_nvcc, run_nvcc
from edgeseg.runtime.pixel_jobs import DECODE, PREPARE

pytestmark = [pytest.mark.chain, pytest.mark.long]


@pytest.fixture(scope="module")
def nvcc() -> str:
    found = find_nvcc()
    if found is None:
        pytest.skip("there is no nvcc here")
    return found


def offered(nvcc: str) -> list[str]:
    """Compute capabilities ("8.7") of the code that this nvcc makes, from 7.5 to 11.0."""
    done = subprocess.run([nvcc, "--list-gpu-code"], capture_output=True, text=True, check=True)
    numbers = sorted({int(n) for n in re.findall(r"sm_(\d+)\b", done.stdout)})
    return [f"{n // 10}.{n % 10}" for n in numbers if 75 <= n <= 110]


def test_kernels_compile_for_every_architecture(nvcc: str, tmp_path: Path):
    capabilities = offered(nvcc)
    assert {"7.5", "8.7"} <= set(capabilities)
    for capability in capabilities:
        made = tmp_path / f"{capability}.cubin"
        assert run_nvcc(nvcc, capability, made) == "", capability
        content = made.read_bytes()
        assert content[:4] == b"\x7fELF", capability
        assert PREPARE.encode() in content
        assert DECODE.encode() in content


def test_a_capability_that_does_not_exist(nvcc: str, tmp_path: Path):
    assert "sm_12345" in run_nvcc(nvcc, "1234.5", tmp_path / "none.cubin")
