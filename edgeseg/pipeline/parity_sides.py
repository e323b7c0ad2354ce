"""What `debug-parity` compares: two MODELs as typed -> two opened engines and the same frames."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from edgeseg.bundle import Bundle, Manifest, read_bundle, read_manifest
from edgeseg.dataset import open_dataset
from edgeseg.errors import DataError, UsageError, guess
from edgeseg.export.gate import GateFrames, read_frames
from edgeseg.export.simplify import simplify
from edgeseg.frame import enlarged, place, reversed_colours
from edgeseg.graph import check_interface, initializers, read_graph
from edgeseg.labels import IGNORE, MASK
from edgeseg.pipeline.export import build_folder
from edgeseg.pipeline.floats import FloatNetwork, name, ordered, prepared, seen_by
from edgeseg.pipeline.model import find_model
from edgeseg.pipeline.probe import PROBES, Probe, Tensors, open_probe
from edgeseg.runtime.engine import Engine, EngineOptions, open_engine
from edgeseg.runtime.segmenter import Segmenter

NO_FRAMES = GateFrames(np.empty((0, 1, 1, 3), np.uint8), np.empty(0, np.uint8), None, "none")
FRAMES = 4
"""How many frames are compared when nothing is typed."""


@dataclass(frozen=True)
class Side:
    """One of the two: as typed, its folder, its engine (undisturbed) and its probe."""

    text: str
    bundle: Bundle
    engine: Engine
    probe: Probe

    @property
    def manifest(self) -> Manifest:
        """The folder's manifest."""
        return self.bundle.manifest

    def labels(self, images: np.ndarray) -> np.ndarray:
        """(N, H, W, 3) -> (N, h, w) labels by the engine itself."""
        outputs = [self.engine.infer(np.ascontiguousarray(i[None])) for i in images]
        return self.decode(np.concatenate(outputs))

    def decode(self, output: np.ndarray) -> np.ndarray:
        """The network's output -> labels."""
        return Segmenter(self.engine, self.bundle, frames=self.manifest.input.order).decode(output)


@dataclass(frozen=True)
class Shown:
    """(N, H, W, 3) uint8 inputs in channel order `order`, bool padding (N, h, w), their source."""

    images: np.ndarray
    padding: np.ndarray
    order: str
    source: str

    def feeds(self, side: Side) -> list[Tensors]:
        """The frames as that side takes them."""
        return [{"image": np.ascontiguousarray(i[None])} for i in self.given(side)]

    def given(self, side: Side) -> np.ndarray:
        """The images in the channel order of that side."""
        if side.manifest.input.order == self.order:
            return self.images
        return reversed_colours(self.images)


def split_engine(text: str) -> tuple[str, str | None]:
    """`"MODEL@ENGINE"` -> MODEL and ENGINE; without an engine None."""
    model, at, engine = text.rpartition("@")
    if not at or Path(text).exists():
        return text, None
    if engine not in PROBES:
        raise UsageError(f"'{text}': unknown engine '{engine}'.{guess(engine, PROBES)}")
    return model, engine


def find_like(texts: tuple[str, ...], like: str | None) -> tuple[Path, Manifest]:
    """The model folder that says size, classes and preprocessing: engine folders come first."""
    folders = [find_model(split_engine(t)[0]) for t in (*((like,) if like else ()), *texts)]
    known = [(f, read_manifest(f)) for f in folders if f.is_dir()]
    for kind in ("network", "checkpoint"):
        for folder, manifest in known:
            if manifest.kind == kind:
                return folder, manifest
    raise UsageError(
        f"{texts[0]} and {texts[1]}: an .onnx file does not say classes and preprocessing; "
        "give --like FOLDER, a model folder of the same network"
    )


@contextlib.contextmanager
def open_sides(
    texts: tuple[str, str], like: str | None, options: EngineOptions
) -> Iterator[tuple[Side, Side]]:
    """Both MODELs opened; what has to be built for it is gone afterwards."""
    _, manifest = find_like(texts, like)
    if manifest.input.size is None:
        raise UsageError("neither names an input size; export one of them first")
    with tempfile.TemporaryDirectory(prefix="edgeseg-") as temporary:
        a, b = (
            _side(text, manifest, options, Path(temporary) / key)
            for key, text in zip("ab", texts, strict=True)
        )
        _check_pair(a, b)
        yield a, b


def _check_pair(a: Side, b: Side) -> None:
    for side in (a, b):
        if side.manifest.input.batch != 1:
            raise UsageError(
                f"{side.text} takes batches of {side.manifest.input.batch} frames; parity is "
                "searched one frame at a time: export it with --batch 1"
            )
    left, right = a.manifest, b.manifest
    for what, x, y in (
        ("size", left.input.size, right.input.size),
        ("fit", left.input.fit, right.input.fit),
        ("classes", left.table.names, right.table.names),
        ("output", left.output, right.output),
    ):
        if x != y:
            raise UsageError(
                f"{a.text} and {b.text} can't be compared: their {what} differs ({x} and {y}); "
                "export both alike"
            )


def _side(text: str, like: Manifest, options: EngineOptions, folder: Path) -> Side:
    model, engine = split_engine(text)
    path = find_model(model)
    bundle = _bundle(path, engine, like, folder)
    assert bundle.manifest.target is not None
    target = bundle.manifest.target.name
    opened = open_engine(target, bundle, options)
    probe = open_probe(target, bundle, threads=opened.threads, precision=opened.inference_precision)
    return Side(text, bundle, opened, probe)


def _bundle(path: Path, engine: str | None, like: Manifest, folder: Path) -> Bundle:
    """The folder itself where it is that engine's, else one that is built at `folder`."""
    if path.suffix == ".onnx":
        graph = read_graph(path)
        check_interface(graph, str(path))
        return _built(graph, _of_file(graph, like, path), engine, folder, {})
    bundle = read_bundle(path)
    target = bundle.manifest.target
    if bundle.manifest.kind == "checkpoint":
        return _float_folder(bundle, engine, like, folder)
    if target is not None and engine in (None, target.name):
        return bundle
    if bundle.network.suffix != ".onnx":
        raise UsageError(
            f"{path} holds {bundle.network.name}, which {engine} can't open; give the folder that "
            "was exported with --target onnxruntime: its graph runs on every engine"
        )
    decode = {}
    if "decode.npz" in bundle.manifest.files:
        with np.load(bundle.path("decode.npz")) as arrays:
            decode = dict(arrays)
    return _built(read_graph(bundle.network), bundle.manifest, engine, folder, decode)


def _of_file(graph: onnx.ModelProto, like: Manifest, path: Path) -> Manifest:
    image = next(i for i in graph.graph.input if i.name not in initializers(graph))
    batch, height, width, _ = (d.dim_value for d in image.type.tensor_type.shape.dim)
    if graph.graph.output[0].name != like.output.kind:
        raise UsageError(
            f"{path} gives {graph.graph.output[0].name}, {like.name} gives {like.output.kind}; "
            "compare two of one kind"
        )
    spec = dataclasses.replace(like.input, size=(height, width), batch=batch)
    return dataclasses.replace(like, input=spec)


def _float_folder(bundle: Bundle, engine: str | None, like: Manifest, folder: Path) -> Bundle:
    from edgeseg.export.to_onnx import to_onnx

    order, size = like.input.order, like.input.size
    assert size is not None
    scores = like.output.kind == "scores" or bundle.manifest.input.mask
    exported = to_onnx(bundle.folder, size=size, batch=1, order=order, scores=scores)
    manifest = dataclasses.replace(
        bundle.manifest,
        kind="network",
        precision="fp32",
        classes=MASK.to_dict() if bundle.manifest.input.mask else bundle.manifest.classes,
        input=dataclasses.replace(
            ordered(bundle.manifest.input, order), size=size, fit=like.input.fit, batch=1
        ),
        output=exported.output,
    )
    decode = {}
    if exported.weight is not None and exported.bias is not None:
        decode = {"weight": exported.weight, "bias": exported.bias}
    return _built(simplify(exported.model), manifest, engine, folder, decode)


def _built(
    graph: onnx.ModelProto,
    manifest: Manifest,
    engine: str | None,
    folder: Path,
    decode: dict[str, np.ndarray],
) -> Bundle:
    folder.mkdir()
    network = FloatNetwork(graph, graph, manifest, NO_FRAMES, decode)
    return build_folder(graph, manifest, engine or "onnxruntime", network, folder)


def frames_of_folder(texts: tuple[str, str], like: str | None, count: int) -> Shown:
    """The gate's frames of the folder that `find_like` finds, `count` of them evenly spread."""
    folder, manifest = find_like(texts, like)
    if manifest.kind != "network":
        raise UsageError(f"{folder} holds no frames; give --data KIND:PATH")
    frames = read_frames(read_bundle(folder))
    some = np.linspace(0, len(frames) - 1, min(count, len(frames))).round().astype(int)
    padding = frames.labels[some] == IGNORE
    return Shown(frames.images[some], padding, manifest.input.order, f"gate: {frames.source}")


def frames_of_data(data: str, split: str, count: int, side: Side) -> Shown:
    """`count` frames of a data set, evenly spread, as the network takes them."""
    dataset = open_dataset(data, split)
    if not len(dataset):
        raise DataError(f"{dataset.source}: split '{split}' is empty")
    spec, output = side.manifest.input, side.manifest.output
    assert spec.size is not None
    images, padding = [], []
    for sample in seen_by(spec, dataset.spread(min(count, len(dataset)))):
        images.append(prepared(sample.image, spec))
        placement = place((sample.image.shape[0], sample.image.shape[1]), spec.size, spec.fit)
        placement = enlarged(placement, output.scale)
        padding.append(np.ones([n * output.scale for n in spec.size], bool))
        padding[-1][placement.target.slices] = False
    return Shown(np.stack(images), np.stack(padding), spec.order, name(dataset))
