"""The main job on an embedded default: everything from model to report in a few minutes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeseg.benchmarks.latency import StopRule
from edgeseg.pipeline.bench import Suite, bench
from edgeseg.pipeline.plan import DEFAULT_MODEL, SIZES, SYNTHETIC, Say, Source

EMBEDDED = f"{SYNTHETIC}size=512x1024"
FRAMES = 24
"""Frames for mIoU on the embedded default; a data set of your own is run whole."""
CALIBRATION_FRAMES = 40


@dataclass(frozen=True)
class Quickstart:
    """What to run on. Without `data` the embedded streets are used."""

    model: str = DEFAULT_MODEL
    data: str | None = None
    command: str = "edgeseg quickstart"


def quickstart(what: Quickstart, out: Path, say: Say) -> dict[str, Any]:
    """Float and INT8, on ONNX Runtime and OpenVINO, at 256x512 and 512x1024; writes `out`."""
    embedded = what.data is None
    suite = Suite(
        (Source(what.model),),
        what.data or EMBEDDED,
        limit=FRAMES if embedded else None,
        sizes=SIZES,
        rule=StopRule(min_samples=100, min_seconds=2.0, max_seconds=12.0),
        command=what.command,
        calibration_frames=CALIBRATION_FRAMES,
    )
    return bench(suite, out, say)
