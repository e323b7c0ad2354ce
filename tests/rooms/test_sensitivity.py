"""Layers are tried one at a time: a broken range must be found, and the prefix change nothing."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from edgeseg.calibration.sensitivity import Layer, Loss
from edgeseg.cli import main
from edgeseg.metrics import agreement
from edgeseg.picture import DIFFERENT
from edgeseg.pipeline.quantise import Quantiser
from edgeseg.pipeline.sensitivity import Sensitivity, Trials
from edgeseg.pipeline.sensitivity_picture import REGAINED, bars

pytestmark = [pytest.mark.rooms, pytest.mark.usefixtures("one_thread")]

LAYER = "encoder.stage3.0.reduce"


@pytest.fixture(scope="module")
def broken(quantiser: Quantiser) -> Quantiser:
    """What LAYER reads is clipped at a hundredth of its range; labels are the float network's."""
    read = {p.activation for p in quantiser.places() if p.layer == LAYER}
    ranges = {n: v / 100 if n in read else v for n, v in quantiser.table.ranges.items()}
    gate = dataclasses.replace(quantiser.network.gate, truth=None)
    network = dataclasses.replace(quantiser.network, gate=gate)
    return Quantiser(network, dataclasses.replace(quantiser.table, ranges=ranges))


@pytest.fixture(scope="module")
def measured(broken) -> tuple[Trials, list[Layer], float]:
    trials = Trials(broken, "onnxruntime", 1)
    return trials, *trials.measure(lambda done, total: None)


def test_the_broken_layer_is_the_worst(measured):
    trials, layers, whole = measured
    assert layers[0].layer == LAYER
    assert layers[0].changed > 2 * layers[1].changed
    assert layers[0].snr_db < layers[1].snr_db
    assert layers[0].regained == max(layer.regained for layer in layers)
    assert sorted(layer.layer for layer in layers) == sorted(p.layer for p in trials.places)
    assert sum(layer.macs for layer in layers) == pytest.approx(1)
    assert whole > layers[0].changed / 2


def test_the_prefix_changes_no_number(broken, measured):
    """Whole graphs, each run from the image: the same percentages."""
    trials, layers, whole = measured
    gate = broken.network.gate
    some = np.linspace(0, len(gate) - 1, 6).round().astype(int)
    seen = gate.labels[some] != 255

    def changed(places) -> float:
        labels = trials.labels(places, gate.images[some])
        return 100 - agreement(labels[seen], gate.labels[some][seen])

    assert whole == pytest.approx(changed(trials.places), abs=0.01)
    worst = layers[0]
    alone = tuple(p for p in trials.places if p.layer == LAYER)
    rest = tuple(p for p in trials.places if p.layer != LAYER)
    assert worst.changed == pytest.approx(changed(alone), abs=0.15)
    assert worst.regained == pytest.approx(whole - changed(rest), abs=0.15)


def test_miou_confirms(measured):
    trials, layers, _ = measured
    worst = trials.confirm(layers[0])
    assert worst.alone.miou > 2
    assert worst.without.miou < trials.loss(trials.places).miou
    assert worst.alone.worst_class in trials._network.manifest.table.names


def result(count: int) -> Sensitivity:
    loss = Loss(0.5, "sky", 1.0)
    layers = [Layer(f"layer.{i}", 10.0 - 0.1 * i, 20.0, 4.0, 0.01) for i in range(count)]
    layers[0] = dataclasses.replace(layers[0], alone=loss, without=loss)
    return Sensitivity(
        "net", "onnxruntime", "x", 24, "ground truth", 60.0, loss, 12.0, tuple(layers)
    )


def test_the_picture_has_two_bars_for_each_layer():
    shown = bars(result(3))
    pink, green = ((shown == colour).all(-1) for colour in (DIFFERENT, REGAINED))
    assert pink[92:].any(1).sum() == green[92:].any(1).sum() == 3 * 7
    first, second = (pink[y].sum() for y in (93, 93 + 24))
    assert first > second > 0
    assert green[92 + 9].sum() == pytest.approx(0.4 * first, abs=2)
    assert bars(result(60)).shape[0] == 92 + 41 * 24 + 12


def test_the_command_line(networks, remembered, tmp_path, capsys, monkeypatch):
    typed = [str(networks.checkpoint("espnetc_q3")), "--data", "synthetic:size=64x96,count=40"]
    out = tmp_path / "out"
    monkeypatch.setattr(Trials, "measure", lambda self, step: ([
        Layer(p.layer, 1.0, 9.0, 0.5, 0.1) for p in self.places], 3.0))  # fmt: skip
    options = ["--frames", "20", "--confirm", "1", "--threads", "1", "--out", str(out)]
    assert main(["sensitivity", *typed, *options]) == 0
    said = capsys.readouterr().out
    assert "layers in INT8 change 3.00 % of the labels; mIoU " in said
    assert said.count("mIoU alone") == 1
    content = json.loads((out / "sensitivity.json").read_text())
    assert content["layers"][0]["alone"]["miou"] is not None
    assert content["layers"][1]["alone"] is None
    with Image.open(out / "sensitivity.png") as picture:
        assert picture.size[0] == 1140


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--frames", "5"], "--frames is 5; mIoU needs at least 20"),
        (["--calib", "none.json"], "none.json: no such range table"),
    ],
)
def test_what_is_refused_before_the_network_is_built(words, said, capsys):
    assert main(["sensitivity", "espnet_q3", "--data", "synthetic:", *words]) == 2
    assert capsys.readouterr().err == f"edgeseg: {said}\n"
