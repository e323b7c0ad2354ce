"""Two linear layers in a row become one: DFANet's attention is 128 -> 1000 -> 128 without a bend.

W2 (W1 x + b1) + b2 = (W2 W1) x + (W2 b1 + b2). The numbers between the two are gone: the first is
kept where something else reads them, or where the product has more weights than the two.
"""

from __future__ import annotations

import numpy as np
import onnx

from edgeseg.export.editing import Editor, attribute


def fold_linear(editor: Editor) -> None:
    """A Gemm, and the 1x1 convolution that alone reads it as (N, C, 1, 1), become one."""
    for gemm in [n for n in editor.nodes if n.op_type == "Gemm"]:
        spread = editor.only_reader(gemm.output[0], "Unsqueeze")
        conv = editor.only_reader(spread.output[0], "Conv") if spread is not None else None
        if spread is not None and conv is not None:
            _fold(editor, gemm, spread, conv)


def _fold(
    editor: Editor, gemm: onnx.NodeProto, spread: onnx.NodeProto, conv: onnx.NodeProto
) -> None:
    constants = editor.constants
    known = all(n in constants for n in (*gemm.input[1:], *conv.input[1:], *spread.input[1:]))
    if not known or not _are_plain(gemm, conv):
        return
    first, second = constants[gemm.input[1]].astype(np.float64), constants[conv.input[1]]
    if not attribute(gemm, "transB", 0):
        first = first.T
    between = len(first)
    if second.shape[2:] != (1, 1) or editor.shapes.get(spread.output[0], ())[1:] != (between, 1, 1):
        return
    if len(gemm.input) > 2 and constants[gemm.input[2]].size != between:
        return
    outer = second[:, :, 0, 0].astype(np.float64)
    if outer.shape[0] * first.shape[1] > outer.size + first.size:
        return
    bias = np.zeros(outer.shape[0])
    if len(gemm.input) > 2:
        bias += outer @ constants[gemm.input[2]].astype(np.float64).reshape(-1)
    if len(conv.input) > 2:
        bias += constants[conv.input[2]]
    editor.rewire(spread, gemm.input[0], *spread.input[1:])
    folded = (outer @ first)[:, :, None, None].astype(second.dtype)
    names = (
        editor.constant(f"{conv.input[1]}/folded", folded),
        editor.constant(f"{conv.name}.bias/folded", bias.astype(second.dtype)),
    )
    editor.rewire(conv, spread.output[0], *names)
    editor.remove(gemm)


def _are_plain(gemm: onnx.NodeProto, conv: onnx.NodeProto) -> bool:
    scaled = (attribute(gemm, "alpha", 1.0), attribute(gemm, "beta", 1.0)) != (1.0, 1.0)
    padded = any(attribute(conv, "pads", [0]))  # a border has the second bias alone
    grouped = attribute(conv, "group", 1) != 1
    return not (scaled or attribute(gemm, "transA", 0) or padded or grouped)
