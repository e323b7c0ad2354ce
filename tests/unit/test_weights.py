"""The weights that come with edgeseg: each has a card, the card says what the files say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgeseg.bundle import read_bundle
from edgeseg.cli import main
from edgeseg.errors import BundleError
from edgeseg.pipeline.card import card
from edgeseg.pipeline.model import list_models, list_weights, terms_of
from edgeseg.pipeline.plan import DEFAULT_MODEL
from edgeseg.weights import (
    SHIPPED,
    is_non_commercial,
    scores,
    shipped,
    terms,
    weights_folder,
)

pytestmark = pytest.mark.unit

NAMES = list(shipped())


def test_every_folder_has_a_card_and_scores_and_no_card_is_alone():
    assert DEFAULT_MODEL in NAMES
    assert {p.stem for p in SHIPPED.glob("*.md")} == set(NAMES)
    assert {p.stem for p in SHIPPED.glob("*.json")} == set(NAMES)
    assert {p.name for p in SHIPPED.iterdir() if p.is_dir()} - {"__pycache__"} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_the_card_says_what_the_scores_say(name):
    """Written by hand it would differ: python -m edgeseg.pipeline.ship writes both."""
    assert (SHIPPED / f"{name}.md").read_text(encoding="utf-8") == card(scores(name))


@pytest.mark.parametrize("name", NAMES)
def test_the_scores_are_those_of_the_folder(name):
    manifest, facts = read_bundle(shipped()[name]).manifest, scores(name)
    assert manifest.kind == "checkpoint"
    assert manifest.model is not None
    assert facts["name"] == manifest.name == name
    assert facts["model"] == manifest.model.name
    assert facts["weights"] == manifest.weights.__dict__
    assert tuple(facts["size"]) == manifest.input.size
    assert tuple(facts["per_class"]) == manifest.table.names
    known = [iou for iou in facts["per_class"].values() if iou is not None]
    assert facts["miou"] == pytest.approx(sum(known) / len(known), abs=0.011)
    assert {"256x512", "512x1024"} <= set(facts["macs"])
    assert facts["recipe"]["digest"] in manifest.history[0]


@pytest.mark.parametrize("name", NAMES)
def test_the_weights_are_small_and_free_of_what_only_training_needs(name):
    assert (SHIPPED / name / "weights.safetensors").stat().st_size < 5_000_000
    content = (SHIPPED / name / "weights.safetensors").read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert not [key for key in header if key.startswith(("sisr.", "transform."))]


def test_the_default_may_be_used_for_anything():
    assert not is_non_commercial(scores(DEFAULT_MODEL)["weights"]["licence"])


@pytest.mark.parametrize(
    ("licence", "bound"),
    [
        ("CC-BY-NC-4.0 (CamVid)", True),
        ("CC BY NC 4.0", True),
        ("MIT; Cityscapes is for non-commercial research", True),
        ("noncommercial", True),
        ("Apache-2.0", False),
        ("MIT (of Sync Inc)", False),
        ("commercial", False),
    ],
)
def test_non_commercial_licences_are_known(licence, bound):
    assert is_non_commercial(licence) is bound


def test_terms_are_one_line():
    assert terms("x train", "MIT") == "trained on x train; licence MIT"
    assert terms("x", "CC-BY-NC-4.0") == (
        "trained on x; licence CC-BY-NC-4.0 -- NON-COMMERCIAL use only"
    )
    assert terms_of("espnet_q3") == (
        "weights of espnet_q3: trained on synthetic train (procedural streets of edgeseg); "
        "licence Apache-2.0"
    )


def test_an_onnx_file_says_nothing_of_its_weights(tmp_path):
    (tmp_path / "net.onnx").touch()
    assert terms_of(str(tmp_path / "net.onnx")).endswith(
        "net.onnx: the file does not say what data and licence they are of"
    )


# edgeseg models


def test_models_lists_what_is_shipped(capsys):
    assert main(["models", "--json", "-"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in content["shipped"]] == NAMES
    by_name = {row["name"]: row for row in content["models"]}
    assert by_name["espnet_q3"]["licence"] == "Apache-2.0"
    assert by_name["espnet_q8"]["params"] == 363_462
    assert content["models"] == list_models()


ROW = {
    "name": "tiny", "model": "espnet_q3+dsrl", "classes": "camvid11", "data": "CamVid train",
    "licence": "CC-BY-NC-4.0", "non_commercial": True, "miou": 61.004, "size": [192, 256],
    "miou_data": "camvid val", "frames": 101, "refined": None, "bytes": 7,
}  # fmt: skip


def test_models_marks_what_is_not_free(capsys, monkeypatch):
    monkeypatch.setattr("edgeseg.cli.models.list_weights", lambda: [ROW])
    assert main(["models"]) == 0
    (line,) = (w for w in capsys.readouterr().out.splitlines() if w.startswith("tiny"))
    assert line.split("  ")[-1] == "NON-COMMERCIAL: CC-BY-NC-4.0"
    assert "61.00 at 192x256 (camvid val, 101 frames)" in line


def test_models_says_what_a_refiner_gains(capsys, monkeypatch):
    refined = {"labels_of": "other", "gain": {"miou": {"value": 0.371}}}
    monkeypatch.setattr("edgeseg.cli.models.list_weights", lambda: [ROW | {"refined": refined}])
    assert main(["models"]) == 0
    assert "  +0.37 on labels of other (camvid val, 101 frames)  " in capsys.readouterr().out


def test_models_without_weights(capsys, monkeypatch, tmp_path: Path):
    monkeypatch.setattr("edgeseg.weights.SHIPPED", tmp_path)
    assert list_weights() == []
    assert main(["models"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "No weights are shipped."


@pytest.mark.parametrize(
    ("typed", "end"),
    [
        ("espnet_q8_camvit", " Did you mean 'espnet_q8_camvid'?"),
        ("zzz", f" Shipped: {', '.join(NAMES)}"),
    ],
)
def test_what_is_neither_folder_nor_shipped_is_refused(typed, end):
    with pytest.raises(BundleError) as error:
        weights_folder(typed)
    assert str(error.value) == f"'{typed}' is no model folder and no shipped name.{end}"
