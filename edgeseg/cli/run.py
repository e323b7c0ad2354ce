"""`edgeseg run`."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from edgeseg.benchmarks.latency import summary_of
from edgeseg.bundle import Manifest, read_manifest
from edgeseg.cli.output import (
    add_crf,
    add_json,
    add_threads,
    chosen_crf,
    positive,
    print_json,
)
from edgeseg.errors import DataError, UsageError
from edgeseg.pipeline.model import terms_of
from edgeseg.playback import Drawing, Sink, Source, open_sink, open_source, parse_rate
from edgeseg.runtime.camera import Frames
from edgeseg.runtime.camera import Source as StreamSource
from edgeseg.runtime.crf_segmenter import CrfSegmenter, with_crf
from edgeseg.runtime.segmenter import Segmenter, Stages, load
from edgeseg.runtime.stream import stream

EXAMPLE = "edgeseg run espnet-int8 --source drive.mp4 --out overlay.mp4"
CAMERA_SILENCE = 10.0
"""Seconds without a frame after which a camera is taken for lost."""
RECENT = 100
"""Frames over which the live line's rate and medians are taken."""
STAGES = ("prepare", "engine", "decode")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="FOLDER", help="engine folder made by 'edgeseg export'")
    parser.add_argument(
        "--source",
        required=True,
        metavar="FRAMES",
        help="folder of images, one image, a video, or camera:0",
    )
    parser.add_argument(
        "--out",
        metavar="PATH",
        help="overlay.mp4 (.mkv, .mov), or a folder for one overlay (.jpg) and one label file "
        "(.png) per frame, or .png/.jpg for one image (default: only time it)",
    )
    parser.add_argument(
        "--opacity",
        type=float,
        default=0.5,
        metavar="SHARE",
        help="of the class colours, 0 to 1 (default: %(default)s)",
    )
    parser.add_argument("--plain", action="store_true", help="draw no legend and no caption")
    parser.add_argument("--limit", type=positive, metavar="N", help="stop after N frames")
    parser.add_argument(
        "--frames-per-second",
        metavar="RATE",
        help="of the overlay video (default: the source's own; 10 for images)",
    )
    parser.add_argument(
        "--allow-ungated", action="store_true", help="run a folder that no accuracy gate passed"
    )
    add_crf(parser)
    add_threads(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    rate = parse_rate(args.frames_per_second) if args.frames_per_second else None
    crf = chosen_crf(args)
    check_engine_folder(Path(args.folder), args.allow_ungated)
    segmenter = load(
        args.folder,
        frames="rgb",
        threads=args.threads,
        inference_precision=args.inference_precision,
        allow_ungated=args.allow_ungated,
    )
    if crf is not None:
        segmenter = with_crf(segmenter, crf)
    with segmenter:
        source = open_source(args.source, args.limit, rate)
        sink = open_sink(
            args.out, source, Drawing(segmenter.classes, args.opacity, plain=args.plain)
        )
        frames: StreamSource = source.frames
        if source.live and args.limit is None:
            frames = reopening(source, lambda: open_source(args.source, None, rate))
        title = _title(segmenter.bundle.manifest)
        tally = segment_all(segmenter, source, sink, title, frames)
        manifest, precision = segmenter.bundle.manifest, segmenter.engine.inference_precision
    if not tally.frames and not tally.interrupted:
        raise DataError(f"--source {args.source}: not one frame came out of it")
    out = args.out if sink.written else None
    answer = {
        "folder": args.folder,
        "source": args.source,
        "out": out,
        "target": manifest.target.name if manifest.target else None,
        "precision": manifest.precision,
        "inference_precision": precision,
        "weights": dataclasses.asdict(manifest.weights),
        **tally.to_dict(),
    }
    if isinstance(segmenter, CrfSegmenter):
        answer["crf"] = segmenter.cost()
    print_json(args.json, answer)
    if args.json != "-":
        print(_summary(tally, out))
        if isinstance(segmenter, CrfSegmenter) and tally.frames:
            print(segmenter.describe_cost())
        print(terms_of(args.folder))
    return 130 if tally.interrupted else 0


def check_engine_folder(folder: Path, allow_ungated: bool) -> None:
    """UsageError with the command that makes an engine folder unless `folder` is one.

    A checkpoint runs in torch, ungated.
    """
    if folder.suffix == ".onnx" and not folder.is_dir():
        command = f"edgeseg export {folder} --classes TABLE --target onnxruntime --out DIR"
        raise UsageError(f"{folder} is no engine folder. Make one: {command}")
    command = f"edgeseg export {folder} --target onnxruntime --out {folder.name}-onnxruntime"
    if not folder.exists():
        raise UsageError(f"{folder}: no such engine folder. From a model, make one: {command}")
    if not folder.is_dir():
        raise UsageError(f"{folder} is a file; FOLDER is an engine folder made by 'edgeseg export'")
    manifest = read_manifest(folder)
    if manifest.kind == "checkpoint" and not allow_ungated:
        raise UsageError(
            f"{folder} is a checkpoint. Make an engine folder of it: {command} "
            "(or run it in torch as it is: --allow-ungated)"
        )
    if manifest.target is None:
        raise UsageError(f"{folder} is a model without an engine. Make an engine folder: {command}")


@dataclass
class Tally:
    """What was timed: milliseconds of each stage, frames, drops."""

    samples: dict[str, list[float]] = field(default_factory=lambda: {s: [] for s in STAGES})
    ends: list[float] = field(default_factory=list)
    start: float = field(default_factory=perf_counter)
    dropped: int = 0
    interrupted: bool = False

    def add(self, stages: Stages) -> None:
        """Count one frame."""
        for name in STAGES:
            self.samples[name].append(getattr(stages, name))
        self.ends.append(perf_counter())

    @property
    def frames(self) -> int:
        """Frames that came out."""
        return len(self.ends)

    @property
    def fps(self) -> float:
        """Frames per second over the whole run, drawing and writing included."""
        return self.frames / max(self.ends[-1] - self.start, 1e-9) if self.ends else 0.0

    def medians(self, last: int = 0) -> str:
        """`prepare 1.2, engine 20.1, decode 0.6 ms` over the last frames, or over all."""
        parts = [f"{name} {median(self.samples[name][-last:]):.1f}" for name in STAGES]
        return ", ".join(parts) + " ms"

    def line(self, source: Source) -> str:
        """The live line."""
        ends = [self.start, *self.ends][-RECENT:]
        rate = (len(ends) - 1) / max(ends[-1] - ends[0], 1e-9)
        total = f"/{source.count}" if source.count else ""
        dropped = f", {self.dropped} dropped" if source.live else ""
        return f"{self.frames}{total} frames{dropped}, {rate:.1f} fps, p50 {self.medians(RECENT)}"

    def to_dict(self) -> dict[str, Any]:
        """The form of `--json`."""
        totals = [sum(stages) for stages in zip(*self.samples.values(), strict=True)]
        stages = {**self.samples, "total": totals}
        return {
            "frames": self.frames,
            "dropped": self.dropped,
            "interrupted": self.interrupted,
            "fps": round(self.fps, 3),
            "stages_ms": {
                name: {k: v if v is None else round(v, 3) for k, v in summary_of(s).items()}
                for name, s in stages.items()
                if s
            },
        }


def reopening(source: Source, open_again: Callable[[], Source]) -> Callable[[], Frames]:
    """A camera for `stream`: the open source first, and one opened anew whenever it fails."""
    first = [source]

    def camera() -> Frames:
        return (first.pop() if first else open_again()).frames

    return camera


def segment_all(
    segmenter: Segmenter, source: Source, sink: Sink, caption: str, frames: StreamSource
) -> Tally:
    """Every frame of the source through the Segmenter into the sink.

    `frames` are the source's, or a function that gives them again when a camera fails.
    Ctrl-C ends the run between two frames: the sink finishes what it has.
    """
    tally, shown = Tally(), -1.0
    policy = "newest" if source.live else "every"
    watchdog = CAMERA_SILENCE if source.live else None
    with (
        sink,
        _live_line() as show,
        stream(segmenter, frames, policy=policy, watchdog=watchdog) as segmented,
    ):
        try:
            for index, result in enumerate(segmented):
                with _holding_interrupt():
                    tally.add(result.stages)
                    recent = tally.samples["engine"][-RECENT:]
                    text = f"{caption}  {median(recent):.1f} ms"
                    at = tally.ends[-1] - tally.ends[0]
                    sink.write(source.name(index), result.frame, result.labels, text, at)
                tally.dropped = segmented.counters.dropped
                if perf_counter() - shown > 0.2:
                    shown = perf_counter()
                    show(tally.line(source))
        except KeyboardInterrupt:
            tally.interrupted = True
        with _holding_interrupt():
            segmented.close()
            sink.close()
    return tally


def _title(manifest: Manifest) -> str:
    return (
        f"{manifest.name}  {manifest.precision}  {manifest.target.name if manifest.target else ''}"
    )


def _summary(tally: Tally, out: str | None) -> str:
    lines = ["interrupted"] if tally.interrupted else []
    if tally.frames:
        lines.append(f"{tally.frames} frames, {tally.fps:.1f} frames per second from end to end")
        lines.append(f"median of one frame: {tally.medians()}")
    if tally.dropped:
        lines.append(f"{tally.dropped} frames of the camera were dropped: they came too fast")
    if out:
        lines.append(f"written: {out}")
    return "\n".join(lines)


@contextlib.contextmanager
def _live_line() -> Iterator[Any]:
    """A line on standard error that is written again and again; silent when it is no terminal."""
    terminal = sys.stderr.isatty()

    def show(text: str) -> None:
        if terminal:
            print(f"\r{text}\x1b[K", end="", file=sys.stderr, flush=True)

    try:
        yield show
    finally:
        show("")


@contextlib.contextmanager
def _holding_interrupt() -> Iterator[None]:
    """Ctrl-C waits for the end of the block, so that what is being written is written whole."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    caught: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: caught.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if caught:
        raise KeyboardInterrupt
