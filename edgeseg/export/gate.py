"""The accuracy gate: what the built engine says of fixed frames, against the float model."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from edgeseg.bundle import GATE_FRAMES, Bundle, Gate
from edgeseg.errors import BundleError, EngineError
from edgeseg.labels import IGNORE, ClassTable
from edgeseg.metrics import ConfusionMatrix, agreement, boundary
from edgeseg.runtime.segmenter import Segmenter

MIN_FRAMES = 20
ENOUGH = 0.001
"""A class counts for `worst_class` when it has this share of the labelled pixels."""
BOUNDARY_RADIUS = 2


@dataclass(frozen=True)
class Budget:
    """What an engine may lose against the float model, in points of mIoU and of one class's IoU."""

    miou: float = 0.5
    per_class: float = 5.0


@dataclass(frozen=True)
class GateFrames:
    """Network inputs (N, H, W, 3) uint8, the float model's labels and, where known, the truth.

    Both label arrays are (N, h, w) uint8 at the network's output size, IGNORE in the padding: what
    a network says of it is nobody's concern.
    """

    images: np.ndarray
    labels: np.ndarray
    truth: np.ndarray | None
    source: str

    def __len__(self) -> int:
        return len(self.images)


def write_frames(folder: Path, frames: GateFrames) -> None:
    """Write `gate/frames.npz` into a model folder."""
    path = folder / GATE_FRAMES
    path.parent.mkdir(exist_ok=True)
    arrays: dict[str, Any] = {
        "images": frames.images,
        "labels": frames.labels,
        "source": np.array(frames.source),
    }
    if frames.truth is not None:
        arrays["truth"] = frames.truth
    np.savez_compressed(path, **arrays)


def read_frames(bundle: Bundle) -> GateFrames:
    """Read `gate/frames.npz` of a model folder."""
    path = bundle.path(GATE_FRAMES)
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as content:
            truth = content.get("truth")
            return GateFrames(content["images"], content["labels"], truth, str(content["source"]))
    except (ValueError, KeyError, OSError, EOFError, BadZipFile, zlib.error) as error:
        raise BundleError(f"{path}: gate frames are damaged ({error}); export again") from error


def label(segmenter: Segmenter, images: np.ndarray, batch: int = 1) -> np.ndarray:
    """(N, H, W, 3) network inputs -> (N, h, w) uint8 labels, `batch` frames at a time."""
    results = []
    for start in range(0, len(images), batch):
        part = images[start : start + batch]
        missing = batch - len(part)
        full = np.concatenate([part, np.repeat(part[-1:], missing, 0)]) if missing else part
        result = segmenter.engine.infer(np.ascontiguousarray(full))
        results.append(segmenter.decode(result)[: len(part)])
    return np.concatenate(results)


def judge(
    labels: np.ndarray, frames: GateFrames, table: ClassTable, budget: Budget = Budget()
) -> Gate:
    """Compare an engine's labels with the float model's; the state is passed or failed."""
    if labels.shape != frames.labels.shape:
        raise EngineError(
            f"the engine gave labels of shape {labels.shape}, the float model {frames.labels.shape}"
        )
    truth = frames.labels if frames.truth is None else frames.truth
    floats, engine = ConfusionMatrix(len(table)), ConfusionMatrix(len(table))
    for t, f, e in zip(truth, frames.labels, labels, strict=True):
        floats.update(t, f)
        engine.update(t, e)
    seen = frames.labels != IGNORE
    inside = seen & ~boundary(frames.labels, BOUNDARY_RADIUS)
    counted = floats.counts.sum(1) >= ENOUGH * max(floats.counts.sum(), 1)
    drops = np.where(counted, floats.iou() - engine.iou(), -np.inf)
    worst = int(np.argmax(drops))
    known = bool(counted.any())
    lost = floats.miou() - engine.miou()
    passed = lost <= budget.miou and (not known or drops[worst] <= budget.per_class)
    return Gate(
        state="passed" if passed else "failed",
        frames=len(frames),
        source=frames.source,
        against="float labels" if frames.truth is None else "ground truth",
        agreement=agreement(labels[seen], frames.labels[seen]),
        agreement_inside=agreement(labels[inside], frames.labels[inside]),
        miou_float=floats.miou(),
        miou_engine=engine.miou(),
        worst_class=table.names[worst] if known else None,
        worst_class_drop=float(drops[worst]) if known else None,
        max_miou_drop=budget.miou,
        max_class_drop=budget.per_class,
    )


def describe(gate: Gate) -> str:
    """One line for people."""
    if gate.miou_float is None or gate.miou_engine is None:
        return f"gate: {gate.state}"
    worst = (
        f", worst class {gate.worst_class} {0.0 - (gate.worst_class_drop or 0.0):+.2f}"
        if gate.worst_class
        else ""
    )
    return (
        f"gate {gate.state}: mIoU {gate.miou_engine:.2f} against {gate.miou_float:.2f} of the "
        f"float model ({gate.miou_engine - gate.miou_float:+.2f}, {gate.against}), "
        f"{gate.agreement:.2f} % of labels agree{worst}; {gate.frames} frames of {gate.source}"
    )
