"""The targets: which function turns an ONNX graph into the file that an engine opens."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from edgeseg.bundle import Target
from edgeseg.errors import EngineError, UsageError, guess


@dataclass(frozen=True)
class Built:
    """The network's file name inside the folder, and what built it."""

    network_file: str
    target: Target


Exporter = Callable[[Path, Path], Built]
"""(ONNX file, folder to write into) -> what was built."""

# fmt: off
EXPORTERS = {
    # target        (function,                                     library)
    "onnxruntime": ("edgeseg.export.to_onnxruntime:to_onnxruntime", "onnxruntime"),
    "openvino":    ("edgeseg.export.to_openvino:to_openvino",       "openvino"),
}
# fmt: on


def find_exporter(target: str) -> Exporter:
    """The exporter of that target; UsageError or EngineError that says what to do."""
    if target not in EXPORTERS:
        raise UsageError(f"unknown target '{target}'.{guess(target, EXPORTERS)}")
    place, library = EXPORTERS[target]
    module, _, name = place.partition(":")
    try:
        return cast("Exporter", getattr(importlib.import_module(module), name))
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != library:
            raise
        raise EngineError(
            f"target '{target}' needs '{library}'. Install it: pip install 'edgeseg[{target}]'"
        ) from error
