"""TOML -> frozen dataclass: nothing is ignored, nothing is corrected."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from edgeseg.errors import RecipeError
from edgeseg.recipe import from_table, read_recipe, read_toml

pytestmark = pytest.mark.unit


@dataclass(frozen=True)
class Optimiser:
    name: str
    rate: float = 0.1

    def __post_init__(self) -> None:
        if self.rate <= 0:
            raise ValueError(f"rate is {self.rate}; expected a positive number")


@dataclass(frozen=True)
class Recipe:
    epochs: int
    optimiser: Optimiser = Optimiser("sgd")
    size: tuple[int, int] | None = None
    names: tuple[str, ...] = ()
    flip: bool = True
    shares: dict[str, float] = field(default_factory=dict)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "r.toml"


def read(path: Path, text: str, *overrides: str) -> Recipe:
    path.write_text(text)
    return read_recipe(Recipe, path, overrides)


def test_everything_at_once(path: Path):
    text = """
epochs = 3
size = [512, 1024]
names = ["a", "b"]
flip = false
shares = {road = 1, sky = 0.5}
[optimiser]
name = "adamw"
rate = 1
"""
    assert read(path, text) == Recipe(
        3, Optimiser("adamw", 1.0), (512, 1024), ("a", "b"), False, {"road": 1.0, "sky": 0.5}
    )


def test_what_is_left_away_has_its_default(path: Path):
    assert read(path, "epochs = 3") == Recipe(3)


def test_overrides(path: Path):
    text = "epochs = 3"
    got = read(path, text, "epochs=5", "optimiser.name=adamw", "optimiser.rate=0.5", "size=[8, 16]")
    assert got == Recipe(5, Optimiser("adamw", 0.5), (8, 16))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("epochs = 3\nepoch = 2", r"r.toml: unknown key 'epoch'. Did you mean 'epochs'\?"),
        ("", "r.toml: key 'epochs' is missing"),
        ("epochs = 3.0", "'epochs' is 3.0; expected int"),
        ("epochs = true", "'epochs' is True; expected int"),
        ("epochs = '3'", "'epochs' is '3'; expected int"),
        ("epochs = 3\nflip = 1", "'flip' is 1; expected bool"),
        ("epochs = 3\nsize = 5", "'size' is 5; expected an array"),
        ("epochs = 3\nsize = [5]", "'size' has 1 values; expected 2"),
        ("epochs = 3\nsize = [5, 'x']", "'size' is 'x'; expected int"),
        ("epochs = 3\nnames = [1]", "'names' is 1; expected str"),
        ("epochs = 3\nshares = 1", "'shares' is 1; expected a table"),
        ("epochs = 3\nshares = {a = 'x'}", r"'shares.a' is 'x'; expected float"),
        ("epochs = 3\noptimiser = 1", r"'optimiser' is 1; expected a table \[optimiser\]"),
        ("epochs = 3\n[optimiser]", r"r.toml: \[optimiser\]: key 'name' is missing"),
        ("epochs = 3\n[optimiser]\nname = 'x'\nrate = true", "'rate' is True; expected float"),
        ("epochs = 3\n[optimiser]\nname = 'x'\nrat = 1", r"unknown key 'rat'. Did you mean"),
        (
            "epochs = 3\n[optimiser]\nname = 'x'\nrate = -1",
            r"\[optimiser\]: rate is -1.0; expected",
        ),
        ("epochs = \n", r"r.toml: is not valid TOML: .*line 1"),
        ("epochs = 3\nepochs = 4", "is not valid TOML"),
    ],
)
def test_what_is_refused(path: Path, text: str, said: str):
    with pytest.raises(RecipeError, match=said):
        read(path, text)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("epochs", "--set epochs: expected key=value"),
        ("=3", "--set =3: expected key=value"),
        ("epochs=x", "'epochs' is 'x'; expected int"),
        ("epochs.x=3", "--set epochs.x=3: 'epochs' is no table in"),
        ("nothing=3", "unknown key 'nothing'"),
    ],
)
def test_overrides_that_are_refused(path: Path, override: str, said: str):
    with pytest.raises(RecipeError, match=said):
        read(path, "epochs = 3", override)


def test_files_that_are_none(tmp_path: Path):
    with pytest.raises(RecipeError, match=r"no.toml: no such file"):
        read_toml(tmp_path / "no.toml")
    with pytest.raises(RecipeError, match="is a folder; give the path of a TOML file"):
        read_toml(tmp_path)
    (tmp_path / "latin.toml").write_bytes(b"name = '\xe9'")
    with pytest.raises(RecipeError, match=r"latin.toml: is not UTF-8 text"):
        read_toml(tmp_path / "latin.toml")


def test_none_is_allowed_where_the_type_says_so():
    assert from_table(Recipe, {"epochs": 1, "size": None}, "x").size is None
    with pytest.raises(RecipeError, match="x: 'epochs' is None; expected int"):
        from_table(Recipe, {"epochs": None}, "x")


VARIANTS = """
epochs = 3
optimiser = {name = "sgd", rate = 0.5}
[study]
title = "for another reader"
[variants.long]
epochs = 30
[variants.fast]
optimiser.rate = 2
"""


def test_a_variant_lies_over_the_rest_key_by_key(path: Path):
    path.write_text(VARIANTS)
    assert read_recipe(Recipe, path, variant="long") == Recipe(30, Optimiser("sgd", 0.5))
    assert read_recipe(Recipe, path, variant="fast") == Recipe(3, Optimiser("sgd", 2.0))
    changed = read_recipe(Recipe, path, ("epochs=4",), "long")
    assert changed == Recipe(4, Optimiser("sgd", 0.5))


@pytest.mark.parametrize(
    ("text", "variant", "said"),
    [
        (VARIANTS, "", r"give --variant\. Known: long, fast\.$"),
        (VARIANTS, "lang", r"no variant 'lang'\. Did you mean 'long'\?$"),
        (VARIANTS, "brief", r"no variant 'brief'\. Known: long, fast\.$"),
        ("epochs = 3", "long", "no variant 'long': it has none"),
        ("epochs = 3\nvariants = 3", "", r"'variants' must hold tables \[variants.NAME\]"),
    ],
)
def test_variants_that_are_refused(path: Path, text: str, variant: str, said: str):
    path.write_text(text)
    with pytest.raises(RecipeError, match=said):
        read_recipe(Recipe, path, variant=variant)
