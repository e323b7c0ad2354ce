"""Where a frame goes in the network's input, and how labels come back: all by pencil."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeseg import frame as frames
from edgeseg.errors import FrameError, UsageError
from edgeseg.frame import (
    FITS,
    Box,
    Placement,
    check_frame,
    check_order,
    enlarged,
    format_size,
    parse_size,
    place,
    prepare,
    prepare_labels,
    resize_image,
    resize_labels,
    restore,
    taps,
)

pytestmark = pytest.mark.unit

sides = st.integers(1, 70)
sizes = st.tuples(sides, sides)


def noise(size: tuple[int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3)).astype(np.uint8)


# What was typed, what was handed over


def test_sizes_are_height_times_width():
    assert parse_size("512x1024") == (512, 1024)
    assert parse_size("360X480") == (360, 480)
    assert format_size((512, 1024)) == "512x1024"


@pytest.mark.parametrize("text", ["512", "512x", "x", "0x5", "-1x5", "1x2x3", "axb", "²x3"])
def test_what_is_no_size(text):
    with pytest.raises(UsageError, match=f"size '{text}' is not HEIGHTxWIDTH, such as 512x1024"):
        parse_size(text)


def test_orders():
    assert check_order("bgr") == "bgr"
    with pytest.raises(UsageError, match=r"'BGR' is neither rgb nor bgr"):
        check_order("BGR")


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        (None, "frame is a NoneType; expected a numpy array .*; OpenCV gives None for what it"),
        ([[1]], "frame is a list; expected a numpy array"),
        (np.zeros((2, 2)), r"frame is float64 of shape \(2, 2\); expected uint8 of shape"),
        (np.zeros((2, 2, 3), np.float32), r"float32 of shape \(2, 2, 3\);.*: \(frame \* 255\)"),
        (np.zeros((2, 2, 3), np.int64), r"int64 of shape \(2, 2, 3\); expected uint8 .* 3\)$"),
        (
            np.zeros((2, 2), np.uint8),
            r"uint8 of shape \(2, 2\);.*; one channel is of frames='grey'",
        ),
        (np.zeros((2, 2, 4), np.uint8), r"uint8 of shape \(2, 2, 4\);.*: frame\[..., :3\] leaves"),
        (np.zeros((0, 2, 3), np.uint8), r"frame is uint8 of shape \(0, 2, 3\)"),
        (np.zeros((3, 2, 2), np.uint8), r"of shape \(3, 2, 2\);.*: frame.transpose\(1, 2, 0\)"),
        (np.zeros((1, 2, 2, 3), np.uint8), r"of shape \(1, 2, 2, 3\);.*: frame\[0\], one frame"),
    ],
)
def test_what_is_no_frame(frame, said):
    with pytest.raises(FrameError, match=said):
        check_frame(frame)


def test_a_frame_is_handed_back_itself():
    frame = noise((2, 3))
    assert check_frame(frame) is frame


# place


@pytest.mark.parametrize(
    ("fit", "frame", "network", "source", "target"),
    [
        # CamVid (4:3) in a 2:1 input: 512 / 360 = 1.422, so 683 columns in the middle
        ("pad", (360, 480), (512, 1024), Box(0, 0, 360, 480), Box(0, 170, 512, 853)),
        # a 16:9 camera in a 2:1 input
        ("pad", (1080, 1920), (512, 1024), Box(0, 0, 1080, 1920), Box(0, 57, 512, 967)),
        # a wide frame: bars above and below
        ("pad", (100, 400), (200, 400), Box(0, 0, 100, 400), Box(50, 0, 150, 400)),
        ("pad", (512, 1024), (256, 512), Box(0, 0, 512, 1024), Box(0, 0, 256, 512)),
        # 480 columns are 1024, so 240 rows are seen
        ("crop", (360, 480), (512, 1024), Box(60, 0, 300, 480), Box(0, 0, 512, 1024)),
        ("crop", (100, 400), (200, 400), Box(0, 100, 100, 300), Box(0, 0, 200, 400)),
        ("stretch", (360, 480), (512, 1024), Box(0, 0, 360, 480), Box(0, 0, 512, 1024)),
        # so narrow that one pixel is left
        ("pad", (1000, 1), (64, 64), Box(0, 0, 1000, 1), Box(0, 31, 64, 32)),
        ("crop", (1, 1000), (64, 64), Box(0, 499, 1, 500), Box(0, 0, 64, 64)),
    ],
)
def test_place(fit, frame, network, source, target):
    assert place(frame, network, fit) == Placement(frame, network, source, target)


def test_an_unknown_fit():
    with pytest.raises(UsageError, match=r"unknown fit 'padd'. Did you mean 'pad'\?"):
        place((1, 1), (1, 1), "padd")


@given(sizes, sizes, st.sampled_from(sorted(FITS)))
def test_both_boxes_lie_inside_and_hold_something(frame, network, fit):
    placement = place(frame, network, fit)
    for box, (height, width) in ((placement.source, frame), (placement.target, network)):
        assert 0 <= box.top < box.bottom <= height
        assert 0 <= box.left < box.right <= width
    if fit == "pad":
        assert placement.source.size == frame
        # one side is filled
        assert placement.target.size[0] == network[0] or placement.target.size[1] == network[1]
    else:
        assert placement.target.size == network


@given(sizes, st.sampled_from(sorted(FITS)))
def test_a_frame_of_the_inputs_size_is_not_touched(size, fit):
    image, labels = noise(size), noise(size)[..., 0]
    placement = place(size, size, fit)
    assert np.array_equal(prepare(image, placement, swap=False, fill=(9, 9, 9)), image)
    assert np.array_equal(prepare_labels(labels, placement), labels)
    assert np.array_equal(restore(labels, placement), labels)


# prepare


def test_prepare_pads_with_the_fill_colour_and_swaps_channels():
    image = np.full((2, 2, 3), (10, 20, 30), np.uint8)
    made = prepare(image, place((2, 2), (2, 4), "pad"), swap=True, fill=(1, 2, 3))
    assert made.tolist() == [[[1, 2, 3], [30, 20, 10], [30, 20, 10], [1, 2, 3]]] * 2


def test_prepare_crops_the_middle():
    image = np.zeros((4, 2, 3), np.uint8)
    image[1:3] = 200
    made = prepare(image, place((4, 2), (2, 2), "crop"), swap=False, fill=(0, 0, 0))
    assert (made == 200).all()


def test_prepare_writes_all_of_out():
    placement = place((5, 9), (8, 8), "pad")
    out = np.full((8, 8, 3), 77, np.uint8)
    made = prepare(noise((5, 9)), placement, swap=False, fill=(1, 2, 3), out=out)
    assert made is out
    again = prepare(noise((5, 9)), placement, swap=False, fill=(1, 2, 3))
    assert np.array_equal(made, again)


@given(sizes, sizes, st.sampled_from(sorted(FITS)))
@settings(max_examples=60)
def test_swapping_twice_is_not_swapping(frame, network, fit):
    image, placement = noise(frame), place(frame, network, fit)
    one = prepare(image, placement, swap=False, fill=(1, 2, 3))
    two = prepare(image[..., ::-1], placement, swap=True, fill=(1, 2, 3))
    assert np.array_equal(one, two)


@given(sizes, sizes, st.sampled_from(sorted(FITS)))
@settings(max_examples=60)
def test_a_frame_of_one_colour_stays_of_one_colour(frame, network, fit):
    image = np.full((*frame, 3), (3, 200, 255), np.uint8)
    made = prepare(image, place(frame, network, fit), swap=False, fill=(3, 200, 255))
    assert (made == (3, 200, 255)).all()


def test_labels_outside_the_frame_are_void():
    made = prepare_labels(np.zeros((2, 2), np.uint8), place((2, 2), (2, 4), "pad"))
    assert made.tolist() == [[255, 0, 0, 255]] * 2


# restore


def test_restore_takes_the_padding_away():
    labels = np.array([[9, 0, 1, 9], [9, 2, 3, 9]], np.uint8)
    assert restore(labels, place((2, 2), (2, 4), "pad")).tolist() == [[0, 1], [2, 3]]


def test_restore_of_a_crop_knows_what_was_not_seen():
    labels = np.array([[1, 2], [3, 4]], np.uint8)
    placement = place((4, 2), (2, 2), "crop")
    assert restore(labels, placement).tolist() == [[255, 255], [1, 2], [3, 4], [255, 255]]


def test_restore_from_a_stride():
    labels = np.array([[1, 2]], np.uint8)
    assert restore(labels, place((2, 4), (2, 4), "stretch")).tolist() == [[1, 1, 2, 2]] * 2


def test_restore_writes_out():
    labels, placement = np.array([[1, 2]], np.uint8), place((2, 2), (1, 2), "crop")
    out = np.full((2, 2), 7, np.uint8)
    assert restore(labels, placement, out) is out
    assert out.tolist() == [[1, 2], [255, 255]]


@given(sizes, st.integers(1, 3), st.sampled_from(sorted(FITS)))
def test_round_trip_through_a_larger_input(frame, factor, fit):
    """Labels of the frame -> input (larger by a whole number) -> labels of the frame."""
    labels = noise(frame)[..., 0] % 19
    network = (frame[0] * factor, frame[1] * factor)
    placement = place(frame, network, fit)
    assert np.array_equal(restore(prepare_labels(labels, placement), placement), labels)


@given(sizes, sizes, st.sampled_from(sorted(FITS)))
def test_restore_covers_exactly_what_was_seen(frame, network, fit):
    placement = place(frame, network, fit)
    labels = restore(np.zeros(network, np.uint8), placement)
    seen = np.zeros(frame, bool)
    seen[placement.source.slices] = True
    assert ((labels == 0) == seen).all()
    assert ((labels == 255) == ~seen).all()


# resize_labels


def test_halving_labels_takes_every_second_pixel_from_the_first():
    labels = noise((8, 12))[..., 0]
    assert np.array_equal(resize_labels(labels, (4, 6)), labels[::2, ::2])


def test_doubling_labels_repeats_them():
    assert resize_labels(np.array([[1, 2]], np.uint8), (2, 4)).tolist() == [[1, 1, 2, 2]] * 2


def test_thirds_of_labels_are_their_middles():
    labels = np.arange(9, dtype=np.uint8).reshape(1, 9)
    assert resize_labels(labels, (1, 3)).tolist() == [[1, 4, 7]]


def nearest_by_hand(have: int, want: int) -> list[int]:
    """For each output centre the input centre that is nearest, of two the first; in fractions."""
    chosen = []
    for i in range(want):
        centre = (Fraction(i) + Fraction(1, 2)) * have / want
        chosen.append(min(range(have), key=lambda k: (abs(k + Fraction(1, 2) - centre), k)))
    return chosen


@given(sides, sides)
@settings(max_examples=60)
def test_labels_are_the_nearest(have, want):
    row = np.arange(have, dtype=np.uint8)[None]
    assert resize_labels(row, (1, want))[0].tolist() == nearest_by_hand(have, want)
    assert resize_labels(row.T, (want, 1))[:, 0].tolist() == nearest_by_hand(have, want)


@given(sides, st.integers(1, 8), sides)
@settings(max_examples=60)
def test_labels_at_a_stride_are_the_nearest(cells, stride, want):
    """Labels at 1/stride restored onto a frame: the nearest centre, of two the first."""
    network = (stride, cells * stride)
    row = np.arange(cells, dtype=np.uint8)[None]
    placement = place((1, want), network, "stretch")
    assert restore(row, placement)[0].tolist() == nearest_by_hand(cells, want)


# resize_image


def test_halving_an_image_is_the_mean_of_four():
    image = noise((8, 12))
    four = image.reshape(4, 2, 6, 2, 3).astype(int).sum((1, 3))
    assert np.array_equal(resize_image(image, (4, 6)), (four + 2) // 4)


def test_area_counts_the_share_of_each_pixel():
    """3 -> 2: (1 * 30 + 0.5 * 60) / 1.5 = 40 and (0.5 * 60 + 1 * 90) / 1.5 = 80."""
    image = np.array([30, 60, 90], np.uint8).reshape(1, 3, 1)
    assert resize_image(image, (1, 2)).ravel().tolist() == [40, 80]


def test_bilinear_is_by_half_pixels():
    """2 -> 4: centres at -0.25, 0.25, 0.75, 1.25 of the input; edges repeated."""
    image = np.array([0, 100], np.uint8).reshape(1, 2, 1)
    assert resize_image(image, (1, 4)).ravel().tolist() == [0, 25, 75, 100]
    assert resize_image(image.reshape(2, 1, 1), (4, 1)).ravel().tolist() == [0, 25, 75, 100]


def test_halves_are_rounded_up():
    image = np.array([0, 1], np.uint8).reshape(1, 2, 1)
    assert resize_image(image, (1, 1)).ravel().tolist() == [1]


def by_hand(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Full matrices in float64, written another way."""
    made = image.astype(np.float64)
    for axis, want in enumerate(size):
        have = made.shape[axis]
        weights = np.zeros((want, have))
        for i in range(want):
            if have > want:
                for k in range(have):
                    weights[i, k] = max(
                        0.0, min((i + 1) * have / want, k + 1) - max(i * have / want, k)
                    )
                weights[i] /= weights[i].sum()
            else:
                centre = min(max((i + 0.5) * have / want - 0.5, 0), have - 1)
                low = int(centre)
                weights[i, low] += 1 - (centre - low)
                weights[i, min(low + 1, have - 1)] += centre - low
        made = np.moveaxis(np.tensordot(weights, made, (1, axis)), 0, axis)
    return made


@given(sizes, sizes)
@settings(max_examples=60, deadline=None)
def test_images_are_resized_as_by_hand(have, want):
    image = noise(have)
    assert np.abs(resize_image(image, want) - by_hand(image, want)).max() < 0.55


def in_whole_numbers(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Taps one by one, rows and then columns, in Python's integers."""
    rows, columns = taps(image.shape[0], size[0]), taps(image.shape[1], size[1])
    pixels = image.astype(object)
    high = np.zeros((size[0], *image.shape[1:]), object)
    for k in range(rows.weights.shape[1]):
        high = high + pixels[rows.first + k] * rows.weights[:, k].astype(object)[:, None, None]
    high = (high + 64) >> 7
    wide = np.zeros((*size, image.shape[2]), object)
    for k in range(columns.weights.shape[1]):
        wide = wide + high[:, columns.first + k] * columns.weights[:, k].astype(object)[:, None]
    return ((wide + 2**20) >> 21).astype(np.uint8)


@given(sizes, sizes)
@settings(max_examples=40, deadline=None)
def test_no_sum_is_ever_rounded_but_where_it_is_said(have, want):
    image = noise(have)
    assert np.array_equal(resize_image(image, want), in_whole_numbers(image, want))


def test_brightest_frames_stay_below_the_last_exact_number():
    image = np.full((2048, 9, 3), 255, np.uint8)
    image[::2] = 254
    assert np.array_equal(resize_image(image, (3, 2)), in_whole_numbers(image, (3, 2)))


@given(sides, sides)
def test_shares_are_whole_and_sum_up_to_one(have, want):
    found = taps(have, want)
    assert (found.weights.astype(int).sum(1) == 2**14).all()
    assert (found.weights >= 0).all()
    assert (found.first >= 0).all()
    assert (found.first + found.weights.shape[1] <= have).all()


def test_shares_by_pencil():
    """3 -> 2 by area: 2/3 and 1/3; 2 -> 4: 1/4 and 3/4 between the edges."""
    assert taps(3, 2).weights.tolist() == [[10923, 5461], [5461, 10923]]
    assert taps(3, 2).first.tolist() == [0, 1]
    one = 2**14
    assert taps(2, 4).weights.tolist() == [
        [one, 0], [one * 3 // 4, one // 4], [one // 4, one * 3 // 4], [0, one],
    ]  # fmt: skip
    assert taps(5, 5).weights.tolist() == [[one]] * 5


def test_many_bands_are_as_one(monkeypatch):
    image = noise((90, 130))
    narrow = resize_image(image, (41, 301))
    frames._bands.cache_clear()
    monkeypatch.setattr(frames, "BAND", 10_000)
    whole = resize_image(image, (41, 301))
    frames._bands.cache_clear()
    assert np.array_equal(narrow, whole)


def test_a_view_is_resized_like_its_copy():
    image = noise((40, 60))
    view = image[3:33, 5:45, ::-1]
    assert np.array_equal(resize_image(view, (20, 20)), resize_image(view.copy(), (20, 20)))


# Labels larger than the input (super-resolution)


def test_a_placement_in_labels_of_twice_the_size():
    """A square frame in the middle of 2x4; its labels are in the middle of 4x8."""
    large = enlarged(place((2, 2), (2, 4), "pad"), 2)
    assert large.frame == (2, 2)
    assert large.network == (4, 8)
    assert large.source == Box(0, 0, 2, 2)
    assert large.target == Box(0, 2, 4, 6)
    same = place((5, 7), (2, 4), "crop")
    assert enlarged(same, 1) is same


def test_labels_of_the_frames_size_come_back_as_they_are():
    """Network input 4x8, frame and labels 8x16: no label is lost on the way."""
    labels = np.random.default_rng(0).integers(0, 19, (8, 16)).astype(np.uint8)
    assert np.array_equal(restore(labels, place((8, 16), (4, 8), "stretch")), labels)
    assert np.array_equal(restore(labels, place((8, 16), (4, 8), "pad")), labels)


def test_larger_labels_of_a_padded_frame():
    """The frame is in columns 2 to 5 of the labels, two labels to a pixel each way: the first."""
    labels = np.arange(32, dtype=np.uint8).reshape(4, 8)
    placement = place((2, 2), (2, 4), "pad")
    assert restore(labels, placement).tolist() == [[2, 4], [18, 20]]
    assert np.array_equal(
        prepare_labels(restore(labels, placement), enlarged(placement, 2)),
        [[255, 255, 2, 2, 4, 4, 255, 255]] * 2 + [[255, 255, 18, 18, 20, 20, 255, 255]] * 2,
    )


def test_larger_labels_of_a_cropped_frame():
    """2x6 frame, 2x2 input: columns 2 and 3 are seen, at two labels each; the rest is IGNORE."""
    labels = np.arange(16, dtype=np.uint8).reshape(4, 4)
    found = restore(labels, place((2, 6), (2, 2), "crop"))
    assert found.tolist() == [[255, 255, 0, 2, 255, 255], [255, 255, 8, 10, 255, 255]]


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("frame", [(36, 48), (61, 83)])
def test_larger_labels_lose_less_of_a_frame(frame, fit):
    """Truth -> labels at the network's size, or twice that -> frame: the larger never is worse."""
    truth = np.random.default_rng(1).integers(0, 9, frame).astype(np.uint8)
    placement = place(frame, (16, 32), fit)
    small = restore(prepare_labels(truth, placement), placement)
    large = restore(prepare_labels(truth, enlarged(placement, 2)), placement)
    assert (large == truth).sum() > (small == truth).sum()
