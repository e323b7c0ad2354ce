"""TensorRT of the system (JetPack, apt)."""

from __future__ import annotations

import tensorrt

from edgeseg.bundle import Bundle
from edgeseg.runtime.engine import EngineOptions
from edgeseg.runtime.plan_engine import PlanEngine


class TensorRtEngine(PlanEngine):
    """`network.plan` by the TensorRT that built it."""

    def __init__(self, bundle: Bundle, options: EngineOptions) -> None:
        super().__init__(tensorrt, bundle, options)
