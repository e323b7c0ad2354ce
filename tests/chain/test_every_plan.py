"""Every family at 512x1024 in each precision is built by TensorRT-RTX, as `edgeseg export` does."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import tensorrt_rtx
import torch
from rtx_graphs import half, int8, io_of

from edgeseg.bundle import InputSpec, Manifest, ModelSpec
from edgeseg.export.build_options import BuildOptions
from edgeseg.export.simplify import simplify
from edgeseg.export.tensorrt_build import build_plan
from edgeseg.export.to_onnx import to_onnx
from edgeseg.labels import CLASS_TABLES
from edgeseg.models.checkpoint import save_checkpoint
from edgeseg.models.network import build_model
from edgeseg.pipeline.placement_lists import DUPSAMPLE

pytestmark = [pytest.mark.chain, pytest.mark.long]

SIZE = (512, 1024)
TABLE = CLASS_TABLES["cityscapes19"]
SPEC = InputSpec("rgb", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375), size=SIZE)
MODELS = (
    ModelSpec("espnet_q3"),
    ModelSpec("espnet_q5"),
    ModelSpec("espnet_q8"),
    ModelSpec("espnetc_q8"),
    ModelSpec("espnetv2_s0.5"),
    ModelSpec("dfanet_b"),
    ModelSpec("espnet_q8+dsrl", {"dsrl": {"stage": "sssr"}}),
    ModelSpec("espnet_q8+dupsample", {"dupsample": DUPSAMPLE}),
)
FORMS = {"fp32": lambda graph: graph, "fp16": half, "int8": int8}


def exported(spec: ModelSpec, folder: Path, scores: bool) -> onnx.ModelProto:
    """The float graph of a network with fresh weights."""
    torch.manual_seed(0)
    network = build_model(spec, len(TABLE))
    save_checkpoint(
        folder, network, Manifest("checkpoint", spec.name, TABLE.to_dict(), SPEC, model=spec)
    )
    return simplify(to_onnx(folder, size=SIZE, batch=1, order="rgb", scores=scores).model)


@pytest.mark.parametrize("spec", MODELS, ids=lambda spec: spec.name)
def test_every_precision_builds(spec, tmp_path):
    scores = spec.name == "espnet_q3"  # one without its last layer
    graph = exported(spec, tmp_path / "model", scores)
    for precision, form in FORMS.items():
        path = tmp_path / f"{precision}.onnx"
        onnx.save(form(graph), path)
        assert io_of(path)[0] == ("image", "UINT8", (1, *SIZE, 3))
        assert io_of(path)[1][:2] == (("scores", "FLOAT") if scores else ("labels", "UINT8"))
        plan = build_plan(tensorrt_rtx, "tensorrt-rtx", path, precision, BuildOptions(), print)
        assert len(plan.data) > 500_000, precision
        assert plan.warnings == 0, precision
