"""The accuracy gate by pencil: what is counted, what passes, and what is said."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edgeseg.bundle import Bundle, Gate, InputSpec, Manifest, write_bundle
from edgeseg.errors import BundleError, EngineError
from edgeseg.export.gate import (
    Budget,
    GateFrames,
    describe,
    judge,
    label,
    read_frames,
    write_frames,
)
from edgeseg.labels import IGNORE, ClassTable

pytestmark = pytest.mark.unit

TABLE = ClassTable("three", ("road", "car", "sky"), ((1, 1, 1), (2, 2, 2), (3, 3, 3)))
WIDE = Budget(100, 100)


def rows(*counts: tuple[int, int]) -> np.ndarray:
    """One frame of one row: (class, pixels) one after the other."""
    return np.concatenate([np.full(n, c, np.uint8) for c, n in counts])[None, None]


def gate(truth: np.ndarray | None, floats: np.ndarray) -> GateFrames:
    return GateFrames(np.zeros((*floats.shape, 3), np.uint8), floats, truth, "camvid train")


# Truth: 50 road, 30 car, 20 sky. Float calls 5 car pixels road: road 50/55, car 25/30, sky 1.
TRUTH = rows((0, 50), (1, 30), (2, 20))
FLOATS = rows((0, 55), (1, 25), (2, 20))
# The engine calls 10 more car pixels sky: road 50/55, car 15/30, sky 20/30.
ENGINE = rows((0, 55), (1, 15), (2, 30))


def test_against_ground_truth():
    found = judge(ENGINE, gate(TRUTH, FLOATS), TABLE, WIDE)
    assert found.state == "passed"
    assert (found.frames, found.source, found.against) == (1, "camvid train", "ground truth")
    assert found.agreement == 90
    assert found.miou_float == pytest.approx(100 * (50 / 55 + 25 / 30 + 1) / 3)
    assert found.miou_engine == pytest.approx(100 * (50 / 55 + 15 / 30 + 20 / 30) / 3)
    assert found.worst_class == "car"  # 83.3 -> 50.0, and sky 100 -> 66.7 after it
    assert found.worst_class_drop == pytest.approx(100 / 3)


def test_against_float_labels_where_there_is_no_truth():
    """Then float is the truth: it has 100; car keeps 15 of 25, sky 20 of 30."""
    found = judge(ENGINE, gate(None, FLOATS), TABLE, WIDE)
    assert found.against == "float labels"
    assert found.miou_float == 100
    assert found.miou_engine == pytest.approx(100 * (1 + 15 / 25 + 20 / 30) / 3)
    assert found.worst_class == "car"
    assert found.worst_class_drop == pytest.approx(40)


@pytest.mark.parametrize(
    ("budget", "state"),
    [
        (Budget(22.3, 33.4), "passed"),
        (Budget(22.2, 33.4), "failed"),  # mIoU loses 22.22
        (Budget(22.3, 33.3), "failed"),  # car loses 33.33
        (Budget(), "failed"),
        (WIDE, "passed"),
    ],
)
def test_the_budget_is_of_the_mean_and_of_the_worst_class(budget, state):
    found = judge(ENGINE, gate(TRUTH, FLOATS), TABLE, budget)
    assert found.state == state
    assert (found.max_miou_drop, found.max_class_drop) == (budget.miou, budget.per_class)


def test_equal_labels_pass_a_budget_of_nothing():
    found = judge(FLOATS.copy(), gate(TRUTH, FLOATS), TABLE, Budget(0, 0))
    assert found.state == "passed"
    assert found.agreement == found.agreement_inside == 100
    assert found.worst_class_drop == 0


def test_an_engine_may_be_better():
    found = judge(TRUTH.copy(), gate(TRUTH, FLOATS), TABLE, Budget(0, 0))
    assert found.state == "passed"
    assert found.miou_engine == 100
    assert found.worst_class_drop == pytest.approx(0)


def test_the_default_budget():
    assert Budget() == Budget(miou=0.5, per_class=5.0)


def test_padding_is_nobodys_concern():
    """Padding holds IGNORE in float labels and truth: the engine may say there what it will."""
    padding = rows((IGNORE, 100))
    truth, floats = np.append(TRUTH, padding, 2), np.append(FLOATS, padding, 2)
    for answer in (0, 1, 2):
        ours = np.append(ENGINE, rows((answer, 100)), 2)
        padded = judge(ours, gate(truth, floats), TABLE, WIDE)
        bare = judge(ENGINE, gate(TRUTH, FLOATS), TABLE, WIDE)
        # the edge of the padding is a border too
        assert replace(padded, agreement_inside=None) == replace(bare, agreement_inside=None)


def test_void_truth_counts_for_agreement_only():
    truth = TRUTH.copy()
    truth[..., 70:80] = IGNORE
    ours = FLOATS.copy()
    ours[..., 70:80] = 0
    found = judge(ours, gate(truth, FLOATS), TABLE, Budget(0, 0))
    assert found.state == "passed"
    assert found.agreement == 90
    assert found.miou_engine == found.miou_float


def test_a_class_of_a_few_pixels_can_not_fail_alone():
    """Fewer than one pixel in a thousand: its IoU says nothing, but the mean knows it."""
    truth = rows((0, 2000), (1, 1))
    lost = rows((0, 2001))
    found = judge(lost, gate(truth, truth), TABLE, Budget(100, 5))
    assert found.state == "passed"
    assert found.worst_class == "road"
    enough = rows((0, 999), (1, 1))
    found = judge(rows((0, 1000)), gate(enough, enough), TABLE, Budget(100, 5))
    assert (found.state, found.worst_class, found.worst_class_drop) == ("failed", "car", 100)


def test_inside_is_away_from_the_borders_of_the_float_labels():
    """20 rows of road above 20 of sky: the 4 rows at the border are not inside."""
    floats = np.zeros((1, 40, 30), np.uint8)
    floats[:, 20:] = 2
    border = floats.copy()
    border[:, 20] = 0
    found = judge(border, gate(None, floats), TABLE, WIDE)
    assert found.agreement == 97.5
    assert found.agreement_inside == 100
    inner = floats.copy()
    inner[:, 5] = 2
    found = judge(inner, gate(None, floats), TABLE, WIDE)
    assert found.agreement_inside == pytest.approx(100 * 35 / 36)


def test_frames_are_summed_not_averaged():
    """One matrix: a class that is small in one frame does not count as much as a whole frame."""
    floats = np.concatenate([rows((0, 90), (1, 10)), rows((0, 10), (1, 90))])
    ours = np.concatenate([rows((0, 100)), rows((0, 10), (1, 90))])
    found = judge(ours, gate(None, floats), TABLE, WIDE)
    assert found.frames == 2
    assert found.miou_engine == pytest.approx(100 * (100 / 110 + 90 / 100) / 2)


def test_truth_without_a_labelled_pixel_can_not_pass():
    nothing = np.full(TRUTH.shape, IGNORE, np.uint8)
    assert judge(ENGINE, gate(nothing, FLOATS), TABLE, WIDE).state == "failed"


def test_labels_of_another_shape_are_an_error():
    with pytest.raises(EngineError) as refused:
        judge(ENGINE[..., :50], gate(TRUTH, FLOATS), TABLE)
    assert str(refused.value) == (
        "the engine gave labels of shape (1, 1, 50), the float model (1, 1, 100)"
    )


def test_labels_outside_the_table_are_misses():
    ours = FLOATS.copy()
    ours[..., 80:] = 200
    found = judge(ours, gate(TRUTH, FLOATS), TABLE, WIDE)
    assert found.worst_class == "sky"
    assert found.worst_class_drop == 100


def test_one_line_for_people():
    found = judge(ENGINE, gate(TRUTH, FLOATS), TABLE, Budget())
    assert describe(found) == (
        "gate failed: mIoU 69.19 against 91.41 of the float model (-22.22, ground truth), "
        "90.00 % of labels agree, worst class car -33.33; 1 frames of camvid train"
    )
    assert describe(Gate("not run")) == "gate: not run"


# The folder's frames


def folder_with(tmp_path, frames: GateFrames) -> Bundle:
    write_frames(tmp_path, frames)
    spec = InputSpec("rgb", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    return write_bundle(tmp_path, Manifest("network", "n", TABLE.to_dict(), spec))


@pytest.mark.parametrize("truth", [TRUTH, None])
def test_frames_round_trip(truth, tmp_path):
    frames = gate(truth, FLOATS)
    read = read_frames(folder_with(tmp_path, frames))
    assert np.array_equal(read.images, frames.images)
    assert np.array_equal(read.labels, frames.labels)
    assert (read.truth is None) == (truth is None)
    assert truth is None or np.array_equal(read.truth, truth)
    assert read.source == "camvid train"
    assert len(read) == 1


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"not an archive"])
def test_damaged_frames_are_refused(content, tmp_path):
    bundle = folder_with(tmp_path, gate(TRUTH, FLOATS))
    bundle.path("gate/frames.npz").write_bytes(content)
    with pytest.raises(BundleError, match=r"gate/frames\.npz: gate frames are damaged \("):
        read_frames(bundle)


def test_frames_that_lack_an_array_are_refused(tmp_path):
    bundle = folder_with(tmp_path, gate(TRUTH, FLOATS))
    np.savez(bundle.path("gate/frames.npz"), images=np.zeros(3))
    with pytest.raises(BundleError, match="gate frames are damaged"):
        read_frames(bundle)


# Batches


@pytest.mark.parametrize(("count", "batch"), [(5, 1), (5, 2), (4, 4), (3, 8)])
def test_the_last_batch_is_filled_up(count, batch):
    class Echo:
        """Engine and Segmenter in one: labels are the red channel."""

        calls = 0

        @property
        def engine(self):
            return self

        def infer(self, images):
            self.calls += 1
            assert images.shape == (batch, 2, 3, 3)
            assert images.flags.c_contiguous
            return images[..., 0]

        def decode(self, result):
            return result

    echo = Echo()
    images = np.random.default_rng(0).integers(0, 9, (count, 2, 3, 3)).astype(np.uint8)
    assert np.array_equal(label(echo, images, batch), images[..., 0])
    assert echo.calls == -(-count // batch)
