"""`edgeseg eval --crf --boundary` on a checkpoint: torch's scores, the CRF, mBA, and the cost."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edgeseg.bundle import read_bundle
from edgeseg.cli import main
from edgeseg.pipeline.model import find_model, open_model, open_with_crf
from edgeseg.runtime.crf import CrfSpec
from edgeseg.runtime.engine import EngineOptions
from edgeseg.training.engine_torch import TorchEngine, TorchScoresEngine

pytestmark = pytest.mark.torch

SIZE = (128, 256)


def test_scores_of_a_checkpoint_win_where_its_labels_say():
    bundle = read_bundle(find_model("espnet_q3"))
    image = np.random.default_rng(0).integers(0, 256, (1, *SIZE, 3), np.uint8)
    options = EngineOptions(1)
    scores = TorchScoresEngine(bundle, options).infer(image)
    assert scores.shape == (1, 19, *SIZE)
    assert scores.dtype == np.float32
    assert (scores.argmax(1) == TorchEngine(bundle, options).infer(image)).all()


def test_weights_of_zero_change_nothing():
    settings = {"size": SIZE, "fit": None, "options": EngineOptions(1)}
    image = np.random.default_rng(1).integers(0, 256, (*SIZE, 3), np.uint8)
    plain = open_model("espnet_q3", **settings)
    nothing = open_with_crf("espnet_q3", CrfSpec(w1=0, w2=0), **settings)
    assert (plain.segment(image) == nothing.segment(image)).all()
    assert (plain.segment(image) != open_with_crf("espnet_q3", CrfSpec(), **settings)
            .segment(image)).any()  # fmt: skip


def test_eval_says_what_the_crf_did_and_cost(tmp_path: Path, capsys):
    typed = ["eval", "espnet_q3", "--data", "synthetic:size=128x256,count=2", "--size", "128x256"]
    typed += ["--threads", "1", "--boundary", "--json"]
    assert main([*typed, str(tmp_path / "plain.json")]) == 0
    assert main([*typed, str(tmp_path / "crf.json"), "--crf"]) == 0
    said = capsys.readouterr().out
    plain, crf = (json.loads((tmp_path / f"{n}.json").read_text()) for n in ("plain", "crf"))
    assert "crf" not in plain
    assert crf["crf"]["ms_per_frame"] > 0
    assert crf["crf"]["w1"] == 4
    assert crf["miou"] != plain["miou"]
    for found in (plain, crf):
        assert 0 < found["mba"] < 100
        assert f", mBA {found['mba']:.2f} (2 frames of synthetic:" in said
        assert "mBA: share of right labels" in found["rule"]
    assert said.count("dense CRF (") == 1
