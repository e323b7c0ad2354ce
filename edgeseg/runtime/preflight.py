"""What this machine can run, and what is missing: nothing is installed, nothing is guessed."""

from __future__ import annotations

import ctypes.util
import importlib.util
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from time import perf_counter

import numpy as np

from edgeseg.bundle import Bundle, Manifest, read_bundle
from edgeseg.errors import BundleError, EdgesegError
from edgeseg.runtime.board import read_board, read_memory
from edgeseg.runtime.engine import ENGINES, NEEDS_TOO, NO_DRIVER
from edgeseg.runtime.gpu import find_gpu
from edgeseg.runtime.obstacles import GRAPH, ON_GPU, Here, Obstacle, obstacles
from edgeseg.runtime.refiner import load_refiner
from edgeseg.runtime.segmenter import load

IMPORT_SECONDS = 120


@dataclass(frozen=True)
class Part:
    """Something that edgeseg can use: what it serves, its modules, and the extra that brings it."""

    name: str
    serves: str
    modules: tuple[str, ...]
    extra: str | None = None
    gpu: bool = False
    by_hand: str = ""

    @property
    def install(self) -> str:
        """What to type."""
        if self.by_hand:
            return self.by_hand
        if self.extra is None:
            return "it comes with JetPack or NVIDIA's apt repository; no edgeseg extra brings it"
        return f"pip install 'edgeseg[{self.extra}]'"


_TORCH = ("torch", "safetensors")
_EXPORT = ("torch", "onnx", "onnxscript", "onnxslim", "safetensors", "fvcore")
# fmt: off
PARTS = (
    #    name            serves              modules            extra
    Part("onnxruntime",  "engine",           ("onnxruntime",),  "onnxruntime"),
    Part("openvino",     "engine",           ("openvino",),     "openvino"),
    Part("torch",        "engine, training", _TORCH,            "train"),
    Part("tensorrt",     "engine",           ("tensorrt",),     None, gpu=True),
    Part("tensorrt-rtx", "engine",           ("tensorrt_rtx",), "tensorrt-rtx", gpu=True),
    Part("pycuda",       "tensorrt engines", ("pycuda",),       None, True, NEEDS_TOO["pycuda"]),
    Part("video",        "edgeseg run",      ("av",),           "video"),
    Part("export",       "edgeseg export",   _EXPORT,           "export"),
)
# fmt: on

IMPORTS = {"pycuda": "pycuda.driver"}
"""Module -> what of it is imported to see whether it works."""

DISTRIBUTIONS = {"tensorrt_rtx": "tensorrt-rtx"}
STATES = {
    "ready": "can be used here",
    "missing": "not installed",
    "broken": "installed, but it can't be imported",
    "no GPU": "installed, but this machine has no NVIDIA GPU",
    "no engine": "installed, but this edgeseg has no engine for it",
}


@dataclass(frozen=True)
class Finding:
    """What was found of one part: a key of STATES, versions, why not, what to do."""

    name: str
    serves: str
    state: str
    versions: dict[str, str]
    why: str = ""
    advice: str = ""


def examine(
    part: Part, can_import: Callable[[str], str], gpu: Callable[[], bool] | None = None
) -> Finding:
    """Look for one part; `can_import(module)` says why not, or nothing."""
    missing = [m for m in part.modules if importlib.util.find_spec(m) is None]
    versions = {m: version(m) for m in part.modules if m not in missing}

    def found(state: str, why: str = "", advice: str = "") -> Finding:
        return Finding(part.name, part.serves, state, versions, why, advice)

    if missing:
        return found("missing", f"no {', '.join(missing)}", part.install)
    for module in part.modules:
        if why := can_import(IMPORTS.get(module, module)):
            if part.gpu and NO_DRIVER in why:
                break
            return found("broken", f"{module}: {why}", f"install it again: {part.install}")
    if part.gpu and not (gpu or has_gpu)():
        return found("no GPU", "no NVIDIA driver was found", "run it on a machine with one")
    if part.serves.startswith("engine") and part.name not in ENGINES:
        return found("no engine", f"edgeseg opens {', '.join(ENGINES)}", "take another target")
    return found("ready")


def version(module: str) -> str:
    """The installed version of a module, without importing it; "system" where pip knows none."""
    try:
        return metadata.version(DISTRIBUTIONS.get(module, module))
    except metadata.PackageNotFoundError:
        owners = metadata.packages_distributions().get(module, [])
        return metadata.version(owners[0]) if owners else "system"


def import_apart(module: str) -> str:
    """Import a module in a process of its own; why it failed (a crash too), or nothing."""
    try:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", f"import {module}"],
            capture_output=True,
            text=True,
            timeout=IMPORT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"took more than {IMPORT_SECONDS} s"
    if done.returncode < 0:
        return f"crashed with signal {-done.returncode} (a build for another CPU?)"
    lines = done.stderr.strip().splitlines()
    return (lines[-1] if lines else f"exit code {done.returncode}") if done.returncode else ""


def has_gpu() -> bool:
    """An NVIDIA driver is loaded (PC, server or Jetson) and its library is there."""
    devices = ("/dev/nvidia0", "/dev/nvhost-gpu", "/dev/nvgpu/igpu0")
    return any(Path(d).exists() for d in devices) and bool(ctypes.util.find_library("cuda"))


@dataclass(frozen=True)
class Trial:
    """Whether a folder runs here: `why` not, else milliseconds to open it and for one frame.

    `prepare` and `decode` are what a Segmenter calls those that run before and behind the engine.
    """

    runs: bool
    engine: str = ""
    why: str = ""
    notes: tuple[str, ...] = ()
    load_ms: float | None = None
    frame_ms: float | None = None
    obstacles: tuple[Obstacle, ...] = ()
    prepare: str = ""
    decode: str = ""


def look_around(root: Path = Path("/")) -> Here:
    """What an engine folder finds on this machine."""
    board = read_board(root)
    driver = has_gpu()
    return Here(installed, driver, find_gpu() if driver else None, board, available_mib(root))


def installed(module: str) -> str | None:
    """The version of a module that can be imported by name; None without it."""
    return None if importlib.util.find_spec(module) is None else version(module)


def available_mib(root: Path = Path("/")) -> int | None:
    """MiB that programs may still take; None where the system does not tell."""
    return read_memory(root).get("MemAvailable")


def try_folder(folder: Path, here: Here | None = None) -> Trial:
    """Open an engine folder and run one black frame through it, unless that can't work."""
    here = here or look_around()
    try:
        bundle = read_bundle(folder)
        if bundle.manifest.target is None:
            raise BundleError(
                f"{folder} is a model without an engine; build one with 'edgeseg export {folder}'"
            )
        in_the_way = obstacles(folder, bundle.manifest, here)
        if in_the_way:
            return Trial(False, why="; ".join(o.why for o in in_the_way), obstacles=in_the_way)
        size, order = bundle.manifest.input.size or (256, 512), bundle.manifest.input.order
        frame = np.zeros((*size, 3), np.uint8)
        start = perf_counter()
        if bundle.manifest.input.mask:
            with load_refiner(folder, frames=order, allow_ungated=True) as refiner:
                loaded = perf_counter()
                refiner.mask(frame, frame[..., 0] > 0)
                ran, version, around = perf_counter(), refiner.engine.version, ("numpy", "numpy")
        else:
            with load(folder, frames=order, allow_ungated=True) as segmenter:
                loaded = perf_counter()
                segmenter.segment(frame)
                ran, version = perf_counter(), segmenter.engine.version
                around = segmenter.prepare_name, segmenter.decode_name
        engine = f"{bundle.manifest.target.name} {version}"
        notes = _notes(bundle, version, here)
    except EdgesegError as error:
        return Trial(False, why=str(error))
    why = _ungated(bundle.manifest)
    times = round((loaded - start) * 1e3, 3), round((ran - loaded) * 1e3, 3)
    return Trial(not why, engine, why, notes, *times, prepare=around[0], decode=around[1])


def _notes(bundle: Bundle, here: str, machine: Here) -> tuple[str, ...]:
    target = bundle.manifest.target
    notes = []
    if bundle.manifest.kind == "checkpoint":
        return ("it is a checkpoint, run by torch; 'edgeseg export' builds an engine of it",)
    if target is not None and target.version != here:
        notes.append(
            f"built and gated with {target.name} {target.version}, this machine has {here}: "
            "gate it again here with 'edgeseg export' to be sure"
        )
    on_cpu = target is not None and target.name not in ON_GPU and GRAPH in bundle.manifest.files
    if machine.board is not None and on_cpu:
        notes.append(
            f"it runs on the board's CPU; 'edgeseg build {bundle.folder}' makes an engine for its "
            "GPU"
        )
    return tuple(notes)


def _ungated(manifest: Manifest) -> str:
    state = manifest.gate.state if manifest.gate else "not run"
    if manifest.kind == "checkpoint" or state == "passed":
        return ""
    return (
        f"it opens and runs, but its accuracy gate is '{state}', so edgeseg.load refuses it; "
        "gate it with 'edgeseg export' where the engine can run, or load with allow_ungated=True"
    )
