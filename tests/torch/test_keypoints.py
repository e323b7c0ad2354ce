"""Keypoints: the drawn persons, heatmaps and distances by hand, and DSRL around such a head."""

from __future__ import annotations

import json
import math
import shlex
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from edgeseg.bundle import InputSpec, Manifest, ModelSpec
from edgeseg.dataset.persons import HUES, JOINTS, draw_person
from edgeseg.errors import RecipeError
from edgeseg.export.simplify import simplify
from edgeseg.export.to_onnx import to_onnx
from edgeseg.labels import ClassTable
from edgeseg.models import MODELS, Entry
from edgeseg.models.checkpoint import save_checkpoint
from edgeseg.models.dsrl import DSRL
from edgeseg.models.keypoints import Keypoints
from edgeseg.models.network import build_model
from edgeseg.pipeline.keypoints import main
from edgeseg.training.batches import Batch
from edgeseg.training.keypoints import (
    build,
    distances,
    draw,
    heatmap_error,
    locate,
    targets,
)
from edgeseg.training.plan import Recipe

pytestmark = pytest.mark.torch

K = len(JOINTS)
SIZE = (32, 32)
RECIPE = Recipe("espnetc_q3+dsrl", "persons:", SIZE, steps=2, batch=2)
TABLE = ClassTable("joints", JOINTS, tuple((i, i, i) for i in range(K)))


# The persons


def test_a_seed_is_a_person_whose_joints_are_where_limbs_are():
    picture, joints = draw_person(3, (96, 128))
    again, _ = draw_person(3, (96, 128))
    other, _ = draw_person(4, (96, 128))
    assert picture.shape == (96, 128, 3)
    assert picture.dtype == np.uint8
    assert joints.shape == (K, 2)
    assert (picture == again).all()
    assert not (picture == other).all()
    right = 0
    for seed in range(50):
        picture, joints = draw_person(seed, (96, 128))
        assert (joints >= 0).all()
        assert (joints < (96, 128)).all()
        for name in ("left hand", "right foot"):
            seen = picture[tuple(joints[JOINTS.index(name)])].astype(int)
            right += np.abs(seen - HUES[name]).max() <= 60  # tint 20, noise of deviation 8
    assert right >= 85, "of 100; elsewhere another limb lies over it"


def test_the_network_sees_the_larger_picture_halved():
    crops = draw(RECIPE, [(0, 1, 2, 3)], sharp=True)
    assert crops.images.shape == (1, 32, 32, 3)
    assert crops.sharp is not None
    assert crops.sharp.shape == (1, 64, 64, 3)
    mean = crops.sharp.float().reshape(1, 32, 2, 32, 2, 3).mean((2, 4))
    assert (mean - crops.images.float()).abs().max() <= 1.0
    assert crops.labels.shape == (1, K, 2)
    assert crops.names == ("person-0-1-2-3",)


# Heatmaps by hand


def test_targets_at_both_resolutions():
    """A joint at (7, 4) of 16 x 16; at half of that at (3.25, 1.75). Deviations 4 and 2."""
    joint = torch.tensor([[[7, 4]]])
    full = targets(joint, (16, 16), 8)
    assert float(full[0, 0, 7, 4]) == 1.0
    assert float(full[0, 0, 9, 4]) == pytest.approx(math.exp(-4 / 32))
    half = targets(joint, (8, 8), 8)
    assert float(half[0, 0, 3, 2]) == pytest.approx(math.exp(-(0.25**2 + 0.25**2) / 8))
    assert locate(half, (8, 8)).tolist() == [[[7, 4]]]
    assert locate(full, (8, 8)).tolist() == [[[7, 4]]]


def test_the_error_of_nothing_is_one_and_of_the_targets_zero():
    joints = torch.tensor([[[7, 4], [2, 9]]])
    batch = Batch(torch.zeros(1, 3, 8, 8), joints, ("a",))
    wanted = targets(joints, (16, 16), 8)
    for found, expected in ((torch.zeros_like(wanted), 1.0), (wanted, 0.0), (2 * wanted, 1.0)):
        term = heatmap_error({"logits": found}, batch)["heatmaps"]
        assert float(term.total / term.count) == pytest.approx(expected)


def test_the_error_at_a_joint_weighs_more():
    """One pixel off by 1 there, 21 times that of one where the target is nearly nothing."""
    joints = torch.tensor([[[0, 0]]])
    batch = Batch(torch.zeros(1, 3, 32, 32), joints, ("a",))
    wanted = targets(joints, (64, 64), 32)
    errors = []
    for place in ((0, 0), (63, 63)):
        found = wanted.clone()
        found[0, 0, place[0], place[1]] += 1.0
        errors.append(float(heatmap_error(found, batch)["heatmaps"].total))
    assert errors == pytest.approx([21.0, 1.0], abs=1e-4)


def test_distances_are_in_torsos():
    """Neck at (0, 0), hip at (6, 8): ten pixels."""
    joints = torch.zeros(1, K, 2).long()
    joints[0, JOINTS.index("hip")] = torch.tensor([6, 8])
    found = joints.clone()
    found[0, 0] = torch.tensor([3, 4])
    away = distances(found, joints)
    assert away[0, 0] == pytest.approx(0.5)
    assert away[0, 1:].max() == 0.0


# DSRL around it


def test_the_wrapper_takes_it_as_any_host():
    model = build(RECIPE).train()
    assert isinstance(model, DSRL)
    assert isinstance(model.host, Keypoints)
    outputs = model(torch.randn(2, 3, *SIZE))
    assert {name: tuple(x.shape[1:]) for name, x in outputs.items()} == {
        "logits": (K, 64, 64), "scores": (K, 8, 8), "image": (3, 64, 64),
        "seg": (16, 8, 8), "sr": (16, 32, 32),
    }  # fmt: skip
    alone = build(Recipe("espnetc_q3", "persons:", SIZE, steps=2, batch=2)).eval()
    assert alone(torch.randn(1, 3, *SIZE)).shape == (1, K, 32, 32)


def describe(model: onnx.ModelProto) -> list[object]:
    graph = model.graph
    nodes: list[object] = [node.SerializeToString() for node in graph.node]
    return nodes + [(t.name, tuple(t.dims), t.data_type) for t in graph.initializer]


def test_the_exported_graph_is_the_same_whatever_it_was_trained_with(tmp_path, monkeypatch):
    """As a host of the list would be; node for node, in every stage."""
    entry = Entry("edgeseg.models.keypoints:Keypoints", {"host": "espnetc_q3"})
    monkeypatch.setitem(MODELS, "keypoints", entry)
    graphs = []
    for stage in ("sssr", "sssr+sisr+fa"):
        spec = ModelSpec("keypoints+dsrl", {"dsrl": {"stage": stage}})
        inputs = InputSpec("rgb", (120.0, 120.0, 120.0), (60.0, 60.0, 60.0), size=SIZE)
        manifest = Manifest("checkpoint", stage, TABLE.to_dict(), inputs, model=spec)
        folder = tmp_path / stage
        save_checkpoint(folder, build_model(spec, K).eval(), manifest)
        graphs.append(to_onnx(folder, size=SIZE, batch=1, order="rgb", scores=True))
    alone, trained = graphs
    assert alone.left_out is None
    assert trained.left_out is not None
    assert trained.left_out.branches == ("sisr", "transform")
    described = describe(simplify(alone.model))
    assert described == describe(simplify(trained.model))
    assert len(described) > 40
    assert (alone.output.kind, alone.output.scale, alone.output.factor) == ("scores", 2, 8)
    assert (alone.macs, alone.params) == (trained.macs, trained.params)


# Refusals, and the whole


def test_what_can_not_be():
    with pytest.raises(RecipeError, match=r"keypoints take a host alone or 'espnetc_q3\+dsrl'"):
        build(Recipe("espnetc_q3+dupsample", "persons:", SIZE, steps=2, batch=2))
    with pytest.raises(RecipeError, match=r"options of 'dsrl': unknown key 'stages'"):
        build(Recipe(RECIPE.model, "persons:", SIZE, 2, 2, options={"dsrl": {"stages": "sssr"}}))
    with pytest.raises(RecipeError, match="data is 'camvid:x'; keypoints are learned on"):
        build(Recipe(RECIPE.model, "camvid:x", SIZE, 2, 2))
    with pytest.raises(RecipeError, match="init does nothing for keypoints; leave it away"):
        build(Recipe(RECIPE.model, "persons:", SIZE, 2, 2, init="x.pth"))
    with pytest.raises(RecipeError, match=r"multiples of 8\. Nearest: 32x32"):
        build(Recipe(RECIPE.model, "persons:", (32, 30), 2, 2))


def test_all_variants_train_and_are_compared(tmp_path, capsys):
    suite = Path(__file__).parents[2] / "benchmarks" / "suites" / "keypoints.toml"
    out = tmp_path / "keypoints.json"
    words = [str(suite), "--out", str(out)]
    for change in ("steps=3", "batch=2", "size=[32, 32]", "eval_frames=3", "log_every=3"):
        words += ["--set", change]
    assert main(words) == 0
    content = json.loads(out.read_text())
    assert shlex.split(content["command"])[3:] == words
    plain, *others = content["runs"]
    assert plain["more_than_first"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert [row["variant"] for row in others] == ["sssr", "sssr_sisr"]
    assert len({(row["params"], row["macs"]) for row in others}) == 1
    assert set(plain["pck"]) == {"0.05", "0.1", "0.2"}
    assert "step 3 of 3: heatmaps " in capsys.readouterr().err
    (tmp_path / "bare.toml").write_text('# Nothing\nmodel = "espnetc_q3"\n')
    assert main([str(tmp_path / "bare.toml"), "--out", str(out)]) == 2
    assert "expected variants to compare, as [variants.NAME]" in capsys.readouterr().err
