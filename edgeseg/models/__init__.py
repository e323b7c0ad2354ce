"""Networks in torch, one file for each paper; `MODELS` is the list."""

from edgeseg.models.network import MODELS, Network, build_model

__all__ = ["MODELS", "Network", "build_model"]
