"""What makes INT8 ranges useless, found before anybody trusts them: warned by name, or refused.

A warning is a sentence; what can only give a broken network is an error.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import onnx

from edgeseg.calibration.histogram import Histogram
from edgeseg.calibration.placement import Place
from edgeseg.dataset import Dataset, Sample
from edgeseg.errors import DataError, GraphError
from edgeseg.graph import initializers
from edgeseg.labels import ClassTable

FEW = 10
"""Fewer different frames than this are warned of."""
LEVELS = 127
CRUSHED = 99.0
"""Percent of a tensor's values that become 0 from which its range is warned of."""
NAMED = 5
"""Names that a sentence lists."""


def check_weights(model: onnx.ModelProto) -> None:
    """GraphError that names the first constant with nan or infinity, and the node that reads it."""
    for name, array in initializers(model).items():
        if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
            readers = [n.name for n in model.graph.node if name in n.input]
            bad = int(array.size - np.isfinite(array).sum())
            raise GraphError(
                f"weights '{name}' of '{', '.join(readers)}' hold {bad} values that are nan or "
                "infinite, of which no INT8 network can be made; train again from a checkpoint "
                "without them, or convert the weights again"
            )


def check_dead_weights(model: onnx.ModelProto, places: Sequence[Place]) -> list[str]:
    """Warnings of output channels whose weights are all 0: they say the same whatever is seen."""
    constants = initializers(model)
    warnings = []
    for place in places:
        weight = np.moveaxis(constants[place.weight], place.axis, 0)
        dead = np.flatnonzero(~weight.reshape(len(weight), -1).any(1))
        if len(dead):
            warnings.append(
                f"layer '{place.layer}': the weights of {len(dead)} of {len(weight)} output "
                f"channels are all 0 ({_listed([str(i) for i in dead])}); they are dead, and INT8 "
                "keeps them so"
            )
    return warnings


def check_dead_channels(magnitudes: Mapping[str, np.ndarray]) -> list[str]:
    """A warning of channels that hold nothing in any frame, of (C,) magnitudes by tensor.

    A tensor that is 0 as a whole is `check_ranges`' to name.
    """
    dead = {tensor: int((m == 0).sum()) for tensor, m in magnitudes.items() if m.any()}
    found = [f"{n} of {len(magnitudes[t])} in '{t}'" for t, n in dead.items() if n]
    if not found:
        return []
    return [
        f"{sum(dead.values())} channels are 0 in every calibration frame ({_listed(found)}); they "
        "are dead, or the frames show too little: what they hold later may be clipped"
    ]


class FramesCheck:
    """Watches samples while they pass: frames of one colour, repeated frames, classes not seen."""

    def __init__(self, classes: ClassTable) -> None:
        self._classes = classes
        self._blank: list[str] = []
        self._seen: set[int] = set()
        self._labels = np.zeros(256, bool)
        self._count = 0

    def watch(self, samples: Iterable[Sample]) -> Iterator[Sample]:
        """The same samples."""
        for sample in samples:
            self._count += 1
            if (sample.image == sample.image[:1, :1]).all():
                self._blank.append(sample.name)
            self._seen.add(zlib.crc32(np.ascontiguousarray(sample.image).data))
            self._labels[np.unique(sample.labels)] = True
            yield sample

    def finish(self, dataset: Dataset) -> list[str]:
        """Warnings once all frames have passed; DataError where no range can be had of them."""
        where = f"{dataset.source} ({dataset.split})"
        if not self._count:
            raise DataError(f"{where}: no calibration frames; give a data set with images")
        if len(self._blank) == self._count:
            raise DataError(
                f"{where}: all {self._count} calibration frames are of one colour, and ranges "
                f"measured on them fit no picture ({_listed(self._blank)}); give real frames"
            )
        return [*self._of_blank(where), *self._of_few(where), *self._of_classes(where)]

    def _of_blank(self, where: str) -> Iterator[str]:
        if self._blank:
            yield (
                f"{where}: {len(self._blank)} of {self._count} calibration frames are of one "
                f"colour and add nothing ({_listed(self._blank)}); leave them out"
            )

    def _of_few(self, where: str) -> Iterator[str]:
        different = len(self._seen)
        if different >= FEW:
            return
        frames = f"{different} frame{'s' * (different != 1)}"
        repeated = f", {self._count} with repetitions" if self._count > different else ""
        yield (
            f"{where}: ranges come from {frames} only{repeated}; what another scene holds beyond "
            f"them is clipped. Give at least {FEW} different ones, better 100"
        )

    def _of_classes(self, where: str) -> Iterator[str]:
        names = self._classes.names
        absent = [f"'{name}'" for i, name in enumerate(names) if not self._labels[i]]
        if absent and len(absent) < len(names):
            yield (
                f"{where}: {_listed(absent)} of '{self._classes.name}' "
                f"{'is' if len(absent) == 1 else 'are'} in none of the {self._count} calibration "
                "frames, and what only they excite is clipped; add frames with them"
            )


def check_ranges(
    histograms: Mapping[str, Histogram], ranges: Mapping[str, float], places: Sequence[Place]
) -> list[str]:
    """Warnings of tensors that INT8 can't tell apart: always 0, or nearly all rounded to 0."""
    readers: dict[str, list[str]] = {}
    for place in places:
        readers.setdefault(place.activation, []).append(place.layer)
    warnings = []
    for tensor, histogram in histograms.items():
        what = f"tensor '{tensor}' (read by {_listed(readers.get(tensor, []))})"
        if histogram.low == histogram.high == 0:
            warnings.append(
                f"{what} is 0 in every calibration frame, so it has no range and INT8 makes 0 of "
                "whatever it holds later; its channels are dead, or the frames are too few"
            )
            continue
        lost = share_lost(histogram, ranges[tensor])
        if lost >= CRUSHED:
            warnings.append(
                f"{what}: at its range of {ranges[tensor]:.4g}, {lost:.2f} % of its values become "
                "0; a few outliers set it. Take '--method percentile' or 'mse', or give other "
                "frames"
            )
    return warnings


def share_lost(histogram: Histogram, magnitude: float) -> float:
    """Percent of the values below half a level of a range, which become 0; exact zeros count too.

    A bin counts when all of it lies below.
    """
    centres, counts = histogram.magnitudes()
    half_a_bin = (centres[1] - centres[0]) / 2
    below = centres + half_a_bin <= magnitude / LEVELS / 2
    return 100.0 * float(counts[below].sum()) / max(int(counts.sum()), 1)


def _listed(names: Sequence[str]) -> str:
    """`a, b and 3 more`."""
    shown, more = names[:NAMED], len(names) - NAMED
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")
