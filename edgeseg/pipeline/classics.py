"""Latency and memory of the classic systems, a system and a size at a time, as far as time goes.

`python -m edgeseg.pipeline.classics benchmarks/results/classics/latency.json --seconds 1800` goes
on where the file ends: cheap systems come first, and each is built and then measured by processes
of `edgeseg bench` of its own, and written as soon as it is done. With `--build-only` engines are
built ahead, for which the machine need not be quiet; measuring deletes them.
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
from edgeseg.models import REFINERS, WORK
from edgeseg.pipeline.plan import BUILT, RESULTS, SIZES, Say

MODULE = "edgeseg.pipeline.classics"
WORKPLACE = Path("runs/bench_classics")
DATA = "synthetic:size={size},count=60"
HOW = ("--samples", "20", "--seconds", "1", "--max-seconds", "8", "--warm-up-calls", "1")
"""20 samples bear a median; where 8 seconds give fewer, the table says how many there are."""
RESULT = ("command", "machine", "done", "results", "failed")
"""Keys of the file."""

Step = Callable[["Unit", float], dict[str, Any]]
"""(what, seconds at most) -> what `build` or `bench` found."""


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

    @property
    def folder(self) -> Path:
        """Where its engines are."""
        return WORKPLACE / f"{self.name}-{format_size(self.size)}"

    @property
    def data(self) -> str:
        """Frames of its size."""
        return DATA.format(size=format_size(self.size))


def units() -> list[Unit]:
    """All of them, by what a frame costs."""
    names = (*classics(), *REFINERS)
    return sorted((Unit(n, s) for n in names for s in SIZES), key=lambda unit: unit.macs)


def build_ahead(out: Path, seconds: float, build: Step, say: Say) -> None:
    """Build what `out` lacks and nobody has built yet, until `seconds` are over."""
    done = _opened(out, seconds)["done"]
    began = time.monotonic()
    for unit in units():
        if unit.key in done or (unit.folder / BUILT).exists():
            continue
        left = seconds - (time.monotonic() - began)
        try:
            found = build(unit, max(left, 0.0))
        except subprocess.TimeoutExpired:
            say(f"{unit.key}: the time was over before it was built")
            return
        except EngineError as error:
            say(f"{unit.key}: {error}")  # measuring tries again, and keeps it
            continue
        say(f"{unit.key}: built, {len(found['failed'])} failed")


def measure(out: Path, seconds: float, bench: Step, say: Say) -> dict[str, Any]:
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
            found = bench(unit, left)
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


def build_in_process(unit: Unit, seconds: float) -> dict[str, Any]:
    """built.json of `edgeseg bench --build-only`; EngineError where nothing could be built."""
    shutil.rmtree(unit.folder, ignore_errors=True)
    words = [unit.name, "--weights", "random", "--sizes", format_size(unit.size), "--build-only"]
    try:
        return _bench([*words, "--data", unit.data], unit.folder, BUILT, seconds)
    except BaseException:
        shutil.rmtree(unit.folder, ignore_errors=True)
        raise


def bench_in_process(unit: Unit, seconds: float) -> dict[str, Any]:
    """Rows and failures of building (where nobody has yet) and measuring; its engines are gone.

    EngineError where there is no result at all.
    """
    began = time.monotonic()
    built = unit.folder / BUILT
    if not built.exists():
        build_in_process(unit, seconds)
    try:
        engines = json.loads(built.read_text(encoding="utf-8"))
        left = max(seconds - (time.monotonic() - began), 0.0)
        words = [*engines["folders"], "--data", unit.data, *HOW]
        found = _bench(words, unit.folder, RESULTS, left)
    finally:
        shutil.rmtree(unit.folder, ignore_errors=True)  # of all systems they are tens of gigabytes
    return {"results": found["results"], "failed": engines["failed"] + found["failed"]}


def _bench(words: list[str], out: Path, result: str, seconds: float) -> dict[str, Any]:
    """What `edgeseg bench` wrote to `result` in its folder; EngineError where it wrote nothing."""
    words = ["bench", *words, "--out", str(out)]
    code, said = _run([sys.executable, "-m", "edgeseg", *words], seconds)
    if not (out / result).exists():
        last = (said.strip().splitlines() or ["no message"])[-1]
        raise EngineError(f"'edgeseg {' '.join(words)}' ended with {code}: {last}")
    content: dict[str, Any] = json.loads((out / result).read_text(encoding="utf-8"))
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
    parser.add_argument("--build-only", action="store_true", help="engines alone, for a later run")
    args = parser.parse_args(words)
    if args.build_only:
        return exit_code(lambda: build_ahead(args.out, args.seconds, build_in_process, _say))
    return exit_code(lambda: measure(args.out, args.seconds, bench_in_process, _say))


def _say(line: str) -> None:
    print(line, file=sys.stderr)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
