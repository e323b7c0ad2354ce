"""Refining with a trained refiner: the local step, several classes, and `edgeseg refine`."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from edgeseg.bundle import InputSpec, Manifest, ModelSpec
from edgeseg.cli import main
from edgeseg.dataset import read_ids
from edgeseg.errors import DataError, UsageError
from edgeseg.labels import CLASS_TABLES, IGNORE
from edgeseg.models.checkpoint import save_checkpoint
from edgeseg.models.network import build_trainee
from edgeseg.runtime.refiner import Refiner
from edgeseg.training.refiner import TorchRefiner

pytestmark = [pytest.mark.torch, pytest.mark.usefixtures("one_thread")]

SPEC = InputSpec("rgb", (120.0, 110.0, 100.0), (60.0, 60.0, 60.0))
CAMVID = CLASS_TABLES["camvid11"]


# Several classes


class Certain(Refiner):
    """Says of every mask what it was told: (H, W) probabilities in the order of the classes."""

    def __init__(self, *answers: np.ndarray) -> None:
        self.answers = list(answers)

    def mask(self, image, inside):
        return self.answers.pop(0)


def row(*values: float) -> np.ndarray:
    return np.array([values], np.float32)


FRAME = np.zeros((1, 5, 3), np.uint8)


def test_a_pixel_takes_the_surest_class_or_keeps_its_label():
    """Classes 2 and 6; nobody is sure of the fourth pixel, and the last one has no label."""
    labels = np.array([[2, 2, 6, 6, IGNORE]], np.uint8)
    first, second = row(0.9, 0.6, 0.4, 0.3, 1.0), row(0.2, 0.7, 0.3, 0.5, 1.0)
    finer = Certain(first, second).labels(FRAME, labels)
    assert finer.tolist() == [[2, 6, 6, 6, IGNORE]]
    assert labels.tolist() == [[2, 2, 6, 6, IGNORE]]


def test_classes_that_are_not_refined_only_lose():
    labels = np.array([[2, 2, 6, 6, 6]], np.uint8)
    finer = Certain(row(0.1, 0.9, 0.9, 0.5, 0.2)).labels(FRAME, labels, [2])
    assert finer.tolist() == [[2, 2, 2, 6, 6]]


def test_a_mask_is_looked_at_with_its_surroundings():
    """Rows 40 to 99 get 32 more on each side (a quarter is 15), columns 0 to 199 a quarter: 50."""
    seen = []

    class Looking(Certain):
        def mask(self, image, inside):
            seen.append((image.shape, int(inside.sum())))
            return np.zeros(inside.shape, np.float32)

    labels = np.full((200, 300), IGNORE, np.uint8)
    labels[40:100, :200] = 3
    Looking().labels(np.zeros((200, 300, 3), np.uint8), labels)
    assert seen == [((124, 250, 3), 60 * 200)]


def test_labels_of_another_size_are_refused():
    with pytest.raises(DataError, match="labels are 2x2, their frame is 1x5; both must be of one"):
        Certain().labels(FRAME, np.zeros((2, 2), np.uint8))


# The local step


class Covariant(torch.nn.Module):
    """Looks two pixels around, wherever it is: its answers for crops are those for the whole."""

    divisor = 8

    def __init__(self) -> None:
        super().__init__()
        self.finished: list[tuple[int, ...]] = []

    def outputs(self, image):
        rough = functional.avg_pool2d(image[:, 3:], 5, 1, 2)
        return {"s4_3": rough, "logits": 4 * rough + image[:, :1]}

    def finish(self, frame, mask, s8):
        self.finished.append(tuple(mask.shape[2:]))
        return {"logits": functional.avg_pool2d(3 * mask + s8 + frame.sum(1, True), 5, 1, 2)}


def scene(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(5)
    y, x = np.mgrid[:height, :width]
    inside = np.sin(x / 9.0) + np.cos(y / 7.0) > 0
    return generator.integers(0, 256, (height, width, 3)).astype(np.uint8), inside


def test_crops_give_what_the_whole_would(monkeypatch):
    image, inside = scene(150, 203)
    model = Covariant()
    found = TorchRefiner(model, SPEC, side=100).mask(image, inside)
    assert found.shape == (150, 203)
    assert len(model.finished) > 6
    assert max(map(max, model.finished)) == 104  # 100, filled up
    whole = TorchRefiner(model, SPEC, side=100)
    monkeypatch.setattr("edgeseg.training.refiner.tiles", lambda size, *_: _one(size))
    expected = whole.mask(image, inside)
    assert model.finished[-1] == (152, 208)
    inner = np.s_[2:-2, 2:-2]  # the filled-up sides are seen by the whole, too
    assert np.abs(found - expected)[inner].max() < 1e-5


def _one(size):
    from edgeseg.frame import Box
    from edgeseg.training.tiles import Tile

    box = Box(0, 0, *size)
    return [Tile(box, box)]


def test_fast_is_the_global_step_alone():
    image, inside = scene(150, 203)
    model = Covariant()
    found = TorchRefiner(model, SPEC, side=100, fast=True).mask(image, inside)
    assert found.shape == (150, 203)
    assert not model.finished
    slow = TorchRefiner(model, SPEC, side=100).mask(image, inside)
    assert np.abs(found - slow).max() > 0.1


def test_crops_without_a_boundary_keep_the_global_mask():
    image, inside = scene(150, 203)
    inside[:] = False
    inside[60:64, 60:64] = True
    model = Covariant()
    found = TorchRefiner(model, SPEC, side=100).mask(image, inside)
    assert not model.finished
    assert set(np.unique(found)) <= {0.0, 1.0}


def test_a_side_that_can_not_be():
    with pytest.raises(UsageError, match="side is 95 pixels; expected at least 96"):
        TorchRefiner(Covariant(), SPEC, side=95)


# The verb


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> str:
    """A refiner that nobody trained."""
    torch.manual_seed(1)
    spec = ModelSpec("cascadepsp_r18", {"width": 0.125})
    folder = tmp_path_factory.mktemp("refiner") / "checkpoint"
    manifest = Manifest("checkpoint", "cascadepsp_r18", CAMVID.to_dict(), SPEC, model=spec)
    save_checkpoint(folder, build_trainee(spec, 11), manifest)
    return str(folder)


@pytest.fixture
def folders(tmp_path, streets) -> tuple[Path, Path]:
    """Two frames, and coarse labels of them."""
    frames, labels = tmp_path / "frames", tmp_path / "labels"
    frames.mkdir()
    labels.mkdir()
    for path in sorted((streets / "val").glob("*.png"))[:2]:
        Image.open(path).save(frames / path.name)
        ids = np.array(Image.open(streets / "valannot" / path.name))
        ids[ids == 11] = IGNORE
        Image.fromarray(ids).save(labels / path.name)
    return frames, labels


def test_frames_and_labels_become_finer_labels(checkpoint, folders, tmp_path, capsys):
    frames, labels = folders
    out = tmp_path / "finer"
    line = ["refine", checkpoint, "--frames", str(frames), "--labels", str(labels),
            "--table", "camvid11", "--out", str(out)]  # fmt: skip
    assert main(line) == 0
    assert "2 frames" in capsys.readouterr().out
    assert sorted(p.name for p in out.iterdir()) == sorted(p.name for p in labels.iterdir())
    for path in out.iterdir():
        finer, coarse = read_ids(path), read_ids(labels / path.name)
        assert ((finer == IGNORE) == (coarse == IGNORE)).all()
        assert set(np.unique(finer)) <= set(np.unique(coarse))
    assert main(line) == 2
    assert f"--out {out} is there already; give a new or empty" in capsys.readouterr().err


def test_with_truth_labels_are_scored_before_and_after(checkpoint, streets, tmp_path):
    """The coarse labels are the truth itself, less two columns of it: only IoU can be lost."""
    labels = tmp_path / "labels"
    labels.mkdir()
    for path in (streets / "valannot").glob("*.png"):
        ids = np.array(Image.open(path))
        ids[ids == 11] = 0
        ids[:, -2:] = 0
        Image.fromarray(ids).save(labels / path.name)
    file = tmp_path / "r.json"
    line = ["refine", checkpoint, "--data", f"camvid:{streets}", "--labels", str(labels),
            "--limit", "3", "--classes", "road,sky", "--json", str(file),
            "--picture", str(tmp_path / "r.jpg")]  # fmt: skip
    assert main(line) == 0
    found = json.loads(file.read_text())
    assert found["frames"] == 3
    assert found["classes"] == ["road", "sky"]
    before, after, gain = found["before"], found["after"], found["gain"]
    assert 80 < before["miou"] < 100
    for key in ("miou", "mba"):
        assert gain[key]["value"] == pytest.approx(after[key] - before[key])
        assert gain[key]["low"] <= gain[key]["value"] <= gain[key]["high"]
    with Image.open(tmp_path / "r.jpg") as picture:
        assert picture.width > 3 * 64  # three frames, each before, after and as it should be
        assert picture.height > 3 * 48
    assert found["bootstrap"]["over"] == "frames"
    assert found["refiner"]["model"] == "cascadepsp_r18"
    assert found["refiner"]["engine"].startswith("torch ")
    assert found["side"] == 900


def test_a_model_makes_the_labels(checkpoint, folders, tmp_path):
    out = tmp_path / "finer"
    line = ["refine", checkpoint, "--frames", str(folders[0]), "--model", "espnet_q8_dsrl_camvid",
            "--size", "48x64", "--limit", "1", "--out", str(out)]  # fmt: skip
    assert main(line) == 0
    (path,) = out.iterdir()
    assert read_ids(path).shape == (48, 64)


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("--frames {f} --labels {l} --table camvid11", "--frames has no truth to score with: give"),
        ("--frames {f} --labels {l} --table camvid11 --out {o} --picture {o}.jpg",
         "--picture shows what was gained, which takes the truth: give --data"),
        ("--data camvid:{f} --labels {l} --picture {o}.png", ".png: expected a .jpg file"),
        ("--frames {f} --labels {l} --out {o}", "--labels beside --frames needs --table"),
        ("--data camvid:{f} --labels {l} --table camvid11", "--table is for --labels beside"),
        ("--frames {f} --labels {l} --table camvid11 --size 8x8 --out {o}", "--size and --fit are"),
        ("--frames {f} --labels {l} --table camvid11 --out {o} --classes roda",
         "--classes: no class 'roda'. Did you mean 'road'?"),
        ("--frames {o} --labels {l} --table camvid11 --out {o}", "no such folder; --frames expect"),
        ("--frames {e} --labels {l} --table camvid11 --out {o}", "holds no PNG or JPEG images"),
        ("--frames {f} --labels {o} --table camvid11 --out {o}", "no such folder; --labels expect"),
        ("--frames {f} --labels {e} --table camvid11 --out {o}", "(and 1 more) has no 0001TP_000"),
        ("--frames {f} --labels {l} --table comma10k5 --model x", "not allowed with argument"),
        ("--frames {f} --labels {l} --table idd_lite7 --out {o} --side 12", "side is 12 pixels"),
    ],
)  # fmt: skip
def test_what_is_refused(typed, said, checkpoint, folders, tmp_path, capsys):
    empty = tmp_path / "empty"
    empty.mkdir()
    text = typed.format(f=folders[0], l=folders[1], o=tmp_path / "new", e=empty)
    try:
        code = main(["refine", checkpoint, *text.split()])
    except SystemExit as exit_:
        code = exit_.code
    assert code == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_another_network_is_no_refiner(folders, tmp_path, capsys):
    line = ["--frames", str(folders[0]), "--model", "dfanet_b_camvid", "--out", str(tmp_path / "o")]
    shipped = Path(__file__).parents[2] / "edgeseg/weights/espnet_q8_camvid"
    assert main(["refine", str(shipped), *line]) == 2
    assert "which refines no masks. 'edgeseg models' lists" in capsys.readouterr().err


def test_labels_that_do_not_fit_are_named(checkpoint, folders, tmp_path, capsys):
    """An id outside of the table, and another size than the frame's."""
    frames, labels = folders
    wrong = max(labels.iterdir())
    line = ["--frames", str(frames), "--labels", str(labels), "--table", "camvid11"]
    for name, ids, said in (
        ("a", np.full((48, 64), 40), "holds label id 40"),
        ("b", np.zeros((48, 60)), "labels are 48x60, the image is 48x64; both must be of one size"),
    ):
        Image.fromarray(ids.astype(np.uint8)).save(wrong)
        assert main(["refine", checkpoint, *line, "--out", str(tmp_path / name)]) == 2
        assert f"{wrong}: {said}" in capsys.readouterr().err
