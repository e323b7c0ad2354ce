"""A foreign ONNX file goes the same way as our own models, and says what numpy says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from engine_folders import tiny_onnx
from networks import CLASSES, blobs, frames, labels_of, silent
from onnx import TensorProto, helper, numpy_helper

from edgeseg.bundle import InputSpec, read_manifest
from edgeseg.errors import GraphError, UsageError
from edgeseg.export.foreign import adopt
from edgeseg.export.gate import Budget
from edgeseg.export.simplify import simplify
from edgeseg.export.targets import EXPORTERS
from edgeseg.graph import (
    check_interface,
    convolutions,
    count_macs,
    count_params,
    name_nodes,
    read_graph,
)
from edgeseg.pipeline.export import export_network
from edgeseg.pipeline.floats import make_float
from edgeseg.pipeline.plan import Plan, Source
from edgeseg.pipeline.quantise import Quantiser, calibrate

pytestmark = [pytest.mark.rooms, pytest.mark.usefixtures("one_thread")]

SIZE = (16, 24)
MEAN, STD = (120.0, 110.0, 100.0), (60.0, 61.0, 62.0)
SPEC = InputSpec("rgb", MEAN, STD, size=SIZE)
RANDOM = np.random.default_rng(11)
FIRST = RANDOM.normal(size=(5, 3, 1, 1)).astype(np.float32)
SECOND = RANDOM.normal(size=(12, 5, 1, 1)).astype(np.float32)
SECOND[11] *= 30  # void, behind the classes, is often the largest
EYE = [f"d{i}" for i in range(4)]


def foreign(
    path: Path,
    *,
    stride: int = 1,
    labels: str | None = None,
    shape: list[object] | None = None,
    opset: int = 17,
    inputs: int = 1,
    outputs: int = 1,
    channels: int = 12,
    kind: int = TensorProto.FLOAT,
) -> Path:
    """Conv 1x1, Relu, Conv 1x1 (and pooling by `stride`); `labels` "NHW" or "N1HW" adds ArgMax."""
    nodes = [
        helper.make_node("Conv", ["x", "first"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "second"], ["logits"]),
    ]
    last = "logits"
    if stride != 1:
        nodes.append(helper.make_node("AveragePool", ["logits"], ["pooled"], strides=[stride] * 2,
                                      kernel_shape=[stride] * 2))  # fmt: skip
        last = "pooled"
    given = [helper.make_tensor_value_info("x", kind, shape or ["batch", 3, "height", "width"])]
    given += [helper.make_tensor_value_info("y", kind, [1])] * (inputs - 1)
    result = helper.make_tensor_value_info(last, TensorProto.FLOAT, EYE)
    if labels:
        keep = int(labels == "N1HW")
        nodes.append(helper.make_node("ArgMax", [last], ["ids"], axis=1, keepdims=keep))
        result = helper.make_tensor_value_info("ids", TensorProto.INT64, EYE[: 3 + keep])
    made = [result] + [helper.make_tensor_value_info("b", TensorProto.FLOAT, EYE)] * (outputs - 1)
    constants = [
        numpy_helper.from_array(FIRST, "first"),
        numpy_helper.from_array(SECOND[:channels], "second"),
    ]
    graph = helper.make_graph(nodes, "foreign", given, made, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    path.parent.mkdir(exist_ok=True)
    onnx.save(model, path)
    return path


def numpys(images: np.ndarray, stride: int = 1, classes: int = 11) -> np.ndarray:
    """The foreign network by hand: normalise, two products, mean of stride x stride, argmax."""
    x = (images.astype(np.float64) - MEAN) / STD
    logits = np.maximum(x @ FIRST[:, :, 0, 0].T, 0) @ SECOND[:, :, 0, 0].T
    n, h, w, c = logits.shape
    pooled = logits.reshape(n, h // stride, stride, w // stride, stride, c).mean((2, 4))
    return pooled[..., :classes].argmax(-1).astype(np.uint8)


def images(count: int) -> np.ndarray:
    return np.stack([blobs(900 + i, SIZE)[0] for i in range(count)])


def source(path: Path, **changes: object) -> Source:
    fields = {"size": SIZE, "order": "rgb", "classes": "camvid11", "mean": MEAN, "std": STD}
    return Source(str(path), **(fields | changes))  # type: ignore[arg-type]


def exported(path: Path, target: str, precision: str, out: Path, **changes: object) -> Path:
    network = make_float(source(path, **changes), frames(), silent)
    quantiser = None
    if precision == "int8":
        quantiser = Quantiser(network, calibrate(network, frames(8, seed=300), "mse", silent))
    plan = Plan(target, precision, budget=Budget(100, 100))
    export_network(network, quantiser, plan, out, silent)
    return out


@pytest.mark.parametrize("target", EXPORTERS)
@pytest.mark.parametrize(
    "form",
    [{}, {"stride": 2}, {"labels": "NHW", "channels": 11}, {"labels": "N1HW", "channels": 11}],
    ids=["logits", "stride 2", "labels NHW", "labels N1HW"],
)
def test_it_says_what_numpy_says(target, form, tmp_path):
    path = foreign(tmp_path / "in" / "net.onnx", **form)
    folder = exported(path, target, "fp32", tmp_path / "out")
    stride = form.get("stride", 1)
    labels = labels_of(folder, images(4))
    expected = numpys(images(4), stride)
    assert labels.shape == expected.shape == (4, SIZE[0] // stride, SIZE[1] // stride)
    assert (labels == expected).mean() > 0.998
    assert len(np.unique(expected)) >= 4
    manifest = read_manifest(folder)
    assert (manifest.name, manifest.table) == ("net", CLASSES)
    assert (manifest.output.kind, manifest.output.stride) == ("labels", stride)
    assert manifest.history == ("foreign net.onnx", f"export --target {target} --precision fp32")
    params = 5 * 3 + form.get("channels", 12) * 5
    assert (manifest.params, manifest.macs) == (params, params * 16 * 24)
    assert manifest.gate.against == "ground truth"


@pytest.mark.parametrize("target", EXPORTERS)
def test_it_becomes_int8_and_fp16(target, tmp_path):
    path = foreign(tmp_path / "in" / "net.onnx")
    for precision in ("int8", "fp16"):
        folder = exported(path, target, precision, tmp_path / precision)
        assert (labels_of(folder, images(4)) == numpys(images(4))).mean() > 0.93
    found = read_manifest(tmp_path / "int8").quantisation
    assert (found.convolutions, found.float_layers) == (2, ())


def test_void_is_cut_off(tmp_path):
    """Argmax over all 12 outputs would often be void."""
    assert (numpys(images(4), classes=12) == 11).mean() > 0.3
    folder = exported(foreign(tmp_path / "net.onnx"), "onnxruntime", "fp32", tmp_path / "out")
    assert labels_of(folder, images(4)).max() <= 10


def test_a_surplus_output_is_left_out(tmp_path):
    path = foreign(tmp_path / "in" / "net.onnx", outputs=2)
    folder = exported(path, "onnxruntime", "fp32", tmp_path / "out")
    assert [o.name for o in onnx.load(folder / "network.onnx").graph.output] == ["labels"]
    assert (labels_of(folder, images(2)) == numpys(images(2))).mean() > 0.998


def test_frames_in_bgr(tmp_path):
    """The network wants BGR: mean and std are in that order, frames come so."""
    path = foreign(tmp_path / "in" / "net.onnx")
    folder = exported(path, "onnxruntime", "fp32", tmp_path / "out", order="bgr")
    assert read_manifest(folder).input.order == "bgr"
    assert (labels_of(folder, images(2)) == numpys(images(2))).mean() > 0.998


def test_batches(tmp_path):
    path = foreign(tmp_path / "in" / "net.onnx")
    folder = exported(path, "onnxruntime", "fp32", tmp_path / "out", batch=2)
    assert read_manifest(folder).input.batch == 2
    assert (labels_of(folder, images(4), batch=2) == numpys(images(4))).mean() > 0.998


def test_our_own_interface_passes_as_it_is(tmp_path):
    tiny_onnx(tmp_path / "own.onnx", SIZE)
    model = adopt(tmp_path / "own.onnx", SPEC, 3)
    assert model.SerializeToString() == onnx.load(tmp_path / "own.onnx").SerializeToString()


@pytest.mark.parametrize("opset", [9, 11, 12])
def test_an_old_opset_is_brought_up(opset, tmp_path):
    """Per-channel scales need 13; most files of 2020 have 11."""
    path = foreign(tmp_path / "in" / "net.onnx", opset=opset)
    assert [o.version for o in adopt(path, SPEC, 11).opset_import] == [13]
    folder = exported(path, "onnxruntime", "int8", tmp_path / "out")
    assert (labels_of(folder, images(2)) == numpys(images(2))).mean() > 0.93


def test_local_functions_are_written_out(tmp_path):
    path = foreign(tmp_path / "net.onnx")
    model = onnx.load(path)
    body = [helper.make_node("Relu", ["u"], ["v"])]
    own = helper.make_function("own", "Rectify", ["u"], ["v"], body,
                               [helper.make_opsetid("", 17)])  # fmt: skip
    model.functions.append(own)
    model.graph.node[1].op_type, model.graph.node[1].domain = "Rectify", "own"
    model.opset_import.append(helper.make_opsetid("own", 1))
    onnx.save(model, path)
    folder = exported(path, "onnxruntime", "fp32", tmp_path / "out")
    assert (labels_of(folder, images(2)) == numpys(images(2))).mean() > 0.998


# Refusals


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ({"inputs": 2}, "has 2 inputs and 1 outputs; a segmentation network has one image input"),
        ({"opset": 19}, "has opset 19; export it with opset 18 or lower"),
        ({"opset": 21}, "has opset 21; export it with opset 18 or lower"),
        ({"channels": 10}, "output 'network.logits' has shape [1, 10, 16, 24]; expected logits "
         "(N, C, h, w) with C of at least 11 (the class table), or integer labels (N, h, w)"),
        ({"shape": [1, 3, 32, 32]}, "input 'x' is fixed at [1, 3, 32, 32]; export at "
         "--size 32x32 --batch 1"),
        ({"shape": ["n", 3, 16, 25]}, "input 'x' is fixed at [0, 3, 16, 25]; export at "
         "--size 16x25 --batch 1"),
        ({"shape": [4, 3, "h", "w"]}, "input 'x' is fixed at [4, 3, 0, 0]; export at "
         "--size 16x24 --batch 4"),
        ({"shape": [1, 1, 16, 24]}, "input 'x' has shape [1, 1, 16, 24]; expected float32 "),
        ({"shape": [1, 16, 24, 3]}, "input 'x' has shape [1, 16, 24, 3]; expected float32 "),
        ({"kind": TensorProto.DOUBLE}, "input 'x' has shape [0, 3, 0, 0]; expected float32 "),
        ({"kind": TensorProto.FLOAT16}, "input 'x' has shape [0, 3, 0, 0]; expected float32 "),
    ],
)  # fmt: skip
def test_what_can_not_be_adopted(form, said, tmp_path):
    path = foreign(tmp_path / "net.onnx", **form)
    with pytest.raises(GraphError) as refused:
        adopt(path, SPEC, 11)
    assert str(refused.value).startswith(f"{path}: {said}")
    assert "\n" not in str(refused.value)


def test_an_operator_that_is_unknown(tmp_path):
    path = foreign(tmp_path / "net.onnx")
    model = onnx.load(path)
    model.graph.node[1].op_type = "Relux"
    onnx.save(model, path)
    with pytest.raises(GraphError, match=r"net\.onnx: truncated or no valid ONNX file \("):
        adopt(path, SPEC, 11)


def test_an_opset_that_can_not_be_brought_up(tmp_path):
    path = foreign(tmp_path / "net.onnx", opset=7)
    model = onnx.load(path)
    model.graph.node[1].op_type = "Scan"
    model.graph.node[1].attribute.append(helper.make_attribute("num_scan_inputs", 1))
    path.write_bytes(model.SerializeToString())
    with pytest.raises(GraphError, match=r"net\.onnx: (has opset 7, which can't|truncated or no)"):
        adopt(path, SPEC, 11)


def test_our_own_interface_at_another_size(tmp_path):
    tiny_onnx(tmp_path / "own.onnx", (8, 16))
    with pytest.raises(GraphError) as refused:
        adopt(tmp_path / "own.onnx", SPEC, 3)
    assert str(refused.value) == (
        f"{tmp_path}/own.onnx: uint8 graph with ['image', 'labels'] and input [1, 8, 16, 3]; "
        "expected 'image' of [1, 16, 24, 3] and one output 'labels'"
    )


def test_truncated_and_other_files(tmp_path):
    whole = foreign(tmp_path / "net.onnx").read_bytes()
    path = tmp_path / "part.onnx"
    for content in (b"", whole[: len(whole) // 2], whole[:-20], b"text\n", b"\x89PNG\r\n"):
        path.write_bytes(content)
        with pytest.raises(GraphError) as refused:
            adopt(path, SPEC, 11)
        assert str(refused.value).startswith(f"{path}: truncated or no valid ONNX file (")
        assert "\n" not in str(refused.value)
    with pytest.raises(GraphError, match=r"no\.onnx: no such ONNX file$"):
        adopt(tmp_path / "no.onnx", SPEC, 11)


def test_no_size(tmp_path):
    with pytest.raises(GraphError, match="give --size HEIGHTxWIDTH"):
        adopt(foreign(tmp_path / "net.onnx"), InputSpec("rgb", MEAN, STD), 11)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"classes": None, "size": None}, "a foreign ONNX file needs --classes, --size too"),
        ({"mean": None}, "a foreign ONNX file needs --mean too"),
        ({"std": None, "order": None}, "a foreign ONNX file needs --std, --input-order too"),
        ({"scores": True}, "a foreign ONNX file is exported with labels; leave --output scores "),
        ({"classes": "camvid"}, "unknown class table 'camvid'. Did you mean 'camvid11'?"),
        ({"std": (0.0, 1.0, 1.0)}, "--std is 0,1,1; expected positive numbers"),
    ],
)
def test_what_a_foreign_file_needs(changes, said, tmp_path):
    path = foreign(tmp_path / "net.onnx")
    with pytest.raises(UsageError) as refused:
        make_float(source(path, **changes), frames(), silent)
    assert str(refused.value).startswith(said)


def test_labels_outside_the_table(tmp_path):
    """Twelve outputs and argmax in the file: void can't be cut off, so the table is wrong."""
    path = foreign(tmp_path / "net.onnx", labels="NHW", channels=12)
    with pytest.raises(GraphError) as refused:
        make_float(source(path), frames(), silent)
    assert str(refused.value) == (
        f"{path}: gives label 11, and the class table 'camvid11' has 11 classes (0 to 10); "
        "give the table of this network"
    )


def test_a_foreign_network_of_no_convolution(tmp_path):
    tiny_onnx(tmp_path / "own.onnx", SIZE)
    model = onnx.load(tmp_path / "own.onnx")
    conv = next(n for n in model.graph.node if n.op_type == "Conv")
    conv.op_type = "Identity"
    del conv.input[1:]
    onnx.save(model, tmp_path / "own.onnx")
    network = make_float(source(tmp_path / "own.onnx"), frames(), silent)
    with pytest.raises(UsageError, match="own has no convolution that INT8 could take"):
        calibrate(network, frames(4), "mse", silent)


# Graphs


def test_counting_by_pencil(tmp_path):
    """Gemm 6 x 7 and MatMul (2, 3, 4) by (4, 5), a strided and a grouped convolution."""
    shapes = {"image": [1, 8, 8, 8], "wg": [8, 4, 3, 3], "wd": [8, 2, 2, 2], "b": [8]}
    nodes = [
        helper.make_node("Conv", ["image", "wg", "b"], ["c"], group=2, strides=[2, 2],
                         pads=[1, 1, 1, 1]),
        helper.make_node("ConvTranspose", ["c", "wd"], ["d"], strides=[2, 2]),
        helper.make_node("Relu", ["d"], ["labels"]),
    ]  # fmt: skip
    constants = [
        numpy_helper.from_array(np.ones(shapes[n], np.float32), n) for n in ("wg", "wd", "b")
    ]
    given = helper.make_tensor_value_info("image", TensorProto.FLOAT, shapes["image"])
    made = helper.make_tensor_value_info("labels", TensorProto.FLOAT, [1, 2, 8, 8])
    graph = helper.make_graph(nodes, "g", [given], [made], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    # 8 outputs of 3x3 over 4 inputs each at 4x4; 8 x 2 outputs of 2x2 for each of 4x4 pixels
    assert count_macs(model) == (8 * 4 * 9 * 16 + 8 * 2 * 4 * 16, {"Relu": 1})
    assert count_params(model) == 8 * 4 * 9 + 8 + 8 * 2 * 4


def test_names_are_unique_and_interfaces_stay(tmp_path):
    model = adopt(foreign(tmp_path / "net.onnx"), SPEC, 11)
    slim = simplify(model)
    name_nodes(slim)
    names = [n.name for n in slim.graph.node]
    assert len(set(names)) == len(names)
    assert names[:2] == ["cast", "transpose"]
    check_interface(slim, "net")
    onnx.checker.check_model(slim, full_check=True)
    assert len(convolutions(slim)) == 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda g: setattr(g.input[0], "name", "x"), "expected one input 'image' of uint8, found"),
        (lambda g: setattr(g.output[0], "name", "ids"), "expected one output, labels or scores; "),
        (lambda g: setattr(g.input[0].type.tensor_type, "elem_type", 1), "expected one input 'im"),
    ],
)
def test_another_interface_is_refused(change, said, tmp_path):
    tiny_onnx(tmp_path / "own.onnx", SIZE)
    model = read_graph(tmp_path / "own.onnx")
    change(model.graph)
    with pytest.raises(GraphError) as refused:
        check_interface(model, "own")
    assert str(refused.value).startswith(f"own: {said}")


def test_simplify_refuses_a_high_opset(tmp_path):
    path = foreign(tmp_path / "net.onnx", opset=19)
    with pytest.raises(GraphError) as refused:
        simplify(onnx.load(path))
    assert str(refused.value) == (
        "the graph has opset 19; export it with opset 18 or lower, which every target reads"
    )
