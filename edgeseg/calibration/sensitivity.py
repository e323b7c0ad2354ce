"""Which layers lose the most when they become INT8, and which are worth keeping in float."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import onnx

from edgeseg.graph import initializers

EVEN = 0.5
"""Of a layer's cost, the part that all layers share evenly; the other part goes by its MACs."""


@dataclass(frozen=True)
class Loss:
    """Against the float network, in points: mIoU lost, and the worst class and what it lost."""

    miou: float
    worst_class: str | None
    worst_class_drop: float | None


@dataclass(frozen=True)
class Layer:
    """What one layer loses as INT8.

    `changed` is the percent of labels that change when it alone is INT8, `snr_db` how far the
    scores are then; `regained` is the percent of labels that come back when it alone stays in
    float. `macs` is its share of all convolutions, 0 to 1. `alone` and `without` say the same of
    mIoU: lost by it alone, and lost with it in float; None where it was not confirmed.
    """

    layer: str
    changed: float
    snr_db: float
    regained: float
    macs: float
    alone: Loss | None = None
    without: Loss | None = None


def frontier(model: onnx.ModelProto, layer: str) -> tuple[str, ...]:
    """The tensors made before the node `layer` that it or a later node reads."""
    nodes = list(model.graph.node)
    place = next(i for i, n in enumerate(nodes) if n.name == layer)
    made = {v.name for v in model.graph.input} - set(initializers(model))
    made |= {o for n in nodes[:place] for o in n.output}
    read = dict.fromkeys(i for n in nodes[place:] for i in n.input)
    last = dict.fromkeys(o.name for o in model.graph.output)
    return tuple(name for name in (read | last) if name in made)


def by_worth(layers: Sequence[Layer]) -> list[Layer]:
    """The layers in the order in which they should return to float: most labels for the least time.

    A layer in float costs the round trip between the types, which all share evenly, and time that
    grows with its MACs.
    """

    def worth(layer: Layer) -> float:
        return layer.changed / (EVEN / len(layers) + (1 - EVEN) * layer.macs)

    return sorted(layers, key=lambda layer: -worth(layer))


def reason(layer: Layer) -> str:
    """Why a layer stays in float, for the manifest."""
    return (
        f"alone in INT8 it changes {layer.changed:.2f} % of the labels, "
        f"for {100 * layer.macs:.1f} % of the MACs"
    )


def shares(macs: dict[str, int], layers: Collection[str]) -> dict[str, float]:
    """MACs of layers -> their share of the sum."""
    total = sum(macs[name] for name in layers)
    return {name: macs[name] / max(total, 1) for name in layers}
