"""QAT: the graph that engines will run, in INT8, trained beside its float self as the teacher."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from edgeseg.bundle import WEIGHTED, Manifest, ModelSpec, OutputSpec
from edgeseg.labels import ClassTable
from edgeseg.models.network import Bilinear, Maps, Network
from edgeseg.training.fake_quant import Quantised, QuantisedModule
from edgeseg.training.onnx_module import OnnxModule
from edgeseg.training.plan import Input, Recipe
from edgeseg.training.start import Opened
from edgeseg.training.teacher import Distillation, open_teacher


@dataclass(frozen=True)
class Learned:
    """What was trained: ONNX name -> weights, tensor -> range."""

    weights: dict[str, np.ndarray]
    ranges: dict[str, float]


@dataclass(frozen=True)
class Calibrated:
    """Where QAT starts: a float graph, prepared for INT8, and how it becomes INT8.

    `teacher` is the float network itself; both graphs are for batches of one frame. `scores` is the
    tensor that `output` makes labels of, with the arrays of `decode` where its last layer is
    outside of the graph. Ranges of `fixed` tensors are not learned. `write` makes a model folder of
    what was learned.
    """

    graph: onnx.ModelProto
    teacher: onnx.ModelProto
    scores: str
    places: Sequence[Quantised]
    ranges: Mapping[str, float]
    spec: ModelSpec
    output: OutputSpec
    write: Callable[[Path, Learned, Manifest], None]
    fixed: frozenset[str] = frozenset()
    decode: Mapping[str, np.ndarray] = field(default_factory=dict)


class GraphNetwork(Network):
    """An ONNX graph in the place of a network: normalised images in, logits out.

    The graph normalises frames itself, so what the loop has normalised becomes pixels again, which
    are whole numbers. Void outputs were cut off when the graph was exported.
    """

    divisor = 1
    mean: Tensor
    std: Tensor

    def __init__(self, body: OnnxModule, given: Input, scale: int, upsample: nn.Module) -> None:
        super().__init__()
        self.body, self.scale, self.upsample = body, scale, upsample
        self.register_buffer("mean", torch.tensor(given.mean).reshape(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(given.std).reshape(1, 3, 1, 1))

    def features(self, image: Tensor) -> Maps:
        """The graph has no encoder to tell apart: its scores, and the tensor that is watched."""
        self.body.watched = self.watched
        pixels = (image * self.std + self.mean).round()
        scores = self.body(pixels.permute(0, 2, 3, 1))
        return {**self.body.taken(), "scores": scores}

    def watchable(self) -> tuple[str, ...]:
        """Every tensor of the graph by its ONNX name, up to the scores, and "scores"."""
        return *(step.output for step in self.body.steps), "scores"

    def head(self, features: Maps) -> Tensor:
        """The scores themselves."""
        return features["scores"]

    def cut(self, outputs: int) -> None:
        """Nothing is left to cut."""


def open_calibrated(
    calibrated: Calibrated, recipe: Recipe, classes: ClassTable, say: Callable[[str], None]
) -> Opened:
    """The network in INT8, its teacher, and how the result is written; as `start.open_model`."""
    torch.manual_seed(recipe.seed)
    scores, plan = calibrated.scores, recipe.qat
    body = QuantisedModule(
        calibrated.graph, scores, calibrated.places, calibrated.ranges, calibrated.fixed
    )
    student = _network(body, recipe, calibrated)
    beside = open_teacher(recipe, classes, student, say)
    if plan.distil:
        teacher = _network(OnnxModule(calibrated.teacher, scores), recipe, calibrated)
        beside = (Distillation(teacher, plan.distil, plan.temperature), *beside)
    say(
        f"qat: {len(body.places)} layers in INT8, {len(body.tensors)} ranges to learn, "
        f"of {plan.model}"
    )

    def keep(folder: Path, model: Network, manifest: Manifest) -> None:
        trained = model.body
        assert isinstance(trained, QuantisedModule)
        calibrated.write(folder, Learned(trained.arrays(), trained.ranges()), manifest)

    return Opened(
        student,
        calibrated.spec,
        fresh=False,
        keep=keep,
        beside=beside,
        lr_shares={"body.log_ranges": plan.range_lr},
    )


def _network(body: OnnxModule, recipe: Recipe, calibrated: Calibrated) -> GraphNetwork:
    upsample = _upsample(calibrated.output, calibrated.decode).requires_grad_(False)
    return GraphNetwork(body, recipe.input, calibrated.output.scale, upsample)


def _upsample(output: OutputSpec, decode: Mapping[str, np.ndarray]) -> nn.Module:
    """What the runtime's decode does to scores, before argmax; it is not trained."""
    if output.decode in WEIGHTED:
        weight, bias = (torch.from_numpy(np.array(decode[k])) for k in ("weight", "bias"))
        inputs, outputs, kernel, _ = weight.shape
        layer = nn.ConvTranspose2d(inputs, outputs, kernel, kernel)
        layer.load_state_dict({"weight": weight, "bias": bias})
        return layer
    if output.decode is None:
        return nn.Identity()
    return Bilinear(output.factor, output.decode == "bilinear_corners")
