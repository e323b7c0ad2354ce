"""Encoders: published sizes, torchvision's names and shapes, and what dilation keeps."""

from __future__ import annotations

import pytest
import torch
from model_contract import images
from torch.utils.flop_counter import FlopCounterMode

from edgeseg.errors import UsageError, WeightsError
from edgeseg.models.dfanet import Project
from edgeseg.models.imagenet import Classifier, fill_encoder, read_encoder
from edgeseg.models.mobilenetv2 import MobileNetV2, round_channels
from edgeseg.models.resnet import ResNet, channels_of
from edgeseg.models.vgg import VGG
from edgeseg.models.xception import Xception39

pytestmark = pytest.mark.torch

# fmt: off
PUBLISHED = {
    # name                     parameters    MACs at 224x224, in G
    "resnet18":    (lambda: ResNet(18),      11_689_512,  1.81),
    "resnet34":    (lambda: ResNet(34),      21_797_672,  3.66),
    "resnet50":    (lambda: ResNet(50),      25_557_032,  4.09),
    "resnet101":   (lambda: ResNet(101),     44_549_160,  7.80),
    "vgg16":       (VGG,                    138_357_544, 15.47),
    "vgg16_bn":    (lambda: VGG(norm=True), 138_365_992, 15.47),
    "mobilenetv2": (MobileNetV2,              3_504_872,  0.30),
}
# fmt: on


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_parameters_and_macs(name):
    """torchvision's figures, which are those of the papers."""
    build, params, giga = PUBLISHED[name]
    with torch.device("meta"):
        classifier = Classifier(build()).eval()
    assert sum(p.numel() for p in classifier.parameters()) == params
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        classifier(torch.zeros(1, 3, 224, 224, device="meta"))
    assert round(counter.get_total_flops() / 2e9, 2) == giga


# torchvision's state dicts, written down from its naming

State = dict[str, tuple[int, ...]]


def norm(name: str, channels: int) -> State:
    parts = ("weight", "bias", "running_mean", "running_var")
    return {f"{name}.{part}": (channels,) for part in parts} | {f"{name}.num_batches_tracked": ()}


def resnet_keys(repeats: tuple[int, ...], bottleneck: bool) -> State:
    state = {"conv1.weight": (64, 3, 7, 7)} | norm("bn1", 64)
    inputs = 64
    for stage, count in enumerate(repeats, 1):
        planes = 32 << stage
        for block in range(count):
            at = f"layer{stage}.{block}"
            outputs = planes * (4 if bottleneck else 1)
            if bottleneck:
                kernels = ((planes, inputs, 1), (planes, planes, 3), (outputs, planes, 1))
            else:
                kernels = ((planes, inputs, 3), (planes, planes, 3))
            for i, (wide, narrow, side) in enumerate(kernels, 1):
                state[f"{at}.conv{i}.weight"] = (wide, narrow, side, side)
                state |= norm(f"{at}.bn{i}", wide)
            if block == 0 and inputs != outputs:
                state[f"{at}.downsample.0.weight"] = (outputs, inputs, 1, 1)
                state |= norm(f"{at}.downsample.1", outputs)
            inputs = outputs
    return state | {"fc.weight": (1000, inputs), "fc.bias": (1000,)}


def vgg_keys(batch_norm: bool) -> State:
    state: State = {}
    index, inputs = 0, 3
    for channels, repeats in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(repeats):
            state[f"features.{index}.weight"] = (channels, inputs, 3, 3)
            state[f"features.{index}.bias"] = (channels,)
            if batch_norm:
                state |= norm(f"features.{index + 1}", channels)
            index += 3 if batch_norm else 2
            inputs = channels
        index += 1
    for place, (wide, narrow) in {0: (4096, 25088), 3: (4096, 4096), 6: (1000, 4096)}.items():
        state[f"classifier.{place}.weight"] = (wide, narrow)
        state[f"classifier.{place}.bias"] = (wide,)
    return state


def mobilenet_keys() -> State:
    state = {"features.0.0.weight": (32, 3, 3, 3)} | norm("features.0.1", 32)
    inputs, index = 32, 1
    for t, c, n in ((1, 16, 1), (6, 24, 2), (6, 32, 3), (6, 64, 4), (6, 96, 3), (6, 160, 3),
                    (6, 320, 1)):  # fmt: skip
        for _ in range(n):
            at, wide = f"features.{index}.conv", inputs * t
            if t > 1:
                state[f"{at}.0.0.weight"] = (wide, inputs, 1, 1)
                state |= norm(f"{at}.0.1", wide)
            i = int(t > 1)
            state[f"{at}.{i}.0.weight"] = (wide, 1, 3, 3)
            state |= norm(f"{at}.{i}.1", wide)
            state[f"{at}.{i + 1}.weight"] = (c, wide, 1, 1)
            state |= norm(f"{at}.{i + 2}", c)
            inputs, index = c, index + 1
    state |= {"features.18.0.weight": (1280, 320, 1, 1)} | norm("features.18.1", 1280)
    return state | {"classifier.1.weight": (1000, 1280), "classifier.1.bias": (1000,)}


# fmt: off
FILES = {
    # name                                                     tensors in torchvision's file
    "resnet18":    (resnet_keys((2, 2, 2, 2), False), 122),
    "resnet34":    (resnet_keys((3, 4, 6, 3), False), 218),
    "resnet50":    (resnet_keys((3, 4, 6, 3), True),  320),
    "resnet101":   (resnet_keys((3, 4, 23, 3), True), 626),
    "vgg16":       (vgg_keys(False),                   32),
    "vgg16_bn":    (vgg_keys(True),                    97),
    "mobilenetv2": (mobilenet_keys(),                 314),
}
# fmt: on
LEFT_OUT = ("fc.", "classifier.", "features.18.0", "features.18.1")


@pytest.mark.parametrize("name", FILES)
def test_the_names_and_shapes_are_torchvisions(name):
    state, count = FILES[name]
    assert len(state) == count
    with torch.device("meta"):
        own = PUBLISHED[name][0]().state_dict()
    mobile = name == "mobilenetv2"
    left_out = LEFT_OUT if mobile else LEFT_OUT[:2]
    wanted = {k: shape for k, shape in state.items() if not k.startswith(left_out)}
    assert {k: tuple(v.shape) for k, v in own.items()} == wanted


def numbered(state: State) -> dict[str, torch.Tensor]:
    """Tensors that can be told apart: the n-th is full of n."""
    return {
        key: torch.full(shape, i, dtype=torch.long if key.endswith("tracked") else torch.float)
        for i, (key, shape) in enumerate(state.items())
    }


def test_a_file_fills_the_encoder_and_its_classifier_is_left_out(tmp_path):
    state = numbered(FILES["resnet18"][0])
    torch.save(state, tmp_path / "resnet18.pth")
    encoder = ResNet(18, stride=8)
    read_encoder(tmp_path / "resnet18.pth", encoder)
    for key, tensor in encoder.state_dict().items():
        assert torch.equal(tensor, state[key]), key


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s.pop("layer3.1.conv2.weight"),
         "here: is no ResNet as the model has it: 1 keys missing, 0 unknown (first: "
         "'layer3.1.conv2.weight'). Take torchvision's file of the same depth, with or without "
         "normalisation as the model"),
        (lambda s: s.update({"layer5.0.conv1.weight": torch.zeros(1)}),
         "0 keys missing, 1 unknown (first: 'layer5.0.conv1.weight')"),
        (lambda s: s.update({"conv1.weight": torch.zeros(64, 3, 3, 3)}),
         "here: 'conv1.weight' has shape (64, 3, 3, 3); the encoder expects (64, 3, 7, 7)"),
    ],
)  # fmt: skip
def test_a_file_that_does_not_fit_is_refused(change, said):
    state = numbered(FILES["resnet18"][0])
    change(state)
    encoder = ResNet(18)
    before = encoder.conv1.weight.clone()
    with pytest.raises(WeightsError) as refused:
        fill_encoder(encoder, state, "here")
    assert said in str(refused.value)
    assert torch.equal(encoder.conv1.weight, before)


def test_a_file_without_counters_is_taken():
    state = {k: v for k, v in numbered(FILES["resnet18"][0]).items() if "num_batches" not in k}
    encoder = ResNet(18)
    fill_encoder(encoder, state, "here")
    assert torch.equal(encoder.bn1.weight, state["bn1.weight"])


def test_an_encoder_that_torchvision_does_not_have_is_refused():
    with pytest.raises(WeightsError) as refused:
        fill_encoder(Xception39(), {}, "here")
    assert str(refused.value) == (
        "here: torchvision has no weights for the encoder xception.Xception39; it has them for "
        "ResNet, VGG, MobileNetV2"
    )


# Strides


@pytest.mark.parametrize("stride", [8, 16, 32])
@pytest.mark.parametrize(
    "build",
    [lambda s: ResNet(18, s, width=0.125), lambda s: ResNet(50, s, "deep", width=0.125),
     lambda s: MobileNetV2(s, width=0.25)],
)  # fmt: skip
def test_the_deepest_map_is_at_the_stride(build, stride):
    with torch.inference_mode():
        maps = list(build(stride).eval()(torch.zeros(1, 3, 64, 128)).values())
    assert maps[-1].shape[2:] == (64 // stride, 128 // stride)
    assert [64 // m.shape[2] for m in maps] == sorted(64 // m.shape[2] for m in maps)


def middle_weights(module: torch.nn.Module) -> None:
    """Kernels of ones over their own nine, five, ... places; norms that do nothing."""
    generator = torch.Generator().manual_seed(0)
    for tensor in module.state_dict().values():
        if tensor.ndim > 1:
            tensor.uniform_(-0.1, 0.1, generator=generator)


@pytest.mark.parametrize("depth", [18, 50])
def test_dilation_sees_what_strides_saw(depth):
    """The map at 1/8, read at every fourth pixel, is the map at 1/32 (Yu et al. 2017)."""
    wide, dense = ResNet(depth, 32, width=0.125).eval(), ResNet(depth, 8, width=0.125).eval()
    middle_weights(wide)
    dense.load_state_dict(wide.state_dict())
    image = images(1, 3, 128, 160)
    with torch.inference_mode():
        coarse, fine = wide(image)["layer4"], dense(image)["layer4"]
    assert fine.shape[2:] == (16, 20)
    assert torch.allclose(fine[:, :, ::4, ::4], coarse, atol=1e-5 * float(coarse.abs().max()))


def rates(stage: torch.nn.Sequential) -> list[int]:
    return [block.conv2.dilation[0] for block in stage]


def test_multi_grid_multiplies_the_last_stage():
    """DeepLabv3, 4.1: unit rates 1, 2, 4 times 2 at output stride 16."""
    assert rates(ResNet(50, 16, grid=(1, 2, 4), width=0.125).layer4) == [2, 4, 8]
    assert rates(ResNet(50, 8, grid=(1, 2, 4), width=0.125).layer4) == [4, 8, 16]
    plain = ResNet(50, 8, width=0.125)
    assert (rates(plain.layer3), rates(plain.layer4)) == ([1] + [2] * 5, [2, 4, 4])


def test_the_deep_stem_is_128_wide():
    encoder = ResNet(50, 8, "deep")
    assert [c.out_channels for c in (encoder.conv1, encoder.conv2, encoder.conv3)] == [64, 64, 128]
    assert encoder.layer1[0].conv1.in_channels == 128


def test_every_strided_shortcut_is_the_safe_one():
    """Torch 2.13's own strided 1x1 writes outside of its memory in channels-last."""
    for encoder in (ResNet(18, width=0.125), ResNet(50, width=0.125)):
        strided = [m for m in encoder.modules() if isinstance(m, torch.nn.Conv2d)
                   and m.kernel_size == (1, 1) and m.stride != (1, 1)]  # fmt: skip
        assert len(strided) == 3
        assert all(isinstance(conv, Project) for conv in strided)


def test_channels_are_known_without_building():
    assert channels_of(18) == (64, 128, 256, 512)
    assert channels_of(101) == (256, 512, 1024, 2048)
    for depth, width in ((18, 0.125), (50, 0.5)):
        with torch.device("meta"):
            maps = ResNet(depth, width=width)(torch.zeros(1, 3, 64, 64))
        assert channels_of(depth, width) == tuple(m.shape[1] for m in list(maps.values())[1:])


def test_channels_of_mobilenet_are_multiples_of_eight():
    """Never below 90 % of what was asked."""
    assert [round_channels(c) for c in (24, 12, 10.5, 3, 44)] == [24, 16, 16, 8, 48]


@pytest.mark.parametrize("dilated", [False, True])
def test_vgg_names_what_is_before_and_behind_each_pooling(dilated):
    with torch.inference_mode():
        maps = VGG(dilated=dilated, width=0.125).eval()(torch.zeros(1, 3, 64, 64))
    sides = [int(m.shape[2]) for m in maps.values()]
    assert list(maps)[:4] == ["conv1", "pool1", "conv2", "pool2"]
    if dilated:
        assert sides == [64, 32, 32, 16, 16, 8, 8, 8, 8, 8]
    else:
        assert sides == [64, 32, 32, 16, 16, 8, 8, 4, 4, 2]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((20,), "depth is 20; expected one of 18, 34, 50, 101"),
        ((50, 4), "stride is 4; expected one of 8, 16, 32"),
        ((50, 8, "wide"), "stem is 'wide'; expected one of plain, deep"),
        ((18, 8, "plain", (1, 2, 4)),
         "grid is [1, 2, 4]; layer4 of ResNet-18 has 2 blocks, so give as many dilations"),
    ],
)  # fmt: skip
def test_what_a_resnet_can_not_be(arguments, said):
    with pytest.raises(UsageError) as refused:
        ResNet(*arguments)
    assert str(refused.value) == said


def test_mobilenet_has_three_strides():
    with pytest.raises(UsageError, match="stride is 4; expected one of 8, 16, 32"):
        MobileNetV2(4)
