"""A folder with an ONNX graph -> a plan for the GPU that is here, gated where it can run.

Needs numpy and TensorRT, and neither onnx nor torch: it runs on the board.
"""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

from edgeseg.bundle import GATE_FRAMES, Bundle, Gate, Manifest, read_bundle, write_bundle
from edgeseg.disk import check_replaceable, writing_folder
from edgeseg.errors import BundleError, GateError
from edgeseg.export.gate import GateFrames, describe, read_frames
from edgeseg.export.targets import GRAPH, find_target, why_ungated
from edgeseg.pipeline.gating import failed, run_gate
from edgeseg.pipeline.plan import Building, Say

TAKEN = (GRAPH, GATE_FRAMES, "decode.npz")
"""What a built folder has from the one that it is built from."""


def build(folder: Path, building: Building, out: Path, say: Say) -> Bundle:
    """`edgeseg build`: the graph in `folder` -> engine folder at `out`, which may be `folder`.

    GateError when the engine departs too far; nothing is written then.
    """
    check_replaceable(out)
    bundle = read_bundle(folder)
    _check_source(bundle)
    manifest = bundle.manifest
    make = find_target(building.target, manifest.precision, building.options, say, folder)
    frames = read_frames(bundle)
    with writing_folder(out) as aside:
        for name in TAKEN:
            if name in manifest.files:
                (aside / name).parent.mkdir(exist_ok=True)
                shutil.copyfile(folder / name, aside / name)
        built = make(aside / GRAPH, aside)
        manifest = dataclasses.replace(
            manifest,
            network_file=built.network_file,
            target=built.target,
            gate=None,
            recipe=building.recipe or manifest.recipe,
            history=(*manifest.history, f"build --target {building.target}"),
        )
        unjudged = write_bundle(aside, manifest)
        gate = _gate(unjudged, frames, bundle.manifest, building, say)
        made = write_bundle(aside, dataclasses.replace(unjudged.manifest, gate=gate))
    return Bundle(out, made.manifest)


def _check_source(bundle: Bundle) -> None:
    missing = [name for name in (GRAPH, GATE_FRAMES) if name not in bundle.manifest.files]
    if missing:
        raise BundleError(
            f"{bundle.folder} holds no {' and no '.join(missing)}; 'edgeseg build' takes a folder "
            "made by 'edgeseg export MODEL --target onnxruntime --out FOLDER'"
        )


def _gate(
    bundle: Bundle, frames: GateFrames, source: Manifest, building: Building, say: Say
) -> Gate:
    """The verdict on the new engine; "not run", with the reason, where it can't run."""
    why = why_ungated(building.target)
    if why:
        gate = Gate("not run", len(frames), frames.source, why=f"{why}{_of_graph(source)}")
        say(f"gate not run: {gate.why}")
        return gate
    gate = run_gate(bundle, frames, building.budget)
    say(describe(gate))
    if gate.state != "passed":
        raise GateError(
            f"{failed(gate)}. Nothing was written. Export again with more layers in float or "
            "--precision fp16, or raise --max-miou-drop"
        )
    return gate


def _of_graph(source: Manifest) -> str:
    """What is known of the graph itself, from the engine that has run it."""
    gate, target = source.gate, source.target
    if gate is None or target is None or gate.miou_engine is None or gate.miou_float is None:
        return ""
    return (
        f"; its graph {gate.state} in {target.name} {target.version}: mIoU "
        f"{gate.miou_engine:.2f} against {gate.miou_float:.2f} in float"
    )
