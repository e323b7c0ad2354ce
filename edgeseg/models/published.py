"""Published weight files -> our names, strictly: every key is mapped, none is left over."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import torch

from edgeseg.errors import WeightsError
from edgeseg.models.network import Network

# sacmehta/ESPNet -> edgeseg.models.espnet. Patterns are tried in order; the first that matches the
# whole key is taken.
_BLOCK = r"(c1|d1|d2|d4|d8|d16)\.conv\.weight"
_ESPNET = (
    (r"(?:encoder\.)?level1\.conv\.(.*)", r"encoder.stem.0.\1"),
    (r"(?:encoder\.)?level1\.bn\.(.*)", r"encoder.stem.1.\1"),
    (r"(?:encoder\.)?level1\.act\.(.*)", r"encoder.stem.2.\1"),
    (r"(?:encoder\.)?b([123])\.bn\.(.*)", r"encoder.join\1.0.\2"),
    (r"(?:encoder\.)?b([123])\.act\.(.*)", r"encoder.join\1.1.\2"),
    (rf"(?:encoder\.)?level([23])_0\.{_BLOCK}", r"encoder.down\1.<\2>.weight"),
    (r"(?:encoder\.)?level([23])_0\.bn\.(.*)", r"encoder.down\1.post.0.\2"),
    (r"(?:encoder\.)?level([23])_0\.act\.(.*)", r"encoder.down\1.post.1.\2"),
    (rf"(?:encoder\.)?level([23])\.(\d+)\.{_BLOCK}", r"encoder.stage\1.\2.<\3>.weight"),
    (r"(?:encoder\.)?level([23])\.(\d+)\.bn\.bn\.(.*)", r"encoder.stage\1.\2.post.0.\3"),
    (r"(?:encoder\.)?level([23])\.(\d+)\.bn\.act\.(.*)", r"encoder.stage\1.\2.post.1.\3"),
    (r"encoder\.classifier\.conv\.(.*)", r"project3.\1"),
    (r"classifier\.conv\.(.*)", r"classifier.\1"),
    (r"level3_C\.conv\.(.*)", r"project2.\1"),
    (r"br\.(.*)", r"norm3.\1"),
    (r"conv\.conv\.(.*)", r"last.0.\1"),
    (r"conv\.bn\.(.*)", r"last.1.\1"),
    (r"conv\.act\.(.*)", r"last.2.\1"),
    (r"up_l3\.0\.(.*)", r"up3.\1"),
    (r"combine_l2_l3\.0\.bn\.(.*)", r"join.0.\1"),
    (r"combine_l2_l3\.0\.act\.(.*)", r"join.1.\1"),
    (rf"combine_l2_l3\.1\.{_BLOCK}", r"fuse.<\1>.weight"),
    (r"combine_l2_l3\.1\.bn\.bn\.(.*)", r"fuse.post.0.\1"),
    (r"combine_l2_l3\.1\.bn\.act\.(.*)", r"fuse.post.1.\1"),
    (r"up_l2\.0\.(.*)", r"up2.0.\1"),
    (r"up_l2\.1\.bn\.(.*)", r"up2.1.\1"),
    (r"up_l2\.1\.act\.(.*)", r"up2.2.\1"),
    (r"classifier\.weight", r"upsample.weight"),
)
_LAYERS = {"c1": "reduce"} | {f"d{2**i}": f"branches.{i}" for i in range(5)}


def read_published(path: Path, model: Network) -> dict[str, torch.Tensor]:
    """Read a foreign .pth safely and rename its keys for `model`.

    Keys that are ours already pass; a key that no rule knows is a WeightsError.
    """
    state = _load(path)
    own = model.state_dict()
    renamed: dict[str, torch.Tensor] = {}
    for key, tensor in state.items():
        name = key if key in own else _rename(key, path)
        if name in renamed:
            raise WeightsError(f"{path}: two keys map to '{name}' (the second is '{key}')")
        renamed[name] = tensor
    return renamed


def _rename(key: str, path: Path) -> str:
    for pattern, replacement in _ESPNET:
        if match := re.fullmatch(pattern, key):
            name = match.expand(replacement)
            return re.sub(r"<(\w+)>", lambda m: _LAYERS[m.group(1)], name)
    raise WeightsError(
        f"{path}: key '{key}' belongs to no network that we know; "
        "is this the right --model for these weights?"
    )


def _load(path: Path) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise WeightsError(f"{path}: no such weights file")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path}: is no plain weights file (it is damaged, or it would run code when loaded). "
            "Save the state dict alone: torch.save(model.state_dict(), FILE)"
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
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
