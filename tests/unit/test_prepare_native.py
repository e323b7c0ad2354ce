"""Frames of cameras -> inputs: what the formats are, and the same bytes from C as from numpy."""

from __future__ import annotations

import ctypes
import re
import threading

import numpy as np
import pytest
from engine_folders import SIZE, TABLE
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeseg import frame as frames
from edgeseg.errors import EngineError, FrameError, UsageError
from edgeseg.frame import FITS, place
from edgeseg.runtime import decode_native, prepare, prepare_native
from edgeseg.runtime.engine_fake import FakeEngine
from edgeseg.runtime.prepare import FORMATS, Preparer, choose, size_of, to_three
from edgeseg.runtime.segmenter import Segmenter

pytestmark = pytest.mark.unit

NATIVE = prepare_native.available()
needs_native = pytest.mark.skipif(not NATIVE, reason="there is no native library here")
FILL = (1, 2, 3)


def noise(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def make(name: str, height: int, width: int, seed: int = 0) -> np.ndarray:
    shapes = {"nv12": (height * 3 // 2, width), "yuyv": (height, width, 2), "grey": (height, width)}
    return noise(shapes.get(name, (height, width, 3)), seed)


def prepared(
    by: str, name: str, frame: np.ndarray, network, fit="pad", order="rgb", threads=1
) -> np.ndarray:
    out = np.full((*network, 3), 77, np.uint8)
    placement = place(size_of(frame, name), network, fit)
    Preparer(name, order, FILL, by, threads=threads)(frame, placement, out)
    return out


@pytest.fixture(autouse=True)
def shared(monkeypatch) -> None:
    """Threads share even the smallest frames."""
    monkeypatch.setattr(prepare, "SHARE", 1)


# The formats, by pencil


@pytest.mark.parametrize(
    ("yuv", "rgb"),
    [
        ((16, 128, 128), (0, 0, 0)),
        ((235, 128, 128), (255, 255, 255)),
        ((126, 128, 128), (128, 128, 128)),  # 110 * 255 / 219 = 128.08
        ((81, 90, 240), (254, 0, 0)),  # red: 65 * 1.1644 + 112 * 1.5960 = 254.4
        ((145, 54, 34), (0, 255, 1)),  # green
        ((41, 240, 110), (0, 0, 255)),  # blue
        ((0, 128, 128), (0, 0, 0)),  # below black
        ((255, 255, 255), (255, 125, 255)),
    ],
)
def test_colours_are_those_of_bt601(yuv, rgb):
    y, u, v = yuv
    nv12 = np.array([[y, y], [y, y], [u, v]], np.uint8)
    assert to_three(nv12, "nv12").tolist() == [[list(rgb)] * 2] * 2
    yuyv = np.array([[[y, u], [y, v]]], np.uint8)
    assert to_three(yuyv, "yuyv").tolist() == [[list(rgb)] * 2]


def test_each_pair_of_pixels_has_its_own_colour():
    """A frame 4x4 in NV12: U and V of the block at row 1, column 1 stand in row 5, at 2 and 3."""
    frame = np.full((6, 4), 128, np.uint8)
    frame[5, 2:] = (240, 110)
    three = to_three(frame, "nv12")
    blue = three[..., 2] > 200
    assert blue.tolist() == [[False] * 4] * 2 + [[False, False, True, True]] * 2
    frame = np.full((1, 4, 2), 128, np.uint8)
    frame[0, 2, 1] = 240
    assert (to_three(frame, "yuyv")[0, :, 2] > 200).tolist() == [False, False, True, True]


def test_grey_is_three_times_the_same():
    assert to_three(np.array([[7, 9]], np.uint8), "grey").tolist() == [[[7] * 3, [9] * 3]]


@pytest.mark.parametrize(
    ("name", "frame", "said"),
    [
        ("nv12", np.zeros((4, 4), np.uint8), r"frame is uint8 of shape \(4, 4\); expected nv12"),
        ("nv12", np.zeros((6, 3), np.uint8), "H and W even"),
        ("nv12", np.zeros((6, 4, 1), np.uint8), "expected nv12"),
        ("yuyv", np.zeros((2, 3, 2), np.uint8), r"expected yuyv, \(H, W, 2\) uint8: .* W even"),
        ("yuyv", np.zeros((2, 4, 3), np.uint8), "expected yuyv"),
        ("grey", np.zeros((2, 4, 3), np.uint8), r"expected grey, \(H, W\) uint8"),
        ("grey", np.zeros((2, 4), np.uint16), "frame is uint16"),
        ("grey", np.zeros((0, 4), np.uint8), "expected grey"),
        ("grey", [[1]], r"frame is a list; expected grey, \(H, W\) uint8"),
        ("rgb", np.zeros((2, 4), np.uint8), r"expected uint8 of shape \(H, W, 3\)"),
    ],
)
def test_a_frame_of_another_format(name, frame, said):
    with pytest.raises(FrameError, match=said):
        size_of(frame, name)


def test_an_unknown_format():
    with pytest.raises(UsageError, match=r"unknown format of frames 'nv21'. Did you mean 'nv12'\?"):
        Preparer("nv21", "rgb", FILL)


# The same bytes


def test_numpy_is_the_specification():
    frame = make("nv12", 8, 6)
    made = prepared("numpy", "nv12", frame, (5, 9), order="bgr")
    placement = place((8, 6), (5, 9), "pad")
    three = to_three(frame, "nv12")
    assert np.array_equal(made, frames.prepare(three, placement, swap=True, fill=FILL))


halves = st.integers(1, 40)


@needs_native
@given(
    st.sampled_from(sorted(FORMATS)), halves, halves, st.integers(1, 90), st.integers(1, 90),
    st.sampled_from(sorted(FITS)), st.sampled_from(["rgb", "bgr"]), st.integers(0, 3),
    st.sampled_from([1, 2, 5]),
)  # fmt: skip
@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_c_gives_the_bytes_of_numpy(name, height, width, h, w, fit, order, odd, threads):
    odd_rows, odd_columns = (0, 0) if name in ("nv12", "yuyv") else divmod(odd, 2)
    frame = make(name, 2 * height - odd_rows, 2 * width - odd_columns, odd)
    wanted = prepared("numpy", name, frame, (h, w), fit, order)
    for by in NATIVE:
        made = prepared(by, name, frame, (h, w), fit, order, threads)
        assert np.array_equal(made, wanted), by


def test_small_frames_are_left_to_one_thread(monkeypatch):
    monkeypatch.setattr(prepare, "SHARE", 1000)
    sizes = {(20, 25): 1, (40, 25): 1, (60, 50): 3, (400, 500): 4}
    for size, threads in sizes.items():
        assert prepare._useful(4, place(size, (1, 1), "stretch")) == threads


@needs_native
@pytest.mark.parametrize("name", sorted(FORMATS))
@pytest.mark.parametrize("value", [0, 255])
def test_extremes_do_not_overflow(name: str, value: int):
    frame = np.full_like(make(name, 64, 48), value)
    for network in ((9, 7), (200, 160)):
        wanted = prepared("numpy", name, frame, network)
        for by in NATIVE:
            assert np.array_equal(prepared(by, name, frame, network), wanted)


VIEWS = {
    "part": lambda a: a[3:-2, 5:-4],
    "every second": lambda a: a[::2, ::2],
    "turned": lambda a: a[::-1, ::-1],
    "mirrored colours": lambda a: a[..., ::-1],
    "lying": lambda a: a.swapaxes(0, 1),
    "of four channels": lambda a: np.dstack([a, a[..., :1]])[..., :3],
    "planes": lambda a: np.ascontiguousarray(a.transpose(2, 0, 1)).transpose(1, 2, 0),
}


@needs_native
@pytest.mark.parametrize("view", VIEWS)
def test_views_are_read_where_they_lie(view: str, monkeypatch):
    seen = VIEWS[view](noise((40, 60, 3)))
    wanted = prepared("numpy", "bgr", seen, (16, 24))
    for by in NATIVE:
        prepared(by, "bgr", seen, (16, 24))  # keeps the taps for the next time
        with monkeypatch.context() as patch:
            patch.setattr(np, "ascontiguousarray", None)
            patch.setattr(np, "array", None)
            made = prepared(by, "bgr", seen, (16, 24))
        assert np.array_equal(made, wanted)


@needs_native
@pytest.mark.parametrize("name", ["nv12", "yuyv", "grey"])
def test_rows_of_other_formats_may_be_padded(name: str):
    whole = make(name, 20, 64)
    view = whole[:, :44]
    for by in NATIVE:
        assert np.array_equal(
            prepared(by, name, view, (16, 24)), prepared("numpy", name, view.copy(), (16, 24))
        )


@needs_native
@pytest.mark.parametrize("name", ["nv12", "yuyv"])
def test_pixels_apart_are_copied_first(name: str):
    view = make(name, 20, 64)[:, ::2]
    for by in NATIVE:
        wanted = prepared("numpy", name, view.copy(), (16, 24))
        assert np.array_equal(prepared(by, name, view, (16, 24)), wanted)


@needs_native
def test_nothing_beside_the_output_is_written():
    for name in FORMATS:
        for by in NATIVE:
            memory = np.full((20, 31, 3), 77, np.uint8)
            out = memory[2:18]
            frame = make(name, 26, 50)
            placement = place((26, 50), (16, 31), "pad")
            Preparer(name, "rgb", FILL, by)(frame, placement, out)
            assert (memory[:2] == 77).all()
            assert (memory[18:] == 77).all()


@needs_native
def test_threads_prepare_side_by_side():
    preparer = Preparer("bgr", "rgb", FILL)
    given_frames = [make("bgr", 50 + i, 70 + i, i) for i in range(6)]
    wanted = [prepared("numpy", "bgr", f, (32, 48)) for f in given_frames]
    wrong: list[int] = []

    def work(i: int) -> None:
        out = np.empty((32, 48, 3), np.uint8)
        for _ in range(50):
            preparer(given_frames[i], place(given_frames[i].shape[:2], (32, 48), "pad"), out)
            if not np.array_equal(out, wanted[i]):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@needs_native
def test_both_sides_agree_about_a_job():
    opened = decode_native.library()
    assert opened is not None
    opened.edgeseg_preparation_size.restype = ctypes.c_int64
    assert opened.edgeseg_preparation_size() == ctypes.sizeof(prepare_native.Preparation)
    source = (decode_native.FOLDER / "prepare_arithmetic.h").read_text()
    for name in ("LUMA", "RED_V", "GREEN_U", "GREEN_V", "BLUE_U"):
        found = re.search(rf"\b{name} = (\d+)", source)
        assert found is not None
        assert int(found[1]) == getattr(prepare, name)


# Which of them


def test_the_fastest_is_taken_and_another_may_be_asked_for(monkeypatch):
    monkeypatch.delenv("EDGESEG_PREPARE", raising=False)
    assert choose() == (NATIVE or ("numpy",))[0]
    assert choose("numpy") == "numpy"
    monkeypatch.setenv("EDGESEG_PREPARE", "numpy")
    assert Preparer("rgb", "rgb", FILL).name == "numpy"
    with pytest.raises(
        EngineError, match=r"preparation by 'mmx' was asked for; this machine has .*numpy"
    ):
        choose("mmx")


def test_without_a_library_numpy_prepares(monkeypatch):
    monkeypatch.delenv("EDGESEG_PREPARE", raising=False)
    assert prepare.describe().startswith(f"preparation: native {NATIVE[0]}" if NATIVE else "prep")
    monkeypatch.setattr(decode_native, "library", lambda: None)
    assert choose() == "numpy"
    assert prepare.describe() == "preparation: numpy, as decode"
    assert (prepare.examine().by, prepare.examine().available) == ("numpy", ())


@needs_native
def test_too_little_memory_is_said(monkeypatch):
    monkeypatch.setattr(prepare_native, "run", lambda *_, **__: 1)
    with pytest.raises(EngineError, match=f"preparation by {NATIVE[0]}: no memory"):
        prepared(NATIVE[0], "rgb", make("rgb", 4, 4), (4, 4))


# A Segmenter


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_a_segmenter_takes_every_format(name: str):
    seen: list[np.ndarray] = []

    def watch(images: np.ndarray) -> np.ndarray:
        seen.append(images.copy())
        return images.argmax(-1).astype(np.uint8)

    opened = Segmenter.of(FakeEngine(answer=watch), TABLE, size=SIZE, frames=name)
    frame = make(name, 6, 10)
    labels = opened.segment(frame)
    assert labels.shape == (6, 10)
    three = to_three(frame, name)[..., :: -1 if name == "bgr" else 1]
    placement = place((6, 10), SIZE, "pad")
    assert np.array_equal(
        seen[0][0], frames.prepare(three, placement, swap=False, fill=opened.input.fill)
    )
    assert opened.prepare_name in ("numpy", *(f"native {by}, 1 thread" for by in NATIVE))


@pytest.mark.parametrize(
    ("name", "order", "size", "lent"),
    [
        ("rgb", "rgb", SIZE, True),
        ("bgr", "bgr", SIZE, True),
        ("bgr", "rgb", SIZE, False),
        ("rgb", "rgb", (9, 16), False),
        ("grey", "rgb", SIZE, False),
    ],
)
def test_a_frame_that_needs_no_preparation_is_not_copied(name, order, size, lent):
    seen: list[np.ndarray] = []

    def watch(images: np.ndarray) -> np.ndarray:
        seen.append(images)
        return np.zeros(images.shape[:3], np.uint8)

    opened = Segmenter.of(FakeEngine(answer=watch), TABLE, size=SIZE, frames=name, order=order)
    for turn in range(3):  # lent or not, the next frame is read too
        frame = make(name, *size, turn)
        opened.segment(frame)
        assert np.shares_memory(seen[-1], frame) == lent
        if size == SIZE:  # no bars, whose colour is the network's own
            wanted = prepared("numpy", name, frame, SIZE, order=order)
            assert np.array_equal(seen[-1][0], wanted)
    part = make("rgb", 20, 40)[2:10, 3:19]
    opened = Segmenter.of(FakeEngine(answer=watch), TABLE, size=SIZE)
    opened.segment(part)
    assert np.array_equal(seen[-1][0], part)
    assert not np.shares_memory(seen[-1], part), "engines take whole blocks"


@needs_native
@given(
    halves, halves, st.integers(1, 90), st.integers(1, 90), st.sampled_from(sorted(FITS)),
    st.sampled_from([1, 2, 8]),
)  # fmt: skip
@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_labels_come_back_as_in_numpy(height, width, h, w, fit, stride):
    placement = place((height, width), (h, w), fit)
    labels = noise((-(-h // stride), -(-w // stride)))
    wanted = frames.restore(labels, placement)
    preparer = Preparer("rgb", "rgb", FILL)
    assert np.array_equal(preparer.restore(labels, placement, None), wanted)
    wide = np.full((height, 2 * width), 77, np.uint8)
    for out in (wide[:, :width], wide[:, ::2]):  # the latter in numpy
        assert preparer.restore(labels[:, ::-1][:, ::-1], placement, out) is out
        assert np.array_equal(out, wanted)


@needs_native
def test_with_out_nothing_of_a_frames_size_is_allocated():
    import tracemalloc

    labels = np.zeros((1, 128, 256), np.uint8)
    engine = FakeEngine(answer=lambda images: labels)
    opened = Segmenter.of(engine, TABLE, size=(128, 256), frames="bgr")
    frame, out = make("bgr", 480, 640), np.empty((480, 640), np.uint8)
    opened.segment(frame, out)
    tracemalloc.start()
    opened.segment(frame, out)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 20_000, "a frame's labels are 307,200 bytes, the network's input 98,304"
