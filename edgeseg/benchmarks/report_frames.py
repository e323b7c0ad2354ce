"""What the networks see: frames with overlays and disagreement maps; IoU of each class."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape

import numpy as np

from edgeseg.benchmarks.pictures import Picture
from edgeseg.benchmarks.rows import (
    Row,
    engine_name,
    number,
    precision_name,
    reference,
    short_names,
    signed,
    size_name,
)
from edgeseg.frame import resize_image, resize_labels
from edgeseg.labels import IGNORE, ClassTable
from edgeseg.picture import disagreement, encode_jpeg, overlay

WIDEST = 760
"""Pixels of a picture's longer side in the report."""


def section(pictures: Sequence[Picture], classes: ClassTable, name: str) -> str:
    """Frame | truth | float | `name` | where they differ, for each picture."""
    if not pictures:
        return ""
    shots = "".join(_shots(picture, classes, name) for picture in pictures)
    both = any(p["float"] is not None and p["int8"] is not None for p in pictures)
    red = f" Red marks pixels where {escape(name)} and float disagree." if both else ""
    return (
        '<section class="card frames" id="frames"><h2>What the networks see</h2>'
        f"<p>Labels laid over the frames.{red}</p>"
        f"{shots}{_legend(pictures, classes)}</section>"
    )


def cover(pictures: Sequence[Picture], classes: ClassTable | None, name: str) -> str:
    """The first picture's overlay, to stand beside the headline; "" without pictures."""
    if not pictures or classes is None:
        return ""
    first = pictures[0]
    frame = _smaller(first["frame"])
    for kind, labels in ((name, first["int8"]), ("float", first["float"])):
        shown = _labels(labels, frame)
        if shown is not None:
            return _figure(overlay(frame, shown, classes), f"labels by the {kind} network")
    return ""


def _shots(picture: Picture, classes: ClassTable, name: str) -> str:
    frame = _smaller(picture["frame"])
    figures = [(frame, "frame")]
    maps = {
        "truth": _labels(picture["truth"], frame),
        "float": _labels(picture["float"], frame),
        name: _labels(picture["int8"], frame),
    }
    figures += [(overlay(frame, m, classes), k) for k, m in maps.items() if m is not None]
    first, second = picture["float"], picture["int8"]
    if first is not None and second is not None:
        differ = (first != second) & (first != IGNORE) & (second != IGNORE)
        share = 100 * float(np.mean(differ))
        small = disagreement(frame, first, second)
        figures.append((small, f"{name} differs from float: {share:.1f} % of pixels"))
    score = picture.get("miou")
    told = f"<small>mIoU {number(score)} on this frame</small>" if score is not None else ""
    images = "".join(_figure(image, text) for image, text in figures)
    kind = {5: " five", 2: " two", 4: " two"}.get(len(figures), "")
    return (
        f"<section><h3>{escape(picture['title'])}{told}</h3>"
        f'<div class="shots{kind}">{images}</div></section>'
    )


def _figure(image: np.ndarray, text: str) -> str:
    data = base64.b64encode(encode_jpeg(image, 84)).decode("ascii")
    height, width = image.shape[:2]
    return (
        f'<figure><img alt="{escape(text)}" width="{width}" height="{height}" '
        f'src="data:image/jpeg;base64,{data}"><figcaption>{escape(text)}</figcaption></figure>'
    )


def _smaller(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    scale = WIDEST / max(height, width)
    if scale >= 1:
        return image
    return resize_image(image, (max(1, round(height * scale)), max(1, round(width * scale))))


def _labels(labels: np.ndarray | None, frame: np.ndarray) -> np.ndarray | None:
    return None if labels is None else resize_labels(labels, (frame.shape[0], frame.shape[1]))


def _legend(pictures: Sequence[Picture], classes: ClassTable) -> str:
    """Swatches of the classes that occur in any of the label maps."""
    maps = [m for p in pictures for m in (p["truth"], p["float"], p["int8"]) if m is not None]
    present = sorted({int(i) for m in maps for i in np.unique(m)} & set(range(len(classes))))
    entries = "".join(
        f"<span>{_swatch(classes, i)}{escape(classes.names[i])}</span>" for i in present
    )
    return f'<div class="legend">{entries}</div>'


def _swatch(classes: ClassTable | None, index: int) -> str:
    if classes is None:
        return ""
    red, green, blue = classes.palette[index]
    return f'<i class="swatch" style="background:rgb({red} {green} {blue})"></i>'


def classes_section(rows: Sequence[Row], lead: Row | None, classes: ClassTable | None) -> str:
    """IoU bars of each class, float against INT8; the headline's pair open, the others folded."""
    pairs = [
        (row, other)
        for row in rows
        if row.get("per_class") and (other := reference(row, rows)) and other.get("per_class")
    ]
    if not pairs:
        alone = lead or rows[0]
        if not alone.get("per_class"):
            return ""
        bars = _bars(alone, None, classes)
        return f'<section class="card" id="classes"><h2>IoU of each class</h2>{bars}</section>'
    pairs.sort(key=lambda pair: pair[0] is not lead)
    names = short_names(rows)
    folded = "".join(
        f"<details><summary>{escape(names[_index(rows, row)])}</summary>"
        f"<div>{_bars(row, other, classes)}</div></details>"
        for row, other in pairs[1:]
    )
    first, other = pairs[0]
    text = (
        f"{first['model']} at {size_name(first)}: {precision_name(first)} on {engine_name(first)} "
        f"against {precision_name(other)} on {engine_name(other)}. IoU in percent."
    )
    return (
        '<section class="card" id="classes"><h2>IoU of each class</h2>'
        f"<p>{escape(text)}</p>{_bars(first, other, classes)}{folded}</section>"
    )


def _index(rows: Sequence[Row], row: Row) -> int:
    return next(i for i, r in enumerate(rows) if r is row)


def _bars(row: Row, other: Row | None, classes: ClassTable | None) -> str:
    heads = ["float", precision_name(row), "\N{GREEK CAPITAL LETTER DELTA}"]
    if other is None:
        heads = ["", precision_name(row), ""]
    parts = ['<div class="head"></div><div class="head"></div>']
    colours = ["fp32" if other else "", escape(row["precision"]), ""]
    for head, colour in zip(heads, colours, strict=True):
        dot = f'<i class="dot {colour}"></i>' if colour else ""
        parts.append(f'<div class="head">{dot}{escape(head)}</div>')
    for name, value in row["per_class"].items():
        before = other["per_class"].get(name) if other else None
        parts.append(
            _bar(
                name,
                before=before,
                value=value,
                precision=row["precision"],
                classes=classes,
                paired=other is not None,
            )
        )
    return f'<div class="classes">{"".join(parts)}</div>'


def _bar(
    name: str,
    *,
    before: float | None,
    value: float | None,
    precision: str,
    classes: ClassTable | None,
    paired: bool,
) -> str:
    known = classes is not None and name in classes.names
    swatch = _swatch(classes, classes.names.index(name)) if classes and known else ""
    bars = f'<i class="fp32" style="width:{before or 0:.2f}%"></i>' if paired else ""
    bars += f'<i class="{escape(precision)}" style="width:{value or 0:.2f}%"></i>'
    change = None if before is None or value is None else value - before
    style = " down" if change is not None and change < -1 else ""
    if value is None and before is None:
        bars = '<span class="soft">not in these frames</span>'
    cells = (number(before), number(value), signed(change)) if paired else ("", number(value), "")
    return (
        f'<div class="row"><div class="name">{swatch}{escape(name)}</div>'
        f'<div class="pair">{bars}</div>'
        f'<div class="value soft">{cells[0]}</div><div class="value">{cells[1]}</div>'
        f'<div class="value{style}">{cells[2]}</div></div>'
    )
