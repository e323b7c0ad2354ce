"""DSRL on every kind of host: what trains, what is left at export, what it costs."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from edgeseg.bundle import InputSpec, Manifest, ModelSpec
from edgeseg.errors import RecipeError, UsageError
from edgeseg.export.simplify import simplify
from edgeseg.export.to_onnx import FloatGraph, count_macs, to_onnx
from edgeseg.labels import CLASS_TABLES
from edgeseg.models import WRAPPERS
from edgeseg.models.checkpoint import save_checkpoint
from edgeseg.models.dsrl import DSRL, STAGES, double
from edgeseg.models.dupsample import Reconstruct
from edgeseg.models.network import Bilinear, Network, build_model
from edgeseg.runtime.decode import decode

pytestmark = pytest.mark.torch

CLASSES = CLASS_TABLES["camvid11"]
SIZE = (32, 64)
CASES = [
    ("espnet_q3", "doubled"),  # a deconvolution is last
    ("espnet_q3", "bilinear"),
    ("espnet_q3", "deconvolution"),
    ("espnetc_q3", "doubled"),  # bilinear
    ("espnetc_q3", "deconvolution"),
    ("espnetv2_s0.5", "doubled"),  # bilinear, corners aligned
    ("dfanet_b", "doubled"),  # the deepest feature is at 1/64
    ("espnetc_q3+dupsample", "doubled"),
    ("espnetc_q3+dupsample", "bilinear"),
]


def build(host: str, seed: int = 0, outputs: int = 12, **options: object) -> Network:
    torch.manual_seed(seed)
    table = {"dsrl": options, "dupsample": {"channels": 16}}
    known = {key: table[key] for key in ("dsrl", "dupsample") if key in f"{host}+dsrl"}
    return build_model(ModelSpec(f"{host}+dsrl", known), outputs)


def image(*size: int, n: int = 2) -> torch.Tensor:
    return torch.randn(n, 3, *size, generator=torch.Generator().manual_seed(0))


# What comes out


@pytest.mark.parametrize(("host", "upsampling"), CASES)
def test_labels_are_twice_as_large_as_the_input(host, upsampling):
    model = build(host, upsampling=upsampling)
    assert model.scale == 2
    side = model.divisor
    outputs = model.train()(image(side, 3 * side))
    assert set(outputs) == {"logits", "scores", "image", "seg", "sr"}
    assert outputs["logits"].shape == (2, 12, 2 * side, 6 * side)
    assert outputs["image"].shape == (2, 3, 2 * side, 6 * side)
    assert outputs["sr"].shape == (2, 16, side, 3 * side)
    assert outputs["seg"].shape[1] == 16
    assert outputs["seg"].shape[2:] == outputs["scores"].shape[2:]
    with torch.no_grad():
        logits = model.eval()(image(side, 3 * side))
        assert torch.equal(logits, model.upsample(model.scores(image(side, 3 * side))))
        assert torch.allclose(logits, model.outputs(image(side, 3 * side))["logits"], atol=1e-5)


@pytest.mark.parametrize("stage", STAGES)
def test_each_stage_has_its_branches_and_no_others(stage):
    model = build("espnetc_q3", stage=stage)
    assert isinstance(model, DSRL)
    on = [
        name
        for name in ("sisr", "transform")
        if any(k.startswith(name) for k in model.state_dict())
    ]
    assert on == list(model.branches()) == ["sisr", "transform"][: STAGES.index(stage)]
    named = {"sssr": set(), "sssr+sisr": {"image"}, "sssr+sisr+fa": {"image", "seg", "sr"}}
    assert set(model.train()(image(*SIZE))) == {"logits", "scores"} | named[stage]


def test_affinities_of_a_named_feature():
    model = build("espnetc_q3", affinity="level2").train()
    outputs = model(image(*SIZE))
    assert outputs["seg"].shape[2:] == (SIZE[0] // 4, SIZE[1] // 4)
    model.zero_grad()
    (outputs["seg"] * torch.randn_like(outputs["seg"])).sum().backward()
    touched = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert any(name.startswith("host.encoder.stage2") for name in touched)
    assert not any(name.startswith("host.encoder.stage3") for name in touched)
    with pytest.raises(UsageError, match=r"affinity names no feature 'level9' of the host"):
        build("espnetc_q3", affinity="level9")


@pytest.mark.parametrize(("host", "upsampling"), CASES)
def test_every_parameter_of_every_branch_gets_a_gradient(host, upsampling):
    """A public re-implementation never trained its SISR branch."""
    model = build(host, upsampling=upsampling, taps=(names(host)[0], names(host)[-1])).train()
    side = 2 * model.divisor
    outputs = model(image(side, side))
    generator = torch.Generator().manual_seed(1)
    used = [outputs[key] for key in ("logits", "image", "seg", "sr")]
    sum((x * torch.randn(x.shape, generator=generator)).sum() for x in used).backward()
    parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert [n for n, p in parameters.items() if p.grad is None or not p.grad.any()] == []
    frozen = [n for n, p in model.named_parameters() if not p.requires_grad]
    assert frozen == (["host.upsample.weight"] if "dupsample" in host else [])


def names(host: str) -> list[str]:
    side = 64
    with torch.no_grad():
        model = build_model(ModelSpec(host.partition("+")[0]), 12)
        return list(model.eval().features(torch.zeros(1, 3, side, side)))


def test_the_encoder_learns_from_the_image_alone():
    model = build("espnet_q3", stage="sssr+sisr").train()
    model(image(*SIZE))["image"].square().sum().backward()
    for name, parameter in model.named_parameters():
        shared = name.startswith(("host.encoder", "sisr"))
        assert (parameter.grad is not None) == shared, name


def test_stages_start_from_the_same_weights():
    """What is deployed does not depend on the branches, and neither does its random start."""
    first = build("espnet_q3", stage=STAGES[0]).state_dict()
    for stage in STAGES[1:]:
        state = build("espnet_q3", stage=stage).state_dict()
        assert all(torch.equal(state[key], value) for key, value in first.items())


def test_upsamplings_by_shape():
    doubled = build("espnet_q3", upsampling="doubled")
    assert doubled.upsample.weight.shape == (12, 12, 4, 4)
    assert doubled.upsample.stride == (4, 4)
    c = build("espnetc_q3", upsampling="doubled")
    assert c.upsample.factor == 16
    bilinear = build("espnet_q3", upsampling="bilinear")
    assert bilinear.upsample.factor == 2
    plain = build_model(ModelSpec("espnet_q3"), 12)
    deployed = build("espnet_q3", upsampling="bilinear")
    deployed.deploy()
    assert sum(p.numel() for p in deployed.parameters()) == sum(
        p.numel() for p in plain.parameters()
    )
    assert count_macs(deployed.eval(), SIZE)[0] == count_macs(plain.eval(), SIZE)[0]
    paper = build("espnetc_q3", upsampling="deconvolution")
    assert isinstance(paper, DSRL)
    assert [type(m).__name__ for m in paper.stack] == [
        "ConvTranspose2d", "BatchNorm2d", "ReLU", "Conv2d",
    ]  # fmt: skip


def test_bilinear_is_the_hosts_logits_made_larger():
    model = build("espnet_q3", upsampling="bilinear", stage="sssr").eval()
    with torch.no_grad():
        expected = nn.functional.interpolate(
            model.host(image(*SIZE)), scale_factor=2, mode="bilinear", align_corners=False
        )
        assert torch.equal(model(image(*SIZE)), expected)


@pytest.mark.parametrize(("host", "upsampling"), CASES)
def test_cut_and_deploy_keep_the_logits(host, upsampling):
    model = build(host, upsampling=upsampling).eval()
    side = model.divisor
    with torch.no_grad():
        whole = model(image(side, side))
        model.cut(11)
        model.deploy()
        part = model(image(side, side))
    assert model.branches() == {}
    assert not any(k.startswith(("sisr", "transform")) for k in model.state_dict())
    assert part.shape[1] == 11
    assert torch.allclose(part, whole[:, :11], rtol=0, atol=1e-5)


# What the branches cost, by hand


def test_what_is_left_out_by_formula(graphs):
    """ESPNet's deepest feature: 256 channels at 1/8. SISR: 64 at 1/8, 32 at 1/4, 16 from 1/2 on."""
    sisr = 256 * 64 + 64
    macs = 256 * 64 * 4 * 8
    for inputs, outputs, pixels in ((64, 32, 4 * 8), (32, 16, 8 * 16), (16, 16, 16 * 32)):
        sisr += 9 * inputs * 4 * outputs + 2 * outputs
        macs += 9 * inputs * 4 * outputs * pixels
    sisr += 9 * 16 * 12 + 12
    macs += 9 * 16 * 12 * 32 * 64
    transform, transform_macs = 12 * 16 + 2 * 16, 12 * 16 * 16 * 32
    left_out = graphs["sssr+sisr+fa", "labels"].left_out
    assert left_out.branches == ("sisr", "transform")
    assert left_out.params == sisr + transform
    assert left_out.macs == macs + transform_macs
    assert str(left_out) == (
        f"left out sisr and transform: {sisr + transform:,} parameters and "
        f"{(macs + transform_macs) / 1e6:.1f} M MACs saved"
    )


SEEDS = {"sssr": 0, "sssr+sisr+fa": 1}


@pytest.fixture(scope="module")
def graphs(tmp_path_factory) -> dict[tuple[str, str], FloatGraph]:
    """ESPNet+DSRL by stage and output, each stage with weights of its own."""
    made = {}
    for stage, seed in SEEDS.items():
        folder = tmp_path_factory.mktemp("dsrl") / "model"
        spec = ModelSpec("espnet_q3+dsrl", {"dsrl": {"stage": stage}}, void_outputs=1)
        inputs = InputSpec("rgb", (110.0, 100.0, 90.0), (60.0, 61.0, 62.0), size=SIZE)
        manifest = Manifest("checkpoint", "espnet", CLASSES.to_dict(), inputs, model=spec)
        save_checkpoint(folder, build("espnet_q3", seed, stage=stage), manifest)
        for output in ("labels", "scores"):
            graph = to_onnx(folder, size=SIZE, batch=1, order="rgb", scores=output == "scores")
            made[stage, output] = dataclasses.replace(graph, model=simplify(graph.model))
    return made


def shape(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    return tuple(d.dim_value for d in value.type.tensor_type.shape.dim)


def describe(model: onnx.ModelProto) -> dict[str, list[object]]:
    """Operators, names, wires and attributes of the nodes; shapes of weights and values."""
    graph = model.graph
    return {
        "nodes": [(n.op_type, n.name, n.SerializeToString()) for n in graph.node],
        "weights": [(t.name, tuple(t.dims), t.data_type) for t in graph.initializer],
        "values": [(v.name, shape(v)) for v in (*graph.input, *graph.value_info, *graph.output)],
    }


@pytest.mark.parametrize("output", ["labels", "scores"])
def test_the_exported_graph_is_the_same_whatever_it_was_trained_with(graphs, output):
    """Node for node; the weights are others, of course."""
    alone, trained = (graphs[stage, output] for stage in SEEDS)
    assert describe(alone.model) == describe(trained.model)
    assert len(describe(alone.model)["nodes"]) > 40
    assert alone.left_out is None
    assert trained.left_out is not None
    assert alone.output == trained.output
    assert (alone.params, alone.macs) == (trained.params, trained.macs)
    weights = [{t.name: t for t in g.model.graph.initializer} for g in (alone, trained)]
    assert any(weights[0][k].raw_data != weights[1][k].raw_data for k in weights[0])


def test_what_the_manifest_says_of_the_output(graphs):
    labels, scores = (graphs["sssr", output].output for output in ("labels", "scores"))
    assert (labels.kind, labels.stride, labels.decode, labels.scale) == ("labels", 1, None, 2)
    # ESPNet's last deconvolution, 2x2 on maps at 1/2, has 4x4
    assert (scores.kind, scores.stride, scores.scale) == ("scores", 2, 2)
    assert (scores.decode, scores.factor) == ("deconvolution", 4)


@pytest.mark.parametrize("output", ["labels", "scores"])
def test_torch_graph_and_fused_decode_agree(graphs, output):
    exported = graphs["sssr+sisr+fa", output]
    frames = np.random.default_rng(0).integers(0, 256, (1, *SIZE, 3)).astype(np.uint8)
    session = onnxruntime.InferenceSession(exported.model.SerializeToString())
    (labels,) = session.run(None, {"image": frames})
    if output == "scores":
        labels = decode(labels, exported.output, exported.weight, exported.bias)
    model = build("espnet_q3", SEEDS["sssr+sisr+fa"]).eval()
    mean, std = torch.tensor([110.0, 100.0, 90.0]), torch.tensor([60.0, 61.0, 62.0])
    with torch.no_grad():
        normal = ((torch.from_numpy(frames).float() - mean) / std).permute(0, 3, 1, 2)
        truth = model(normal)[:, :11].argmax(1).numpy()
    assert labels.shape == truth.shape == (1, 2 * SIZE[0], 2 * SIZE[1])
    assert (labels == truth).mean() >= 0.9999
    assert len(np.unique(truth)) > 1


# Names and options


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("espnet_q3+dslr", "unknown wrapper 'dslr' in 'espnet_q3+dslr'. Did you mean 'dsrl'?"),
        ("espnet_q3+x", "unknown wrapper 'x' in 'espnet_q3+x'. Known: dupsample, dsrl"),
        ("espnet_q4+dsrl", "unknown model 'espnet_q4'. Did you mean 'espnet_q"),
        (
            "espnet_q3+dsrl+dupsample",
            "'espnet_q3+dsrl+dupsample': each wrapper comes once, in this order: "
            "espnet_q3+dupsample+dsrl",
        ),
        ("espnet_q3+dsrl+dsrl", "'espnet_q3+dsrl+dsrl': each wrapper comes once, in this order"),
        ("espnet_q3+", "unknown wrapper '' in 'espnet_q3+'. Known: dupsample, dsrl"),
    ],
)
def test_names_that_can_not_be(name, said):
    with pytest.raises(UsageError) as refused:
        build_model(ModelSpec(name), 12)
    assert str(refused.value).startswith(said)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"dsrl": {"stagee": "sssr"}},
         "options of 'dsrl': unknown key 'stagee'. Did you mean 'stage'?"),
        ({"dsrl": {"stage": "sisr"}},
         "options of 'dsrl': stage is 'sisr'; expected sssr, sssr+sisr, sssr+sisr+fa"),
        ({"dsrl": {"upsampling": "nearest"}},
         "options of 'dsrl': upsampling is 'nearest'; expected doubled, bilinear, deconvolution"),
        ({"dsrl": {"taps": ["level9"]}}, "taps names no feature 'level9' of the host. Did"),
        ({"dsrl": {"taps": ["stem", "stem"]}}, "taps is ['stem', 'stem']; name each feature once"),
        ({"skip": "none"}, "skip is 'none'; expected one of stem, join"),
        ({"depth": 3}, "model 'espnet_q3' does not take {'depth': 3}: "),
        ({"dupsample": {}},
         "options hold a table 'dupsample'; model 'espnet_q3+dsrl' has no '+dupsample'"),
    ],
)  # fmt: skip
def test_options_that_can_not_be(options, said):
    with pytest.raises((UsageError, RecipeError)) as refused:
        build_model(ModelSpec("espnet_q3+dsrl", options), 12)
    assert str(refused.value).startswith(said)


def test_options_of_host_and_wrapper_go_where_they_belong():
    spec = ModelSpec("espnet_q3+dsrl", {"skip": "stem", "dsrl": {"stage": "sssr"}})
    model = build_model(spec, 12)
    assert isinstance(model, DSRL)
    assert model.host.skip == "stem"
    assert model.sisr is None


def test_every_wrapper_names_its_paper():
    assert all("CVPR" in entry.paper for entry in WRAPPERS.values())


def test_double_by_kind():
    bilinear = double(Bilinear(2, align_corners=True))
    assert isinstance(bilinear, Bilinear)
    assert (bilinear.factor, bilinear.align_corners) == (4, True)
    deconvolution = double(nn.ConvTranspose2d(5, 3, 2, 2, bias=True))
    assert isinstance(deconvolution, nn.ConvTranspose2d)
    assert deconvolution.weight.shape == (5, 3, 4, 4)
    assert deconvolution.bias is not None
    reconstruct = double(Reconstruct(4, 3, 8, temperature=False))
    assert isinstance(reconstruct, Reconstruct)
    assert reconstruct.weight.shape == (4, 3, 16, 16)
    assert reconstruct.log_temperature is None
    with pytest.raises(UsageError) as refused:
        double(nn.PixelShuffle(2))
    assert str(refused.value) == (
        "the host's last layer is a PixelShuffle, which can't be doubled; give upsampling = "
        "'bilinear'"
    )
