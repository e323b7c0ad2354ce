"""The arithmetic of the CUDA kernels, on the CPU: the bytes of frame.py and of native decode."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from kernels_on_cpu import STRUCTS, kernels, library

from edgeseg.bundle import KernelsRecord, OutputSpec
from edgeseg.frame import place, prepare, taps
from edgeseg.runtime import decode_native, pixel_jobs
from edgeseg.runtime.decode import Decoder
from edgeseg.runtime.decode_native import KINDS, TYPES
from edgeseg.runtime.decode_numpy import AXES, MEASURES
from edgeseg.runtime.pixel_jobs import DECODE, PREPARE, DecodeJob, PrepareJob, why_not
from edgeseg.runtime.prepare import FORMATS as ALL_FORMATS
from edgeseg.runtime.prepare import Preparer
from edgeseg.runtime.prepare_native import FORMATS

pytestmark = pytest.mark.unit

FILL = (7, 8, 9)


def at(array: np.ndarray) -> int:
    return int(array.ctypes.data)


def run(name: str, job: ctypes.Structure, width: int, height: int, frames: int = 1) -> None:
    block = (32, 8, 1)
    grid = (-(-width // block[0]), -(-height // block[1]), frames)
    kernels()[name].run(bytes(job), grid, block)


def test_both_sides_know_the_same_structs():
    for number, name in enumerate((PREPARE, DECODE)):
        assert library().job_size(number) == ctypes.sizeof(STRUCTS[name]) == pixel_jobs.SIZES[name]


def test_both_sides_know_the_same_formats():
    assert set(FORMATS) == set(ALL_FORMATS)


# Frames


def prepared(frame: np.ndarray, form: str, size, network, fit: str, swap: bool) -> np.ndarray:
    """A frame through the kernel; `frame` is contiguous in its last axes alone."""
    where = place(size, network, fit)
    rows = taps(where.source.size[0], where.target.size[0])
    columns = taps(where.source.size[1], where.target.size[1])
    out = np.full((*network, 3), 99, np.uint8)
    job = PrepareJob(
        frame=at(frame), image=at(out), row_first=at(rows.first), column_first=at(columns.first),
        row_weight=at(rows.weights), column_weight=at(columns.weights),
        frame_stride=frame.strides[0], format=FORMATS[form], swap=swap,
        source_top=where.source.top, source_left=where.source.left,
        top=where.target.top, left=where.target.left,
        height=where.target.size[0], width=where.target.size[1],
        network_height=network[0], network_width=network[1],
        row_taps=rows.weights.shape[1], column_taps=columns.weights.shape[1], fill=(*FILL, 0),
    )  # fmt: skip
    if form == "nv12":
        job.chroma, job.chroma_stride = at(frame) + size[0] * frame.strides[0], frame.strides[0]
    run(PREPARE, job, network[1], network[0])
    return out


def three(frame: np.ndarray, form: str) -> np.ndarray:
    """A frame -> (H, W, 3), by BT.601 in 1/8192: 9539 is 255 / 219, 13075 is 1.596."""
    if form in ("rgb", "bgr"):
        return frame
    if form == "grey":
        return np.stack([frame] * 3, -1)
    y, u, v = np.empty((3, *sides(frame, form)), np.int64)
    for (i, j), _ in np.ndenumerate(y):
        if form == "nv12":
            pair = frame[len(y) + i // 2, j // 2 * 2 :]
            y[i, j], u[i, j], v[i, j] = frame[i, j], pair[0], pair[1]
        else:
            y[i, j], (u[i, j], v[i, j]) = frame[i, j, 0], frame[i, j // 2 * 2 :][:2, 1]
    y, u, v = 9539 * (y - 16) + 4096, u - 128, v - 128
    sums = (y + 13075 * v, y - 3209 * u - 6660 * v, y + 16525 * u)
    return (np.stack(sums, -1) >> 13).clip(0, 255).astype(np.uint8)


def sides(frame: np.ndarray, form: str) -> tuple[int, int]:
    return (frame.shape[0] * 2 // 3 if form == "nv12" else frame.shape[0]), frame.shape[1]


def noise(form: str, height: int, width: int, slack: int = 0) -> np.ndarray:
    """A frame whose rows lie `slack` bytes apart."""
    rows = height * 3 // 2 if form == "nv12" else height
    depth = {"rgb": 3, "bgr": 3, "yuyv": 2}.get(form, 1)
    random = np.random.default_rng(height * width)
    bytes_ = random.integers(0, 256, (rows, width * depth + slack)).astype(np.uint8)
    part = bytes_[:, : width * depth]
    if depth == 1:
        return part
    return np.lib.stride_tricks.as_strided(part, (rows, width, depth), (part.strides[0], depth, 1))


@pytest.mark.parametrize("fit", ["pad", "crop", "stretch"])
@pytest.mark.parametrize("size", [(10, 14), (33, 20), (64, 32), (4, 6), (37, 90)])
@pytest.mark.parametrize("form", ["rgb", "bgr", "nv12", "yuyv", "grey"])
def test_a_frame_is_prepared_as_on_the_cpu(form, size, fit):
    if form in ("nv12", "yuyv"):
        size = (size[0] // 2 * 2, size[1] // 2 * 2)
    frame, network = noise(form, *size, slack=5), (16, 32)
    for swap in (False, True):
        made = prepared(frame, form, size, network, fit, swap)
        where = place(size, network, fit)
        right = prepare(three(frame, form), where, swap=swap, fill=FILL)
        assert np.array_equal(made, right)
        order = "bgr" if swap != (form == "bgr") else "rgb"
        Preparer(form, order, FILL)(frame, where, right)  # natively, where there is a compiler
        assert np.array_equal(made, right)


def test_colours_by_hand():
    """Black, white, and the red of BT.601: Y 81, U 90, V 240."""
    frame = np.array([[16, 235], [16, 235], [128, 128]], np.uint8)
    made = prepared(frame, "nv12", (2, 2), (2, 2), "pad", False)
    assert made[0].tolist() == [[0, 0, 0], [255, 255, 255]]
    red = np.array([[81, 81], [81, 81], [90, 240]], np.uint8)
    assert prepared(red, "nv12", (2, 2), (2, 2), "pad", False)[0, 0].tolist() == [254, 0, 0]
    assert prepared(red, "nv12", (2, 2), (2, 2), "pad", True)[1, 1].tolist() == [0, 0, 254]
    pair = np.array([[[81, 90], [16, 240]]], np.uint8)
    assert prepared(pair, "yuyv", (1, 2), (1, 2), "pad", False)[0, 0].tolist() == [254, 0, 0]


def test_halving_is_the_mean_of_four():
    frame = np.array([[0, 1, 10, 20], [2, 4, 30, 41]], np.uint8)
    made = prepared(frame, "grey", (2, 4), (1, 2), "pad", False)
    assert made[0, :, 0].tolist() == [2, 25]  # 1.75 and 25.25


# Labels


def decoded(scores, spec, weight=None, bias=None, where=None, measure=None):
    """Scores through the kernel."""
    kept = [scores := np.ascontiguousarray(scores)]
    frames, channels, height, width = scores.shape
    kind, r = str(spec.decode), spec.factor
    job = DecodeJob(
        scores=at(scores), channels=channels, height=height, width=width, classes=channels,
        factor=r, kind=KINDS[kind], type=TYPES[scores.dtype],
    )  # fmt: skip
    if weight is not None:
        planes = np.ascontiguousarray(weight.transpose(2, 3, 0, 1))
        kept += [planes, bias]
        job.weight, job.bias, job.classes = at(planes), at(bias), len(bias)
    elif kind == "pixel_shuffle":
        job.classes = channels // r**2
    else:
        for name, side in (("row", height), ("column", width)):
            axis = AXES[kind](side, r)
            low, share = axis.low.astype(np.int32), axis.share.astype(np.float32)
            kept += [low, share]
            setattr(job, f"{name}_low", at(low))
            setattr(job, f"{name}_share", at(share))
    size = height * r, width * r
    if where is not None:
        indexes = [index.astype(np.int32) for index in where]
        kept += indexes
        (job.rows, job.columns), size = map(at, indexes), (len(where[0]), len(where[1]))
    labels = np.full((frames, *size), 99, np.uint8)
    job.labels, (job.out_height, job.out_width) = at(labels), size
    sure = np.full_like(labels, 99) if measure else None
    if sure is not None:
        job.confidence, job.measure = at(sure), MEASURES.index(measure)
    run(DECODE, job, size[1], size[0], frames)
    return labels, sure


def case(kind: str, seed: int, flavour: str = "noise"):
    """(spec, weight, bias), scores (2, channels, 5, 7)."""
    random = np.random.default_rng(seed)
    r = int(random.choice([1, 2, 4, 8]))
    classes = int(random.choice([2, 3, 11, 19, 40]))
    r = min(r, 3) if kind == "pixel_shuffle" else r
    channels = classes * r**2 if kind == "pixel_shuffle" else classes
    weight = bias = None
    if kind in ("deconvolution", "dupsample"):
        r, channels = 2, int(random.integers(1, 30))
        weight = random.normal(size=(channels, classes, r, r)).astype(np.float32)
        bias = random.normal(size=classes).astype(np.float32)
    scores = random.normal(scale=4, size=(2, channels, 5, 7))
    if flavour == "whole":
        scores = np.round(scores)
    if flavour == "odd":
        for value in (np.nan, np.inf, -np.inf):
            scores[random.random(scores.shape) < 0.03] = value
    return (OutputSpec("scores", r, kind, r), weight, bias), scores.astype(np.float32)


ALL = ("bilinear", "bilinear_corners", "deconvolution", "dupsample", "pixel_shuffle")


@pytest.mark.parametrize("by", ["native", "numpy"])
@pytest.mark.parametrize("flavour", ["noise", "whole", "odd"])
@pytest.mark.parametrize("kind", ALL)
def test_labels_and_confidence_are_those_of_the_cpu(kind, flavour, by):
    if by == "native" and not decode_native.available():
        pytest.skip("decode.c was not compiled: there was no C compiler")
    for seed in range(6):
        (spec, weight, bias), scores = case(kind, seed, flavour)
        decoder = Decoder(spec, weight, bias, by=None if by == "native" else "numpy")
        labels, sure = decoded(scores, spec, weight, bias, measure=MEASURES[seed % 2])
        right, likewise = decoder.with_confidence(scores, MEASURES[seed % 2])
        if by == "native":  # sums in one order, so every bit
            assert np.array_equal(labels, right)
            assert np.array_equal(sure, likewise)
        else:
            assert (labels == right).mean() > (0.999 if weight is not None else 1 - 1e-9)
            assert (np.abs(sure.astype(int) - likewise) <= 1)[labels == right].all()


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "int8"])
def test_scores_of_every_type(kind):
    (spec, _, _), scores = case("bilinear", 1)
    if kind == "bfloat16":
        scores = (scores.view(np.uint32) >> 16).astype(np.uint16)
    else:
        scores = scores.astype(kind)
    assert np.array_equal(decoded(scores, spec)[0], Decoder(spec)(scores))


def test_half_numbers_of_every_kind():
    """All 65536 of them, the denormal ones and NaN too: against numpy's, by two classes."""
    bits = np.arange(1 << 16, dtype=np.uint16).view(np.float16).reshape(1, 1, 256, 256)
    scores = np.concatenate([np.full_like(bits, 0.1), bits], 1)
    labels, _ = decoded(scores, OutputSpec("scores", 1, "pixel_shuffle", 1))
    assert np.array_equal(labels[0], bits[0, 0] > np.float16(0.1))


def test_only_the_labels_that_are_wanted():
    (spec, _, _), scores = case("bilinear", 3)
    full = Decoder(spec)(scores)
    where = np.array([0, 0, 3, 4]), np.array([5, 1, 1])
    labels, _ = decoded(scores, spec, where=where)
    assert np.array_equal(labels, full[:, where[0]][:, :, where[1]])


def test_by_hand():
    """Two classes that cross in the middle between two cells: pixels at 1/8, 3/8, 5/8, 7/8."""
    scores = np.array([[[[1.0, 0.0]], [[0.0, 1.0]]]], np.float32)
    labels, _ = decoded(scores, OutputSpec("scores", 4, "bilinear", 4))
    assert labels[0, 0].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    one = np.array([[[[0.0]], [[np.log(3.0)]]]], np.float32)
    spec = OutputSpec("scores", 1, "pixel_shuffle", 1)
    assert decoded(one, spec, measure="softmax")[1].item() == 191  # 255 * 3/4 = 191.25
    assert decoded(one, spec, measure="margin")[1].item() == 128  # 255 * (3/4 - 1/4) = 127.5


def test_the_networks_own_labels_are_taken():
    labels = np.arange(12, dtype=np.uint8).reshape(1, 3, 4)
    rows, columns = np.array([0, 2], np.int32), np.array([3, 3, 0], np.int32)
    out = np.empty((2, 3), np.uint8)
    job = DecodeJob(
        scores=at(labels), height=3, width=4, kind=pixel_jobs.LABELS, labels=at(out),
        rows=at(rows), columns=at(columns), out_height=2, out_width=3,
    )  # fmt: skip
    run(DECODE, job, 3, 2)
    assert out.tolist() == [[3, 3, 0], [11, 11, 8]]


# Which kernels a folder has


def record(**changes) -> KernelsRecord:
    made = KernelsRecord("pixels-1.cubin", "8.7", "nvcc 12.6.68", pixel_jobs.source_hash())
    return KernelsRecord(**{**made.__dict__, **changes})


@pytest.mark.parametrize(
    ("made", "capability", "said"),
    [
        (record(), "8.7", ""),
        (record(), "8.9", ""),
        (record(), "8.6", "for compute capability 8.7, and this GPU has 8.6; 'edgeseg build'"),
        (record(), "11.0", "for compute capability 8.7, and this GPU has 11.0; 'edgeseg build'"),
        (record(source_sha256="0"), "8.7", "the folder's kernels are those of another edgeseg; "),
        (record(file=None, why="there was no nvcc"), "8.7", "there was no nvcc"),
        (None, "8.7", "the folder has no kernels; 'edgeseg build' compiles them here"),
    ],
)
def test_kernels_that_do_not_fit_are_not_used(made, capability, said):
    assert (said in why_not(made, capability)) if said else why_not(made, capability) == ""
