"""`edgeseg export --tune`: candidates of one export, timed on this machine; the fastest is kept.

Candidates differ in form only: the argmax in the graph or our decode outside, channels as they are
or padded to the engine's block. Each passes the gate by itself. They lie in a folder beside the
result with `tune.json`, so that a broken run goes on where it was, and the same export on the same
machine and engine asks no clock again.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from edgeseg.benchmarks.machine import machine
from edgeseg.benchmarks.race import ratio
from edgeseg.benchmarks.turns import turn_of
from edgeseg.bundle import MANIFEST, Bundle, read_bundle, sha256, write_bundle
from edgeseg.disk import check_replaceable, write_json, writing_folder
from edgeseg.errors import EdgesegError, EngineError, UsageError
from edgeseg.export.gate import read_frames
from edgeseg.export.targets import BUILDERS, why_ungated
from edgeseg.pipeline.int8_comparison_timing import alternate
from edgeseg.pipeline.plan import Plan, Say, Source
from edgeseg.runtime.segmenter import Segmenter, load

TIMES = "tune.json"
OUTPUTS = ("labels", "scores")
BLOCK = 16
"""Channels that a candidate is padded to: what AVX-512 holds in float32."""
Export = Callable[[Source, Plan, Path], Bundle]


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One form of the export."""

    name: str
    source: Source
    plan: Plan


def candidates(source: Source, plan: Plan, outputs: Sequence[str] = OUTPUTS) -> Iterator[Candidate]:
    """What is tried, the plain form first. INT8 is computed with channels last: no padding."""
    blocks = (0,) if plan.precision == "int8" else (0, BLOCK)
    for output in outputs:
        for block in blocks:
            yield Candidate(
                output + (f"-padded{block}" if block else ""),
                dataclasses.replace(source, scores=output == "scores"),
                dataclasses.replace(plan, pad=block),
            )


def tune(
    source: Source,
    plan: Plan,
    out: Path,
    export: Export,
    say: Say,
    *,
    outputs: Sequence[str] = OUTPUTS,
) -> Bundle:
    """Build the candidates by `export`, time them in turns, and copy the fastest to `out`.

    UsageError for what can't be timed here: an engine that does not run, or batches.
    """
    check_replaceable(out)
    why = why_ungated(plan.target) if plan.target in BUILDERS else ""
    if why:
        raise UsageError(f"--tune times {plan.target} on this machine: {why}; leave it away")
    if source.batch != 1:
        raise UsageError(f"--tune times single frames; --batch is {source.batch}")
    work = out.with_name(f"{out.name}-tune")
    folders: dict[str, Path] = {}
    failed: dict[str, str] = {}
    for candidate in candidates(source, plan, outputs):
        folder = work / candidate.name
        try:
            if not (folder / MANIFEST).exists():
                say(f"candidate {candidate.name}")
                export(candidate.source, candidate.plan, folder)
            folders[candidate.name] = folder
        except EdgesegError as error:
            failed[candidate.name] = str(error)
            say(f"candidate {candidate.name} is out: {error}")
    if not folders:
        raise EngineError(f"no candidate could be built: {next(iter(failed.values()))}")
    found = _timed(folders, work / TIMES, say)
    best = choose(found)
    for name, entry in found.items():
        low, middle, high = entry["ratio"]
        say(f"{name}: {entry['p50_ms']:.2f} ms, {middle:.2f} [{low:.2f}, {high:.2f}] of the first")
    say(f"{best} is kept; the others lie in {work}")
    return _kept(folders[best], out, best, found)


def choose(found: dict[str, Any]) -> str:
    """The fastest of those that are surely faster than the first; the first if none is.

    Sure is a ratio whose whole 95 % interval is below 1.
    """
    first = next(iter(found))
    sure = [name for name, entry in found.items() if entry["ratio"][2] < 1]
    return min(sure, key=lambda name: float(found[name]["ratio"][1]), default=first)


def _timed(folders: dict[str, Path], path: Path, say: Say) -> dict[str, Any]:
    """Name -> p50_ms and ratio to the first; those of `path` if nothing has changed since."""
    about = machine()
    key = {
        "machine": about["fingerprint"],
        "libraries": about["libraries"],
        "folders": {name: sha256(folder / MANIFEST) for name, folder in folders.items()},
    }
    if path.exists():
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["key"] == key:
            say(f"times are those of {path}: same folders, machine and libraries")
            known: dict[str, Any] = content["times"]
            return known
    times = time_folders(folders)
    write_json(path, {"key": key, "times": times})
    return times


def time_folders(folders: dict[str, Path]) -> dict[str, Any]:
    """Whole calls, frame to labels at the network's size, in turns."""
    segmenters = []
    turns = {}
    for name, folder in folders.items():
        bundle = read_bundle(folder)
        images = read_frames(bundle).images
        segmenter = load(folder, frames=bundle.manifest.input.order)
        segmenters.append(segmenter)
        turns[name] = turn_of(partial(_segment, segmenter, images))
    blocks = {name: np.array(found) for name, found in alternate(turns).items()}
    first = next(iter(blocks.values()))
    for segmenter in segmenters:
        segmenter.close()
    return {
        name: {"p50_ms": round(float(np.median(ms)), 3), "ratio": ratio(ms, first)}
        for name, ms in blocks.items()
    }


def _segment(segmenter: Segmenter, frames: np.ndarray, index: int) -> None:
    segmenter.segment(frames[index % len(frames)], at="network")


def _kept(folder: Path, out: Path, name: str, found: dict[str, Any]) -> Bundle:
    """A copy of the folder at `out`, which says how it was chosen."""
    bundle = read_bundle(folder)
    times = ", ".join(f"{other} {entry['p50_ms']:g} ms" for other, entry in found.items())
    with writing_folder(out) as aside:
        for file in bundle.manifest.files:
            target = aside / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / file, target)
        history = (*bundle.manifest.history, f"--tune: {name} of {times}")
        written = write_bundle(aside, dataclasses.replace(bundle.manifest, history=history))
    return Bundle(out, written.manifest)
