"""Networks in torch, one file for each paper; `MODELS` is the list. The list needs no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from edgeseg.errors import UsageError, guess


@dataclass(frozen=True)
class Entry:
    """One row of MODELS or WRAPPERS: builder as "module:Class", fixed arguments, paper."""

    builder: str
    arguments: dict[str, Any] = field(default_factory=dict)
    paper: str = ""


_ESPNET = "Mehta et al., ESPNet, ECCV 2018, arXiv 1803.06815"
_DUPSAMPLE = "Tian et al., Decoders Matter for Semantic Segmentation, CVPR 2019, arXiv 1903.02120"
_DSRL = "Wang et al., Dual Super-Resolution Learning for Semantic Segmentation, CVPR 2020"
_ESPNETV2 = "Mehta et al., ESPNetv2, CVPR 2019, arXiv 1811.11431"
_DFANET = "Li et al., DFANet, CVPR 2019, arXiv 1904.02216"

_FCN = "Long et al., Fully Convolutional Networks, CVPR 2015, arXiv 1411.4038"
_UNET = "Ronneberger et al., U-Net, MICCAI 2015, arXiv 1505.04597"
_SEGNET = "Badrinarayanan et al., SegNet, PAMI 2017, arXiv 1511.00561"
_DEEPLABV1 = "Chen et al., DeepLab, ICLR 2015, arXiv 1412.7062"
_DEEPLABV2 = "Chen et al., DeepLabv2, PAMI 2018, arXiv 1606.00915"
_DEEPLABV3 = "Chen et al., DeepLabv3, 2017, arXiv 1706.05587"
_DEEPLABV3PLUS = "Chen et al., DeepLabv3+, ECCV 2018, arXiv 1802.02611"
_PSPNET = "Zhao et al., PSPNet, CVPR 2017, arXiv 1612.01105"
_GCN = "Peng et al., Large Kernel Matters, CVPR 2017, arXiv 1703.02719"
_ENET = "Paszke et al., ENet, 2016, arXiv 1606.02147"
_ICNET = "Zhao et al., ICNet, ECCV 2018, arXiv 1704.08545"
_BISENETV1 = "Yu et al., BiSeNet, ECCV 2018, arXiv 1808.00897"
_BISENETV2 = "Yu et al., BiSeNetV2, IJCV 2021, arXiv 2004.02147"
_CASCADEPSP = "Cheng et al., CascadePSP, CVPR 2020, arXiv 2005.02551"
_FAST_SCNN = "Poudel et al., Fast-SCNN, BMVC 2019, arXiv 1902.04502"

# fmt: off
MODELS = {
    "espnet_q3":  Entry("edgeseg.models.espnet:ESPNet",  {"q": 3}, _ESPNET),
    "espnet_q5":  Entry("edgeseg.models.espnet:ESPNet",  {"q": 5}, _ESPNET),
    "espnet_q8":  Entry("edgeseg.models.espnet:ESPNet",  {"q": 8}, _ESPNET),
    "espnetc_q3": Entry("edgeseg.models.espnet:ESPNetC", {"q": 3}, _ESPNET),
    "espnetc_q5": Entry("edgeseg.models.espnet:ESPNetC", {"q": 5}, _ESPNET),
    "espnetc_q8": Entry("edgeseg.models.espnet:ESPNetC", {"q": 8}, _ESPNET),
    "espnetv2_s0.5": Entry("edgeseg.models.espnetv2:ESPNetv2", {"s": 0.5}, _ESPNETV2),
    "espnetv2_s1.0": Entry("edgeseg.models.espnetv2:ESPNetv2", {"s": 1.0}, _ESPNETV2),
    "espnetv2_s1.5": Entry("edgeseg.models.espnetv2:ESPNetv2", {"s": 1.5}, _ESPNETV2),
    "espnetv2_s2.0": Entry("edgeseg.models.espnetv2:ESPNetv2", {"s": 2.0}, _ESPNETV2),
    "dfanet_a": Entry("edgeseg.models.dfanet:DFANet", {"kind": "a"}, _DFANET),
    "dfanet_b": Entry("edgeseg.models.dfanet:DFANet", {"kind": "b"}, _DFANET),
    "enet":          Entry("edgeseg.models.enet:ENet", {}, _ENET),
    "fast_scnn":     Entry("edgeseg.models.fast_scnn:FastSCNN", {}, _FAST_SCNN),
    "bisenetv1_x39": Entry("edgeseg.models.bisenetv1:BiSeNetV1", {"encoder": "x39"}, _BISENETV1),
    "bisenetv1_r18": Entry("edgeseg.models.bisenetv1:BiSeNetV1", {"encoder": "r18"}, _BISENETV1),
    "bisenetv2":     Entry("edgeseg.models.bisenetv2:BiSeNetV2", {}, _BISENETV2),
    "icnet":         Entry("edgeseg.models.icnet:ICNet", {}, _ICNET),
    "fcn32s": Entry("edgeseg.models.fcn:FCN", {"stride": 32}, _FCN),
    "fcn16s": Entry("edgeseg.models.fcn:FCN", {"stride": 16}, _FCN),
    "fcn8s":  Entry("edgeseg.models.fcn:FCN", {"stride": 8}, _FCN),
    "fcn_r50":  Entry("edgeseg.models.fcn_resnet:FCNResNet", {"depth": 50}, _FCN),
    "fcn_r101": Entry("edgeseg.models.fcn_resnet:FCNResNet", {"depth": 101}, _FCN),
    "unet":   Entry("edgeseg.models.unet:UNet", {}, _UNET),
    "segnet": Entry("edgeseg.models.segnet:SegNet", {}, _SEGNET),
    "deeplabv1":      Entry("edgeseg.models.deeplabv1:DeepLabV1", {}, _DEEPLABV1),
    "deeplabv2_r101": Entry("edgeseg.models.deeplabv2:DeepLabV2", {"depth": 101}, _DEEPLABV2),
    "deeplabv3_r50":  Entry("edgeseg.models.deeplabv3:DeepLabV3", {"depth": 50}, _DEEPLABV3),
    "deeplabv3_r101": Entry("edgeseg.models.deeplabv3:DeepLabV3", {"depth": 101}, _DEEPLABV3),
    "deeplabv3plus_mobilenetv2": Entry(
        "edgeseg.models.deeplabv3plus:DeepLabV3Plus", {"encoder": "mobilenetv2"}, _DEEPLABV3PLUS),
    "deeplabv3plus_espnetv2_s2.0": Entry(
        "edgeseg.models.deeplabv3plus:DeepLabV3Plus", {"encoder": "espnetv2_s2.0"}, _DEEPLABV3PLUS),
    "deeplabv3plus_r18": Entry(
        "edgeseg.models.deeplabv3plus:DeepLabV3Plus", {"encoder": "r18"}, _DEEPLABV3PLUS),
    "deeplabv3plus_r50": Entry(
        "edgeseg.models.deeplabv3plus:DeepLabV3Plus", {"encoder": "r50"}, _DEEPLABV3PLUS),
    "deeplabv3plus_r101": Entry(
        "edgeseg.models.deeplabv3plus:DeepLabV3Plus", {"encoder": "r101"}, _DEEPLABV3PLUS),
    "pspnet_r18":  Entry("edgeseg.models.pspnet:PSPNet", {"depth": 18}, _PSPNET),
    "pspnet_r50":  Entry("edgeseg.models.pspnet:PSPNet", {"depth": 50}, _PSPNET),
    "pspnet_r101": Entry("edgeseg.models.pspnet:PSPNet", {"depth": 101}, _PSPNET),
    "gcn_r50":  Entry("edgeseg.models.gcn:GCN", {"depth": 50}, _GCN),
    "gcn_r101": Entry("edgeseg.models.gcn:GCN", {"depth": 101}, _GCN),
}
# fmt: on

CLASSIFIERS = {
    "xception_a": Entry("edgeseg.models.classifier:XceptionClassifier", {"kind": "a"}, _DFANET),
    "xception_b": Entry("edgeseg.models.classifier:XceptionClassifier", {"kind": "b"}, _DFANET),
}
"""Backbones that name whole images: `edgeseg train` takes them; a model's encoder starts so."""

REFINERS = {
    "cascadepsp_r18": Entry("edgeseg.models.cascadepsp:CascadePSP", {"depth": 18}, _CASCADEPSP),
    "cascadepsp_r50": Entry("edgeseg.models.cascadepsp:CascadePSP", {"depth": 50}, _CASCADEPSP),
}
"""Networks that make a finer mask of a coarse one, for `edgeseg train` and `edgeseg refine`."""

# fmt: off
WORK = {
    # name            params     MACs at 256x512  512x1024
    "espnet_q3":     (  201_542,   839_890_944, 3_359_563_776),
    "espnet_q5":     (  266_310,   970_962_944, 3_883_851_776),
    "espnet_q8":     (  363_462, 1_167_570_944, 4_670_283_776),
    "espnetc_q3":    (  187_273,   539_334_656, 2_157_338_624),
    "espnetc_q5":    (  252_041,   670_406_656, 2_681_626_624),
    "espnetc_q8":    (  349_193,   867_014_656, 3_468_058_624),
    "espnetv2_s0.5": (   80_219,   148_742_122,   594_937_456),
    "espnetv2_s1.0": (  233_775,   271_005_674, 1_083_973_232),
    "espnetv2_s1.5": (  467_999,   428_002_794, 1_711_944_816),
    "espnetv2_s2.0": (  788_751,   674_128_874, 2_696_432_240),
    "dfanet_a":      (1_823_867,   428_664_832, 1_711_203_328),
    "dfanet_b":      (1_097_819,   257_585_152, 1_028_036_608),
    "enet":          (    363_618,     980_516_864,   3_922_067_456),
    "fast_scnn":     (  1_138_051,     419_545_088,   1_677_565_952),
    "bisenetv1_x39": (  1_260_131,   2_476_666_880,   9_906_446_336),
    "bisenetv1_r18": ( 13_242_259,   7_396_261_888,  29_584_654_336),
    "bisenetv2":     (  3_358_883,   6_150_840_320,  24_603_312_128),
    "icnet":         (  6_699_987,   1_826_881_536,   7_307_526_144),
    "fcn32s":        (134_338_387,  55_399_940_096, 221_599_760_384),
    "fcn16s":        (134_353_910,  55_405_660_160, 221_622_640_640),
    "fcn8s":         (134_364_569,  55_418_578_944, 221_674_315_776),
    "fcn_r50":       ( 32_955_987,  69_181_898_752, 276_727_595_008),
    "fcn_r101":      ( 51_948_115, 107_970_822_144, 431_883_288_576),
    "unet":          ( 31_038_803,  96_485_769_216, 385_943_076_864),
    "segnet":        ( 29_453_971,  81_386_274_816, 325_545_099_264),
    "deeplabv1":     ( 20_503_379,  62_811_799_552, 251_247_198_208),
    "deeplabv2_r101": ( 43_901_068,  91_492_450_304, 365_969_801_216),
    "deeplabv3_r50": ( 39_638_355,  24_202_051_584,  96_806_633_472),
    "deeplabv3_r101": ( 58_630_483,  33_899_282_432, 135_595_556_864),
    "deeplabv3plus_mobilenetv2": (  5_815_539,  13_151_322_112,  52_605_042_688),
    "deeplabv3plus_espnetv2_s2.0": (  6_179_433,  13_260_900_864,  53_043_210_240),
    "deeplabv3plus_r18": ( 16_607_667,  20_640_301_056,  82_560_811_008),
    "deeplabv3plus_r50": ( 40_351_667,  34_607_726_592, 138_429_333_504),
    "deeplabv3plus_r101": ( 59_343_795,  44_304_957_440, 177_218_256_896),
    "pspnet_r18":    ( 12_770_515,  30_230_315_008, 120_911_429_632),
    "pspnet_r50":    ( 46_715_347,  92_101_672_960, 368_249_405_440),
    "pspnet_r101":   ( 65_707_475, 130_890_596_352, 523_405_099_008),
    "gcn_r50":       ( 25_828_160,  14_493_070_336,  57_972_281_344),
    "gcn_r101":      ( 44_820_288,  24_190_301_184,  96_761_204_736),
    "cascadepsp_r18": ( 14_029_514, 105_220_603_904,   420_764_450_816),
    "cascadepsp_r50": ( 67_683_466, 557_536_968_704, 2_228_260_438_016),
}
# fmt: on
"""For 19 classes, as deployed: without what only training needs. A refiner's are of one mask.

tests/golden/test_listed_macs.py counts anew, so that `edgeseg models` need not.
"""

WRAPPERS = {
    "dupsample": Entry("edgeseg.models.dupsample:DUpsample", paper=_DUPSAMPLE),
    "dsrl": Entry("edgeseg.models.dsrl:DSRL", paper=_DSRL),
}
"""What may follow a model's name after a plus, in this order: "espnet_q8+dupsample+dsrl"."""


def split_name(name: str) -> tuple[str, tuple[str, ...]]:
    """`"espnet_q8+dsrl"` -> ("espnet_q8", ("dsrl",)); UsageError for a name that can't be."""
    host, *wrappers = name.split("+")
    if host in CLASSIFIERS:
        raise UsageError(
            f"'{name}' names whole images and labels no pixels: 'edgeseg train' trains it, and "
            "'edgeseg train --init' starts a segmentation model from it"
        )
    if host in REFINERS:
        raise UsageError(
            f"'{name}' refines masks that another network made: 'edgeseg train' trains it, and "
            "'edgeseg refine' runs it"
        )
    if host not in MODELS:
        raise UsageError(f"unknown model '{host}'.{guess(host, MODELS)}")
    for wrapper in wrappers:
        if wrapper not in WRAPPERS:
            raise UsageError(f"unknown wrapper '{wrapper}' in '{name}'.{guess(wrapper, WRAPPERS)}")
    legal = [wrapper for wrapper in WRAPPERS if wrapper in wrappers]
    if wrappers != legal:
        raise UsageError(
            f"'{name}': each wrapper comes once, in this order: {'+'.join((host, *legal))}"
        )
    return host, tuple(wrappers)
