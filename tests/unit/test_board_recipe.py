"""Recipes of boards: each is read, what is typed goes over it, the manifest names it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from edgeseg.bundle import read_manifest
from edgeseg.cli import main
from edgeseg.errors import RecipeError, UsageError
from edgeseg.export.board_recipe import ROOM, board_list, board_names, find_board
from edgeseg.export.build_options import BuildOptions
from edgeseg.export.targets import BUILDERS, DEVICE_TARGET
from edgeseg.pipeline.plan import Plan, Source
from edgeseg.runtime.board import RECIPES

pytestmark = pytest.mark.unit

BOARDS = (
    "agx-orin", "intel-cpu", "intel-igpu", "intel-npu", "orin-nano", "orin-nx", "thor", "x86-rtx",
)  # fmt: skip


def test_there_is_one_for_each_board():
    assert board_names() == BOARDS
    assert set(RECIPES.values()) < set(BOARDS)  # those that `doctor` names


@pytest.mark.parametrize("name", BOARDS)
def test_each_opens_with_a_sentence_and_makes_sense(name: str):
    assert (ROOM / f"{name}.toml").read_text().startswith("# ")
    recipe = find_board(name)
    assert recipe.name == name
    assert recipe.title
    assert all(side % 32 == 0 for side in recipe.size)
    Plan(recipe.target, recipe.precision, options=recipe.filled(BuildOptions(), recipe.target))
    assert (recipe.device is None) == (recipe.target != DEVICE_TARGET)
    assert (recipe.workspace_mib is None) == (recipe.target not in BUILDERS)
    assert recipe.dla is None or recipe.precision == "fp16"
    assert bool(recipe.power_mode) == (recipe.target == "tensorrt")


def test_an_unknown_board_gets_a_guess():
    with pytest.raises(UsageError, match=r"unknown board 'orin-nan'\. Did you mean 'orin-nano'"):
        find_board("orin-nan")
    with pytest.raises(UsageError, match=r"unknown board 'zx81'\. Known: agx-orin, intel-cpu"):
        find_board("zx81")


def test_a_recipe_of_ones_own(tmp_path: Path):
    path = tmp_path / "my-robot.toml"
    path.write_text(
        'title = "My robot"\ntarget = "tensorrt"\nprecision = "fp16"\nsize = [64, 128]\ndla = 1\n'
    )
    recipe = find_board(str(path))
    assert (recipe.name, recipe.size, recipe.dla) == ("my-robot", (64, 128), 1)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ('target = "tensort"', "target is 'tensort'; expected onnxruntime, openvino, tensorrt,"),
        ('precision = "int4"', "precision is 'int4'; expected fp32, fp16, int8"),
        ('device = "TPU"', "device is 'TPU'; expected CPU, GPU, NPU"),
        ("workspace = 1", "unknown key 'workspace'. Did you mean 'workspace_mib'"),
    ],
)
def test_a_recipe_that_is_wrong_is_refused(tmp_path: Path, change: str, said: str):
    key = change.partition(" ")[0]
    lines = ['title = "x"', 'target = "tensorrt"', 'precision = "int8"', "size = [64, 128]"]
    kept = [line for line in lines if not line.startswith(f"{key} ")]
    path = tmp_path / "r.toml"
    path.write_text("\n".join([*kept, change]))
    with pytest.raises(RecipeError, match=said):
        find_board(str(path))


def test_options_fill_what_was_not_typed_and_fit_the_target():
    nano = find_board("orin-nano")
    assert nano.filled(BuildOptions(), "tensorrt").workspace_mib == 256
    assert nano.filled(BuildOptions(workspace_mib=99), "tensorrt").workspace_mib == 99
    assert nano.filled(BuildOptions(), "onnxruntime") == BuildOptions()  # it takes none
    igpu = find_board("intel-igpu")
    assert igpu.filled(BuildOptions(), "openvino").device == "GPU"
    assert igpu.filled(BuildOptions(device="CPU"), "openvino").device == "CPU"
    assert igpu.filled(BuildOptions(), "tensorrt").device is None


def test_what_to_do_on_the_board():
    first, *notes = find_board("orin-nano").advice()
    assert first.startswith("on the board: sudo nvpmodel -m 2 (MAXN_SUPER")
    assert any("sudo nvpmodel -m 1 (25W)" in note for note in notes)
    assert "load it with inference_precision='f16'" in find_board("intel-npu").advice()


def test_help_lists_every_board(capsys):
    with pytest.raises(SystemExit):
        main(["export", "--help"])
    said = capsys.readouterr().out
    assert all(f"\n  {line}\n" in said for line in board_list().splitlines())
    assert "orin-nano   Jetson Orin Nano: tensorrt int8, 256x512" in said


@pytest.fixture
def exported(monkeypatch) -> list[tuple[Source, Plan, Path]]:
    """What `edgeseg export` asks of the pipeline; nothing is built."""
    seen: list[tuple[Source, Plan, Path]] = []

    def take(source: Source, plan: Plan, out: Path, **_: object) -> object:
        seen.append((source, plan, out))
        return SimpleNamespace(folder=out)

    monkeypatch.setattr("edgeseg.pipeline.export.export", take)
    monkeypatch.setattr("edgeseg.cli.export.result", lambda bundle: {})
    monkeypatch.setattr("edgeseg.cli.export.summary", lambda bundle: "made")
    return seen


def test_the_verb_takes_all_from_the_recipe(exported, capsys):
    assert main(["export", "--board", "orin-nx"]) == 0
    ((source, plan, out),) = exported
    assert (source.model, source.size) == ("espnet_q3", (512, 1024))
    assert (plan.target, plan.precision, plan.recipe) == ("tensorrt", "int8", "orin-nx")
    assert plan.options.workspace_mib == 512
    assert str(out) == "espnet_q3-orin-nx-tensorrt-int8-512x1024"
    told = capsys.readouterr()
    assert told.err.startswith(
        "board orin-nx (Jetson Orin NX): tensorrt int8, 512x1024, --workspace 512\n"
    )
    assert "on the board: sudo nvpmodel -m 0 (MAXN or MAXN_SUPER)" in told.out


def test_what_is_typed_goes_over_the_recipe(exported):
    typed = "export espnet_q3 --board orin-nx --target onnxruntime --precision fp16 --size 64x128"
    assert main(typed.split()) == 0
    ((source, plan, _),) = exported
    assert source.size == (64, 128)
    assert (plan.target, plan.precision) == ("onnxruntime", "fp16")
    assert plan.options == BuildOptions()
    assert plan.recipe == "orin-nx"


def test_without_a_board_all_is_as_before(exported):
    assert main(["export", "--target", "openvino"]) == 0
    ((source, plan, out),) = exported
    assert (source.size, plan.precision, plan.recipe) == ((512, 1024), "int8", "")
    assert str(out) == "espnet_q3-openvino-int8-512x1024"


def test_neither_target_nor_board_is_refused(capsys):
    assert main(["export", "espnet_q3"]) == 2
    assert "give --target (onnxruntime, openvino, tensorrt" in capsys.readouterr().err


# edgeseg build


@pytest.fixture
def built(monkeypatch) -> list:
    seen: list = []

    def take(folder: Path, building: object, out: Path, say: object) -> object:
        seen.append(building)
        return SimpleNamespace(folder=out)

    monkeypatch.setattr("edgeseg.pipeline.build.build", take)
    monkeypatch.setattr("edgeseg.cli.build.result", lambda bundle: {})
    monkeypatch.setattr("edgeseg.cli.build.summary", lambda bundle: "made")
    return seen


def test_build_takes_the_recipe_of_the_folder(built, tmp_path: Path, capsys):
    from engine_folders import fake_folder

    folder = fake_folder(tmp_path / "f", recipe="orin-nano").folder
    assert read_manifest(folder).recipe == "orin-nano"
    assert main(["build", str(folder)]) == 0
    assert (built[0].recipe, built[0].options.workspace_mib) == ("orin-nano", 256)
    assert "board orin-nano (Jetson Orin Nano): --workspace 256" in capsys.readouterr().err
    assert main(["build", str(folder), "--board", "thor", "--workspace", "7"]) == 0
    assert (built[1].recipe, built[1].options.workspace_mib) == ("thor", 7)


def test_build_says_when_the_folders_recipe_is_not_here(built, tmp_path: Path, capsys):
    from engine_folders import fake_folder

    folder = fake_folder(tmp_path / "f", recipe="my-robot").folder
    assert main(["build", str(folder)]) == 0
    assert built[0].options == BuildOptions()
    assert "made by recipe 'my-robot', which is not here" in capsys.readouterr().err
    plain = fake_folder(tmp_path / "g").folder
    assert main(["build", str(plain)]) == 0
    assert capsys.readouterr().err == ""
