"""Why an engine folder would not load here, and what to do: said before anything is opened."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from edgeseg.bundle import BuildRecord, Manifest, Target
from edgeseg.runtime.board import Board
from edgeseg.runtime.engine import NEEDS, NEEDS_TOO
from edgeseg.runtime.gpu import Gpu

ON_GPU = ("tensorrt", "tensorrt-rtx")
"""Targets whose plan runs on an NVIDIA GPU."""

GRAPH = "network.onnx"
MIB = 1 << 20

# fmt: off
OPENING_MIB = {
    # beside three times the file: what library and driver take, about
    True:  400,   # CUDA and TensorRT
    False: 100,   # an engine of the CPU
}
# fmt: on


@dataclass(frozen=True)
class Obstacle:
    """One reason why a folder does not load, and the way out."""

    why: str
    advice: str


@dataclass(frozen=True)
class Here:
    """What a folder finds on this machine; `library(module)` is its version or None."""

    library: Callable[[str], str | None]
    driver: bool
    gpu: Gpu | None
    board: Board | None
    available_mib: int | None


def obstacles(folder: Path, manifest: Manifest, here: Here) -> tuple[Obstacle, ...]:
    """Every reason at once; none for a folder that is worth opening."""
    target = manifest.target
    if target is None:
        return ()
    found: list[Obstacle] = []
    if here.board is not None and here.board.refused:
        found.append(Obstacle(here.board.refused, "its desktop or another board runs the folder"))
    if target.name in ON_GPU:
        found += _of_libraries(target.name, here)
        found += _of_gpu(folder, manifest, target, here)
        found += _of_version(folder, manifest, target, here)
    return (*found, *_of_memory(folder, manifest, target, here))


def rebuild(folder: Path, manifest: Manifest, target: str) -> str:
    """What to type so that the plan fits this machine."""
    flag = "" if target == "tensorrt" else f" --target {target}"
    if GRAPH in manifest.files:
        return f"type here 'edgeseg build {folder}{flag}': the folder holds its graph"
    return (
        "the folder holds no graph to build from: export it again with --target onnxruntime, copy "
        f"it here and type 'edgeseg build FOLDER{flag}'"
    )


def _of_libraries(target: str, here: Here) -> Iterator[Obstacle]:
    module, install = NEEDS[target]
    if here.library(module) is None:
        packaged = here.board.tensorrt if here.board and target == "tensorrt" else None
        if packaged:
            yield Obstacle(
                f"TensorRT {packaged} is on this board, and this Python has no module '{module}'",
                "sudo apt-get install python3-libnvinfer, and make the environment with "
                "python3 -m venv --system-site-packages, so that it sees the system's modules",
            )
        else:
            yield Obstacle(f"the Python module '{module}' is missing", install)
    if here.library("pycuda") is None:
        yield Obstacle("the Python module 'pycuda' is missing", NEEDS_TOO["pycuda"])
    if not here.driver:
        yield Obstacle(
            "no NVIDIA driver was found: neither a device under /dev nor its library, libcuda",
            "run it on a machine with one; in a container, start it with --runtime nvidia",
        )


def _of_gpu(folder: Path, manifest: Manifest, target: Target, here: Here) -> Iterator[Obstacle]:
    build = target.build
    built = build.compute_capability if build else None
    name, found = _gpu_of(here)
    if build is None or built is None or found is None:
        return
    level = build.options.get("hardware_compatible")
    if level == "ampere+":
        fits = numbers(found) >= (8, 0)
    else:
        fits = numbers(found) == numbers(built)
        if level is None and here.gpu is not None:
            fits = fits and here.gpu.name == target.device
    if not fits:
        yield Obstacle(
            f"it was built for {target.device} (compute capability {built}), and this GPU is "
            f"{name} ({found})",
            rebuild(folder, manifest, target.name),
        )


def _gpu_of(here: Here) -> tuple[str, str | None]:
    """Name and compute capability: of the driver, else what belongs to the board's module."""
    if here.gpu is not None:
        return here.gpu.name, here.gpu.compute_capability
    if here.board is not None:
        return here.board.gpu or "unknown", here.board.compute_capability
    return "unknown", None


def _of_version(folder: Path, manifest: Manifest, target: Target, here: Here) -> Iterator[Obstacle]:
    version = here.library(NEEDS[target.name][0])
    if version == "system" and here.board is not None:  # no pip knows it; its package does
        version = here.board.tensorrt
    if not version or not re.match(r"\d", version):
        return
    built, found = numbers(target.version)[:3], numbers(version)[:3]
    asked = (target.build or BuildRecord(0, 0, 0)).options
    later = bool(asked.get("version_compatible")) and found >= built
    if built != found and not later:
        advice = rebuild(folder, manifest, target.name)
        if target.name == "tensorrt":
            advice += " (a plan built with --version-compatible runs on later releases too)"
        yield Obstacle(
            f"it was built by {target.name} {target.version}, and this machine has {version}; a "
            "plan runs on the release that built it",
            advice,
        )


def _of_memory(folder: Path, manifest: Manifest, target: Target, here: Here) -> Iterator[Obstacle]:
    path = folder / (manifest.network_file or "")
    if here.available_mib is None or not path.is_file():
        return
    size = path.stat().st_size / MIB
    needed = round(3 * size) + OPENING_MIB[target.name in ON_GPU]
    if here.available_mib < needed:
        yield Obstacle(
            f"{here.available_mib} MiB of memory are left, and opening it takes about {needed} "
            f"({path.name} has {size:.1f})",
            "stop what else runs (the desktop: sudo systemctl isolate multi-user), add swap, or "
            "build a smaller --size",
        )


def numbers(version: str) -> tuple[int, ...]:
    """`"10.3.0.30"` -> (10, 3, 0, 30)."""
    return tuple(int(n) for n in re.findall(r"\d+", version))
