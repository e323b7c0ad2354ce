"""ONNX graph -> plan, by TensorRT for RTX, which builds ahead of time and without a GPU."""

from __future__ import annotations

from pathlib import Path

import tensorrt_rtx

from edgeseg.bundle import BuildRecord, Target
from edgeseg.export.build_options import BuildOptions
from edgeseg.export.kernels import compile_kernels, find_nvcc
from edgeseg.export.targets import PLAN, Built, Say
from edgeseg.export.tensorrt_build import build_plan
from edgeseg.runtime.gpu import find_gpu

DEVICE = "any RTX GPU from Ampere on (compute capability 8.0 or later)"
"""What NVIDIA says of a plan whose builder was told nothing else."""


def to_tensorrt_rtx(
    graph: Path, folder: Path, precision: str, options: BuildOptions, say: Say
) -> Built:
    """Build `network.plan`; and kernels, for the GPU that is here if there is one."""
    plan = build_plan(tensorrt_rtx, "tensorrt-rtx", graph, precision, options, say)
    (folder / PLAN).write_bytes(plan.data)
    gpu = find_gpu()
    kernels = compile_kernels(folder, gpu.compute_capability if gpu else None, find_nvcc())
    if kernels.why:
        say(f"frames and labels are left to the CPU: {kernels.why}")
    record = BuildRecord(plan.seconds, plan.layers, plan.warnings, options.asked(), kernels=kernels)
    return Built(PLAN, Target("tensorrt-rtx", tensorrt_rtx.__version__, DEVICE, record))
