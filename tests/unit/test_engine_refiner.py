"""A refiner behind an engine of fixed size: which part of the frame it sees, and what it says."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from engine_folders import MANIFEST, REFINER, fake_folder

import edgeseg
from edgeseg.bundle import Bundle, InputSpec
from edgeseg.errors import BundleError, EngineError, UsageError
from edgeseg.frame import place, prepare, resize_image, resize_map
from edgeseg.labels import IGNORE
from edgeseg.runtime.engine_fake import FakeEngine
from edgeseg.runtime.refiner import EngineRefiner, likely, load_refiner

pytestmark = pytest.mark.unit

SIZE = (40, 60)
SPEC = InputSpec("rgb", (0.0,) * 3, (1.0,) * 3, fill=(9, 8, 7), size=SIZE, mask=True)
CHANGES = REFINER | {"input": SPEC}


def bundle_of(spec: InputSpec = SPEC) -> Bundle:
    return Bundle(Path(), dataclasses.replace(MANIFEST, **CHANGES | {"input": spec}))


class Seen:
    """An engine's answer that keeps what it was given: the logit is the mask from -1 to 1."""

    def __init__(self) -> None:
        self.images: list[np.ndarray] = []

    def __call__(self, images: np.ndarray) -> np.ndarray:
        self.images.append(images[0].copy())
        logit = images[..., 3].astype(np.float32) / 127.5 - 1
        return np.stack([-logit / 2, logit / 2], 1)


def refiner(spec: InputSpec = SPEC, frames: str = "rgb") -> tuple[EngineRefiner, Seen]:
    bundle, seen = bundle_of(spec), Seen()
    return EngineRefiner(FakeEngine(bundle, None, seen), bundle, frames=frames), seen


def scene(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(2).integers(0, 256, (height, width, 3)).astype(np.uint8)


def test_the_softmax_of_two_scores_is_the_sigmoid_of_the_logit():
    logit = np.array([[-200.0, -1.0, 0.0, 2.0, 200.0]], np.float32)
    found = likely(np.stack([-logit / 2, logit / 2]))
    assert found == pytest.approx(np.array([[0, 0.26894142, 0.5, 0.88079708, 1]]), abs=1e-6)


def test_a_small_mask_is_seen_in_a_window_of_the_network_as_it_is():
    """Rows 90 to 93 with 32 on each side are 68, columns 150 to 153 too: more than 40 x 60."""
    large = dataclasses.replace(SPEC, size=(80, 100))
    opened, seen = refiner(large)
    image, labels = scene(200, 300), np.zeros((200, 300), np.uint8)
    labels[90:94, 150:154] = 3
    opened.labels(image, labels, [3])
    (given,) = seen.images
    assert (given[..., :3] == image[52:132, 102:202]).all()
    assert (given[..., 3] == (labels[52:132, 102:202] == 3) * 255).all()


def test_a_window_does_not_leave_the_frame():
    opened, seen = refiner(dataclasses.replace(SPEC, size=(80, 100)))
    image, labels = scene(90, 300), np.zeros((90, 300), np.uint8)
    labels[86:90, 296:] = 3
    opened.labels(image, labels, [3])
    assert (seen.images[0][..., :3] == image[10:90, 200:300]).all()


def test_a_large_mask_is_scaled_down_and_its_answer_up():
    """Padded above and below: 80 x 160 in 40 x 60 are 30 x 60."""
    opened, seen = refiner()
    inside = np.zeros((80, 160), bool)
    inside[:, 80:] = True
    found = opened.mask(scene(80, 160), inside)
    (given,) = seen.images
    assert (given[:5] == (9, 8, 7, 0)).all()
    assert (given[35:] == (9, 8, 7, 0)).all()
    assert (given[5:35, :30, 3] == 0).all()
    assert (given[5:35, 30:, 3] == 255).all()
    assert found.shape == inside.shape
    assert found[:, :78] == pytest.approx(0.26894142)
    assert found[:, 82:] == pytest.approx(0.73105858)
    assert ((found > 0.5) == inside).all()


def test_the_mask_stays_last_when_colours_are_swapped():
    image, inside = scene(*SIZE), scene(*SIZE)[..., 0] > 127
    opened, seen = refiner(frames="bgr")
    opened.mask(image, inside)
    assert (seen.images[0][..., :3] == image[..., ::-1]).all()
    assert (seen.images[0][..., 3] == inside * 255).all()


def test_what_a_cropping_fit_cuts_off_stays_as_it_was():
    opened, seen = refiner(dataclasses.replace(SPEC, fit="crop"))
    inside = np.zeros((40, 100), bool)
    inside[:, :40] = True
    found = opened.mask(scene(40, 100), inside)
    assert seen.images[0].shape == (*SIZE, 4)
    assert (found[:, :20] == 1).all()
    assert (found[:, 80:] == 0).all()
    assert found[:, 20:40] == pytest.approx(0.73105858)


def test_labels_change_where_the_network_claims_them():
    """The network grows whatever mask it sees by a column; class 6 is not refined."""

    def grown(images: np.ndarray) -> np.ndarray:
        inside = images[..., 3] > 127
        inside[:, :, 1:] |= inside[:, :, :-1].copy()
        logit = np.where(inside, 4.0, -4.0).astype(np.float32)
        return np.stack([-logit / 2, logit / 2], 1)

    bundle = bundle_of()
    opened = EngineRefiner(FakeEngine(bundle, None, grown), bundle, frames="rgb")
    labels = np.full((40, 60), 6, np.uint8)
    labels[:, 10:20] = 2
    labels[:5] = IGNORE
    finer = opened.labels(scene(40, 60), labels, [2])
    expected = labels.copy()
    expected[5:, 20] = 2
    assert (finer == expected).all()


def test_a_closed_refiner_says_so():
    with refiner()[0] as opened:
        pass
    with pytest.raises(EngineError, match="this refiner is closed; open the folder again"):
        opened.mask(scene(*SIZE), np.zeros(SIZE, bool))


def test_a_refiner_is_loaded_as_one_and_as_nothing_else(tmp_path):
    plain, own = tmp_path / "plain", tmp_path / "own"
    fake_folder(plain)
    fake_folder(own, **CHANGES)
    with load_refiner(own, frames="rgb") as opened:
        assert opened.least == SIZE
    with pytest.raises(BundleError, match="plain holds 'brightest', which refines no masks"):
        edgeseg.load_refiner(plain, frames="rgb")
    with pytest.raises(BundleError, match=r"own holds 'cascadepsp_r18', which labels no frames: it "
                       r"refines masks .*'edgeseg refine .*own ...' takes it"):  # fmt: skip
        edgeseg.load(own, frames="rgb")
    with pytest.raises(UsageError, match="channel order 'grb' is neither rgb nor bgr"):
        load_refiner(own, frames="grb")


def test_ungated_and_batched_refiners_are_refused(tmp_path):
    many = dataclasses.replace(SPEC, batch=2)
    fake_folder(tmp_path / "a", **CHANGES | {"gate": None})
    fake_folder(tmp_path / "b", **CHANGES | {"input": many})
    with pytest.raises(BundleError, match="gate: not run; run 'edgeseg export'"):
        load_refiner(tmp_path / "a", frames="rgb")
    load_refiner(tmp_path / "a", frames="rgb", allow_ungated=True).close()
    with pytest.raises(UsageError, match="exported for batches of 2 frames; frames are taken one"):
        load_refiner(tmp_path / "b", frames="rgb")


def test_maps_are_resized_as_images_are():
    """Rounded, a map of whole numbers is what `resize_image` makes of it, up to its rounding."""
    pixels = scene(23, 31)[..., 0]
    for size in ((46, 62), (11, 15), (23, 40), (50, 9)):
        exact = resize_map(pixels.astype(np.float32), size)
        rounded = resize_image(pixels[..., None], size)[..., 0]
        assert exact.shape == size
        assert np.abs(exact - rounded).max() < 0.52


def test_prepared_frames_keep_the_mask_behind_the_colours():
    image = np.concatenate([scene(10, 20), np.full((10, 20, 1), 255, np.uint8)], 2)
    made = prepare(image, place((10, 20), (20, 20), "pad"), swap=True, fill=(1, 2, 3))
    assert (made[:5] == (1, 2, 3, 0)).all()
    assert (made[5:15, :, 3] == 255).all()
    assert (made[5:15, :, :3] == image[..., 2::-1]).all()
