"""Every kind of data set on tiny folders, every split, every refusal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeseg.dataset import DATASETS, SPLITS, list_frames, open_dataset, read_ids, read_image
from edgeseg.dataset.cityscapes import ROWS
from edgeseg.errors import DataError, EdgesegError, RecipeError, UsageError
from edgeseg.labels import CLASS_TABLES

pytestmark = pytest.mark.unit

SIZE = (4, 6)


def save(path: Path, array: np.ndarray, mode: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(array)
    if mode == "P":
        image.putpalette(bytes(range(256)) * 3)
    image.save(path)
    return path


def frame(path: Path, value: int = 90, size: tuple[int, int] = SIZE) -> Path:
    return save(path, np.full((*size, 3), value, np.uint8))


def ids(path: Path, *values: int, size: tuple[int, int] = SIZE, mode: str | None = None) -> Path:
    """Labels with `values` in the first row from the left, 0 elsewhere."""
    labels = np.zeros(size, np.uint8)
    labels[0, : len(values)] = values
    return save(path, labels, mode)


@pytest.fixture
def camvid(tmp_path: Path) -> Path:
    for folder, names in (("train", ("0001TP_1", "0006R0_1", "0006R0_2")), ("val", ("0016E5_1",))):
        for name in names:
            frame(tmp_path / folder / f"{name}.png")
            ids(tmp_path / f"{folder}annot" / f"{name}.png", 3, 10, 11)
    return tmp_path


@pytest.fixture
def cityscapes(tmp_path: Path) -> Path:
    for split, city in (("train", "aachen"), ("train", "ulm"), ("val", "munster")):
        name = f"{city}_000000_000019"
        frame(tmp_path / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png")
        ids(tmp_path / "gtFine" / split / city / f"{name}_gtFine_labelIds.png", 7, 33, 255, 4)
    return tmp_path


@pytest.fixture
def idd_lite(tmp_path: Path) -> Path:
    for drive in range(12):
        frame(tmp_path / "leftImg8bit" / "train" / str(drive) / "0001_image.jpg")
        ids(tmp_path / "gtFine" / "train" / str(drive) / "0001_label.png", 6, 255)
    return tmp_path


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    root = tmp_path / "VOC2012"
    names = [f"2007_{i:06d}" for i in range(12)]
    for name in names:
        frame(root / "JPEGImages" / f"{name}.jpg")
        ids(root / "SegmentationClass" / f"{name}.png", 20, 255, mode="P")
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("\n".join(names[:11]) + "\n")
    (lists / "val.txt").write_text(names[11] + "\n")
    return tmp_path


FOLDER = """
name = "yard"
images = "photos"
masks = "masks"
mask_ending = "_m"
[[classes]]
name = "grass"
colour = [0, 200, 0]
ids = [1, 2]
[[classes]]
name = "path"
colour = [90, 90, 90]
ids = [7]
[splits]
train = "train.txt"
val = "*9.png"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "dataset.toml").write_text(FOLDER)
    (tmp_path / "train.txt").write_text("a1\nb2\n")
    for name in ("a1", "b2", "c9"):
        frame(tmp_path / "photos" / f"{name}.png")
        labels = np.full(SIZE, 7, np.uint8)
        labels[0, :3] = 1, 2, 255
        save(tmp_path / "masks" / f"{name}_m.png", labels)
    return tmp_path


def refusal(source: str, split: str = "train") -> str:
    with pytest.raises(DataError) as error:
        list(open_dataset(source, split))
    return str(error.value)


# What is read


def test_camvid_keeps_ids_and_makes_11_void(camvid: Path) -> None:
    dataset = open_dataset(f"camvid:{camvid}", "val")
    assert dataset.names == ("0016E5_1",)
    assert dataset[0].labels[0].tolist() == [3, 10, 255, 0, 0, 0]
    assert dataset[0].image.shape == (4, 6, 3)
    assert dataset.classes is CLASS_TABLES["camvid11"]


def test_camvid_tune_is_drive_0001tp_of_train(camvid: Path) -> None:
    assert open_dataset(f"camvid:{camvid}", "tune").names == ("0001TP_1",)
    assert open_dataset(f"camvid:{camvid}", "train").names == ("0001TP_1", "0006R0_1", "0006R0_2")


def test_cityscapes_maps_label_ids_by_the_official_table(cityscapes: Path) -> None:
    dataset = open_dataset(f"cityscapes:{cityscapes}", "val")
    assert dataset.names == ("munster_000000_000019",)
    assert dataset[0].labels[0].tolist() == [0, 18, 255, 255, 255, 255]


def test_cityscapes_table_is_the_official_one() -> None:
    assert len(ROWS) == 35
    assert [r[1] for r in ROWS] == [*range(34), -1]
    classes = sorted((train_id, name) for name, _, train_id in ROWS if train_id >= 0)
    assert classes == list(enumerate(CLASS_TABLES["cityscapes19"].names))


def test_cityscapes_train_ids_are_taken_as_they_are(cityscapes: Path) -> None:
    folder = cityscapes / "gtFine" / "val" / "munster"
    (folder / "munster_000000_000019_gtFine_labelIds.png").unlink()
    ids(folder / "munster_000000_000019_gtFine_labelTrainIds.png", 7, 18, 255)
    dataset = open_dataset(f"cityscapes:{cityscapes}", "val")
    assert dataset[0].labels[0].tolist() == [7, 18, 255, 0, 0, 0]


def test_cityscapes_tune_is_three_cities_of_train(cityscapes: Path) -> None:
    assert open_dataset(f"cityscapes:{cityscapes}", "tune").names == ("ulm_000000_000019",)
    assert len(open_dataset(f"cityscapes:{cityscapes}", "train")) == 2


def test_idd_lite_tune_is_every_tenth_drive_by_name(idd_lite: Path) -> None:
    # By name 0 1 10 11 2 3 4 5 6 7 8 9: the first is 0, the eleventh 8.
    assert open_dataset(f"idd_lite:{idd_lite}", "tune").names == ("0/0001", "8/0001")
    assert len(open_dataset(f"idd_lite:{idd_lite}", "train")) == 12
    labels = open_dataset(f"idd_lite:{idd_lite}", "tune")[0].labels
    assert labels[0].tolist() == [6, 255, 0, 0, 0, 0]


def test_voc_reads_indexed_masks_by_lists(voc: Path) -> None:
    dataset = open_dataset(f"voc:{voc}", "val")
    assert dataset.names == ("2007_000011",)
    assert dataset[0].labels[0].tolist() == [20, 255, 0, 0, 0, 0]
    assert open_dataset(f"voc:{voc / 'VOC2012'}", "tune").names == ("2007_000000", "2007_000010")


def test_folder_reads_ids_lists_and_patterns(folder: Path) -> None:
    dataset = open_dataset(f"folder:{folder}", "train")
    assert dataset.names == ("a1", "b2")
    assert dataset.classes.names == ("grass", "path")
    assert dataset[0].labels[0].tolist() == [0, 0, 255, 1, 1, 1]
    assert open_dataset(f"folder:{folder}", "val").names == ("c9",)


def test_folder_reads_rgba_colours_from_a_file_elsewhere(tmp_path: Path) -> None:
    rgba = np.zeros((*SIZE, 4), np.uint8)
    rgba[:] = (64, 32, 32, 255)
    rgba[0, 0] = (255, 0, 0, 255)
    rgba[0, 1] = (1, 2, 3, 0)
    save(tmp_path / "data" / "masks" / "x.png", rgba)
    frame(tmp_path / "data" / "imgs" / "x.png")
    file = tmp_path / "there.toml"
    file.write_text(
        'root = "data"\nimages = "imgs"\nmasks = "masks"\nlabels = "colours"\n'
        'table = "comma10k5"\nvoid_colours = [[1, 2, 3]]\n'
    )
    labels = open_dataset(f"folder:{file}", "train")[0].labels
    assert labels[0].tolist() == [1, 255, 0, 0, 0, 0]


def test_synthetic_settings_and_disjoint_splits() -> None:
    dataset = open_dataset("synthetic:size=64x96,count=3,seed=5", "val")
    assert dataset.names == tuple(f"street-5-val-{i:06d}" for i in range(3))
    assert dataset[0].image.shape == (64, 96, 3)
    assert [len(open_dataset("synthetic:", s)) for s in SPLITS] == [1000, 100, 100, 100]
    firsts = {open_dataset("synthetic:size=64x64", s)[0].image.tobytes() for s in SPLITS}
    firsts.add(open_dataset("synthetic:size=64x64,seed=1", "train")[0].image.tobytes())
    assert len(firsts) == 5


def test_synthetic_frame_depends_on_its_index_alone() -> None:
    a = open_dataset("synthetic:size=64x64,count=9", "train")[4]
    b = open_dataset("synthetic:size=64x64,count=5", "train")[4]
    assert a.image.tobytes() == b.image.tobytes()
    assert a.labels.tobytes() == b.labels.tobytes()


def test_subset_and_spread(camvid: Path) -> None:
    dataset = open_dataset(f"camvid:{camvid}", "train")
    assert dataset.subset([2, 0]).names == ("0006R0_2", "0001TP_1")
    assert dataset.subset([2, 0])[1].name == "0001TP_1"
    assert dataset.spread(1).names == ("0006R0_1",)
    assert dataset.spread(9) is dataset


# What is refused


@pytest.mark.parametrize(
    ("source", "split", "expected"),
    [
        (
            "camvid",
            "val",
            "--data 'camvid' has no path; expected camvid:PATH",
        ),
        (
            "cityscape:x",
            "val",
            "with a known kind. Did you mean 'cityscapes'?",
        ),
        ("camvid:", "val", "--data 'camvid:' has no path; expected camvid:PATH"),
        ("camvid:x", "vall", "unknown split 'vall'. Did you mean 'val'?"),
        ("synthetic:sice=64x64", "val", "unknown setting 'sice=64x64'. Did you mean 'size'?"),
        ("synthetic:size=64", "val", "size '64' is not HEIGHTxWIDTH"),
        ("synthetic:size=32x64", "val", "size 32x64 is too small; expected at least 64x64"),
        ("synthetic:count=0", "val", "count is '0'; expected a whole number from 1 to 1000000"),
        ("synthetic:seed=-1", "val", "seed is '-1'; expected a whole number from 0 to 1000000"),
    ],
)
def test_what_is_typed_wrong_is_refused(source: str, split: str, expected: str) -> None:
    with pytest.raises(UsageError) as error:
        open_dataset(source, split)
    assert expected in str(error.value)


@pytest.mark.parametrize("kind", sorted(set(DATASETS) - {"synthetic"}))
def test_missing_folder_is_named(kind: str, tmp_path: Path) -> None:
    message = refusal(f"{kind}:{tmp_path / 'nowhere'}")
    assert str(tmp_path / "nowhere") in message
    assert "no such f" in message


@pytest.mark.parametrize(
    ("kind", "split", "known"),
    [
        ("camvid", "test", "train, tune, val"),
        ("cityscapes", "test", "train, tune, val"),
        ("idd_lite", "val", "train, tune"),
        ("voc", "test", "train, tune, val"),
        ("folder", "test", "train, val"),
    ],
)
def test_missing_split_lists_those_that_exist(
    kind: str, split: str, known: str, request: pytest.FixtureRequest
) -> None:
    message = refusal(f"{kind}:{request.getfixturevalue(kind)}", split)
    assert f"has no split '{split}'; those that exist: {known}" in message


def test_cityscapes_without_a_tune_city_has_no_tune_split(cityscapes: Path) -> None:
    (cityscapes / "leftImg8bit" / "train" / "ulm").rename(cityscapes / "elsewhere")
    message = refusal(f"cityscapes:{cityscapes}", "tune")
    assert "has no split 'tune'; those that exist: train, val" in message


def test_image_without_labels_is_named_and_the_rest_counted(camvid: Path) -> None:
    (camvid / "trainannot" / "0001TP_1.png").unlink()
    (camvid / "train" / "0006R0_1.png").unlink()
    source = f"camvid:{camvid}"
    message = refusal(source)
    assert f"{camvid / 'train' / '0001TP_1.png'}: image without a label file" in message
    assert f"(and 1 more; 'edgeseg data check {source}' lists all)" in message
    frames = list_frames(source, "train")
    assert frames.names == ("0006R0_2",)
    assert frames.problems[1] == (
        f"{camvid / 'trainannot' / '0006R0_1.png'}: label file without an image"
    )


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("cityscapes", "gtFine/train/ulm/ulm_000000_000019_gtFine_labelIds.png"),
        ("idd_lite", "gtFine/train/3/0001_label.png"),
        ("voc", "VOC2012/SegmentationClass/2007_000003.png"),
        ("folder", "masks/a1_m.png"),
    ],
)
def test_every_kind_notices_a_missing_label(
    kind: str, path: str, request: pytest.FixtureRequest
) -> None:
    root: Path = request.getfixturevalue(kind)
    (root / path).unlink()
    assert len(list_frames(f"{kind}:{root}", "train").problems) == 1
    message = refusal(f"{kind}:{root}")
    assert "without a label" in message or "not there" in message


@pytest.mark.parametrize(
    ("kind", "path", "foreign"),
    [
        ("camvid", "trainannot/0001TP_1.png", 12),
        ("cityscapes", "gtFine/train/aachen/aachen_000000_000019_gtFine_labelIds.png", 34),
        ("idd_lite", "gtFine/train/0/0001_label.png", 7),
        ("voc", "VOC2012/SegmentationClass/2007_000000.png", 21),
        ("folder", "masks/a1_m.png", 3),
    ],
)
def test_label_outside_the_table_is_named_with_its_file(
    kind: str, path: str, foreign: int, request: pytest.FixtureRequest
) -> None:
    root: Path = request.getfixturevalue(kind)
    ids(root / path, foreign, 200)
    message = refusal(f"{kind}:{root}")
    first = 0 if kind == "folder" else foreign
    assert f"{root / path}: holds label id {first} (and" in message
    assert "which the class table does not have" in message


def test_foreign_colour_is_named_with_its_place(folder: Path) -> None:
    text = FOLDER.replace('name = "yard"', 'name = "yard"\nlabels = "colours"').replace("_m", "_c")
    (folder / "dataset.toml").write_text(text)
    for name in ("a1", "b2", "c9"):
        colours = np.full((*SIZE, 3), (0, 200, 0), np.uint8)
        colours[2, 5] = (0, 200, 1)
        save(folder / "masks" / f"{name}_c.png", colours)
    message = refusal(f"folder:{folder}")
    assert message == (
        f"{folder / 'masks' / 'a1_c.png'}: colour [0, 200, 1] (#00c801) at row 2, column 5 is not "
        "in the class table (1 pixels hold foreign colours)"
    )


def test_label_size_must_be_the_image_size(camvid: Path) -> None:
    path = ids(camvid / "valannot" / "0016E5_1.png", size=(4, 5))
    assert refusal(f"camvid:{camvid}", "val") == (
        f"{path}: labels are 4x5, the image is 4x6; both must be of one size"
    )


def test_truncated_image_is_named(camvid: Path) -> None:
    path = camvid / "val" / "0016E5_1.png"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    save(path, noise)
    path.write_bytes(path.read_bytes()[:2000])
    assert f"{path}: broken or unknown image" in refusal(f"camvid:{camvid}", "val")


def test_text_that_calls_itself_an_image_is_named_once(camvid: Path) -> None:
    path = camvid / "val" / "0016E5_1.png"
    path.write_text("not an image")
    message = refusal(f"camvid:{camvid}", "val")
    assert message == f"{path}: broken or unknown image (cannot identify image file)"


def test_deep_images_and_colour_labels_are_refused(tmp_path: Path) -> None:
    deep = save(tmp_path / "deep.png", np.zeros(SIZE, np.uint16))
    with pytest.raises(DataError, match="image has mode I;16; expected 8 bits per channel"):
        read_image(deep)
    with pytest.raises(DataError, match="label image has mode RGB; expected 8-bit ids"):
        read_ids(frame(tmp_path / "rgb.png"))
    with pytest.raises(DataError, match="no such image"):
        read_image(tmp_path / "none.png")


def empty(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


@pytest.mark.parametrize(
    ("kind", "folder_", "expected"),
    [
        ("camvid", "train", "no .png images"),
        ("cityscapes", "leftImg8bit/val/munster", "no *_leftImg8bit.png images"),
        ("folder", "photos", "no PNG or JPEG images"),
    ],
)
def test_empty_folder_is_refused(
    kind: str, folder_: str, expected: str, request: pytest.FixtureRequest
) -> None:
    root: Path = request.getfixturevalue(kind)
    empty(root / folder_)
    assert expected in refusal(f"{kind}:{root}", "val" if kind == "cityscapes" else "train")


def test_empty_idd_lite_is_refused(idd_lite: Path) -> None:
    for drive in (idd_lite / "leftImg8bit" / "train").iterdir():
        empty(drive)
    assert "no *_image.jpg images" in refusal(f"idd_lite:{idd_lite}")


def test_camvid_without_the_tune_drive_says_so(camvid: Path) -> None:
    (camvid / "train" / "0001TP_1.png").unlink()
    assert "no .png images of drive 0001TP" in refusal(f"camvid:{camvid}", "tune")


def test_camvid_without_any_split_shows_the_layout(tmp_path: Path) -> None:
    assert "has none of train, val, test; CamVid (SegNet) has" in refusal(f"camvid:{tmp_path}")


@pytest.mark.parametrize(
    ("text", "expected"), [("", "lists no frames"), ("x\ny\nx\n", "lists 'x' 2 times")]
)
def test_bad_lists_are_refused(voc: Path, text: str, expected: str) -> None:
    (voc / "VOC2012" / "ImageSets" / "Segmentation" / "train.txt").write_text(text)
    assert expected in refusal(f"voc:{voc}")


def test_list_that_is_no_text_is_refused(voc: Path) -> None:
    (voc / "VOC2012" / "ImageSets" / "Segmentation" / "train.txt").write_bytes(b"\xff\xfe")
    assert "is not UTF-8 text" in refusal(f"voc:{voc}")


def test_folder_names_what_a_list_lacks(folder: Path) -> None:
    (folder / "train.txt").write_text("a1\nzz\n")
    assert "train.txt: lists 'zz', which is no image" in refusal(f"folder:{folder}")
    (folder / "train.txt").unlink()
    assert "train.txt: no such list" in refusal(f"folder:{folder}")


def test_two_images_of_one_name_are_refused(folder: Path) -> None:
    frame(folder / "photos" / "a1.jpg")
    assert "a1.png: a1.jpg has the same name; keep one of the two" in refusal(f"folder:{folder}")


def edit(old: str, new: str) -> Callable[[str], str]:
    return lambda text: text.replace(old, new, 1)


@pytest.mark.parametrize(
    ("change", "error", "expected"),
    [
        (edit("images", "pictures"), RecipeError, "unknown key 'pictures'"),
        (edit("ids = [7]", "ids = [2]"), DataError, "label id 2 is 'grass' and 'path'"),
        (edit("ids = [7]", "ids = [255]"), DataError, "label id 255 is 'void' and 'path'"),
        (edit("ids = [7]", "ids = [256]"), RecipeError, "label id 256 is not within 0 to 255"),
        (edit("val =", "vall ="), RecipeError, "unknown split 'vall' in [splits]. Did you mean"),
        (edit("*9.png", "*8.png"), DataError, "no image fits '*8.png', the pattern of split 'val'"),
        (edit('"yard"', '"yard"\nlabels = "id"'), RecipeError, "labels is 'id'; expected ids or"),
        (edit('"yard"', '"yard"\ntable = "voc21"'), RecipeError, "expected either table ="),
        (
            edit('"yard"', '"yard"\nlabels = "colours"\nvoid_colours = [[0, 200, 0]]'),
            DataError,
            "colour [0, 200, 0] is void and 'grass'",
        ),
        (
            lambda t: t.replace("90, 90, 90", "0, 200, 0").replace(
                '"yard"', '"yard"\nlabels = "colours"'
            ),
            DataError,
            "two classes have one colour",
        ),
    ],
)
def test_what_dataset_toml_gets_wrong_is_said(
    folder: Path, change: Callable[[str], str], error: type[EdgesegError], expected: str
) -> None:
    (folder / "dataset.toml").write_text(change(FOLDER))
    with pytest.raises(error) as caught:
        list(open_dataset(f"folder:{folder}", "val"))
    assert expected in str(caught.value)


def test_folder_without_dataset_toml_points_to_the_docs(tmp_path: Path) -> None:
    message = refusal(f"folder:{tmp_path}")
    assert message.startswith(f"{tmp_path / 'dataset.toml'}: no such file; a plain folder is told")
