"""A network whose inner tensors can be asked, and fed, by name: what parity is searched with."""

from __future__ import annotations

import importlib
import os
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from edgeseg.bundle import Bundle
from edgeseg.errors import UsageError, guess

PROBES = {
    "onnxruntime": "edgeseg.pipeline.probe_onnxruntime:OnnxRuntimeProbe",
    "openvino": "edgeseg.pipeline.probe_openvino:OpenVinoProbe",
}
"""Engine -> "module:Class"."""

Tensors = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Node:
    """One operation: the tensor that it makes, and the tensors (no constants) that it reads."""

    name: str
    op: str
    tensor: str
    inputs: tuple[str, ...]
    attributes: dict[str, str] = field(default_factory=dict)
    quantises: bool = False
    """It only rounds to integers or brings them back: it is taken together with what reads it."""


class Probe(ABC):
    """One network by one engine; `nodes` are in topological order, `output` is its last tensor."""

    engine: str
    version: str
    output: str
    nodes: tuple[Node, ...]

    @abstractmethod
    def run(self, frames: Sequence[Tensors], tensors: Sequence[str]) -> list[dict[str, np.ndarray]]:
        """For each frame the named tensors, from a graph that is cut at what the frame feeds.

        A frame feeds `image`, (1, H, W, 3) uint8, or inner tensors by name: then whatever computed
        those is not part of the graph that the engine compiles. Only `tensors` leave the graph.
        """


def open_probe(engine: str, bundle: Bundle, *, threads: int, precision: str) -> Probe:
    """The probe of that engine for the network of a model folder."""
    return probe_file(engine, bundle.network, threads=threads, precision=precision)


def probe_file(
    engine: str, network: Path, *, threads: int | None = None, precision: str = "f32"
) -> Probe:
    """The probe of that engine for a file that the engine opens; all cores by default."""
    if engine not in PROBES:
        raise UsageError(f"engine '{engine}' can't be probed.{guess(engine, PROBES)}")
    module, _, attribute = PROBES[engine].partition(":")
    kind = getattr(importlib.import_module(module), attribute)
    cores = threads or len(os.sched_getaffinity(0))
    probe: Probe = kind(network, threads=cores, precision=precision)
    return probe


def comparable(a: Probe, b: Probe) -> tuple[Node, ...]:
    """B's nodes whose tensor A has under the same name, in B's order, without the output.

    Q/DQ pairs are left out: they belong to the layer that reads them, and a tensor keeps the name
    that it had before quantisation. So do nodes that no frame reaches.
    """
    theirs = {n.tensor for n in a.nodes if not n.quantises}
    reached = _reached(b.nodes)
    return tuple(
        n
        for n in b.nodes
        if n.tensor in theirs
        and n.tensor in reached
        and not n.quantises
        and n.tensor not in (a.output, b.output)
    )


def _reached(nodes: Sequence[Node]) -> set[str]:
    reached = {"image"}
    for node in nodes:
        if reached.intersection(node.inputs):
            reached.add(node.tensor)
    return reached


def sources(nodes: Sequence[Node], tensor: str, known: Collection[str]) -> tuple[str, ...]:
    """The nearest tensors of `known` (and `image`) from which `tensor` is computed."""
    makers = {n.tensor: n for n in nodes}
    found: dict[str, None] = {}
    waiting = list(makers[tensor].inputs) if tensor in makers else []
    seen: set[str] = set()
    while waiting:
        name = waiting.pop(0)
        if name in seen:
            continue
        seen.add(name)
        if name in known or name == "image":
            found[name] = None
        elif name in makers:
            waiting.extend(makers[name].inputs)
    return tuple(found)


def between(nodes: Sequence[Node], feeds: Collection[str], tensor: str) -> tuple[Node, ...]:
    """The nodes that compute `tensor` from `feeds`, in the order of the graph."""
    makers = {n.tensor: n for n in nodes}
    needed: set[str] = set()
    waiting = [tensor]
    while waiting:
        name = waiting.pop()
        if name in feeds or name in needed or name not in makers:
            continue
        needed.add(name)
        waiting.extend(makers[name].inputs)
    return tuple(n for n in nodes if n.tensor in needed)
