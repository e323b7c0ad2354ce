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
}
# fmt: on

CLASSIFIERS = {
    "xception_a": Entry("edgeseg.models.classifier:XceptionClassifier", {"kind": "a"}, _DFANET),
    "xception_b": Entry("edgeseg.models.classifier:XceptionClassifier", {"kind": "b"}, _DFANET),
}
"""Backbones that name whole images: `edgeseg train` takes them; a model's encoder starts so."""

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
}
# fmt: on
"""For 19 classes. tests/golden/test_work.py counts anew, so that `edgeseg models` need not."""

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
