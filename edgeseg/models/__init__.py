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

# fmt: off
MODELS = {
    "espnet_q3":  Entry("edgeseg.models.espnet:ESPNet",  {"q": 3}, _ESPNET),
    "espnet_q5":  Entry("edgeseg.models.espnet:ESPNet",  {"q": 5}, _ESPNET),
    "espnet_q8":  Entry("edgeseg.models.espnet:ESPNet",  {"q": 8}, _ESPNET),
    "espnetc_q3": Entry("edgeseg.models.espnet:ESPNetC", {"q": 3}, _ESPNET),
    "espnetc_q5": Entry("edgeseg.models.espnet:ESPNetC", {"q": 5}, _ESPNET),
    "espnetc_q8": Entry("edgeseg.models.espnet:ESPNetC", {"q": 8}, _ESPNET),
}
# fmt: on
