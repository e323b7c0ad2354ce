"""The range table: the largest magnitude of each quantised tensor, bound to its origin."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from edgeseg.bundle import InputSpec
from edgeseg.calibration.calibrators import method as find_method
from edgeseg.calibration.histogram import Histogram
from edgeseg.disk import write_json
from edgeseg.errors import BundleError, EdgesegError
from edgeseg.recipe import from_table

SCHEMA = 1


@dataclass(frozen=True)
class RangeTable:
    """`ranges` holds magnitudes by tensor name; the hashes say for which network and frames."""

    method: str
    network_sha256: str
    preprocessing_sha256: str
    frames_sha256: str
    frames: int
    source: str
    ranges: dict[str, float]
    schema: int = SCHEMA

    def check(self, network: str, preprocessing: str, where: str) -> None:
        """BundleError that names what changed unless both hashes are those of the table."""
        for what, own, other in (
            ("network", self.network_sha256, network),
            ("preprocessing", self.preprocessing_sha256, preprocessing),
        ):
            if own != other:
                raise BundleError(
                    f"{where}: the range table was made for another {what} ({own[:12]}..., now "
                    f"{other[:12]}...); run 'edgeseg calibrate' again"
                )


class FramesDigest:
    """Hashes frames while they pass, independent of their order."""

    def __init__(self) -> None:
        self._digests: list[bytes] = []

    def watch(self, images: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """The same images."""
        for image in images:
            self._digests.append(hashlib.sha256(np.ascontiguousarray(image).tobytes()).digest())
            yield image

    def __len__(self) -> int:
        return len(self._digests)

    def hexdigest(self) -> str:
        """sha256 of the sorted digests."""
        return hashlib.sha256(b"".join(sorted(self._digests))).hexdigest()


def make_table(
    histograms: Mapping[str, Histogram],
    method: str,
    *,
    model: onnx.ModelProto,
    spec: InputSpec,
    frames: FramesDigest,
    source: str,
) -> RangeTable:
    """Histograms -> ranges by the calibrator named `method`."""
    calibrator = find_method(method)
    return RangeTable(
        method,
        network_sha256(model),
        preprocessing_sha256(spec),
        frames.hexdigest(),
        len(frames),
        source,
        {name: calibrator(histogram) for name, histogram in histograms.items()},
    )


def network_sha256(model: onnx.ModelProto) -> str:
    """Hash of the graph: nodes, constants and opset, not of who wrote it."""
    digest = hashlib.sha256()
    for part in (*model.opset_import, *model.graph.node, *model.graph.initializer):
        digest.update(part.SerializeToString(deterministic=True))
    return digest.hexdigest()


def preprocessing_sha256(spec: InputSpec) -> str:
    """Hash of size, fit, order, mean, std and fill; the batch does not matter."""
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
    bad = [k for k, v in table.ranges.items() if not (np.isfinite(v) and v >= 0)]
    if bad:
        raise BundleError(f"{path}: range of '{bad[0]}' is {table.ranges[bad[0]]}; calibrate again")
    return table
