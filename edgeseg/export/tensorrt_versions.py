"""How the releases of TensorRT differ for us: one table, and one lookup of an enum's member.

Sources: NVIDIA's Python API reference and migration guides of 8.6, 10.x and 11.x, and of TensorRT
for RTX. Before strong typing, explicit Q/DQ and half tensors need the builder's INT8 and FP16
flags; 10.0 added strong typing beside them, and 11.0 took them away. DLA left after 10.7 and came
back with 11.4.1, strongly typed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from edgeseg.errors import EngineError
from edgeseg.export.build_options import FLAGS, BuildOptions

NAMES = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT-RTX"}


@dataclass(frozen=True)
class Typing:
    """Flags by name: of `create_network`, and of the builder for each precision."""

    network: tuple[str, ...]
    builder: Mapping[str, tuple[str, ...]]


_WEAK = Typing(("EXPLICIT_BATCH",), {"fp32": (), "fp16": ("FP16",), "int8": ("INT8",)})
_STRONG = Typing(("STRONGLY_TYPED",), {"fp32": (), "fp16": (), "int8": ()})
_ALWAYS = Typing((), {"fp32": (), "fp16": (), "int8": ()})
_ALL = tuple(FLAGS)


@dataclass(frozen=True)
class Release:
    """What holds from a release on. `dla` None: it has no DLA. `options` that it takes."""

    library: str
    since: tuple[int, ...]
    typing: Typing
    dla: Typing | None
    options: tuple[str, ...] = _ALL
    progress: bool = True
    names_nodes: bool = True


# fmt: off
RELEASES = (
    #       library         since       typing   on a DLA
    Release("tensorrt",     (8, 6),     _WEAK,   _WEAK,   progress=False, names_nodes=False),
    Release("tensorrt",     (10, 0),    _STRONG, _WEAK),
    Release("tensorrt",     (10, 8),    _STRONG, None),
    Release("tensorrt",     (11, 0),    _ALWAYS, None),
    Release("tensorrt",     (11, 4, 1), _ALWAYS, _ALWAYS),
    Release("tensorrt-rtx", (1, 0),     _STRONG, None,    ("workspace_mib",)),
)
# fmt: on

# fmt: off
MEMBERS = {
    # what was asked         enum                          member
    "cache_sha256":         ("BuilderFlag",                "ERROR_ON_TIMING_CACHE_MISS"),
    "version_compatible":   ("BuilderFlag",                "VERSION_COMPATIBLE"),
    "ampere+":              ("HardwareCompatibilityLevel", "AMPERE_PLUS"),
    "same-capability":      ("HardwareCompatibilityLevel", "SAME_COMPUTE_CAPABILITY"),
    "workspace_mib":        ("MemoryPoolType",             "WORKSPACE"),
    "memory_mib":           ("MemoryPoolType",             "TACTIC_DRAM"),
}
# fmt: on


def release_of(library: str, version: str) -> Release:
    """The row of that version; EngineError for one that is too old."""
    numbers = tuple(int(n) for n in re.findall(r"\d+", version)[:3])
    rows = [r for r in RELEASES if r.library == library]
    found = [r for r in rows if r.since <= numbers]
    if not found:
        oldest = ".".join(map(str, rows[0].since))
        raise EngineError(
            f"{NAMES[library]} {version} is too old; edgeseg builds with {oldest} or later "
            "(JetPack 6 or later has it)"
        )
    return found[-1]


def member(trt: ModuleType, asked: str) -> Any:
    """The enum's member that an option needs; EngineError when this release has none."""
    enum, name = MEMBERS[asked]
    found = getattr(getattr(trt, enum, None), name, None)
    if found is None:
        flag = FLAGS.get(asked, f"--hardware-compatible {asked}")
        raise EngineError(
            f"{flag} needs {enum}.{name}, and TensorRT {trt.__version__} has none; leave the flag "
            "away or build with a later TensorRT"
        )
    return found


def check_options(release: Release, version: str, options: BuildOptions, precision: str) -> None:
    """EngineError unless this release can do what is asked."""
    name = f"{NAMES[release.library]} {version}"
    for asked in options.asked():
        if asked not in release.options:
            raise EngineError(f"{name} takes no {FLAGS[asked]}; leave it away")
    if options.dla is None:
        return
    if release.dla is None:
        raise EngineError(
            f"{name} has no DLA; TensorRT has it up to 10.7 (JetPack 6) and from 11.4.1 on "
            "(AGX Orin). Leave --dla away: the GPU runs all of it"
        )
    if precision != "fp16":
        raise EngineError(
            f"a DLA runs fp16 here, and this network is {precision}; export it with "
            "--precision fp16, or leave --dla away"
        )
