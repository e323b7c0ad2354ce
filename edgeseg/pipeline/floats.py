"""The float network: the graph that every engine is made from, and the frames it is judged on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx

from edgeseg.bundle import (
    Bundle,
    InputSpec,
    Manifest,
    OutputSpec,
    WeightsSpec,
    is_learned,
    read_bundle,
)
from edgeseg.calibration.observe import Observer
from edgeseg.calibration.ranges import RangeTable
from edgeseg.dataset import Dataset, open_dataset, spread_evenly
from edgeseg.errors import BundleError, GraphError, UsageError
from edgeseg.export.foreign import adopt
from edgeseg.export.gate import MIN_FRAMES, GateFrames
from edgeseg.export.simplify import simplify
from edgeseg.frame import (
    enlarged,
    format_size,
    place,
    prepare,
    prepare_labels,
    resize_labels,
    reversed_colours,
)
from edgeseg.graph import check_interface, count_macs, count_params
from edgeseg.labels import IGNORE, MASK, ClassTable, class_table
from edgeseg.metrics import agreement
from edgeseg.pipeline.learned import batched, read_learned
from edgeseg.pipeline.model import find_model, resized
from edgeseg.pipeline.plan import GATE_FRAMES, Say, Source
from edgeseg.pipeline.random_weights import SAME as SAME_RANDOM
from edgeseg.pipeline.random_weights import is_random
from edgeseg.runtime.engine import EngineOptions, open_engine
from edgeseg.training.perturb import spoilt

SAME = 99.9
"""Percent of labels in which the exported float graph must agree with torch."""


@dataclass(frozen=True)
class FloatNetwork:
    """A float ONNX graph with its manifest (no target yet) and the frames of its gate.

    `single` is the same graph for batches of one frame, which calibration and gate run. `learned`
    are the ranges that QAT has trained the graph with.
    """

    graph: onnx.ModelProto
    single: onnx.ModelProto
    manifest: Manifest
    gate: GateFrames
    decode: dict[str, np.ndarray] = field(default_factory=dict)
    learned: RangeTable | None = None

    @property
    def spec(self) -> InputSpec:
        """The network's input."""
        return self.manifest.input


def make_float(source: Source, gate: Dataset, say: Say) -> FloatNetwork:
    """Build the float graph of a checkpoint or a foreign .onnx, and compare it with its origin."""
    path = find_model(source.model)
    if path.suffix == ".onnx":
        return _foreign(path, source, gate)
    bundle = read_bundle(path)
    if is_learned(bundle.manifest):
        return _learned(bundle, source, gate)
    if bundle.manifest.kind != "checkpoint":
        raise BundleError(
            f"{path} is an engine folder already; export the checkpoint that it was made from"
        )
    return _checkpoint(bundle, source, gate, say)


def input_of(source: Source) -> InputSpec:
    """The input of the graph that `make_float` makes, known without making it."""
    path = find_model(source.model)
    if path.suffix == ".onnx":
        return _how_to_read(source)[0]
    bundle = read_bundle(path)
    if is_learned(bundle.manifest):
        return bundle.manifest.input
    spec = resized(bundle, source.size, source.fit).manifest.input
    return ordered(spec, source.order or spec.order)


def _checkpoint(bundle: Bundle, source: Source, gate: Dataset, say: Say) -> FloatNetwork:
    from edgeseg.export.to_onnx import to_onnx

    bundle = resized(bundle, source.size, source.fit)
    size, mask = bundle.manifest.input.size, bundle.manifest.input.mask
    assert size is not None
    order = source.order or bundle.manifest.input.order
    scores = source.scores or mask  # classes are merged by how sure of a mask the network is
    exported = to_onnx(bundle.folder, size=size, batch=1, order=order, scores=scores)
    single = simplify(exported.model, rewritten=source.rewritten)
    check_interface(single, str(bundle.folder))
    graph = single
    if source.batch != 1:
        many = to_onnx(bundle.folder, size=size, batch=source.batch, order=order, scores=scores)
        graph = simplify(many.model, rewritten=source.rewritten)
    if exported.left_out:
        say(f"{exported.left_out} at {format_size(size)}")
    manifest = dataclasses.replace(
        bundle.manifest,
        kind="network",
        target=None,
        classes=MASK.to_dict() if mask else bundle.manifest.classes,
        input=ordered(bundle.manifest.input, order),
        output=exported.output,
        params=exported.params,
        macs=exported.macs,
        uncounted=exported.uncounted,
        files={},
    )
    decode = {}
    if exported.weight is not None and exported.bias is not None:
        decode = {"weight": exported.weight, "bias": exported.bias}
    images, truth, padding = gate_inputs(gate, manifest)
    torch_order = images if order == bundle.manifest.input.order else reversed_colours(images)
    labels = _torch_labels(bundle, torch_order)
    labels[padding] = IGNORE
    manifest = dataclasses.replace(
        manifest, input=dataclasses.replace(manifest.input, batch=source.batch)
    )
    network = FloatNetwork(
        graph, single, manifest, GateFrames(images, labels, truth, name(gate)), decode
    )
    _compare(network, say)
    return network


def ordered(spec: InputSpec, order: str) -> InputSpec:
    """The same input with channels in `order`."""
    if order == spec.order:
        return spec
    m, s, f = spec.mean, spec.std, spec.fill
    return dataclasses.replace(
        spec, order=order, mean=m[::-1], std=s[::-1], fill=(f[2], f[1], f[0])
    )


def _torch_labels(bundle: Bundle, images: np.ndarray) -> np.ndarray:
    engine = open_engine("torch", bundle, EngineOptions())
    return np.concatenate([engine.infer(np.ascontiguousarray(i[None])) for i in images])


def _compare(network: FloatNetwork, say: Say) -> None:
    labels = labels_of(network, network.single, network.gate.images)
    seen = network.gate.labels != IGNORE
    same = agreement(labels[seen], network.gate.labels[seen])
    say(f"ONNX agrees with torch on {same:.3f} % of labels ({len(labels)} frames)")
    least = SAME_RANDOM if is_random(network.manifest) else SAME
    if same < least:
        raise GraphError(
            f"the exported graph agrees with torch on {same:.2f} % of labels only; expected "
            f"{least} %. This is a fault of the export: please report it with the model"
        )


def labels_of(network: FloatNetwork, graph: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    """(N, H, W, 3) -> (N, h, w) labels of a graph for single frames, by ONNX Runtime."""
    output = graph.graph.output[0].name
    observer = Observer(graph, [output])
    decoder = decoder_of(network)
    results = [observer.run(np.ascontiguousarray(i[None]))[output] for i in images]
    return np.concatenate([decoder(r) for r in results])


def decoder_of(network: FloatNetwork) -> Callable[[np.ndarray], np.ndarray]:
    """Scores or labels of this network -> labels."""
    from edgeseg.runtime.decode import decode

    if network.manifest.output.kind == "labels":
        return lambda result: result
    arrays = network.decode
    return lambda s: decode(s, network.manifest.output, arrays.get("weight"), arrays.get("bias"))


def _learned(bundle: Bundle, source: Source, gate: Dataset) -> FloatNetwork:
    """What QAT has trained, judged by the labels of the float network that it started from."""
    parts = read_learned(bundle, source)
    manifest = dataclasses.replace(bundle.manifest, target=None, network_file=None, files={})
    images, truth, padding = gate_inputs(gate, manifest)
    manifest = dataclasses.replace(
        manifest, input=dataclasses.replace(manifest.input, batch=source.batch)
    )
    graph = parts.graph if source.batch == 1 else batched(parts.graph, source.batch)
    empty = GateFrames(images, np.empty(0, np.uint8), truth, name(gate))
    network = FloatNetwork(graph, parts.graph, manifest, empty, parts.decode, parts.table)
    labels = labels_of(network, parts.before, images)
    labels[padding] = IGNORE
    return dataclasses.replace(network, gate=dataclasses.replace(empty, labels=labels))


def _foreign(path: Path, source: Source, gate: Dataset) -> FloatNetwork:
    spec, table = _how_to_read(source)
    single = simplify(adopt(path, spec, len(table)), rewritten=source.rewritten)
    check_interface(single, str(path))
    batched = dataclasses.replace(spec, batch=source.batch)
    graph = single
    if source.batch != 1:
        graph = simplify(adopt(path, batched, len(table)), rewritten=source.rewritten)
    macs, uncounted = count_macs(single)
    manifest = Manifest(
        kind="network",
        name=path.stem,
        classes=table.to_dict(),
        input=spec,
        params=count_params(single),
        macs=macs,
        uncounted=uncounted,
        weights=WeightsSpec(source=path.name),
        history=(f"foreign {path.name}",),
    )
    images, truth, padding = gate_inputs(gate, manifest)
    empty = GateFrames(images, np.empty(0, np.uint8), truth, name(gate))
    manifest = dataclasses.replace(manifest, input=batched)
    labels = labels_of(FloatNetwork(graph, single, manifest, empty), single, images)
    outside = labels[(labels >= len(table)) & (labels != IGNORE)]
    if outside.size:
        raise GraphError(
            f"{path}: gives label {outside[0]}, and the class table '{table.name}' has "
            f"{len(table)} classes (0 to {len(table) - 1}); give the table of this network"
        )
    small = labels.shape[1:]
    if padding.shape != labels.shape:
        truth = None if truth is None else np.stack([resize_labels(t, small) for t in truth])
        padding = np.stack([resize_labels(p, small) for p in padding])
    labels[padding] = IGNORE
    output = OutputSpec("labels", stride=max(1, round(images.shape[1] / small[0])))
    manifest = dataclasses.replace(manifest, output=output)
    return FloatNetwork(graph, single, manifest, GateFrames(images, labels, truth, name(gate)))


def _how_to_read(source: Source) -> tuple[InputSpec, ClassTable]:
    """Input and classes of a foreign file, as typed; UsageError that names what is missing."""
    missing = [
        flag
        for flag, value in (
            ("--classes", source.classes),
            ("--mean", source.mean),
            ("--std", source.std),
            ("--input-order", source.order),
            ("--size", source.size),
        )
        if value is None
    ]
    if missing:
        raise UsageError(f"a foreign ONNX file needs {', '.join(missing)} too")
    if source.scores:
        raise UsageError("a foreign ONNX file is exported with labels; leave --output scores away")
    assert source.classes and source.mean and source.std and source.order
    fill = [min(255, max(0, round(m))) for m in source.mean]
    spec = InputSpec(
        source.order,
        source.mean,
        source.std,
        source.fit or "pad",
        (fill[0], fill[1], fill[2]),
        source.size,
    )
    return spec, class_table(source.classes)


def gate_inputs(
    dataset: Dataset, manifest: Manifest
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """Prepared frames of a data set, their truth if its classes are the model's, their padding.

    (N, h, w, 3) uint8, (N, s h, s w) uint8 or None, (N, s h, s w) bool; s is the output's scale.
    """
    dataset = seen_by(manifest.input, dataset)
    if len(dataset) < MIN_FRAMES and not is_random(manifest):
        raise UsageError(
            f"{dataset.source} ({dataset.split}) has {len(dataset)} frames for the gate; "
            f"it needs at least {MIN_FRAMES}"
        )
    known = dataset.classes.names == manifest.table.names
    images, truth, padding = [], [], []
    for sample in dataset:
        images.append(prepared(sample.image, manifest.input))
        placement = place(sample.labels.shape, images[-1].shape[:2], manifest.input.fit)
        placement = enlarged(placement, manifest.output.scale)
        truth.append(prepare_labels(sample.labels, placement))
        padding.append(np.ones(truth[-1].shape, bool))
        padding[-1][placement.target.slices] = False
    return np.stack(images), np.stack(truth) if known else None, np.stack(padding)


def seen_by(spec: InputSpec, dataset: Dataset) -> Dataset:
    """The frames as a network of that input sees them: with spoilt masks if it takes masks."""
    return spoilt(dataset) if spec.mask else dataset


def scores_of(graph: onnx.ModelProto) -> str:
    """The tensor that the last ArgMax reads, or the output itself."""
    argmax = [n for n in graph.graph.node if n.op_type == "ArgMax"]
    return str(argmax[-1].input[0]) if argmax else str(graph.graph.output[0].name)


def prepared(image: np.ndarray, spec: InputSpec) -> np.ndarray:
    """(H, W, 3) uint8 RGB, with a mask behind it (H, W, 4) -> the network's uint8 input."""
    assert spec.size is not None
    placement = place((image.shape[0], image.shape[1]), spec.size, spec.fit)
    return prepare(image, placement, swap=spec.order == "bgr", fill=spec.fill)


def name(dataset: Dataset) -> str:
    """`camvid train`: without the path, which belongs to this machine."""
    return f"{dataset.source.partition(':')[0]} {dataset.split}"


def split_frames(source: str, calibration: int, gate: int = GATE_FRAMES) -> tuple[Dataset, Dataset]:
    """Disjoint frames of the train split: for calibration, and for the gate."""
    dataset = open_dataset(source, "train")
    gated = set(spread_evenly(len(dataset), gate))
    rest = [i for i in range(len(dataset)) if i not in gated]
    return dataset.subset(rest).spread(calibration), dataset.subset(sorted(gated))
