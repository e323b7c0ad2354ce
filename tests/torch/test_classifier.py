"""Backbones as classifiers: trained by the same loop, judged by top-1 and 5, taken by `--init`."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from edgeseg.bundle import InputSpec, Manifest, ModelSpec
from edgeseg.cli import main
from edgeseg.dataset import Dataset, Sample
from edgeseg.errors import RecipeError, TrainingError, UsageError
from edgeseg.frame import Box
from edgeseg.labels import CLASS_TABLES, ImageClasses
from edgeseg.models import CLASSIFIERS, MODELS
from edgeseg.models.checkpoint import load_checkpoint, save_checkpoint
from edgeseg.models.dfanet import Project, Xception
from edgeseg.models.network import build_model, build_trainee
from edgeseg.models.wrapper import innermost
from edgeseg.recipe import from_table
from edgeseg.training import start
from edgeseg.training.augment import _box_size, resized_crop
from edgeseg.training.batches import Batch, RandomCrops
from edgeseg.training.branches import build_loss
from edgeseg.training.classification import count_tops, evaluate_images, middle, score_tops
from edgeseg.training.distributed import World
from edgeseg.training.journal import read_log
from edgeseg.training.losses import count_labels
from edgeseg.training.plan import AugmentPlan, Input, Recipe
from edgeseg.training.step import Stepper

pytestmark = [pytest.mark.torch, pytest.mark.usefixtures("one_thread")]

INPUT = {"order": "rgb", "mean": (123.675, 116.28, 103.53), "std": (58.395, 57.12, 57.375)}
RECIPE = """
model = "xception_b"
data = "imagefolder:{data}"
size = [32, 32]
steps = {steps}
batch = 8
save_every = 4
log_every = 2
seed = 3
ema = 0.5
[input]
fit = "crop"
[optimizer]
name = "adamw"
lr = 0.01
[augment]
area = [0.5, 1.0]
brightness = 0.2
"""


@pytest.fixture(scope="module")
def stripes(tmp_path_factory):
    """Two classes, told by the direction of their stripes: four images of each to train on."""
    root = tmp_path_factory.mktemp("stripes")
    generator = np.random.default_rng(1)
    for split, count in (("train", 4), ("val", 2)):
        for name in ("across", "upright"):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                wave = np.sin(np.arange(40) * 0.8 + generator.random() * 6)
                image = np.repeat((128 + 90 * wave)[:, None], 48, 1)
                if name == "upright":
                    image = np.resize(128 + 90 * np.sin(np.arange(48) * 0.8 + i), (40, 48))
                image = image[..., None] + generator.normal(0, 10, (40, 48, 3))
                picture = Image.fromarray(np.clip(image, 0, 255).astype(np.uint8))
                picture.save(root / split / name / f"{i}.png")
    return root


def recipe(**given):
    plain = {"model": "xception_b", "data": "imagefolder:x", "size": [32, 32], "steps": 4}
    plain |= {"batch": 2, "input": {"fit": "crop"}}
    return from_table(Recipe, plain | given, "r.toml")


# The network


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_classifier_is_a_network_of_one_label(name):
    torch.manual_seed(0)
    model = build_trainee(ModelSpec(name), 7)
    image = torch.randn(2, 3, 48, 32)
    logits = model(image)
    assert logits.shape == (2, 7, 1, 1)
    xception = Xception(name[-1])
    xception.load_state_dict(model.state_dict(), strict=False)
    expected = xception.train().classify(image)[:, :7]
    assert torch.allclose(logits[..., 0, 0], expected, atol=1e-5)
    logits.square().sum().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []
    # Only what turns scores into weights of channels is the backbone's alone.
    missing = xception.state_dict().keys() - model.state_dict().keys()
    assert missing == {"stages.attention.weigh.weight", "stages.attention.weigh.bias"}
    assert model.state_dict()["stages.attention.fc.weight"].shape[0] == 1000
    model.cut(3)
    assert model(image).shape == (2, 3, 1, 1)


def test_classifiers_are_no_segmentation_models():
    assert not CLASSIFIERS.keys() & MODELS.keys()
    with pytest.raises(UsageError) as refused:
        build_model(ModelSpec("xception_b"), 5)
    assert str(refused.value) == (
        "'xception_b' names whole images and labels no pixels: 'edgeseg train' trains it, and "
        "'edgeseg train --init' starts a segmentation model from it"
    )
    with pytest.raises(UsageError) as refused:
        build_trainee(ModelSpec("xception_a"), 1001)
    assert str(refused.value) == (
        "xception_a has 1000 outputs, the data 1001 classes; DFANet's attention needs a layer "
        "1000 wide, so take at most as many classes"
    )
    with pytest.raises(UsageError, match=r"model 'xception_b' does not take \{'q': 3\}"):
        build_trainee(ModelSpec("xception_b", {"q": 3}), 5)


def test_a_strided_projection_is_the_same_in_training():
    torch.manual_seed(0)
    layer = Project(8, 12)
    image = torch.randn(2, 8, 11, 14)
    trained, used = layer.train()(image), layer.eval()(image)
    assert used.shape == (2, 12, 6, 7)
    assert torch.allclose(trained, used, atol=1e-6)
    (gradient,) = torch.autograd.grad(trained.square().sum(), layer.weight)
    (expected,) = torch.autograd.grad(used.square().sum(), layer.weight)
    assert torch.allclose(gradient, expected, rtol=1e-4)


CHANNELS_LAST = """
import torch
from edgeseg.models.dfanet import Block
block = Block(8, 32, stride=2).to(memory_format=torch.channels_last)
for _ in range(4):
    x = torch.randn(8, 8, 192, 256).to(memory_format=torch.channels_last)
    block(x).sum().backward()
"""


def test_the_first_block_trains_in_channels_last():
    """A strided 1x1 of 8 channels ended the process here; so it is tried in one of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_PERTURB_": "165"}
    done = subprocess.run([sys.executable, "-c", CHANNELS_LAST], env=environment, check=False)
    assert done.returncode == 0


# Crops


def test_boxes_by_hand():
    plan = AugmentPlan(area=(0.08, 1.0), ratio=(0.5, 2.0))
    # 0.08 of 100x200 is 1600 pixels; a ratio in the middle of 1/2 to 2 is 1: 40x40.
    assert _box_size((100, 200), plan, np.array([[0.0, 0.5]])) == (40, 40)
    # 0.54 of it are 10800 pixels; width over height 2: 73.5 x 147.
    assert _box_size((100, 200), plan, np.array([[0.5, 1.0]])) == (73, 147)
    # All of it at ratio 1 is 141 high: the next draw is taken, or the largest box of ratio 2.
    assert _box_size((100, 200), plan, np.array([[1.0, 0.5], [0.0, 0.5]])) == (40, 40)
    assert _box_size((100, 300), plan, np.array([[1.0, 0.5]])) == (100, 200)
    assert _box_size((300, 100), plan, np.array([[1.0, 0.5]])) == (200, 100)


def test_a_crop_is_a_part_of_the_image():
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8)
    whole = AugmentPlan(area=(1.0, 1.0), ratio=(1.5, 1.5), flip=0.0)
    generator = np.random.default_rng(1)
    assert (resized_crop(image, (20, 30), whole, generator) == image).all()
    mirrored = AugmentPlan(area=(1.0, 1.0), ratio=(1.5, 1.5), flip=1.0)
    assert (resized_crop(image, (20, 30), mirrored, generator) == image[:, ::-1]).all()
    part = AugmentPlan(area=(0.15, 0.15), ratio=(1.0, 1.0), flip=0.0)  # 9x9 of 600 pixels
    cut = resized_crop(image, (9, 9), part, generator)
    places = [(y, x) for y in range(12) for x in range(22)]
    assert sum((image[y : y + 9, x : x + 9] == cut).all() for y, x in places) == 1


def test_crops_are_functions_of_seed_epoch_and_image():
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3)).astype(np.uint8)
    table = ImageClasses("t", ("a", "b"), ((0, 0, 0),) * 2)
    sample = Sample("b/x.png", image, np.array([[1]]))
    data = Dataset("imagefolder:x", "train", table, ("b/x.png",), lambda _: sample)
    crops = RandomCrops(data, recipe())
    first = crops[0, 0]
    assert (first.image.shape, first.labels.tolist(), first.name) == ((32, 32, 3), [[1]], "b/x.png")
    assert (RandomCrops(data, recipe())[0, 0].image == first.image).all()
    assert (crops[1, 0].image != first.image).any()
    assert (RandomCrops(data, recipe(seed=1))[0, 0].image != first.image).any()


# Scores


def test_tops_by_hand():
    scores = np.zeros((4, 7))
    scores[0, 6] = 1.0  # truth 6: first
    scores[1] = [9, 8, 7, 6, 5, 4, 3]  # truth 4: fifth
    scores[2] = [9, 8, 7, 6, 5, 4, 3]  # truth 5: sixth
    scores[3] = 2.0  # all equal, truth 1: second, for the first class goes first
    counts = count_tops(scores, np.array([6, 4, 5, 1]))
    assert counts[[1, 4, 5, 6]].tolist() == [[1, 0, 1], [1, 0, 1], [1, 0, 0], [1, 1, 1]]
    assert counts.sum() == 8
    names = tuple("abcdefg")
    tops = score_tops(counts + count_tops(scores[:1], np.array([6])), names)
    assert (tops.top1, tops.top5) == (40.0, 80.0)
    assert tops.per_class == {**dict.fromkeys("acd"), "b": 0.0, "e": 0.0, "f": 0.0, "g": 100.0}
    assert score_tops(np.zeros((2, 3), np.int64), ("a", "b")).top1 == 0.0


def test_the_middle_of_an_image():
    """256 on the short side, then 224: boxes in pixels of the image."""
    assert middle((256, 512), (224, 224)).source == Box(16, 144, 240, 368)
    assert middle((512, 256), (224, 224)).source == Box(144, 16, 368, 240)
    assert middle((64, 64), (64, 64)).source == Box(4, 4, 60, 60)
    assert middle((64, 64), (32, 32)).target == Box(0, 0, 32, 32)


class Brightness(torch.nn.Module):
    """Says class 255 for a bright middle and class 0 for a dark one."""

    def forward(self, x):
        logits = torch.zeros(len(x), 300, 1, 1)
        logits[:, 255, 0, 0] = x.mean((1, 2, 3))
        return logits


def test_images_are_judged_beyond_255_classes():
    """The middle is bright; 35 images, more than a batch: five are of class 0, two of class 9."""
    image = np.zeros((64, 128, 3), np.uint8)
    image[4:60, 36:92] = 255
    truth = [0] * 5 + [9] * 2 + [255] * 28
    table = ImageClasses("t", tuple(f"n{i}" for i in range(300)), ((0, 0, 0),) * 300)
    data = Dataset(
        "imagefolder:x", "val", table, ("x",) * 35,
        lambda i: Sample("x", image, np.array([[truth[i]]])),
    )  # fmt: skip
    spec = Input(mean=(0.0, 0.0, 0.0), std=(255.0, 255.0, 255.0), fit="crop")
    tops = evaluate_images(Brightness(), data, (32, 32), spec, World(torch.device("cpu")))
    # Behind 255 all are equal: class 0 is the second answer, class 9 the eleventh.
    assert tops.top1 == pytest.approx(100 * 28 / 35)
    assert tops.top5 == pytest.approx(100 * 33 / 35)
    assert (tops.per_class["n255"], tops.per_class["n0"], tops.per_class["n1"]) == (100, 0, None)


def test_class_255_is_learnt_and_counted():
    model = build_trainee(ModelSpec("xception_b"), 300)
    loss = build_loss(recipe(), model, 300, None)
    logits = torch.zeros(2, 300, 1, 1)
    logits[0, 255] = 3.0
    labels = torch.tensor([255, 7])[:, None, None]
    term = loss(logits, Batch(torch.zeros(2, 3, 32, 32), labels, ("a", "b")))["ce"]
    expected = torch.nn.functional.cross_entropy(logits[..., 0, 0], torch.tensor([255, 7]))
    assert float(term.total / term.count) == pytest.approx(float(expected))
    assert float(term.count) == 2
    counted = count_labels([np.array([[255]]), np.array([[299]]), np.array([[255]])], 300)
    assert (counted[255], counted[299], counted.sum()) == (2, 1, 3)


# A run


def run(file, out, *words):
    return main(["train", str(file), "--out", str(out), *words])


def write(tmp_path, data, steps, **changes):
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE.format(data=data, steps=steps))
    return path


def test_a_classifier_overfits_and_says_top1(tmp_path, stripes, streets, capsys):
    file = write(tmp_path, stripes, 60)
    out = tmp_path / "run"
    assert run(file, out, "--set", "eval_split=train", "--set", "eval_every=30") == 0
    said = capsys.readouterr().out
    assert said.startswith("top1 100.00, top5 100.00 at 32x32 (train, 8 frames, fit crop)\n")
    result = json.loads((out / "eval.json").read_text())
    assert (result["top1"], result["top5"]) == (100.0, 100.0)
    assert result["per_class"] == {"across": 100.0, "upright": 100.0}
    assert result["sizes"]["32x32"]["top1"] == 100.0
    assert result["rule"].startswith("short side scaled to 256/224")
    assert "miou" not in result
    header = (out / "log.csv").read_text().splitlines()[0]
    assert header == "step,seconds,loss,lr,grad_norm,frames_per_second,top1"
    rows = read_log(out / "log.csv")
    assert [r.step for r in rows if r.score is not None] == [30, 60]
    assert rows[-1].loss < 0.3 < 0.5 < rows[0].loss
    _, bundle = load_checkpoint(out / "checkpoint", build_trainee)
    assert isinstance(bundle.manifest.table, ImageClasses)
    assert bundle.manifest.input.fit == "crop"
    with pytest.raises(UsageError, match="names whole images and labels no pixels"):
        load_checkpoint(out / "checkpoint")
    assert main(["eval", str(out / "checkpoint"), "--data", f"camvid:{streets}"]) == 2
    assert "'xception_b' names whole images and labels no pixels" in capsys.readouterr().err


def test_a_stopped_run_ends_where_an_uninterrupted_one_does(tmp_path, stripes, monkeypatch, capsys):
    file = write(tmp_path, stripes, 12)
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert run(file, whole) == 0
    step = Stepper.train

    def stop_at_six(self, number, crops):
        self.stopping = number == 5
        return step(self, number, crops)

    monkeypatch.setattr(Stepper, "train", stop_at_six)
    assert run(file, stopped) == 130
    assert "interrupted after step 6" in capsys.readouterr().err
    monkeypatch.setattr(Stepper, "train", step)
    assert run(file, stopped, "--resume", "--set", "workers=1") == 0
    one, two = (load_file(d / "checkpoint" / "weights.safetensors") for d in (whole, stopped))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[k], two[k]) for k in one)
    rows = [read_log(d / "log.csv") for d in (whole, stopped)]
    assert [r.loss for r in rows[0]] == [r.loss for r in rows[1]]
    results = [json.loads((d / "eval.json").read_text()) for d in (whole, stopped)]
    assert [r.pop("seconds") for r in results]
    assert results[0] == results[1]


# From a classifier to DFANet


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Checkpoints of both classifiers with values that no fresh network has."""
    root = tmp_path_factory.mktemp("xceptions")
    table = ImageClasses("t", ("a", "b"), ((0, 0, 0),) * 2)
    for name in CLASSIFIERS:
        torch.manual_seed(11)
        model = build_trainee(ModelSpec(name), 2)
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(0.125)
        spec = InputSpec(**INPUT, fit="crop")
        manifest = Manifest("checkpoint", name, table.to_dict(), spec, model=ModelSpec(name))
        save_checkpoint(root / name, model, manifest)
    return root


CAMVID = CLASS_TABLES["camvid11"]


@pytest.mark.parametrize("name", ["dfanet_b", "dfanet_b+dsrl", "dfanet_b+dupsample"])
def test_init_fills_all_three_backbones(trained, name):
    said = []
    asked = recipe(model=name, init=str(trained / "xception_b"), input={}, size=[64, 64])
    opened = start.open_model(asked, CAMVID, said.append)
    assert opened.fresh
    assert opened.spec == ModelSpec(name)
    given = load_file(trained / "xception_b" / "weights.safetensors")
    host = innermost(opened.model)
    fresh = start.build_trainee(ModelSpec("dfanet_b"), 11).state_dict()
    own = host.state_dict()
    assert all(torch.equal(own[k], given[k]) for k in given if k.startswith("stem"))
    for i in range(3):
        for key, tensor in given.items():
            if not key.startswith("stages."):
                continue
            mine = own[key.replace("stages", f"backbones.{i}", 1)]
            joined = i and key.split(".")[2:3] == ["0"] and mine.shape != tensor.shape
            assert joined or torch.equal(mine, tensor), key
    assert [i for i in range(3) if own[f"backbones.{i}.enc2.0.body.0.weight"].shape[0] == 8] == [0]
    assert (own["backbones.2.attention.weigh.bias"] == 1).all()
    assert own["backbones.1.attention.fc.weight"].shape == fresh[
        "backbones.1.attention.fc.weight"
    ].shape == (1000, 128)  # fmt: skip
    head = "low, fuse, high, classifier, " if "dupsample" not in name else ""
    parts = "attention.weigh, enc2.0, enc3.0, enc4.0"
    count = len(own)
    # Of each backbone `weigh` has 2 tensors; of the later two 3 stages have 3 that see another.
    left = len([k for k in own if not k.startswith(("stem", "backbones"))]) + 3 * 2 + 2 * 3 * 3
    text = f"init {trained}/xception_b: {count - left} of {count} tensors taken into 3 backbones"
    assert said == [f"{text}; fresh: {head}and in the backbones {parts}"]


@pytest.mark.parametrize("name", ["dfanet_b", "espnet_q3", "dfanet_b+dsrl"])
def test_another_backbone_is_refused(trained, name):
    asked = recipe(model=name, init=str(trained / "xception_a"), input={}, size=[64, 64])
    with pytest.raises(TrainingError) as refused:
        start.open_model(asked, CAMVID, print)
    assert str(refused.value) == (
        f"init {trained}/xception_a holds 'xception_a', the backbone of 'dfanet_a'; the recipe's "
        f"model is '{name}'"
    )


def test_init_with_another_input_is_refused(trained):
    given = {"order": "bgr"}
    asked = recipe(model="dfanet_b", init=str(trained / "xception_b"), input=given, size=[64, 64])
    with pytest.raises(TrainingError, match=r"expects order 'rgb', mean \[123\.675, 116\.28"):
        start.open_model(asked, CAMVID, print)


def test_a_classifier_goes_on_with_other_classes(trained):
    table = ImageClasses("t", ("a", "b", "c"), ((0, 0, 0),) * 3)
    said = []
    asked = recipe(init=str(trained / "xception_b"))
    model = start.open_model(asked, table, said.append).model
    given = load_file(trained / "xception_b" / "weights.safetensors")
    assert all(torch.equal(tensor, given[key]) for key, tensor in model.state_dict().items())
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 3, 1, 1)
    with pytest.raises(TrainingError, match="its encoder is not that of the recipe's model"):
        start.open_model(recipe(model="xception_a", init=asked.init), table, said.append)


# Refusals


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            {"input": {}},
            "fit is 'pad'; 'xception_b' sees the middle of an image: give [input] fit = \"crop\"",
        ),
        (
            {"augment": {"scale": [0.5, 2.0]}},
            "[augment] scale belongs to segmentation models; model is 'xception_b'",
        ),
        (
            {"model": "dfanet_b", "augment": {"area": [0.5, 1.0]}},
            "[augment] area belongs to classifiers; model is 'dfanet_b'",
        ),
        (
            {"model": "dfanet_b", "augment": {"ratio": [1.0, 1.0]}},
            "[augment] ratio belongs to classifiers; model is 'dfanet_b'",
        ),
        (
            {"loss": {"ohem_threshold": 0.7}},
            "ohem_threshold chooses pixels; 'xception_b' has none to choose",
        ),
        ({"augment": {"area": [0.0, 1.0]}}, "area is [0.0, 1.0]; expected [low, high] in 0 to 1"),
        ({"augment": {"ratio": [2.0, 1.0]}}, "ratio is [2.0, 1.0]; expected [low, high] above 0"),
    ],
)
def test_recipes_that_are_refused(given, said):
    with pytest.raises(RecipeError) as refused:
        recipe(**given)
    assert str(refused.value).endswith(said)


def test_a_model_and_data_that_do_not_fit(streets, stripes):
    with pytest.raises(RecipeError) as refused:
        start.open_data(recipe(model="dfanet_b", data=f"imagefolder:{stripes}"), print)
    assert str(refused.value) == (
        f"data imagefolder:{stripes} labels whole images, and model 'dfanet_b' pixels; take one of "
        "xception_a, xception_b"
    )
    with pytest.raises(RecipeError) as refused:
        start.open_data(recipe(data=f"camvid:{streets}"), print)
    assert str(refused.value) == (
        f"data camvid:{streets} labels pixels, and model 'xception_b' whole images; take "
        "imagefolder:ROOT"
    )


def test_new_keys_do_not_change_what_a_segmentation_run_is():
    keys = {k for k in recipe(model="dfanet_b").what_matters() if k.startswith("augment.")}
    assert keys == {
        "augment." + k for k in ("scale", "flip", "brightness", "contrast", "saturation")
    }
    keys = {k for k in recipe().what_matters() if k.startswith("augment.")}
    assert "augment.area" in keys
    assert "augment.scale" not in keys
