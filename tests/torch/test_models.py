"""What must hold for every model, and the arithmetic of ESPNet by formulas and by hand.

A new row of MODELS is one more class with its closed form of params and MACs.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from model_contract import CLASSES, SPEC, ModelContract, images, seeded
from torch.utils.flop_counter import FlopCounterMode

from edgeseg.bundle import Manifest, ModelSpec, read_manifest
from edgeseg.errors import BundleError, UsageError, WeightsError
from edgeseg.models import MODELS, WRAPPERS
from edgeseg.models.checkpoint import fill_weights, load_checkpoint, save_checkpoint
from edgeseg.models.espnet import ESP, ESPNet
from edgeseg.models.network import Bilinear, Network, build_model
from edgeseg.models.work import count_macs

pytestmark = pytest.mark.torch

# Closed forms: ESPNet's paper, sections 3.1 to 3.3, and figure 4; our decoder's two skips.


@dataclass
class Work:
    """Sums of parameters and multiply-adds, written down layer by layer."""

    height: int
    width: int
    params: int = 0
    macs: int = 0

    def conv(self, kernel: int, inputs: int, outputs: int, stride: int) -> None:
        """A convolution without bias whose output is at 1/stride of the image."""
        weights = kernel * kernel * inputs * outputs
        self.params += weights
        self.macs += weights * (self.height // stride) * (self.width // stride)

    def deconv(self, channels: int, stride: int) -> None:
        """A 2x2 deconvolution of stride 2 whose INPUT is at 1/stride: each pixel makes four."""
        self.conv(2, channels, channels, stride)

    def norm(self, channels: int, slopes: bool = True) -> None:
        """Scale and shift, and PReLU's slope, for each channel."""
        self.params += (3 if slopes else 2) * channels

    def esp(self, inputs: int, outputs: int, stride: int, down: bool = False) -> None:
        """Reduce to n = outputs / 5 by 1x1 (3x3 when it strides), then five dilated 3x3."""
        n = outputs // 5
        self.conv(3 if down else 1, inputs, n, stride)
        self.conv(3, n, outputs - 4 * n, stride)
        for _ in range(4):
            self.conv(3, n, n, stride)
        self.norm(outputs)

    def encoder(self, q: int) -> None:
        self.conv(3, 3, 16, 2)
        self.norm(16)
        self.norm(16 + 3)
        self.esp(16 + 3, 64, 4, down=True)
        for _ in range(2):
            self.esp(64, 64, 4)
        self.norm(64 + 64 + 3)
        self.esp(64 + 64 + 3, 128, 8, down=True)
        for _ in range(q):
            self.esp(128, 128, 8)
        self.norm(128 + 128)

    def decoder(self, outputs: int, skip: int) -> None:
        self.conv(1, 256, outputs, 8)
        self.norm(outputs, slopes=False)
        self.deconv(outputs, 8)
        self.conv(1, 131, outputs, 4)
        self.norm(2 * outputs)
        self.esp(2 * outputs, outputs, 4)
        self.deconv(outputs, 4)
        self.norm(outputs)
        self.conv(3, outputs + skip, outputs, 2)
        self.norm(outputs)
        self.deconv(outputs, 2)


class FormulaContract(ModelContract):
    """A model whose params and MACs are known in closed form."""

    def work(self, outputs: int, height: int, width: int) -> Work:
        raise NotImplementedError

    @pytest.mark.parametrize("outputs", [11, 20])
    def test_params_are_those_of_the_formula(self, outputs):
        model = seeded(self.name, outputs)
        assert sum(p.numel() for p in model.parameters()) == self.work(outputs, 8, 8).params

    @pytest.mark.parametrize(("outputs", "size"), [(20, (64, 96)), (11, (40, 8))])
    def test_macs_are_those_of_the_formula_and_of_torch(self, outputs, size):
        model = seeded(self.name, outputs)
        expected = self.work(outputs, *size).macs
        with torch.inference_mode(), FlopCounterMode(display=False) as torchs:
            model(torch.zeros(1, 3, *size))
        assert count_macs(model, size)[0] == expected
        assert torchs.get_total_flops() == 2 * expected


class EspnetContract(FormulaContract):
    q: int

    def work(self, outputs, height, width):
        work = Work(height, width)
        work.encoder(self.q)
        work.decoder(outputs, skip=16 + 3)
        return work


class EspnetCContract(FormulaContract):
    q: int

    def work(self, outputs, height, width):
        work = Work(height, width)
        work.encoder(self.q)
        work.conv(1, 256, outputs, 8)
        return work


class TestEspnetQ3(EspnetContract):
    name, q = "espnet_q3", 3


class TestEspnetQ5(EspnetContract):
    name, q = "espnet_q5", 5


class TestEspnetQ8(EspnetContract):
    name, q = "espnet_q8", 8


class TestEspnetCQ3(EspnetCContract):
    name, q = "espnetc_q3", 3


class TestEspnetCQ5(EspnetCContract):
    name, q = "espnetc_q5", 5


class TestEspnetCQ8(EspnetCContract):
    name, q = "espnetc_q8", 8


class TestEspnetV2S05(ModelContract):
    name = "espnetv2_s0.5"


class TestEspnetV2S10(ModelContract):
    name = "espnetv2_s1.0"


class TestEspnetV2S15(ModelContract):
    name = "espnetv2_s1.5"


class TestEspnetV2S20(ModelContract):
    name = "espnetv2_s2.0"


def test_every_row_of_models_keeps_the_contract():
    """Its class, or one of the same builder, stands here or in another test_models*.py beside."""

    def below(kind):
        return {kind, *(k for sub in kind.__subclasses__() for k in below(sub))}

    for path in Path(__file__).parent.glob("test_models*.py"):
        importlib.import_module(path.stem)
    names = {vars(k).get("name") for k in below(ModelContract)} - {None}
    plain = {name for name in names if "+" not in name}
    assert plain <= set(MODELS)
    assert {MODELS[name].builder for name in plain} == {row.builder for row in MODELS.values()}
    wrapped = [name.split("+") for name in names if "+" in name]
    assert {host for host, *_ in wrapped} <= set(MODELS)
    assert {wrapper for _, *wrappers in wrapped for wrapper in wrappers} == set(WRAPPERS)


@pytest.mark.parametrize("name", MODELS)
def test_a_row_names_a_class(name):
    module, _, attribute = MODELS[name].builder.partition(":")
    assert issubclass(getattr(importlib.import_module(module), attribute), Network)


# What the literature says


@pytest.mark.parametrize(
    ("name", "millions", "giga"),
    [
        ("espnetc_q3", 0.188, 2.16),
        ("espnetc_q5", 0.252, 2.68),
        ("espnetc_q8", 0.349, 3.47),
        ("espnet_q3", 0.203, 3.47),
        ("espnet_q5", 0.268, 3.99),
        ("espnet_q8", 0.365, 4.78),
    ],
)
def test_published_sizes_at_512x1024_with_20_outputs(name, millions, giga):
    model = seeded(name, 20)
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 3) == millions
    macs = 64 * count_macs(model, (64, 128))[0]  # all layers are convolutions: one MAC per pixel
    assert round(macs / 1e9, 2) == giga


def test_the_stem_skip_has_three_channels_less():
    """The published Cityscapes files: 364,569 params, 4.71 G MACs at 512x1024."""
    model = seeded("espnet_q8", 20, skip="stem")
    work = Work(512, 1024)
    work.encoder(8)
    work.decoder(20, skip=16)
    assert sum(p.numel() for p in model.parameters()) == work.params == 364_569
    assert 64 * count_macs(model, (64, 128))[0] == work.macs == 4_709_441_536


# ESP by hand


def slow_conv(x: np.ndarray, weight: np.ndarray, stride: int, dilation: int) -> np.ndarray:
    """(C, H, W) by (O, C, k, k), zeros around: one output pixel after the other."""
    outputs, _, k, _ = weight.shape
    reach = dilation * (k // 2)
    padded = np.pad(x, ((0, 0), (reach, reach), (reach, reach)))
    height, width = -(-x.shape[1] // stride), -(-x.shape[2] // stride)
    result = np.zeros((outputs, height, width))
    for row in range(height):
        for column in range(width):
            top, left = row * stride, column * stride
            bottom, right = top + 2 * reach + 1, left + 2 * reach + 1
            seen = padded[:, top:bottom:dilation, left:right:dilation] if k > 1 else None
            patch = padded[:, top : top + 1, left : left + 1] if seen is None else seen
            result[:, row, column] = (weight * patch).sum((1, 2, 3))
    return result


def slow_esp(module: ESP, x: np.ndarray, stride: int, residual: bool) -> np.ndarray:
    """Reduce, split, transform by dilations 1, 2, 4, 8, 16, sum hierarchically, concat."""
    state = {k: v.double().numpy() for k, v in module.state_dict().items()}
    reduced = slow_conv(x, state["reduce.weight"], stride, 1)
    d = [slow_conv(reduced, state[f"branches.{i}.weight"], 1, 2**i) for i in range(5)]
    joined = [d[0], d[1], d[1] + d[2], d[1] + d[2] + d[3], d[1] + d[2] + d[3] + d[4]]
    y = np.concatenate(joined)
    if residual:
        y = y + x

    def channels(key: str) -> np.ndarray:
        return state[key].reshape(-1, 1, 1)

    y = (y - channels("post.0.running_mean")) / np.sqrt(channels("post.0.running_var") + 1e-3)
    y = y * channels("post.0.weight") + channels("post.0.bias")
    return np.where(y >= 0, y, channels("post.1.weight") * y)


@pytest.mark.parametrize(
    ("inputs", "outputs", "stride", "asked", "has_residual"),
    [
        (12, 12, 1, True, True),  # 12 = 4 + 4 * 2: the first branch takes the remainder
        (14, 7, 1, False, False),  # the decoder's: 7 = 3 + 4 * 1
        (10, 10, 1, False, False),
        (7, 11, 2, True, False),  # strided: 3x3 reduce
    ],
)
def test_esp_is_the_papers_arithmetic(inputs, outputs, stride, asked, has_residual):
    torch.manual_seed(1)
    module = ESP(inputs, outputs, stride=stride, residual=asked).eval()
    for key, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            tensor.uniform_(0.5 if "var" in key else -1, 1.5)
    x = images(inputs, 9, 14)
    with torch.inference_mode():
        fast = module(x[None])[0].numpy()
    slow = slow_esp(module, x.double().numpy(), stride, has_residual)
    assert fast.shape == slow.shape == (outputs, -(-9 // stride), 14 // stride)
    assert np.abs(fast - slow).max() < 1e-4
    assert np.abs(slow).max() > 0.5


def test_the_decoder_sees_the_stem_alone_or_joined():
    """With skip "stem" the image does not reach the last convolution by the skip."""
    for skip, channels in (("stem", 16), ("join", 19)):
        model = seeded("espnet_q3", 12, skip=skip)
        assert isinstance(model, ESPNet)
        assert model.last[0].weight.shape == (12, 12 + channels, 3, 3)


def test_bilinear_is_half_pixel():
    """Two pixels 0 and 1 doubled: 0, 1/4, 3/4, 1."""
    row = Bilinear(2)(torch.tensor([[[[0.0, 1.0]]]]))
    assert row[0, 0].tolist() == [[0.0, 0.25, 0.75, 1.0]] * 2


# Refusals


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (ModelSpec("espnet_q4"), "unknown model 'espnet_q4'. Did you mean 'espnet_q"),
        (ModelSpec("zzz"), "unknown model 'zzz'. Known: espnet_q3, espnet_q5, "),
        (ModelSpec("espnet_q3", {"skip": "none"}), "skip is 'none'; expected one of stem, join"),
        (ModelSpec("espnet_q3", {"depth": 3}), "model 'espnet_q3' does not take {'depth': 3}: "),
        (ModelSpec("espnetc_q3", {"skip": "stem"}), "model 'espnetc_q3' does not take {'skip'"),
        (ModelSpec("espnet_q3", {"q": 4}), "model 'espnet_q3' does not take {'q': 4}: "),
    ],
)
def test_a_model_that_can_not_be_built(spec, said):
    with pytest.raises(UsageError) as refused:
        build_model(spec, 12)
    assert str(refused.value).startswith(said)


@pytest.fixture
def checkpoint(tmp_path):
    manifest = Manifest(
        "checkpoint", "q3", CLASSES.to_dict(), SPEC, model=ModelSpec("espnetc_q3", {}, 1)
    )
    save_checkpoint(tmp_path / "model", seeded("espnetc_q3"), manifest)
    return tmp_path / "model"


def test_weights_of_another_model_are_refused(checkpoint):
    state = seeded("espnetc_q3").state_dict()
    state["extra"] = torch.zeros(1)
    del state["classifier.weight"]
    with pytest.raises(WeightsError) as refused:
        fill_weights(seeded("espnetc_q3"), state, "file")
    assert str(refused.value) == (
        "file: weights do not fit the model: 1 missing (first: 'classifier.weight'), "
        "1 unknown (first: 'extra')"
    )


def test_weights_of_another_shape_are_refused():
    with pytest.raises(WeightsError) as refused:
        fill_weights(seeded("espnetc_q3", 12), seeded("espnetc_q3", 13).state_dict(), "file")
    assert str(refused.value) == (
        "file: 'classifier.weight' has shape (13, 256, 1, 1); the model expects (12, 256, 1, 1)"
    )


def test_weights_that_are_no_numbers_are_refused():
    state = seeded("espnetc_q3").state_dict()
    state["encoder.stem.0.weight"][3, 1, 0, 0] = torch.nan
    with pytest.raises(WeightsError) as refused:
        fill_weights(seeded("espnetc_q3"), state, "file")
    assert str(refused.value) == (
        "file: 'encoder.stem.0.weight' holds nan or infinity; the file is damaged or its training "
        "diverged"
    )


def test_weights_without_counters_of_batches_are_taken():
    """Old files lack `num_batches_tracked`; the model keeps its own."""
    source, model = seeded("espnetc_q3", seed=1), seeded("espnetc_q3", seed=2)
    state = {k: v for k, v in source.state_dict().items() if "num_batches" not in k}
    fill_weights(model, state, "file")
    image = images(1, 3, 32, 48)
    with torch.inference_mode():
        assert torch.equal(model(image), source(image))


def test_a_changed_checkpoint_is_refused(checkpoint):
    weights = checkpoint / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    with pytest.raises(BundleError, match=r"'weights\.safetensors' was changed after export"):
        load_checkpoint(checkpoint)


@pytest.mark.parametrize("content", [b"", b"\x10", b"not safetensors at all", b"\xff" * 100])
def test_a_checkpoint_that_is_no_safetensors_is_refused(checkpoint, content):
    from edgeseg.bundle import write_bundle

    (checkpoint / "weights.safetensors").write_bytes(content)
    write_bundle(checkpoint, read_manifest(checkpoint))
    with pytest.raises(WeightsError, match=r"/weights\.safetensors is damaged: "):
        load_checkpoint(checkpoint)


def test_an_engine_folder_is_no_checkpoint(tmp_path):
    from engine_folders import fake_folder

    fake_folder(tmp_path / "fake")
    with pytest.raises(BundleError, match="is no checkpoint folder but one of kind 'network'"):
        load_checkpoint(tmp_path / "fake")
