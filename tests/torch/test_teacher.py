"""A teacher: it sees the same pixels, its scores are compared by hand, and a run learns from it."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest
import torch

from edgeseg.bundle import InputSpec, ModelSpec
from edgeseg.cli import main
from edgeseg.errors import TrainingError
from edgeseg.labels import CLASS_TABLES, ClassTable
from edgeseg.models.network import Maps, Network, build_model
from edgeseg.training.batches import Batch
from edgeseg.training.branches import build_loss
from edgeseg.training.plan import Input, Recipe
from edgeseg.training.plan_losses import FeaturePlan, QatPlan, TeacherPlan
from edgeseg.training.teacher import Distillation, Teacher, open_teacher
from edgeseg.training.teacher_features import affinity_error, attention_error, feature_term

pytestmark = pytest.mark.torch

ASKED = {"model": "espnet_q3", "data": "camvid:x", "size": (32, 64), "steps": 4, "batch": 2}
IMAGES = torch.zeros(1, 3, 8, 16)


class Known(torch.nn.Module):
    """Gives what it was made with."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.logits


class Seeing(Network):
    """Gives what it sees."""

    def features(self, image: torch.Tensor) -> Maps:
        return {"image": image}

    def head(self, features: Maps) -> torch.Tensor:
        return features["image"]

    def upsample(self, scores: torch.Tensor) -> torch.Tensor:
        return scores

    def cut(self, outputs: int) -> None: ...


def batch() -> Batch:
    return Batch(IMAGES, torch.zeros(1, 8, 16).long(), ("a",))


def logits(*values: float) -> torch.Tensor:
    """(1, C, 8, 16), the same everywhere."""
    return torch.tensor(values).reshape(1, -1, 1, 1).expand(1, len(values), 8, 16).clone()


# What the teacher sees


def test_the_teacher_sees_the_same_pixels_in_its_own_order_and_normalisation():
    pixels = torch.randint(0, 256, (2, 3, 4, 6)).float()
    given = Input("rgb", (10.0, 20.0, 30.0), (2.0, 4.0, 8.0))
    mean = torch.tensor(given.mean).reshape(1, 3, 1, 1)
    std = torch.tensor(given.std).reshape(1, 3, 1, 1)
    own = InputSpec("bgr", (1.0, 2.0, 3.0), (5.0, 5.0, 5.0))
    seen = Teacher(Seeing(), own, given)((pixels - mean) / std)
    wanted = (pixels.flip(1) - torch.tensor(own.mean).reshape(1, 3, 1, 1)) / 5.0
    torch.testing.assert_close(seen["logits"], wanted, rtol=1e-5, atol=1e-4)


# The loss


def test_divergence_by_hand():
    """Softmax of (ln 3, 0) is (3/4, 1/4); the student's is (1/2, 1/2)."""
    loss = Distillation(Known(logits(math.log(3), 0.0)), 2.0, 1.0)
    terms = loss(logits(0.0, 0.0), batch())
    assert list(terms) == ["distil"]
    expected = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert float(terms["distil"].total / terms["distil"].count) == pytest.approx(expected)
    assert terms["distil"].weight == 2.0


def test_a_temperature_softens_and_is_paid_back():
    """At 2, (2 ln 3, 0) is softened to (ln 3, 0); the divergence counts four times."""
    once = Distillation(Known(logits(math.log(3), 0.0)), 1.0, 1.0)(logits(0.0, 0.0), batch())
    soft = Distillation(Known(logits(2 * math.log(3), 0.0)), 1.0, 2.0)(logits(0.0, 0.0), batch())
    assert float(soft["distil"].total) == pytest.approx(4 * float(once["distil"].total))


def test_void_scores_of_the_student_and_another_size_of_the_teacher():
    """Three outputs, of which two are classes; the teacher's maps have half the size."""
    small = logits(1.0, 0.0)[:, :, ::2, ::2]
    terms = Distillation(Known(small), 1.0, 1.0)({"logits": logits(1.0, 0.0, 9.0)}, batch())
    assert float(terms["distil"].total) == pytest.approx(0.0, abs=1e-5)


def test_pairs_by_hand():
    """Two cells: the student's are at right angles, the teacher's alike. Cosines 0 and 1."""
    student = logits(1.0, 0.0)
    student[:, :, :, 8:] = logits(0.0, 1.0)[:, :, :, 8:]
    terms = Distillation(Known(logits(1.0, 0.0)), 0.0, 1.0, pairs=3.0)(student, batch())
    assert list(terms) == ["pairs"]
    assert float(terms["pairs"].total / terms["pairs"].count) == pytest.approx(0.5)  # 2 of 4 pairs
    assert terms["pairs"].weight == 3.0


def test_the_student_learns_and_the_teacher_does_not():
    known = Known(torch.nn.Parameter(logits(2.0, 0.0)))
    student = logits(0.0, 0.0).requires_grad_()
    Distillation(known, 1.0, 1.0)(student, batch())["distil"].total.backward()
    assert student.grad is not None
    assert (student.grad[:, 0] < 0).all()
    assert known.logits.grad is None


# Opening


def taught(**keys: object) -> Recipe:
    return Recipe(**{**ASKED, **keys}, teacher=TeacherPlan("espnet_q8_camvid", 0.5))


def test_a_shipped_teacher_stands_beside_cross_entropy():
    said: list[str] = []
    student = build_model(ModelSpec("espnet_q3"), 11).train()
    (loss,) = open_teacher(taught(), CLASS_TABLES["camvid11"], student, said.append)
    assert said == ["teacher espnet_q8_camvid: espnet_q8"]
    both = build_loss(taught(), student, 11, None, (loss,))
    images = torch.randn(2, 3, 32, 64)
    terms = both(student(images), Batch(images, torch.zeros(2, 32, 64).long(), ("a", "b")))
    assert {name: term.weight for name, term in terms.items()} == {"ce": 1.0, "teacher": 0.5}
    assert float(terms["teacher"].total.detach()) > 0


def test_a_teacher_of_other_classes_is_refused():
    with pytest.raises(TrainingError, match=r"knows the classes of 'camvid11', the data those of"):
        open_teacher(taught(), CLASS_TABLES["cityscapes19"], Seeing(), print)


def test_a_teacher_that_can_not_take_the_size_is_refused():
    recipe = Recipe(**{**ASKED, "size": (40, 64)}, teacher=TeacherPlan("dfanet_b_camvid"))
    table: ClassTable = CLASS_TABLES["camvid11"]
    with pytest.raises(TrainingError, match=r"multiples of \d+; size is 40x64"):
        open_teacher(recipe, table, Seeing(), print)


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        ({"weight": -1.0}, "weight is -1.0; expected 0 or more"),
        (
            {"weight": 0.0},
            "weight, pairs and features.weight are all 0; the teacher would teach nothing",
        ),
        ({"temperature": 0.0}, "temperature is 0.0; expected a positive number"),
    ],
)
def test_what_the_table_can_not_hold(plan, said):
    with pytest.raises(ValueError) as error:
        TeacherPlan("x", **plan)
    assert str(error.value) == said


def test_a_recipe_without_a_teacher_is_what_it_was():
    assert not [key for key in Recipe(**ASKED).what_matters() if key.startswith("teacher")]
    assert taught().what_matters()["teacher.weight"] == 0.5
    with pytest.raises(ValueError, match=r"\[teacher\] names no checkpoint: give --teacher"):
        Recipe(**ASKED, teacher=TeacherPlan(pairs=1.0))


# Inner maps


def test_affinity_of_maps_of_other_widths_and_sizes():
    """Two cells: the student's two channels at right angles, the teacher's three alike."""
    student = torch.zeros(1, 2, 1, 4)
    student[0, 0, 0, :2] = student[0, 1, 0, 2:] = 1.0
    total, count = affinity_error(student, torch.ones(1, 3, 1, 2), (1, 2))
    assert float(total) / count == pytest.approx(0.5)  # 2 of 4 pairs: 0 against 1
    assert count == 4


def test_attention_is_where_a_map_is_strong():
    """Energies (9, 16) and (1, 0): of length one (0.49, 0.87) and (1, 0)."""
    student = torch.tensor([3.0, 4.0]).reshape(1, 1, 1, 2).expand(2, 5, 1, 2)
    teacher = torch.tensor([1.0, 0.0]).reshape(1, 1, 1, 2).expand(2, 7, 1, 2)
    total, frames = attention_error(student, teacher, (1, 2))
    a, b = 9 / math.hypot(9, 16), 16 / math.hypot(9, 16)
    assert float(total) == pytest.approx(2 * ((1 - a) ** 2 + b**2))
    assert frames == 2


@pytest.mark.parametrize("host", ["espnet_q3", "pspnet_r18", "espnetc_q3+dsrl"])
@pytest.mark.parametrize("kind", ["affinity", "attention"])
def test_a_named_map_is_taught_and_the_rest_behind_it_is_not(host, kind):
    """A plain network, one with auxiliary heads, a wrapped one."""
    options = {"width": 0.125} if host.startswith("pspnet") else {}
    student = build_model(ModelSpec(host, options), 11)
    name = student.watchable()[-2]
    plan = FeaturePlan(2.0, kind, name, "level2")
    recipe = Recipe(**ASKED, teacher=TeacherPlan("espnet_q8_camvid", 0.0, features=plan))
    said: list[str] = []
    (loss,) = open_teacher(recipe, CLASS_TABLES["camvid11"], student, said.append)
    assert said == [f"teacher espnet_q8_camvid: espnet_q8; its map 'level2' teaches '{name}'"]
    images = torch.randn(2, 3, 32, 64)
    terms = loss(student.train()(images), Batch(images, torch.zeros(2, 32, 64).long(), ("a", "b")))
    assert list(terms) == ["features"]
    assert terms["features"].weight == 2.0
    terms["features"].total.backward()
    touched = {n for n, p in student.named_parameters() if p.grad is not None and p.grad.any()}
    assert touched
    assert not [n for n in touched if student.is_head(n)]
    with torch.no_grad():
        assert isinstance(student.eval()(images), torch.Tensor)


def test_a_map_that_is_none_is_refused():
    student = build_model(ModelSpec("espnet_q3"), 11)
    for key in ("student", "teacher"):
        said = f"'level9', which is no map of the {key}. Did you mean"
        plan = FeaturePlan(1.0, **{key: "level9"})
        recipe = Recipe(**ASKED, teacher=TeacherPlan("espnet_q8_camvid", features=plan))
        with pytest.raises(TrainingError, match=rf"\[teacher.features\] {key} is {said}"):
            open_teacher(recipe, CLASS_TABLES["camvid11"], student, print)
    flat, maps = {"feature": torch.zeros(2, 5)}, {"feature": torch.zeros(2, 5, 1, 1)}
    with pytest.raises(TrainingError, match=r"the map of the teacher has shape \(2, 5\); expected"):
        feature_term(FeaturePlan(1.0), maps, flat, batch())
    teacher = TeacherPlan("x", features=FeaturePlan(1.0))
    with pytest.raises(ValueError, match=r"names no student; with \[qat\] give a tensor of"):
        Recipe(**ASKED, qat=QatPlan("y"), teacher=teacher)


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        ({"weight": -1.0}, "weight is -1.0; expected 0 or more"),
        ({"weight": 1.0, "kind": "afinity"}, "kind is 'afinity'; expected affinity, attention"),
        ({"kind": "attention"}, "weight is 0; give [teacher.features] a weight"),
        ({"student": "x"}, "weight is 0; give [teacher.features] a weight, or leave it away"),
    ],
)
def test_what_the_table_of_features_can_not_hold(plan, said):
    with pytest.raises(ValueError) as error:
        FeaturePlan(**plan)
    assert str(error.value).startswith(said)


def test_a_recipe_without_features_is_what_it_was():
    assert not [key for key in taught().what_matters() if key.startswith("teacher.features")]
    plan = TeacherPlan("x", features=FeaturePlan(0.5))
    assert Recipe(**ASKED, teacher=plan).what_matters()["teacher.features.kind"] == "affinity"


# The whole


def losses(folder: Path) -> list[float]:
    with (folder / "log.csv").open() as log:
        return [float(row["loss"]) for row in csv.DictReader(log)]


def test_a_run_learns_from_a_teacher(tmp_path, recipe_file):
    """The student of a run before teaches the next: the same start, and one more term to lower."""
    file, first, second = recipe_file(steps=6), tmp_path / "first", tmp_path / "second"
    words = ["train", str(file), "--set", "log_every=1"]
    assert main([*words, "--out", str(first)]) == 0
    teacher = str(first / "checkpoint")
    words += ["--teacher", teacher, "--set", "teacher.pairs=1.0"]
    assert main([*words, "--out", str(second)]) == 0
    assert losses(second)[0] > losses(first)[0] + 0.01
    assert losses(second)[-1] < losses(second)[0]
    assert f'# --set teacher.model="{teacher}"' in (second / "recipe.toml").read_text()


def test_a_deeplabv3plus_teaches_its_maps_to_a_light_student(tmp_path, recipe_file):
    """Another family, width and stride; its scores are left out, so the maps alone are felt."""
    file, teacher, alone, taught = (recipe_file(steps=2), *(tmp_path / n for n in "abc"))
    words = ["train", str(file), "--set", "log_every=1"]
    strong = ["--set", "model=deeplabv3plus_mobilenetv2", "--set", "options.width=0.25"]
    assert main([*words, *strong, "--out", str(teacher)]) == 0
    assert main([*words, "--out", str(alone)]) == 0
    words += ["--teacher", str(teacher / "checkpoint"), "--set", "teacher.weight=0.0"]
    assert main([*words, "--set", "teacher.features.weight=1.0", "--out", str(taught)]) == 0
    assert losses(taught)[0] > losses(alone)[0] + 0.001
