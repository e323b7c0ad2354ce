"""What DSRL and DUpsample minimise, by pencil; and that a whole run does it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from edgeseg.bundle import ModelSpec, read_manifest
from edgeseg.cli import main
from edgeseg.dataset import Dataset, Sample, open_dataset
from edgeseg.errors import RecipeError, TrainingError
from edgeseg.labels import CLASS_TABLES, IGNORE
from edgeseg.models.dupsample import Reconstruct
from edgeseg.models.network import build_model
from edgeseg.recipe import read_recipe, read_toml
from edgeseg.training import start
from edgeseg.training.batches import Asked, Batch, Crops, RandomCrops
from edgeseg.training.branches import (
    AffinityDistance,
    CompressedDistance,
    Joint,
    Weighted,
    affinity,
    asked_of_crops,
    build_loss,
    squared_error,
)
from edgeseg.training.distributed import World
from edgeseg.training.evaluation import evaluate
from edgeseg.training.losses import CrossEntropy, Term
from edgeseg.training.patches import cut, find_basis
from edgeseg.training.plan import AugmentPlan, Input, LossPlan, Recipe
from edgeseg.weights import weights_folder

pytestmark = pytest.mark.torch

RECIPE = {"data": "camvid:x", "size": (32, 64), "steps": 2, "batch": 2}
NONE = torch.zeros(0)


def batch(labels=NONE, images=NONE, sharp=None) -> Batch:
    return Batch(images, labels, ("a",), sharp)


def mean(term: Term) -> float:
    return float(term.total / term.count)


# Affinities


def test_affinity_is_the_cosine_of_every_two_pixels():
    """Three pixels with features (1, 0), (0, 5) and (2, 2)."""
    features = torch.tensor([[[[1.0, 0.0, 2.0]], [[0.0, 5.0, 2.0]]]])
    half = 0.5**0.5
    expected = [[1, 0, half], [0, 1, half], [half, half, 1]]
    torch.testing.assert_close(affinity(features)[0], torch.tensor(expected), atol=1e-6, rtol=0)


def test_a_pixel_without_features_is_like_none_and_gives_no_nan():
    features = torch.zeros(1, 2, 1, 2, requires_grad=True)
    values = affinity(features + torch.tensor([[[[0.0, 3.0]], [[0.0, 0.0]]]]))
    assert values.tolist() == [[[0.0, 0.0], [0.0, pytest.approx(1.0)]]]
    values.sum().backward()
    assert torch.isfinite(features.grad).all()


def test_affinity_distance_by_pencil():
    """SSSR: two unlike pixels, S = [[1, 0], [0, 1]]; SISR: two alike, all ones: 2 of 4 differ."""
    seg = torch.tensor([[[[1.0, 0.0]], [[0.0, 3.0]]]])
    sr = torch.tensor([[[[1.0, 4.0]]]])
    terms = AffinityDistance(8)({"seg": seg, "sr": sr}, batch(images=torch.zeros(1, 3, 8, 16)))
    assert list(terms) == ["fa"]
    assert float(terms["fa"].count) == 4
    assert mean(terms["fa"]) == pytest.approx(0.5, abs=1e-5)


def test_affinities_are_taken_between_the_means_of_cells():
    """A 16x16 input in cells of 8: maps at 1/1 and 1/4 both become 2x2, so 16 pairs a frame."""
    generator = torch.Generator().manual_seed(0)
    fine, coarse = torch.rand(3, 4, 16, 16, generator=generator), torch.rand(3, 6, 4, 4)
    images = torch.zeros(3, 3, 16, 16)
    term = AffinityDistance(8)({"seg": coarse, "sr": fine}, batch(images=images))["fa"]
    assert float(term.count) == 3 * 16
    means = fine.reshape(3, 4, 2, 8, 2, 8).mean((3, 5))
    cells = coarse.reshape(3, 6, 2, 2, 2, 2).mean((3, 5))
    expected = (affinity(cells) - affinity(means)).abs().mean()
    assert mean(term) == pytest.approx(float(expected), abs=1e-6)


def test_a_map_coarser_than_the_cells_decides():
    seg, sr = torch.rand(1, 2, 1, 2), torch.rand(1, 2, 32, 64)
    term = AffinityDistance(8)({"seg": seg, "sr": sr}, batch(images=torch.zeros(1, 3, 32, 64)))
    assert float(term["fa"].count) == 4


# The image


def test_squared_error_is_the_mean_over_pixels_and_channels():
    made, sharp = torch.zeros(1, 3, 1, 2), torch.tensor([1.0, 2.0, 0, 0, 0, 3.0]).view(1, 3, 1, 2)
    terms = squared_error({"image": made}, batch(sharp=sharp))
    assert mean(terms["mse"]) == pytest.approx(14 / 6)


# Compressed labels


def layer(patches: np.ndarray, classes: int, channels: int) -> Reconstruct:
    basis = find_basis(patches, classes, channels)
    made = Reconstruct(channels, classes, patches.shape[1])
    made.weight.data.copy_(torch.from_numpy(basis.weight))
    return made


def test_compressed_distance_by_pencil():
    """One pattern: v has 4 ones and P v = 2. Scores of 1 are (1 - 2)^2 / 4 pixels off."""
    patch = np.array([[[0, 1], [1, 1]]], np.uint8)
    loss = CompressedDistance(layer(patch, 2, 1))
    labels = torch.from_numpy(np.tile(patch[0], (1, 3))).long()[None].clone()
    terms = loss({"scores": torch.tensor([[[[2.0, 1.0, 0.0]]]])}, batch(labels))
    assert float(terms["compressed"].count) == 3
    assert float(terms["compressed"].total) == pytest.approx((0 + 1 + 4) / 4, abs=1e-5)
    labels[0, 1, 3] = IGNORE  # the patch in the middle is left out
    terms = loss({"scores": torch.tensor([[[[2.0, 1.0, 0.0]]]])}, batch(labels))
    assert float(terms["compressed"].count) == 2
    assert float(terms["compressed"].total) == pytest.approx(4 / 4, abs=1e-5)


def test_compressed_labels_as_scores_cost_nothing():
    labels = np.random.default_rng(0).integers(0, 3, (8, 12)).astype(np.uint8)
    made = layer(cut(labels, 4), 3, 5)
    truth = torch.from_numpy(labels).long()[None]
    terms = CompressedDistance(made)({"scores": made.compress(truth)}, batch(truth))
    assert mean(terms["compressed"]) == 0


# Which loss for which network


def recipe(model: str, **changes: object) -> Recipe:
    return Recipe(model=model, **{**RECIPE, **changes})


@pytest.mark.parametrize(
    ("model", "options", "terms", "sharp"),
    [
        ("espnetc_q3", {}, {"ce": 1.0}, False),
        ("espnetc_q3+dsrl", {"dsrl": {"stage": "sssr"}}, {"ce": 1.0}, False),
        ("espnetc_q3+dsrl", {"dsrl": {"stage": "sssr+sisr"}}, {"ce": 1.0, "mse": 0.1}, True),
        ("espnetc_q3+dsrl", {}, {"ce": 1.0, "mse": 0.1, "fa": 1.0}, True),
        ("espnetc_q3+dupsample", {}, {"ce": 1.0}, False),
        (
            "espnetc_q3+dupsample+dsrl",
            {"dupsample": {"channels": 8}},
            {"ce": 1.0, "mse": 0.1, "fa": 1.0},
            True,
        ),
    ],
)
def test_the_loss_fits_the_network(model, options, terms, sharp):
    network = build_model(ModelSpec(model, options), 5).train()
    assert asked_of_crops(network) == Asked(network.scale, sharp)
    images = torch.randn(2, 3, 32, 64)
    large = torch.randn(2, 3, 32 * network.scale, 64 * network.scale)
    labels = torch.randint(0, 5, (2, *large.shape[2:]))
    loss = build_loss(recipe(model), network, 5, None)
    found = loss(network(images), batch(labels, images, large if sharp else None))
    assert {name: term.weight for name, term in found.items()} == terms
    assert all(torch.isfinite(term.total) for term in found.values())


def test_weights_come_from_the_recipe(tmp_path):
    path = tmp_path / "r.toml"
    path.write_text(
        'model = "espnetc_q3+dupsample+dsrl"\ndata = "x"\nsize = [32, 64]\nsteps = 1\nbatch = 1\n'
        "[dsrl]\nmse = 0.5\nfa = 2.0\n[dupsample]\ncompressed = 3.0\ncross_entropy = 0.0\n"
    )
    made = read_recipe(Recipe, path)
    spec = ModelSpec(made.model, {"dupsample": {"channels": 8}})
    network = build_model(spec, 5).train()
    images, large = torch.randn(1, 3, 32, 64), torch.randn(1, 3, 64, 128)
    labels = torch.randint(0, 5, (1, 64, 128))
    found = build_loss(made, network, 5, None)(network(images), batch(labels, images, large))
    weights = {name: term.weight for name, term in found.items()}
    assert weights == {"ce": 0.0, "compressed": 3.0, "mse": 0.5, "fa": 2.0}


def test_joint_and_weighted_keep_totals_and_counts():
    def part(outputs, given):
        return {"a": Term(torch.tensor(6.0), torch.tensor(3.0))}

    def other(outputs, given):
        return {"b": Term(torch.tensor(1.0), torch.tensor(1.0), 0.5)}

    terms = Joint([Weighted(part, 0.25), other])({}, batch())
    assert [(t.total.item(), t.count.item(), t.weight) for t in terms.values()] == [
        (6.0, 3.0, 0.25), (1.0, 1.0, 0.5),
    ]  # fmt: skip


def test_cross_entropy_takes_named_outputs():
    logits, labels = torch.randn(1, 3, 2, 2), torch.zeros(1, 2, 2, dtype=torch.long)
    loss = CrossEntropy(LossPlan(), 3)
    named, plain = loss({"logits": logits}, batch(labels)), loss(logits, batch(labels))
    assert torch.equal(named["ce"].total, plain["ce"].total)


def test_terms_do_not_depend_on_how_a_batch_is_shared():
    """The totals and counts of two halves add up to those of the whole."""
    network = build_model(ModelSpec("espnetc_q3+dsrl"), 5).eval()
    images, large = torch.randn(4, 3, 32, 64), torch.randn(4, 3, 64, 128)
    labels = torch.randint(0, 5, (4, 64, 128))
    loss = build_loss(recipe("espnetc_q3+dsrl"), network, 5, None)

    def of(part: slice) -> dict[str, Term]:
        with torch.no_grad():
            outputs = network.outputs(images[part])
        return loss(outputs, batch(labels[part], images[part], large[part]))

    whole, first, second = of(slice(None)), of(slice(0, 1)), of(slice(1, 4))
    for name, term in whole.items():
        for key in ("total", "count"):
            parts = getattr(first[name], key) + getattr(second[name], key)
            torch.testing.assert_close(getattr(term, key), parts, rtol=1e-4, atol=1e-5)


# Recipes


@pytest.mark.parametrize(
    ("model", "table", "said"),
    [
        ("espnet_q3", "[dsrl]\nmse = 0.2",
         "[dsrl] belongs to models '...+dsrl'; model is 'espnet_q3'"),
        ("espnet_q3+dsrl", "[dupsample]\npatches = 9",
         "[dupsample] belongs to models '...+dupsample'; model is 'espnet_q3+dsrl'"),
        ("espnet_q3+dsrl", "[dsrl]\nmsee = 0.2",
         "[dsrl]: unknown key 'msee'. Did you mean 'mse'?"),
        ("espnet_q3+dsrl", "[dsrl]\nmse = -0.1", "[dsrl]: mse is -0.1; expected 0 or more"),
        ("espnet_q3+dsrl", "[dsrl]\nsubsample = 0", "[dsrl]: subsample is 0; expected 1 or more"),
        ("espnet_q3+dupsample", "[dupsample]\npatches = 0",
         "[dupsample]: patches is 0; expected 1 or more"),
        ("espnet_q3+dupsample", "[dupsample]\ncross_entropy = 0",
         "[dupsample]: compressed and cross_entropy are both 0; nothing would be learned"),
    ],
)  # fmt: skip
def test_recipes_that_can_not_be(model, table, said, tmp_path):
    path = tmp_path / "r.toml"
    path.write_text(
        f'model = "{model}"\ndata = "x"\nsize = [32, 64]\nsteps = 1\nbatch = 1\n{table}\n'
    )
    with pytest.raises(RecipeError) as refused:
        read_recipe(Recipe, path)
    assert str(refused.value) == f"{path}: {said}"


def test_tables_of_other_wrappers_do_not_matter():
    """Runs of plain networks from before these tables existed can be gone on with."""
    assert not [k for k in recipe("espnet_q3").what_matters() if k.startswith(("dsrl", "dups"))]
    joined = recipe("espnet_q3+dsrl").what_matters()
    assert joined["dsrl.mse"] == 0.1
    assert joined["dsrl.fa"] == 1.0
    assert "dupsample.patches" not in joined


# Crops


def test_labels_of_twice_the_size_come_with_the_image_at_both_sizes():
    rows, columns = np.mgrid[:32, :64]
    frame = np.stack([rows, columns, rows * 3], 2).astype(np.uint8)
    labels = (rows // 2 + columns // 8).astype(np.uint8)
    table = CLASS_TABLES["camvid11"]
    data = Dataset("x", "train", table, ("f",), [Sample("f", frame, labels)].__getitem__)
    made = Recipe(
        model="espnet_q3+dsrl", data="x", size=(8, 16), steps=1, batch=1,
        augment=AugmentPlan(flip=1.0),
    )  # fmt: skip
    item = RandomCrops(data, made, Asked(2, sharp=True))[0, 0]
    assert item.sharp.shape == (16, 32, 3)
    assert item.labels.shape == (16, 32)
    top, left = int(item.sharp[0, 0, 0]), int(item.sharp[0, -1, 1])
    np.testing.assert_array_equal(item.sharp, frame[top:, left:][:16, :32][:, ::-1])
    np.testing.assert_array_equal(item.labels, labels[top:, left:][:16, :32][:, ::-1])
    halved = item.sharp.reshape(8, 2, 16, 2, 3).mean((1, 3))
    np.testing.assert_array_equal(item.image, np.floor(halved + 0.5))
    without = RandomCrops(data, made, Asked(2))[0, 0]
    assert without.sharp is None
    np.testing.assert_array_equal(without.image, item.image)


def test_crops_keep_sharp_images_in_locked_memory(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self + 1)
    crops = Crops(torch.zeros(1), torch.zeros(1), ("a",), torch.zeros(1)).pin_memory()
    assert crops.sharp.tolist() == [1.0]
    assert Crops(torch.zeros(1), torch.zeros(1), ("a",)).pin_memory().sharp is None


def test_evaluation_sees_labels_of_twice_the_input_in_full():
    """A frame twice the input, every pixel another class than its neighbours: nothing is lost."""
    table = CLASS_TABLES["camvid11"]
    truth = np.random.default_rng(0).integers(0, 11, (8, 16)).astype(np.uint8)
    sample = Sample("f", np.zeros((8, 16, 3), np.uint8), truth)
    data = Dataset("x", "val", table, ("f",), [sample].__getitem__)

    class Oracle(torch.nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            assert image.shape == (1, 3, 4, 8)
            hot = torch.nn.functional.one_hot(torch.from_numpy(truth).long(), 11)
            return hot.permute(2, 0, 1)[None].float()

    matrix = evaluate(Oracle(), data, (4, 8), Input(), World(torch.device("cpu")))
    assert matrix.pixel_accuracy() == 100.0


# Whole runs

SUITES = Path(__file__).parents[2] / "benchmarks" / "suites"
SHIPPED, STUDY = SUITES / "shipped_camvid.toml", SUITES / "study_camvid.toml"
SHORT = ("size=[64, 96]", "eval_sizes=[]", "steps=2", "batch=2", "log_every=1", "eval_every=0",
         "cache=false", "augment.scale=[1.5, 2.0]")  # fmt: skip
ALIKE = re.compile(r".*_2|.*_fine_tuned|plain_240x320|dfanet_b_(pretrained|one.*|no_substages)")
VARIANTS = [name for name in read_toml(STUDY)["variants"] if not ALIKE.fullmatch(name)]
"""Those whose networks or losses are like no other's."""


def short(
    variant: str,
    streets: Path,
    out: Path,
    *changes: str,
    init: Path | str = "",
    resume: bool = False,
) -> dict:
    """A variant of the study on made-up streets, with what `edgeseg train --json` wrote."""
    words = ["train", str(STUDY), "--variant", variant, "--out", str(out)]
    words += ["--json", str(out) + ".json", *(["--resume"] if resume else [])]
    for change in (f"data=camvid:{streets}", *SHORT, *changes, f'init="{init}"'):
        words += ["--set", change]
    assert main(words) == 0
    return json.loads(Path(str(out) + ".json").read_text())


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_studys_variants_run_for_two_steps(variant, streets, tmp_path):
    few = ("options.dupsample.channels=16", "dupsample.patches=300")
    learned = variant.startswith("dupsample_")
    changes = few if learned else ()
    result = short(variant, streets, tmp_path / "run", *changes)
    assert result["step"] == 2
    assert 0 <= result["miou"] <= 100
    log = (tmp_path / "run" / "log.csv").read_text().splitlines()
    assert len(log) == 3
    basis = result.get("dupsample")
    assert (basis is not None) == learned
    if basis:
        assert (basis["patch"], basis["channels"]) == (32, 16)
        assert basis["patches"] >= 16
        assert 0 < basis["reconstruction_error"] < 0.3
        assert 30 < basis["miou_bound"] <= 100


def test_training_starts_from_a_shipped_name(streets):
    changes = (f"data=camvid:{streets}", *SHORT, "model=espnet_q8+dsrl", "size=[64, 96]",
               "init=espnet_q8_dsrl_camvid", "options.dsrl={stage='sssr'}")  # fmt: skip
    recipe = read_recipe(Recipe, SHIPPED, changes, "espnet_q8_dsrl_camvid")
    opened = start.open_model(recipe, open_dataset(recipe.data, "train").classes, print)
    theirs = load_file(weights_folder("espnet_q8_dsrl_camvid") / "weights.safetensors")
    state = opened.model.state_dict()
    assert not opened.fresh
    assert all(torch.equal(state[key], value.float()) for key, value in theirs.items()
               if value.is_floating_point())  # fmt: skip


def test_a_further_stage_goes_on_from_a_former_one(streets, tmp_path):
    quick, first = "model=espnetc_q3+dsrl", tmp_path / "first" / "checkpoint"
    short("sssr", streets, tmp_path / "first", quick)
    changes = (f"data=camvid:{streets}", *SHORT, quick, f"init={first}")
    made = read_recipe(Recipe, STUDY, changes, "sssr_sisr_fa")
    table = open_dataset(made.data, "train").classes
    opened = start.open_model(made, table, print)
    assert opened.spec.options["dsrl"]["stage"] == "sssr+sisr+fa"
    assert not opened.fresh
    state, old = opened.model.state_dict(), load_file(first / "weights.safetensors")
    assert all(torch.equal(state[key], value) for key, value in old.items())
    assert {key.partition(".")[0] for key in state.keys() - old.keys()} == {"sisr", "transform"}
    short("sssr_sisr_fa", streets, tmp_path / "second", quick, init=first)
    second = tmp_path / "second" / "checkpoint"
    assert read_manifest(second).model.options["dsrl"]["stage"] == "sssr+sisr+fa"


def test_a_former_stage_is_no_further_one(streets, tmp_path, capsys):
    quick, init = "model=espnetc_q3+dsrl", tmp_path / "whole" / "checkpoint"
    short("sssr_sisr_fa", streets, tmp_path / "whole", quick)
    words = ["train", str(STUDY), "--variant", "sssr", "--out", str(tmp_path / "less")]
    for change in (f"data=camvid:{streets}", *SHORT, quick, f"init={init}"):
        words += ["--set", change]
    assert main(words) == 2
    assert "weights do not fit the model: 0 missing, " in capsys.readouterr().err


def test_dupsample_goes_on_with_the_basis_that_it_began_with(streets, tmp_path):
    """A pre-training run hands W on by `init`; an encoder of another network brings none."""
    quick = ("model=espnetc_q3+dupsample", "options.dupsample.channels=16", "dupsample.patches=300",
             "options.dupsample.low_level=[]")  # fmt: skip
    pretrain = ("dupsample.compressed=1.0", "dupsample.cross_entropy=0.0")
    init = tmp_path / "first" / "checkpoint"
    short("dupsample_32", streets, tmp_path / "first", *quick, *pretrain)
    before = load_file(init / "weights.safetensors")
    result = short("dupsample_32", streets, tmp_path / "second", *quick, init=init)
    assert result["dupsample"]["patches"] == 0
    after = load_file(tmp_path / "second" / "checkpoint" / "weights.safetensors")
    assert torch.equal(before["upsample.weight"], after["upsample.weight"])
    rows = after["upsample.weight"].flatten(1)
    torch.testing.assert_close(rows @ rows.T, torch.eye(16), atol=1e-5, rtol=0)
    host = tmp_path / "host" / "checkpoint"
    short("ceiling", streets, tmp_path / "host", "model=espnetc_q3")
    result = short("dupsample_32", streets, tmp_path / "third", *quick, init=host)
    assert result["dupsample"]["patches"] >= 16
    found = load_file(tmp_path / "third" / "checkpoint" / "weights.safetensors")
    assert torch.equal(found["upsample.weight"], before["upsample.weight"])


def test_the_basis_of_a_resumed_run_is_kept():
    known = {"patch": 32.0}
    spec = ModelSpec("espnetc_q3+dupsample")
    opened = start.Opened(build_model(spec, 5), spec, fresh=True)
    kept = opened.model.upsample.weight.clone()
    found = start.settle_basis(recipe("espnetc_q3+dupsample"), opened, None, known, print)
    assert found is known
    assert torch.equal(opened.model.upsample.weight, kept)
    plain = start.Opened(build_model(ModelSpec("espnetc_q3"), 5), spec, fresh=True)
    assert start.settle_basis(recipe("espnetc_q3"), plain, None, None, print) is None


def test_an_interrupted_dupsample_run_ends_the_same(streets, tmp_path, monkeypatch):
    quick = ("model=espnetc_q3+dupsample", "options.dupsample.channels=16", "dupsample.patches=300",
             "save_every=1")  # fmt: skip
    whole = short("dupsample_32", streets, tmp_path / "whole", *quick)
    from edgeseg.training import loop

    def broken(self, step, crops, real=loop.Stepper.train):
        if step == 1:
            raise TrainingError("the machine is gone")
        return real(self, step, crops)

    with monkeypatch.context() as patched:
        patched.setattr(loop.Stepper, "train", broken)
        with pytest.raises(AssertionError, match="2 == 0"):
            short("dupsample_32", streets, tmp_path / "cut", *quick)
    monkeypatch.setattr(start, "find_basis", None)
    again = short("dupsample_32", streets, tmp_path / "cut", *quick, resume=True)
    assert again["dupsample"] == whole["dupsample"]
    weights = [
        load_file(tmp_path / d / "checkpoint" / "weights.safetensors") for d in ("whole", "cut")
    ]
    assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())
