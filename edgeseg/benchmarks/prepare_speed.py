"""How fast frames are prepared: prepare.c against OpenCV and numpy, in turns, in one run.

`python -m edgeseg.benchmarks.prepare_speed [RESULT.json]`. OpenCV takes part where `pip install
opencv-python-headless` was; it is no dependency of edgeseg. It does what its users do: convert the
colours of the whole frame, resize by area, paste between the bars.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from edgeseg.benchmarks.machine import machine
from edgeseg.benchmarks.turns import take_turns, turn_of
from edgeseg.disk import write_json
from edgeseg.errors import EngineError
from edgeseg.frame import Placement, Size, format_size, place
from edgeseg.runtime import prepare_native
from edgeseg.runtime.prepare import FORMATS, Preparer, size_of

NETWORK = (512, 1024)
CAMERAS: tuple[Size, ...] = ((1080, 1920), (720, 1280), (1024, 2048), (480, 640))
FILL = (110, 108, 105)
CORES = len(os.sched_getaffinity(0))
Call = Callable[[], np.ndarray]


def make_frame(name: str, size: Size) -> np.ndarray:
    """A frame of smooth colours with noise, as cameras give them."""
    height, width = size
    shapes = {"nv12": (height * 3 // 2, width), "yuyv": (*size, 2), "grey": size}
    shape = shapes.get(name, (*size, 3))
    ramp = np.indices(shape).sum(0) * 255.0 / sum(shape)
    noise = np.random.default_rng(0).normal(0, 8, shape)
    made: np.ndarray = np.clip(ramp + noise, 0, 255).astype(np.uint8)
    return made


def in_opencv(
    cv2: Any,
    name: str,
    frame: np.ndarray,
    placement: Placement,
    fill: tuple[int, ...] = FILL,
) -> np.ndarray:
    """The usual lines, for a network in RGB."""
    codes = {
        "bgr": cv2.COLOR_BGR2RGB, "nv12": cv2.COLOR_YUV2RGB_NV12,
        "yuyv": cv2.COLOR_YUV2RGB_YUY2, "grey": cv2.COLOR_GRAY2RGB,
    }  # fmt: skip
    if name in codes:
        frame = cv2.cvtColor(frame, codes[name])
    h, w = placement.target.size
    larger = h > placement.frame[0]
    how = cv2.INTER_LINEAR if larger else cv2.INTER_AREA
    frame = cv2.resize(frame, (w, h), interpolation=how)
    top, left = placement.target.top, placement.target.left
    bottom, right = placement.network[0] - top - h, placement.network[1] - left - w
    made: np.ndarray = cv2.copyMakeBorder(
        frame, top, bottom, left, right, cv2.BORDER_CONSTANT, value=fill
    )
    return made


def contestants(cv2: Any, name: str, size: Size) -> dict[str, Call]:
    """Name -> a call that prepares one frame for a network of NETWORK in RGB."""
    frame, placement = make_frame(name, size), place(size, NETWORK, "pad")
    assert size_of(frame, name) == size
    out = np.empty((*NETWORK, 3), np.uint8)

    def ours(by: Preparer) -> np.ndarray:
        by(frame, placement, out)
        return out

    preparers = [
        Preparer(name, "rgb", FILL, by, threads=threads)
        for by in prepare_native.available()
        for threads in sorted({1, CORES}, reverse=True)
    ]
    preparers.append(Preparer(name, "rgb", FILL, "numpy"))
    calls: dict[str, Call] = {p.name: partial(ours, p) for p in preparers}
    if cv2 is not None:

        def theirs(threads: int) -> np.ndarray:
            cv2.setNumThreads(threads)
            return in_opencv(cv2, name, frame, placement)

        for threads in sorted({1, CORES}):
            calls[f"OpenCV, {threads} thread{'s' if threads > 1 else ''}"] = partial(
                theirs, threads
            )
    return calls


def time_case(cv2: Any, name: str, size: Size, rounds: int) -> dict[str, Any]:
    """Milliseconds of every contestant in every round, and how far its bytes are from ours."""
    calls = contestants(cv2, name, size)
    reference = calls["numpy"]().astype(np.int16)
    largest = {n: int(np.abs(call() - reference).max()) for n, call in calls.items()}
    turns = {n: turn_of(lambda _, c=call: c()) for n, call in calls.items()}  # type: ignore[misc]
    found = take_turns(turns, rounds=rounds, seldom=("numpy",))
    rows = [
        {"name": n, "largest_difference": largest[n], "samples_ms": [ms for t in s for ms in t]}
        for n, s in found.items()
    ]
    return {"format": name, "camera": list(size), "contestants": rows}


def line_of(case: dict[str, Any]) -> str:
    """One line: medians, the fastest of all rounds, and its ratio to the first contestant's.

    Where other programs keep the machine busy, long calls are interrupted more often than short
    ones: the fastest ones compare what the work itself takes.
    """
    rows = case["contestants"]
    first = min(rows[0]["samples_ms"])
    said = []
    for row in rows:
        fastest, middle = min(row["samples_ms"]), median(row["samples_ms"])
        said.append(
            f"{row['name']} {middle:.2f} ms, fastest {fastest:.2f} ({fastest / first:.2f}, "
            f"bytes {row['largest_difference']} apart)"
        )
    return f"{case['format']:5}{format_size(tuple(case['camera'])):>10}  " + "; ".join(said)


def opencv() -> Any:
    """The module cv2, or None where it is not installed."""
    try:
        return importlib.import_module("cv2")
    except ModuleNotFoundError as error:
        if error.name != "cv2":
            raise
        return None


def main(words: list[str]) -> int:
    """Measure, print a line per case, and write the result."""
    parser = argparse.ArgumentParser(prog="python -m edgeseg.benchmarks.prepare_speed")
    parser.add_argument("out", type=Path, nargs="?", help="JSON with every sample")
    parser.add_argument("--rounds", type=int, default=48)
    args = parser.parse_args(words)
    if not prepare_native.available():
        raise EngineError(
            "prepare.c was not compiled; install a C compiler, and then edgeseg again"
        )
    cv2 = opencv()
    version = cv2.__version__ if cv2 else None
    said = f"OpenCV {version}" if cv2 else "OpenCV is not here: pip install opencv-python-headless"
    sys.stdout.write(f"to {format_size(NETWORK)}, fit pad, RGB; {said}\n")
    cases = []
    for size in CAMERAS:
        for name in FORMATS:
            cases.append(time_case(cv2, name, size, args.rounds))
            sys.stdout.write(line_of(cases[-1]) + "\n")
            sys.stdout.flush()
    if args.out:
        content = {
            "network": list(NETWORK), "rounds": args.rounds, "opencv": version,
            "machine": machine(), "cases": cases,
        }  # fmt: skip
        write_json(args.out, content)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
