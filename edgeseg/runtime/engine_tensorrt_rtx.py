"""TensorRT for RTX cards, installed by pip."""

from __future__ import annotations

import tensorrt_rtx

from edgeseg.bundle import Bundle
from edgeseg.runtime.engine import EngineOptions
from edgeseg.runtime.plan_engine import PlanEngine


class TensorRtRtxEngine(PlanEngine):
    """`network.plan` by TensorRT-RTX, which finishes the plan for the GPU that is here."""

    def __init__(self, bundle: Bundle, options: EngineOptions) -> None:
        super().__init__(tensorrt_rtx, bundle, options)
