"""`imagefolder:ROOT`: images in ImageNet's layout; `edgeseg data crops`, which makes one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeseg.cli import main
from edgeseg.dataset import list_frames, open_dataset, open_frames, read_image
from edgeseg.dataset.crops import Plan, find_windows, hold_out, write_crops
from edgeseg.errors import DataError, UsageError
from edgeseg.frame import Box, resize_image
from edgeseg.labels import CLASS_TABLES, ClassTable, ImageClasses

pytestmark = pytest.mark.unit


def paint(path: Path, shade: int, size: tuple[int, int] = (4, 6)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), shade, np.uint8)).save(path)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Train: one cat, two Dogs; val: one of each. Capitals sort first, as in torchvision."""
    root = tmp_path / "pets"
    paint(root / "train" / "cat" / "a.png", 10)
    paint(root / "train" / "Dog" / "z.PNG", 20)
    paint(root / "train" / "Dog" / "b.JPEG", 30, (5, 6))
    paint(root / "val" / "cat" / "c.jpg", 40)
    paint(root / "val" / "Dog" / "d.png", 50)
    (root / "train" / "cat" / "notes.txt").write_text("no image")
    return root


def test_classes_are_the_sorted_folders(images: Path) -> None:
    data = open_dataset(f"imagefolder:{images}", "train")
    assert isinstance(data.classes, ImageClasses)
    assert (data.classes.name, data.classes.names) == ("pets", ("Dog", "cat"))
    assert data.names == ("Dog/b.JPEG", "Dog/z.PNG", "cat/a.png")
    samples = list(data)
    assert [int(s.image[0, 0, 0]) for s in samples] == [30, 20, 10]
    assert [s.labels.tolist() for s in samples] == [[[0]], [[0]], [[1]]]
    assert [s.name for s in open_dataset(f"imagefolder:{images}", "val")] == [
        "Dog/d.png", "cat/c.jpg"
    ]  # fmt: skip


def refused(source: str, split: str = "train") -> str:
    with pytest.raises(DataError) as error:
        open_frames(source, split)
    return str(error.value)


LAYOUT = "ImageNet's layout is ROOT/train/CLASS/*.jpg beside ROOT/val/CLASS/*.jpg"


def test_what_is_refused(images: Path, tmp_path: Path) -> None:
    source = f"imagefolder:{images}"
    assert refused(source, "tune") == f"{images}: has no split 'tune'; those that exist: train, val"
    assert refused(source, "test").endswith("has no split 'test'; those that exist: train, val")
    assert refused(f"imagefolder:{tmp_path}/no") == f"{tmp_path}/no: no such folder; {LAYOUT}"
    (tmp_path / "flat" / "train").mkdir(parents=True)
    assert (
        refused(f"imagefolder:{tmp_path}") == f"{tmp_path}: has none of train, val, test; {LAYOUT}"
    )
    flat = tmp_path / "flat"
    assert refused(f"imagefolder:{flat}") == f"{flat}/train: holds no class folders; {LAYOUT}"
    (images / "train" / "bird").mkdir()
    (images / "train" / "cow").mkdir()
    odd = (
        f"{images}: class 'bird' (and 1 more) is in train and not in val; all splits must have the "
        "same class folders, for ids are places in their sorted list"
    )
    assert refused(source) == refused(source, "val") == odd
    for name in ("bird", "cow"):
        (images / "val" / name).mkdir()
    empty = f"{images}/train/bird: class without a PNG or JPEG image"
    assert refused(source) == f"{empty} (and 1 more; 'edgeseg data check {source}' lists all)"


def test_an_image_that_cannot_be_read_is_named(images: Path) -> None:
    broken = images / "train" / "cat" / "a.png"
    broken.write_bytes(b"no image")
    with pytest.raises(DataError) as error:
        open_dataset(f"imagefolder:{images}", "train")[2]
    assert str(error.value).startswith(f"{broken}: broken or unknown image")


def test_there_may_be_a_thousand_classes() -> None:
    names = tuple(f"n{i:04d}" for i in range(1000))
    table = ImageClasses("imagenet", names, ((0, 0, 0),) * 1000)
    again = ClassTable.from_dict(json.loads(json.dumps(table.to_dict())))
    assert again == table
    assert isinstance(again, ImageClasses)
    with pytest.raises(UsageError, match="at most 255 fit"):
        ClassTable("imagenet", names, ((0, 0, 0),) * 1000)
    assert "of" not in CLASS_TABLES["camvid11"].to_dict()


def test_check_counts_images(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = images.parent / "found.json"
    assert main(["data", "check", f"imagefolder:{images}", "--json", str(found)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"imagefolder:{images} train: 3 images, 2 of 4x6, 1 of 5x6"
    assert [line.split()[:2] for line in lines[3:5]] == [["Dog", "2"], ["cat", "1"]]
    assert not any("void" in line for line in lines)
    content = json.loads(found.read_text())
    assert content["classes"] == [{"name": "Dog", "images": 2}, {"name": "cat", "images": 1}]
    (images / "train" / "cat" / "a.png").write_bytes(b"no image")
    assert main(["data", "check", f"imagefolder:{images}"]) == 2
    assert "cat/a.png: broken or unknown image" in capsys.readouterr().out


def test_show_draws_images(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "sheet.png"
    assert main(["data", "show", f"imagefolder:{images}", "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}: 3 images of imagefolder:{images} train\n"
    shades = {int(v) for v in np.unique(read_image(out)[..., 0])}
    assert {10, 20, 30} <= shades


# Crops


def test_windows_of_a_label_map_by_hand() -> None:
    """40x40: columns 0 to 19 are class 1; in the rest of class 3 lies a 10x10 square of class 8."""
    labels = np.full((40, 40), 3, np.uint8)
    labels[:, :20] = 1
    labels[15:25, 25:35] = 8
    labels[0, 39] = 9
    for seed in range(20):
        found = find_windows(labels, 11, np.random.default_rng(seed))
        assert sorted(found) == [1, 3, 8]
        # 20 of 32 columns are enough, and 48 does not fit into the frame.
        assert [box.bottom - box.top for box in found[1]] == [32, 24, 16, 12]
        # 100 pixels are 0.69 of 12x12 and 0.39 of 16x16.
        assert [box.bottom - box.top for box in found[8]] == [12]
        for label, boxes in found.items():
            for box in boxes:
                side = box.bottom - box.top
                part = labels[box.slices]
                assert part.shape == (side, side)
                assert part[side // 2, side // 2] == label
                assert (part == label).mean() >= 0.4
    places = [find_windows(labels, 11, np.random.default_rng(s))[1][3] for s in range(20)]
    assert len(set(places)) > 10


@pytest.fixture
def camvid(tmp_path: Path) -> Path:
    """Three train frames and two of val, 40x40: left building, right road; a car in train only."""
    root = tmp_path / "camvid"
    generator = np.random.default_rng(5)
    for split, count in (("train", 3), ("val", 2)):
        for i in range(count):
            labels = np.full((40, 40), 3, np.uint8)
            labels[:, :20] = 1
            if split == "train":
                labels[15:25, 25:35] = 8
            image = generator.integers(0, 256, (40, 40, 3)).astype(np.uint8)
            for folder, picture in ((split, image), (f"{split}annot", labels)):
                (root / folder).mkdir(parents=True, exist_ok=True)
                Image.fromarray(picture).save(root / folder / f"f{i}.png")
    return root


def files(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*.png"))}


def test_crops_are_cut_from_their_frames(
    camvid: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "crops"
    words = ["data", "crops", f"camvid:{camvid}", "--out", str(out), "--size", "20"]
    assert main(words) == 0
    said = capsys.readouterr().out.splitlines()
    # Four sides in three and in two frames; the car is in train only.
    assert [line.split() for line in said[2:5]] == [
        ["class", "train", "val"], ["building", "12", "8"], ["road", "12", "8"],
    ]  # fmt: skip
    assert said[-1].startswith("no crop in train or in val, left out: sky, pole, pavement, tree")
    assert "car" in said[-1]
    found = files(out)
    assert len(found) == 40
    assert not [name for name in found if "car" in name]
    for name in found:
        split, label, file = name.split("/")
        stem, top, left, side = file.removesuffix(".png").split("_")
        box = Box(int(top), int(left), int(top) + int(side), int(left) + int(side))
        image = read_image(camvid / split / f"{stem}.png")
        assert (read_image(out / name) == resize_image(image[box.slices], (20, 20))).all()
        middle = int(left) + int(side) // 2
        assert label == ("building" if middle < 20 else "road")
    note = json.loads((out / "crops.json").read_text())
    assert note["crops"] == {s: {"building": n, "road": n} for s, n in (("train", 12), ("val", 8))}
    assert len(open_dataset(f"imagefolder:{out}", "val")) == 16


def test_crops_depend_on_the_seed_and_are_capped(camvid: Path, tmp_path: Path) -> None:
    def make(name: str, *words: str) -> dict[str, bytes]:
        out = tmp_path / name
        assert main(["data", "crops", f"camvid:{camvid}", "--out", str(out), *words]) == 0
        return files(out)

    first = make("a", "--per-class", "5")
    assert first == make("b", "--per-class", "5")
    assert first != make("c", "--per-class", "5", "--seed", "1")
    counts = {k: sum(n.startswith(k) for n in first) for k in ("train/road", "val/road")}
    assert counts == {"train/road": 5, "val/road": 2}  # a quarter of 5, rounded up


def test_a_set_without_val_is_split_by_frame(camvid: Path, tmp_path: Path) -> None:
    frames = list_frames(f"camvid:{camvid}", "train")
    parts = hold_out(frames, 2)
    assert (parts["val"].names, parts["train"].names) == (("f0", "f2"), ("f1",))
    assert (parts["val"].read(1)[0] == frames.read(2)[0]).all()
    out = tmp_path / "crops"
    words = ["data", "crops", f"camvid:{camvid}", "--out", str(out), "--split-by-frame", "2"]
    assert main(words) == 0
    assert {n.split("/")[2].split("_")[0] for n in files(out) if n.startswith("val")} == {
        "f0",
        "f2",
    }
    assert (out / "train" / "car").is_dir()


def test_crops_are_refused(
    camvid: Path, tmp_path: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(source: str, *words: str) -> str:
        assert main(["data", "crops", source, *words]) == 2
        return capsys.readouterr().err.strip().removeprefix("edgeseg: ")

    out = str(tmp_path / "new")
    there = said(f"camvid:{camvid}", "--out", str(images))
    assert there == f"{images} exists already; give --out a new folder"
    whole = said(f"imagefolder:{images}", "--out", out)
    assert whole == (f"imagefolder:{images} labels whole images; crops are cut by labels of pixels")
    every = said(f"camvid:{camvid}", "--out", out, "--split-by-frame", "1")
    assert every == "--split-by-frame is 1: none is left for train; expected 2 or more"
    seed = said(f"camvid:{camvid}", "--out", out, "--seed", "-1")
    assert seed == "--seed is -1; expected 0 or more"
    for path in (camvid / "trainannot").iterdir():
        Image.fromarray(np.full((40, 40), 11, np.uint8)).save(path)
    nothing = said(f"camvid:{camvid}", "--out", out)
    assert nothing == (
        f"camvid:{camvid}: no class fills 40% of a 12x12 window in a frame of train and in one of "
        "val; there is nothing to crop"
    )
    assert not Path(out).exists()


def test_a_folder_of_crops_appears_whole(camvid: Path, tmp_path: Path) -> None:
    """A frame that breaks when its crops are cut leaves nothing behind."""
    splits = {s: list_frames(f"camvid:{camvid}", s) for s in ("train", "val")}

    def steps(done: int, total: int) -> None:
        if total == 2 and done == 2:
            (camvid / "val" / "f1.png").write_bytes(b"broken")

    with pytest.raises(DataError, match=r"f1\.png: broken"):
        write_crops(splits, "camvid", tmp_path / "out" / "crops", Plan(), steps)
    assert list((tmp_path / "out").iterdir()) == []
