"""Which layers lose the most when they become INT8: one at a time, measured on labels."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgeseg.calibration.placement import Place
from edgeseg.metrics import agreement

Labels = Callable[[tuple[Place, ...]], np.ndarray]
"""Builds the network with these places quantised and gives the labels of fixed frames."""


def rank_layers(
    places: tuple[Place, ...],
    labels: Labels,
    reference: np.ndarray,
    step: Callable[[int, int], None] | None = None,
) -> list[tuple[str, float]]:
    """(layer, percent of labels that change when it alone is INT8), the worst first."""
    losses = []
    for done, place in enumerate(places, start=1):
        losses.append((place.layer, 100.0 - agreement(labels((place,)), reference)))
        if step:
            step(done, len(places))
    return sorted(losses, key=lambda item: -item[1])
