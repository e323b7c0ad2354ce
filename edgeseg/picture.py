"""What labels look like to people: overlays, legends, disagreement maps, contact sheets.

Images are (H, W, 3) uint8 RGB; label maps are (H, W) uint8 ids, 255 where there is none.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from edgeseg.disk import writing_file
from edgeseg.errors import UsageError
from edgeseg.frame import check_frame, resize_labels
from edgeseg.labels import IGNORE, ClassTable

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}

Colour = tuple[int, int, int]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

GROUND: Colour = (24, 26, 30)
INK: Colour = (236, 238, 242)
DIFFERENT: Colour = (255, 46, 99)


def overlay(
    image: np.ndarray, labels: np.ndarray, table: ClassTable, opacity: float = 0.5
) -> np.ndarray:
    """(H, W, 3) frame and its labels -> (H, W, 3): the class colours laid over the frame.

    `opacity` is the share of the class colour from 0 to 1; where two classes meet, one pixel is
    drawn in (nearly) full colour. Pixels labelled 255 stay as they are.
    """
    if not 0 <= opacity <= 1:
        raise UsageError(f"opacity is {opacity}; expected a number from 0 to 1")
    check_frame(image)
    labels = _fitting(labels, image)
    inside, edge = round(256 * opacity), round(256 * min(1.0, 1.6 * opacity))
    mixed = _mix(image, labels, table, inside)
    line = _edges(labels)
    mixed[line] = _mix(image[line], labels[line], table, edge)
    return mixed


def colourise(labels: np.ndarray, table: ClassTable) -> np.ndarray:
    """(H, W) labels -> (H, W, 3) in the table's colours; ids without a class are black."""
    coloured: np.ndarray = table.colours()[labels]
    return coloured


def disagreement(image: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(H, W, 3): the frame in dim grey, pixels where label maps `a` and `b` differ in bright red.

    Pixels that are 255 in one of the two (void, not seen) are not counted as different.
    """
    check_frame(image)
    a, b = _fitting(a, image), _fitting(b, image)
    grey = (image @ np.array([0.299, 0.587, 0.114], np.float32)) * 0.55 + 20
    shown = np.repeat(grey.astype(np.uint8)[..., None], 3, 2)
    shown[(a != b) & (a != IGNORE) & (b != IGNORE)] = DIFFERENT
    return shown


def legend(table: ClassTable, ids: Sequence[int] | None = None, width: int = 640) -> np.ndarray:
    """(h, width, 3): a swatch and the name of each class of `ids` (all by default), in rows."""
    size = min(20, max(13, width // 52))
    font, gap = _font(size), size // 2
    shown = range(len(table)) if ids is None else ids
    entries = [(table.palette[i], table.names[i]) for i in shown]
    column = max((round(font.getlength(name)) for _, name in entries), default=0)
    cell = column + size + 3 * gap
    columns = max(1, min(len(entries), (width - gap) // cell))
    rows = -(-len(entries) // columns)
    pitch = size + gap + 2
    cell = max(cell, min((width - gap) // columns, cell * 2))
    canvas = Image.new("RGB", (width, rows * pitch + gap), GROUND)
    draw = ImageDraw.Draw(canvas)
    for index, (colour, name) in enumerate(entries):
        x, y = gap + index % columns * cell, gap + index // columns * pitch
        draw.rounded_rectangle((x, y, x + size, y + size), 3, colour, outline=(150, 152, 158))
        draw.text((x + size + gap, y + size / 2), name, INK, font, anchor="lm")
    return np.array(canvas)


def write_caption(image: np.ndarray, text: str) -> np.ndarray:
    """A copy of the image with `text` on a dark strip in its upper left corner."""
    check_frame(image)
    size = min(28, max(13, image.shape[1] // 48))
    font, gap = _font(size), max(3, size // 3)
    box = ImageDraw.Draw(Image.new("RGB", (1, 1))).multiline_textbbox((0, 0), text, font)
    width = min(image.shape[1], round(box[2]) + 2 * gap)
    height = min(image.shape[0], round(box[3]) + 2 * gap)
    written: np.ndarray = image.copy()
    corner = written[:height, :width]
    dark = Image.fromarray(corner // 4 + np.array(GROUND, np.uint8) // 2)
    ImageDraw.Draw(dark).multiline_text((gap, gap), text, INK, font)
    corner[:] = np.array(dark)
    return written


def contact_sheet(tiles: Sequence[tuple[str, np.ndarray]], columns: int) -> np.ndarray:
    """(title, image) pairs -> one image with `columns` tiles in a row, each under its title."""
    if columns < 1 or not tiles:
        raise UsageError(f"a contact sheet of {len(tiles)} tiles in {columns} columns is empty")
    columns = min(columns, len(tiles))
    height = max(image.shape[0] for _, image in tiles)
    width = max(image.shape[1] for _, image in tiles)
    size = min(24, max(11, width // 26))
    font, gap = _font(size), max(4, size // 2)
    cell_h, cell_w = height + size + 2 * gap, width + gap
    rows = -(-len(tiles) // columns)
    sheet = Image.new("RGB", (columns * cell_w + gap, rows * cell_h + gap), GROUND)
    draw = ImageDraw.Draw(sheet)
    for index, (title, image) in enumerate(tiles):
        x, y = gap + index % columns * cell_w, gap + index // columns * cell_h
        draw.text((x, y + size / 2), _shorten(title, font, width), INK, font, anchor="lm")
        sheet.paste(Image.fromarray(image), (x, y + size + gap))
    return np.array(sheet)


def stack(images: Sequence[np.ndarray]) -> np.ndarray:
    """Images below each other; narrower ones are filled up on the right."""
    width = max(image.shape[1] for image in images)
    whole = np.empty((sum(image.shape[0] for image in images), width, 3), np.uint8)
    whole[:] = GROUND
    top = 0
    for image in images:
        whole[top : top + image.shape[0], : image.shape[1]] = image
        top += image.shape[0]
    return whole


def encode_jpeg(image: np.ndarray, quality: int = 85) -> bytes:
    """JPEG bytes of an image."""
    return _encode(image, "JPEG", quality=quality)


def encode_png(image: np.ndarray) -> bytes:
    """PNG bytes of an image."""
    return _encode(image, "PNG", optimize=True)


def save_image(path: Path, image: np.ndarray) -> None:
    """Write an image whole or not at all; the suffix names the format."""
    kind = image_format(path)
    with writing_file(path) as aside:
        aside.write_bytes(encode_jpeg(image, 92) if kind == "JPEG" else encode_png(image))


def save_labels(path: Path, labels: np.ndarray, table: ClassTable) -> None:
    """Write (H, W) ids as a colour-indexed PNG: programs read ids, people see the colours."""
    if image_format(path) != "PNG":
        raise UsageError(f"{path}: labels are written as .png (JPEG would change the ids)")
    indexed = Image.fromarray(labels)
    indexed.putpalette(table.colours().tobytes())
    with writing_file(path) as aside:
        indexed.save(aside, "PNG")


def image_format(path: Path) -> str:
    """Pillow's name of the format that the suffix stands for."""
    if path.suffix.lower() not in FORMATS:
        raise UsageError(
            f"{path}: unknown image suffix '{path.suffix}'; expected {', '.join(FORMATS)}"
        )
    return FORMATS[path.suffix.lower()]


def _fitting(labels: np.ndarray, image: np.ndarray) -> np.ndarray:
    return resize_labels(labels, (image.shape[0], image.shape[1]))


def _mix(image: np.ndarray, labels: np.ndarray, table: ClassTable, share: int) -> np.ndarray:
    """`share` of 256 parts of the class colour; rounded to the nearest."""
    colours = table.colours().astype(np.uint16) * np.uint16(share) + np.uint16(128)
    colours[IGNORE] = 0
    keep = np.full(256, 256 - share, np.uint16)
    keep[IGNORE] = 256
    mixed = image * keep[labels][..., None]
    mixed += colours[labels]
    mixed >>= 8
    narrow: np.ndarray = mixed.astype(np.uint8)
    return narrow


def _edges(labels: np.ndarray) -> np.ndarray:
    """(H, W) bool: pixels whose right or lower neighbour has another label."""
    edges = np.zeros(labels.shape, bool)
    edges[:, :-1] = labels[:, :-1] != labels[:, 1:]
    edges[:-1] |= labels[:-1] != labels[1:]
    return edges


def _encode(image: np.ndarray, kind: str, **options: int | bool) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(buffer, kind, **options)
    return buffer.getvalue()


@lru_cache(maxsize=16)
def _font(size: int) -> Font:
    """Pillow's own scalable font: the same on every machine."""
    return ImageFont.load_default(size)


def _shorten(text: str, font: Font, width: int) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."
