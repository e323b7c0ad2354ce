"""A trained classifier -> the backbones of a DFANet."""

from __future__ import annotations

from edgeseg.errors import TrainingError
from edgeseg.models.classifier import XceptionClassifier
from edgeseg.models.dfanet import DFANet
from edgeseg.models.network import Network
from edgeseg.models.wrapper import innermost


def start_backbones(trained: XceptionClassifier, model: Network, name: str, where: str) -> str:
    """Fill all backbones of `model`, called `name`; says how much was taken and what is fresh.

    TrainingError where `model` has other backbones.
    """
    host = innermost(model)
    if not isinstance(host, DFANet) or host.kind != trained.kind:
        raise TrainingError(
            f"init {where} holds 'xception_{trained.kind}', the backbone of "
            f"'dfanet_{trained.kind}'; the recipe's model is '{name}'"
        )
    fresh = host.fill_backbones(trained.state_dict())
    total = len(host.state_dict())
    inside = (key.split(".")[2:4] for key in fresh if key.startswith("backbones."))
    parts = ", ".join(dict.fromkeys(".".join(words) for words in inside))
    layers = dict.fromkeys(k.partition(".")[0] for k in fresh if not k.startswith("backbones."))
    left = ", ".join((*layers, f"and in the backbones {parts}" if parts else "nothing in them"))
    return (
        f"init {where}: {total - len(fresh)} of {total} tensors taken into "
        f"{len(host.backbones)} backbones; fresh: {left}"
    )
