"""The float network -> a gated engine folder."""

from __future__ import annotations

import dataclasses
import math
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from edgeseg.bundle import Bundle, Manifest, Quantisation, read_manifest, write_bundle
from edgeseg.calibration.ranges import RangeTable, preprocessing_sha256, read_table
from edgeseg.calibration.sensitivity import Layer
from edgeseg.dataset import Dataset, open_dataset
from edgeseg.disk import check_replaceable, writing_folder
from edgeseg.errors import GateError, UsageError
from edgeseg.export.argmax_first import argmax_first
from edgeseg.export.build_options import BuildOptions
from edgeseg.export.gate import describe, write_frames
from edgeseg.export.half import to_half
from edgeseg.export.pad_channels import pad_channels
from edgeseg.export.share_constants import share_constants
from edgeseg.export.targets import (
    BUILDERS,
    GRAPH,
    PLAN,
    Exporter,
    find_exporter,
    find_target,
    why_ungated,
)
from edgeseg.pipeline.build import build
from edgeseg.pipeline.floats import FloatNetwork, input_of, make_float, split_frames
from edgeseg.pipeline.gating import failed, run_gate
from edgeseg.pipeline.model import find_model
from edgeseg.pipeline.plan import (
    CALIBRATION_FRAMES,
    GATE_FRAMES,
    SYNTHETIC,
    Building,
    Plan,
    Say,
    Source,
)
from edgeseg.pipeline.quantise import (
    Quantiser,
    calibrate,
    check_table,
    first_departure,
)
from edgeseg.pipeline.sensitivity import ranked_layers

ARGMAX_FIRST = ("openvino",)
"""Targets where labels of a graph are found before they are shuffled, because that is quicker."""
STAND_IN = "onnxruntime"
"""Runs and gates the graph of an engine that can't run here."""


@dataclass(frozen=True)
class Frames:
    """Disjoint frames: to calibrate on, and to judge on."""

    calibration: Dataset
    gate: Dataset


def choose_frames(
    calib: str | None, gate: str | None, *, calibration: int = CALIBRATION_FRAMES
) -> Frames:
    """Calibration and gate frames from `KIND:PATH`s; synthetic streets when nothing is given.

    Both come from train splits and are disjoint. With `gate`, the gate's frames come from there.
    """
    first, second = split_frames(calib or gate or SYNTHETIC, calibration)
    if gate is not None and calib is not None and gate != calib:
        second = open_dataset(gate, "train").spread(GATE_FRAMES)
    return Frames(first, second)


def export(
    source: Source, plan: Plan, out: Path, *, calib: str | None, gate: str | None, say: Say
) -> Bundle:
    """`edgeseg export`: MODEL -> engine folder at `out`; GateError when it departs too far.

    `calib` is KIND:PATH or a range table (.json), and needed for int8.
    """
    check_replaceable(out)
    table_path = Path(calib) if calib and calib.endswith(".json") else None
    data = None if table_path else calib
    exporter_needs_data = plan.precision == "int8" and calib is None
    if exporter_needs_data and not _trained_on_synthetic(source.model):
        raise UsageError(
            "int8 needs frames to calibrate on: give --calib KIND:PATH (such as "
            "camvid:PATH) or a range table made by 'edgeseg calibrate'"
        )
    if table_path and gate is None and not _trained_on_synthetic(source.model):
        raise UsageError("a range table holds no frames for the gate: give --gate KIND:PATH too")
    table = _given(table_path, source, plan) if table_path else None
    find_target(plan.target, plan.precision, plan.options, say)
    frames = choose_frames(data, gate)
    network = make_float(source, frames.gate, say)
    quantiser = None
    if plan.precision == "int8":
        if table is None:
            table = calibrate(network, frames.calibration, plan.method, say)
        elif table_path:
            check_table(network, table, table_path)
        quantiser = Quantiser(network, table)
    return export_network(network, quantiser, plan, out, say)


def _given(path: Path, source: Source, plan: Plan) -> RangeTable:
    """The range table that was typed, refused before any work where that can be known."""
    if plan.precision != "int8":
        raise UsageError(
            f"--calib {path} is a range table, and {plan.precision} takes none; leave it away "
            "(--gate KIND:PATH names the frames of the gate)"
        )
    table = read_table(path)
    table.check_preprocessing(preprocessing_sha256(input_of(source)), str(path))
    return table


def _trained_on_synthetic(model: str) -> bool:
    path = find_model(model)
    return path.is_dir() and "synthetic" in read_manifest(path).weights.data


def export_network(
    network: FloatNetwork, quantiser: Quantiser | None, plan: Plan, out: Path, say: Say
) -> Bundle:
    """Build, gate and write one engine folder; for int8 with as few float layers as needed."""
    if plan.target in BUILDERS and why_ungated(plan.target):
        return _export_unrun(network, quantiser, plan, out, say)
    if plan.precision != "int8":
        graph = pad_channels(network.graph, plan.pad) if plan.pad else network.graph
        graph = to_half(graph) if plan.precision == "fp16" else graph
        return _build(network, graph, plan, out, say, None)
    if quantiser is None:
        raise UsageError("int8 needs a range table")
    return _export_int8(network, quantiser, plan, out, say)


def _export_unrun(
    network: FloatNetwork, quantiser: Quantiser | None, plan: Plan, out: Path, say: Say
) -> Bundle:
    """The engine can't run here: its graph is gated in ONNX Runtime, and built as it passed."""
    say(f"{plan.target}: {why_ungated(plan.target)}; its graph is gated in {STAND_IN} instead")
    with tempfile.TemporaryDirectory(prefix="edgeseg-") as temporary:
        folder = Path(temporary) / STAND_IN
        graph = dataclasses.replace(plan, target=STAND_IN, options=BuildOptions())
        export_network(network, quantiser, graph, folder, say)
        return build(folder, Building(plan.target, plan.options, plan.budget), out, say)


def _export_int8(
    network: FloatNetwork, quantiser: Quantiser, plan: Plan, out: Path, say: Say
) -> Bundle:
    """All layers as INT8; when the gate refuses that, 1, 2, 4, ... in float, then the fewest."""
    ranking: list[Layer] = []
    refused, count = -1, 0
    most = math.floor(plan.max_float_share * len(quantiser.places()))
    while True:
        kept = tuple(ranking[:count])
        try:
            bundle = _with_float(network, quantiser, plan, out, say, kept)
            break
        except GateError as error:
            if count >= most:
                departed = first_departure(quantiser, tuple(layer.layer for layer in kept))
                raise GateError(
                    f"{error} with {count} of {len(quantiser.places())} convolutions in float; "
                    f"first to depart: {departed}. Nothing was written. Calibrate on more frames, "
                    "raise --max-miou-drop, or train with QAT"
                ) from error
            say(str(error))
        ranking = ranking or ranked_layers(quantiser, plan.target, say)
        refused, count = count, min(most, max(1, 2 * count))
    while count - refused > 1:
        middle = (refused + count) // 2
        kept = tuple(ranking[:middle])
        try:
            bundle, count = _with_float(network, quantiser, plan, out, say, kept), middle
        except GateError as error:
            say(str(error))
            refused = middle
    return bundle


def _with_float(
    network: FloatNetwork,
    quantiser: Quantiser,
    plan: Plan,
    out: Path,
    say: Say,
    kept: tuple[Layer, ...],
) -> Bundle:
    """One trial: these layers in float, all others as INT8."""
    names = tuple(layer.layer for layer in kept)
    if kept:
        say(f"leaving {len(kept)} layers in float: {', '.join(names)}")
    graph = quantiser.write(quantiser.places(names))
    return _build(network, graph, plan, out, say, quantiser.record(kept))


def _build(
    network: FloatNetwork,
    graph: onnx.ModelProto,
    plan: Plan,
    out: Path,
    say: Say,
    quantisation: Quantisation | None,
) -> Bundle:
    with writing_folder(out) as aside:
        manifest = dataclasses.replace(
            network.manifest,
            precision=plan.precision,
            quantisation=quantisation,
            recipe=plan.recipe,
            history=(
                *network.manifest.history,
                f"export --target {plan.target} --precision {plan.precision}",
            ),
        )
        exporter = find_target(plan.target, plan.precision, plan.options, say)
        graph = argmax_first(graph) if plan.target in ARGMAX_FIRST else graph
        bundle = _write_folder(graph, manifest, exporter, network, aside)
        gate = run_gate(bundle, network.gate, plan.budget)
        say(describe(gate))
        if gate.state != "passed":
            raise GateError(failed(gate))
        bundle = write_bundle(aside, dataclasses.replace(bundle.manifest, gate=gate))
    return Bundle(out, bundle.manifest)


def build_folder(
    graph: onnx.ModelProto, manifest: Manifest, target: str, network: FloatNetwork, folder: Path
) -> Bundle:
    """Write an engine folder without a gate's verdict into the empty `folder`."""
    return _write_folder(graph, manifest, find_exporter(target), network, folder)


def _write_folder(
    graph: onnx.ModelProto,
    manifest: Manifest,
    exporter: Exporter,
    network: FloatNetwork,
    folder: Path,
) -> Bundle:
    with tempfile.TemporaryDirectory(prefix="edgeseg-") as temporary:
        path = Path(temporary) / GRAPH
        onnx.save(share_constants(graph), path)
        built = exporter(path, folder)
        if built.network_file == PLAN:
            shutil.copyfile(path, folder / GRAPH)  # so that another board can build it
    if network.decode:
        weight, bias = network.decode["weight"], network.decode["bias"]
        np.savez(folder / "decode.npz", weight=weight, bias=bias)
    write_frames(folder, network.gate)
    manifest = dataclasses.replace(
        manifest, network_file=built.network_file, target=built.target, files={}
    )
    return write_bundle(folder, manifest)
