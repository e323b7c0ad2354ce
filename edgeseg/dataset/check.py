"""What a data set holds, counted; and everything that is wrong with it, not only the first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeseg.dataset.files import Frames
from edgeseg.errors import DataError
from edgeseg.frame import format_size
from edgeseg.labels import IGNORE, ClassTable, ImageClasses

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Contents:
    """Counts over all frames that could be read.

    `pixels` (256,) int64 by label id, `frames` (256,) int64: in how many frames the id occurs,
    `sizes` (height, width) -> frames, `problems` one line each. Where labels are those of whole
    images, an image counts as one pixel, and there may be more than 256 ids.
    """

    classes: ClassTable
    pixels: np.ndarray
    frames: np.ndarray
    sizes: Counter[tuple[int, int]]
    problems: tuple[str, ...]

    @property
    def read(self) -> int:
        """Frames that could be read."""
        return sum(self.sizes.values())

    def share(self, label: int) -> float:
        """Pixels with that label in percent of all pixels."""
        return 100.0 * float(self.pixels[label]) / max(int(self.pixels.sum()), 1)

    @property
    def whole(self) -> bool:
        """Whether a label is that of a whole image."""
        return isinstance(self.classes, ImageClasses)

    def to_dict(self) -> dict[str, Any]:
        """The form for `--json`."""
        found: dict[str, Any] = {
            "frames": self.read,
            "sizes": {format_size(size): count for size, count in self.sizes.most_common()},
            "table": self.classes.name,
            "problems": list(self.problems),
        }
        names = self.classes.names
        if self.whole:
            images = [{"name": n, "images": int(self.frames[i])} for i, n in enumerate(names)]
            return {**found, "classes": images}
        return {
            **found,
            "classes": [
                {"name": name, "pixels_percent": self.share(i), "frames": int(self.frames[i])}
                for i, name in enumerate(names)
            ],
            "void": {"pixels_percent": self.share(IGNORE), "frames": int(self.frames[IGNORE])},
        }


def count_contents(frames: Frames, progress: Progress | None = None) -> Contents:
    """Read every frame; what can't be read becomes a problem."""
    ids = max(256, len(frames.classes))
    pixels, seen = np.zeros(ids, np.int64), np.zeros(ids, np.int64)
    sizes: Counter[tuple[int, int]] = Counter()
    problems = list(frames.problems)
    for i in range(len(frames.names)):
        try:
            image, labels = frames.read(i)
        except DataError as error:
            problems.append(str(error))
        else:
            counts = np.bincount(labels.ravel(), minlength=ids)
            pixels += counts
            seen += counts > 0
            sizes[image.shape[0], image.shape[1]] += 1
        if progress:
            progress(i + 1, len(frames.names))
    return Contents(frames.classes, pixels, seen, sizes, tuple(problems))
