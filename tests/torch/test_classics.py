"""The classic systems: published figures, and what is theirs alone, by hand.

Their rows of the model contract stand in test_models_classics.py.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from model_contract import CLASSES, SPEC, images, seeded
from torch import nn
from torch.nn import functional

from edgeseg.bundle import Manifest, ModelSpec
from edgeseg.errors import UsageError
from edgeseg.export.to_onnx import to_onnx
from edgeseg.models import MODELS
from edgeseg.models.blocks import bilinear_deconvolution, keep_outputs, thin
from edgeseg.models.checkpoint import save_checkpoint
from edgeseg.models.enet import Down
from edgeseg.models.figures import FIGURES
from edgeseg.models.gcn import LargeKernel, Refine
from edgeseg.models.network import Bilinear, build_model, build_shapes
from edgeseg.models.pspnet import PyramidPooling
from edgeseg.models.supervised import Supervised
from edgeseg.models.unpool import choose, pool, unpool
from edgeseg.models.work import count_work

pytestmark = pytest.mark.torch

TORCHVISION = {"stride": 8}
V3 = {"stride": 8, "grid": []}

# fmt: off
WHOLE = [
    # name            options    outputs  params in M, G MACs at 520x520, with the auxiliary head
    ("fcn_r50",        {},            21,  35.32, 152.72),
    ("fcn_r101",       {},            21,  54.31, 232.74),
    ("deeplabv3_r50",  V3,            21,  42.00, 178.72),
    ("deeplabv3_r101", V3,            21,  61.00, 258.74),
]
DEPLOYED = [
    # name         outputs  params in M
    ("unet",            2,  31.0),
    ("segnet",         21,  29.46),
    ("fcn8s",          21, 134.5),
    ("deeplabv1",      21,  20.5),
    ("pspnet_r101",    19,  65.7),
    ("enet",           19,   0.37),
    ("fast_scnn",      19,   1.11),
    ("bisenetv1_r18",  19,  13.3),
    ("bisenetv2",      19,   3.4),
]
# fmt: on


@pytest.mark.parametrize(("name", "options", "outputs", "millions", "giga"), WHOLE)
def test_torchvisions_systems(name, options, outputs, millions, giga):
    """Its parameters and operations count the auxiliary head, as training has it."""
    model = build_shapes(ModelSpec(name, options), outputs).eval()
    params = sum(p.numel() for p in model.parameters())
    assert round(params / 1e6, 2) == millions
    _, macs = count_work(ModelSpec(name, options), outputs, ((520, 520),))
    assert isinstance(model, Supervised)
    head = sum(p.numel() for n, p in model.named_parameters()
               if n.startswith("auxiliary") and p.ndim == 4)  # fmt: skip
    assert (macs + head * 65 * 65) / 1e9 == pytest.approx(giga, abs=0.005)


@pytest.mark.parametrize(("name", "outputs", "millions"), DEPLOYED)
def test_published_parameters(name, outputs, millions):
    """Within 3 %: the paper's Fast-SCNN and ENet leave details open."""
    (params,) = count_work(ModelSpec(name), outputs, ())
    assert params / 1e6 == pytest.approx(millions, rel=0.03)


@pytest.mark.parametrize(
    ("name", "size", "giga"),
    [("bisenetv1_r18", (1024, 2048), 118.0), ("icnet", (1024, 2048), 28.3)],
)
def test_published_macs(name, size, giga):
    _, macs = count_work(ModelSpec(name), 19, (size,))
    assert macs / 1e9 == pytest.approx(giga, rel=0.04)


def test_icnet_of_the_release_has_half_the_channels():
    """Its 26.5 "M" are the megabytes of 6.7 M parameters, as with DFANet.

    Full channels would be 24.7 M and three times the published operations.
    """
    (half,) = count_work(ModelSpec("icnet"), 19, ())
    full, macs = count_work(ModelSpec("icnet", {"width": 1.0}), 19, ((1024, 2048),))
    assert 4 * half / 1e6 == pytest.approx(26.5, rel=0.02)
    assert round(full / 1e6, 1) == 24.7
    assert macs > 2.9 * 28.3e9


@pytest.mark.parametrize("name", FIGURES)
def test_the_figures_of_the_page_are_counted(name):
    """What stands in benchmarks/CLASSICS.md beside the published, to three digits."""
    figure = FIGURES[name]
    model = build_shapes(ModelSpec(name, dict(figure.options)), figure.outputs)
    whole = sum(p.numel() for p in model.parameters())
    heads = [p for n, p in model.named_parameters() if n.startswith("auxiliary.")]
    params = whole if figure.auxiliary else whole - sum(p.numel() for p in heads)
    assert params / 1e6 == pytest.approx(figure.counted_params, rel=0.005)
    if figure.size:
        spec = ModelSpec(name, dict(figure.options))
        legal = not any(side % model.divisor for side in figure.size)
        size = figure.size if legal else (512, 1024)
        _, macs = count_work(spec, figure.outputs, (size,))
        macs *= math.prod(figure.size) / math.prod(size)
        if figure.auxiliary:
            pixels = figure.size[0] // 8 * (figure.size[1] // 8)
            macs += pixels * sum(p.numel() for p in heads if p.ndim == 4)
        assert macs / 1e9 == pytest.approx(figure.counted_macs, rel=0.004)


CLASSICS = list(MODELS)[list(MODELS).index("enet") :]


@pytest.mark.parametrize("name", CLASSICS)
def test_scores_end_before_a_decode_that_is_known(name):
    """Bilinear, or a deconvolution whose cells don't overlap."""
    last = build_shapes(ModelSpec(name), 19).upsample
    if isinstance(last, nn.ConvTranspose2d):
        assert last.kernel_size == last.stride
    else:
        assert isinstance(last, Bilinear)


@pytest.mark.parametrize("name", CLASSICS)
def test_heads_are_all_that_features_do_not_need(name):
    """So wrappers can replace them, and head_lr finds them."""
    model = build_shapes(ModelSpec(name), 19).eval()
    for part in model.HEAD:
        delattr(model, part)
    features = model.features(torch.zeros(1, 3, 64, 64, device="meta"))
    sides = [int(x.shape[2]) for x in features.values()]
    assert sides[-1] == min(sides)
    assert all(64 % side == 0 for side in sides)


def test_deeplab_takes_espnetv2s_encoder():
    """So `init` brings it the weights that are published for ESPNetv2: the names are the same."""
    light = build_model(ModelSpec("espnetv2_s2.0"), 5).eval()
    strong = build_model(ModelSpec("deeplabv3plus_espnetv2_s2.0", {"width": 0.125}), 5).eval()
    strong.encoder.load_state_dict(light.encoder.state_dict())
    image = images(1, 3, 32, 64)
    theirs, ours = light.features(image), strong.features(image)
    assert list(ours) == ["level2", "level3", "level4"]
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_gcn_starts_unsure():
    """By the fan-out of the classes alone its first scores spread by hundreds."""
    torch.manual_seed(1)
    model = build_model(ModelSpec("gcn_r50"), 19).train()
    with torch.no_grad():
        assert 0.1 < float(model(images(2, 3, 64, 128)).std()) < 10


# Unpooling


def test_unpooling_by_hand():
    """The first of equal maxima gets the value: row by row."""
    x = torch.tensor([[[[1.0, 5.0, 2.0, 2.0], [3.0, 4.0, 2.0, 2.0],
                        [0.0, 0.0, -1.0, -3.0], [0.0, 7.0, -2.0, -1.0]]]])  # fmt: skip
    assert pool(x).tolist() == [[[[5.0, 2.0], [7.0, -1.0]]]]
    out = unpool(torch.tensor([[[[10.0, 20.0], [30.0, 40.0]]]]), choose(x))
    assert out.tolist() == [[[[0.0, 10.0, 20.0, 0.0], [0.0, 0.0, 0.0, 0.0],
                              [0.0, 0.0, 40.0, 0.0], [0.0, 30.0, 0.0, 0.0]]]]  # fmt: skip


@pytest.mark.parametrize("levels", [3, 1000])
def test_unpooling_is_torchs(levels):
    """With many equal values, zeros behind a ReLU among them, and the same gradient."""
    generator = torch.Generator().manual_seed(levels)
    x = torch.randint(-levels, levels, (2, 3, 8, 12), generator=generator).float().relu()
    pooled, indices = functional.max_pool2d(x, 2, return_indices=True)
    values = images(2, 3, 4, 6).requires_grad_()
    theirs = functional.max_unpool2d(values, indices, 2)
    ours = unpool(values, choose(x))
    assert torch.equal(pool(x), pooled)
    assert torch.equal(ours, theirs)
    weight = images(*ours.shape, seed=1)
    (mine,) = torch.autograd.grad((ours * weight).sum(), values)
    (torchs,) = torch.autograd.grad((theirs * weight).sum(), values)
    assert torch.allclose(mine, torchs, atol=1e-5)


@pytest.fixture(scope="module")
def segnet(tmp_path_factory) -> Path:
    """A narrow SegNet as a checkpoint folder."""
    folder = tmp_path_factory.mktemp("segnet") / "model"
    spec = ModelSpec("segnet", {"width": 0.0625}, void_outputs=1)
    manifest = Manifest("checkpoint", "segnet", CLASSES.to_dict(), SPEC, model=spec)
    save_checkpoint(folder, seeded("segnet", width=0.0625), manifest)
    return folder


def test_segnets_graph_says_what_torch_says(segnet):
    graph = to_onnx(segnet, size=(32, 64), batch=1, order="rgb", scores=True).model
    operators = {n.op_type for n in graph.graph.node}
    assert not operators & {"MaxUnpool", "ScatterND", "ScatterElements", "NonZero", "GatherND"}
    assert all(len(n.output) == 1 for n in graph.graph.node)
    image = np.random.default_rng(0).integers(0, 256, (1, 32, 64, 3), dtype=np.uint8)
    session = onnxruntime.InferenceSession(graph.SerializeToString())
    (scores,) = session.run(None, {"image": image})
    normal = (image - np.array(SPEC.mean)) / np.array(SPEC.std)
    with torch.inference_mode():
        expected = seeded("segnet", width=0.0625)(
            torch.tensor(normal.transpose(0, 3, 1, 2), dtype=torch.float32)
        )[:, :11].numpy()
    assert np.abs(scores - expected).max() < 1e-4 * np.abs(expected).max()


# FCN


@pytest.mark.parametrize("factor", [2, 4])
def test_a_deconvolution_starts_bilinear(factor):
    """Inside, where zeros beyond the border are not seen."""
    deconv = bilinear_deconvolution(3, factor)
    x = images(1, 3, 6, 7)
    with torch.inference_mode():
        ours, theirs = deconv(x), Bilinear(factor)(x)
    assert ours.shape == theirs.shape
    inner = (..., slice(factor, -factor), slice(factor, -factor))
    assert torch.allclose(ours[inner], theirs[inner], atol=1e-6)
    assert ours[0, 0, 0, 0] != theirs[0, 0, 0, 0]


def test_a_deconvolution_by_hand():
    """Two pixels 0 and 1 doubled: weights 1/4 and 3/4, zeros around."""
    row = bilinear_deconvolution(1, 2)(torch.tensor([[[[0.0, 1.0]]]])).detach()
    assert row[0, 0, 0].tolist() == pytest.approx([0.0, 0.75 * 0.25, 0.75 * 0.75, 0.75 * 0.75])


def test_fcn_in_training_has_the_same_fc6_and_gradients():
    """As one product of matrices, with padding at all sides."""
    torch.manual_seed(0)
    model = build_model(ModelSpec("fcn32s", {"width": 0.0625}), 2)
    pool5 = torch.randn(2, model.encoder.channels, 3, 5)
    found = []
    for fc6 in (model._fc6, model.fc6):
        x = pool5.clone().requires_grad_()
        model.zero_grad()
        scores = fc6(x)
        scores.square().sum().backward()
        found.append((scores, x.grad, model.fc6.weight.grad, model.fc6.bias.grad))
    for ours, plain in zip(*found, strict=True):
        torch.testing.assert_close(ours, plain, atol=1e-4, rtol=1e-4)


def test_fcn_adds_the_scores_of_its_pools():
    """Scores 1 of fc7, 10 of pool4, 100 of pool3: in the middle 111."""
    model = build_model(ModelSpec("fcn8s", {"width": 0.0625}), 2).eval()
    for conv, value in ((model.score, 1.0), (model.skips["pool4"], 10.0),
                        (model.skips["pool3"], 100.0)):  # fmt: skip
        nn.init.zeros_(conv.weight)
        nn.init.constant_(conv.bias, value)
    with torch.inference_mode():
        scores = model.scores(torch.zeros(1, 3, 128, 128))
    assert scores.shape == (1, 2, 16, 16)
    assert scores[0, 1, 8, 8] == pytest.approx(111.0)


# Parts


def test_bins_are_means():
    """One bin is the mean of the map; six of six are its pixels."""
    pyramid = PyramidPooling(4).eval()
    for conv in pyramid.convs:
        nn.init.ones_(conv[0].weight)
        conv[1].eps = 0.0
    x = images(1, 4, 6, 6).abs()
    with torch.inference_mode():
        out = pyramid(x)
    assert out.shape == (1, 8, 6, 6)
    assert torch.equal(out[:, :4], x)
    assert torch.allclose(out[0, 4], x.sum(1).mean().expand(6, 6))
    assert torch.allclose(out[0, 7], x[0].sum(0))


def test_a_large_kernel_is_the_sum_of_two_outer_products():
    """Ones: each pair sums a k x k window."""
    module = LargeKernel(1, 1, 3)
    for parameter in module.parameters():
        nn.init.constant_(parameter, float(parameter.ndim > 1))
    x = images(1, 1, 5, 5)
    window = functional.conv2d(x, torch.ones(1, 1, 3, 3), padding=1)
    assert torch.allclose(module(x), 2 * window, atol=1e-5)


def test_a_refinement_adds_to_its_input():
    module = Refine(3)
    nn.init.zeros_(module.second.weight)
    nn.init.ones_(module.second.bias)
    x = images(1, 3, 4, 4)
    assert torch.equal(module(x), x + 1)
    keep_outputs(module.second, 2)
    assert torch.equal(module(x), x[:, :2] + 1)


def test_enet_pads_channels_with_zeros():
    module = Down(4, 8, 0.0).eval()
    nn.init.zeros_(module.body[-2].weight)
    x = images(1, 4, 6, 6)
    out = module(x)
    expected = functional.prelu(pool(x), module.act.weight[:4])
    assert torch.allclose(out[:, :4], expected)
    assert not out[:, 4:].any()


def test_narrow_systems_keep_four_channels():
    assert [thin(64, w) for w in (1.0, 0.5, 0.125, 0.01)] == [64, 32, 8, 4]


def test_a_separable_decoder_is_lighter():
    """DeepLabv3+: three 3x3 of 2048 channels and two of the decoder are most of its head."""
    (plain,) = count_work(ModelSpec("deeplabv3plus_r50"), 19, ())
    (light,) = count_work(ModelSpec("deeplabv3plus_r50", {"separable": True}), 19, ())
    assert light < 0.7 * plain


# Auxiliary heads


def test_training_gives_logits_of_auxiliary_heads():
    model = build_model(ModelSpec("icnet", {"width": 0.125}), 5)
    image = images(2, 3, 64, 96)
    outputs = model.train()(image)
    assert {n: tuple(x.shape) for n, x in outputs.items()} == {
        "logits": (2, 5, 64, 96), "scores": (2, 5, 16, 24),
        "aux_low": (2, 5, 64, 96), "aux_middle": (2, 5, 64, 96),
    }  # fmt: skip
    assert isinstance(model.eval()(image), torch.Tensor)
    model.deploy()
    assert isinstance(model.train()(image), torch.Tensor)
    assert not [n for n, _ in model.named_parameters() if n.startswith("auxiliary")]


def test_export_says_what_it_leaves_out(tmp_path):
    spec = ModelSpec("pspnet_r18", {"width": 0.125}, void_outputs=1)
    manifest = Manifest("checkpoint", "psp", CLASSES.to_dict(), SPEC, model=spec)
    save_checkpoint(tmp_path / "model", seeded("pspnet_r18", width=0.125), manifest)
    exported = to_onnx(tmp_path / "model", size=(64, 64), batch=1, order="rgb", scores=False)
    params = 9 * 32 * 8 + 2 * 8 + 8 * 12 + 12  # 3x3, norm, 1x1 to 12 classes
    assert exported.left_out.params == params
    assert exported.left_out.macs == (9 * 32 * 8 + 8 * 12) * 8 * 8
    assert str(exported.left_out).startswith(f"left out auxiliary: {params:,} parameters and ")


# Refusals


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("gcn_r50", {"k": 8}, "k is 8; a kernel has a middle, so expected an odd number"),
        ("deeplabv3_r50", {"stride": 4}, "stride is 4; expected one of 8, 16, 32"),
        ("deeplabv3plus_espnetv2_s2.0", {"stride": 8},
         "stride is 8; expected 16, the only one of ESPNetv2's encoder"),
        ("pspnet_r18", {"stem": "flat"}, "stem is 'flat'; expected one of plain, deep"),
    ],
)  # fmt: skip
def test_options_that_can_not_be(name, options, said):
    with pytest.raises(UsageError) as refused:
        build_model(ModelSpec(name, options), 5)
    assert str(refused.value) == said


@pytest.mark.parametrize(
    ("builder", "arguments", "said"),
    [
        ("fcn:FCN", {"stride": 4}, "stride is 4; expected one of 8, 16, 32"),
        ("deeplabv3plus:DeepLabV3Plus", {"encoder": "r20"},
         "encoder is 'r20'; expected one of r18, r50, r101, mobilenetv2, espnetv2_s2.0"),
        ("bisenetv1:BiSeNetV1", {"encoder": "r50"}, "encoder is 'r50'; expected r18 or x39"),
    ],
)  # fmt: skip
def test_arguments_that_can_not_be(builder, arguments, said):
    import importlib

    module, _, name = builder.partition(":")
    build = getattr(importlib.import_module(f"edgeseg.models.{module}"), name)
    with pytest.raises(UsageError) as refused:
        build(5, **arguments)
    assert str(refused.value) == said
