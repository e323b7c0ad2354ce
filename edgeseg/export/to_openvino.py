"""ONNX graph -> OpenVINO's network.xml and network.bin."""

from __future__ import annotations

from pathlib import Path

import openvino

from edgeseg.bundle import Target
from edgeseg.errors import EngineError
from edgeseg.export.targets import Built
from edgeseg.runtime.engine_openvino import shared_core


def to_openvino(graph: Path, folder: Path) -> Built:
    """Convert the graph; weights keep the precision that the graph has."""
    try:
        model = openvino.convert_model(graph)
    except Exception as error:
        raise EngineError(f"openvino can't convert {graph.name}: {error}") from error
    try:
        openvino.save_model(model, folder / "network.xml", compress_to_fp16=False)
    except RuntimeError as error:  # its own form of an OSError
        raise EngineError(
            f"openvino can't write {folder / 'network.xml'} ({error}); is the disk full?"
        ) from error
    device = str(shared_core().get_property("CPU", "FULL_DEVICE_NAME"))
    version = openvino.__version__.partition("-")[0]
    return Built("network.xml", Target("openvino", version, device))
