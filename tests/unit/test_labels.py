"""Class tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeseg.errors import RecipeError, UsageError
from edgeseg.labels import CLASS_TABLES, ClassTable, class_table

pytestmark = pytest.mark.unit


def test_the_shipped_tables():
    counts = {name: len(table) for name, table in CLASS_TABLES.items()}
    assert counts == {
        "cityscapes19": 19,
        "camvid11": 11,
        "idd_lite7": 7,
        "voc21": 21,
        "comma10k5": 5,
    }
    for name, table in CLASS_TABLES.items():
        assert table.name == name
        assert len(set(table.palette)) == len(table), "two classes in one colour"


def test_ids_that_everybody_knows():
    assert CLASS_TABLES["cityscapes19"].names[13] == "car"
    assert CLASS_TABLES["cityscapes19"].palette[0] == (128, 64, 128)
    assert CLASS_TABLES["camvid11"].names[3] == "road"
    assert CLASS_TABLES["voc21"].names[15] == "person"


def test_the_voc_palette_follows_its_bit_rule():
    """VOC's development kit: the id's bits, three at a time, from the highest bits down."""
    for index, colour in enumerate(CLASS_TABLES["voc21"].palette):
        wanted, rest = [0, 0, 0], index
        for shift in range(7, -1, -1):
            for channel in range(3):
                wanted[channel] |= (rest >> channel & 1) << shift
            rest >>= 3
        assert colour == tuple(wanted)


def test_colours_index_a_label_image():
    table = ClassTable("t", ("a", "b"), ((1, 2, 3), (4, 5, 6)))
    colours = table.colours()
    assert colours.shape == (256, 3)
    assert colours.dtype == np.uint8
    assert colours[np.array([1, 0, 2, 255])].tolist() == [[4, 5, 6], [1, 2, 3], [0] * 3, [0] * 3]


def test_there_and_back():
    for table in CLASS_TABLES.values():
        assert ClassTable.from_dict(table.to_dict()) == table


@pytest.mark.parametrize(
    ("names", "palette", "said"),
    [
        ((), (), "class table 't' is empty"),
        (("a",), ((1, 2, 3), (4, 5, 6)), "has 1 names and 2 colours; give one colour for each"),
        (("a", "b", "a"), ((0, 0, 0),) * 3, "names 'a' twice"),
        (("a",), ((1, 2),), r"colour of 'a' is \[1, 2\]; expected three integers from 0 to 255"),
        (("a",), ((1, 2, 256),), r"\[1, 2, 256\]; expected three"),
        (("a",), ((1, 2, -1),), r"\[1, 2, -1\]; expected three"),
        (("a",), ((1, 2, 3.5),), r"\[1, 2, 3.5\]; expected three"),
        (tuple(map(str, range(256))), ((0, 0, 0),) * 256, "has 256 classes; .* at most 255 fit"),
    ],
)
def test_what_is_no_table(names, palette, said):
    with pytest.raises(UsageError, match=said):
        ClassTable("t", names, palette)


def test_an_unknown_name_gets_a_guess():
    with pytest.raises(UsageError, match=r"unknown class table 'camvid'.*Or give the path of"):
        class_table("camvid")
    with pytest.raises(UsageError, match=r"Did you mean 'camvid11'\?"):
        class_table("camvid12")


def test_a_table_from_a_file(tmp_path: Path):
    path = tmp_path / "mine.toml"
    path.write_text(
        '[[classes]]\nname = "road"\ncolour = [1, 2, 3]\n'
        '[[classes]]\nname = "rest"\ncolour = [4, 5, 6]\n'
    )
    assert class_table(str(path)) == ClassTable("mine", ("road", "rest"), ((1, 2, 3), (4, 5, 6)))
    path.write_text('name = "other"\n' + path.read_text())
    assert class_table(str(path)).name == "other"


@pytest.mark.parametrize(
    "content",
    ["", "classes = 3", "[classes]\nname = 'a'", "[[classes]]\nname = 'a'", "classes = [1]"],
)
def test_a_file_without_classes(tmp_path: Path, content: str):
    path = tmp_path / "mine.toml"
    path.write_text(content)
    with pytest.raises(UsageError, match=r"expected one \[\[classes\]\] entry with name and"):
        class_table(str(path))


@pytest.mark.parametrize("colour", ["[1, 2, 3, 4]", "[1.5, 2, 3]", "7", "'red'", "['1', '2', '3']"])
def test_a_file_with_a_strange_colour(tmp_path: Path, colour: str):
    path = tmp_path / "mine.toml"
    path.write_text(f"[[classes]]\nname = 'road'\ncolour = {colour}\n")
    with pytest.raises(UsageError, match=r"colour of 'road' is .*; expected three integers"):
        class_table(str(path))


def test_a_missing_file():
    with pytest.raises(RecipeError, match=r"nowhere/mine.toml: no such file"):
        class_table("nowhere/mine.toml")
