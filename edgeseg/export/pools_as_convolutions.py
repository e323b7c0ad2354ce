"""Average pooling of a few channels as a convolution: ESPNet pools the image itself, twice.

Engines reorder three channels to their block and back around a pooling, and choose the layout of
the concat behind it by them. A convolution whose weights are 1 / (kernel area) says the same, is
computed like its neighbours, and reads what they read.
"""

from __future__ import annotations

import math

import numpy as np
import onnx

from edgeseg.export.editing import Editor, attribute

MOST = 4
"""Channels up to which it is done: the convolution's arithmetic grows with their square."""


def pools_as_convolutions(editor: Editor) -> None:
    """Average poolings of at most MOST channels become convolutions."""
    for pool in [n for n in editor.nodes if n.op_type == "AveragePool"]:
        shape = editor.shapes.get(pool.input[0], ())
        if len(shape) == 4 and 0 < shape[1] <= MOST and _is_linear(pool):
            _replace(editor, pool, shape[1])


def _is_linear(pool: onnx.NodeProto) -> bool:
    """Every window is divided by the same number."""
    padded = any(attribute(pool, "pads", [0]))
    counted = not padded or attribute(pool, "count_include_pad", 0) == 1
    automatic = attribute(pool, "auto_pad", "NOTSET") not in ("", "NOTSET")
    return counted and not automatic and not attribute(pool, "ceil_mode", 0)


def _replace(editor: Editor, pool: onnx.NodeProto, channels: int) -> None:
    kernel = attribute(pool, "kernel_shape")
    weight = np.zeros((channels, channels, *kernel), editor.types[pool.input[0]])
    weight[np.arange(channels), np.arange(channels)] = 1 / math.prod(kernel)
    kept = {
        name: attribute(pool, name)
        for name in ("kernel_shape", "strides", "pads", "dilations")
        if attribute(pool, name) is not None
    }
    source, output = pool.input[0], pool.output[0]
    name = editor.constant(f"{pool.name}/weight", weight)
    editor.remove(pool)
    editor.add("Conv", output, source, name, **kept)
