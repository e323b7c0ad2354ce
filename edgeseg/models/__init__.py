"""Networks in torch, one file for each paper; `MODELS` is the list. The list needs no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Entry:
    """One row of MODELS: builder as "module:Class", fixed arguments, paper, a sentence."""

    builder: str
    arguments: dict[str, Any] = field(default_factory=dict)
    paper: str = ""


_ESPNET = "Mehta et al., ESPNet, ECCV 2018, arXiv 1803.06815"
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
