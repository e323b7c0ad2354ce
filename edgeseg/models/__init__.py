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

WRAPPERS = {
    "dupsample": Entry("edgeseg.models.dupsample:DUpsample", paper=_DUPSAMPLE),
    "dsrl": Entry("edgeseg.models.dsrl:DSRL", paper=_DSRL),
}
"""What may follow a model's name after a plus, in this order: "espnet_q8+dupsample+dsrl"."""


def split_name(name: str) -> tuple[str, tuple[str, ...]]:
    """`"espnet_q8+dsrl"` -> ("espnet_q8", ("dsrl",)); UsageError for a name that can't be."""
    host, *wrappers = name.split("+")
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
