"""Every test names its tier; real data is found, or its absence is said."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data"
SOME_CPUS = {"avx512", "avx2", "neon"}
"""Parameters of tests that there are only where the processor has these instructions."""
TIERS = ("unit", "contract", "layering", "rooms", "torch", "chain", "golden", "gpu")

# Under pytest-xdist each CPU has a process, whose threads would take the CPU of the others.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# The same examples on every run, and no folder of them beside the tests.
settings.register_profile("edgeseg", derandomize=True, database=None, deadline=None)
settings.load_profile("edgeseg")


def pytest_configure() -> None:
    """Ctrl-C works in tests and in what they start, also where the runner itself ignores it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test without a tier would be left out of every selection: that is an error.

    Tests of SOME_CPUS are marked so: .ci/tiers.py counts the same on every machine.
    """
    bare = [i.nodeid for i in items if not any(i.get_closest_marker(t) for t in TIERS)]
    if bare:
        raise pytest.UsageError(
            f"{len(bare)} tests name no tier ({', '.join(TIERS)}), the first is {bare[0]}. "
            "Write pytestmark = pytest.mark.TIER on top of its module"
        )
    for item in items:
        parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
        if any(isinstance(value, str) and value in SOME_CPUS for value in parameters):
            item.add_marker("some_cpus")


def real_data(name: str) -> Path:
    """`../shared/data/NAME`; without it the test is skipped, or fails if data is required."""
    path = DATA / name
    if path.exists():
        return path
    sentence = f"real data is not here: ../shared/data/{name}"
    if os.environ.get("EDGESEG_REQUIRE_DATA") == "1":
        pytest.fail(f"{sentence} (and EDGESEG_REQUIRE_DATA=1 asks for it)")
    pytest.skip(sentence)


@pytest.fixture(scope="session")
def camvid() -> Path:
    return real_data("camvid")


@pytest.fixture(scope="session")
def idd_lite() -> Path:
    return real_data("idd_lite")


@pytest.fixture(scope="session")
def cityscapes_samples() -> Path:
    return real_data("cityscapes_samples")


@pytest.fixture(scope="session")
def comma10k() -> Path:
    return real_data("comma10k")


@pytest.fixture(scope="session")
def published_weights() -> Path:
    return real_data("weights")
