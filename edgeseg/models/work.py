"""Multiply-adds of a network, by fvcore."""

from __future__ import annotations

import warnings

import torch
from fvcore.nn import FlopCountAnalysis
from fvcore.nn.jit_handles import (
    addmm_flop_jit,
    bmm_flop_jit,
    conv_flop_jit,
    linear_flop_jit,
    matmul_flop_jit,
)
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from edgeseg.bundle import ModelSpec
from edgeseg.models.network import build_shapes

# fmt: off
COUNTED = {
    "aten::_convolution": conv_flop_jit,
    "aten::addmm":        addmm_flop_jit,
    "aten::bmm":          bmm_flop_jit,
    "aten::linear":       linear_flop_jit,
    "aten::matmul":       matmul_flop_jit,
    "aten::mm":           matmul_flop_jit,
}
# fmt: on
"""Operators whose multiply-adds are counted; all others are listed by name, not taken as zero."""


def count_macs(
    network: nn.Module, size: tuple[int, int], channels: int = 3
) -> tuple[int, dict[str, int]]:
    """Multiply-adds of one input (1, channels, *size), and the operators without a rule."""
    analysis = FlopCountAnalysis(network, torch.zeros(1, channels, *size))
    analysis.clear_op_handles().set_op_handle(**COUNTED)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        total = int(analysis.total())
    uncounted = {k.removeprefix("aten::"): v for k, v in analysis.unsupported_ops().items()}
    return total, dict(sorted(uncounted.items()))


def count_work(
    spec: ModelSpec, outputs: int, sizes: tuple[tuple[int, int], ...]
) -> tuple[int, ...]:
    """Parameters, then the MACs of one frame at each size, of a network as deployed.

    Torch's own counter on its meta device: nothing is computed, so that large networks take no
    memory and a second.
    """
    network = build_shapes(spec, outputs).eval()
    network.deploy()
    macs = []
    for size in sizes:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            network(torch.zeros(1, 4 if network.mask else 3, *size, device="meta"))
        macs.append(counter.get_total_flops() // 2)
    return sum(p.numel() for p in network.parameters()), *macs
