"""The frame in INT8 without rounding: pixel - 128 at scale 1 is an int8 already.

The exported graph normalises the frame, (pixel - mean) / std, and quantising that rounds by up to
half a grey level; with the image's small contrasts, labels follow (published ESPNet, CamVid frames
at 256x512: 1.6 % of them). Normalisation goes into the weights of the convolutions behind it:
W (p - mean) / std = (W / std) (p - 128) + sum (W / std) (128 - mean).

The last sum is a bias, but only where all of the convolution's window lies in the frame: around it
is the convolution's padding, zeros, which are pixels of the mean colour. So where there is padding
the sum goes into weights of its own, for channels that are constant in the frame and 0 around it.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgeseg.graph import initializers

PIXELS = "pixels"
"""The tensor `pixel - 128`."""
INSIDE = "pixels/inside"
"""The same with further channels that are constant: in a padded one they say where the frame is."""
RANGE = 127.0
"""Its range, so that its scale is 1."""
MIDDLE = 128.0


def read_pixels(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose convolutions of the normalised frame read `pixel - 128`, with the same results.

    Other readers of the normalised frame stay as they are.
    """
    rewritten = onnx.ModelProto()
    rewritten.CopyFrom(model)
    found = _normalised(rewritten)
    if found is None:
        return rewritten
    planes, normal, mean, scale = found
    graph = rewritten.graph
    constants = initializers(rewritten)
    convs = [n for n in graph.node if n.op_type == "Conv" and n.input[0] == normal]
    convs = [n for n in convs if _is_plain(n, constants)]
    if not convs:
        return rewritten
    nodes = [_shifted(graph, planes)]
    weights = [constants[n.input[1]] * scale.reshape(1, -1, 1, 1) for n in convs]
    middles = [(w * (MIDDLE - mean).reshape(1, -1, 1, 1)).sum(1, keepdims=True) for w in weights]
    padded = [any(_pads(n)) for n in convs]
    if any(padded):
        pairs = [(w, m) for w, m, p in zip(weights, middles, padded, strict=True) if p]
        count, value = _constant_channels(pairs)
        nodes.append(_inside(graph, count, value))
    for conv, weight, middle, pads in zip(convs, weights, middles, padded, strict=True):
        if pads:
            shares = np.repeat(middle / (count * value), count, axis=1)
            _replace(graph, conv, INSIDE, np.concatenate([weight, shares], axis=1), None)
        else:
            _replace(graph, conv, PIXELS, weight, middle.sum((1, 2, 3)))
    at = next(i for i, n in enumerate(graph.node) if planes in n.output) + 1
    ordered = [*list(graph.node)[:at], *nodes, *list(graph.node)[at:]]
    del graph.node[:]
    graph.node.extend(ordered)
    _drop_dead(graph)
    return rewritten


def is_pixels(tensor: str) -> bool:
    """Whether a tensor is `pixel - 128`, with constant channels or without."""
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


def _constant_channels(pairs: list[tuple[np.ndarray, np.ndarray]]) -> tuple[int, int]:
    """How many constant channels, and their value of 1 to 127.

    As small as can be without their weights outgrowing those of the pixels, with which they share
    the scale of an output channel.
    """
    need = 1.0
    for weight, middle in pairs:
        largest, own = (np.abs(w).max(axis=(1, 2, 3)) for w in (weight, middle))
        need = max(need, float((own / np.where(largest > 0, largest, np.inf)).max()))
    count = int(np.ceil(need / RANGE))
    return count, int(np.ceil(need / count))


def _inside(graph: onnx.GraphProto, count: int, value: int) -> onnx.NodeProto:
    channels = _constant(graph, f"{INSIDE}/channels", np.array([0, 0, 0, 0, 0, count, 0, 0]))
    filled = _constant(graph, f"{INSIDE}/value", np.array(value, np.float32))
    return helper.make_node("Pad", [PIXELS, channels, filled], [INSIDE], name=INSIDE)


def _replace(
    graph: onnx.GraphProto,
    conv: onnx.NodeProto,
    source: str,
    weight: np.ndarray,
    shift: np.ndarray | None,
) -> None:
    """Let `conv` read `source` by `weight`, with `shift` added to its bias."""
    names = [source, _constant(graph, f"{conv.input[1]}/pixels", weight.astype(np.float32))]
    bias = conv.input[2] if len(conv.input) > 2 else ""
    if shift is not None:
        old = {t.name: t for t in graph.initializer}
        total = shift + (numpy_helper.to_array(old[bias]) if bias else 0)
        bias = _constant(graph, f"{conv.name}/bias/pixels", total.astype(np.float32))
    conv.input[:] = [*names, bias] if bias else names


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
