"""Red and blue are swapped in the weights that read the frame, not in the frame.

A graph that takes the other channel order than the network was trained with gathers the channels of
the whole frame. The convolutions behind the normalisation take over the order instead. OpenVINO
does so by itself, but not rightly where the frame has a further channel, as in INT8.
"""

from __future__ import annotations

import numpy as np
import onnx

from edgeseg.export.editing import Editor, attribute

ELEMENTWISE = ("Sub", "Mul", "Add", "Div")


def fold_swap(editor: Editor) -> None:
    """The Gather that reorders the channels of the frame goes, where convolutions alone read it."""
    turn = next((n for n in editor.nodes if n.op_type == "Transpose"), None)
    swap = editor.only_reader(turn.output[0], "Gather") if turn is not None else None
    if swap is None or attribute(swap, "axis", 0) != 1:
        return
    order = editor.constants.get(swap.input[1])
    if order is None or sorted(order.reshape(-1).tolist()) != [0, 1, 2]:
        return
    if editor.channels(swap.input[0]) != 3:
        return
    back = np.argsort(order.reshape(-1))
    tensor, chain = swap.output[0], []
    while (node := editor.only_reader(tensor, *ELEMENTWISE)) is not None:
        chain.append(node)
        tensor = node.output[0]
    convs = editor.readers(tensor)
    if convs and all(_follows(editor, n) for n in chain) and all(_takes(editor, n) for n in convs):
        for node in chain:
            _reorder(editor, node, back, swap)
        for conv in convs:
            weight = editor.constants[conv.input[1]][:, back]
            name = editor.constant(f"{conv.input[1]}/swapped", weight)
            editor.rewire(conv, conv.input[0], name, *conv.input[2:])
        editor.remove(swap)


def _follows(editor: Editor, node: onnx.NodeProto) -> bool:
    """Whether the other input is a constant, one for each channel or one for all."""
    others = [editor.constants[n] for n in node.input if n in editor.constants]
    return len(others) == 1 and (others[0].size == 1 or others[0].shape[-3:] == (3, 1, 1))


def _takes(editor: Editor, node: onnx.NodeProto) -> bool:
    known = node.op_type == "Conv" and node.input[1] in editor.constants
    return known and attribute(node, "group", 1) == 1


def _reorder(editor: Editor, node: onnx.NodeProto, back: np.ndarray, swap: onnx.NodeProto) -> None:
    for index, name in enumerate(node.input):
        value = editor.constants.get(name)
        if name == swap.output[0]:
            node.input[index] = swap.input[0]
        elif value is not None and value.size == len(back):
            moved = np.take(value, back, value.ndim - 3)
            node.input[index] = editor.constant(f"{name}/swapped", moved)
    editor.rewire(node, *node.input)
