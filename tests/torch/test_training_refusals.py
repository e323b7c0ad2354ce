"""Every message that training refuses with."""

import dataclasses
import os
import resource
import signal
import sys

import pytest
import torch
from safetensors.torch import load_file

from edgeseg.bundle import InputSpec, Manifest, ModelSpec
from edgeseg.cli import main
from edgeseg.dataset import open_dataset
from edgeseg.errors import DataError, RecipeError, TrainingError
from edgeseg.labels import CLASS_TABLES, ClassTable
from edgeseg.models.checkpoint import save_checkpoint
from edgeseg.models.network import build_model
from edgeseg.recipe import read_recipe
from edgeseg.training import start
from edgeseg.training.batches import Order, load
from edgeseg.training.distributed import World
from edgeseg.training.losses import class_weights
from edgeseg.training.plan import (
    AugmentPlan,
    Input,
    LossPlan,
    Optimizer,
    Recipe,
    Schedule,
)
from edgeseg.training.state import State, save_state

pytestmark = pytest.mark.torch

CPU = World(torch.device("cpu"))


def run(recipe, out, *words):
    return main(["train", str(recipe), "--out", str(out), *words])


def said(capsys):
    return capsys.readouterr().err.strip()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Optimizer("adam"), "name is 'adam'; expected sgd, adamw. Did you mean 'adamw'?"),
        (lambda: Optimizer(lr=0.0), "lr is 0.0; expected a positive number"),
        (lambda: Optimizer(nesterov=True, momentum=0.0), "nesterov needs a momentum above 0"),
        (lambda: Optimizer(clip=-1.0), "clip is -1.0; expected 0 or more"),
        (lambda: Schedule("step"), "name is 'step'; expected poly, onecycle"),
        (lambda: Schedule(rise=2.0), "rise is 2.0; expected 0 to 1"),
        (lambda: LossPlan("list"), "weight_list = [...] belong together"),
        (lambda: LossPlan("list", (1.0, -2.0)), "weight_list holds -2.0; expected 0 or more"),
        (lambda: LossPlan(label_smoothing=1.0), "label_smoothing is 1.0; expected 0 to 0.999"),
        (lambda: AugmentPlan((2.0, 1.0)), "scale is [2.0, 1.0]; expected [low, high] above 0"),
        (lambda: AugmentPlan(flip=2.0), "flip is 2.0; expected 0 to 1"),
        (lambda: Input(std=(0.0, 1.0, 1.0)), "expected positive numbers, in uint8 units"),
        (lambda: Input(order="gbr"), "order is 'gbr'; expected rgb, bgr"),
        (lambda: Recipe("m", "d", (8, 8), 0, 1), "steps is 0; expected 1 or more"),
        (lambda: Recipe("m", "d", (0, 8), 1, 1), "a size is 0; expected 1 or more"),
        (lambda: Recipe("m", "d", (8, 8), 1, 1, amp="int8"), "amp is 'int8'; expected off, bf16"),
        (
            lambda: Recipe("m", "d", (8, 8), 5, 1, schedule=Schedule(warmup=5)),
            "warmup is 5 of 5 steps",
        ),
    ],
)
def test_values_out_of_range(make, words):
    with pytest.raises(ValueError) as caught:
        make()
    assert words in str(caught.value)


def test_a_recipe_names_file_table_and_key(recipe_file, tmp_path, capsys):
    recipe = recipe_file()
    assert run(recipe, tmp_path / "run", "--set", "optimizer.lrr=3") == 2
    assert said(capsys) == f"edgeseg: {recipe}: [optimizer]: unknown key 'lrr'. Did you mean 'lr'?"
    assert not (tmp_path / "run").exists()


def test_what_is_refused_leaves_no_folder(recipe_file, tmp_path, capsys):
    assert run(recipe_file(), tmp_path / "run", "--set", "data=camvid:/nowhere") == 2
    assert said(capsys).startswith("edgeseg: /nowhere: no such folder; ")
    assert not (tmp_path / "run").exists()


def test_a_size_that_the_model_cannot_take(recipe_file, tmp_path, capsys):
    assert run(recipe_file(), tmp_path / "run", "--set", "size=[30, 60]") == 2
    assert said(capsys) == (
        "edgeseg: size 30x60 does not fit 'espnetc_q3': both sides must be multiples of 8. "
        "Nearest: 32x64"
    )


def test_a_folder_that_is_taken(recipe_file, tmp_path, capsys):
    recipe, out = recipe_file(steps=1), tmp_path / "run"
    assert run(recipe, out) == 0
    capsys.readouterr()
    assert run(recipe, out) == 2
    assert "holds a run already; go on with it by --resume, or give a new" in said(capsys)
    (out / "state.pt").unlink()
    assert run(recipe, out) == 2
    assert "holds other things; give --out a new or empty folder" in said(capsys)
    assert run(recipe, recipe) == 2
    assert "is a file; --out expects a folder" in said(capsys)


def test_nothing_to_resume(recipe_file, tmp_path, capsys):
    assert run(recipe_file(), tmp_path / "run", "--resume") == 2
    assert "holds no run to resume (state.pt is missing); leave --resume away" in said(capsys)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "foreign", "keys"])
def test_a_damaged_state(recipe_file, tmp_path, capsys, damage):
    recipe, out = recipe_file(steps=1), tmp_path / "run"
    out.mkdir()
    path = out / "state.pt"
    torch.save({"schema": 1, "step": 1} if damage == "keys" else [1, torch.ones(1000)], path)
    content = path.read_bytes()
    if damage != "keys":
        path.write_bytes(
            {
                "truncated": content[: len(content) // 2],
                "empty": b"",
                "text": b"hello world, this is text",
                "foreign": content,
            }[damage]
        )
    assert run(recipe, out, "--resume") == 2
    assert said(capsys).endswith(
        "state.pt is truncated or was not written by this edgeseg; start again in a new --out "
        "folder"
    )


def test_a_state_of_another_network_is_refused_by_its_tensor(recipe_file, tmp_path, capsys):
    """As after `init` itself was trained anew with other classes."""
    recipe, out = recipe_file(steps=2), tmp_path / "run"
    assert run(recipe, out, "--set", "steps=2") == 0
    content = torch.load(out / "state.pt", weights_only=True)
    name = next(n for n, value in content["model"].items() if value.ndim == 4)
    content["model"][name] = content["model"][name][:1]
    torch.save(content, out / "state.pt")
    capsys.readouterr()
    assert run(recipe, out, "--resume") == 2
    assert f"state.pt is of another network: '{name}' has shape (1, " in said(capsys)


def test_a_full_disk_keeps_the_old_state(tmp_path):
    def state(step, size):
        weights = {"w": torch.ones(size)}
        return State(step, 0.0, {}, weights, {}, {}, {}, {})

    save_state(tmp_path, state(1, 10))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            save_state(tmp_path, state(2, 100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert torch.load(tmp_path / "state.pt", weights_only=True)["step"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["state.pt"]


def test_a_changed_recipe_is_named_by_its_key(recipe_file, tmp_path, capsys):
    recipe, out = recipe_file(steps=1), tmp_path / "run"
    assert run(recipe, out) == 0
    capsys.readouterr()
    assert run(recipe, out, "--resume", "--set", "optimizer.momentum=0.5") == 2
    assert (
        "was trained with optimizer.momentum = 0.9, the recipe now says 0.5; give the old value, "
        "or start in a new --out folder"
    ) in said(capsys)
    assert run(recipe, out, "--resume", "--set", "save_every=100") == 0


def test_a_loss_that_is_not_finite_names_step_and_frames(recipe_file, tmp_path, capsys):
    recipe, out = recipe_file(steps=20), tmp_path / "run"
    assert run(recipe, out, "--set", "optimizer.lr=1e30", "--set", "optimizer.clip=0") == 2
    text = said(capsys)
    step = int(text.split("edgeseg: step ")[1].split(":")[0])
    assert 1 < step <= 6
    assert "loss is nan" in text or "loss is inf" in text or "gradient's norm is" in text
    frames = text.split("frames in the batch: ")[1].split(". Look at")[0].split(", ")
    order = Order(10, 4, seed=3)
    data = open_dataset(read_recipe(Recipe, recipe).data, "train")
    assert frames == [data.names[index] for _, index in order.keys(step - 1)]
    assert text.endswith("the state before it is kept")
    assert torch.load(out / "state.pt", weights_only=True)["step"] == (step - 1) // 4 * 4


def test_a_broken_image_is_one_line_from_a_worker_too(recipe_file, streets, tmp_path):
    recipe = dataclasses.replace(read_recipe(Recipe, recipe_file()), workers=1)
    data = open_dataset(recipe.data, "train")

    def broken(index):
        raise DataError("frame 7 is broken")

    bad = dataclasses.replace(data, read=broken)
    with pytest.raises(DataError) as caught:
        next(load(bad, recipe, Order(10, 4, 0), 0, pin=False))
    assert str(caught.value) == "frame 7 is broken"


def test_a_killed_worker_is_one_line(recipe_file):
    recipe = dataclasses.replace(read_recipe(Recipe, recipe_file()), workers=1)
    data = open_dataset(recipe.data, "train")

    def die(index):
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(TrainingError) as caught:
        next(load(dataclasses.replace(data, read=die), recipe, Order(10, 4, 0), 0, pin=False))
    text = str(caught.value)
    assert text.startswith("a process that prepares crops was lost (DataLoader worker (pid")
    assert text.endswith("If memory ran out, lower workers or cache; go on with --resume")


def test_what_the_machine_cannot_do(recipe_file):
    recipe = read_recipe(Recipe, recipe_file())
    with pytest.raises(RecipeError, match="batch is 4 for all processes together; it can't be"):
        start.check_machine(recipe, World(torch.device("cpu"), 0, 3))
    for change, words in (
        ({"amp": "fp16"}, "amp = 'fp16' needs CUDA; this run is on the cpu"),
        ({"sync_bn": True}, "sync_bn needs CUDA; this run is on the cpu"),
    ):
        with pytest.raises(RecipeError) as caught:
            start.check_machine(dataclasses.replace(recipe, **change), CPU)
        assert str(caught.value) == words


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_no_gpu(recipe_file, tmp_path, capsys):
    assert run(recipe_file(), tmp_path / "run", "--set", "device=cuda") == 2
    assert "device is 'cuda', and torch sees no GPU here; give --set device=cpu" in said(capsys)


def test_weight_list_of_another_length():
    plan = LossPlan(weights="list", weight_list=(1.0, 2.0))
    with pytest.raises(RecipeError) as caught:
        class_weights(plan, CLASS_TABLES["comma10k5"], lambda: None)
    assert str(caught.value) == (
        "loss.weight_list has 2 values; class table 'comma10k5' has 5 classes: road, lane "
        "markings, undrivable, movable, my car"
    )


def test_tune_frames_are_left_out(recipe_file, streets):
    recipe = read_recipe(Recipe, recipe_file())
    assert len(start.open_data(recipe, print).train) == 10
    names = start.open_data(dataclasses.replace(recipe, exclude_tune=True), print).train.names
    assert len(names) == 8
    assert not any(name.startswith("0001TP") for name in names)
    with pytest.raises(TrainingError, match="exclude_tune leaves no frame of camvid"):
        start.open_data(dataclasses.replace(recipe, exclude_tune=True, split="tune"), print)


def test_an_init_that_does_not_fit(recipe_file, tmp_path, capsys):
    recipe, first = recipe_file(steps=1), tmp_path / "first"
    assert run(recipe, first) == 0
    init = f'init="{first / "checkpoint"}"'
    assert run(recipe, tmp_path / "second", "--set", init) == 0
    capsys.readouterr()
    for change, words in (
        ('model="espnetc_q5"', "its encoder is not that of the recipe's model: 24 tensors are"),
        ("input.mean=[1, 2, 3]", "expects order 'rgb', mean [123.675, 116.28, 103.53]"),
    ):
        assert run(recipe, tmp_path / "third", "--set", init, "--set", change) == 2
        assert words in said(capsys)


def test_an_encoder_goes_to_another_head(recipe_file, tmp_path, capsys):
    recipe, first = recipe_file(steps=1), tmp_path / "first"
    assert run(recipe, first) == 0
    still = ["--set", "optimizer.lr=1e-20", "--set", "freeze_bn=true"]
    change = ["--set", 'model="espnet_q3+dsrl"', "--set", "eval_sizes=[]"]
    init = ["--init", str(first / "checkpoint")]
    capsys.readouterr()
    assert run(recipe, tmp_path / "second", *init, *still, *change) == 0
    assert "tensors taken; fresh: project3, norm3, up3, project2, join, fuse, up2, last, " in said(
        capsys
    )
    theirs = load_file(first / "checkpoint" / "weights.safetensors")
    mine = load_file(tmp_path / "second" / "checkpoint" / "weights.safetensors")
    encoder = [key for key in theirs if key.startswith("encoder.") and "num_batches" not in key]
    assert len(encoder) == 98
    assert all(torch.equal(theirs[key], mine[f"host.{key}"]) for key in encoder)


def test_a_void_output_stays_so_that_the_head_fits(recipe_file, tmp_path):
    """A published network has one output more than classes; on the same classes it keeps it."""
    path = recipe_file()
    plain = read_recipe(Recipe, path)
    spec = ModelSpec("espnet_q3", {}, void_outputs=1)
    inputs = InputSpec(plain.input.order, plain.input.mean, plain.input.std)
    classes = CLASS_TABLES["camvid11"]
    save_checkpoint(
        tmp_path / "void",
        build_model(spec, 12),
        Manifest("checkpoint", spec.name, classes.to_dict(), inputs, model=spec),
    )
    words = ('model="espnet_q3+dsrl"', f'init="{tmp_path / "void"}"', "eval_sizes=[]")
    said: list[str] = []
    opened = start.open_model(read_recipe(Recipe, path, words), classes, said.append)
    assert said[0].endswith("tensors taken; fresh: upsample")
    assert opened.spec.void_outputs == 1
    opened = start.open_model(read_recipe(Recipe, path, words), fewer(classes), said.append)
    assert "fresh: project3, norm3" in said[1]
    assert opened.spec.void_outputs == 0


def fewer(classes: ClassTable) -> ClassTable:
    """Without the last class."""
    return dataclasses.replace(classes, names=classes.names[:-1], palette=classes.palette[:-1])


def test_init_goes_on_from_the_weights(recipe_file, tmp_path):
    recipe, first = recipe_file(steps=3), tmp_path / "first"
    assert run(recipe, first) == 0
    still = ["--set", "optimizer.lr=1e-20", "--set", "freeze_bn=true", "--set", "steps=1"]
    init = f'init="{first / "checkpoint"}"'
    assert run(recipe, tmp_path / "second", "--set", init, *still) == 0
    a, b = (
        torch.load(tmp_path / name / "state.pt", weights_only=True)["average"]["model"]
        for name in ("first", "second")
    )
    for key in a:
        if not key.endswith("num_batches_tracked"):
            torch.testing.assert_close(a[key], b[key], rtol=1e-6, atol=1e-7)


def test_a_missing_library_says_what_to_install(recipe_file, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for name in [n for n in sys.modules if n.startswith("edgeseg.training.")]:
        monkeypatch.delitem(sys.modules, name)
    assert run(recipe_file(), tmp_path / "run") == 2
    assert said(capsys) == (
        "edgeseg: training needs 'matplotlib'. Install it: pip install 'edgeseg[train]'"
    )


def test_data_to_measure_with_has_the_same_classes(recipe_file, tmp_path, capsys):
    other = "eval_data=synthetic:size=64x128,count=1"
    assert run(recipe_file(), tmp_path / "run", "--set", other) == 2
    assert said(capsys) == (
        "edgeseg: data has class table 'camvid11', eval_data 'cityscapes19'; they must be the same"
    )
