"""The model folder: one network, its manifest, and the hash of every file.

A *checkpoint* folder holds `weights.safetensors`; a *network* folder holds the file that an engine
opens, and `gate/frames.npz`. `manifest.json` is the only place where class table, input size, fit,
channel order, mean, std and decode are written down.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgeseg.disk import write_json
from edgeseg.errors import BundleError, EdgesegError
from edgeseg.frame import FITS, ORDERS
from edgeseg.labels import ClassTable
from edgeseg.recipe import from_table

SCHEMA = 1
MANIFEST = "manifest.json"
GATE_FRAMES = "gate/frames.npz"
PRECISIONS = ("fp32", "fp16", "int8")
LEARNED = ("ranges.json", "float.onnx")
"""What QAT writes beside its graph: the ranges it learned, and the graph before training."""
WEIGHTED = ("deconvolution", "dupsample")
"""Decodes whose weight and bias lie in decode.npz."""
MASK_MIDDLE = 127.5
"""Mean and std of a mask from 0 to 255."""


@dataclass(frozen=True)
class ModelSpec:
    """Which builder makes the network: a name in `edgeseg.models.MODELS` and its options.

    Wrappers follow the name after a plus; their options are tables: {"q": 3, "dsrl": {...}}.
    `void_outputs` are outputs behind the classes, which no label may hold: export cuts them off.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    void_outputs: int = 0


@dataclass(frozen=True)
class InputSpec:
    """The network's input: uint8 (batch, height, width, channels).

    `mean` and `std` are in units of uint8 pixel values and in the order `order`: the network
    computes (pixel - mean) / std. `fill` is the colour around padded frames. With `mask` a fourth
    channel holds a coarse mask, 0 outside and 255 inside, which the network sees from -1 to 1.
    """

    order: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    fit: str = "pad"
    fill: tuple[int, int, int] = (0, 0, 0)
    size: tuple[int, int] | None = None
    batch: int = 1
    mask: bool = False

    def __post_init__(self) -> None:
        if self.order not in ORDERS:
            raise ValueError(f"order is '{self.order}'; expected one of {', '.join(ORDERS)}")
        if self.fit not in FITS:
            raise ValueError(f"fit is '{self.fit}'; expected one of {', '.join(FITS)}")
        if min(self.std) <= 0:
            raise ValueError(f"std is {list(self.std)}; expected positive numbers")
        if self.batch < 1:
            raise ValueError(f"batch is {self.batch}; expected 1 or more")

    @property
    def channels(self) -> int:
        """Of the input: the frame's three, and the mask."""
        return 4 if self.mask else 3

    @property
    def means(self) -> tuple[float, ...]:
        """Of all channels."""
        return (*self.mean, MASK_MIDDLE) if self.mask else self.mean

    @property
    def stds(self) -> tuple[float, ...]:
        """Of all channels."""
        return (*self.std, MASK_MIDDLE) if self.mask else self.std


@dataclass(frozen=True)
class OutputSpec:
    """The network's output.

    kind "labels": uint8 (batch, height, width) at 1/stride of the input.
    kind "scores": (batch, channels, height, width) float at 1/stride of the input; `decode` names
    the last linear upsampling, which makes it `factor` times larger: "bilinear" (half-pixel),
    "bilinear_corners" (corners on corners: pixel i of an axis of n cells reads position
    i (n - 1) / (factor n - 1)), or one of WEIGHTED: "deconvolution" (kernel `factor` x `factor`,
    same stride; weight and bias in decode.npz) and "dupsample" (the same arithmetic; the weight is
    the basis of label patches), or "pixel_shuffle" (r r channels of each class side by side).
    Labels are `scale` times as high and as wide as the input: 2 for super-resolution.
    """

    kind: str = "labels"
    stride: int = 1
    decode: str | None = None
    factor: int = 1
    scale: int = 1

    def __post_init__(self) -> None:
        if self.kind not in ("labels", "scores"):
            raise ValueError(f"output kind is '{self.kind}'; expected labels or scores")
        if (self.kind == "scores") != (self.decode is not None):
            raise ValueError("decode belongs to kind 'scores' and to no other")
        if self.scale < 1:
            raise ValueError(f"output scale is {self.scale}; expected 1 or more")


@dataclass(frozen=True)
class KernelsRecord:
    """The folder's CUDA kernels: `file`, compiled for a compute capability; or `why` there is none.

    Without them frames are prepared and labels decoded on the CPU.
    """

    file: str | None = None
    capability: str = ""
    compiler: str = ""
    source_sha256: str = ""
    why: str = ""


@dataclass(frozen=True)
class BuildRecord:
    """How TensorRT built the plan: what was asked, what it was built on, what was said.

    `options` differ from the defaults; `gpu_layers` counts, by type, what a DLA left to the GPU.
    """

    seconds: float
    layers: int
    warnings: int
    options: dict[str, Any] = field(default_factory=dict)
    cuda: str | None = None
    compute_capability: str | None = None
    jetpack: str | None = None
    gpu_layers: dict[str, int] | None = None
    timing_cache_sha256: str | None = None
    kernels: KernelsRecord | None = None


@dataclass(frozen=True)
class Target:
    """The engine library that the folder was built for, and where it was built.

    `plugin` is OpenVINO's name of what runs it: "CPU" (or None), "GPU", "NPU".
    """

    name: str
    version: str
    device: str
    build: BuildRecord | None = None
    plugin: str | None = None


@dataclass(frozen=True)
class WeightsSpec:
    """Where the weights come from: what they were trained on, licence, origin."""

    data: str = "unknown"
    licence: str = "unknown"
    source: str = "unknown"


@dataclass(frozen=True)
class Gate:
    """What the accuracy gate found: percent; `worst_class` lost `worst_class_drop` IoU.

    `why` says why it was not run.
    """

    state: str
    frames: int = 0
    source: str = ""
    against: str = ""
    agreement: float | None = None
    agreement_inside: float | None = None
    miou_float: float | None = None
    miou_engine: float | None = None
    worst_class: str | None = None
    worst_class_drop: float | None = None
    max_miou_drop: float | None = None
    max_class_drop: float | None = None
    why: str = ""

    def __post_init__(self) -> None:
        if self.state not in ("passed", "failed", "not run"):
            raise ValueError(f"gate state is '{self.state}'; expected passed, failed or not run")


@dataclass(frozen=True)
class Quantisation:
    """How the network became INT8: calibrator, placement, hashes that bind the range table."""

    method: str
    scheme: str
    frames: int
    frames_sha256: str
    network_sha256: str
    source: str
    float_layers: tuple[str, ...] = ()
    convolutions: int = 0
    float_why: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Manifest:
    """Everything that must travel with a network. `recipe` is the board's that it was made by."""

    kind: str
    name: str
    classes: dict[str, Any]
    input: InputSpec
    schema: int = SCHEMA
    model: ModelSpec | None = None
    output: OutputSpec = OutputSpec()
    precision: str = "fp32"
    target: Target | None = None
    quantisation: Quantisation | None = None
    gate: Gate | None = None
    params: int | None = None
    macs: int | None = None
    uncounted: dict[str, int] = field(default_factory=dict)
    weights: WeightsSpec = WeightsSpec()
    network_file: str | None = None
    recipe: str = ""
    history: tuple[str, ...] = ()
    files: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in ("checkpoint", "network"):
            raise ValueError(f"kind is '{self.kind}'; expected checkpoint or network")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision is '{self.precision}'; expected {', '.join(PRECISIONS)}")

    @property
    def table(self) -> ClassTable:
        """The class table."""
        return ClassTable.from_dict(self.classes)


@dataclass(frozen=True)
class Bundle:
    """A model folder that was read and checked."""

    folder: Path
    manifest: Manifest

    def path(self, name: str) -> Path:
        """The path of one of the folder's files."""
        if name not in self.manifest.files:
            raise BundleError(f"{self.folder}: the manifest lists no file '{name}'")
        return self.folder / name

    @property
    def network(self) -> Path:
        """The file that the engine opens."""
        if self.manifest.network_file is None:
            raise BundleError(
                f"{self.folder} is a checkpoint folder; an engine needs a folder made by "
                "'edgeseg export'"
            )
        return self.path(self.manifest.network_file)


def is_learned(manifest: Manifest) -> bool:
    """Whether a folder is one that QAT wrote: no engine that a gate must pass."""
    return manifest.kind == "network" and set(LEARNED) <= set(manifest.files)


def sha256(path: Path) -> str:
    """Hex digest of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_bundle(folder: Path, manifest: Manifest) -> Bundle:
    """Hash every file in `folder` and write `manifest.json`. Use inside `disk.writing_folder`."""
    files = {
        str(path.relative_to(folder).as_posix()): sha256(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }
    manifest = dataclasses.replace(manifest, files=files)
    write_json(folder / MANIFEST, dataclasses.asdict(manifest))
    return Bundle(folder, manifest)


def read_bundle(folder: Path) -> Bundle:
    """Read and check a model folder: manifest, schema, presence and hash of every file."""
    bundle = Bundle(folder, read_manifest(folder))
    for name, expected in bundle.manifest.files.items():
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()):
            raise BundleError(f"{folder}: the manifest lists '{name}', which is outside the folder")
        if not path.is_file():
            raise BundleError(
                f"{folder}: file '{name}' is missing; copy or export the folder again"
            )
        if sha256(path) != expected:
            raise BundleError(
                f"{folder}: file '{name}' was changed after export (its sha256 differs from the "
                "manifest); copy or export the folder again"
            )
    return bundle


def read_manifest(folder: Path) -> Manifest:
    """Read `manifest.json` without looking at the other files."""
    path = folder / MANIFEST
    if folder.is_file():
        raise BundleError(f"{folder} is a file; give the model folder, such as {folder.parent}")
    if not folder.is_dir():
        raise BundleError(f"{folder}: no such model folder")
    if not path.is_file():
        raise BundleError(
            f"{folder} is no model folder: it has no {MANIFEST}. "
            "'edgeseg convert', 'train' and 'export' write model folders"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise BundleError(f"{path}: is not valid JSON ({error}); copy the folder again") from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        found = content.get("schema") if isinstance(content, dict) else None
        raise BundleError(
            f"{path}: schema is {found!r}; this edgeseg reads schema {SCHEMA}. Export it again"
        )
    try:
        manifest = from_table(Manifest, content, str(path))
        _ = manifest.table
    except (EdgesegError, KeyError, TypeError, IndexError, ValueError) as error:
        raise BundleError(f"{path}: manifest is damaged: {error}") from error
    return manifest
