"""ONNX graph -> OpenVINO's network.xml and network.bin."""

from __future__ import annotations

from pathlib import Path

import openvino

from edgeseg.bundle import Target
from edgeseg.errors import EngineError
from edgeseg.export.targets import Built
from edgeseg.runtime.engine_openvino import check_device, shared_core


def to_openvino(graph: Path, folder: Path, device: str = "CPU") -> Built:
    """Convert the graph for "CPU", "GPU" or "NPU"; weights keep the precision of the graph."""
    name = check_device(shared_core(), device)
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
    version = openvino.__version__.partition("-")[0]
    plugin = None if device == "CPU" else device
    return Built("network.xml", Target("openvino", version, name, plugin=plugin))
