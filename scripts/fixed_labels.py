"""What fixed inputs become on this machine: written on one, compared on another.

    python fixed_labels.py write FOLDER NETWORK...
    python fixed_labels.py check FOLDER NETWORK...

`write` makes inputs.npz and expected.npz: scores through every decode, frames through every
preparation, street frames through each NETWORK (model folders for ONNX Runtime). `check` computes
them again from inputs.npz by every instruction set that is there and by numpy, and ends with 1
where a byte differs, but for INT8 networks: ONNX Runtime's float sums differ in their last bit
between processors, and a quantiser makes a whole step of it (docs/arm.md), so of their labels MOST
may differ. Only the bare runtime is needed.
"""

from __future__ import annotations

import argparse
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import edgeseg
from edgeseg.bundle import OutputSpec
from edgeseg.frame import place
from edgeseg.runtime import decode, decode_native, prepare_native
from edgeseg.runtime.decode import Decoder
from edgeseg.runtime.prepare import FORMATS, Preparer
from edgeseg.streets import draw_street

Arrays = dict[str, Any]
DECODES = {
    # decode              factor channels, 19 classes
    "bilinear": (8, 19),
    "bilinear_corners": (4, 19),
    "deconvolution": (2, 24),
    "dupsample": (4, 24),
    "pixel_shuffle": (2, 76),
}
TYPES = ("float32", "float16", "bfloat16", "int8")
SIZES = ((256, 512), (96, 160))
"""Of the networks that the camera's frames of 180x320 are prepared for: enlarged and reduced."""
STREETS = 4
MOST = 0.002
"""Of the labels of an INT8 network; 0.0006 were seen to differ between x86-64 and arm64."""


def inputs() -> Arrays:
    """Every input; from whole numbers alone, so that they could be made anew anywhere."""
    random = np.random.default_rng(6)
    made: Arrays = {}
    for kind, (factor, channels) in DECODES.items():
        made[f"scores {kind}"] = _scores(random, (1, channels, 24, 48))
        if kind in ("deconvolution", "dupsample"):
            made[f"weight {kind}"] = _scores(random, (channels, 19, factor, factor)) / 8
            made[f"bias {kind}"] = _scores(random, (19, 1, 1, 1))[:, 0, 0, 0]
    shapes = {"nv12": (270, 320), "yuyv": (180, 320, 2), "grey": (180, 320)}
    for form in FORMATS:
        made[f"frame {form}"] = random.integers(0, 256, shapes.get(form, (180, 320, 3)), np.uint8)
    made["streets"] = np.stack([draw_street(seed, (360, 640))[0] for seed in range(STREETS)])
    return made


def _scores(random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """float32 in sixteenths: patches at which one class leads, and noise about as large as that."""
    n, c, h, w = shape
    coarse = random.integers(-160, 160, (n, c, -(-h // 6), -(-w // 6)))
    patches = coarse.repeat(6, 2).repeat(6, 3)[:, :, :h, :w]
    return ((patches + random.integers(-90, 90, shape)) / 16).astype(np.float32)


def _cast(scores: np.ndarray, kind: str) -> np.ndarray:
    if kind == "bfloat16":
        return (scores.view(np.uint32) >> 16).astype(np.uint16)
    return np.round(scores).astype(np.int8) if kind == "int8" else scores.astype(kind)


def results(given: Arrays, networks: list[Path]) -> Iterator[tuple[str, str, np.ndarray]]:
    """(what, by which code, what came out) of everything that this machine can compute."""
    for kind, (factor, _) in DECODES.items():
        layer = given.get(f"weight {kind}"), given.get(f"bias {kind}")
        output = OutputSpec("scores", factor, kind, factor)
        for number in TYPES:
            scores = _cast(given[f"scores {kind}"], number)
            for isa in (*decode_native.available(), "numpy"):
                if isa == "numpy" and layer[0] is not None:
                    continue  # numpy leaves the order of these sums open
                yield f"decode {kind} {number}", isa, Decoder(output, *layer, by=isa)(scores)
        for isa in decode_native.available():
            decoder = Decoder(output, *layer, by=isa)
            for measure in ("softmax", "margin"):
                sure = decoder.with_confidence(given[f"scores {kind}"], measure)[1]
                yield f"confidence {kind} {measure}", isa, sure
    for form in FORMATS:
        for size in SIZES:
            for isa in (*prepare_native.available(), "numpy"):
                made = np.empty((*size, 3), np.uint8)
                prepare = Preparer(form, "rgb", (7, 8, 9), by=isa)
                prepare(given[f"frame {form}"], place((180, 320), size, "pad"), made)
                yield f"prepare {form} {size[0]}x{size[1]}", isa, made
    for folder in networks:
        with edgeseg.load(folder, frames="rgb", threads=1) as segmenter:
            labels = np.stack([segmenter.segment(frame) for frame in given["streets"]])
            yield f"labels {segmenter.bundle.manifest.precision}", "onnxruntime", labels


def write(folder: Path, networks: list[Path]) -> int:
    """Compute everything here; codes of this machine that disagree are a failure already."""
    folder.mkdir(parents=True, exist_ok=True)
    given = inputs()
    np.savez(folder / "inputs.npz", **given)
    expected: Arrays = {}
    wrong = sum(
        _differ(name, by, expected.setdefault(name, a), a)
        for name, by, a in results(given, networks)
    )
    np.savez(folder / "expected.npz", **expected)
    sys.stdout.write(f"{len(expected)} results written; {decode.describe()}\n")
    return 1 if wrong else 0


def check(folder: Path, networks: list[Path]) -> int:
    """Compute everything again and compare."""
    with np.load(folder / "inputs.npz") as read:
        given = dict(read)
    with np.load(folder / "expected.npz") as read:
        expected = dict(read)
    sys.stdout.write(f"{decode.describe()}\n")
    wrong = checked = 0
    seen = set()
    for name, by, array in results(given, networks):
        differs = _differ(name, by, expected[name], array)
        wrong += differs and not _excused(name, expected[name], array)
        checked += 1
        seen.add(name)
        if name.startswith("labels"):
            there, here = (zlib.crc32(labels.tobytes()) for labels in (expected[name], array))
            sums = f"checksum {there:08x} there, {here:08x} here"
            sys.stdout.write(f"{name}: {array.size} labels, {sums}\n")
    for name in sorted(set(expected) - seen):
        sys.stdout.write(f"{name}: not computed here\n")
    missing = len(set(expected) - seen)
    sys.stdout.write(f"{checked} results compared with {len(expected)}: {wrong} wrong\n")
    return 1 if wrong or missing else 0


def _excused(name: str, expected: np.ndarray, found: np.ndarray) -> bool:
    """Whether it is an INT8 network that has not more than MOST of its labels otherwise."""
    return name == "labels int8" and float(np.mean(expected != found)) <= MOST


def _differ(name: str, by: str, expected: np.ndarray, found: np.ndarray) -> bool:
    """Whether two results differ; if so it is said where."""
    if expected.shape == found.shape and np.array_equal(expected, found):
        return False
    if expected.shape != found.shape:
        sys.stdout.write(f"{name} by {by}: shape {found.shape}, expected {expected.shape}\n")
        return True
    at = np.argwhere(expected != found)
    sys.stdout.write(f"{name} by {by}: {len(at)} of {found.size} differ, the first at {at[0]}\n")
    return True


def main() -> int:
    """Run one command line."""
    parser = argparse.ArgumentParser(description="Results of fixed inputs, on two machines.")
    parser.add_argument("what", choices=("write", "check"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("networks", type=Path, nargs="*")
    given = parser.parse_args()
    return {"write": write, "check": check}[given.what](given.folder, given.networks)


if __name__ == "__main__":
    sys.exit(main())
