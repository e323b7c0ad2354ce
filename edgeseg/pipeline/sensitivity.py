"""What each layer loses as INT8, by an engine on frames: labels first, then mIoU of the worst.

What lies before a layer is the same in every network that differs from there on, so it is computed
once: the prefix moves forward through the graph and holds the tensors at one place only.
"""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from edgeseg.calibration.placement import Place
from edgeseg.calibration.ranges import read_table
from edgeseg.calibration.sensitivity import Layer, Loss, by_worth, frontier, shares
from edgeseg.errors import UsageError
from edgeseg.export.gate import MIN_FRAMES, GateFrames, judge
from edgeseg.export.targets import find_exporter
from edgeseg.graph import macs_by_layer
from edgeseg.labels import IGNORE
from edgeseg.metrics import agreement
from edgeseg.pipeline.floats import FloatNetwork, decoder_of, make_float, scores_of, split_frames
from edgeseg.pipeline.parity import distance
from edgeseg.pipeline.plan import CALIBRATION_FRAMES, GATE_FRAMES, METHOD, Say, Source
from edgeseg.pipeline.probe import Probe, Tensors, probe_file
from edgeseg.pipeline.quantise import Quantiser, calibrate, check_table

PROXY_FRAMES = 6
"""Frames on which every layer is tried; mIoU of the worst is taken on all."""
CONFIRM = 8
"""How many of the worst layers get their mIoU."""

Step = Callable[[int, int], None]


@dataclass(frozen=True)
class Asked:
    """What was typed."""

    source: Source
    data: str
    target: str = "onnxruntime"
    method: str = METHOD
    calib: Path | None = None
    frames: int = GATE_FRAMES
    confirm: int = CONFIRM
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.frames < MIN_FRAMES:
            raise UsageError(f"--frames is {self.frames}; mIoU needs at least {MIN_FRAMES}")


@dataclass(frozen=True)
class Sensitivity:
    """Layers, the worst first; `whole` is what the network loses when all are INT8."""

    model: str
    target: str
    source: str
    frames: int
    against: str
    miou_float: float
    whole: Loss
    changed: float
    layers: tuple[Layer, ...]

    def to_dict(self) -> dict[str, Any]:
        """The form of `edgeseg sensitivity --json`."""
        return dataclasses.asdict(self)


def sensitivity(asked: Asked, say: Say, step: Step) -> Sensitivity:
    """`edgeseg sensitivity`: frames of the train split, none of them of the calibration."""
    find_exporter(asked.target)
    table = read_table(asked.calib) if asked.calib else None
    calibration, gate = split_frames(asked.data, CALIBRATION_FRAMES, asked.frames)
    network = make_float(asked.source, gate, say)
    if asked.calib and table:
        check_table(network, table, asked.calib)
    else:
        table = calibrate(network, calibration, asked.method, say)
    trials = Trials(Quantiser(network, table), asked.target, asked.threads)
    layers, changed = trials.measure(step)
    confirmed = [trials.confirm(layer) for layer in layers[: asked.confirm]]
    frames = network.gate
    judged = judge(trials.labels(trials.places, frames.images), frames, network.manifest.table)
    assert judged.miou_float is not None
    return Sensitivity(
        network.manifest.name,
        asked.target,
        frames.source,
        len(frames),
        judged.against,
        judged.miou_float,
        trials.loss(trials.places),
        changed,
        (*confirmed, *layers[asked.confirm :]),
    )


def ranked_layers(quantiser: Quantiser, target: str, say: Say) -> list[Layer]:
    """The layers in the order in which they should return to float, by labels and MACs."""
    trials = Trials(quantiser, target)
    say(f"ranking {len(trials.places)} layers by the labels that change when each alone is INT8")
    return by_worth(trials.measure(lambda done, total: None, both=False)[0])


class Trials:
    """A network with any choice of its layers as INT8, by one engine, on the frames of its gate."""

    def __init__(self, quantiser: Quantiser, target: str, threads: int | None = None) -> None:
        network = quantiser.network
        if not quantiser.places():
            raise UsageError(f"{network.manifest.name} has no convolution that INT8 could take")
        single = dataclasses.replace(network, graph=network.single)
        self._quantiser = dataclasses.replace(quantiser, network=single)
        self._network: FloatNetwork = single
        self._target = target
        self._threads = threads
        self._output = network.single.graph.output[0].name
        self._scores = scores_of(network.single)
        self._decode = decoder_of(single)
        self.places = quantiser.places()

    def measure(self, step: Step, both: bool = True) -> tuple[list[Layer], float]:
        """Each layer alone (and, with `both`, all but it) on a few frames, the worst first.

        The second is the percent of labels that change when all are INT8.
        """
        frames = self._network.gate
        some = np.linspace(0, len(frames) - 1, min(PROXY_FRAMES, len(frames))).round().astype(int)
        images, reference = frames.images[some], frames.labels[some]
        share = shares(macs_by_layer(self._network.single), [p.layer for p in self.places])
        asked = list(dict.fromkeys([self._output, self._scores]))
        layers = []
        with self._probe(()) as before, self._probe(self.places) as behind:
            floats, int8s = (Prefix(self._quantiser.single, p, images) for p in (before, behind))
            scores = [r[self._scores] for r in before.run(floats.values, [self._scores])]
            whole = self._changed(behind.run(int8s.values, [self._output]), reference)
            for done, place in enumerate(self.places, start=1):
                found = self._run((place,), floats.at(place.layer), asked)
                regained = 0.0
                if both:
                    rest = tuple(p for p in self.places if p is not place)
                    without = self._run(rest, int8s.at(place.layer), [self._output])
                    regained = whole - self._changed(without, reference)
                far = distance(scores, [r[self._scores] for r in found])
                changed = self._changed(found, reference)
                layers.append(Layer(place.layer, changed, far.snr_db, regained, share[place.layer]))
                step(done, len(self.places))
        return sorted(layers, key=lambda layer: (-layer.changed, layer.snr_db)), whole

    def confirm(self, layer: Layer) -> Layer:
        """The same layer with what it costs in mIoU, on all frames."""
        place = next(p for p in self.places if p.layer == layer.layer)
        rest = tuple(p for p in self.places if p is not place)
        return dataclasses.replace(layer, alone=self.loss((place,)), without=self.loss(rest))

    def loss(self, places: tuple[Place, ...]) -> Loss:
        """What the network loses with these layers as INT8."""
        frames: GateFrames = self._network.gate
        gate = judge(self.labels(places, frames.images), frames, self._network.manifest.table)
        assert gate.miou_float is not None and gate.miou_engine is not None
        return Loss(gate.miou_float - gate.miou_engine, gate.worst_class, gate.worst_class_drop)

    def labels(self, places: tuple[Place, ...], images: np.ndarray) -> np.ndarray:
        """(N, H, W, 3) -> (N, h, w) labels with these layers as INT8."""
        found = self._run(places, _feeds(images), [self._output])
        return self._decode(np.concatenate([r[self._output] for r in found]))

    def _changed(self, found: list[dict[str, np.ndarray]], reference: np.ndarray) -> float:
        labels = self._decode(np.concatenate([r[self._output] for r in found]))
        seen = reference != IGNORE
        return 100.0 - agreement(labels[seen], reference[seen])

    def _run(
        self, places: tuple[Place, ...], frames: Sequence[Tensors], tensors: Sequence[str]
    ) -> list[dict[str, np.ndarray]]:
        with self._probe(places) as probe:
            return probe.run(frames, tensors)

    @contextlib.contextmanager
    def _probe(self, places: tuple[Place, ...]) -> Iterator[Probe]:
        graph = self._quantiser.write(places)
        with tempfile.TemporaryDirectory(prefix="edgeseg-") as temporary:
            onnx.save(graph, Path(temporary) / "graph.onnx")
            built = find_exporter(self._target)(Path(temporary) / "graph.onnx", Path(temporary))
            yield probe_file(
                self._target, Path(temporary) / built.network_file, threads=self._threads
            )


class Prefix:
    """A network's tensors at a place that moves forward; what lies before is never run again."""

    def __init__(self, graph: onnx.ModelProto, probe: Probe, images: np.ndarray) -> None:
        self._graph = graph
        self._probe = probe
        self.values: Sequence[Tensors] = _feeds(images)

    def at(self, layer: str) -> Sequence[Tensors]:
        """What `layer` and all behind it read; layers are asked for in the order of the graph."""
        wanted = frontier(self._graph, layer)
        new = [name for name in wanted if name not in self.values[0]]
        found = self._probe.run(self.values, new) if new else [{} for _ in self.values]
        self.values = [
            {name: (old if name in old else more)[name] for name in wanted}
            for old, more in zip(self.values, found, strict=True)
        ]
        return self.values


def _feeds(images: np.ndarray) -> list[Tensors]:
    return [{"image": np.ascontiguousarray(image[None])} for image in images]
