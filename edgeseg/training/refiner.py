"""Coarse masks -> finer masks by a trained CascadePSP in torch, of any size.

Cheng et al. 2020: the global step sees the whole part of the frame that a mask lies in (3.2.1), the
local step crops of what is larger (3.2.2).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from edgeseg.bundle import InputSpec
from edgeseg.errors import UsageError
from edgeseg.models.blocks import resize
from edgeseg.models.cascadepsp import CascadePSP
from edgeseg.models.checkpoint import load_checkpoint
from edgeseg.models.network import Maps, build_trainee
from edgeseg.runtime.refiner import Refiner, no_refiner
from edgeseg.training.batches import normalise
from edgeseg.training.plan import Input
from edgeseg.training.tiles import Tile, mean_of_tiles, tiles

SIDE = 900
"""Pixels of the longer side above which the global step looks at less, and crops are taken (L)."""
BORDER = 16
"""Pixels of a crop's sides that are not kept."""
LEAST_SIDE = 6 * BORDER
"""Below it crops would hold little that is kept."""
SHARES = (0.1, 0.9)
"""Crops of which less or more is inside have little boundary: they are left as they are."""


class TorchRefiner(Refiner):
    """A trained CascadePSP. `fast` leaves the local step out; `side` is SIDE, or less memory."""

    def __init__(
        self, model: CascadePSP, spec: InputSpec, *, side: int = SIDE, fast: bool = False
    ) -> None:
        if side < LEAST_SIDE:
            raise UsageError(f"side is {side} pixels; expected at least {LEAST_SIDE}")
        self.model = model.eval()
        self.spec = Input(spec.order, spec.mean, spec.std)
        self.side, self.fast = side, fast

    @torch.inference_mode()
    def mask(self, image: np.ndarray, inside: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 RGB, (H, W) bool -> (H, W) float32, how likely each pixel is inside."""
        pixels = np.concatenate([image, inside[..., None] * np.uint8(255)], 2)
        given = normalise(torch.from_numpy(pixels[None]), self.spec, torch.device("cpu"))
        height, width = inside.shape
        longest = max(height, width)
        small = given
        if longest > self.side:
            size = (max(1, height * self.side // longest), max(1, width * self.side // longest))
            small = functional.interpolate(given, size, mode="area")
        found = self._run(small)
        fine, rough = (resize(found[name], (height, width)) for name in ("logits", "s4_3"))
        if longest <= self.side or self.fast:
            return _plane(fine)
        return self._locally(given[:, :3], _plane(fine), _plane(rough))

    def _locally(self, frame: Tensor, fine: np.ndarray, rough: np.ndarray) -> np.ndarray:
        """The local step: crops see the global step's mask, decided, and its mask of stride 4."""
        inside = fine > 0.5
        size = (inside.shape[0], inside.shape[1])

        def run(tile: Tile) -> np.ndarray | None:
            part = tile.crop.slices
            if not SHARES[0] <= inside[part].mean() <= SHARES[1]:
                return None
            masks = (np.where(inside[part], 1.0, -1.0), rough[part] * 2 - 1)
            planes = [torch.from_numpy(m[None, None].astype(np.float32)) for m in masks]
            found = self._run(torch.cat([frame[:, :, part[0], part[1]], *planes], 1))
            return _plane(found["logits"])

        places = tiles(size, self.side, self.side // 2 - 2 * BORDER, BORDER)
        mean, count = mean_of_tiles(size, places, run)
        return np.where(count > 0, mean, inside.astype(np.float32))

    def _run(self, given: Tensor) -> Maps:
        """Probabilities of all masks, for frame and mask, or with a mask of stride 8 behind them.

        Sides are filled up to multiples of the network's divisor, with the mean colour, outside.
        """
        height, width = int(given.shape[2]), int(given.shape[3])
        padding = (0, -width % self.model.divisor, 0, -height % self.model.divisor)
        frame = functional.pad(given[:, :3], padding)
        masks = functional.pad(given[:, 3:], padding, value=-1.0)
        if masks.shape[1] == 1:
            found = self.model.outputs(torch.cat([frame, masks], 1))
        else:
            found = self.model.finish(frame, masks[:, :1], masks[:, 1:])
        return {k: torch.sigmoid(x[:, :, :height, :width]) for k, x in found.items()}


def open_refiner(
    folder: Path, *, side: int = SIDE, fast: bool = False, threads: int | None = None
) -> tuple[TorchRefiner, str]:
    """The refiner in a checkpoint folder, and torch's version; UsageError for another network."""
    if threads:
        torch.set_num_threads(threads)
    model, bundle = load_checkpoint(folder, build_trainee)
    if not isinstance(model, CascadePSP):
        raise UsageError(no_refiner(folder, bundle.manifest.name))
    return TorchRefiner(model, bundle.manifest.input, side=side, fast=fast), str(torch.__version__)


def _plane(mask: Tensor) -> np.ndarray:
    plane: np.ndarray = mask[0, 0].numpy()
    return plane
