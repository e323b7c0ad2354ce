"""An image larger than memory, in crops that overlap: where they lie, and their mean."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from edgeseg.frame import Box, Size


@dataclass(frozen=True)
class Tile:
    """A crop, and the part of it that is kept, both in pixels of the image."""

    crop: Box
    kept: Box


def tiles(size: Size, side: int, step: int, border: int) -> list[Tile]:
    """Crops of at most `side` x `side`, `step` apart; the last ones end with the image.

    `border` pixels are not kept on those sides that are not the image's own.
    """
    if not 0 < step <= side - 2 * border:
        raise ValueError(f"crops of {side} with borders of {border}, {step} apart, leave gaps")
    rows, columns = (_spans(length, side, step) for length in size)
    return [
        Tile(
            Box(top, left, bottom, right),
            Box(
                top + (border if top else 0),
                left + (border if left else 0),
                bottom - (border if bottom < size[0] else 0),
                right - (border if right < size[1] else 0),
            ),
        )
        for top, bottom in rows
        for left, right in columns
    ]


def _spans(length: int, side: int, step: int) -> list[tuple[int, int]]:
    """[start, stop) of the crops along one axis."""
    last = max(0, length - side)
    starts = [*range(0, last, step), last]
    return [(start, min(length, start + side)) for start in starts]


def mean_of_tiles(
    size: Size, places: list[Tile], run: Callable[[Tile], np.ndarray | None]
) -> tuple[np.ndarray, np.ndarray]:
    """What `run` gives for each crop, (h, w) float32, averaged over the image -> (H, W) float32.

    Crops for which it gives None are left out. With it, how many crops each pixel is the mean of;
    where that is 0, so is the mean.
    """
    total, count = np.zeros(size, np.float32), np.zeros(size, np.float32)
    for place in places:
        found = run(place)
        if found is None:
            continue
        kept, (top, left) = place.kept, (place.crop.top, place.crop.left)
        part = found[kept.top - top : kept.bottom - top, kept.left - left : kept.right - left]
        total[kept.slices] += part
        count[kept.slices] += 1
    return total / np.maximum(count, 1), count
