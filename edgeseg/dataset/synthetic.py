"""`synthetic:`: streets drawn by `edgeseg.streets`; nothing to download, Cityscapes' 19 classes.

Settings follow the colon: `synthetic:size=512x1024,count=200,seed=3`. Splits are different streets:
no seed is in two of them. Tune is a split of its own.
"""

from __future__ import annotations

import numpy as np

from edgeseg.dataset.files import Frames
from edgeseg.errors import UsageError, guess
from edgeseg.frame import Size, format_size, parse_size
from edgeseg.labels import CLASS_TABLES
from edgeseg.streets import draw_street

SIZE = (256, 512)
SMALLEST = 64
COUNTS = {"train": 1000, "tune": 100, "val": 100, "test": 100}
LIMIT = 1_000_000
"""Frames in one split at most: the seeds of the next split begin there."""


def list_frames(settings: str, split: str) -> Frames:
    """The frames of one split, drawn when they are read."""
    size, count, seed = _parse(settings, COUNTS[split])
    first = (seed * len(COUNTS) + list(COUNTS).index(split)) * LIMIT
    names = tuple(f"street-{seed}-{split}-{i:06d}" for i in range(count))

    def read(index: int) -> tuple[np.ndarray, np.ndarray]:
        return draw_street(first + range(count)[index], size)

    return Frames(CLASS_TABLES["cityscapes19"], names, read)


def _parse(settings: str, count: int) -> tuple[Size, int, int]:
    size, seed = SIZE, 0
    for setting in settings.split(",") if settings else ():
        key, _, value = setting.partition("=")
        if key == "size":
            size = parse_size(value)
            if min(size) < SMALLEST:
                raise UsageError(
                    f"synthetic: size {format_size(size)} is too small; "
                    f"expected at least {SMALLEST}x{SMALLEST}"
                )
        elif key == "count":
            count = _whole(key, value, 1)
        elif key == "seed":
            seed = _whole(key, value, 0)
        else:
            raise UsageError(
                f"synthetic: unknown setting '{setting}'.{guess(key, ('size', 'count', 'seed'))} "
                "Write it as synthetic:size=512x1024,count=200,seed=3"
            )
    return size, count, seed


def _whole(key: str, value: str, low: int) -> int:
    if not value.isdecimal() or not low <= int(value) <= LIMIT:
        raise UsageError(
            f"synthetic: {key} is '{value}'; expected a whole number from {low} to {LIMIT}"
        )
    return int(value)
