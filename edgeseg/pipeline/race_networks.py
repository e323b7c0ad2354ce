"""What a race is run with: one float network as our engine folders, and as others would hold it."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx.utils import Extractor

from edgeseg.benchmarks.camera_frames import Camera, as_camera
from edgeseg.bundle import InputSpec
from edgeseg.dataset import Dataset, open_dataset
from edgeseg.disk import writing_file
from edgeseg.errors import GraphError, UsageError
from edgeseg.export.gate import Budget
from edgeseg.frame import enlarged, place
from edgeseg.pipeline.bench import torch_folder
from edgeseg.pipeline.export import choose_frames, export_network
from edgeseg.pipeline.floats import FloatNetwork, make_float, prepared
from edgeseg.pipeline.model import find_model
from edgeseg.pipeline.plan import METHOD, Plan, Say, Source
from edgeseg.pipeline.quantise import Quantiser, calibrate

OURS = (("openvino", "fp32"), ("openvino", "fp16"), ("openvino", "int8"), ("onnxruntime", "fp32"))
"""(target, precision) of the folders that take part."""
RACED_FRAMES = 8
ANY = Budget(100.0, 100.0)
"""A race is about time; its table says which labels agree, and no folder of it is kept for use."""


@dataclass(frozen=True)
class Networks:
    """What a race is run with, and where it lies; folders of ours are built by `build`.

    `planes` maps normalised float planes (1, 3, H, W) to full-size scores, `called` to uint8
    labels: what torch exports to those who write their own scripts, not rewritten. `frames` are
    (N, H, W, 3) uint8 BGR at the network's size, `taken` what the camera gives: the same without a
    `camera`. `torch` is None for a foreign .onnx. `scores`: decode is ours, outside the graph.
    """

    network: FloatNetwork
    scores: bool
    calibration: Dataset
    out: Path
    torch: Path | None
    camera: Camera | None = None

    @property
    def spec(self) -> InputSpec:
        """The network's input."""
        return self.network.spec

    @property
    def planes(self) -> Path:
        """Graph to full-size scores."""
        return self.out / "planes.onnx"

    @property
    def called(self) -> Path:
        """Graph to labels."""
        return self.out / "called.onnx"

    @property
    def frames(self) -> Path:
        """Frames at the network's size, .npy."""
        return self.out / "frames.npy"

    @property
    def taken(self) -> Path:
        """Camera frames, .npy."""
        return self.out / "camera.npy" if self.camera else self.frames

    @property
    def float_folder(self) -> Path:
        """Folder for ONNX Runtime whose graph returns labels: rivals' scripts start from it."""
        return self.out / "engines" / "labels-fp32"

    def folder(self, target: str, precision: str) -> Path:
        """One of OURS."""
        return self.out / "engines" / f"{target}-{precision}"

    def calibration_frames(self) -> Path:
        """`calibration.npy`, (N, H, W, 3) uint8 as the network takes them, written when asked."""
        path = self.out / "calibration.npy"
        _save(path, np.stack([prepared(s.image, self.spec) for s in self.calibration]))
        return path


def make_networks(
    source: Source, data: str, split: str, out: Path, say: Say, camera: Camera | None = None
) -> Networks:
    """The float network, its cut graphs and the frames, written anew under `out`."""
    frames = choose_frames(data, None)
    network, scores = scored_float(source, frames.gate, say)
    plain = make_float(dataclasses.replace(source, rewritten=False), frames.gate, say)
    path = find_model(source.model)
    torch = torch_folder(source, path, out / "engines" / "torch") if path.is_dir() else None
    networks = Networks(network, scores, frames.calibration, out, torch, camera)
    floats = Plan("onnxruntime", "fp32", budget=ANY)
    export_network(plain, None, floats, networks.float_folder, say)
    for path, graph in zip((networks.planes, networks.called), cut(plain.single), strict=True):
        with writing_file(path) as aside:
            onnx.save(graph, aside)
    dataset = open_dataset(data, split)
    _save(networks.frames, fitted_frames(dataset, network.spec))
    if camera is not None:
        images = [s.image for s in dataset.spread(RACED_FRAMES)]
        _save(networks.taken, np.stack([as_camera(image, camera) for image in images]))
    return networks


def build(networks: Networks, pairs: Collection[tuple[str, str]], say: Say) -> None:
    """Build the folders of these (target, precision)."""
    quantiser = None
    if any(precision == "int8" for _, precision in pairs):
        table = calibrate(networks.network, networks.calibration, METHOD, say)
        quantiser = Quantiser(networks.network, table)
    for target, precision in pairs:
        int8 = quantiser if precision == "int8" else None
        plan = Plan(target, precision, budget=ANY)
        export_network(networks.network, int8, plan, networks.folder(target, precision), say)


def scored_float(source: Source, gate: Dataset, say: Say) -> tuple[FloatNetwork, bool]:
    """The float network with scores where its last layer has a decode, and whether it has."""
    find_model(source.model)  # its error is not about scores
    try:
        return make_float(dataclasses.replace(source, scores=True), gate, say), True
    except UsageError as error:
        say(f"argmax in the graph: {error}")
        return make_float(source, gate, say), False


def fitted_frames(dataset: Dataset, spec: InputSpec, count: int = RACED_FRAMES) -> np.ndarray:
    """(N, H, W, 3) uint8 BGR, spread over the set, fitted to the network's size."""
    images = [prepared(s.image, spec) for s in dataset.spread(count)]
    swap = spec.order == "rgb"
    return np.stack([image[..., ::-1] if swap else image for image in images])


def seen(
    dataset: Dataset,
    spec: InputSpec,
    scale: int,
    camera: Camera | None = None,
    count: int = RACED_FRAMES,
) -> np.ndarray:
    """(N, scale H, scale W) bool: the pixels of the network's input that are no padding."""
    assert spec.size is not None
    masks = []
    for sample in dataset.spread(count):
        taken = camera.size if camera else sample.labels.shape
        placement = enlarged(place(taken, spec.size, spec.fit), scale)
        masks.append(np.zeros(placement.network, bool))
        masks[-1][placement.target.slices] = True
    return np.stack(masks)


def _save(path: Path, array: np.ndarray) -> None:
    with writing_file(path) as aside, aside.open("wb") as file:
        np.save(file, np.ascontiguousarray(array))


def cut(model: onnx.ModelProto) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """A graph image -> labels, cut behind its normalisation: to full-size scores, and to labels."""
    start = _normalised(model)
    last = [node for node in model.graph.node if node.op_type == "ArgMax"]
    if len(last) != 1:
        raise GraphError(
            f"the graph has {len(last)} ArgMax nodes; a race needs one at its end, over scores"
        )
    extractor = Extractor(onnx.shape_inference.infer_shapes(model))
    labels = model.graph.output[0].name
    return (
        extractor.extract_model([start], [last[0].input[0]]),
        extractor.extract_model([start], [labels]),
    )


def _normalised(model: onnx.ModelProto) -> str:
    """The tensor behind Cast, Transpose, Sub and Mul, which begin every graph of ours."""
    tensor: str = model.graph.input[0].name
    for expected in ("Cast", "Transpose", "Sub", "Mul"):
        readers = [node for node in model.graph.node if tensor in node.input]
        if len(readers) != 1 or readers[0].op_type != expected:
            found = ", ".join(node.op_type for node in readers) or "nothing"
            raise GraphError(
                f"a race cuts the graph behind its normalisation (Cast, Transpose, Sub, Mul); "
                f"'{tensor}' is read by {found}, not by one {expected}"
            )
        tensor = readers[0].output[0]
    return tensor
