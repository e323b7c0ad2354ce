"""Which frames a report shows, and their labels by the float and the INT8 network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from edgeseg.errors import UsageError

if TYPE_CHECKING:
    from edgeseg.dataset import Dataset
    from edgeseg.runtime.segmenter import Segmenter


Picture = TypedDict(  # noqa: UP013 (a class can't have both a key and a type "float")
    "Picture",
    {
        "title": str,
        "frame": np.ndarray,
        "truth": np.ndarray | None,
        "float": np.ndarray | None,
        "int8": np.ndarray | None,
        "miou": float | None,
    },
)
"""One frame of the report.

`frame` is (H, W, 3) uint8 RGB; `truth`, `float` and `int8` are (H, W) uint8 labels or None; `miou`
is that of this frame by the INT8 network, or by the float one where there is no other.
"""


def choose_frames(row: dict[str, Any], reference: dict[str, Any] | None) -> dict[str, str]:
    """Frame name -> title: the best and the worst of `row`, and where it lost most to float.

    Both rows carry `frame_miou`. One frame may be two of them and then has one title for both.
    """
    scores = row.get("frame_miou") or {}
    if not scores:
        raise UsageError("the row has no mIoU by frame; measure it with --data")
    chosen = {"best frame": max(scores, key=scores.__getitem__)}
    chosen["worst frame"] = min(scores, key=scores.__getitem__)
    other = (reference or {}).get("frame_miou") or {}
    drops = {name: other[name] - value for name, value in scores.items() if name in other}
    if drops:
        name = max(drops, key=drops.__getitem__)
        if drops[name] > 0:
            chosen[f"most lost to float ({drops[name]:.1f} mIoU)"] = name
    titles: dict[str, str] = {}
    for title, name in chosen.items():
        titles[name] = f"{titles[name]}, {title}" if name in titles else title
    return {name: title[0].upper() + title[1:] for name, title in titles.items()}


def take_pictures(
    dataset: Dataset,
    titles: dict[str, str],
    scores: dict[str, float],
    float_segmenter: Segmenter | None,
    int8_segmenter: Segmenter | None,
) -> list[Picture]:
    """Run the frames named in `titles`; segmenters are opened with frames="rgb"."""
    pictures: list[Picture] = []
    for name, title in titles.items():
        if name not in dataset.names:
            raise UsageError(f"{dataset.source} has no frame '{name}' in split '{dataset.split}'")
        sample = dataset[dataset.names.index(name)]
        pictures.append(
            {
                "title": f"{title}: {name}",
                "frame": sample.image,
                "truth": sample.labels,
                "float": float_segmenter.segment(sample.image) if float_segmenter else None,
                "int8": int8_segmenter.segment(sample.image) if int8_segmenter else None,
                "miou": scores.get(name),
            }
        )
    return pictures
