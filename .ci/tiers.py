"""How many tests of each tier ended as they should, and whether that is fewer than before.

Three uses: `pytest -p tiers` adds what passed to the file that EDGESEG_TIER_COUNTS names; this
script compares such a file with tiers.txt; `.venv/bin/python .ci/tiers.py --write` collects the
suite without running it and rewrites tiers.txt. Tests that only some processors have don't count.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Generator
from pathlib import Path

import pytest

TIERS = ("unit", "contract", "layering", "rooms", "torch", "chain", "golden")
EXPECTED = Path(__file__).with_name("tiers.txt")
COMMAND = ".venv/bin/python .ci/tiers.py --write"

_passed: Counter[str] = Counter()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """The report names the test's tiers, also when another process (pytest-xdist) made it."""
    report = yield
    report.user_properties += [("tier", tier) for tier in tiers_of(item)]
    return report


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Count one test that passed, or that failed as its strict xfail mark says."""
    if report.when == "call" and (report.passed or hasattr(report, "wasxfail")):
        _passed.update(str(value) for name, value in report.user_properties if name == "tier")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Add the counts to those of the runs before; workers of pytest-xdist do not."""
    if hasattr(session.config, "workerinput"):
        return
    path = Path(os.environ["EDGESEG_TIER_COUNTS"])
    before = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(Counter(before) + _passed))


def tiers_of(item: pytest.Item) -> list[str]:
    """The tiers in which a test counts: none where other machines don't have it."""
    if item.get_closest_marker("some_cpus"):
        return []
    return [tier for tier in TIERS if item.get_closest_marker(tier)]


class Collected:
    """What a run would select."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Count the selected tests by tier."""
        for item in session.items:
            self.counts.update(tiers_of(item))


def read_expected(path: Path = EXPECTED) -> dict[str, int]:
    """`tier number` lines; what follows a # is a comment."""
    lines = [line.partition("#")[0].split() for line in path.read_text().splitlines()]
    return {words[0]: int(words[1]) for words in lines if words}


def compare(passed: dict[str, int], expected: dict[str, int]) -> list[str]:
    """One sentence for each tier in which fewer tests passed than expected."""
    return [
        f"tier '{tier}': {passed.get(tier, 0)} tests passed, {number} expected. Fewer tests than "
        f"before, or some were skipped; if that is meant: {COMMAND}"
        for tier, number in expected.items()
        if passed.get(tier, 0) < number
    ]


def write() -> int:
    """Rewrite tiers.txt from what pytest collects."""
    collected = Collected()
    code = int(
        pytest.main(["--collect-only", "-qq", "-m", "not gpu and not long"], plugins=[collected])
    )
    if code:
        return code
    lines = [f"{tier} {collected.counts[tier]}" for tier in TIERS]
    text = "\n".join([f"# Tests that must pass in CI, by tier. Rewritten by {COMMAND}", *lines])
    EXPECTED.write_text(text + "\n")
    return 0


def main(words: list[str]) -> int:
    """Run one command line; returns the exit code."""
    if words == ["--write"]:
        return write()
    if len(words) != 1:
        sys.exit(f"usage: tiers.py COUNTS.json, or {COMMAND}")
    passed, expected = json.loads(Path(words[0]).read_text()), read_expected()
    for tier in TIERS:
        sys.stdout.write(
            f"{tier:<10} {passed.get(tier, 0):>5} passed, {expected.get(tier, 0):>5} expected\n"
        )
    fewer = compare(passed, expected)
    sys.stdout.write("".join(f"{line}\n" for line in fewer))
    return 1 if fewer or set(expected) != set(TIERS) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
