"""The classic systems keep the contract: narrow, on one thread, so that all take seconds."""

from __future__ import annotations

import pytest
from model_contract import ModelContract

pytestmark = [pytest.mark.torch, pytest.mark.usefixtures("one_thread")]

NARROW = {"width": 0.125}
CALM = {"dropout": 0.0}
NARROW_HEAD = {"head_width": 64}


class Classic(ModelContract):
    """Exports of all take minutes: in CI one has it; `make test-all` has all."""

    @pytest.mark.long
    def test_the_exported_graph_has_one_output_and_can_be_trained(self, model, tmp_path):
        super().test_the_exported_graph_has_one_output_and_can_be_trained(model, tmp_path)


class TestENet(Classic):
    name = "enet"
    options = CALM
    steps = 70


class TestFastSCNN(Classic):
    name = "fast_scnn"


class TestBiSeNetV1X39(Classic):
    name = "bisenetv1_x39"


class TestBiSeNetV1R18(Classic):
    name = "bisenetv1_r18"
    options = NARROW


class TestBiSeNetV2(Classic):
    name = "bisenetv2"
    options = NARROW_HEAD


class TestICNet(Classic):
    name = "icnet"
    options = NARROW


class TestFCN32s(Classic):
    name = "fcn32s"
    options = NARROW | CALM | {"norm": True}
    rate = 0.003


class TestFCN8s(Classic):
    name = "fcn8s"
    options = NARROW | CALM | {"norm": True}


class TestFCNR50(Classic):
    name = "fcn_r50"
    options = NARROW


class TestUNet(Classic):
    name = "unet"
    options = NARROW


class TestSegNet(Classic):
    name = "segnet"
    options = NARROW
    rate, steps = 0.003, 80


class TestDeepLabV1(Classic):
    name = "deeplabv1"
    options = NARROW | CALM | {"norm": True}


class TestDeepLabV2(Classic):
    name = "deeplabv2_r101"
    options = NARROW


class TestDeepLabV3(Classic):
    name = "deeplabv3_r50"
    options = NARROW | CALM


class TestDeepLabV3PlusMobileNetV2(Classic):
    name = "deeplabv3plus_mobilenetv2"
    options = NARROW


class TestDeepLabV3PlusESPNetv2(Classic):
    """Its encoder keeps its width."""

    name = "deeplabv3plus_espnetv2_s2.0"
    options = NARROW | {"separable": True}


class TestDeepLabV3PlusR18(Classic):
    name = "deeplabv3plus_r18"
    options = NARROW


class TestPSPNetR18(ModelContract):
    name = "pspnet_r18"
    options = NARROW


class TestGCN(Classic):
    name = "gcn_r50"
    options = NARROW
    steps = 130


class TestDeepLabV3PlusDSRL(Classic):
    name = "deeplabv3plus_r18+dsrl"
    options = NARROW | {"dsrl": {"upsampling": "deconvolution"}}


class TestPSPNetDSRL(Classic):
    name = "pspnet_r18+dsrl"
    options = NARROW


class TestDUNet(Classic):
    """At output stride 32 with a low-level map, as in the suite."""

    name = "fcn_r50+dupsample"
    options = NARROW | {"stride": 32, "dupsample": {"low_level": ["layer1"], "width": 32}}
    frozen = ("upsample.weight",)
