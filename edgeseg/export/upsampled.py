"""1x1 convolutions before an upsampling, a concat or a sum instead of behind it.

They mix channels, bilinear upsampling mixes pixels with weights that sum to 1: either may come
first. Where a 1x1 convolution has fewer outputs than inputs (DFANet's classifier and the shortcut
behind its upsampled features), it is computed at the low resolution, and fewer channels are
upsampled. A concat in front of a convolution becomes a sum behind it: W [a, b] = Wa a + Wb b.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper

from edgeseg.export.editing import Editor, attribute


def pointwise_first(editor: Editor) -> None:
    """1x1 convolutions of what is upsampled are computed before it, where that pays."""
    for conv in [n for n in editor.nodes if n.op_type == "Conv"]:
        weight = editor.constants.get(conv.input[1])
        if weight is None or weight.shape[2:] != (1, 1) or attribute(conv, "group", 1) != 1:
            continue
        if any(attribute(conv, "pads", [0])):
            continue
        terms = list(_terms(editor, conv.input[0], conv, 0, weight.shape[1]))
        lifted = [t.last - t.first for t in terms if t.resize is not None]
        if lifted and len(weight) < min(lifted):
            _rewrite(editor, conv, weight, terms)


def depthwise_before_concat(editor: Editor) -> None:
    """A strided depthwise convolution of a concat becomes one of each of its parts."""
    for conv in [n for n in editor.nodes if n.op_type == "Conv"]:
        join = editor.maker(conv.input[0], "Concat")
        weight = editor.constants.get(conv.input[1])
        if join is None or weight is None or not _joins_channels(editor, join):
            continue
        strided = max(attribute(conv, "strides", [1])) > 1
        if strided and attribute(conv, "group", 1) == len(weight) and weight.shape[1] == 1:
            _split_depthwise(editor, conv, join, weight)


@dataclass(frozen=True)
class Term:
    """A summand of a convolution: input channels `first` to `last` are these of `tensor`.

    With `resize`, `tensor` is what that node upsamples.
    """

    tensor: str
    first: int
    last: int
    resize: onnx.NodeProto | None = None


def _terms(
    editor: Editor, tensor: str, reader: onnx.NodeProto, first: int, last: int
) -> Iterator[Term]:
    """What the convolution reads, through concats, resizes, and sums that it alone reads."""
    node = editor.maker(tensor)
    alone = len(editor.readers(tensor)) == 1
    if node is not None and node.op_type == "Concat" and _joins_channels(editor, node):
        for part in node.input:
            until = first + editor.channels(part)
            yield from _terms(editor, part, node, first, until)
            first = until
    elif node is not None and node.op_type == "Add" and alone and not _broadcasts(editor, node):
        for part in node.input:
            yield from _terms(editor, part, node, first, last)
    elif node is not None and node.op_type == "Resize" and _is_linear(editor, node):
        yield Term(node.input[0], first, last, node)
    else:
        yield Term(tensor, first, last)


def _joins_channels(editor: Editor, concat: onnx.NodeProto) -> bool:
    """Whether it is known which channels come from which part."""
    return attribute(concat, "axis") == 1 and all(editor.channels(n) for n in concat.input)


def _broadcasts(editor: Editor, node: onnx.NodeProto) -> bool:
    shapes = [editor.shapes.get(name) for name in node.input]
    return any(name in editor.constants for name in node.input) or shapes[0] != shapes[1]


def _is_linear(editor: Editor, resize: onnx.NodeProto) -> bool:
    """Whether a Resize is a bilinear upsampling of two axes whose weights sum to 1.

    Sizes, where it has them, must be constants: they hold the channels.
    """
    small, large = (editor.shapes.get(n, ()) for n in (resize.input[0], resize.output[0]))
    if len(small) != 4 or len(large) != 4 or small[:2] != large[:2]:
        return False
    if not all(0 < s <= n for s, n in zip(small, large, strict=True)):
        return False
    if any(name and name not in editor.constants for name in resize.input[3:]):
        return False
    plain = not attribute(resize, "antialias", 0) and not attribute(resize, "axes")
    modes = ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric")
    where = attribute(resize, "coordinate_transformation_mode", "half_pixel")
    return plain and attribute(resize, "mode", "nearest") == "linear" and where in modes


def _attributes(node: onnx.NodeProto, **changed: Any) -> dict[str, Any]:
    return {a.name: helper.get_attribute_value(a) for a in node.attribute} | changed


def _rewrite(editor: Editor, conv: onnx.NodeProto, weight: np.ndarray, terms: list[Term]) -> None:
    """One convolution for each term, then their sum; what is upsampled is convolved before."""
    outputs, bias, total = len(weight), list(conv.input[2:]), ""
    editor.remove(conv)
    for i, term in enumerate(sorted(terms, key=lambda t: t.resize is not None)):
        name = f"{conv.name}/{i}"
        part = editor.constant(f"{conv.input[1]}/{i}", weight[:, term.first : term.last])
        names = [term.tensor, part, *(bias if i == 0 else [])]
        if term.resize is None:
            value = editor.add("Conv", name, *names, **_attributes(conv))
        else:
            low = editor.add("Conv", name, *names, **_attributes(conv, strides=[1, 1]))
            value = _upsampled(editor, low, term.resize, outputs, f"{name}/large")
            if max(attribute(conv, "strides", [1])) > 1:
                picked = {"kernel_shape": [1, 1], "strides": attribute(conv, "strides")}
                value = editor.add("MaxPool", f"{name}/picked", value, **picked)
        total = editor.add("Add", f"{name}/sum", total, value) if total else value
    editor.rename(total, conv.output[0])


def _upsampled(
    editor: Editor, tensor: str, resize: onnx.NodeProto, channels: int, name: str
) -> str:
    """`tensor` by a copy of `resize`, which may give its sizes with the channels among them."""
    names = [tensor, *resize.input[1:]]
    if len(names) > 3 and names[3]:
        sizes = editor.constants[names[3]].copy()
        if len(sizes) == 4:
            sizes[1] = channels
            names[3] = editor.constant(f"{names[3]}/{channels}", sizes)
    return editor.add("Resize", name, *names, **_attributes(resize))


def _split_depthwise(
    editor: Editor, conv: onnx.NodeProto, join: onnx.NodeProto, weight: np.ndarray
) -> None:
    first, parts = 0, []
    editor.remove(conv)
    for i, tensor in enumerate(join.input):
        last = first + editor.channels(tensor)
        names = [tensor, editor.constant(f"{conv.input[1]}/{i}", weight[first:last])]
        if len(conv.input) > 2:
            bias = editor.constants[conv.input[2]][first:last]
            names.append(editor.constant(f"{conv.input[2]}/{i}", bias))
        part = editor.add(
            "Conv", f"{conv.name}/{i}", *names, **_attributes(conv, group=last - first)
        )
        parts.append(part)
        first = last
    editor.add("Concat", conv.output[0], *parts, axis=1)
