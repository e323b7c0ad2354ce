"""INT8 while training: the arithmetic of the Q/DQ writer, with gradients.

The scheme is that of `edgeseg.calibration.qdq`: symmetric, weights per output channel by the
largest sum of a pair, activations per tensor, rounding half to even. Ranges of activations are
learned by the gradient of Esser et al. 2020 ("Learned step size quantization"), as logarithms (Jain
et al. 2020, "Trained quantization thresholds"): a step is then a share of the range, whatever its
size, which LSQ's factor 1 / sqrt(values * 127) is for as well. With both, gradients are so small
that Adam's epsilon stops them (seen in ESPNet: 1e-8), so the factor is left out.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

import onnx
import torch
from torch import Tensor, nn

from edgeseg.training.onnx_module import OnnxModule, Step

LEVELS = 127
SMALLEST = 1e-9
"""As in the writer: a scale is at least this."""


class Quantised(Protocol):
    """A layer both of whose inputs are INT8; what `edgeseg.calibration.placement` lists."""

    @property
    def layer(self) -> str:
        """Name of the node."""

    @property
    def activation(self) -> str:
        """Its input tensor."""

    @property
    def weight(self) -> str:
        """Its constant weights."""

    @property
    def axis(self) -> int:
        """The weights' output axis."""


class RoundActivation(torch.autograd.Function):
    """Values and a scale -> the same values on levels -128 ... 127."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, scale: Tensor) -> Tensor:
        """Divide, round half to even, clip, multiply."""
        ctx.save_for_backward(values, scale)
        return (values / scale).round_().clamp_(-LEVELS - 1, LEVELS).mul_(scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        """Straight through inside the range; of the scale: rounding inside, the bound outside."""
        values, scale = ctx.saved_tensors
        gradient = gradients[0]
        levels = values / scale
        rounded = levels.round().clamp_(-LEVELS - 1, LEVELS)
        inside = (levels >= -LEVELS - 1) & (levels <= LEVELS)
        slope = torch.where(inside, rounded - levels, rounded)
        return gradient * inside, (gradient * slope).sum()


class RoundWeight(torch.autograd.Function):
    """Weights -> the same on levels -127 ... 127 of each output channel; straight through."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, axis: int) -> Tensor:
        """The largest sum of a pair of one sign is level 127, so nothing is clipped."""
        scale = _weight_scales(weight.transpose(0, axis)).transpose(0, axis)
        return (weight / scale).round_().clamp_(-LEVELS, LEVELS).mul_(scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """The gradient as it comes."""
        return gradients[0], None


def _weight_scales(weight: Tensor) -> Tensor:
    """(channels, inputs, ...) -> (channels, 1, ...): those of `qdq.weight_scales`."""
    positive, negative = weight.clamp(min=0), weight.clamp(max=0).neg_()
    pairs = [part[:, 0::2].clone() for part in (positive, negative)]
    for sums, part in zip(pairs, (positive, negative), strict=True):
        sums[:, : weight.shape[1] // 2] += part[:, 1::2]
    largest = torch.maximum(*pairs).amax(list(range(1, weight.ndim)), keepdim=True)
    return (largest / LEVELS).clamp_(min=SMALLEST)


class QuantisedModule(OnnxModule):
    """An ONNX graph whose layers at `places` read INT8 values.

    `ranges` are the largest magnitudes to start from; those of `fixed` are not learned. A tensor is
    rounded once for all its readers, as in the written graph.
    """

    starts: Tensor
    learns: Tensor

    def __init__(
        self,
        model: onnx.ModelProto,
        output: str,
        places: Sequence[Quantised],
        ranges: Mapping[str, float],
        fixed: Collection[str] = (),
    ) -> None:
        super().__init__(model, output)
        steps = {step.name for step in self.steps}
        self.places = {p.layer: p for p in places if p.layer in steps}
        self.tensors = list(dict.fromkeys(p.activation for p in self.places.values()))
        scales = [max(ranges[name] / LEVELS, SMALLEST) for name in self.tensors]
        learns = [float(name not in fixed) for name in self.tensors]
        self.register_buffer("starts", torch.tensor(scales))
        self.register_buffer("learns", torch.tensor(learns))
        self.log_ranges = nn.Parameter(torch.zeros(len(self.tensors)))

    def ranges(self) -> dict[str, float]:
        """Tensor -> its range as learned so far: 127 times the scale."""
        scales = self._scales().detach().double().cpu() * LEVELS
        return dict(zip(self.tensors, scales.tolist(), strict=True))

    def _scales(self) -> Tensor:
        return (self.starts * (self.log_ranges * self.learns).exp()).clamp(min=SMALLEST)

    def forward(self, pixels: Tensor) -> Tensor:
        """Round the inputs of the quantised layers, run all nodes."""
        self._now = dict(zip(self.tensors, self._scales().unbind(), strict=True))
        self._rounded: dict[str, Tensor] = {}
        result = super().forward(pixels)
        self._now, self._rounded = {}, {}
        return result

    def operands(self, step: Step, values: dict[str, Tensor]) -> list[Tensor]:
        """What `step` reads, rounded where it is INT8."""
        operands = super().operands(step, values)
        place = self.places.get(step.name)
        if place is None:
            return operands
        name = place.activation
        if name not in self._rounded:
            self._rounded[name] = RoundActivation.apply(operands[0], self._now[name])  # type: ignore[no-untyped-call]
        operands[0] = self._rounded[name]
        operands[1] = RoundWeight.apply(operands[1], place.axis)  # type: ignore[no-untyped-call]
        return operands

    def forget(self, name: str, values: dict[str, Tensor]) -> None:
        """Drop a value that nothing reads any more, and its rounded form."""
        super().forget(name, values)
        self._rounded.pop(name, None)
