"""`edgeseg debug-parity`: two MODELs -> how far apart, since which tensor, a verdict, a picture."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeseg.export.gate import BOUNDARY_RADIUS
from edgeseg.frame import resize_labels
from edgeseg.metrics import boundary
from edgeseg.picture import DIFFERENT, Colour, contact_sheet, overlay, save_image
from edgeseg.pipeline.parity import (
    AGREE,
    Found,
    Labels,
    Limits,
    Part,
    Reading,
    Search,
    compare_labels,
)
from edgeseg.pipeline.parity_sides import (
    FRAMES,
    Shown,
    Side,
    frames_of_data,
    frames_of_folder,
    open_sides,
)
from edgeseg.pipeline.plan import Say
from edgeseg.pipeline.probe import Node
from edgeseg.runtime.engine import EngineOptions

EDGE: Colour = (255, 190, 60)
"""Labels that differ at a class boundary; those inside are DIFFERENT."""
PICTURE = "parity.png"

# fmt: off
TOLERANCES = {
    # both float: rounding of sums; one graph of INT8: levels next to each other; else: rounding
    "float": 40.0,
    "int8":  15.0,
    "mixed": 10.0,
}
# fmt: on


@dataclass(frozen=True)
class Asked:
    """What was typed: which frames, how far is parted, where the picture goes."""

    a: str
    b: str
    data: str | None = None
    split: str = "val"
    frames: int = FRAMES
    tolerance: float | None = None
    agreement: float = AGREE
    like: str | None = None
    out: Path | None = None
    options: EngineOptions = EngineOptions()


@dataclass(frozen=True)
class Parity:
    """The whole result; `found` is None where the two agree."""

    a: dict[str, str]
    b: dict[str, str]
    frames: int
    source: str
    labels: Labels
    limits: Limits
    scores: Reading | None
    found: Found | None
    verdict: str

    def to_dict(self) -> dict[str, Any]:
        """The form of `edgeseg debug-parity --json`."""
        return {"parted": self.found is not None, **dataclasses.asdict(self)}


def debug_parity(asked: Asked, say: Say) -> Parity:
    """Compare, search if they part, and write the picture where `asked.out` says."""
    with open_sides((asked.a, asked.b), asked.like, asked.options) as (a, b):
        if asked.data:
            shown = frames_of_data(asked.data, asked.split, asked.frames, a)
        else:
            shown = frames_of_folder((asked.a, asked.b), asked.like, asked.frames)
        search = _search(a, b, shown, asked, say)
        labels = compare_labels(search.labels_a, search.labels_b, search.padding)
        if asked.out:
            asked.out.mkdir(parents=True, exist_ok=True)
            save_image(asked.out / PICTURE, picture(a, b, shown, search))
        scores = search.last_scores()
        parted = labels.agreement_inside < asked.agreement or bool(
            scores and scores.distance.snr_db < search.limits.snr_db
        )
        found = search.find() if parted else None
        return Parity(
            _about(a),
            _about(b),
            len(shown.images),
            shown.source,
            labels,
            search.limits,
            scores,
            found,
            _verdict(found, search) if found else "they agree: no tensor was searched for",
        )


def _search(a: Side, b: Side, shown: Shown, asked: Asked, say: Say) -> Search:
    tolerance = TOLERANCES[_kind(a, b)] if asked.tolerance is None else asked.tolerance
    left, right = a.labels(shown.given(a)), b.labels(shown.given(b))
    padding = shown.padding
    if padding.shape != left.shape:
        small = (left.shape[1], left.shape[2])
        padding = np.stack([resize_labels(p.astype(np.uint8), small) for p in padding]) > 0
    return Search(
        a.probe,
        b.probe,
        shown.feeds(a),
        shown.feeds(b),
        left,
        right,
        padding,
        b.decode,
        Limits(tolerance, asked.agreement),
        step=lambda tensor: say(f"asking for '{tensor}'"),
    )


def _kind(a: Side, b: Side) -> str:
    quantised = {a.manifest.precision == "int8", b.manifest.precision == "int8"}
    if len(quantised) == 2:
        return "mixed"
    return "int8" if quantised == {True} else "float"


def _about(side: Side) -> dict[str, str]:
    return {
        "model": side.text,
        "name": side.manifest.name,
        "engine": side.probe.engine,
        "version": side.engine.version,
        "precision": side.manifest.precision,
        "inference_precision": side.engine.inference_precision,
    }


def _verdict(found: Found, search: Search) -> str:
    node = search.described.get(found.first)
    name = f"{node.op} '{found.first}'" if node else f"'{found.first}'"
    reading = next((r for r in found.readings if r.tensor == found.first), None)
    if reading and reading.state == "healed":
        start = (
            f"healed by looking: to ask for {name} moves {reading.labels_moved:.2f} % of B's "
            "labels, most of them back to A's, so the fault lies in how B fuses what is around it"
        )
    elif reading:
        start = f"first to part: {name}, SNR {reading.distance.snr_db:.1f} dB"
    else:
        start = f"every inner tensor is the same, the output {name} is not"
    return f"{start}. {_place(found, search)}"


def _place(found: Found, search: Search) -> str:
    part = found.part
    if part is None:
        worst = ", ".join(f"'{t}' {far.snr_db:.1f} dB" for t, far in found.worst)
        return (
            "No part of the graph departs alone: fed with A's own inputs it has "
            f"{found.alone.snr_db:.1f} dB. Rounding adds up over the layers before it; those with "
            f"most of it when fed with A's inputs: {worst}"
        )
    shared = {n.tensor for n in search.order}
    inner = [n for n in part.nodes if n.tensor in shared and n.tensor != part.tensor]
    names = ", ".join(describe(search.described.get(n.tensor, n)) for n in _spoken(part, search))
    where = "This node alone" if not inner else f"In context only: {len(inner) + 1} nodes together"
    return (
        f"{where} departs when B is fed with A's {', '.join(part.feeds)}: SNR "
        f"{part.distance.snr_db:.1f} dB at '{part.tensor}': {names}"
    )


def _spoken(part: Part, search: Search) -> list[Node]:
    """The part's nodes without Q/DQ, unless there is nothing else."""
    spoken = [n for n in part.nodes if not n.quantises and n.tensor in search.described]
    return spoken or list(part.nodes)


def describe(node: Node) -> str:
    """`Conv 'x' (kernel_shape=[3, 3]) of a, b`."""
    attributes = ", ".join(f"{k}={v}" for k, v in node.attributes.items())
    return f"{node.op} '{node.name}' ({attributes}) of {', '.join(node.inputs)}"


def picture(a: Side, b: Side, shown: Shown, search: Search) -> np.ndarray:
    """Frame, labels of both and where they differ, for the frame with most of it: (H, W, 3)."""
    differs = (search.labels_a != search.labels_b) & ~search.padding
    worst = int(differs.sum((1, 2)).argmax())
    image = shown.images[worst][..., :3]
    frame = np.ascontiguousarray(image if shown.order == "rgb" else image[..., ::-1])
    left, right = search.labels_a[worst], search.labels_b[worst]
    table = a.manifest.table
    edge = differs[worst] & boundary(left, BOUNDARY_RADIUS)
    inside = differs[worst] & ~edge
    share = 100 / max(int((~search.padding[worst]).sum()), 1)
    tiles = [
        (f"frame {worst + 1} of {len(shown.images)}, the one with most differences", frame),
        (
            f"differ: {edge.sum() * share:.2f} % at boundaries (amber), "
            f"{inside.sum() * share:.2f} % inside (red)",
            _parted(frame, edge, inside),
        ),
        (f"A: {_title(a)}", overlay(frame, left, table, 0.75)),
        (f"B: {_title(b)}", overlay(frame, right, table, 0.75)),
    ]
    return contact_sheet(tiles, 2)


def _title(side: Side) -> str:
    return (
        f"{side.manifest.name} {side.manifest.precision}, {side.probe.engine} {side.engine.version}"
    )


def _parted(frame: np.ndarray, edge: np.ndarray, inside: np.ndarray) -> np.ndarray:
    size = (frame.shape[0], frame.shape[1])
    grey = (frame @ np.array([0.299, 0.587, 0.114], np.float32)) * 0.55 + 20
    shown = np.repeat(grey.astype(np.uint8)[..., None], 3, 2)
    shown[resize_labels(edge.astype(np.uint8), size) > 0] = EDGE
    shown[resize_labels(inside.astype(np.uint8), size) > 0] = DIFFERENT
    return shown
