"""What the rewrites save is measured on the graphs with and without each."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from onnx import TensorProto, helper

from edgeseg.pipeline import rewrites_speed
from edgeseg.pipeline.rewrites_speed import BEFORE, main

pytestmark = pytest.mark.rooms

STREETS = ("--size", "64x128", "--data", "synthetic:size=64x128,count=40")


def test_a_row_for_every_pass_that_changes_the_graph(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(rewrites_speed, "ENGINES", (("onnxruntime", None),))
    out = tmp_path / "speed.json"
    assert main(["espnet_q3", str(out), *STREETS, "--rounds", "2"]) == 0
    content = json.loads(out.read_text())
    assert content["size"] == "64x128"
    assert [row["pass"] for row in content["rows"]] == [BEFORE, "pools as convolutions"]
    assert content["rows"][0]["ratio"] == [1, 1, 1]
    assert all(row["cpu_ms"] > 0 for row in content["rows"])
    assert "pools as convolutions" in capsys.readouterr().out


def test_a_graph_that_no_pass_changes_is_said(monkeypatch, capsys):
    relu = helper.make_node("Relu", ["image"], ["scores"])
    image, scores = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 8, 8])
        for name in ("image", "scores")
    )
    plain = helper.make_model(helper.make_graph([relu], "plain", [image], [scores]))
    network = SimpleNamespace(single=plain)
    monkeypatch.setattr(rewrites_speed, "scored_float", lambda *_: (network, True))
    assert main(["espnet_q3", *STREETS]) == 2
    assert "no rewrite changes espnet_q3; there is nothing to compare" in capsys.readouterr().err


def test_a_model_that_is_none_is_said_once(capsys):
    assert main(["espnet_q33", *STREETS]) == 2
    assert capsys.readouterr().err.count("no model name. Did you mean 'espnet_q3'?") == 1


def test_a_size_that_is_none(capsys):
    assert main(["espnet_q3", "--size", "64"]) == 2
    assert "size '64' is not HEIGHTxWIDTH" in capsys.readouterr().err
