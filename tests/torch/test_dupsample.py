"""DUpsampling: the frozen basis, the head, export; by pencil where it can be."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgeseg.bundle import InputSpec, Manifest, ModelSpec
from edgeseg.errors import RecipeError, UsageError
from edgeseg.export.simplify import simplify
from edgeseg.export.to_onnx import count_macs, to_onnx
from edgeseg.labels import CLASS_TABLES, IGNORE
from edgeseg.models.checkpoint import save_checkpoint
from edgeseg.models.dupsample import DUpsample, Reconstruct
from edgeseg.models.network import Bilinear, Network, build_model
from edgeseg.runtime.engine_openvino import shared_core
from edgeseg.training.optimizer import parameter_groups
from edgeseg.training.patches import cut, find_basis, one_hot

pytestmark = pytest.mark.torch

CLASSES = CLASS_TABLES["camvid11"]


def build(host: str = "espnetc_q3", outputs: int = 12, seed: int = 0, **options: object) -> Network:
    torch.manual_seed(seed)
    return build_model(ModelSpec(f"{host}+dupsample", {"dupsample": options}), outputs)


def image(*size: int, n: int = 2) -> torch.Tensor:
    return torch.randn(n, 3, *size, generator=torch.Generator().manual_seed(0))


# The layer


def filled(weight: list | np.ndarray, **options: bool) -> Reconstruct:
    array = torch.tensor(weight, dtype=torch.float32)
    layer = Reconstruct(array.shape[0], array.shape[1], array.shape[2], **options)
    layer.weight.data.copy_(array)
    return layer


def test_each_cell_becomes_a_patch_by_pencil():
    """Two channels, two classes, 2x2; cells (1, 0) and (0, 2) beside each other."""
    layer = filled([[[[1, 2], [3, 4]], [[5, 6], [7, 8]]], [[[0, 1], [0, 0]], [[0, 0], [0, -1]]]])
    scores = torch.tensor([[[[1.0, 0.0]], [[0.0, 2.0]]]])
    expected = [[[1, 2, 0, 2], [3, 4, 0, 0]], [[5, 6, 0, 0], [7, 8, 0, -2]]]
    assert layer(scores)[0].tolist() == expected


def test_temperature_divides_the_logits_and_folds_into_w():
    layer = filled(np.arange(8.0).reshape(1, 2, 2, 2))
    scores = torch.tensor([[[[3.0]]]])
    plain = layer(scores)
    assert layer.log_temperature is not None
    assert layer.log_temperature.shape == ()  # no weight decay
    layer.log_temperature.data.fill_(np.log(2.0))
    torch.testing.assert_close(layer(scores), plain / 2)
    before = layer(scores)
    layer.deploy()
    assert layer.log_temperature is None
    torch.testing.assert_close(layer(scores), before)
    assert [n for n, _ in layer.named_parameters()] == ["weight"]


def test_a_fresh_layer_is_orthonormal():
    layer = Reconstruct(16, 3, 4)
    rows = layer.weight.reshape(16, -1)
    torch.testing.assert_close(rows @ rows.T, torch.eye(16), atol=1e-5, rtol=0)


def test_compressing_is_p_times_v():
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 3, (8, 12)).astype(np.uint8)
    basis = find_basis(cut(labels, 4), 3, 5)
    compressed = filled(basis.weight).compress(torch.from_numpy(labels).long()[None])
    assert compressed.shape == (1, 5, 2, 3)
    vectors = one_hot(cut(labels, 4), 3)
    expected = vectors @ basis.weight.reshape(5, -1).T
    np.testing.assert_allclose(compressed[0].reshape(5, -1).T.numpy(), expected, atol=1e-5)


def test_pixels_without_a_label_are_zeros():
    layer = filled(np.ones((1, 2, 2, 2)))
    labels = torch.tensor([[[0, 1, IGNORE, IGNORE], [1, IGNORE, IGNORE, IGNORE]]])
    assert layer.compress(labels).tolist() == [[[[3.0, 0.0]]]]


@pytest.mark.parametrize("size", [(2, 5), (5, 2), (3, 3)])
def test_labels_come_back_in_their_places_in_any_shape(size):
    """A public re-implementation gets the order right for square inputs alone."""
    r = 4
    generator = np.random.default_rng(1)
    patterns = generator.integers(0, 7, (6, r, r))
    grid = patterns[generator.integers(0, 6, size)]
    labels = grid.swapaxes(1, 2).reshape(size[0] * r, size[1] * r).astype(np.uint8)
    basis = find_basis(cut(labels, r), 7, min(6, size[0] * size[1]))
    layer = filled(basis.weight)
    scores = layer.compress(torch.from_numpy(labels).long()[None])
    assert scores.shape[2:] == size
    np.testing.assert_array_equal(layer(scores)[0].argmax(0).numpy(), labels)


def test_more_channels_than_numbers_in_a_patch():
    with pytest.raises(UsageError) as refused:
        Reconstruct(64, 12, 2)
    assert str(refused.value) == (
        "channels is 64; patches of 2x2 pixels and 12 classes have 48 numbers only. "
        "Give fewer channels"
    )


# The network

CASES = [
    ("espnetc_q3", {}, 8),
    ("espnet_q3", {"stride": 16, "low_level": ["stem", "level2"]}, 16),
    ("espnet_q3", {"stride": 32, "channels": 128, "temperature": False}, 32),
    ("espnetv2_s0.5", {"low_level": ["level1"]}, 16),
    ("espnet_q3", {"stride": 16, "low_level": ["level2"], "gather": "conv"}, 16),
    ("dfanet_b", {"low_level": ["enc2_1"]}, 64),
    ("espnetc_q3", {"upsampling": "bilinear", "stride": 16}, 16),
]


@pytest.mark.parametrize(("host", "options", "stride"), CASES)
def test_shapes_and_gradients(host, options, stride):
    model = build(host, **options)
    assert isinstance(model, DUpsample)
    assert model.divisor % stride == 0
    size = (model.divisor, 3 * model.divisor)
    outputs = model.train()(image(*size))
    channels = 12 if options.get("upsampling") == "bilinear" else options.get("channels", 64)
    assert outputs["scores"].shape == (2, channels, size[0] // stride, size[1] // stride)
    assert outputs["logits"].shape == (2, 12, *size)
    (outputs["logits"] * image(*size)[:, :1]).sum().backward()
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert [n for n, p in trained.items() if p.grad is None or not p.grad.any()] == []
    frozen = [n for n, p in model.named_parameters() if not p.requires_grad]
    assert frozen == ([] if "upsampling" in options else ["upsample.weight"])
    assert ("upsample.log_temperature" in trained) == (
        "upsampling" not in options and options.get("temperature", True)
    )


def test_the_hosts_own_head_is_gone():
    model = build("espnet_q3")
    assert {name.split(".")[1] for name in model.state_dict() if name.startswith("host.")} == {
        "encoder"
    }


def test_the_convolution_before_w_has_a_bias():
    assert build().project.bias is not None


def test_w_stays_frozen_while_the_rest_is_trained():
    model = build()
    before = model.upsample.weight.clone()
    groups = parameter_groups(model, 0.1)
    listed = {id(p) for group in groups for p in group["params"]}
    assert id(model.upsample.weight) not in listed
    assert id(model.upsample.log_temperature) in {id(p) for p in groups[1]["params"]}
    optimizer = torch.optim.AdamW(groups, lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        model.train()(image(16, 16))["logits"].square().sum().backward()
        optimizer.step()
    assert torch.equal(model.upsample.weight, before)
    assert model.upsample.log_temperature.item() != 0


def test_low_level_features_are_pooled_to_the_lowest_resolution():
    """The mean of 4x4 pixels of the stem (1/2) reaches `fuse` beside the 256 deepest channels."""
    model = build("espnet_q3", low_level=["stem"]).eval()
    seen = []
    model.fuse.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        features = model.features(image(16, 32))
        model.head(features)
    assert seen[0].shape == (2, 256 + 16, 2, 4)
    torch.testing.assert_close(seen[0][:, :256], features["level3"])
    means = features["stem"].reshape(2, 16, 2, 4, 4, 4).mean((3, 5))
    torch.testing.assert_close(seen[0][:, 256:], means)


def test_a_convolution_can_tell_where_in_the_cell_something_is():
    """Cells of the same means: pooled they are the same, gathered they differ."""
    first = torch.zeros(1, 16, 8, 16)
    first[:, :, ::4, ::4] = 1
    other = first.roll(2, 3)
    for gather, same in (("pool", True), ("conv", False)):
        model = build("espnet_q3", low_level=["stem"], gather=gather).eval()
        a, b = (model.gather["stem"](x) for x in (first, other))
        assert a.shape == (1, 16 if same else 128, 2, 4)
        assert torch.equal(a, b) == same


def test_macs_by_formula():
    """Behind the encoder, at 1/8: 1x1 256 -> 128, 3x3, 1x1 -> 64, W 64 -> 12 classes x 8 x 8."""
    encoder = count_macs(build_model(ModelSpec("espnetc_q3"), 12).eval(), (32, 64))[0]
    encoder -= 256 * 12 * 32
    head = (256 * 128 + 9 * 128 * 128 + 128 * 64 + 64 * 12 * 64) * 32
    assert count_macs(build().eval(), (32, 64))[0] == encoder + head


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"stride": 4}, "stride is 4; the host's deepest feature is at 1/8, so it can be 8, 16"),
        ({"stride": 24}, "stride is 24; the host's deepest feature is at 1/8, so it can be 8, 16"),
        ({"low_level": ["level3"]}, "low_level names 'level3', the deepest, which is in already"),
        ({"low_level": ["level4"]}, "low_level names no feature 'level4' of the host. Did you"),
        ({"upsampling": "nearest"}, "options of 'dupsample': upsampling is 'nearest'; expected "
                                    "dupsample or bilinear"),
        ({"gather": "max"}, "options of 'dupsample': gather is 'max'; expected pool or conv"),
        ({"channels": 0}, "options of 'dupsample': channels is 0; expected 1 or more"),
        ({"chanels": 64}, "options of 'dupsample': unknown key 'chanels'. Did you mean"),
    ],
)  # fmt: skip
def test_options_that_can_not_be(options, said):
    with pytest.raises((UsageError, RecipeError)) as refused:
        build(**options)
    assert str(refused.value).startswith(said)


def test_bilinear_is_the_same_head_to_compare_with():
    learned, bilinear = build(stride=16), build(stride=16, upsampling="bilinear")
    assert isinstance(bilinear.upsample, Bilinear)
    assert bilinear.upsample.factor == 16
    others = [k for k in learned.state_dict() if not k.startswith(("project", "upsample"))]
    state = bilinear.state_dict()
    assert all(torch.equal(state[k], learned.state_dict()[k]) for k in others)
    assert bilinear.project.weight.shape == (12, 128, 1, 1)


# Export


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """A network with a basis of real-looking patches, its labels in torch, and its folder."""
    folder = tmp_path_factory.mktemp("dupsample")
    size = (64, 96)
    model = build(seed=3, stride=16, low_level=["level2"])
    patches = np.random.default_rng(0).integers(0, 11, (80, 1, 1)).repeat(16, 1).repeat(16, 2)
    patches[::2, :, 8:] = (patches[::2, :, :8] + 1) % 11
    patches[1::3, 8:] = (patches[1::3, :8] + 3) % 11
    basis = find_basis(patches.astype(np.uint8), 12, 64)
    model.upsample.weight.data.copy_(torch.from_numpy(basis.weight))
    model.upsample.log_temperature.data.fill_(-1.3)
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.3, 0.3, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    inputs = InputSpec("rgb", (110.0, 100.0, 90.0), (60.0, 61.0, 62.0), size=size)
    spec = ModelSpec(
        "espnetc_q3+dupsample", {"dupsample": {"stride": 16, "low_level": ["level2"]}}, 1
    )
    manifest = Manifest("checkpoint", "dup", CLASSES.to_dict(), inputs, model=spec)
    save_checkpoint(folder / "model", model, manifest)
    frames = np.random.default_rng(0).integers(0, 256, (1, *size, 3)).astype(np.uint8)
    mean, std = torch.tensor(inputs.mean), torch.tensor(inputs.std)
    with torch.no_grad():
        normal = ((torch.from_numpy(frames).float() - mean) / std).permute(0, 3, 1, 2)
        labels = model.eval()(normal)[:, :11].argmax(1).numpy().astype(np.uint8)
    assert len(np.unique(labels)) > 3
    return folder / "model", frames, labels


def test_scores_and_the_fused_decode_agree_with_torch(case):
    import onnxruntime

    from edgeseg.runtime.decode import decode

    folder, frames, labels = case
    exported = to_onnx(folder, size=(64, 96), batch=1, order="rgb", scores=True)
    output = exported.output
    assert (output.kind, output.decode, output.stride, output.factor, output.scale) == (
        "scores", "dupsample", 16, 16, 1,
    )  # fmt: skip
    assert exported.weight.shape == (64, 11, 16, 16)
    graph = simplify(exported.model)
    assert [d.dim_value for d in graph.graph.output[0].type.tensor_type.shape.dim] == [1, 64, 4, 6]
    session = onnxruntime.InferenceSession(graph.SerializeToString())
    (scores,) = session.run(None, {"image": frames})
    decoded = decode(scores, output, exported.weight, exported.bias)
    assert decoded.shape == labels.shape
    assert (decoded == labels).mean() >= 0.9999


def test_the_portable_graph_agrees_with_torch_in_both_engines(case, tmp_path):
    import onnx
    import onnxruntime

    folder, frames, labels = case
    exported = to_onnx(folder, size=(64, 96), batch=1, order="rgb", scores=False)
    assert exported.output.kind == "labels"
    graph = simplify(exported.model)
    kinds = [node.op_type for node in graph.graph.node]
    assert kinds.count("ConvTranspose") == 1
    assert not {"Exp", "Div"} & set(kinds)  # the temperature is in W
    session = onnxruntime.InferenceSession(graph.SerializeToString())
    (found,) = session.run(None, {"image": frames})
    assert (found == labels).mean() >= 0.9999
    onnx.save(graph, tmp_path / "network.onnx")
    compiled = shared_core().compile_model(
        str(tmp_path / "network.onnx"), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    assert (compiled(frames)[0] == labels).mean() >= 0.9999


def test_the_gain_is_folded_for_deployment():
    model = build_model(ModelSpec("espnetc_q3+dupsample", {"dupsample": {"stride": 16}}), 5).eval()
    image = torch.rand(1, 3, 32, 64, generator=torch.Generator().manual_seed(0))
    scores, logits = model.scores(image), model(image)
    model.deploy()
    assert model.gain == 1
    torch.testing.assert_close(model.scores(image), scores, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(model(image), logits, rtol=1e-5, atol=1e-5)
