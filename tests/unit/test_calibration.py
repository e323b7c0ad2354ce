"""Ranges by pencil: the histogram, the calibrators, the range table."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math

import numpy as np
import onnx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from edgeseg.bundle import InputSpec
from edgeseg.calibration.calibrators import (
    LEVELS,
    METHODS,
    entropy,
    method,
    minmax,
    mse,
    percentile,
)
from edgeseg.calibration.histogram import BINS, Histogram
from edgeseg.calibration.ranges import (
    FramesDigest,
    RangeTable,
    network_sha256,
    preprocessing_sha256,
    read_table,
    write_table,
)
from edgeseg.errors import BundleError, UsageError

pytestmark = pytest.mark.unit


def counted(*arrays: np.ndarray | list[float]) -> Histogram:
    histogram = Histogram()
    for array in arrays:
        histogram.add(np.asarray(array, np.float32))
    return histogram


def same(a: Histogram, b: Histogram) -> bool:
    return (
        np.array_equal(a.counts, b.counts)
        and (a.exponent, a.low, a.high) == (b.exponent, b.low, b.high)
    )  # fmt: skip


# Magnitudes between 2**-60 and 2**60, and zero: what a network's tensors hold.
NUMBERS = st.floats(-(2.0**60), 2.0**60, width=32, allow_subnormal=False).filter(
    lambda v: v == 0 or abs(v) > 2.0**-60
)


# Histogram


def test_bins_are_equal_and_aligned_at_zero():
    """Values in [-1, 1): the exponent is 0, a bin is 1/2048 wide, bin 2048 begins at 0."""
    histogram = counted([0.0, 0.5 / 2048, 1 / 2048, -0.5 / 2048, 0.9999])
    assert histogram.exponent == 0
    places = dict(zip(*np.unique(np.repeat(np.arange(2 * BINS), histogram.counts),
                                 return_counts=True), strict=True))  # fmt: skip
    assert places == {2048: 2, 2049: 1, 2047: 1, 4095: 1}
    assert (histogram.low, histogram.high) == (np.float32(-0.5 / 2048), np.float32(0.9999))


def test_a_power_of_two_needs_the_next_exponent():
    assert counted([1.0]).exponent == 1
    assert counted([np.nextafter(np.float32(1), np.float32(0))]).exponent == 0
    assert counted([-2.0]).exponent == 2


def test_growth_merges_neighbours():
    """Bins 0 and 1 become bin 0, bins -1 and -2 bin -1; then 3.0 is at 3 / (4 / 2048)."""
    small = [0.5 / 2048, 1.5 / 2048, 2.5 / 2048, -0.5 / 2048, -1.5 / 2048, 0.75]
    histogram = counted(small)
    assert histogram.counts[2048:2051].tolist() == [1, 1, 1]
    histogram.add(np.array([3.0], np.float32))
    assert histogram.exponent == 2
    assert histogram.counts.sum() == 7
    assert histogram.counts[2047] == 2
    assert histogram.counts[2048] == 3
    assert histogram.counts[2048 + 384] == 1  # 0.75 / (4 / 2048)
    assert histogram.counts[2048 + 1536] == 1


@given(st.lists(NUMBERS, min_size=1, max_size=40), st.data())
@example([3.9998 / 2048, 1.5], None)  # rounding up before merging would move it by a bin
def test_order_and_batches_do_not_matter(values, data):
    together = counted(values)
    if data is None:
        other = counted(*([v] for v in values)), counted(*([v] for v in reversed(values)))
    else:
        shuffled = data.draw(st.permutations(values))
        cut = data.draw(st.integers(0, len(values)))
        other = counted(shuffled[:cut], shuffled[cut:]), counted(*([v] for v in shuffled))
    assert together.counts.sum() == len(values)
    assert same(together, other[0])
    assert same(together, other[1])


@given(st.lists(NUMBERS, min_size=1, max_size=20))
def test_each_value_lies_in_its_bin(values):
    histogram = counted(values)
    width = 2.0**histogram.exponent / BINS
    expected = np.zeros(2 * BINS, int)
    for value in np.asarray(values, np.float32):
        expected[BINS + math.floor(float(value) / width)] += 1
    assert np.array_equal(histogram.counts, expected)


def test_memory_does_not_grow():
    histogram = Histogram()
    generator = np.random.default_rng(0)
    sizes = set()
    for i in range(30):
        histogram.add(generator.normal(size=1000).astype(np.float32) * 2.0**i)
        sizes.add(sum(v.nbytes for v in vars(histogram).values() if isinstance(v, np.ndarray)))
    assert sizes == {2 * BINS * 8}
    assert histogram.counts.sum() == 30_000


def test_shape_and_emptiness():
    flat = np.linspace(-3, 3, 24, dtype=np.float32)
    assert same(counted(flat), counted(flat.reshape(2, 3, 4), np.empty((0, 4))))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_refused_and_not_counted(bad):
    histogram = counted([1.0])
    with pytest.raises(ValueError, match=r"^holds nan or infinity$"):
        histogram.add(np.array([0.5, bad], np.float32))
    assert same(histogram, counted([1.0]))


def test_magnitudes_fold_the_sides():
    centres, counts = counted([0.25, -0.25 - 0.1 / 2048, 0.75]).magnitudes()
    assert centres[0] == 0.5 / 2048
    assert centres[512] == 512.5 / 2048
    assert counts[512] == 2
    assert counts[1536] == 1
    assert counts.sum() == 3


# Calibrators


RANDOM = np.random.default_rng(0)
# fmt: off
SAMPLES = [
    [0.0], [3.0], [-0.7], [1.0, -1.0], [1e-6, 1.0], [-1e-9, -5e5], [0.1, 0.2, -0.3, 0.9],
    [2.0**-12, 2.0**12], RANDOM.normal(size=2000), RANDOM.laplace(size=50) * 1e-3,
    RANDOM.standard_t(2, 3000), np.maximum(RANDOM.normal(size=999), 0), RANDOM.uniform(0, 6, 400),
]
# fmt: on


class CalibratorContract:
    """Tests that each row of METHODS inherits."""

    name: str

    @pytest.fixture
    def calibrator(self):
        return method(self.name)

    @pytest.mark.parametrize("values", SAMPLES)
    def test_between_zero_and_the_largest_magnitude(self, calibrator, values):
        top = float(np.abs(np.asarray(values, np.float32)).max())
        result = calibrator(counted(values))
        assert isinstance(result, float)
        assert 0 <= result <= top
        assert (result > 0) == (top > 0)

    @pytest.mark.parametrize("values", SAMPLES)
    @pytest.mark.parametrize("power", [-9, -1, 1, 20])
    def test_twice_the_values_twice_the_range(self, calibrator, values, power):
        values = np.asarray(values, np.float32)
        scaled = calibrator(counted(values * np.float32(2.0**power)))
        assert scaled == 2.0**power * calibrator(counted(values))

    def test_the_same_again(self, calibrator):
        values = np.random.default_rng(0).standard_t(3, 5000).astype(np.float32)
        assert calibrator(counted(values)) == calibrator(counted(values[::-1], []))

    def test_signs_do_not_matter(self, calibrator):
        values = np.random.default_rng(1).standard_t(3, 5000).astype(np.float32)
        assert calibrator(counted(values)) == pytest.approx(calibrator(counted(-values)), rel=1e-2)

    def test_a_tensor_of_zeros(self, calibrator):
        assert calibrator(counted(np.zeros(9))) == 0

    def test_equal_magnitudes_are_not_clipped(self, calibrator):
        """By half a level at most."""
        result = calibrator(counted([1.0, -1.0, 1.0]))
        assert 1.0 - 0.5 / LEVELS <= result <= 1.0


class TestMinmax(CalibratorContract):
    name = "minmax"


class TestPercentile(CalibratorContract):
    name = "percentile"


class TestEntropy(CalibratorContract):
    name = "entropy"


class TestMse(CalibratorContract):
    name = "mse"


def test_every_method_keeps_the_contract():
    assert {k.name for k in CalibratorContract.__subclasses__()} == set(METHODS)


def test_minmax_by_pencil():
    assert minmax(counted([0.5, -3.0, 2.0])) == 3.0
    assert minmax(counted([-0.5, 2.5], [1.0])) == 2.5


def test_percentile_by_pencil():
    """Of 4 values the second is reached at 50 %: the upper end of its bin, floor(0.2 * 2048) + 1.

    The last bin ends behind the largest value, which bounds it.
    """
    histogram = counted([0.1, 0.2, -0.3, 0.9])
    assert percentile(histogram, 50) == 410 / 2048
    assert percentile(histogram, 75) == 615 / 2048
    assert percentile(histogram, 100) == float(np.float32(0.9))


def test_the_default_percentile_drops_one_of_ten_thousand():
    values = [0.5] * 19_998 + [16.0] * 2
    assert percentile(counted(values)) == pytest.approx(0.5, abs=32 / BINS)
    assert percentile(counted([0.5] * 19_997 + [16.0] * 3)) == 16.0


def squared_error(values: np.ndarray, top: float) -> float:
    """What rounding to 127 levels on each side and clipping at `top` costs, value by value."""
    scale = top / LEVELS
    rounded = np.clip(np.rint(values / scale), -LEVELS, LEVELS) * scale
    return float(((values - rounded) ** 2).mean())


def test_mse_clips_a_long_tail():
    values = np.random.default_rng(0).normal(size=300_000).astype(np.float32)
    values[5] = 40
    histogram = counted(values)
    chosen, largest = mse(histogram), minmax(histogram)
    assert chosen < 0.5 * largest
    assert squared_error(values, chosen) < 0.5 * squared_error(values, largest)


@pytest.mark.parametrize("kind", ["normal", "laplace", "tail", "relu"])
def test_mse_is_the_best_of_all_ranges(kind):
    """Against a search on the values themselves, without a histogram."""
    generator = np.random.default_rng(3)
    values = {
        "normal": lambda: generator.normal(size=20_000),
        "laplace": lambda: generator.laplace(size=20_000),
        "tail": lambda: np.append(generator.normal(size=20_000), [40.0, -35.0]),
        "relu": lambda: np.maximum(generator.normal(size=20_000), 0),
    }[kind]().astype(np.float32)
    chosen = mse(counted(values))
    top = np.abs(values).max()
    best = min(squared_error(values, top * share) for share in np.linspace(0.05, 1, 400))
    assert squared_error(values, chosen) <= 1.02 * best


def test_mse_by_pencil():
    """1,000 values 0 and one 1: clipping at c < 1 costs (1 - c)**2, so nothing is clipped."""
    assert mse(counted([0.0] * 1000 + [1.0])) == 1.0


def divergence(values: np.ndarray, end: float, bins: int) -> float:
    """KL divergence of `entropy`, value by value: `bins` bins to `end`, 128 levels over them."""
    inside = np.minimum((np.abs(values) / end * bins).astype(int), bins - 1)
    clipped = np.abs(values) >= end
    p = [float((inside == i).sum()) for i in range(bins)]
    kept = [float(((inside == i) & ~clipped).sum()) for i in range(bins)]
    q = []
    for i in range(bins):
        mates = [j for j in range(bins) if j * 128 // bins == i * 128 // bins and kept[j]]
        q.append(sum(kept[j] for j in mates) / len(mates) if kept[i] else 1e-4)
    pairs = [(a, b) for a, b in zip(p, q, strict=True) if a]
    total = sum(b for _, b in pairs)
    return sum(a / len(values) * math.log((a / len(values)) / (b / total)) for a, b in pairs)


def test_entropy_is_the_least_divergence_of_the_ends_it_tries():
    """512 bins: 4 a level. Ends at 1/4, 1/2 and 1 are compared by the sum over single values."""
    generator = np.random.default_rng(0)
    values = np.append(np.abs(generator.normal(size=4000)) * 0.06, [0.93]).astype(np.float32)
    histogram = counted(values)
    assert histogram.exponent == 0
    chosen = entropy(histogram)
    ours, whole = (divergence(values, end, round(end * BINS)) for end in (chosen, 0.93))
    assert ours < whole
    assert chosen < 0.5


def test_entropy_keeps_what_the_levels_tell_exactly():
    """One value in every 16th bin: 128 levels tell all of them, and any clipping loses some."""
    assert entropy(counted((np.arange(128) * 16 + 15.5) / BINS)) == float(
        np.float32((127 * 16 + 15.5) / BINS)
    )


def test_an_unknown_method():
    with pytest.raises(UsageError) as refused:
        method("minmaxx")
    assert str(refused.value) == "unknown calibration method 'minmaxx'. Did you mean 'minmax'?"


# Range table

SPEC = InputSpec("rgb", (1.0, 2.0, 3.0), (4.0, 5.0, 6.0), size=(64, 96))


def graph(weight: float = 1.0) -> onnx.ModelProto:
    constant = helper.make_tensor("w", TensorProto.FLOAT, [1], [weight])
    node = helper.make_node("Mul", ["x", "w"], ["y"])
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [1]) for n in "xy")
    return helper.make_model(helper.make_graph([node], "g", [x], [y], [constant]))


def table() -> RangeTable:
    digest = FramesDigest()
    for _ in digest.watch([np.zeros((2, 2, 3), np.uint8), np.ones((2, 2, 3), np.uint8)]):
        pass
    return RangeTable(
        "minmax",
        network_sha256(graph()),
        preprocessing_sha256(SPEC),
        digest.hexdigest(),
        len(digest),
        "camvid train",
        {"conv1": 2.5, "conv2": 0.0},
        {"conv1": (1.0, 0.5)},
        {"first": (-0.25, 0.0)},
    )


def test_a_table_round_trips(tmp_path):
    write_table(tmp_path / "ranges.json", table())
    assert read_table(tmp_path / "ranges.json") == table()


def test_a_table_of_its_own_network_passes():
    table().check(network_sha256(graph()), preprocessing_sha256(SPEC), "ranges.json")


def test_a_table_of_another_network_is_refused():
    own, other = network_sha256(graph()), network_sha256(graph(1.5))
    with pytest.raises(BundleError) as refused:
        table().check(other, preprocessing_sha256(SPEC), "ranges.json")
    assert str(refused.value) == (
        "ranges.json: the range table was made for another network: weights, output or size "
        f"changed ({own[:12]}..., now {other[:12]}...); run 'edgeseg calibrate' again"
    )


@pytest.mark.parametrize(
    "change",
    [
        {"size": (64, 64)},
        {"fit": "crop"},
        {"order": "bgr"},
        {"mean": (1.0, 2.0, 3.5)},
        {"std": (4.0, 5.0, 6.5)},
        {"fill": (1, 2, 3)},
    ],
)
def test_a_table_of_another_preprocessing_is_refused(change):
    other = preprocessing_sha256(dataclasses.replace(SPEC, **change))
    with pytest.raises(BundleError) as refused:
        table().check_preprocessing(other, "ranges.json")
    assert str(refused.value).startswith(
        "ranges.json: the range table was made for another preprocessing: size, fit, channel "
        "order, mean, std or fill changed ("
    )
    with pytest.raises(BundleError, match="made for another preprocessing"):
        table().check(network_sha256(graph()), other, "ranges.json")


def test_the_batch_does_not_bind():
    assert preprocessing_sha256(dataclasses.replace(SPEC, batch=4)) == preprocessing_sha256(SPEC)


def test_the_hash_of_a_network_is_of_what_it_computes():
    named = graph()
    named.producer_name = "somebody"
    named.graph.doc_string = "a remark"
    assert network_sha256(named) == network_sha256(graph())
    renamed = graph()
    renamed.graph.node[0].op_type = "Add"
    assert network_sha256(renamed) != network_sha256(graph())


def test_the_hash_of_frames_does_not_depend_on_their_order():
    frames = [np.full((2, 2, 3), i, np.uint8) for i in range(3)]

    def digest(images) -> str:
        one = FramesDigest()
        assert len(list(one.watch(images))) == len(one) == len(images)
        return one.hexdigest()

    assert digest(frames) == digest(frames[::-1])
    assert digest(frames) != digest(frames[:2])
    assert digest(frames) != digest([*frames[:2], frames[1]])


def test_the_frames_with_the_smallest_hashes_are_kept():
    frames = [np.full((2, 2, 3), i, np.uint8) for i in range(9)]
    digests = [hashlib.sha256(frame.tobytes()).digest() for frame in frames]
    smallest = [frames[i] for i in sorted(range(9), key=digests.__getitem__)[:4]]
    for order in (frames, frames[::-1]):
        one = FramesDigest(keep=4)
        assert len(list(one.watch(order))) == 9
        np.testing.assert_array_equal(one.kept(), smallest)


def written(tmp_path, **changes: object):
    path = tmp_path / "ranges.json"
    path.write_text(json.dumps(dataclasses.asdict(table()) | changes))
    return path


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"schema": 2}, "is no range table of schema 3; calibrate again"),
        ({"factors": {"a": [1.0, 0.0]}}, "factors of 'a' are no usable numbers; calibrate again"),
        ({"offsets": {"a": [math.nan]}}, "offsets of 'a' are no usable numbers; calibrate again"),
        ({"ranges": {"conv1": math.nan}}, "range of 'conv1' is nan; calibrate again"),
        ({"ranges": {"conv1": -1.0}}, "range of 'conv1' is -1.0; calibrate again"),
        ({"ranges": {"a": 1.0, "b": math.inf}}, "range of 'b' is inf; calibrate again"),
        ({"ranges": {"a": "1"}}, "'ranges.a' is '1'; expected float; calibrate again"),
        ({"rangse": {}}, "unknown key 'rangse'. Did you mean 'ranges'?; calibrate again"),
    ],
)
def test_a_changed_table_is_refused(changes, said, tmp_path):
    path = written(tmp_path, **changes)
    with pytest.raises(BundleError) as refused:
        read_table(path)
    assert str(refused.value) == f"{path}: {said}"


@pytest.mark.parametrize("content", [b"", b'{"schema": 1,', b"\xff\xfe", b"[]", b"3", b"null"])
def test_what_is_no_table_is_refused(content, tmp_path):
    path = tmp_path / "ranges.json"
    path.write_bytes(content)
    with pytest.raises(BundleError, match=r"ranges\.json: is no range table"):
        read_table(path)


def test_a_table_that_is_not_there(tmp_path):
    with pytest.raises(BundleError, match=r"no\.json: no such range table$"):
        read_table(tmp_path / "no.json")
    with pytest.raises(BundleError, match="is no range table"):
        read_table(tmp_path)
