"""Checkpoint folders: a network's weights in safetensors beside the manifest."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from edgeseg.bundle import Bundle, Manifest, ModelSpec, OutputSpec, read_bundle, write_bundle
from edgeseg.disk import writing_folder
from edgeseg.errors import BundleError, WeightsError
from edgeseg.models.network import Network, build_model

WEIGHTS = "weights.safetensors"

Build = Callable[[ModelSpec, int], Network]
"""From a description and a number of outputs: `build_model`, or `build_trainee` in training."""


def save_checkpoint(
    folder: Path, model: Network, manifest: Manifest, *, half: bool = False
) -> Bundle:
    """Write a checkpoint folder whole or not at all; params, mask and output are filled in.

    With `half`, kernels and matrices are stored as float16 (norms, biases and statistics, which are
    few, are not). Loading fills a float32 network from either.
    """
    params = sum(p.numel() for p in model.parameters())
    output = OutputSpec(scale=model.scale)
    given = dataclasses.replace(manifest.input, mask=model.mask)
    manifest = dataclasses.replace(
        manifest, kind="checkpoint", params=params, input=given, output=output
    )
    state = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    if half:
        state = {k: v.half() if v.is_floating_point() and v.ndim > 1 else v
                 for k, v in state.items()}  # fmt: skip
    with writing_folder(folder) as aside:
        (aside / WEIGHTS).write_bytes(save(state))
        bundle = write_bundle(aside, manifest)
    return Bundle(folder, bundle.manifest)


def load_checkpoint(folder: Path, build: Build = build_model) -> tuple[Network, Bundle]:
    """Read a checkpoint folder; the network, as `build` makes it, is on the CPU, in eval mode."""
    bundle = read_bundle(folder)
    manifest = bundle.manifest
    if manifest.kind != "checkpoint" or manifest.model is None:
        raise BundleError(f"{folder} is no checkpoint folder but one of kind '{manifest.kind}'")
    model = build(manifest.model, len(manifest.table) + manifest.model.void_outputs)
    try:
        state = load_file(bundle.path(WEIGHTS))
    except SafetensorError as error:
        raise WeightsError(f"{folder}/{WEIGHTS} is damaged: {error}") from error
    fill_weights(model, state, str(folder))
    return model.eval(), bundle


def fill_weights(model: Network, state: dict[str, torch.Tensor], where: str) -> None:
    """Load `state` into `model`; every key and shape must fit, or a WeightsError names them."""
    own = model.state_dict()
    missing = [k for k in own if k not in state and not k.endswith("num_batches_tracked")]
    foreign = [k for k in state if k not in own]
    if missing or foreign:
        raise WeightsError(
            f"{where}: weights do not fit the model: {len(missing)} missing{_first(missing)}, "
            f"{len(foreign)} unknown{_first(foreign)}"
        )
    for key, tensor in state.items():
        if tensor.shape != own[key].shape:
            raise WeightsError(
                f"{where}: '{key}' has shape {tuple(tensor.shape)}; "
                f"the model expects {tuple(own[key].shape)}"
            )
        if not torch.isfinite(tensor).all():
            raise WeightsError(
                f"{where}: '{key}' holds nan or infinity; the file is damaged or its training "
                "diverged"
            )
    model.load_state_dict(own | state)


def _first(keys: list[str]) -> str:
    return f" (first: '{keys[0]}')" if keys else ""
