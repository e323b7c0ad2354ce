"""ONNX graph -> folder for ONNX Runtime: the graph itself."""

from __future__ import annotations

import platform
import shutil
from pathlib import Path

import onnxruntime

from edgeseg.bundle import Target
from edgeseg.export.targets import Built


def to_onnxruntime(graph: Path, folder: Path) -> Built:
    """Copy the graph as `network.onnx`."""
    shutil.copyfile(graph, folder / "network.onnx")
    device = f"CPU ({platform.machine()})"
    return Built("network.onnx", Target("onnxruntime", onnxruntime.__version__, device))
