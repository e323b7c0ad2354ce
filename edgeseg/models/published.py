"""Published weight files -> our names, strictly: every key is mapped, none is left over."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch

from edgeseg.errors import WeightsError
from edgeseg.models.network import Network
from edgeseg.models.renames import FAMILIES, Family


def read_published(path: Path, model: Network) -> dict[str, torch.Tensor]:
    """Read a foreign .pth safely and rename its keys for `model`.

    Keys that are ours already pass; those that the family names as unused are left out; a key that
    no rule knows is a WeightsError.
    """
    state = read_state(path)
    own = model.state_dict()
    family = FAMILIES.get(type(model).__module__.rpartition(".")[2], Family())
    renamed: dict[str, torch.Tensor] = {}
    for key, tensor in state.items():
        if family.leaves_out(key):
            continue
        name = key if key in own else family.rename(key)
        if name is None:
            raise WeightsError(
                f"{path}: key '{key}' belongs to no network that we know; "
                "is this the right --model for these weights?"
            )
        if name in renamed:
            raise WeightsError(f"{path}: two keys map to '{name}' (the second is '{key}')")
        renamed[name] = tensor
    return renamed


def read_state(path: Path) -> dict[str, torch.Tensor]:
    """A .pth file of tensors, read without running any code of it; "module." is taken off."""
    if not path.is_file():
        raise WeightsError(f"{path}: no such weights file")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path}: is no plain weights file (it is damaged, or it would run code when loaded). "
            "Save the state dict alone: torch.save(model.state_dict(), FILE)"
        ) from error
    except Exception as error:  # the unpickler raises anything on bytes that are no pickle
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(f"{path}: truncated or no weights file ({first})") from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not all(
        isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in content.items()
    ):
        raise WeightsError(f"{path}: holds a {type(content).__name__}, not a state dict of tensors")
    if content and all(k.startswith("module.") for k in content):
        content = {k.removeprefix("module."): v for k, v in content.items()}
    return content
