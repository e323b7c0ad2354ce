"""Which tensors are quantised: one list, read by calibration and by the writer.

The rule: both inputs of each convolution, and nothing else. Sums, concats, batch normalisation and
PReLU between them stay in float, where ESPNet's hierarchical sums lose nothing.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import onnx

from edgeseg.errors import UsageError, guess
from edgeseg.graph import convolutions


@dataclass(frozen=True)
class Place:
    """One quantised layer: node name, its input tensor, its weights, the weights' output axis."""

    layer: str
    activation: str
    weight: str
    axis: int


def placement(model: onnx.ModelProto, keep_float: Collection[str] = ()) -> tuple[Place, ...]:
    """The layers to quantise, in the order of the graph, without those named in `keep_float`."""
    nodes = convolutions(model)
    names = [n.name for n in nodes]
    for name in keep_float:
        if name not in names:
            raise UsageError(f"no convolution is named '{name}'.{guess(name, names)}")
    return tuple(
        Place(n.name, n.input[0], n.input[1], 0 if n.op_type == "Conv" else 1)
        for n in nodes
        if n.name not in keep_float
    )


def tensors(places: tuple[Place, ...]) -> tuple[str, ...]:
    """The activation tensors that need a range, each once."""
    return tuple(dict.fromkeys(p.activation for p in places))
