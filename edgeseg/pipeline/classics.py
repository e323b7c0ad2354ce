"""Latency and memory of the classic systems, a system and a size at a time, as far as time goes.

`python -m edgeseg.pipeline.classics benchmarks/results/classics/latency.json --seconds 1800` goes
on where the file ends: cheap systems come first, and each is one `edgeseg bench --weights random`
in a process of its own, written as soon as it is done.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeseg.benchmarks.classics_table import classics
from edgeseg.benchmarks.machine import machine
from edgeseg.benchmarks.pages import read_content
from edgeseg.disk import write_json
from edgeseg.errors import ComparisonError, EngineError, exit_code
from edgeseg.frame import Size, format_size
from edgeseg.models import WORK
from edgeseg.pipeline.plan import RESULTS, SIZES, Say

MODULE = "edgeseg.pipeline.classics"
WORKPLACE = Path("runs/bench_classics")
DATA = "synthetic:size={size},count=60"
HOW = ("--samples", "20", "--seconds", "1", "--max-seconds", "20", "--limit", "1")
"""20 samples bear a median; where 20 seconds give fewer, the table says how many there are."""
RESULT = ("command", "machine", "done", "results", "failed")
"""Keys of the file."""

Bench = Callable[[str, Size, float], dict[str, Any]]


@dataclass(frozen=True)
class Unit:
    """One system at one size: a few rows of the result."""

    name: str
    size: Size

    @property
    def macs(self) -> int:
        """Of one frame."""
        return WORK[self.name][1 + SIZES.index(self.size)]

    @property
    def key(self) -> str:
        """How the result calls it."""
        return f"{self.name} {format_size(self.size)}"


def units() -> list[Unit]:
    """All of them, by what a frame costs."""
    return sorted((Unit(n, s) for n in classics() for s in SIZES), key=lambda unit: unit.macs)


def measure(out: Path, seconds: float, bench: Bench, say: Say) -> dict[str, Any]:
    """Measure what `out` lacks until `seconds` are over; the content of `out`.

    A system is not begun where the time left is less than the last one's, by its MACs. One that
    fails is kept under "failed" and not tried again: delete its entries there and under "done".
    """
    content = _opened(out, seconds)
    began, rate = time.monotonic(), 0.0
    for unit in units():
        if unit.key in content["done"]:
            continue
        left = seconds - (time.monotonic() - began)
        if left <= rate * unit.macs:
            say(f"{unit.key}: {left:.0f} s are left, and it takes {rate * unit.macs:.0f}")
            break
        started = time.monotonic()
        try:
            found = bench(unit.name, unit.size, left)
        except subprocess.TimeoutExpired:
            say(f"{unit.key}: the time was over before it was done")
            break
        except EngineError as error:
            found = {"results": [], "failed": [{"folder": unit.key, "error": str(error)}]}
        took = time.monotonic() - started
        rate = took / unit.macs
        content["results"] += found["results"]
        content["failed"] += found["failed"]
        content["done"][unit.key] = round(took, 1)
        write_json(out, content)
        say(f"{unit.key}: {took:.0f} s, {len(found['failed'])} failed")
    return content


def bench_in_process(name: str, size: Size, seconds: float) -> dict[str, Any]:
    """Rows and failures of `edgeseg bench`; EngineError where there is no result at all."""
    folder = WORKPLACE / f"{name}-{format_size(size)}"
    data = DATA.format(size=format_size(size))
    words = ["bench", name, "--weights", "random", "--data", data, "--sizes", format_size(size)]
    words += [*HOW, "--out", str(folder)]
    shutil.rmtree(folder, ignore_errors=True)
    try:
        code, said = _run([sys.executable, "-m", "edgeseg", *words], seconds)
        if not (folder / RESULTS).exists():
            last = (said.strip().splitlines() or ["no message"])[-1]
            raise EngineError(f"'edgeseg {' '.join(words)}' ended with {code}: {last}")
        content: dict[str, Any] = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # engines of 26 systems are tens of gigabytes
    return content


def _run(words: list[str], seconds: float) -> tuple[int, str]:
    """Exit code and messages of a program; one that takes longer is ended with all it started."""
    with subprocess.Popen(
        words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            said = process.communicate(timeout=seconds)[1]
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, said


def _opened(out: Path, seconds: float) -> dict[str, Any]:
    """The result so far, or an empty one; ComparisonError when it is of another machine."""
    about = machine()
    command = shlex.join(["python", "-m", MODULE, out.as_posix(), "--seconds", f"{seconds:g}"])
    if out.exists():
        old = read_content(out, RESULT, what=f"'{MODULE}'", made=command)
        for what in ("fingerprint", "libraries"):
            if old["machine"][what] != about[what]:
                raise ComparisonError(
                    f"{out} was made on another machine or with other versions ({what}: "
                    f"{old['machine'][what]}, now {about[what]}); give another file"
                )
        return old
    return {"command": command, "machine": about, "done": {}, "results": [], "failed": []}


def main(words: list[str]) -> int:
    """Run one command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog=f"python -m {MODULE}", description=__doc__)
    parser.add_argument("out", type=Path, metavar="FILE.json")
    parser.add_argument("--seconds", type=float, required=True, help="begin nothing after that")
    args = parser.parse_args(words)
    return exit_code(lambda: measure(args.out, args.seconds, bench_in_process, _say))


def _say(line: str) -> None:
    print(line, file=sys.stderr)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
