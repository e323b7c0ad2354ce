"""decode.c against decode_numpy.py, for every instruction set that this machine has."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeseg.bundle import OutputSpec
from edgeseg.errors import EngineError, UsageError
from edgeseg.runtime import decode, decode_native, decode_numpy
from edgeseg.runtime.decode import Decoder
from edgeseg.runtime.decode_native import ISAS, units

pytestmark = pytest.mark.unit

if not decode_native.available():
    pytest.skip("decode.c was not compiled: there was no C compiler", allow_module_level=True)

HERE = decode_native.available()
KINDS = ("bilinear", "bilinear_corners", "pixel_shuffle", "deconvolution")
FLAVOURS = ("noise", "whole", "patches", "odd", "huge", "tiny")
TYPES = ("float32", "float16", "bfloat16", "int8")


def make(random: np.random.Generator, shape: tuple[int, ...], flavour: str) -> np.ndarray:
    """float32 scores: noise; whole numbers (ties); patches (settled cells, and nearly equal
    classes); with NaN and infinities; near overflow and among denormal numbers."""
    scores = random.normal(scale=5, size=shape)
    if flavour == "whole":
        scores = np.round(scores)
    elif flavour == "patches":
        scores = scores[:, :, ::6, ::6].repeat(6, 2).repeat(6, 3)[:, :, : shape[2], : shape[3]]
        scores = scores + random.normal(size=shape) * random.choice([0, 1e-7, 1e-3])
    elif flavour == "odd":
        for value in (np.nan, np.inf, -np.inf):
            scores[random.random(shape) < 0.02] = value
    elif flavour in ("huge", "tiny"):
        scores *= {"huge": 2e37, "tiny": 1e-40}[flavour]
    with np.errstate(over="ignore"):
        return scores.astype(np.float32)


def cast(scores: np.ndarray, kind: str) -> np.ndarray:
    with np.errstate(all="ignore"):
        if kind == "bfloat16":
            return (scores.view(np.uint32) >> 16).astype(np.uint16)
        if kind == "int8":
            return np.nan_to_num(scores).clip(-128, 127).astype(np.int8)
        return scores.astype(kind)


@st.composite
def cases(draw):
    """A decoder's arguments, its scores, and how the output is taken from the labels."""
    kind, r = draw(st.sampled_from(KINDS)), draw(st.sampled_from([1, 2, 3, 4, 5, 8]))
    random = np.random.default_rng(draw(st.integers(0, 9999)))
    n, h, w = draw(st.integers(1, 2)), draw(st.integers(1, 9)), draw(st.integers(1, 50))
    classes = draw(st.sampled_from([2, 3, 11, 19, 20, 33, 256]))
    if kind == "pixel_shuffle":
        r = min(r, 3)
    channels = {"pixel_shuffle": classes * r * r, "deconvolution": draw(st.integers(1, 40))}
    scores = make(random, (n, channels.get(kind, classes), h, w), draw(st.sampled_from(FLAVOURS)))
    scores = cast(scores, draw(st.sampled_from(TYPES)))
    if draw(st.booleans()):  # channels last, and not in one piece
        scores = np.ascontiguousarray(scores.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    weight = bias = nearest = None
    if kind == "deconvolution":
        weight = random.normal(size=(scores.shape[1], classes, r, r)).astype(np.float32)
        bias = random.normal(size=classes).astype(np.float32)
    if draw(st.booleans()):
        nearest = (
            np.sort(random.integers(0, h * r, random.integers(1, 3 * h * r))),
            random.integers(0, w * r, random.integers(1, 3 * w * r)),
        )
    return (OutputSpec("scores", r, kind, r), weight, bias), scores, nearest


@given(cases(), st.integers(1, 5))
@settings(max_examples=150)
def test_labels_are_those_of_numpy(case, threads: int):
    """Bit by bit; of a deconvolution, whose sums numpy orders otherwise, see below."""
    layer, scores, nearest = case
    found = [Decoder(*layer, by=isa, threads=threads)(scores, nearest=nearest) for isa in HERE]
    for other in found[1:]:
        assert np.array_equal(found[0], other)
    if layer[1] is None:
        expected = Decoder(*layer, by="numpy")(scores, nearest=nearest)
        assert np.array_equal(found[0], expected)


@given(cases(), st.sampled_from(decode_numpy.MEASURES))
@settings(max_examples=40)
def test_confidence_is_that_of_numpy(case, measure: str):
    """Alike on every instruction set; one step of 255 from numpy's at most."""
    layer, scores, nearest = case
    found = [Decoder(*layer, by=isa).with_confidence(scores, measure, nearest) for isa in HERE]
    for labels, confidence in found[1:]:
        assert np.array_equal(found[0][0], labels)
        assert np.array_equal(found[0][1], confidence)
    if layer[1] is None:
        labels, confidence = Decoder(*layer, by="numpy").with_confidence(scores, measure, nearest)
        assert np.array_equal(found[0][0], labels)
        assert np.abs(found[0][1].astype(int) - confidence).max() <= 1


@given(st.integers(1, 40), st.integers(2, 40), st.integers(1, 8), st.integers(0, 999))
@settings(max_examples=40)
def test_sums_of_whole_numbers_are_exact(channels: int, classes: int, r: int, seed: int):
    random = np.random.default_rng(seed)
    scores = random.integers(-9, 9, (1, channels, 5, 37)).astype(np.float32)
    weight = random.integers(-9, 9, (channels, classes, r, r)).astype(np.float32)
    bias = random.integers(-9, 9, classes).astype(np.float32)
    layer = (OutputSpec("scores", r, "dupsample", r), weight, bias)
    expected = Decoder(*layer, by="numpy")(scores)
    for isa in HERE:
        assert np.array_equal(Decoder(*layer, by=isa)(scores), expected)


@pytest.mark.parametrize("isa", HERE)
def test_the_winner_of_a_deconvolution_wins_or_ties(isa: str):
    """Against float64: what is chosen is at most a rounding of 40 steps below the best."""
    random = np.random.default_rng(5)
    scores = random.normal(size=(1, 40, 16, 70)).astype(np.float32)
    weight = random.normal(size=(40, 19, 2, 2)).astype(np.float32)
    bias = random.normal(size=19).astype(np.float32)
    full = np.einsum("nchw,ckij->nkhiwj", scores, weight, dtype=np.float64)
    full = full.reshape(1, 19, 32, 140) + bias[:, None, None].astype(np.float64)
    labels = Decoder(OutputSpec("scores", 2, "deconvolution", 2), weight, bias, by=isa)(scores)
    chosen = np.take_along_axis(full, labels[:, None].astype(np.intp), 1)[:, 0]
    assert (full.max(1) - chosen).max() <= 40 * np.abs(full).max() * 2.0**-23
    assert (labels != full.argmax(1)).sum() <= 2


# By pencil


@pytest.mark.parametrize("by", [*HERE, "numpy"])
def test_by_pencil(by: str):
    """Class 0 falls 4 -> 0, class 1 rises 1 -> 3; x2 puts centres at 0, 0.25, 0.75 and 1."""
    low = np.array([[[[4, 0]], [[1, 3]]]], np.float32)
    half = Decoder(OutputSpec("scores", 2, "bilinear", 2), by=by)
    assert half(low)[0].tolist() == [[0, 0, 1, 1]] * 2
    shuffle = Decoder(OutputSpec("scores", 2, "pixel_shuffle", 2), by=by)
    low = np.array([1, 2, 3, 4, 4, 1, 3, 5], np.float32).reshape(1, 8, 1, 1)
    assert shuffle(low)[0].tolist() == [[1, 0], [0, 1]]  # 3 against 3: the first


@pytest.mark.parametrize("by", [*HERE, "numpy"])
def test_nan_counts_as_minus_infinity(by: str):
    nan, inf = np.nan, np.inf
    #           pixel:  0    1     2     3     4     5
    low = np.array([[nan, nan, -inf, -inf, 1.0, inf],
                    [1.0, nan, nan, -9.0, nan, inf],
                    [2.0, nan, -inf, nan, 1.0, nan]], np.float32)  # fmt: skip
    decoder = Decoder(OutputSpec("scores", 1, "pixel_shuffle", 1), by=by)
    assert decoder(low[None, :, None])[0, 0].tolist() == [2, 0, 0, 1, 0, 0]


@pytest.mark.parametrize("by", [*HERE, "numpy"])
def test_confidence_by_pencil(by: str):
    """Scores ln 3 and 0: softmax 3/4 and 1/4; 191.25 and 127.5 of 255. Equal scores: a half, 0."""
    low = np.log(np.array([[[[3, 1, 0.0]], [[1, 1, 0.0]]]]), where=np.array([[[[1, 1, 0]]]]) > 0,
                 out=np.full((1, 2, 1, 3), -np.inf)).astype(np.float32)  # fmt: skip
    decoder = Decoder(OutputSpec("scores", 1, "pixel_shuffle", 1), by=by)
    labels, softmax = decoder.with_confidence(low, "softmax")
    assert labels[0, 0].tolist() == [0, 0, 0]
    assert softmax[0, 0].tolist() == [191, 128, 0]
    margin = decoder.with_confidence(low, "margin")[1][0, 0].tolist()
    assert margin[0] in (127, 128)
    assert margin[1:] == [0, 0]


def test_units_by_pencil():
    """x4 of 2 cells: positions -3/8, -1/8, 1/8, ... 9/8, clamped: 0 twice, four in between, 1."""
    found = units("bilinear", 2, 4)
    assert (found.low.tolist(), found.start.tolist()) == ([0, 0, 1], [0, 2, 6, 8])
    assert found.share.tolist() == [0, 0, 0.125, 0.375, 0.625, 0.875, 0, 0]
    assert (found.longest, found.alike) == (4, range(1, 2))
    found = units("bilinear_corners", 2, 4)  # positions i / 7: seven pixels in the first cell
    assert (found.low.tolist(), found.start.tolist()) == ([0, 0, 1], [0, 2, 7, 8])


@given(st.sampled_from(["bilinear", "bilinear_corners"]), st.integers(1, 40), st.integers(1, 9))
def test_units_cover_their_axis(kind: str, cells: int, factor: int):
    found, axis = units(kind, cells, factor), decode_numpy.AXES[kind](cells, factor)
    lengths = np.diff(found.start)
    assert lengths.min() >= 1
    assert lengths.max() <= found.longest
    assert np.array_equal(np.repeat(found.low, lengths), axis.low)
    alike = [found.share[found.start[u] : found.start[u + 1]].tolist() for u in found.alike]
    assert all(shares == alike[0] and len(shares) == found.longest for shares in alike)


# The door


def test_a_settled_scene_is_not_looked_at_pixel_by_pixel():
    """Two thirds of the row lie between equal cells; the labels are numpy's all the same."""
    low = np.full((1, 19, 4, 48), -1, np.float32)
    low[0, 3, :, :16], low[0, 7, :, 16:] = 1, 2
    for isa in HERE:
        labels = Decoder(OutputSpec("scores", 8, "bilinear", 8), by=isa)(low)
        assert np.unique(labels).tolist() == [3, 7]
        assert np.array_equal(labels, decode_numpy.bilinear(low, 8)[0])


@pytest.mark.parametrize("factor", [3, 5, 8])
def test_classes_that_rounding_makes_equal(factor: int):
    """Class 1 leads by one bit everywhere; where rounding takes it away, class 0 is the first."""
    low = np.random.default_rng(0).normal(size=(1, 1, 9, 50)).astype(np.float32)
    scores = np.concatenate([low, np.nextafter(low, np.float32(9))], 1)
    expected = decode_numpy.bilinear(scores, factor)[0]
    assert 0 < expected.mean() < 1
    for isa in HERE:
        labels = Decoder(OutputSpec("scores", factor, "bilinear", factor), by=isa)(scores)
        assert np.array_equal(labels, expected)


@pytest.mark.parametrize("isa", HERE)
def test_a_class_with_infinity_does_not_hide_others(isa: str):
    """Class 0 is 9 but for one infinite corner, which makes NaN of its row and column."""
    low = np.full((1, 3, 3, 40), 1, np.float32)
    low[0, 0], low[0, 2, :, ::2] = 9, 2
    low[0, 0, 1, ::5] = np.inf
    expected = decode_numpy.bilinear(low, 3)[0]
    assert set(np.unique(expected)) == {0, 1, 2}
    labels = Decoder(OutputSpec("scores", 3, "bilinear", 3), by=isa)(low)
    assert np.array_equal(labels, expected)


def test_out_is_written_wherever_it_lies():
    low = make(np.random.default_rng(0), (1, 5, 6, 7), "noise")
    decoder = Decoder(OutputSpec("scores", 3, "bilinear", 3))
    expected = decoder(low)
    whole = np.full((1, 20, 30), 77, np.uint8)
    assert decoder(low, whole[:, 1:19, 4:25]).base is whole
    assert np.array_equal(whole[:, 1:19, 4:25], expected)
    whole[:, 1:19, 4:25] = 77
    assert (whole == 77).all()
    turned = np.zeros((1, 21, 18), np.uint8).transpose(0, 2, 1)
    assert np.array_equal(decoder(low, turned), expected)
    assert np.array_equal(turned, expected)


def test_scores_may_lie_anyhow():
    """Backwards, every second, and at an odd address."""
    low = make(np.random.default_rng(1), (1, 4, 10, 40), "noise")
    decoder = Decoder(OutputSpec("scores", 2, "bilinear", 2))
    for view in (low[:, ::-1, ::-1], low[:, :, ::2, ::2]):
        assert np.array_equal(decoder(view), decoder(view.copy()))
    shifted = np.zeros(low.nbytes + 1, np.uint8)[1:].view(np.float32).reshape(low.shape)
    shifted[...] = low
    assert np.array_equal(decoder(shifted), decoder(low))


def test_names_say_what_ran():
    spec = OutputSpec("scores", 2, "bilinear", 2)
    assert Decoder(spec, by="c", threads=1).name == "native c, 1 thread"
    assert Decoder(spec, by="c", threads=3).name == "native c, 3 threads"
    assert Decoder(spec, by="numpy", threads=3).name == "numpy"
    assert set(HERE) <= set(ISAS)


def test_the_environment_chooses(monkeypatch):
    monkeypatch.setenv("EDGESEG_DECODE", "numpy")
    assert decode_native.choose() == "numpy"
    monkeypatch.setenv("EDGESEG_DECODE", "c")
    assert decode_native.choose() == "c"
    assert decode_native.choose("numpy") == "numpy"
    monkeypatch.setenv("EDGESEG_DECODE", "abacus")
    with pytest.raises(EngineError, match=r"by 'abacus' was asked for; this machine has .*numpy"):
        decode_native.choose()
    monkeypatch.delenv("EDGESEG_DECODE")
    assert decode_native.choose() == HERE[0]


@pytest.fixture
def other_library(tmp_path: Path, monkeypatch):
    """The library is looked for in tmp_path."""
    path = tmp_path / "decode.so"
    monkeypatch.setattr(decode_native, "library_path", lambda: path)
    decode_native.library.cache_clear()
    yield path
    decode_native.library.cache_clear()


def test_without_a_library_numpy_decodes_and_says_so(other_library: Path):
    assert decode_native.available() == ()
    decoder = Decoder(OutputSpec("scores", 2, "bilinear", 2))
    assert decoder.name == "numpy"
    assert decode_native.examine().by == "numpy"
    assert decode.describe() == (
        "decode: numpy: edgeseg was installed without a C compiler, so decode takes 10 to 100 "
        "times as long\n  -> install one, such as gcc, and then edgeseg again "
        "(EDGESEG_NATIVE=require tells what is wrong)"
    )
    with pytest.raises(EngineError, match="by 'avx2' was asked for; this machine has numpy"):
        decode_native.choose("avx2")


def test_a_library_that_does_not_load_is_an_error(other_library: Path, monkeypatch):
    other_library.write_bytes(b"not a library")
    spec = OutputSpec("scores", 2, "bilinear", 2)
    with pytest.raises(EngineError, match=r"can't be loaded \(.*EDGESEG_DECODE=numpy decodes in"):
        Decoder(spec)
    assert decode.describe().startswith(f"decode: broken: {other_library} can't be loaded")
    monkeypatch.setenv("EDGESEG_DECODE", "numpy")
    assert Decoder(spec).name == "numpy"


def test_a_library_of_another_source_is_an_error(other_library: Path, monkeypatch):
    built = sorted(decode_native.FOLDER.glob("decode.*.so"))
    other_library.write_bytes(built[0].read_bytes())
    assert decode_native.available() == HERE
    decode_native.library.cache_clear()
    monkeypatch.setattr(decode_native, "source_hash", lambda: "other")
    with pytest.raises(EngineError, match=r"compiled from another decode\.c; run 'python hatch"):
        decode_native.available()


def test_the_structure_is_that_of_c():
    """Pointers, strides, numbers: as many bytes as the compiler lays out."""
    expected = 8 * (len(decode_native._POINTERS) + len(decode_native._STRIDES))
    expected += 4 * len(decode_native._NUMBERS)
    assert ctypes.sizeof(decode_native.Job) == -(-expected // 8) * 8
    library = decode_native.library()
    assert library is not None
    assert library.edgeseg_job_size() == ctypes.sizeof(decode_native.Job)


def test_an_instruction_set_that_is_not_here(monkeypatch):
    foreign = next(isa for isa in ("neon", "avx2") if isa not in HERE)
    decoder = Decoder(OutputSpec("scores", 2, "bilinear", 2))
    decoder.by = foreign
    with pytest.raises(EngineError, match=f"decode by {foreign} failed: this processor lacks"):
        decoder(np.zeros((1, 2, 2, 2), np.float32))


# What is refused


def test_scores_that_are_refused():
    spec = OutputSpec("scores", 2, "bilinear", 2)
    with pytest.raises(EngineError, match="scores are float64; expected float32, float16, int8"):
        Decoder(spec)(np.zeros((1, 2, 2, 2)))
    with pytest.raises(EngineError, match=r"of shape \(2, 2, 2\); expected \(N, C, h, w\)"):
        Decoder(spec)(np.zeros((2, 2, 2), np.float32))
    with pytest.raises(EngineError, match="300 classes; uint8 labels hold 256"):
        Decoder(spec)(np.zeros((1, 300, 2, 2), np.float32))
    with pytest.raises(EngineError, match="5 channels; pixel shuffle x2 takes a multiple of 4"):
        Decoder(OutputSpec("scores", 2, "pixel_shuffle", 2))(np.zeros((1, 5, 2, 2), np.float32))


def test_weights_that_are_refused():
    spec, scores = OutputSpec("scores", 2, "deconvolution", 2), np.zeros((1, 4, 2, 2), np.float32)
    weight, bias = np.zeros((3, 5, 2, 2), np.float32), np.zeros(5, np.float32)
    with pytest.raises(EngineError, match="4 channels; the weight of decode 'deconvolution' takes"):
        Decoder(spec, weight, bias)(scores)
    with pytest.raises(EngineError, match=r"bias of \(4,\); decode 'deconvolution' expects \(C, c"):
        Decoder(spec, weight, bias[:4])


def test_outputs_that_are_refused():
    decoder = Decoder(OutputSpec("scores", 2, "bilinear", 2))
    scores = np.zeros((1, 2, 2, 2), np.float32)
    with pytest.raises(UsageError, match=r"out is float32 of shape \(1, 4, 4\); expected uint8 of"):
        decoder(scores, np.zeros((1, 4, 4), np.float32))
    for rows in ([0, 4], [-1, 0], []):
        with pytest.raises(UsageError, match="nearest has indexes outside of 4x4 labels"):
            decoder(scores, nearest=(np.array(rows, np.int32), np.arange(4)))
    with pytest.raises(UsageError, match="nearest has rows out of order"):
        decoder(scores, nearest=(np.array([1, 0]), np.arange(4)))
    with pytest.raises(UsageError, match="unknown confidence 'entropy'"):
        decoder.with_confidence(scores, "entropy")
