"""ONNX graph -> plan, by the system's TensorRT (JetPack, apt): for the GPU that builds it."""

from __future__ import annotations

from pathlib import Path

import tensorrt

from edgeseg.bundle import BuildRecord, Target
from edgeseg.export.build_options import BuildOptions
from edgeseg.export.kernels import compile_kernels, find_nvcc
from edgeseg.export.targets import PLAN, Built, Say
from edgeseg.export.tensorrt_build import build_plan
from edgeseg.runtime.gpu import find_gpu, read_jetpack


def to_tensorrt(
    graph: Path, folder: Path, precision: str, options: BuildOptions, say: Say
) -> Built:
    """Build `network.plan` and kernels; the manifest names TensorRT, CUDA, GPU and JetPack."""
    plan = build_plan(tensorrt, "tensorrt", graph, precision, options, say)
    (folder / PLAN).write_bytes(plan.data)
    gpu = find_gpu()
    kernels = compile_kernels(folder, gpu.compute_capability if gpu else None, find_nvcc())
    if kernels.why:
        say(f"frames and labels are left to the CPU: {kernels.why}")
    record = BuildRecord(
        plan.seconds,
        plan.layers,
        plan.warnings,
        options.asked(),
        cuda=gpu.cuda if gpu else None,
        compute_capability=gpu.compute_capability if gpu else None,
        jetpack=read_jetpack(),
        gpu_layers=plan.gpu_layers,
        timing_cache_sha256=plan.cache_sha256,
        kernels=kernels,
    )
    device = gpu.name if gpu else "an unnamed GPU"
    return Built(PLAN, Target("tensorrt", tensorrt.__version__, device, record))
