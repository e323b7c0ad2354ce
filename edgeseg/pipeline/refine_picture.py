"""What refining changed: coarse labels, refined ones and the truth of three frames."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np

from edgeseg.disk import writing_file
from edgeseg.metrics import ConfusionMatrix
from edgeseg.picture import contact_sheet, encode_jpeg, legend, overlay, stack
from edgeseg.pipeline.refine import Coarse, Source, Tally
from edgeseg.runtime.refiner import Refiner

OPACITY = 0.55
QUALITY = 45
"""Of the JPEG, which is kept in the repository."""


def choose(tally: Tally) -> list[tuple[str, int]]:
    """Title and index of the frames that gained most, gained the median, and gained least."""
    gains = np.array([_miou(a) - _miou(b) for a, b in zip(tally.after, tally.before, strict=True)])
    order = np.argsort(np.nan_to_num(gains), kind="stable")
    named = {"most": order[-1], "median": order[len(order) // 2], "least": order[0]}
    return [(f"{word} gained, {gains[i]:+.1f} mIoU", int(i)) for word, i in named.items()]


def draw(
    refiner: Refiner,
    source: Source,
    coarse: Coarse,
    tally: Tally,
    chosen: Collection[int] | None = None,
) -> np.ndarray:
    """(H, W, 3) uint8 RGB: a row for each of `choose`'s frames, and the legend."""
    tiles = []
    for title, index in choose(tally):
        item = source.read(index)
        labels = coarse(source.names[index], item.image)
        finer = refiner.labels(item.image, labels, chosen)
        for word, shown in (("coarse", labels), ("refined", finer), ("truth", item.truth)):
            assert shown is not None  # frames that were scored have their truth
            head = f"{word}: {title}" if word == "refined" else word
            tiles.append((head, overlay(item.image, shown, source.classes, OPACITY)))
    sheet = contact_sheet(tiles, 3)
    return stack([sheet, legend(source.classes, width=sheet.shape[1])])


def save(path: Path, image: np.ndarray) -> None:
    """Write the picture as JPEG whole or not at all."""
    with writing_file(path) as aside:
        aside.write_bytes(encode_jpeg(image, QUALITY))


def _miou(counts: np.ndarray) -> float:
    matrix = ConfusionMatrix(len(counts))
    matrix.counts = counts
    return matrix.miou()
