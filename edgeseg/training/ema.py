"""The exponential moving average of a model, which is what gets evaluated and written."""

from __future__ import annotations

import copy

import torch
from torch import nn

from edgeseg.models.network import Network


class Average:
    """A copy of a model that follows it slowly.

    At update k (the first is 1) it keeps min(decay, (1 + k) / (10 + k)) of itself: early updates
    forget the random start (the warm-up of TensorFlow's ExponentialMovingAverage).
    """

    def __init__(self, model: Network, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        self.updates = 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take over a share of `model`: parameters and statistics alike, counters whole."""
        self.updates += 1
        keep = min(self.decay, (1 + self.updates) / (10 + self.updates))
        pairs = zip(self.model.state_dict().values(), model.state_dict().values(), strict=True)
        for mine, new in pairs:
            if mine.is_floating_point():
                mine.lerp_(new.to(mine.dtype), 1 - keep)
            else:
                mine.copy_(new)

    def state_dict(self) -> dict[str, object]:
        """Model, and the number of updates."""
        return {"model": self.model.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Take back what `state_dict` gave."""
        self.model.load_state_dict(state["model"])  # type: ignore[arg-type]
        self.updates = int(state["updates"])  # type: ignore[call-overload]
