"""How families of published weight files are to be read. Plain data; no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Preset:
    """How a family of published files is to be read: classes, input, decoder variant.

    `mean` and `std` are what the authors wrote, in BGR or RGB as `order` says; they divide by
    `divide` afterwards.
    """

    classes: str
    order: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    divide: float
    options: dict[str, str]
    void_outputs: int
    size: tuple[int, int]
    data: str
    licence: str
    source: str


# fmt: off
PRESETS = {
    "espnet-camvid": Preset(
        classes="camvid11", order="bgr",
        mean=(110.331, 108.409, 105.033), std=(72.126, 72.691, 69.904), divide=255.0,
        options={"skip": "join"}, void_outputs=1, size=(360, 480),
        data="CamVid train (SegNet split)",
        licence="MIT; CamVid is CC BY-NC 4.0", source="sacmehta/ESPNet"),
    "espnet-cityscapes": Preset(
        classes="cityscapes19", order="bgr",
        mean=(72.392, 82.909, 73.158), std=(45.319, 46.153, 44.915), divide=255.0,
        options={"skip": "stem"}, void_outputs=1, size=(512, 1024),
        data="Cityscapes train",
        licence="MIT; Cityscapes is for non-commercial research", source="sacmehta/ESPNet"),
    "espnetv2-cityscapes": Preset(
        classes="cityscapes19", order="rgb",
        mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375), divide=1.0,
        options={}, void_outputs=1, size=(512, 1024),
        data="Cityscapes train",
        licence="MIT; Cityscapes is for non-commercial research", source="sacmehta/EdgeNets"),
}
# fmt: on
