"""Where two engines part: bisection over the tensors they share, then replay of the suspect part.

To ask for an inner tensor changes the graph that an engine compiles, and may hide a fault of fusion
("healed by looking"). So each question also looks at the last output, and the suspect part is then
cut out, fed with A's values and run by B with nothing asked from its middle.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from edgeseg.export.gate import BOUNDARY_RADIUS
from edgeseg.labels import IGNORE
from edgeseg.metrics import agreement, boundary
from edgeseg.pipeline.probe import Node, Probe, Tensors, between, comparable, sources

CEILING = 200.0
"""dB at which two tensors count as identical; minus this where one holds nan or infinity."""
STEPS = (1, 1, 2, 4)
"""By how many tensors the replayed part grows towards the image: fusion reaches no further."""
WORST = 3
"""How many nodes are named that depart most by themselves, where rounding adds up."""
LOOK = 24
"""How many tensors behind one that heals are asked."""
HEALABLE = 0.5
"""Percent of labels that must differ for a look inside to heal: half of them come back."""
AROUND = 2
"""Neighbours on each side of the first tensor that the table shows."""
AGREE = 99.5
"""Percent of the labels away from boundaries in which engines of one graph agree."""


@dataclass(frozen=True)
class Limits:
    """`snr_db`: a tensor below it has parted. `agreement`: percent of labels inside, of outputs."""

    snr_db: float
    agreement: float = AGREE


@dataclass(frozen=True)
class Distance:
    """How far B's tensor is from A's: signal to noise in dB (A is the signal), largest error."""

    snr_db: float
    max_abs: float


@dataclass(frozen=True)
class Labels:
    """Percent of labels that agree: all, and away from A's class boundaries."""

    agreement: float
    agreement_inside: float


@dataclass(frozen=True)
class Reading:
    """One tensor that was asked. `state` is same, parted or healed (the fault went away).

    `labels_moved` is the percent of B's last labels that changed because somebody looked.
    """

    tensor: str
    node: Node
    shape: tuple[int, ...]
    distance: Distance
    state: str
    labels_moved: float


@dataclass(frozen=True)
class Part:
    """A part of B's graph that departs when it is fed with A's `feeds`; None: it does not."""

    feeds: tuple[str, ...]
    tensor: str
    nodes: tuple[Node, ...]
    distance: Distance


@dataclass(frozen=True)
class Found:
    """What the search found; `part` is None where no part departs alone: rounding that adds up.

    `alone` is how far `first` is when B is fed with A's inputs of it; `worst` are the nodes before
    it with the least of that, sought only where rounding adds up.
    """

    first: str
    part: Part | None
    alone: Distance
    worst: tuple[tuple[str, Distance], ...]
    readings: tuple[Reading, ...]
    probes: int


def distance(a: Sequence[np.ndarray], b: Sequence[np.ndarray]) -> Distance:
    """Arrays of A and of B, frame by frame -> one distance."""
    signal = noise = largest = 0.0
    for x, y in zip(a, b, strict=True):
        left, right = x.astype(np.float64), y.astype(np.float64)
        if left.shape != right.shape or not np.isfinite(right).all() or not np.isfinite(left).all():
            return Distance(-CEILING, CEILING)
        error = left - right
        signal += float(np.vdot(left, left))
        noise += float(np.vdot(error, error))
        largest = max(largest, float(np.abs(error).max(initial=0.0)))
    if noise == 0:
        return Distance(CEILING, 0.0)
    ratio = 10 * np.log10(max(signal, 1e-300) / noise)
    return Distance(float(np.clip(ratio, -CEILING, CEILING)), largest)


def compare_labels(a: np.ndarray, b: np.ndarray, padding: np.ndarray) -> Labels:
    """(N, h, w) labels of both and bool padding -> how much of them agrees, as the gate counts."""
    seen = ~padding & (a != IGNORE)
    inside = seen & ~boundary(a, BOUNDARY_RADIUS)
    return Labels(agreement(a[seen], b[seen]), agreement(a[inside], b[inside]))


@dataclass
class Search:
    """A and B on the same frames; `decode` makes (N, h, w) labels of a last output.

    `labels_a` and `labels_b` are what the engines say when nobody looks inside.
    """

    a: Probe
    b: Probe
    frames_a: Sequence[Tensors]
    frames_b: Sequence[Tensors]
    labels_a: np.ndarray
    labels_b: np.ndarray
    padding: np.ndarray
    decode: Callable[[np.ndarray], np.ndarray]
    limits: Limits
    step: Callable[[str], None] = lambda _: None
    _readings: dict[str, Reading] = field(default_factory=dict)
    _values: dict[str, list[np.ndarray]] = field(default_factory=dict)
    _runs: int = 0

    def __post_init__(self) -> None:
        self.order = comparable(self.a, self.b)
        self._known = {n.tensor for n in self.order}
        self._place = {n.tensor: i for i, n in enumerate(self.order)}
        self._place[self.b.output] = len(self.order)
        nodes = (*self.a.nodes, *self.b.nodes)
        if self.a.engine == "onnxruntime":  # ONNX names and attributes say more than an IR's
            nodes = (*self.b.nodes, *self.a.nodes)
        self.described = {n.tensor: n for n in nodes}
        self._apart = self._far(self.labels_b)

    def _far(self, labels: np.ndarray) -> float:
        return 100 - compare_labels(self.labels_a, labels, self.padding).agreement

    # Looking

    def read(self, tensor: str) -> Reading:
        """Ask both for a tensor and their last output; each tensor is asked once."""
        if tensor not in self._readings:
            self.step(tensor)
            b = self._run(self.b, self.frames_b, [tensor, self.b.output])
            far = distance(self.values(tensor), [r[tensor] for r in b])
            labels = self.decode(np.concatenate([r[self.b.output] for r in b]))
            state = "parted" if far.snr_db < self.limits.snr_db else "same"
            if state == "same" and self._apart > HEALABLE:
                state = "healed" if self._far(labels) < self._apart / 2 else state
            seen = ~self.padding
            self._readings[tensor] = Reading(
                tensor,
                self.described[tensor],
                self.values(tensor)[0].shape,
                far,
                state,
                100 - agreement(labels[seen], self.labels_b[seen]),
            )
        return self._readings[tensor]

    def values(self, tensor: str) -> list[np.ndarray]:
        """A's tensor, frame by frame."""
        if tensor == "image":
            return [f["image"] for f in self.frames_b]
        self._fetch([tensor])
        return self._values[tensor]

    def _fetch(self, tensors: Sequence[str]) -> None:
        """A's tensors in one run."""
        new = [t for t in tensors if t not in self._values and t != "image"]
        if new:
            names = [self.a.output if t == self.b.output else t for t in new]
            found = self._run(self.a, self.frames_a, names)
            self._values |= {t: [r[n] for r in found] for t, n in zip(new, names, strict=True)}

    def last_scores(self) -> Reading | None:
        """The last tensor of floats in the shape of an image: what the labels are made from."""
        for node in reversed(self.order):
            value = self.values(node.tensor)[0]
            if value.ndim == 4 and value.dtype.kind == "f":
                return self.read(node.tensor)
        return None

    def _run(
        self, probe: Probe, frames: Sequence[Tensors], tensors: Sequence[str]
    ) -> list[dict[str, np.ndarray]]:
        self._runs += 1
        return probe.run(frames, tensors)

    # Searching

    def find(self) -> Found:
        """The first tensor that is not the same, and the smallest part that departs alone."""
        first = self._first()
        place = self._place[first]
        for near in self.order[max(0, place - AROUND) : place + AROUND + 1]:
            self.read(near.tensor)
        end = first
        if first in self._known and self.read(first).state == "healed":
            end = self._behind(first)
        alone, part = self._part(end)
        worst = () if part else self._worst(end)
        readings = sorted(self._readings.values(), key=lambda r: self._place[r.tensor])
        return Found(first, part, alone, worst, tuple(readings), self._runs)

    def _clean(self, tensor: str) -> bool:
        return tensor == "image" or self.read(tensor).state == "same"

    def _first(self) -> str:
        low, high = -1, len(self.order)
        while high - low > 1:
            middle = (low + high) // 2
            if self._clean(self.order[middle].tensor):
                low = middle
            else:
                high = middle
        found = self.order[high].tensor if high < len(self.order) else self.b.output
        while True:  # the order is one of many: what it reads may have parted already
            above = [s for s in self._sources(found) if not self._clean(s)]
            if not above:
                return found
            found = min(above, key=self._place.__getitem__)

    def _behind(self, tensor: str) -> str:
        """The first tensor computed from `tensor` that has parted; the last output else."""
        reached = {tensor}
        for node in self.order[self._place[tensor] + 1 :][:LOOK]:
            if reached.intersection(self._sources(node.tensor)):
                reached.add(node.tensor)
                if self.read(node.tensor).state == "parted":
                    return node.tensor
        return self.b.output

    def _sources(self, tensor: str) -> tuple[str, ...]:
        return sources(self.b.nodes, tensor, self._known)

    # Replaying

    def replay(self, feeds: tuple[str, ...], tensor: str) -> Distance:
        """B computes `tensor` from A's values of `feeds` -> how far it is from A's."""
        self._fetch([*feeds, tensor])
        frames = [{name: self.values(name)[i] for name in feeds} for i in range(len(self.frames_b))]
        found = self._run(self.b, frames, [tensor])
        return distance(self.values(tensor), [r[tensor] for r in found])

    def _departs(self, feeds: tuple[str, ...], tensor: str) -> Distance | None:
        far = self.replay(feeds, tensor)
        return far if far.snr_db < self.limits.snr_db else None

    def _part(self, end: str) -> tuple[Distance, Part | None]:
        """Grow from `end` towards the image until the part departs, then take away what it can."""
        feeds = self._sources(end)
        alone = self.replay(feeds, end)
        far = alone if alone.snr_db < self.limits.snr_db else None
        for step in STEPS:
            if far or set(feeds) == {"image"}:
                break
            for _ in range(step):
                feeds = self._grown(feeds)
            far = self._departs(feeds, end)
        if far is None:
            return alone, None
        feeds, end, far = self._shrunk(feeds, end, far)
        return alone, Part(feeds, end, between(self.b.nodes, feeds, end), far)

    def _worst(self, end: str) -> tuple[tuple[str, Distance], ...]:
        """The nodes up to `end` with the least SNR when B alone is fed with A's inputs."""
        nodes = self.order[: self._place[end] + 1]
        self._fetch([n.tensor for n in nodes])
        alone = []
        for node in nodes:
            self.step(f"{node.tensor} alone")
            alone.append((node.tensor, self.replay(self._sources(node.tensor), node.tensor)))
        return tuple(sorted(alone, key=lambda pair: pair[1].snr_db)[:WORST])

    def _grown(self, feeds: tuple[str, ...]) -> tuple[str, ...]:
        grown = [s for f in feeds for s in (("image",) if f == "image" else self._sources(f))]
        return tuple(dict.fromkeys(grown))

    def _shrunk(
        self, feeds: tuple[str, ...], end: str, far: Distance
    ) -> tuple[tuple[str, ...], str, Distance]:
        """An earlier end, then later feeds, as long as what is left departs."""
        for inner in self._inside(feeds, end):
            less = self._needed(feeds, inner)
            departs = self._departs(less, inner)
            if departs:
                feeds, end, far = less, inner, departs
                break
        for inner in self._inside(feeds, end):
            less = self._needed((*feeds, inner), end)
            departs = self._departs(less, end)
            if departs:
                feeds, far = less, departs
        return feeds, end, far

    def _inside(self, feeds: tuple[str, ...], end: str) -> list[str]:
        return [
            n.tensor
            for n in between(self.b.nodes, feeds, end)
            if n.tensor in self._known and n.tensor != end
        ]

    def _needed(self, feeds: tuple[str, ...], end: str) -> tuple[str, ...]:
        """Those of `feeds` that `end` is still computed from."""
        read = {i for n in between(self.b.nodes, feeds, end) for i in n.inputs}
        return tuple(f for f in feeds if f in read)
