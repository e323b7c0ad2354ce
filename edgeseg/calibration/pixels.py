"""The frame in INT8 without rounding: pixel - 128 at scale 1 is an int8 already.

The exported graph normalises the frame, (pixel - mean) / std, and quantising that rounds by up to
half a grey level; with the image's small contrasts, labels follow (published ESPNet, CamVid frames
at 256x512: 1.6 % of them). Normalisation goes into the weights of the convolutions behind it:
W (p - mean) / std = (W / std) (p - 128) + sum (W / std) (128 - mean).
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgeseg.graph import initializers

PIXELS = "pixels"
"""The tensor `pixel - 128`; with a convolution's padding around it
`pixels/padded/TOP/LEFT/BOTTOM/RIGHT`."""
RANGE = 127.0
"""Its range, so that its scale is 1."""
MIDDLE = 128.0


def read_pixels(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose convolutions of the normalised frame read `pixel - 128` instead.

    A convolution pads the normalised frame with zeros, which are pixels of the mean colour. They
    are padded here as pixels of one grey, the mean of the mean colour: in the outermost rows and
    columns results differ by what that grey differs from the mean colour, elsewhere they are the
    same. Other readers of the normalised frame stay as they are.
    """
    rewritten = onnx.ModelProto()
    rewritten.CopyFrom(model)
    found = _normalised(rewritten)
    if found is None:
        return rewritten
    planes, normal, mean, scale = found
    graph = rewritten.graph
    convs = [n for n in graph.node if n.op_type == "Conv" and n.input[0] == normal]
    convs = [n for n in convs if _is_plain(n, initializers(rewritten))]
    if not convs:
        return rewritten
    nodes = [_shifted(graph, planes)]
    padded: dict[tuple[int, ...], str] = {(0, 0, 0, 0): PIXELS}
    for conv in convs:
        pads = _pads(conv)
        if pads not in padded:
            padded[pads] = "/".join([PIXELS, "padded", *map(str, pads)])
            grey = float(np.rint(mean.mean())) - MIDDLE
            nodes.append(_padded(graph, padded[pads], pads, grey))
        _fold(graph, conv, padded[pads], mean, scale)
    at = next(i for i, n in enumerate(graph.node) if planes in n.output) + 1
    ordered = [*list(graph.node)[:at], *nodes, *list(graph.node)[at:]]
    del graph.node[:]
    graph.node.extend(ordered)
    _drop_dead(graph)
    return rewritten


def is_pixels(tensor: str) -> bool:
    """Whether a tensor is `pixel - 128`, padded or not."""
    return tensor.partition("/")[0] == PIXELS


def _normalised(model: onnx.ModelProto) -> tuple[str, str, np.ndarray, np.ndarray] | None:
    """(planes, normalised, mean, scale) of image -> Cast -> Transpose -> Sub -> Mul or Div.

    Channels may be reversed by a Gather before the Sub.
    """
    constants = initializers(model)
    tensor, nodes = "image", []
    for kinds in (("Cast",), ("Transpose",), ("Gather",), ("Sub",), ("Mul", "Div")):
        readers = [n for n in model.graph.node if tensor in n.input and n.op_type in kinds]
        if kinds == ("Gather",) and not readers:
            continue
        if len(readers) != 1:
            return None
        nodes.append(readers[0])
        tensor = readers[0].output[0]
    sub, last = nodes[-2:]
    if sub.input[1] not in constants or last.input[1] not in constants:
        return None
    mean, scale = (constants[n.input[1]].astype(np.float64).reshape(-1) for n in (sub, last))
    if len(mean) not in (1, 3) or len(scale) not in (1, 3):
        return None
    mean, scale = np.broadcast_to(mean, 3), np.broadcast_to(scale, 3)
    return sub.input[0], tensor, mean, 1 / scale if last.op_type == "Div" else scale


def _is_plain(conv: onnx.NodeProto, constants: dict[str, np.ndarray]) -> bool:
    values = {a.name: a for a in conv.attribute}
    grouped = "group" in values and values["group"].i != 1
    automatic = "auto_pad" in values and values["auto_pad"].s not in (b"", b"NOTSET")
    return conv.input[1] in constants and not grouped and not automatic


def _pads(conv: onnx.NodeProto) -> tuple[int, ...]:
    return next((tuple(a.ints) for a in conv.attribute if a.name == "pads"), (0, 0, 0, 0))


def _constant(graph: onnx.GraphProto, name: str, value: np.ndarray) -> str:
    graph.initializer.append(numpy_helper.from_array(value, name))
    return name


def _shifted(graph: onnx.GraphProto, planes: str) -> onnx.NodeProto:
    middle = _constant(graph, f"{PIXELS}/middle", np.array(MIDDLE, np.float32))
    return helper.make_node("Sub", [planes, middle], [PIXELS], name=PIXELS)


def _padded(
    graph: onnx.GraphProto, name: str, pads: tuple[int, ...], grey: float
) -> onnx.NodeProto:
    top, left, bottom, right = pads
    sides = _constant(graph, f"{name}/sides", np.array([0, 0, top, left, 0, 0, bottom, right]))
    value = _constant(graph, f"{name}/grey", np.array(grey, np.float32))
    return helper.make_node("Pad", [PIXELS, sides, value], [name], name=name)


def _fold(
    graph: onnx.GraphProto, conv: onnx.NodeProto, source: str, mean: np.ndarray, scale: np.ndarray
) -> None:
    """Let `conv` read `source`; scale and mean go into its weights and bias."""
    constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    weight = constants[conv.input[1]] * scale.reshape(1, -1, 1, 1)
    bias = (weight * (MIDDLE - mean).reshape(1, -1, 1, 1)).sum(axis=(1, 2, 3))
    if len(conv.input) > 2 and conv.input[2]:
        bias = bias + constants[conv.input[2]]
    names = [f"{conv.input[1]}/pixels", f"{conv.name}/bias/pixels"]
    _constant(graph, names[0], weight.astype(np.float32))
    _constant(graph, names[1], bias.astype(np.float32))
    conv.input[:] = [source, *names]
    for attribute in conv.attribute:
        if attribute.name == "pads":
            attribute.ints[:] = [0] * len(attribute.ints)


def _drop_dead(graph: onnx.GraphProto) -> None:
    """Remove nodes and constants that nothing reads any more."""
    while True:
        read = {n for node in graph.node for n in node.input} | {o.name for o in graph.output}
        kept = [n for n in graph.node if any(o in read for o in n.output)]
        if len(kept) == len(graph.node):
            break
        del graph.node[:]
        graph.node.extend(kept)
    constants = [t for t in graph.initializer if t.name in read]
    del graph.initializer[:]
    graph.initializer.extend(constants)
