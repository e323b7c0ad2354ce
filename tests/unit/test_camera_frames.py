"""Pictures as a camera would give them, and back by what the runtime makes of its formats."""

from __future__ import annotations

import numpy as np
import pytest

from edgeseg.benchmarks.camera_frames import Camera, as_camera, parse_camera
from edgeseg.benchmarks.race_worker import in_pillow
from edgeseg.errors import UsageError
from edgeseg.frame import place
from edgeseg.runtime.prepare import FORMATS, size_of, to_three

pytestmark = pytest.mark.unit


def halves(size: tuple[int, int]) -> np.ndarray:
    """Two colours that every format of pairs of pixels can hold."""
    image = np.empty((*size, 3), np.uint8)
    image[:, : size[1] // 2], image[:, size[1] // 2 :] = (200, 30, 60), (20, 90, 180)
    return image


@pytest.mark.parametrize("form", sorted(set(FORMATS) - {"grey"}))
def test_a_frame_becomes_the_picture_again(form: str):
    """Within 2 levels: eight bits of luma and chroma are not all of RGB."""
    camera = Camera((12, 16), form)
    frame = as_camera(halves((24, 32)), camera)
    assert size_of(frame, form) == (12, 16)
    three = to_three(frame, form)
    rgb = three[..., ::-1] if form == "bgr" else three
    assert np.abs(rgb.astype(int) - halves((12, 16))).max() <= (
        2 if form in ("nv12", "yuyv") else 0
    )


def test_grey_is_luma():
    white = as_camera(np.full((4, 4, 3), 255, np.uint8), Camera((4, 4), "grey"))
    assert white.tolist() == [[235] * 4] * 4


def test_cameras_are_parsed():
    assert parse_camera("720x1280") == Camera((720, 1280), "bgr")
    assert parse_camera("6x8:nv12") == Camera((6, 8), "nv12")
    assert str(parse_camera("6x8:nv12")) == "6x8:nv12"
    with pytest.raises(UsageError, match=r"unknown format of frames 'nv21'\. Did you mean 'nv12'"):
        parse_camera("6x8:nv21")
    with pytest.raises(UsageError, match="a camera of 7x8 gives no nv12: pairs of pixels share"):
        parse_camera("7x8:nv12")
    assert parse_camera("7x8:yuyv").size == (7, 8)


def test_the_usual_script_prepares_by_pillow():
    """12x16 into 6x12 between bars: 6x8 in the middle, the colours where they were."""
    frame = as_camera(halves((12, 16)), Camera((12, 16), "bgr"))
    made = in_pillow("bgr", frame, place((12, 16), (6, 12), "pad"), (1, 2, 3))
    assert made.shape == (6, 12, 3)
    assert (made[:, [0, 1, 10, 11]] == (1, 2, 3)).all()
    assert (made[:, 2:5] == (200, 30, 60)).all()
    assert (made[:, 7:10] == (20, 90, 180)).all()
