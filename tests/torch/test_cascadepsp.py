"""CascadePSP: the module, its losses and its training."""

import json
import math

import numpy as np
import pytest
import torch

from edgeseg.bundle import ModelSpec
from edgeseg.cli import main
from edgeseg.dataset import Sample, open_dataset
from edgeseg.errors import UsageError
from edgeseg.labels import IGNORE
from edgeseg.models import MODELS, REFINERS
from edgeseg.models.cascadepsp import CascadePSP
from edgeseg.models.imagenet import fill_encoder
from edgeseg.models.network import build_model, build_trainee
from edgeseg.models.resnet import ResNet
from edgeseg.training import start
from edgeseg.training.batches import Batch, Order, RandomCrops, load, normalise
from edgeseg.training.branches import build_loss
from edgeseg.training.distributed import World
from edgeseg.training.mask_losses import MaskLoss, gradient_size
from edgeseg.training.plan import Input, LossPlan, Optimizer, Recipe, RefinePlan
from edgeseg.training.step import Stepper

pytestmark = [pytest.mark.torch, pytest.mark.usefixtures("one_thread")]

PASSES = ["s8_1", "s8_2", "s4_2", "s8_3", "s4_3", "logits"]


def refiner(width: float = 0.125) -> CascadePSP:
    torch.manual_seed(0)
    model = build_trainee(ModelSpec("cascadepsp_r18", {"width": width}), 11)
    assert isinstance(model, CascadePSP)
    return model


def given(n: int = 2) -> torch.Tensor:
    """Normalised frames and coarse masks of -1 and 1."""
    image = torch.randn(n, 4, 48, 64)
    image[:, 3] = image[:, 3].sign()
    return image


# The module


def test_params_are_those_of_the_release():
    """Its weights take 259 MB: 67.7 M parameters in float32 (271 million bytes)."""
    with torch.device("meta"):
        model = build_trainee(ModelSpec("cascadepsp_r50"), 1)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(67.7, abs=0.15)


def test_outputs_of_all_passes_have_the_size_of_the_frame():
    model = refiner().train()
    found = model(given())
    assert list(found) == PASSES
    assert {tuple(x.shape) for x in found.values()} == {(2, 1, 48, 64)}
    image = given(1)
    with torch.no_grad():
        assert torch.equal(model.eval()(image), model.outputs(image)["logits"])


def test_three_passes_see_what_the_passes_before_found():
    """One encoder; after the frame come the coarse mask, and masks squashed to -1 to 1."""
    model, image = refiner().eval(), given(1)
    seen: list[torch.Tensor] = []
    model.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        found = model.outputs(image)
    coarse = image[:, 3:]
    masks = [
        (coarse, coarse, coarse),
        (coarse, found["s8_1"].tanh(), found["s8_1"].tanh()),
        (coarse, found["s8_2"].tanh(), found["s4_2"].tanh()),
    ]
    assert len(seen) == 3
    for entered, expected in zip(seen, masks, strict=True):
        assert torch.equal(entered, torch.cat([image[:, :3], *expected], 1))


def test_gradients_reach_every_parameter():
    model = refiner().train()
    labels = torch.randint(0, 2, (2, 48, 64))
    terms = MaskLoss(5.0)(model(given()), Batch(torch.zeros(0), labels, ("a", "b")))
    sum(t.weight * t.total / t.count for t in terms.values()).backward()
    dead = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not dead


def test_imagenets_weights_do_not_look_at_the_masks():
    plain, model = ResNet(18, width=0.125), refiner()
    fill_encoder(model.encoder, plain.state_dict(), "x.pth")
    kernel = model.encoder.conv1.weight
    assert torch.equal(kernel[:, :3], plain.conv1.weight)
    assert not kernel[:, 3:].any()


def test_names():
    assert not REFINERS.keys() & MODELS.keys()
    with pytest.raises(UsageError, match="'cascadepsp_r18' refines masks that another network"):
        build_model(ModelSpec("cascadepsp_r18"), 11)
    with pytest.raises(UsageError, match="has one output, the mask; 11 were asked for"):
        CascadePSP(11, 18)


# The losses


def batch(labels: torch.Tensor) -> Batch:
    return Batch(torch.zeros(0), labels, ("a",))


def test_losses_by_hand():
    """Logits of 0 are one half everywhere; a row without labels counts nowhere."""
    labels = torch.zeros(1, 8, 8, dtype=torch.long)
    labels[:, :2], labels[:, 7] = 1, IGNORE
    terms = MaskLoss(5.0)({name: torch.zeros(1, 1, 8, 8) for name in PASSES}, batch(labels))
    means = {name: float(t.total / t.count) for name, t in terms.items()}
    half = 0.5 * math.log(2) + 0.25 * (0.5 + 0.25)
    for name in PASSES:
        expected = {"s8": math.log(2), "s4": half}.get(name.partition("_")[0], 0.75)
        assert means[name] == pytest.approx(expected)
        assert terms[name].weight == 1.0
        assert terms[name].count == 56
    assert terms["gradient"].weight == 5.0
    assert terms["gradient"].count == 5 * 8  # rows that are 2 away from the one without labels


def test_the_gradient_of_a_step_by_hand():
    """Means of 3 are 0 1/3 2/3 1 there; Sobel's takes what is left and right of a pixel."""
    step = torch.zeros(1, 1, 9, 12)
    step[..., 6:] = 1
    row = gradient_size(step)[0, 0, 4, 2:10].tolist()
    expected = [0, 0, 1 / 3, 2 / 3, 2 / 3, 1 / 3, 0, 0]
    assert row == pytest.approx([math.hypot(g, 0.01) for g in expected], abs=1e-6)


def test_a_right_mask_costs_nothing():
    labels = torch.zeros(1, 8, 8, dtype=torch.long)
    labels[:, :, 3:] = 1
    sure = (labels[:, None].float() * 2 - 1) * 100
    terms = MaskLoss(5.0)(dict.fromkeys(PASSES, sure), batch(labels))
    assert max(float(t.total) for t in terms.values()) == pytest.approx(0.0, abs=1e-5)


# The recipe and its crops

ASKED = {"model": "cascadepsp_r18", "data": "camvid:x", "size": (32, 64), "steps": 2, "batch": 2}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model": "enet", "refine": RefinePlan((0.5, 1.0))},
         "[refine] belongs to cascadepsp_r18, cascadepsp_r50; model is 'enet'"),
        ({"loss": LossPlan("enet")},
         "[loss] trains what labels pixels; 'cascadepsp_r18' refines masks, by the losses of its "
         "paper: leave the table away"),
    ],
)  # fmt: skip
def test_what_a_recipe_can_not_hold(change, said):
    with pytest.raises(ValueError) as error:
        Recipe(**ASKED | change)
    assert str(error.value) == said


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        ({"iou": (0.0, 1.0)}, "iou is [0.0, 1.0]; expected [low, high] in 0 to 1"),
        ({"gradient": -1.0}, "gradient is -1.0; expected 0 or more"),
    ],
)
def test_what_the_table_can_not_hold(plan, said):
    with pytest.raises(ValueError) as error:
        RefinePlan(**plan)
    assert str(error.value) == said


def test_recipes_of_other_models_are_what_they_were():
    assert not [k for k in Recipe(**ASKED | {"model": "enet"}).what_matters() if "refine" in k]
    assert Recipe(**ASKED).what_matters()["refine.gradient"] == 5.0
    assert Recipe(**ASKED).metric == "iou"


def test_a_crop_has_a_mask_behind_its_colours():
    labels = np.zeros((40, 80), np.uint8)
    labels[:, 30:] = 4
    frame = Sample("a", np.repeat(labels[..., None] * np.uint8(50), 3, 2), labels)
    crops = RandomCrops({0: frame}, Recipe(**ASKED))
    item = crops[(0, 0)]
    assert item.image.shape == (32, 64, 4)
    assert set(np.unique(item.labels)) == {0, 1}
    assert set(np.unique(item.image[..., 3])) == {0, 255}
    again = crops[(0, 0)]
    assert (again.image == item.image).all()
    spec = Input("bgr", (1.0, 2.0, 3.0), (2.0, 2.0, 2.0))
    pixels = torch.tensor([[[[7, 8, 9, 255]]]], dtype=torch.uint8)
    assert normalise(pixels, spec, torch.device("cpu")).flatten().tolist() == [4.0, 3.0, 2.0, 1.0]


# The whole

RECIPE = """
model = "cascadepsp_r18"
options = {{ width = 0.125 }}
data = "camvid:{data}"
size = [48, 64]
steps = {steps}
batch = 4
seed = 3
ema = 0.9
log_every = 5
eval_split = "train"
[optimizer]
name = "adamw"
lr = 0.005
clip = 5.0
[schedule]
name = "onecycle"
[augment]
flip = 0.0
"""


def test_it_overfits_four_masks(streets):
    """The same four crops again and again: what was spoilt in them is known by heart."""
    recipe = Recipe(
        "cascadepsp_r18", f"camvid:{streets}", (48, 64), 45, 4, {"width": 0.125}, ema=0.5,
        optimizer=Optimizer("adamw", 0.005, clip=5.0), refine=RefinePlan((0.7, 0.8)),
    )  # fmt: skip
    data = open_dataset(recipe.data, "train")
    crops = next(load(data, recipe, Order(len(data), 4, 1), 0, pin=False))
    world = World(torch.device("cpu"))
    model = start.open_model(recipe, data.classes, print).model
    stepper = Stepper(recipe, world, model, build_loss(recipe, model, 11, None))
    losses = [stepper.train(step, crops).loss for step in range(45)]
    assert losses[-1] < losses[0] / 4
    given = normalise(crops.images, recipe.input, world.device)
    with torch.no_grad():
        found = model(given)["logits"][:, 0] > 0
    known = crops.labels != IGNORE
    coarse, truth = crops.images[..., 3] > 0, crops.labels == 1

    def iou(mask: torch.Tensor) -> float:
        return float((mask & truth & known).sum() / ((mask | truth) & known).sum())

    assert iou(coarse) < 0.9
    assert iou(found) > 0.97


def test_a_run_by_the_command_line(tmp_path, streets, capsys):
    """It is scored, logged and kept as any other model."""
    file, out = tmp_path / "r.toml", tmp_path / "run"
    file.write_text(RECIPE.format(data=streets, steps=4))
    assert main(["train", str(file), "--out", str(out)]) == 0
    result = json.loads((out / "eval.json").read_text())
    shown = f"IoU of masks {result['iou_before']:.2f} -> {result['iou']:.2f} at 48x64"
    assert shown in capsys.readouterr().out
    assert 80 < result["iou_before"] < 100
    assert "class that occurs, spoilt as in training" in result["rule"]
    assert (out / "log.csv").read_text().splitlines()[0].endswith(",iou")


def test_a_refiner_has_its_own_losses_only():
    loss = build_loss(Recipe(**ASKED), refiner(), 11, None, ())
    assert isinstance(loss, MaskLoss)
    assert loss.gradient == 5.0
