"""ESPNetv2: published MACs and keys, its units and its pooling by hand.

Its rows of the model contract stand in test_models.py.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import onnxruntime
import pytest
import torch
from model_contract import CLASSES, SPEC, images, seeded
from torch.nn import functional

from edgeseg.bundle import Manifest, ModelSpec, OutputSpec
from edgeseg.errors import UsageError
from edgeseg.export.to_onnx import count_macs, to_onnx
from edgeseg.models.checkpoint import save_checkpoint
from edgeseg.models.espnetv2 import EESP, Down, ESPNetv2, PyramidPool, Skip, dilations
from edgeseg.models.network import Bilinear, build_model
from edgeseg.models.pooling import adaptive_pool, scaled
from edgeseg.models.renames import ESPNETV2
from edgeseg.runtime.decode import decode

pytestmark = pytest.mark.torch


# fmt: off
PUBLISHED = {
    # s     MACs at 256x512 and 512x1024, 20 outputs (EdgeNets); parameters (its files)
    "0.5": (149.4e6,  597.6e6,  80_230),
    "1.0": (271.7e6, 1086.6e6, 233_786),
    "1.5": (428.7e6, 1714.6e6, 468_010),
    "2.0": (674.8e6, 2699.0e6, 788_762),
}
# fmt: on


@pytest.mark.parametrize("s", PUBLISHED)
def test_published_macs(s):
    small, large, params = PUBLISHED[s]
    model = build_model(ModelSpec(f"espnetv2_s{s}"), 20).eval()
    assert count_macs(model, (256, 512))[0] == pytest.approx(small, rel=0.01)
    assert count_macs(model, (512, 1024))[0] == pytest.approx(large, rel=0.01)
    assert sum(p.numel() for p in model.parameters()) == params


def test_the_decoder_does_not_shrink_with_the_classes():
    """EdgeNets would make the pyramids 3 wide for 7 classes; here they are 10 wide for all."""
    models = {n: build_model(ModelSpec("espnetv2_s0.5"), n) for n in (20, 7)}
    for n, model in models.items():
        assert [p.project[0].out_channels for p in (*model.pyramids, model.last)] == [10] * 4
        assert model.last.expand.weight.shape == (n, 10, 1, 1)
    wide = build_model(ModelSpec("espnetv2_s0.5", {"pyramid": 16}), 7)
    assert wide.last.merge[0].weight.shape == (16, 5, 3, 3)


def test_an_unknown_width():
    with pytest.raises(UsageError) as refused:
        ESPNetv2(12, s=1.25)
    assert str(refused.value) == "s is 1.25; expected one of 0.5, 1.0, 1.5, 2.0"


# Keys

# fmt: off
PAIRS = {
    # in the authors' file                               ours
    "base_net.level1.conv.weight":                      "encoder.stem.0.weight",
    "base_net.level1.act.weight":                       "encoder.stem.2.weight",
    "base_net.level2_0.eesp.proj_1x1.conv.weight":      "encoder.downs.0.eesp.reduce.0.weight",
    "base_net.level3_0.eesp.spp_dw.3.conv.weight":      "encoder.downs.1.eesp.branches.3.weight",
    "base_net.level4_0.eesp.conv_1x1_exp.bn.bias":      "encoder.downs.2.eesp.expand.1.bias",
    "base_net.level4_0.eesp.br_after_cat.bn.weight":    "encoder.downs.2.eesp.post.0.weight",
    "base_net.level4_0.eesp.br_after_cat.act.weight":   "encoder.downs.2.eesp.post.1.weight",
    "base_net.level2_0.inp_reinf.0.bn.running_mean":    "encoder.downs.0.image.0.1.running_mean",
    "base_net.level2_0.inp_reinf.1.conv.weight":        "encoder.downs.0.image.1.0.weight",
    "base_net.level3_0.act.weight":                     "encoder.downs.1.act.weight",
    "base_net.level3.2.proj_1x1.act.weight":            "encoder.stages.0.2.eesp.reduce.2.weight",
    "base_net.level4.6.spp_dw.1.conv.weight":           "encoder.stages.1.6.eesp.branches.1.weight",
    "base_net.level4.0.module_act.weight":              "encoder.stages.1.0.act.weight",
    "bu_dec_l1.projection_layer.cbr.0.weight":          "pyramids.0.project.0.weight",
    "bu_dec_l2.stages.4.weight":                        "pyramids.1.stages.4.weight",
    "bu_dec_l3.merge_layer.0.br.1.weight":              "pyramids.2.post.1.weight",
    "bu_dec_l3.merge_layer.2.cbr.0.weight":             "pyramids.2.merge.0.weight",
    "bu_dec_l3.br.br.0.running_var":                    "pyramids.2.norm.0.running_var",
    "bu_dec_l4.merge_layer.3.bias":                     "last.expand.bias",
    "merge_enc_dec_l2.wt_layer.1.weight":               "skips.0.gate.weight",
    "merge_enc_dec_l4.expansion_layer.cbr.2.weight":    "skips.2.conv.2.weight",
    "bu_br_l3.1.weight":                                "joins.1.1.weight",
}
# fmt: on


def test_published_keys():
    own = build_model(ModelSpec("espnetv2_s0.5"), 20).state_dict()
    for theirs, ours in PAIRS.items():
        assert ESPNETV2.rename(theirs) == ours
        assert ours in own
        assert not ESPNETV2.leaves_out(theirs)


def test_keys_that_the_authors_never_compute_with_are_named():
    """A strided unit ends before its EESP's own activation."""
    assert ESPNETV2.leaves_out("base_net.level3_0.eesp.module_act.weight")
    for key in ("base_net.level3.0.module_act.weight", "base_net.level5.0.module_act.weight"):
        assert not ESPNETV2.leaves_out(key)
    assert ESPNETV2.rename("base_net.classifier.weight") is None
    assert ESPNETV2.rename("base_net.level5_0.act.weight") is None


# Units by hand


@pytest.mark.parametrize(
    ("field", "expected"),
    [(13, [1, 2, 3, 4]), (9, [1, 2, 3, 4]), (7, [1, 1, 2, 3]), (5, [1, 1, 1, 2])],
)
def test_dilations_within_the_receptive_field(field, expected):
    assert dilations(field) == expected


def test_the_levels_have_the_papers_dilations():
    encoder = build_model(ModelSpec("espnetv2_s0.5"), 20).encoder
    seen = [[b.dilation[0] for b in d.eesp.branches] for d in encoder.downs]
    assert seen == [[1, 2, 3, 4]] * 3
    plain = [[[b.dilation[0] for b in u.eesp.branches] for u in s] for s in encoder.stages]
    assert plain == [[[1, 2, 3, 4]] * 3, [[1, 1, 2, 3]] * 7]


def plain(module: torch.nn.Module) -> torch.nn.Module:
    """Normalisations that do nothing, convolutions of ones in the kernel's middle."""
    for part in module.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.eps = 0.0
        if isinstance(part, torch.nn.Conv2d):
            middle = part.kernel_size[0] // 2
            part.weight.data.zero_()
            part.weight.data[:, :, middle, middle] = 1.0
    return module.eval()


def test_branches_are_summed_hierarchically_and_expanded_in_groups():
    """Pixels of one: reduce adds 4, so branch k holds 4 k; each group of 4 sees one branch."""
    module = plain(EESP(16, 16, field=9))
    with torch.inference_mode():
        out = module(torch.ones(1, 16, 2, 2))
    assert out.shape == (1, 16, 2, 2)
    expected = [16.0] * 4 + [32.0] * 4 + [48.0] * 4 + [64.0] * 4
    assert out[0, :, 1, 0].tolist() == expected


def test_the_strided_unit_puts_the_pooled_input_first():
    """Pooling over nine pixels, the frame of zeros counted: 4/9 in the corner."""
    module = plain(Down(16, 32, field=13))
    with torch.inference_mode():
        out = module(torch.ones(1, 16, 8, 8), torch.full((1, 3, 4, 4), -1.0))
        ones = module(torch.ones(1, 16, 8, 8), torch.zeros(1, 3, 4, 4))
    assert ones[0, :16, 0, 0].tolist() == pytest.approx([4 / 9] * 16)
    assert ones[0, :16, 2, 2].tolist() == [1.0] * 16
    assert ones[0, 16:, 2, 2].tolist() == [16.0] * 4 + [32.0] * 4 + [48.0] * 4 + [64.0] * 4
    # the image's path adds -3 through the first PReLU (0.25): 3 * -0.75 = -2.25
    assert out[0, 16:20, 2, 2].tolist() == [16 - 2.25] * 4
    assert out[0, 0, 2, 2].item() == pytest.approx(0.25 * (1 - 2.25))


def test_the_pyramid_merges_all_scales_of_one_channel():
    """Channel 0 of the projection holds 1, channel 1 holds 10; scale k weighs 2**k."""
    module = plain(PyramidPool(2, 2, 3, last=True))
    project, merge, expand = module.project[0], module.merge[0], module.expand
    project.weight.data.copy_(torch.tensor([[1.0, 0.0], [0.0, 10.0]])[..., None, None])
    for k in range(5):
        merge.weight.data[:, k, 1, 1] = 2.0**k
    expand.weight.data.copy_(torch.tensor([[1.0, 0], [0, 1], [1, 1]])[..., None, None])
    expand.bias.data.copy_(torch.tensor([0.0, 0.0, 1000.0]))
    with torch.inference_mode():
        out = module(torch.ones(1, 2, 6, 8))
    assert out.shape == (1, 3, 6, 8)
    assert torch.allclose(out[0, :, 3, 4], torch.tensor([31.0, 310.0, 1341.0]))


def test_a_skip_is_gated_by_the_mean():
    module = plain(Skip(2, 4))
    x = torch.zeros(1, 2, 2, 2)
    x[0, 0, 0, 0], x[0, 1, 1, 1] = 4.0, 8.0  # means 1 and 2
    with torch.inference_mode():
        out = module(x)
    gate = 1 / (1 + np.exp(-3.0))
    assert out[0, :, 0, 0].tolist() == pytest.approx([4 * gate] * 2 + [0.0] * 2)


def test_bilinear_with_corners_on_corners():
    """Two pixels 0 and 1 doubled: 0, 1/3, 2/3, 1."""
    row = Bilinear(2, align_corners=True)(torch.tensor([[[[0.0, 1.0]]]]))
    assert row[0, 0, 0].tolist() == pytest.approx([0, 1 / 3, 2 / 3, 1])


# Pooling


def test_adaptive_pool_by_hand():
    """Five to three: windows [0, 2), [1, 4), [3, 5)."""
    row = torch.tensor([[[[1.0, 2.0, 3.0, 4.0, 5.0]]]])
    assert adaptive_pool(row, (1, 3)).flatten().tolist() == pytest.approx([1.5, 3.0, 4.5])
    assert adaptive_pool(row.mT, (3, 1)).flatten().tolist() == pytest.approx([1.5, 3.0, 4.5])


@pytest.mark.parametrize(
    ("size", "target"),
    [((32, 64), (5, 7)), ((48, 96), (32, 64)), ((23, 31), (15, 20)), ((8, 5), (8, 5)),
     ((5, 6), (7, 9)), ((26, 52), (26, 13)), ((9, 4), (1, 1))],
)  # fmt: skip
def test_adaptive_pool_is_torchs(size, target):
    x = images(2, 3, *size).requires_grad_()
    ours = adaptive_pool(x, target)
    theirs = functional.adaptive_avg_pool2d(x, target)
    assert torch.allclose(ours, theirs, atol=1e-6)
    weight = images(*ours.shape, seed=1)
    (mine,) = torch.autograd.grad((ours * weight).sum(), x)
    (torchs,) = torch.autograd.grad((theirs * weight).sum(), x)
    assert torch.allclose(mine, torchs, atol=1e-6)


def test_scaled_sizes():
    assert scaled((32, 64), 0.1, 5) == (5, 7)
    assert scaled((33, 64), 1.5, 5) == (50, 96)
    assert scaled((16, 16), 2.0, 5) == (32, 32)


# Export


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("espnetv2") / "model"
    spec = ModelSpec("espnetv2_s0.5", {}, void_outputs=1)
    manifest = Manifest("checkpoint", "espnetv2_s0.5", CLASSES.to_dict(), SPEC, model=spec)
    save_checkpoint(folder, seeded("espnetv2_s0.5"), manifest)
    return folder


def test_the_exported_graph_is_plain_and_says_what_torch_says(folder):
    """Pooling of sizes that don't divide is Gather and AveragePool: no index arithmetic."""
    graph = to_onnx(folder, size=(48, 80), batch=1, order="rgb", scores=False).model
    operators = {n.op_type for n in graph.graph.node}
    known = "Cast Transpose Sub Mul Conv PRelu BatchNormalization Add Concat Resize Gather Reshape"
    assert operators <= {*known.split(), "AveragePool", "ReduceMean", "Sigmoid", "ArgMax"}
    assert sum(n.op_type == "Gather" for n in graph.graph.node) <= 4 * 2 * 2
    image = np.random.default_rng(0).integers(0, 256, (1, 48, 80, 3), dtype=np.uint8)
    session = onnxruntime.InferenceSession(graph.SerializeToString())
    (labels,) = session.run(None, {"image": image})
    normal = (image - np.array(SPEC.mean)) / np.array(SPEC.std)
    model = seeded("espnetv2_s0.5")
    with torch.inference_mode():
        logits = model(torch.tensor(normal.transpose(0, 3, 1, 2), dtype=torch.float32))
    expected = logits[:, :11].argmax(1).numpy()
    assert (labels == expected).mean() >= 0.999
    assert len(np.unique(expected)) > 1


def test_decoded_scores_are_the_labels_of_the_whole_graph(folder):
    """The graph ends before the last upsampling; decode does it with corners on corners."""
    whole = to_onnx(folder, size=(48, 80), batch=1, order="rgb", scores=False).model
    cut = to_onnx(folder, size=(48, 80), batch=1, order="rgb", scores=True)
    assert cut.output == OutputSpec("scores", 2, "bilinear_corners", 2)
    assert (cut.weight, cut.bias) == (None, None)
    image = np.random.default_rng(1).integers(0, 256, (1, 48, 80, 3), dtype=np.uint8)
    (labels,), (scores,) = (
        onnxruntime.InferenceSession(m.SerializeToString()).run(None, {"image": image})
        for m in (whole, cut.model)
    )
    assert scores.shape == (1, 11, 24, 40)
    decoded = decode(scores, cut.output)
    assert len(np.unique(labels)) > 1
    assert np.array_equal(decoded, labels)
    half_pixel = decode(scores, dataclasses.replace(cut.output, decode="bilinear"))
    assert (half_pixel != labels).mean() > 0.001  # the kinds do differ


@pytest.mark.parametrize("factor", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("corners", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (1, 6), (7, 4), (16, 33)])
def test_decode_does_what_torch_does(factor, corners, size):
    """torch rounds positions to float32: its labels differ where two classes are within that."""
    torch.manual_seed(0)
    scores = torch.randn(2, 5, *size)
    kind = "bilinear_corners" if corners else "bilinear"
    ours = torch.from_numpy(decode(scores.numpy(), OutputSpec("scores", factor, kind, factor)))
    full = Bilinear(factor, corners)(scores)
    chosen = full.gather(1, ours[:, None].long())
    assert ours.shape == (2, size[0] * factor, size[1] * factor)
    assert (full.amax(1, keepdim=True) - chosen).max() < 1e-4
