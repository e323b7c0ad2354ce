"""What one process is told to measure, and its form on a command line."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path

from edgeseg.benchmarks.latency import StopRule
from edgeseg.benchmarks.pacing import Pace
from edgeseg.runtime.crf import CrfSpec, crf_words, parse_crf


@dataclass(frozen=True)
class Job:
    """What to measure and how.

    `frames` is a .npy file of (N, h, w, 3) uint8 at the network's size and in its channel order
    (`write_timing_frames`); a refiner's have masks behind the colours. Accuracy is measured when
    `data` is given, on `split`, on all frames or on `limit` frames spread evenly. `threads` None:
    all cores. With a `pace` frames come as from a camera; `soak` is for how many seconds more it
    runs, to see latency drift and memory grow. With `crf` the dense CRF stands behind the scores,
    in latency and in accuracy.
    """

    folder: Path
    frames: Path
    threads: int | None = None
    inference_precision: str | None = None
    allow_ungated: bool = False
    data: str | None = None
    split: str = "val"
    limit: int | None = None
    rule: StopRule = field(default_factory=StopRule)
    pace: Pace | None = None
    soak: float | None = None
    crf: CrfSpec | None = None


def to_arguments(job: Job, answer: Path) -> list[str]:
    """The command line of the process that measures `job` and writes its row to `answer`."""
    rule = job.rule
    words = [str(job.folder), "--frames", str(job.frames), "--json", str(answer)]
    words += ["--split", job.split]
    words += ["--min-samples", str(rule.min_samples), "--min-seconds", str(rule.min_seconds)]
    words += ["--max-seconds", str(rule.max_seconds)]
    words += ["--warm-up-calls", str(rule.warm_up_calls)]
    words += ["--warm-up-seconds", str(rule.warm_up_seconds)]
    if job.pace is not None:
        words += ["--fps", str(job.pace.fps), "--deadline-ms", str(job.pace.deadline_ms)]
    if job.crf is not None:
        words += ["--crf", crf_words(job.crf)]
    for name in ("threads", "inference_precision", "data", "limit", "soak"):
        value = getattr(job, name)
        if value is not None:
            words += [f"--{name.replace('_', '-')}", str(value)]
    return [*words, "--allow-ungated"] if job.allow_ungated else words


def parse_arguments(words: list[str]) -> tuple[Job, Path]:
    """The inverse of `to_arguments`."""
    parser = argparse.ArgumentParser(
        prog="python -m edgeseg.benchmarks.measure",
        description="Measure one engine folder in this process. 'edgeseg bench' calls it",
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--frames", type=Path, required=True, help=".npy of (N, h, w, 3) uint8")
    parser.add_argument("--json", type=Path, required=True, help="where the row is written")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--inference-precision")
    parser.add_argument("--allow-ungated", action="store_true")
    parser.add_argument("--data", help="KIND:PATH for mIoU")
    parser.add_argument("--split", default="val")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--fps", type=float)
    parser.add_argument("--deadline-ms", type=float)
    parser.add_argument("--soak", type=float, help="seconds")
    parser.add_argument("--crf", type=parse_crf, metavar="NAME=VALUE,...")
    rule = StopRule()
    for name in ("min_samples", "min_seconds", "max_seconds", "warm_up_calls", "warm_up_seconds"):
        default = getattr(rule, name)
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    a = parser.parse_args(words)
    rule = StopRule(a.min_samples, a.min_seconds, a.max_seconds, a.warm_up_calls, a.warm_up_seconds)
    job = Job(
        a.folder, a.frames, a.threads, a.inference_precision, a.allow_ungated, a.data, a.split,
        a.limit, rule, None if a.fps is None else Pace(a.fps, a.deadline_ms), a.soak,
        a.crf,
    )  # fmt: skip
    return job, a.json
