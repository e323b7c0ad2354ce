"""The float network -> Q/DQ graph: ranges from frames or a table, fallback to float by layer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx

from edgeseg.bundle import Quantisation
from edgeseg.calibration.bias import find_offsets
from edgeseg.calibration.checks import (
    FramesCheck,
    check_dead_channels,
    check_dead_weights,
    check_ranges,
    check_weights,
)
from edgeseg.calibration.choose import find_ranges, measured
from edgeseg.calibration.observe import Observer, observe
from edgeseg.calibration.pixels import read_pixels
from edgeseg.calibration.placement import Place, placement
from edgeseg.calibration.prepare import prepare
from edgeseg.calibration.qdq import write_qdq
from edgeseg.calibration.ranges import (
    FramesDigest,
    RangeTable,
    network_sha256,
    preprocessing_sha256,
)
from edgeseg.calibration.rescale import find_factors, find_sources, measure, rescale
from edgeseg.calibration.sensitivity import Layer, reason
from edgeseg.dataset import Dataset, Sample
from edgeseg.errors import UsageError
from edgeseg.pipeline.floats import FloatNetwork, name, prepared, seen_by
from edgeseg.pipeline.plan import Say

CORRECTION_FRAMES = 8
"""Calibration frames on which the means of layers are corrected."""
DEPARTS = 0.3
"""Relative error (norm of the difference over norm) from which a tensor counts as departed."""


@dataclass(frozen=True)
class Quantiser:
    """A float network with its range table: writes Q/DQ graphs for any choice of layers."""

    network: FloatNetwork
    table: RangeTable

    @cached_property
    def single(self) -> onnx.ModelProto:
        """The float graph that the ranges are of, for one frame."""
        return prepare(self.network.single, self.table.factors)

    @cached_property
    def graph(self) -> onnx.ModelProto:
        """The same at the export's batch size."""
        if self.network.graph is self.network.single:
            return self.single
        return prepare(self.network.graph, self.table.factors)

    def places(self, keep_float: tuple[str, ...] = ()) -> tuple[Place, ...]:
        """The placement without the layers that stay in float."""
        return placement(self.single, keep_float)

    def write(self, places: tuple[Place, ...]) -> onnx.ModelProto:
        """The Q/DQ graph at the export's batch size."""
        return write_qdq(self.graph, places, self.table.ranges, self.table.offsets)

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
    """Frames of a data set -> range table, in two passes: magnitudes of channels, then ranges.

    What QAT has trained comes with the ranges that it learned.
    """
    if network.learned:
        say(f"{network.manifest.name}: taking the {len(network.learned.ranges)} ranges of its QAT")
        return network.learned
    frames = seen_by(network.spec, frames)
    if not placement(network.single):
        raise UsageError(f"{network.manifest.name} has no convolution that INT8 could take")
    check_weights(network.single)
    digest, check = FramesDigest(keep=CORRECTION_FRAMES), FramesCheck(frames.classes)
    pixels = read_pixels(network.single)
    sources = find_sources(pixels)
    images = _images(network, check.watch(frames))
    magnitudes = measure(pixels, sources, digest.watch(images))
    factors = find_factors(pixels, sources, magnitudes)
    graph = rescale(pixels, factors)
    places = placement(graph)
    histograms = observe(graph, measured(places), _images(network, frames))
    ranges = find_ranges(graph, places, method, histograms, digest.kept())
    warnings = check.finish(frames) + check_dead_weights(graph, places)
    warnings += check_dead_channels(magnitudes) + check_ranges(histograms, ranges, places)
    for warning in warnings:
        say(f"warning: {warning}")
    offsets = find_offsets(graph, places, ranges, digest.kept())
    say(f"calibrated {len(ranges)} tensors on {len(digest)} frames of {name(frames)} ({method})")
    return RangeTable(
        method,
        network_sha256(network.single),
        preprocessing_sha256(network.spec),
        digest.hexdigest(),
        len(digest),
        name(frames),
        ranges,
        factors,
        offsets,
    )


def _images(network: FloatNetwork, samples: Iterable[Sample]) -> Iterator[np.ndarray]:
    return (prepared(sample.image, network.spec) for sample in samples)


def check_table(network: FloatNetwork, table: RangeTable, where: Path) -> RangeTable:
    """The table itself if it was made for this network and preprocessing."""
    table.check(network_sha256(network.single), preprocessing_sha256(network.spec), str(where))
    return table


def first_departure(quantiser: Quantiser, keep_float: tuple[str, ...]) -> str:
    """`"tensor 'x' (relative error 0.42)"`: the first in the graph past DEPARTS, else the worst."""
    single = replace(quantiser.network, graph=quantiser.network.single)
    quantised = replace(quantiser, network=single).write(quantiser.places(keep_float))
    names = [n.output[0] for n in quantiser.single.graph.node[:-2]]
    image = quantiser.network.gate.images[:1]
    floats = Observer(quantiser.single, names).run(image)
    int8s = Observer(quantised, names).run(image)
    errors = {n: _relative(floats[n], int8s[n]) for n in names}
    departed = next(
        (n for n, e in errors.items() if e > DEPARTS), max(errors, key=errors.__getitem__)
    )
    return f"tensor '{departed}' (relative error {errors[departed]:.2f})"


def _relative(reference: np.ndarray, other: np.ndarray) -> float:
    a, b = reference.astype(np.float64), other.astype(np.float64)
    return float(np.linalg.norm(a - b) / max(np.linalg.norm(a), 1e-12))
