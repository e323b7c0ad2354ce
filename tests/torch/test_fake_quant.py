"""INT8 while training, by pencil; what is distilled; who learns at which rate."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from edgeseg.bundle import ModelSpec, OutputSpec
from edgeseg.calibration import qdq
from edgeseg.calibration.placement import placement
from edgeseg.labels import CLASS_TABLES
from edgeseg.models.network import Bilinear
from edgeseg.training import fake_quant, qat
from edgeseg.training.batches import Batch
from edgeseg.training.fake_quant import QuantisedModule, RoundActivation, RoundWeight
from edgeseg.training.losses import CrossEntropy
from edgeseg.training.optimizer import parameter_groups, set_rate
from edgeseg.training.plan import LossPlan, QatPlan, Recipe

pytestmark = pytest.mark.torch


def test_the_scheme_is_that_of_the_writer():
    assert (fake_quant.LEVELS, fake_quant.SMALLEST) == (qdq.LEVELS, qdq.SMALLEST)


def test_activations_round_half_to_even_and_clip():
    """Scale 0.5: levels 0.5, 1.5, -0.5 and 2.6 round to 0, 2, 0, 3; 200 and -200 clip."""
    values = torch.tensor([0.25, 0.75, -0.25, 1.3, 100.0, -100.0], requires_grad=True)
    scale = torch.tensor(0.5, requires_grad=True)
    found = RoundActivation.apply(values, scale)
    assert found.tolist() == [0.0, 1.0, 0.0, 1.5, 63.5, -64.0]
    found.sum().backward()
    assert values.grad.tolist() == [1, 1, 1, 1, 0, 0]
    # rounding errors of the first four, then the two bounds
    assert math.isclose(float(scale.grad), -0.5 + 0.5 + 0.5 + 0.4 + 127 - 128, abs_tol=1e-5)


def test_weights_round_by_the_largest_pair_of_each_output_channel():
    """Scales 1.5/127 (1 + 0.5) and 2/127; a channel of zeros stays zero; all gradients pass."""
    weight = torch.tensor([[1.0, 0.5, 0.0], [-0.3, 2.0, 0.0]], requires_grad=True)
    found = RoundWeight.apply(weight, 0)
    levels = torch.tensor([[85, 42, 0], [-19, 127, 0]])
    assert torch.allclose(found, levels * torch.tensor([[1.5 / 127], [2 / 127]]), atol=1e-7)
    turned = RoundWeight.apply(weight.T, 1)
    assert torch.equal(turned, found.T)
    assert RoundWeight.apply(torch.zeros(2, 3), 0).tolist() == [[0] * 3] * 2
    found.sum().backward()
    assert weight.grad.tolist() == [[1] * 3] * 2


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("shape", [(4, 1, 3, 3), (3, 5, 1, 1), (6, 4, 3, 1)])
def test_weights_are_rounded_as_the_writer_rounds_them(shape, axis):
    weight = np.random.default_rng(7).normal(size=shape).astype(np.float32)
    scales = qdq.weight_scales(weight, axis)
    levels = qdq.round_weight(weight, scales, axis)
    spread = scales.reshape([-1 if i == axis else 1 for i in range(4)])
    found = RoundWeight.apply(torch.from_numpy(weight), axis).numpy()
    assert np.allclose(found, levels * spread, atol=1e-6)


RANDOM = np.random.default_rng(5)
# fmt: off
WEIGHTS = {
    "a.weight": RANDOM.normal(size=(8, 3, 1, 1)) / 255,
    "b.weight": RANDOM.normal(size=(5, 8, 1, 1)),
    "b.bias":   RANDOM.normal(size=5),
    "c.weight": RANDOM.normal(size=(5, 8, 1, 1)) * 3,
}
# fmt: on


def tiny() -> onnx.ModelProto:
    """image (4x6) -> planes -> a 1x1 of 8 channels -> relu -> b and c, which share relu -> sum."""
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], "cast", to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["planes"], "planes", perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["planes", "a.weight"], ["a"], "a"),
        helper.make_node("Relu", ["a"], ["relu"], "relu"),
        helper.make_node("Conv", ["relu", "b.weight", "b.bias"], ["b"], "b"),
        helper.make_node("Conv", ["relu", "c.weight"], ["c"], "c"),
        helper.make_node("Add", ["b", "c"], ["sum"], "sum"),
        helper.make_node("ArgMax", ["sum"], ["ids"], "argmax", axis=1, keepdims=0),
        helper.make_node("Cast", ["ids"], ["labels"], "labels", to=TensorProto.UINT8),
    ]
    arrays = [numpy_helper.from_array(v.astype(np.float32), n) for n, v in WEIGHTS.items()]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, [1, 4, 6, 3])
    labels = helper.make_tensor_value_info("labels", TensorProto.UINT8, [1, 4, 6])
    graph = helper.make_graph(nodes, "tiny", [image], [labels], arrays)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def quantised(**ranges: float) -> QuantisedModule:
    model = tiny()
    given = {"planes": 127.0, "relu": 0.5, **ranges}
    return QuantisedModule(model, "sum", placement(model), given, fixed=("planes",))


def pixels(count: int = 1) -> torch.Tensor:
    return torch.from_numpy(RANDOM.integers(0, 128, (count, 4, 6, 3)).astype(np.float32))


def test_ranges_start_as_given_learn_as_logarithms_and_fixed_ones_stay():
    module = quantised()
    start = module.ranges()
    assert list(start) == ["planes", "relu"]
    assert start["planes"] == pytest.approx(127.0)
    assert start["relu"] == pytest.approx(0.5)
    module(pixels()).square().sum().backward()
    gradient = module.log_ranges.grad
    assert gradient[0] == 0
    assert gradient[1] != 0
    module.log_ranges.data[:] = math.log(2)
    assert module.ranges()["planes"] == start["planes"]
    assert module.ranges()["relu"] == pytest.approx(1.0)


def test_a_written_range_has_exactly_the_scale_that_was_trained_with():
    module = quantised(relu=0.123456)
    module.log_ranges.data[1] = 0.0321
    written = np.float32(module.ranges()["relu"] / qdq.LEVELS)
    assert written == module._scales()[1].detach().numpy()


def test_training_finds_a_range_that_was_far_too_small():
    """Start at a tenth of what it needs; nothing but ranges learns; the float scores teach."""
    module = quantised(relu=0.05)
    frames = pixels(8)
    wanted = qat.OnnxModule(tiny(), "sum")(frames).detach()
    optimizer = torch.optim.Adam([module.log_ranges], 0.1)
    errors = []
    for _ in range(60):
        error = (module(frames) - wanted).square().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        errors.append(error.item())
    assert errors[-1] < errors[0] / 100
    assert module.ranges()["relu"] > 0.3


# The network in the loop

TABLE = CLASS_TABLES["camvid11"]
ASKED = {
    "model": "espnet_q3",
    "data": "camvid:x",
    "size": (4, 6),
    "steps": 2,
    "batch": 2,
}


def recipe(**qat_keys: object) -> Recipe:
    return Recipe(**ASKED, qat=QatPlan("start", **qat_keys))


LABELS = OutputSpec()


def opened(asked: Recipe, output: OutputSpec = LABELS, **decode: np.ndarray):
    model = tiny()
    calibrated = qat.Calibrated(
        model, model, "sum", placement(model), {"planes": 127.0, "relu": 0.5},
        ModelSpec("espnet_q3"), output, lambda *given: written.append(given),
        frozenset({"planes"}), decode,
    )  # fmt: skip
    return qat.open_calibrated(calibrated, asked, TABLE, said.append)


said: list[str] = []
written: list[tuple[object, ...]] = []


def normal(frames: torch.Tensor, asked: Recipe) -> torch.Tensor:
    mean, std = (torch.tensor(v) for v in (asked.input.mean, asked.input.std))
    return ((frames - mean) / std).permute(0, 3, 1, 2)


def test_normalised_frames_become_the_same_pixels_again():
    asked = recipe()
    network = opened(asked).model
    frames = torch.arange(256).float().repeat(3)[: 10 * 4 * 6 * 3].reshape(10, 4, 6, 3) % 128
    assert torch.equal(network(normal(frames, asked)), network.body(frames))
    assert said[-1] == "qat: 3 layers in INT8, 2 ranges to learn, of start"


def test_the_teacher_is_the_float_network():
    """KL of softened scores by hand, times the temperature squared, per pixel."""
    asked = recipe(distil=0.25, temperature=2.0)
    found = opened(asked)
    (distillation,) = found.beside
    frames = pixels(2)
    batch = Batch(normal(frames, asked), torch.zeros(2, 4, 6).long(), ("a", "b"))
    student = found.model(batch.images)
    taught = qat.OnnxModule(tiny(), "sum")(frames)
    p, q = (s.detach().double().div(2).softmax(1) for s in (taught, student))
    by_hand = 4 * (p * (p.log() - q.log())).sum(1).mean()
    term = distillation(student, batch)["distil"]
    assert (term.total / term.count).item() == pytest.approx(by_hand.item(), rel=1e-4)
    assert term.weight == 0.25
    assert float(by_hand) > 0
    term.total.backward()
    assert found.model.body.log_ranges.grad[1] != 0
    assert not opened(recipe(distil=0.0)).beside


def test_ranges_learn_at_their_own_rate_without_decay():
    found = opened(recipe(range_lr=7.0))
    groups = parameter_groups(found.model, 0.1, found.lr_shares)
    assert [len(g["params"]) for g in groups] == [3, 1, 1]
    assert groups[2]["params"][0] is found.model.body.log_ranges
    optimizer = torch.optim.SGD(groups, 1.0)
    set_rate(optimizer, 0.5)
    assert [g["lr"] for g in optimizer.param_groups] == [0.5, 0.5, 3.5]
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0.1, 0.0, 0.0]


def test_what_is_kept_are_weights_and_ranges_by_their_onnx_names(tmp_path):
    found = opened(recipe())
    found.keep(tmp_path, found.model, "manifest")
    folder, learned, manifest = written[-1]
    assert (folder, manifest) == (tmp_path, "manifest")
    assert sorted(learned.weights) == ["a.weight", "b.bias", "b.weight", "c.weight"]
    assert learned.ranges == pytest.approx({"planes": 127.0, "relu": 0.5})


@pytest.mark.parametrize("kind", ["bilinear", "bilinear_corners", "deconvolution"])
def test_a_last_layer_outside_of_the_graph_is_applied_and_not_trained(kind):
    output = OutputSpec("scores", 2, kind, 4, 2)
    decode = {}
    if kind == "deconvolution":
        decode = {
            "weight": RANDOM.normal(size=(5, 5, 4, 4)).astype(np.float32),
            "bias": RANDOM.normal(size=5).astype(np.float32),
        }
    asked = recipe()
    found = opened(asked, output, **decode)
    assert found.model.scale == 2
    frames = pixels()
    scores = found.model.body(frames)
    if decode:
        arrays = [torch.from_numpy(decode[k]) for k in ("weight", "bias")]
        wanted = torch.nn.functional.conv_transpose2d(scores, *arrays, stride=4)
    else:
        wanted = Bilinear(4, kind == "bilinear_corners")(scores)
    assert torch.equal(found.model(normal(frames, asked)), wanted)
    trained = {n for n, p in found.model.named_parameters() if p.requires_grad}
    assert trained == {n for n, _ in found.model.named_parameters() if n.startswith("body.")}


def test_cross_entropy_has_its_weight_beside_the_teacher():
    from edgeseg.training.branches import build_loss

    asked = recipe(cross_entropy=0.5)
    found = opened(asked)
    loss = build_loss(asked, found.model, 5, None, found.beside)
    batch = Batch(normal(pixels(), asked), torch.ones(1, 4, 6).long(), ("a",))
    outputs = found.model(batch.images)
    terms = loss(outputs, batch)
    alone = CrossEntropy(LossPlan(), 5)(outputs, batch)["ce"]
    assert {n: t.weight for n, t in terms.items()} == {"ce": 0.5, "distil": 1.0}
    assert torch.equal(terms["ce"].total, alone.total)


# The recipe


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"init": "x"}, "init does nothing with [qat], which trains the folded graph of its"),
        ({"options": {"p": 1}}, "options does nothing with [qat]"),
        ({"freeze_bn": True}, "freeze_bn does nothing with [qat]"),
        ({"amp": "bf16"}, "amp is 'bf16'; [qat] trains in float32: leave it away"),
        (
            {"eval_sizes": ((4, 6), (8, 12))},
            "eval_sizes has 8x12; with [qat] the graph has one size, which is size (4x6)",
        ),
        ({"qat": QatPlan(frames=7)}, "[qat] names no checkpoint to start from: give --qat"),
        ({"model": "xception_b"}, "[qat] trains segmentation models; model is 'xception_b'"),
    ],
)
def test_what_a_recipe_can_not_ask(keys, said):
    from edgeseg.training.plan import Input

    if keys.get("model"):
        keys = {**keys, "input": Input(fit="crop")}
    with pytest.raises(ValueError) as error:
        Recipe(**{**ASKED, "qat": QatPlan("start"), **keys})
    assert str(error.value).startswith(said)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"frames": 0}, "frames is 0; expected 1 or more"),
        ({"output": "logits"}, "output is 'logits'; expected labels, scores."),
        ({"range_lr": -1.0}, "range_lr is -1.0; expected 0 or more"),
        ({"temperature": 0.0}, "temperature is 0.0; expected a positive number"),
        (
            {"distil": 0.0, "cross_entropy": 0.0},
            "distil and cross_entropy are both 0; nothing would be learned",
        ),
    ],
)
def test_what_the_table_can_not_hold(keys, said):
    with pytest.raises(ValueError) as error:
        QatPlan("start", **keys)
    assert str(error.value).startswith(said)


def test_a_float_recipe_matters_as_it_did_before_there_was_qat():
    """States and cards of older runs hold digests of recipes without that table."""
    assert not [k for k in Recipe(**ASKED).what_matters() if k.startswith("qat")]
    assert recipe().what_matters()["qat.model"] == "start"
