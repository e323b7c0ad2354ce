"""Weights that come with edgeseg.

NAME/ is a checkpoint folder, NAME.md its card, NAME.json the card's scores for programs. All three
are written by `python -m edgeseg.pipeline.ship`.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from edgeseg.errors import BundleError, guess

SHIPPED = Path(__file__).parent


def shipped() -> dict[str, Path]:
    """The models whose weights come with edgeseg: name -> checkpoint folder."""
    return {path.parent.name: path.parent for path in sorted(SHIPPED.glob("*/manifest.json"))}


def weights_folder(typed: str) -> Path:
    """The checkpoint folder of a shipped name, or the folder that was typed; else BundleError."""
    folders = shipped()
    folder = folders.get(typed, Path(typed))
    if not folder.is_dir():
        rest = f"Shipped: {', '.join(folders) or 'none'}"
        raise BundleError(
            f"'{typed}' is no model folder and no shipped name.{guess(typed, folders, rest)}"
        )
    return folder


def scores(name: str) -> dict[str, Any]:
    """What NAME.json says, which is all that the card says: `edgeseg.pipeline.card`."""
    content: dict[str, Any] = json.loads((SHIPPED / f"{name}.json").read_text(encoding="utf-8"))
    return content


def is_non_commercial(licence: str) -> bool:
    """Whether the text of a licence forbids commercial use: "CC-BY-NC-4.0", "non-commercial"."""
    return (
        re.search(r"(?<![a-z])nc(?![a-z])|non-?\s?commercial", licence, re.IGNORECASE) is not None
    )


def terms(data: str, licence: str) -> str:
    """What weights were trained on, and on what terms they may be used."""
    line = f"trained on {data}; licence {licence}"
    return f"{line} -- NON-COMMERCIAL use only" if is_non_commercial(licence) else line
