"""The float network in torch, behind the same door as every engine."""

from __future__ import annotations

import numpy as np
import torch

from edgeseg.bundle import Bundle
from edgeseg.errors import EngineError
from edgeseg.models.checkpoint import load_checkpoint
from edgeseg.models.network import Network, build_exportable
from edgeseg.runtime.engine import Engine, EngineOptions


class TorchEngine(Engine):
    """A checkpoint folder run by torch on the CPU in f32; void outputs are cut off."""

    def __init__(self, bundle: Bundle, options: EngineOptions) -> None:
        if options.inference_precision not in (None, "f32"):
            raise EngineError(
                f"the torch engine computes in f32, not {options.inference_precision}"
            )
        if options.threads:
            torch.set_num_threads(options.threads)
        model, bundle = load_checkpoint(bundle.folder, build_exportable)
        model.cut(len(bundle.manifest.table))
        model.deploy()
        self.version = str(torch.__version__)
        self.device = "CPU"
        self.inference_precision = "f32"
        self.threads = torch.get_num_threads()
        self._network = WithInput(model, bundle).eval()
        self._model: torch.nn.Module = self._network

    def compile(self) -> None:
        """Let torch.compile turn the network into native code, at its next `infer` (a minute)."""
        self._model = torch.compile(self._model)  # type: ignore[assignment]

    def infer(self, images: np.ndarray) -> np.ndarray:
        """(N, H, W, 3) uint8 -> (N, H, W) uint8 labels."""
        with torch.inference_mode():
            labels: np.ndarray = self._model(torch.from_numpy(images)).numpy()
        return labels


class TorchScoresEngine(TorchEngine):
    """The same, without the argmax."""

    def infer(self, images: np.ndarray) -> np.ndarray:
        """(N, H, W, 3) uint8 -> (N, classes, H, W) float32 scores."""
        with torch.inference_mode():
            scores: np.ndarray = self._network.scores(torch.from_numpy(images)).numpy()
        return scores


class WithInput(torch.nn.Module):
    """A network with its input and output: uint8 (N, H, W, 3) -> uint8 (N, H, W) labels."""

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, model: Network, bundle: Bundle) -> None:
        super().__init__()
        self.model = model
        spec = bundle.manifest.input
        self.register_buffer("mean", torch.tensor(spec.means).reshape(1, -1, 1, 1))
        self.register_buffer("scale", 1.0 / torch.tensor(spec.stds).reshape(1, -1, 1, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Normalise, run, argmax."""
        return self.scores(images).argmax(1).to(torch.uint8)

    def scores(self, images: torch.Tensor) -> torch.Tensor:
        """Normalise and run: float (N, classes, H, W)."""
        normal = (images.permute(0, 3, 1, 2).float() - self.mean) * self.scale
        logits: torch.Tensor = self.model(normal)
        return logits
