"""The targets: which function turns an ONNX graph into the file that an engine opens.

Exporters need nothing of the machine; builders are TensorRT's two libraries: they take options,
and their plan may be for a GPU that is not here.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from edgeseg.bundle import Target
from edgeseg.errors import EngineError, UsageError, guess
from edgeseg.export.build_options import FLAGS, BuildOptions
from edgeseg.export.tensorrt_versions import check_options, release_of
from edgeseg.runtime.engine import NEEDS_TOO
from edgeseg.runtime.preflight import has_gpu

PLAN = "network.plan"
GRAPH = "network.onnx"


@dataclass(frozen=True)
class Built:
    """The network's file name inside the folder, and what built it."""

    network_file: str
    target: Target


Say = Callable[[str], None]
Exporter = Callable[[Path, Path], Built]
"""(ONNX file, folder to write into) -> what was built."""
Builder = Callable[[Path, Path, str, BuildOptions, Say], Built]
"""(ONNX file, folder to write into, its precision, what was asked, warnings) -> what was built."""

# fmt: off
EXPORTERS = {
    # target        (function,                                     library)
    "onnxruntime": ("edgeseg.export.to_onnxruntime:to_onnxruntime", "onnxruntime"),
    "openvino":    ("edgeseg.export.to_openvino:to_openvino",       "openvino"),
}
BUILDERS = {
    # target         (function,                                       library)
    "tensorrt":     ("edgeseg.export.to_tensorrt:to_tensorrt",         "tensorrt"),
    "tensorrt-rtx": ("edgeseg.export.to_tensorrt_rtx:to_tensorrt_rtx", "tensorrt_rtx"),
}
# fmt: on
TARGETS = (*EXPORTERS, *BUILDERS)
DEVICE_TARGET = "openvino"
"""The target that may be told what runs it (--device)."""


def find_target(
    target: str, precision: str, options: BuildOptions, say: Say, source: Path | None = None
) -> Exporter:
    """The exporter or builder of that target, ready to be given a graph and a folder.

    What this machine lacks, and options that its library does not take, are refused here, before
    the long work. `source` is the folder that is built, where there is one already.
    """
    for asked in options.asked():
        takers = (DEVICE_TARGET,) if asked == "device" else tuple(BUILDERS)
        if target in TARGETS and target not in takers:
            raise UsageError(
                f"{FLAGS[asked]} is for {' and '.join(takers)}; target '{target}' takes none"
            )
    if target in BUILDERS:
        builder = find_builder(target, source)
        version = importlib.import_module(BUILDERS[target][1]).__version__
        check_options(release_of(target, version), version, options, precision)
        return functools.partial(_build, builder, precision, options, say)
    exporter = find_exporter(target)
    if options.device is None:
        return exporter
    from edgeseg.runtime.engine_openvino import check_device, shared_core

    check_device(shared_core(), options.device)  # before the long work
    return functools.partial(exporter, device=options.device)  # type: ignore[call-arg]


def _build(
    builder: Builder, precision: str, options: BuildOptions, say: Say, graph: Path, folder: Path
) -> Built:
    return builder(graph, folder, precision, options, say)


def find_exporter(target: str) -> Exporter:
    """The exporter of that target; UsageError or EngineError that says what to do."""
    if target not in EXPORTERS:
        raise UsageError(f"unknown target '{target}'.{guess(target, EXPORTERS)}")
    place, library = EXPORTERS[target]
    return cast("Exporter", _open(target, place, library))


def find_builder(target: str, source: Path | None = None) -> Builder:
    """The builder of that target; EngineError that says what this machine lacks for it."""
    if target not in BUILDERS:
        raise UsageError(f"nothing is built for target '{target}'.{guess(target, BUILDERS)}")
    place, library = BUILDERS[target]
    if target == "tensorrt":
        _check_board(importlib.util.find_spec(library) is not None, has_gpu(), source)
    return cast("Builder", _open(target, place, library))


def _open(target: str, place: str, library: str) -> object:
    module, _, name = place.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != library:
            raise
        raise EngineError(
            f"target '{target}' needs '{library}'. Install it: pip install 'edgeseg[{target}]'"
        ) from error
    except ImportError as error:
        raise EngineError(
            f"target '{target}': '{library}' is installed but can't be loaded ({error}); "
            "'edgeseg doctor' examines it"
        ) from error


def _check_board(has_library: bool, has_gpu: bool, source: Path | None = None) -> None:
    """EngineError that names each thing that TensorRT's builder lacks here, and the way out."""
    way_out = (
        "Type here 'edgeseg export MODEL --target onnxruntime --out FOLDER', copy FOLDER to the "
        "board, and type there 'edgeseg build FOLDER'"
    )
    if source is not None:
        way_out = f"Copy {source} to the board, and type there 'edgeseg build {source.name}'"
    lacks = []
    if not has_library:
        lacks.append("the Python module 'tensorrt' (JetPack or NVIDIA's apt repository brings it)")
    if not has_gpu:
        lacks.append("an NVIDIA GPU with its driver")
    if lacks:
        raise EngineError(
            f"target 'tensorrt' builds for the GPU that it builds on; this machine lacks "
            f"{' and '.join(lacks)}. {way_out}. For RTX cards, --target tensorrt-rtx needs no GPU"
        )


def why_ungated(target: str) -> str:
    """Why an engine of that target can't be run and gated here; "" when it can."""
    if target in BUILDERS and not has_gpu():
        return "it runs on an NVIDIA GPU, and this machine has none"
    if target in BUILDERS and importlib.util.find_spec("pycuda") is None:
        return f"running it needs 'pycuda', which is missing here: {NEEDS_TOO['pycuda']}"
    return ""
