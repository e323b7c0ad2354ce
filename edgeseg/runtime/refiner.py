"""`load_refiner(folder, frames="bgr")` -> `EngineRefiner`; `labels(frame, labels)` -> finer labels.

Cheng et al. 2020 (CascadePSP), their extension to scene parsing: classes are refined one after the
other and put together as in the authors' code: a pixel takes the class whose refined mask is surest
of it, if that is more than 0.5; where no mask is, it keeps the label it had. So labels only change
where a class claims them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from os import PathLike
from pathlib import Path
from time import perf_counter
from types import TracebackType

import numpy as np

from edgeseg.bundle import Bundle
from edgeseg.errors import BundleError, DataError, EngineError
from edgeseg.frame import (
    Box,
    Size,
    check_frame,
    check_order,
    format_size,
    place,
    prepare,
    resize_map,
)
from edgeseg.labels import IGNORE
from edgeseg.runtime.decode_numpy import floats
from edgeseg.runtime.engine import Engine, EngineOptions
from edgeseg.runtime.segmenter import Stages, check_batch, open_bundle, read_gated

MARGIN = 0.25
"""Of a mask's height and width, on each side of it, is looked at with it (the authors' code)."""
LEAST_MARGIN = 32
"""Pixels of that at least: a small mask needs some surroundings."""


class Refiner(ABC):
    """Coarse labels of a frame -> finer ones, by whatever makes a finer mask of a coarse one."""

    least: Size = (0, 0)
    """What is looked at around a mask is at least so large, if the frame is."""

    @abstractmethod
    def mask(self, image: np.ndarray, inside: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8, (H, W) bool -> (H, W) float32, how likely each pixel is inside."""

    def labels(
        self, image: np.ndarray, labels: np.ndarray, classes: Collection[int] | None = None
    ) -> np.ndarray:
        """(H, W, 3) uint8, (H, W) uint8 -> (H, W) uint8, finer; IGNORE stays where it is.

        Of the classes that occur only those in `classes` (None: all) are refined. A class that is
        not refined loses pixels to one that is, and gains none.
        """
        check_frame(image)
        if labels.shape != image.shape[:2]:
            have = (labels.shape[0], labels.shape[1])
            raise DataError(
                f"labels are {format_size(have)}, their frame is "
                f"{format_size((image.shape[0], image.shape[1]))}; both must be of one size"
            )
        sure = np.full(labels.shape, 0.5, np.float32)
        finer: np.ndarray = labels.copy()
        known = labels != IGNORE
        for index in np.unique(labels[known]).tolist():
            if classes is not None and index not in classes:
                continue
            box, found = self._around(image, labels == index)
            part = box.slices
            better = (found > sure[part]) & known[part]
            finer[part][better] = index
            sure[part][better] = found[better]
        return finer

    def _around(self, image: np.ndarray, inside: np.ndarray) -> tuple[Box, np.ndarray]:
        """The box around a mask with its margin, and the refined mask there."""
        (top, bottom), (left, right) = (
            _widened(np.flatnonzero(inside.any(axis)), inside.shape[1 - axis], least)
            for axis, least in zip((1, 0), self.least, strict=True)
        )
        box = Box(top, left, bottom, right)
        return box, self.mask(image[box.slices], inside[box.slices])


class EngineRefiner(Refiner):
    """An engine folder of a refiner. Safe to call from several threads; use it in a `with`.

    The network's size is fixed. What is looked at is that large a part of the frame, as it is;
    around a mask that is larger, the part is scaled down, as the runtime prepares frames.
    """

    def __init__(self, engine: Engine, bundle: Bundle, *, frames: str) -> None:
        check_batch(bundle)
        size = bundle.manifest.input.size
        assert size is not None  # of an exported network
        self._engine: Engine | None = engine
        self.bundle = bundle
        self.input = bundle.manifest.input
        self.least = size
        self._swap = check_order(frames) != self.input.order

    def __enter__(self) -> EngineRefiner:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def engine(self) -> Engine:
        """The engine; EngineError once the refiner is closed."""
        if self._engine is None:
            raise EngineError("this refiner is closed; open the folder again with load_refiner")
        return self._engine

    def close(self) -> None:
        """Release the engine. A closed refiner refuses frames; closing twice is fine."""
        self._engine = None

    def mask(self, image: np.ndarray, inside: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8, (H, W) bool -> (H, W) float32, how likely each pixel is inside.

        Pixels that a cropping fit cuts off stay as sure as they were: 0 or 1.
        """
        return self.timed(image, inside)[0]

    def timed(self, image: np.ndarray, inside: np.ndarray) -> tuple[np.ndarray, Stages]:
        """`mask`, and how long each stage took."""
        start = perf_counter()
        pixels = np.concatenate([image, inside[..., None] * np.uint8(255)], 2)
        placement = place((inside.shape[0], inside.shape[1]), self.least, self.input.fit)
        given = prepare(pixels, placement, swap=self._swap, fill=self.input.fill)
        prepared = perf_counter()
        scores = self.engine.infer(given[None])[0]
        inferred = perf_counter()
        found = likely(floats(scores))[placement.target.slices]
        whole = inside.astype(np.float32)
        whole[placement.source.slices] = resize_map(found, placement.source.size)
        took = (prepared - start, inferred - prepared, perf_counter() - inferred)
        return whole, Stages(*(1e3 * seconds for seconds in took))

    @property
    def prepare_name(self) -> str:
        """For reports: what prepares frames."""
        return "numpy"

    @property
    def decode_name(self) -> str:
        """For reports: what makes masks of scores."""
        return "softmax: numpy"


def likely(scores: np.ndarray) -> np.ndarray:
    """(2, h, w) scores of outside and inside -> (h, w), the softmax of inside."""
    return np.asarray(0.5 + 0.5 * np.tanh((scores[1] - scores[0]) / 2), np.float32)


def load_refiner(
    folder: str | PathLike[str],
    *,
    frames: str,
    threads: int | None = None,
    inference_precision: str | None = None,
    allow_ungated: bool = False,
) -> EngineRefiner:
    """Open the engine folder of a refiner for frames with colours in the order `frames`.

    That is "rgb" or "bgr". Raises BundleError for a folder that is damaged, that did not pass the
    accuracy gate (unless `allow_ungated`) or that refines no masks; EngineError when the engine's
    library is missing.
    """
    check_order(frames)
    bundle = read_gated(Path(folder), allow_ungated=allow_ungated)
    if not bundle.manifest.input.mask:
        raise BundleError(no_refiner(Path(folder), bundle.manifest.name))
    check_batch(bundle)  # before the engine takes memory
    return EngineRefiner(
        open_bundle(bundle, EngineOptions(threads, inference_precision)), bundle, frames=frames
    )


def no_refiner(folder: Path, name: str) -> str:
    """What is said of a folder with another network."""
    return (
        f"{folder} holds '{name}', which refines no masks. 'edgeseg models' "
        "lists a refiner that does; to train one: "
        "edgeseg train benchmarks/suites/refine_camvid.toml --out DIR"
    )


def _widened(seen: np.ndarray, length: int, least: int) -> tuple[int, int]:
    """From the first to behind the last index of `seen` with its margin, and at least `least`."""
    start, stop = int(seen[0]), int(seen[-1]) + 1
    margin = max(LEAST_MARGIN, round(MARGIN * (stop - start)))
    start, stop = max(0, start - margin), min(length, stop + margin)
    missing = least - (stop - start)
    if missing > 0:
        start = max(0, min(start - missing // 2, length - least))
        stop = min(length, start + least)
    return start, stop
