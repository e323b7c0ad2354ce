"""The real sets beside the project, where they are: frames, sizes, splits, class shares.

The numbers are those that `edgeseg data check KIND:PATH --split SPLIT` prints.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeseg.dataset import list_frames, open_dataset
from edgeseg.dataset.check import count_contents
from edgeseg.labels import IGNORE

pytestmark = pytest.mark.golden

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data"


def need(name: str) -> Path:
    if not (DATA / name).is_dir():
        pytest.skip(f"the real data set {name} is not beside the project in ../shared/data")
    return DATA / name


@pytest.mark.parametrize(
    ("kind", "folder", "split", "frames", "size", "shares"),
    [
        ("camvid", "camvid", "val", 101, (360, 480), {"road": 28.95, "car": 1.75}),
        ("camvid", "camvid", "tune", 62, (360, 480), {"sky": 18.83}),
        ("idd_lite", "idd_lite", "tune", 174, (227, 320), {"drivable": 31.88}),
        ("cityscapes", "cityscapes_samples", "train", 8, (1024, 2048), {"road": 37.57}),
    ],
)
def test_contents(
    kind: str,
    folder: str,
    split: str,
    frames: int,
    size: tuple[int, int],
    shares: dict[str, float],
) -> None:
    contents = count_contents(list_frames(f"{kind}:{need(folder)}", split))
    assert contents.problems == ()
    assert dict(contents.sizes) == {size: frames}
    found = {n: round(contents.share(contents.classes.names.index(n)), 2) for n in shares}
    assert found == shares


def test_frames_of_the_train_splits() -> None:
    assert len(open_dataset(f"camvid:{need('camvid')}", "train")) == 367
    idd_lite = open_dataset(f"idd_lite:{need('idd_lite')}", "train")
    assert len(idd_lite) == 1403
    assert len({n.split("/")[0] for n in idd_lite.names}) == 309


def test_tune_frames_are_train_frames() -> None:
    for source in (f"camvid:{need('camvid')}", f"idd_lite:{need('idd_lite')}"):
        train, tune = (open_dataset(source, s).names for s in ("train", "tune"))
        assert set(tune) < set(train)
        assert list(tune) == [n for n in train if n in set(tune)]


def test_cityscapes_labels_are_those_of_the_file() -> None:
    root = need("cityscapes_samples")
    sample = open_dataset(f"cityscapes:{root}", "train")[0]
    file = root / "gtFine" / "train" / "aachen" / f"{sample.name}_gtFine_labelIds.png"
    ids = np.array(Image.open(file))
    for label_id, train_id in ((7, 0), (11, 2), (21, 8), (26, 13), (9, IGNORE), (3, IGNORE)):
        assert (sample.labels[ids == label_id] == train_id).all()
    assert (sample.labels == 0).sum() == (ids == 7).sum()


def test_comma10k_by_the_example_file() -> None:
    need("comma10k")
    file = ROOT / "calibration" / "datasets" / "comma10k.toml"
    splits = {s: open_dataset(f"folder:{file}", s) for s in ("train", "tune", "val")}
    assert {s: len(d) for s, d in splits.items()} == {"train": 9, "tune": 1, "val": 2}
    assert not set(splits["train"].names) & set(splits["val"].names)
    sample = splits["val"][0]
    assert sample.image.shape == (874, 1164, 3)
    mask = np.array(Image.open(DATA / "comma10k" / "masks" / f"{sample.name}.png"))[..., :3]
    lanes = (mask == (255, 0, 0)).all(-1)
    assert lanes.any()
    assert (sample.labels[lanes] == 1).all()
    assert (sample.labels != IGNORE).all()
