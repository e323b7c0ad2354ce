"""DFANet against the paper's MACs by formulas, its wiring, and what its backbone promises."""

from __future__ import annotations

import pytest
import torch
from model_contract import CLASSES, SPEC, ModelContract, images, seeded

from edgeseg.bundle import Manifest, ModelSpec
from edgeseg.errors import UsageError
from edgeseg.export.to_onnx import to_onnx
from edgeseg.models.checkpoint import save_checkpoint
from edgeseg.models.dfanet import Attention, DFANet, Xception
from edgeseg.models.network import build_model
from edgeseg.models.work import count_macs

pytestmark = pytest.mark.torch


class TestDFANetA(ModelContract):
    name = "dfanet_a"


class TestDFANetB(ModelContract):
    name = "dfanet_b"


# The closed form: (params, macs) of each piece, `pixels` being those of its output.

Cost = tuple[int, int]


def add(*costs: Cost) -> Cost:
    return sum(c[0] for c in costs), sum(c[1] for c in costs)


def conv(kernel: int, inputs: int, outputs: int, pixels: int, norm: bool = True) -> Cost:
    """Convolution without bias; a normalisation's scale and shift, or a bias."""
    weights = kernel * kernel * inputs * outputs
    return weights + (2 if norm else 1) * outputs, weights * pixels


def separable(inputs: int, outputs: int, pixels: int) -> Cost:
    return add((9 * inputs, 9 * inputs * pixels), conv(1, inputs, outputs, pixels))


def block(inputs: int, c: int, pixels: int) -> Cost:
    return add(
        separable(inputs, c // 4, pixels),
        separable(c // 4, c // 4, pixels),
        separable(c // 4, c, pixels),
    )


def stage(inputs: int, c: int, repeats: int, pixels: int) -> Cost:
    first = add(block(inputs, c, pixels), conv(1, inputs, c, pixels))
    return add(first, *[block(c, c, pixels)] * (repeats - 1))


def backbone(inputs: tuple[int, ...], widths: tuple[int, ...], pixels: int) -> Cost:
    """`pixels` are those of enc2's output."""
    stages = zip(inputs, widths, (4, 6, 4), (pixels, pixels // 4, pixels // 16), strict=True)
    attention = add(conv(1, widths[2], 1000, 1, norm=False), conv(1, 1000, widths[2], 1, False))
    return add(*(stage(*row) for row in stages), attention)


def xception(widths: tuple[int, ...], image: int) -> Cost:
    stem = conv(3, 3, 8, image // 4)
    return add(stem, backbone((8, widths[0], widths[1]), widths, image // 16))


def dfanet(widths: tuple[int, ...], classes: int, image: int) -> Cost:
    c2, c3, c4 = widths
    later = (c4 + c2, c2 + c3, c3 + c4)
    backbones = [backbone(later, widths, image // 16 // 4**n) for n in (1, 2)]
    low = [conv(1, c2, 32, image // 16 // 4**n) for n in (0, 1, 2)]
    high = [conv(1, c4, 32, image // 256 // 4**n) for n in (0, 1, 2)]
    fuse = conv(3, 32, 32, image // 16)
    classifier = conv(1, 32, classes, image // 16, norm=False)
    return add(xception(widths, image), *backbones, *low, *high, fuse, classifier)


WIDTHS = {"a": (48, 96, 192), "b": (32, 64, 128)}


@pytest.mark.parametrize(
    ("kind", "size", "published"),
    [
        ("a", (1024, 1024), 3.42e9),
        ("a", (512, 1024), 1.71e9),
        ("b", (1024, 1024), 2.06e9),
    ],
)
def test_macs_are_the_papers_and_the_formulas(kind, size, published):
    params, macs = dfanet(WIDTHS[kind], 19, size[0] * size[1])
    assert macs == pytest.approx(published, rel=0.01)
    model = build_model(ModelSpec(f"dfanet_{kind}"), 19).eval()
    assert count_macs(model, size)[0] == macs
    assert sum(p.numel() for p in model.parameters()) == params


@pytest.mark.parametrize(("kind", "published"), [("a", 1.66e9), ("b", 0.845e9)])
def test_macs_of_the_backbone_with_attention(kind, published):
    params, macs = xception(WIDTHS[kind], 1024 * 1024)
    assert macs == pytest.approx(published, rel=0.01)
    model = Xception(kind).eval()
    assert count_macs(model, (1024, 1024))[0] == macs
    assert sum(p.numel() for p in model.parameters()) == params


@pytest.mark.parametrize(("kind", "millions"), [("a", 1.82), ("b", 1.10)])
def test_params_are_not_the_papers(kind, millions):
    """7.8 M and 4.8 M in the paper, which this structure cannot hold: they are megabytes."""
    assert round(dfanet(WIDTHS[kind], 19, 1024 * 1024)[0] / 1e6, 2) == millions


# Wiring


def first_conv(stages: torch.nn.Sequential) -> int:
    return stages[0].body[0].in_channels


@pytest.mark.parametrize(("kind", "inputs"), [("a", (240, 144, 288)), ("b", (160, 96, 192))])
def test_later_backbones_see_the_one_before(kind, inputs):
    model = build_model(ModelSpec(f"dfanet_{kind}"), 12)
    c2, c3, _ = WIDTHS[kind]
    seen = [tuple(first_conv(s) for s in (b.enc2, b.enc3, b.enc4)) for b in model.backbones]
    assert seen == [(8, c2, c3), inputs, inputs]


def test_each_backbone_works_at_half_the_resolution_of_the_one_before():
    model = seeded("dfanet_b")
    sides: list[tuple[int, ...]] = []
    for part in model.backbones:
        part.register_forward_hook(lambda _, __, out: sides.append(tuple(x.shape[3] for x in out)))
    with torch.inference_mode():
        model(images(1, 3, 32, 96))
    assert sides == [(24, 12, 6, 6), (12, 6, 3, 3), (6, 3, 2, 2)]  # 96 / 64 is rounded up


def test_only_the_first_block_of_a_stage_strides_and_projects():
    for blocks in (seeded("dfanet_b").backbones[1].enc2, Xception("a").stages.enc4):
        strides = [[m.stride[0] for m in b.body if hasattr(m, "stride")] for b in blocks]
        assert strides == [[2, 1, 1, 1, 1, 1]] + [[1] * 6] * 3
        projects = [any(True for _ in b.shortcut.parameters()) for b in blocks]
        assert projects == [True, False, False, False]
        assert blocks[0].shortcut[0].stride == (2, 2)


def test_attention_multiplies_by_a_weight_per_channel():
    module = Attention(4)
    x = images(2, 4, 3, 5)
    for tensor in (module.fc.weight, module.fc.bias, module.weigh.weight):
        tensor.data.zero_()
    assert torch.equal(module(x), x)  # the weights start around one
    module.fc.weight.data[7, 0] = 2.0  # class 7 scores twice the mean of channel 0,
    module.weigh.weight.data[3, 7] = 5.0  # and channel 3 listens to it
    expected = x.clone()
    expected[:, 3] *= (1 + 10 * x[:, 0].mean((1, 2)))[:, None, None]
    assert torch.allclose(module(x), expected, atol=1e-6)


def test_every_backbone_reaches_the_scores():
    """Without its last backbone the same weights give other scores."""
    model = seeded("dfanet_b")
    image = images(1, 3, 64, 64)
    with torch.inference_mode():
        whole = model(image)
        for part in (*model.low, *model.high):
            scale = part[1].weight.data.clone()
            part[1].weight.data.zero_()
            assert not torch.allclose(model(image), whole, atol=1e-4)
            part[1].weight.data.copy_(scale)
        assert torch.equal(model(image), whole)


# Ablations


@pytest.mark.parametrize("options", [{"backbones": 1}, {"backbones": 2}, {"substages": False}])
def test_ablated_models_train_every_parameter(options):
    model = seeded("dfanet_b", 5, **options).train()
    assert isinstance(model, DFANet)
    assert len(model.backbones) == options.get("backbones", 3)
    logits = model(images(2, 3, 64, 96))
    (logits * images(*logits.shape, seed=1)).sum().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_without_attention_enc4_goes_on_as_it_is():
    model = seeded("dfanet_b", attention="none")
    assert not [n for n, _ in model.named_parameters() if "attention" in n]
    with torch.inference_mode():
        _, _, enc4, attended = model.backbones[0](images(1, 8, 16, 16))
    assert torch.equal(enc4, attended)


def test_without_substages_a_backbone_feeds_on_itself():
    model = seeded("dfanet_b", substages=False)
    assert [first_conv(s) for s in (model.backbones[1].enc3, model.backbones[2].enc4)] == [32, 64]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"attention": "se"}, "attention is 'se'; expected fc or none"),
        ({"backbones": 4}, "backbones is 4; expected 1 to 3"),
        ({"backbones": 0}, "backbones is 0; expected 1 to 3"),
    ],
)
def test_refused_options(options, said):
    with pytest.raises(UsageError) as refused:
        build_model(ModelSpec("dfanet_a", options), 12)
    assert str(refused.value) == said


def test_an_unknown_kind():
    with pytest.raises(UsageError) as refused:
        Xception("c")
    assert str(refused.value) == "kind is 'c'; expected one of a, b"


# The backbone alone


def test_the_backbone_classifies():
    model = Xception("b").train()
    logits = model.classify(images(2, 3, 64, 48))
    assert logits.shape == (2, 1000)
    (logits * images(2, 1000, seed=1)).sum().backward()
    still = {n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    assert still == {"stages.attention.weigh.weight", "stages.attention.weigh.bias"}


def test_a_trained_backbone_starts_all_three():
    trained = Xception("b")
    for tensor in trained.state_dict().values():
        if tensor.is_floating_point():
            tensor.fill_(0.25)
    model = seeded("dfanet_b")
    fresh = [n for n in model.fill_backbones(trained.state_dict()) if "backbones" in n]
    heads = [f"{s}.0.{part}" for s in ("enc2", "enc3", "enc4") for part in ("body.0", "body.1")]
    heads += [f"{s}.0.shortcut.0" for s in ("enc2", "enc3", "enc4")]
    assert sorted(fresh) == sorted(f"backbones.{i}.{h}.weight" for i in (1, 2) for h in heads)
    state = model.state_dict()
    filled = [n for n in state if n.startswith(("stem", "backbones")) and n not in fresh]
    assert all((state[n] == 0.25).all() for n in filled if state[n].is_floating_point())
    assert not (state["classifier.weight"] == 0.25).any()


def test_the_exported_graph_is_plain(tmp_path):
    """One backbone and the decoder hold every operator but the joins."""
    options = {"backbones": 1}
    spec = ModelSpec("dfanet_b", options, void_outputs=1)
    manifest = Manifest("checkpoint", "dfanet_b", CLASSES.to_dict(), SPEC, model=spec)
    save_checkpoint(tmp_path / "model", seeded("dfanet_b", **options), manifest)
    graph = to_onnx(tmp_path / "model", size=(64, 96), batch=1, order="rgb", scores=True)
    assert (graph.output.decode, graph.output.factor) == ("bilinear", 4)
    operators = {n.op_type for n in graph.model.graph.node}
    known = "Cast Transpose Sub Mul Conv Relu Add Concat Resize ReduceMean Gemm Reshape Unsqueeze"
    assert operators <= set(known.split())
