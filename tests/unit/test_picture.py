"""Pictures: every expectation is computed by hand."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeseg import picture
from edgeseg.dataset import read_ids, read_image
from edgeseg.errors import FrameError, UsageError
from edgeseg.labels import CLASS_TABLES, ClassTable

pytestmark = pytest.mark.unit

TABLE = ClassTable("two", ("dark", "bright"), ((10, 20, 30), (200, 100, 0)))


def plain(height: int, width: int, value: int) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def test_overlay_mixes_half_and_half():
    drawn = picture.overlay(plain(2, 2, 100), np.ones((2, 2), np.uint8), TABLE)
    assert drawn.tolist() == [[[150, 100, 50]] * 2] * 2


def test_overlay_leaves_void_pixels_and_the_frame_itself_alone():
    image = plain(3, 3, 77)
    drawn = picture.overlay(image, np.full((3, 3), 255, np.uint8), TABLE, opacity=1.0)
    assert (drawn == 77).all()
    assert drawn is not image
    picture.overlay(image, np.ones((3, 3), np.uint8), TABLE)
    assert (image == 77).all()


@pytest.mark.parametrize(("opacity", "colour"), [(0.0, [100] * 3), (1.0, [200, 100, 0])])
def test_overlay_at_the_ends_of_opacity(opacity, colour):
    drawn = picture.overlay(plain(1, 1, 100), np.ones((1, 1), np.uint8), TABLE, opacity)
    assert drawn[0, 0].tolist() == colour


def test_overlay_draws_class_boundaries_more_strongly():
    labels = np.array([[0, 0, 1, 1]], np.uint8)
    drawn = picture.overlay(plain(1, 4, 0), labels, TABLE, opacity=0.5)
    assert drawn[0, 0].tolist() == [5, 10, 15]
    assert drawn[0, 1].tolist() == [8, 16, 24]  # 0.8 of the colour
    assert drawn[0, 3].tolist() == [100, 50, 0]
    upright = picture.overlay(plain(4, 1, 0), labels.T, TABLE, opacity=0.5)
    assert np.array_equal(upright[:, 0], drawn[0])


def test_overlay_resizes_labels_to_the_frame():
    labels = np.array([[0, 1]], np.uint8)
    drawn = picture.overlay(plain(2, 4, 0), labels, TABLE, opacity=1.0)
    assert drawn[..., 0].tolist() == [[10, 10, 200, 200]] * 2


@pytest.mark.parametrize("opacity", [-0.1, 1.1, float("nan")])
def test_overlay_refuses_an_opacity_that_is_no_share(opacity):
    with pytest.raises(UsageError, match=r"opacity is .*; expected a number from 0 to 1"):
        picture.overlay(plain(1, 1, 0), np.zeros((1, 1), np.uint8), TABLE, opacity)


def test_overlay_refuses_what_is_no_frame():
    with pytest.raises(FrameError, match="expected uint8"):
        picture.overlay(np.zeros((2, 2)), np.zeros((2, 2), np.uint8), TABLE)


def test_colourise():
    coloured = picture.colourise(np.array([[0, 1, 255, 7]], np.uint8), TABLE)
    assert coloured.tolist() == [[[10, 20, 30], [200, 100, 0], [0, 0, 0], [0, 0, 0]]]


def test_disagreement_marks_pixels_that_differ_and_no_void():
    a = np.array([[0, 0, 0, 255]], np.uint8)
    b = np.array([[0, 1, 255, 1]], np.uint8)
    drawn = picture.disagreement(plain(1, 4, 100), a, b)
    assert drawn[0, 1].tolist() == list(picture.DIFFERENT)
    grey = [75, 75, 75]  # 0.55 * 100 + 20
    assert [drawn[0, i].tolist() for i in (0, 2, 3)] == [grey] * 3


def test_legend_holds_every_colour_once_and_keeps_its_width():
    for table in CLASS_TABLES.values():
        for width in (200, 480, 1024):
            drawn = picture.legend(table, width=width)
            assert drawn.shape[1] == width
            colours = {tuple(c) for c in drawn.reshape(-1, 3).tolist()}
            assert set(table.palette) <= colours


def test_legend_of_some_classes_only():
    drawn = picture.legend(TABLE, ids=[1], width=200)
    colours = {tuple(c) for c in drawn.reshape(-1, 3).tolist()}
    assert (200, 100, 0) in colours
    assert (10, 20, 30) not in colours


def test_legend_wraps_into_rows():
    table = CLASS_TABLES["cityscapes19"]
    assert picture.legend(table, width=200).shape[0] > picture.legend(table, width=2000).shape[0]


def test_a_caption_darkens_the_corner_and_nothing_else():
    image = plain(100, 400, 200)
    written = picture.write_caption(image, "22 ms")
    assert (image == 200).all()
    assert written[1, 1].tolist() == [50 + 12, 50 + 13, 50 + 15]
    assert (written[:13, :13] > 200).any()
    assert (written[40:] == 200).all()
    assert (written[:, 200:] == 200).all()


def test_a_caption_wider_than_the_image_is_cut():
    assert picture.write_caption(plain(8, 10, 0), "a long text").shape == (8, 10, 3)


def test_contact_sheet_places_tiles_in_rows():
    tiles = [("a", plain(10, 30, 50)), ("b", plain(10, 30, 100)), ("c", plain(10, 30, 150))]
    sheet = picture.contact_sheet(tiles, 2)
    tops = [np.argwhere((sheet == value).all(-1))[0].tolist() for value in (50, 100, 150)]
    (y0, x0), (y1, x1), (y2, x2) = tops
    assert y0 == y1 < y2
    assert x0 == x2 < x1
    for y, x, value in ((y0, x0, 50), (y1, x1, 100), (y2, x2, 150)):
        assert (sheet[y : y + 10, x : x + 30] == value).all()


def test_a_title_is_shortened_to_its_tile():
    one = picture.contact_sheet([("x" * 500, plain(10, 60, 9)), ("b", plain(10, 60, 9))], 2)
    two = picture.contact_sheet([("", plain(10, 60, 9)), ("b", plain(10, 60, 9))], 2)
    assert one.shape == two.shape
    assert np.array_equal(one[:, 66:], two[:, 66:])


@pytest.mark.parametrize(("tiles", "columns"), [([], 2), ([("a", plain(2, 2, 0))], 0)])
def test_an_empty_contact_sheet_is_refused(tiles, columns):
    with pytest.raises(UsageError, match=f"of {len(tiles)} tiles in {columns} columns is empty"):
        picture.contact_sheet(tiles, columns)


def test_stack_fills_narrow_images_up():
    whole = picture.stack([plain(2, 4, 1), plain(3, 2, 2)])
    assert whole.shape == (5, 4, 3)
    assert (whole[:2] == 1).all()
    assert (whole[2:, :2] == 2).all()
    assert (whole[2:, 2:] == picture.GROUND).all()


def test_png_is_exact_and_jpeg_is_near():
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (16, 16, 3)).astype(np.uint8)
    smooth = np.repeat(np.repeat(image[::8, ::8], 8, 0), 8, 1)
    assert np.array_equal(np.array(Image.open(io.BytesIO(picture.encode_png(image)))), image)
    jpeg = picture.encode_jpeg(smooth)
    assert jpeg[:2] == b"\xff\xd8"
    near = np.array(Image.open(io.BytesIO(jpeg))).astype(int)
    assert np.abs(near - smooth).mean() < 25


def test_save_image_writes_the_format_of_the_suffix(tmp_path: Path):
    image = plain(4, 6, 90)
    for name, kind in (("a.png", "PNG"), ("b.jpg", "JPEG"), ("c.JPEG", "JPEG")):
        picture.save_image(tmp_path / name, image)
        with Image.open(tmp_path / name) as written:
            assert written.format == kind
    assert np.array_equal(read_image(tmp_path / "a.png"), image)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "b.jpg", "c.JPEG"]


def test_an_unknown_suffix_is_refused(tmp_path: Path):
    with pytest.raises(UsageError, match=r"unknown image suffix '\.gif'; expected \.png, \.jpg"):
        picture.save_image(tmp_path / "a.gif", plain(2, 2, 0))
    assert not list(tmp_path.iterdir())


def test_saved_labels_are_ids_that_show_colours(tmp_path: Path):
    labels = np.array([[0, 1, 255]], np.uint8)
    picture.save_labels(tmp_path / "a.png", labels, TABLE)
    assert np.array_equal(read_ids(tmp_path / "a.png"), labels)
    assert read_image(tmp_path / "a.png")[0].tolist() == [[10, 20, 30], [200, 100, 0], [0, 0, 0]]
    with pytest.raises(UsageError, match="JPEG would change the ids"):
        picture.save_labels(tmp_path / "a.jpg", labels, TABLE)
