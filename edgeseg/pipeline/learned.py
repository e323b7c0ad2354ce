"""The folder that QAT writes: a float graph with trained weights, and the ranges that go with them.

It is a network folder that ONNX Runtime opens in float; `edgeseg export` makes INT8 of it.

| file | is |
|---|---|
| network.onnx | the float graph with trained weights, for batches of one frame |
| ranges.json | the learned range table, bound to network.onnx |
| float.onnx | the graph before training, by which INT8 is judged |
| decode.npz | the last layer's arrays, where it is outside of the graph |
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from edgeseg.bundle import LEARNED, Bundle, Manifest, write_bundle
from edgeseg.calibration.ranges import (
    RangeTable,
    network_sha256,
    preprocessing_sha256,
    read_table,
    write_table,
)
from edgeseg.disk import writing_folder
from edgeseg.errors import UsageError
from edgeseg.export.targets import find_exporter
from edgeseg.frame import format_size
from edgeseg.graph import read_graph
from edgeseg.pipeline.plan import Source

(RANGES, FLOAT), DECODE = LEARNED, "decode.npz"


@dataclass(frozen=True)
class Learned:
    """What such a folder holds; `before` is the graph before training."""

    graph: onnx.ModelProto
    before: onnx.ModelProto
    table: RangeTable
    decode: dict[str, np.ndarray]


def write_learned(folder: Path, parts: Learned, manifest: Manifest) -> Bundle:
    """Write the folder whole or not at all; the table is bound to the graph here."""
    bound = dataclasses.replace(parts.table, network_sha256=network_sha256(parts.graph))
    with writing_folder(folder) as aside:
        onnx.save(parts.before, aside / FLOAT)
        onnx.save(parts.graph, aside / "trained.onnx")
        built = find_exporter("onnxruntime")(aside / "trained.onnx", aside)
        (aside / "trained.onnx").unlink()
        if parts.decode:
            np.savez(aside / DECODE, **parts.decode)  # type: ignore[arg-type]
        write_table(aside / RANGES, bound)
        manifest = dataclasses.replace(
            manifest, kind="network", network_file=built.network_file, target=built.target
        )
        bundle = write_bundle(aside, manifest)
    return Bundle(folder, bundle.manifest)


def read_learned(bundle: Bundle, source: Source) -> Learned:
    """What the folder holds; UsageError where `source` asks for another input or output."""
    given, output = bundle.manifest.input, bundle.manifest.output
    scores = output.kind == "scores"
    assert given.size is not None  # written so
    for flag, asked, own in (
        ("--size", format_size(source.size or given.size), format_size(given.size)),
        ("--fit", source.fit or "", given.fit),
        ("--input-order", source.order or "", given.order),
        ("--output", "scores" if source.scores else "labels", output.kind),
    ):
        if asked not in ("", own):
            raise UsageError(
                f"{bundle.folder} was trained in INT8 with {flag} {own} and can't be exported with "
                f"{asked}; train it so ('edgeseg train --qat')"
            )
    graph = read_graph(bundle.network)
    table = read_table(bundle.path(RANGES))
    table.check(network_sha256(graph), preprocessing_sha256(given), str(bundle.path(RANGES)))
    decode = {}
    if scores and DECODE in bundle.manifest.files:
        with np.load(bundle.path(DECODE)) as arrays:
            decode = dict(arrays)
    return Learned(graph, read_graph(bundle.path(FLOAT)), table, decode)


def with_weights(model: onnx.ModelProto, weights: Mapping[str, np.ndarray]) -> onnx.ModelProto:
    """A copy of the graph with other values of the named constants."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    for tensor in changed.graph.initializer:
        if tensor.name in weights:
            array = np.ascontiguousarray(weights[tensor.name], np.float32)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return changed


def batched(model: onnx.ModelProto, frames: int) -> onnx.ModelProto:
    """A copy of a graph for single frames that takes `frames` of them at once.

    Shapes that are constants (of Reshape and Resize) begin with the number of frames.
    """
    many = onnx.ModelProto()
    many.CopyFrom(model)
    graph = many.graph
    shapes = {n.input[{"Reshape": 1, "Resize": 3}[n.op_type]]
              for n in graph.node if n.op_type in ("Reshape", "Resize")}  # fmt: skip
    for tensor in graph.initializer:
        if tensor.name in shapes:
            shape = numpy_helper.to_array(tensor).copy()
            shape[0] = frames
            tensor.CopyFrom(numpy_helper.from_array(shape, tensor.name))
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = frames
    del graph.value_info[:]
    inferred = onnx.shape_inference.infer_shapes(many, strict_mode=True)
    onnx.checker.check_model(inferred)
    return inferred
