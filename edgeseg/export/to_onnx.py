"""Checkpoint folder -> float ONNX graph. Torch's last appearance; it counts MACs on the way out."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn

from edgeseg.bundle import Bundle, OutputSpec
from edgeseg.errors import UsageError
from edgeseg.models.checkpoint import load_checkpoint
from edgeseg.models.dupsample import Reconstruct
from edgeseg.models.network import Bilinear, Network, build_exportable
from edgeseg.models.work import count_macs

OPSET = 18


@dataclass(frozen=True)
class LeftOut:
    """Branches that only training needs, and what they would cost in the exported graph."""

    branches: tuple[str, ...]
    params: int
    macs: int

    def __str__(self) -> str:
        names = " and ".join(self.branches)
        macs = f"{self.macs / 1e6:,.1f} M MACs"
        return f"left out {names}: {self.params:,} parameters and {macs} saved"


@dataclass(frozen=True)
class FloatGraph:
    """A float ONNX graph and what belongs to it.

    `weight` and `bias` are the last layer's when `output.decode` is one of WEIGHTED.
    """

    model: onnx.ModelProto
    output: OutputSpec
    params: int
    macs: int
    uncounted: dict[str, int]
    weight: np.ndarray | None = None
    bias: np.ndarray | None = None
    left_out: LeftOut | None = None


class Deployed(nn.Module):
    """uint8 (N, H, W, 3), or 4 with a mask, in colour order `order` -> uint8 labels, or scores.

    The Cast comes first: TensorRT takes uint8 for no other operator.
    """

    mean: torch.Tensor
    scale: torch.Tensor
    reverse: torch.Tensor

    def __init__(self, network: Network, bundle: Bundle, order: str, scores: bool) -> None:
        super().__init__()
        spec = bundle.manifest.input
        self.network = network
        self.swap = order != spec.order
        self.scores = scores
        self.register_buffer("reverse", torch.tensor([2, 1, 0, 3][: spec.channels]))
        self.register_buffer("mean", torch.tensor(spec.means).reshape(1, -1, 1, 1))
        self.register_buffer("scale", 1.0 / torch.tensor(spec.stds).reshape(1, -1, 1, 1))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Cast, transpose, normalise, run; argmax unless scores are asked for."""
        channels = image.float().permute(0, 3, 1, 2)
        if self.swap:
            channels = channels.index_select(1, self.reverse)
        normal = (channels - self.mean) * self.scale
        if self.scores:
            return self.network.scores(normal)
        logits: torch.Tensor = self.network(normal)
        return logits.argmax(1).to(torch.uint8)


def to_onnx(
    folder: Path, *, size: tuple[int, int], batch: int, order: str, scores: bool
) -> FloatGraph:
    """Export a checkpoint at a fixed size; outputs that are no class are cut off.

    Input `image`, uint8 (batch, height, width, 3 or 4); output `labels` or `scores`. Opset 18.
    """
    network, bundle = load_checkpoint(folder, build_exportable)
    classes, channels = len(bundle.manifest.table), bundle.manifest.input.channels
    left_out = _left_out(network, size)
    network.cut(classes)
    network.deploy()
    deployed = Deployed(network, bundle, order, scores).eval()
    image = torch.zeros(batch, *size, channels, dtype=torch.uint8)
    with _quiet():
        program = torch.onnx.export(
            deployed,
            (image,),
            dynamo=True,
            opset_version=OPSET,
            input_names=["image"],
            output_names=["scores" if scores else "labels"],
            verbose=False,
            external_data=False,
        )
    if program is None:
        raise AssertionError("torch.onnx.export gave no program")
    macs, uncounted = count_macs(network, size, channels)
    output, weight, bias = _output(network, deployed, size, classes)
    params = sum(p.numel() for p in network.parameters())
    return FloatGraph(program.model_proto, output, params, macs, uncounted, weight, bias, left_out)


class _Trained(nn.Module):
    """A network's training form as one graph."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(self.network.outputs(image).values())


def _left_out(network: Network, size: tuple[int, int]) -> LeftOut | None:
    """What `network.deploy()` will remove; None where there is nothing."""
    if not network.branches():
        return None
    params = sum(p.numel() for branch in network.branches().values() for p in branch.parameters())
    macs = count_macs(_Trained(network), size)[0] - count_macs(network, size)[0]
    return LeftOut(tuple(network.branches()), params, macs)


def _output(
    network: Network, deployed: Deployed, size: tuple[int, int], classes: int
) -> tuple[OutputSpec, np.ndarray | None, np.ndarray | None]:
    scale = network.scale
    if not deployed.scores:
        return OutputSpec("labels", scale=scale), None, None
    last = network.upsample
    if isinstance(last, Bilinear):
        factor = last.factor
        kind = "bilinear_corners" if last.align_corners else "bilinear"
        return OutputSpec("scores", factor // scale, kind, factor, scale), None, None
    if isinstance(last, nn.ConvTranspose2d):
        factor = int(last.stride[0])
        bias = np.zeros(classes, np.float32) if last.bias is None else last.bias.detach().numpy()
        output = OutputSpec("scores", factor // scale, "deconvolution", factor, scale)
        return output, last.weight.detach().numpy(), bias
    if isinstance(last, Reconstruct):
        factor = last.factor
        output = OutputSpec("scores", factor // scale, "dupsample", factor, scale)
        return output, last.weight.detach().numpy(), np.zeros(classes, np.float32)
    raise UsageError(
        f"the last layer is a {type(last).__name__}, which has no decode; export labels instead"
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No warnings and no log lines of the exporter about libraries that we don't use."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
