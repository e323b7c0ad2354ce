"""The float network -> Q/DQ graph: ranges from frames or a table, fallback to float by layer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx

from edgeseg.bundle import Quantisation
from edgeseg.calibration.observe import Observer, observe
from edgeseg.calibration.placement import Place, placement, tensors
from edgeseg.calibration.qdq import write_qdq
from edgeseg.calibration.ranges import (
    FramesDigest,
    RangeTable,
    make_table,
    network_sha256,
    preprocessing_sha256,
)
from edgeseg.calibration.sensitivity import Layer, reason
from edgeseg.dataset import Dataset
from edgeseg.errors import UsageError
from edgeseg.pipeline.floats import FloatNetwork, name, prepared
from edgeseg.pipeline.plan import Say

DEPARTS = 0.3
"""Relative error (norm of the difference over norm) from which a tensor counts as departed."""


@dataclass(frozen=True)
class Quantiser:
    """A float network with its range table: writes Q/DQ graphs for any choice of layers."""

    network: FloatNetwork
    table: RangeTable

    def places(self, keep_float: tuple[str, ...] = ()) -> tuple[Place, ...]:
        """The placement without the layers that stay in float."""
        return placement(self.network.single, keep_float)

    def write(self, places: tuple[Place, ...]) -> onnx.ModelProto:
        """The Q/DQ graph at the export's batch size."""
        return write_qdq(self.network.graph, places, self.table.ranges)

    def record(self, kept: tuple[Layer, ...] = ()) -> Quantisation:
        """What the manifest says of it; `kept` are the layers that stay in float."""
        return Quantisation(
            method=self.table.method,
            scheme="int8 symmetric: weights per output channel, activations per tensor",
            frames=self.table.frames,
            frames_sha256=self.table.frames_sha256,
            network_sha256=self.table.network_sha256,
            source=self.table.source,
            float_layers=tuple(layer.layer for layer in kept),
            convolutions=len(self.places()),
            float_why={layer.layer: reason(layer) for layer in kept},
        )


def calibrate(network: FloatNetwork, frames: Dataset, method: str, say: Say) -> RangeTable:
    """Frames of a data set -> range table, in one pass."""
    digest = FramesDigest()
    images = digest.watch(prepared(sample.image, network.spec) for sample in frames)
    asked = tensors(placement(network.single))
    if not asked:
        raise UsageError(f"{network.manifest.name} has no convolution that INT8 could take")
    histograms = observe(network.single, asked, images)
    say(f"calibrated {len(asked)} tensors on {len(digest)} frames of {name(frames)} ({method})")
    return make_table(
        histograms,
        method,
        model=network.single,
        spec=network.spec,
        frames=digest,
        source=name(frames),
    )


def check_table(network: FloatNetwork, table: RangeTable, where: Path) -> RangeTable:
    """The table itself if it was made for this network and preprocessing."""
    table.check(network_sha256(network.single), preprocessing_sha256(network.spec), str(where))
    return table


def first_departure(quantiser: Quantiser, keep_float: tuple[str, ...]) -> str:
    """`"tensor 'x' (relative error 0.42)"`: the first in the graph past DEPARTS, else the worst."""
    single = replace(quantiser.network, graph=quantiser.network.single)
    quantised = replace(quantiser, network=single).write(quantiser.places(keep_float))
    names = [n.output[0] for n in quantiser.network.single.graph.node[:-2]]
    image = quantiser.network.gate.images[:1]
    floats = Observer(quantiser.network.single, names).run(image)
    int8s = Observer(quantised, names).run(image)
    errors = {n: _relative(floats[n], int8s[n]) for n in names}
    departed = next(
        (n for n, e in errors.items() if e > DEPARTS), max(errors, key=errors.__getitem__)
    )
    return f"tensor '{departed}' (relative error {errors[departed]:.2f})"


def _relative(reference: np.ndarray, other: np.ndarray) -> float:
    a, b = reference.astype(np.float64), other.astype(np.float64)
    return float(np.linalg.norm(a - b) / max(np.linalg.norm(a), 1e-12))
