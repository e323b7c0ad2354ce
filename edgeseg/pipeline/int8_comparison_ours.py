"""Our own way to INT8 with the arguments that the INT8 comparison gives to every method.

`python -m edgeseg.pipeline.int8_comparison_ours --network FOLDER/network.onnx --frames F.npy
--gate FOLDER/gate/frames.npz --out OUT.onnx [--method mse] [--max-drop 0.2]`: FOLDER is a float
engine folder.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx

from edgeseg.bundle import Bundle, is_learned, read_bundle
from edgeseg.dataset import Dataset, Sample
from edgeseg.disk import write_json, writing_file
from edgeseg.errors import BundleError, exit_code
from edgeseg.export.gate import Budget, read_frames
from edgeseg.export.targets import EXPORTERS
from edgeseg.graph import read_graph
from edgeseg.pipeline.export import export_network
from edgeseg.pipeline.floats import FloatNetwork
from edgeseg.pipeline.learned import read_learned
from edgeseg.pipeline.plan import METHOD, Plan, Source
from edgeseg.pipeline.quantise import Quantiser, calibrate

MAX_CLASS_DROP = 1.0
"""Points of IoU that a class may lose where `--max-drop` is given."""
TARGET = "onnxruntime"
LABELS = "labels.npy"
"""Beside the frames: their labels, (N, h, w) uint8."""


def read_network(bundle: Bundle) -> FloatNetwork:
    """The float network of an engine folder for ONNX Runtime, as it was exported."""
    graph = read_graph(bundle.network)
    decode = {}
    if "decode.npz" in bundle.manifest.files:
        with np.load(bundle.path("decode.npz")) as arrays:
            decode = {"weight": arrays["weight"], "bias": arrays["bias"]}
    return FloatNetwork(graph, graph, bundle.manifest, read_frames(bundle), decode)


def prepared_frames(frames: Path, network: FloatNetwork) -> Dataset:
    """Frames that are as the network takes them already, as a data set of RGB frames."""
    images, labels = np.load(frames, mmap_mode="r"), np.load(frames.with_name(LABELS))
    names = tuple(f"frame-{i}" for i in range(len(images)))
    swap = network.spec.order != "rgb"

    def read(index: int) -> Sample:
        image = images[index, ..., ::-1] if swap else images[index]
        return Sample(names[index], np.ascontiguousarray(image), labels[index])

    source, _, split = network.gate.source.partition(" ")
    return Dataset(f"{source}:", split, network.manifest.table, names, read)


def quantise(network: Path, frames: Path, out: Path, method: str, max_drop: float | None) -> None:
    """Write the Q/DQ graph: all convolutions in INT8, or all but those that `max_drop` needs.

    `max_drop` is in points of mIoU on the gate's frames; both engines must hold it.
    """
    float_network = read_network(read_bundle(network.parent))
    dataset = prepared_frames(frames, float_network)
    quantiser = Quantiser(float_network, calibrate(float_network, dataset, method, print))
    kept: tuple[str, ...] = ()
    if max_drop is not None:
        kept = float_layers(quantiser, Budget(max_drop, MAX_CLASS_DROP))
    with writing_file(out) as aside:
        onnx.save(quantiser.write(quantiser.places(kept)), aside)
    write_json(out.with_suffix(".json"), {"versions": {}})


def float_layers(quantiser: Quantiser, budget: Budget) -> tuple[str, ...]:
    """The layers that any engine's export leaves in float to hold the budget."""
    kept: dict[str, None] = {}
    with tempfile.TemporaryDirectory(prefix="edgeseg-") as scratch:
        for target in EXPORTERS:
            plan = Plan(target, "int8", quantiser.table.method, budget)
            out = Path(scratch) / target
            bundle = export_network(quantiser.network, quantiser, plan, out, print)
            assert bundle.manifest.quantisation is not None  # an int8 export records it
            kept |= dict.fromkeys(bundle.manifest.quantisation.float_layers)
    return tuple(kept)


def take_finished(folder: Path, network: FloatNetwork, out: Path) -> None:
    """Write the Q/DQ graph of a folder that is there already to `out`.

    It is what `edgeseg train --qat` has trained, or an INT8 folder for ONNX Runtime, either of the
    classes and the input size of `network`.
    """
    bundle = read_bundle(folder)
    manifest = bundle.manifest
    for what, found, expected in (
        ("input size", manifest.input.size, network.spec.size),
        ("class table", manifest.table.name, network.manifest.table.name),
    ):
        if found != expected:
            raise BundleError(f"{folder}: its {what} is {found}; expected {expected}")
    if is_learned(manifest):
        kind = network.manifest.output.kind
        parts = read_learned(bundle, Source(str(folder), scores=kind == "scores"))
        trained = dataclasses.replace(network, graph=parts.graph, single=parts.graph)
        quantiser = Quantiser(trained, parts.table)
        graph = quantiser.write(quantiser.places())
    elif manifest.precision == "int8" and manifest.target and manifest.target.name == TARGET:
        graph = read_graph(bundle.network)
    else:
        target = manifest.target.name if manifest.target else "no engine"
        raise BundleError(
            f"{folder} is {manifest.precision} for {target}; give an int8 folder for {TARGET}, or "
            "what 'edgeseg train --qat' has trained"
        )
    with writing_file(out) as aside:
        onnx.save(graph, aside)


def main(words: list[str]) -> int:
    """Run one command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m edgeseg.pipeline.int8_comparison_ours", description=__doc__
    )
    parser.add_argument("--network", type=Path, required=True)
    parser.add_argument("--frames", type=Path, required=True)
    parser.add_argument("--gate", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--method", default=METHOD)
    parser.add_argument("--max-drop", type=float, metavar="POINTS")
    args = parser.parse_args(words)
    return exit_code(
        lambda: quantise(args.network, args.frames, args.out, args.method, args.max_drop)
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
