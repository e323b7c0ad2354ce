"""An engine folder that is being built -> the gate's verdict. No ONNX: a board has none."""

from __future__ import annotations

import dataclasses

import numpy as np

from edgeseg.bundle import Bundle, Gate
from edgeseg.errors import EngineError
from edgeseg.export.gate import Budget, GateFrames, judge, label
from edgeseg.runtime.engine import EngineOptions, open_engine
from edgeseg.runtime.segmenter import ON_DEVICE, Segmenter


def open_segmenter(bundle: Bundle) -> Segmenter:
    """An engine folder that is being built, before its gate."""
    target = bundle.manifest.target
    if target is None:
        raise EngineError(f"{bundle.folder} names no target")
    single = dataclasses.replace(bundle.manifest.input, batch=1)
    relaxed = Bundle(bundle.folder, dataclasses.replace(bundle.manifest, input=single))
    return Segmenter(
        open_engine(target.name, bundle, EngineOptions()), relaxed, frames=single.order
    )


CHECKED = 3
"""Frames on which kernels of the folder are compared with the CPU."""
ALIKE = 0.999
"""Share of labels that must be the same: all are, but for a network that does not repeat itself."""


def check_device(segmenter: Segmenter, images: np.ndarray) -> None:
    """EngineError unless frames and labels come out on the device as they do on the CPU."""
    if segmenter.bundle.manifest.target is None or segmenter.prepare_name != ON_DEVICE:
        return
    for image in images[:CHECKED]:
        made = segmenter.segment(image, at="network")
        (right,) = label(segmenter, image[None], 1)
        alike = float((made == right).mean())
        if alike < ALIKE:
            raise EngineError(
                f"{segmenter.bundle.folder}: the GPU's kernels give {100 - 100 * alike:.2f} % "
                "other labels than the CPU; tell us of this GPU and its driver. "
                "EDGESEG_DECODE=numpy before 'edgeseg build' leaves frames and labels to the CPU"
            )


def run_gate(bundle: Bundle, frames: GateFrames, budget: Budget) -> Gate:
    """Run the frames through the folder's own engine and judge what it says."""
    with open_segmenter(bundle) as segmenter:
        check_device(segmenter, frames.images)
        labels = label(segmenter, frames.images, bundle.manifest.input.batch)
    return judge(labels, frames, bundle.manifest.table, budget)


def failed(gate: Gate) -> str:
    """What a GateError says of a gate that failed."""
    assert gate.miou_float is not None
    assert gate.miou_engine is not None
    return (
        f"gate failed: mIoU {gate.miou_engine:.2f} against {gate.miou_float:.2f} in float "
        f"(allowed drop {gate.max_miou_drop}), worst class {gate.worst_class} lost "
        f"{gate.worst_class_drop or 0.0:.2f} (allowed {gate.max_class_drop})"
    )
