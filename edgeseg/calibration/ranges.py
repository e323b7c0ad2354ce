"""The range table: the largest magnitude of each quantised tensor, bound to its origin."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from edgeseg.bundle import InputSpec
from edgeseg.calibration.bias import Offsets
from edgeseg.calibration.rescale import Factors
from edgeseg.disk import write_json
from edgeseg.errors import BundleError, EdgesegError
from edgeseg.recipe import from_table

SCHEMA = 3


@dataclass(frozen=True)
class RangeTable:
    """`ranges` holds magnitudes by tensor name; the hashes say for which network and frames.

    `factors` are what the channels of a tensor are divided by before (calibration/rescale.py),
    by tensor; `offsets` what INT8 adds to the means of a layer's outputs (calibration/bias.py).
    """

    method: str
    network_sha256: str
    preprocessing_sha256: str
    frames_sha256: str
    frames: int
    source: str
    ranges: dict[str, float]
    factors: Factors = field(default_factory=dict)
    offsets: Offsets = field(default_factory=dict)
    schema: int = SCHEMA

    def check(self, network: str, preprocessing: str, where: str) -> None:
        """BundleError that names what changed unless both hashes are those of the table."""
        self.check_preprocessing(preprocessing, where)
        _same("network", "weights, output or size", self.network_sha256, network, where)

    def check_preprocessing(self, preprocessing: str, where: str) -> None:
        """The half of `check` that needs no graph."""
        parts = "size, fit, channel order, mean, std or fill"
        _same("preprocessing", parts, self.preprocessing_sha256, preprocessing, where)


def _same(what: str, parts: str, own: str, other: str, where: str) -> None:
    if own != other:
        raise BundleError(
            f"{where}: the range table was made for another {what}: {parts} changed "
            f"({own[:12]}..., now {other[:12]}...); run 'edgeseg calibrate' again"
        )


class FramesDigest:
    """Hashes frames while they pass, whatever their order, and keeps the first few by hash."""

    def __init__(self, keep: int = 0) -> None:
        self._digests: list[bytes] = []
        self._keep = keep
        self._kept: dict[bytes, np.ndarray] = {}

    def watch(self, images: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """The same images."""
        for image in images:
            digest = hashlib.sha256(np.ascontiguousarray(image).tobytes()).digest()
            self._digests.append(digest)
            self._kept[digest] = image
            while len(self._kept) > self._keep:
                del self._kept[max(self._kept)]
            yield image

    def __len__(self) -> int:
        return len(self._digests)

    def hexdigest(self) -> str:
        """sha256 of the sorted digests."""
        return hashlib.sha256(b"".join(sorted(self._digests))).hexdigest()

    def kept(self) -> list[np.ndarray]:
        """The `keep` images with the smallest hashes, in the order of those."""
        return [self._kept[digest] for digest in sorted(self._kept)]


def network_sha256(model: onnx.ModelProto) -> str:
    """Hash of the graph: nodes, constants and opset, not of who wrote it."""
    digest = hashlib.sha256()
    for part in (*model.opset_import, *model.graph.node, *model.graph.initializer):
        digest.update(part.SerializeToString(deterministic=True))
    return digest.hexdigest()


def preprocessing_sha256(spec: InputSpec) -> str:
    """Hash of size, fit, order, mean, std, fill and whether there is a mask; not of the batch."""
    content = dataclasses.asdict(dataclasses.replace(spec, batch=1))
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def write_table(path: Path, table: RangeTable) -> None:
    """Write the table as JSON."""
    write_json(path, dataclasses.asdict(table))


def read_table(path: Path) -> RangeTable:
    """Read a table; BundleError when it is damaged or of another schema."""
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BundleError(f"{path}: no such range table") from None
    except (json.JSONDecodeError, UnicodeDecodeError, IsADirectoryError) as error:
        raise BundleError(f"{path}: is no range table ({error})") from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise BundleError(f"{path}: is no range table of schema {SCHEMA}; calibrate again")
    try:
        table = from_table(RangeTable, content, str(path))
    except EdgesegError as error:
        raise BundleError(f"{error}; calibrate again") from error
    _check_numbers(table, path)
    return table


def _check_numbers(table: RangeTable, path: Path) -> None:
    bad = [k for k, v in table.ranges.items() if not (np.isfinite(v) and v >= 0)]
    if bad:
        raise BundleError(f"{path}: range of '{bad[0]}' is {table.ranges[bad[0]]}; calibrate again")
    for what, numbers, good in (
        ("factors", table.factors, lambda v: np.isfinite(v) & (v > 0)),
        ("offsets", table.offsets, np.isfinite),
    ):
        for key, values in numbers.items():
            if not np.all(good(np.asarray(values))):
                raise BundleError(
                    f"{path}: {what} of '{key}' are no usable numbers; calibrate again"
                )
