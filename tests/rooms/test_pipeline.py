"""The steps in order: which model, which frames, which layers stay in float, what is refused."""

from __future__ import annotations

import dataclasses
import tracemalloc
from pathlib import Path

import numpy as np
import onnx
import pytest
from engine_folders import fake_folder, onnxruntime_folder
from networks import SIZE, SPEC, checkpoint, frames, labels_of, silent
from onnx import numpy_helper
from test_foreign import foreign

from edgeseg.bundle import Bundle, InputSpec, read_bundle, read_manifest
from edgeseg.calibration.placement import placement
from edgeseg.calibration.sensitivity import Layer
from edgeseg.dataset import Sample
from edgeseg.errors import (
    BundleError,
    DataError,
    EngineError,
    GateError,
    GraphError,
    UsageError,
)
from edgeseg.export.gate import Budget
from edgeseg.labels import IGNORE
from edgeseg.models import MODELS
from edgeseg.pipeline.export import choose_frames, export, export_network
from edgeseg.pipeline.floats import gate_inputs, input_of, make_float, split_frames
from edgeseg.pipeline.model import check_size, find_model, open_model, resized
from edgeseg.pipeline.plan import GATE_FRAMES, Plan, Source
from edgeseg.pipeline.quantise import Quantiser, calibrate, check_table, first_departure
from edgeseg.pipeline.sensitivity import ranked_layers
from edgeseg.runtime.engine import EngineOptions

pytestmark = [pytest.mark.rooms, pytest.mark.usefixtures("one_thread", "remembered")]


@pytest.fixture(scope="module")
def judged(quantiser: Quantiser) -> Quantiser:
    """Judged against float labels: a random network knows no truth."""
    gate = dataclasses.replace(quantiser.network.gate, truth=None)
    return Quantiser(dataclasses.replace(quantiser.network, gate=gate), quantiser.table)


# MODEL


def refused(*arguments: str) -> str:
    with pytest.raises(UsageError) as error:
        find_model(*arguments)
    return str(error.value)


@pytest.fixture
def nothing_shipped(tmp_path, monkeypatch):
    monkeypatch.setattr("edgeseg.weights.SHIPPED", tmp_path / "weights")
    return tmp_path / "weights"


def test_an_unknown_model_is_guessed(nothing_shipped):
    said = refused("espnet_q33")
    assert said == (
        "'espnet_q33' is no model folder, no .onnx file and no model name. "
        "Did you mean 'espnet_q3'?"
    )
    assert refused("zzz") == (
        "'zzz' is no model folder, no .onnx file and no model name. "
        "Shipped: none; 'edgeseg models' lists all names"
    )


@pytest.mark.parametrize("name", MODELS)
def test_a_model_without_weights_says_how_to_get_them(name, nothing_shipped):
    assert refused(name) == (
        f"no weights are shipped for '{name}'. Train it (edgeseg train RECIPE --out DIR) or "
        f"convert published ones (edgeseg convert --model {name} --weights FILE.pth ...), then "
        "give that folder. Shipped: none"
    )


def test_a_shipped_model_is_found_by_name(nothing_shipped):
    checkpoint(nothing_shipped / "espnet_q3", "espnet_q3")
    assert find_model("espnet_q3") == nothing_shipped / "espnet_q3"
    assert refused("espnet_q5").endswith("Shipped: espnet_q3")


def test_a_folder_goes_before_a_name(nothing_shipped, tmp_path, monkeypatch):
    checkpoint(nothing_shipped / "espnet_q3", "espnet_q3")
    (tmp_path / "here" / "espnet_q3").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    assert find_model("espnet_q3") == Path("espnet_q3")


def test_a_file_that_is_no_model(tmp_path):
    (tmp_path / "net.pth").write_bytes(b"")
    assert refused(str(tmp_path / "net.pth")) == (
        f"{tmp_path}/net.pth is a file, and no .onnx file; give a model folder, an .onnx file or "
        "a model name ('edgeseg convert' makes a folder of a published .pth file)"
    )


@pytest.mark.parametrize(
    ("size", "nearest"),
    [((63, 96), "64x96"), ((64, 97), "64x96"), ((1, 1), "8x8"), ((12, 20), "16x16"),
     ((360, 481), "360x480"), ((1000, 7), "1000x8")],
)  # fmt: skip
def test_a_size_that_can_not_be_says_the_nearest(size, nearest):
    with pytest.raises(UsageError) as error:
        check_size(size, 8, "net")
    assert str(error.value) == (
        f"net takes sizes whose height and width are multiples of 8; {size[0]}x{size[1]} is not. "
        f"The nearest is {nearest}"
    )


@pytest.mark.parametrize("size", [(8, 8), (360, 480), (512, 1024)])
def test_a_size_that_can_be(size):
    check_size(size, 8, "net")


def test_resized(networks):
    bundle = read_bundle(networks.checkpoint("espnetc_q3"))
    other = resized(bundle, (32, 40), "crop").manifest.input
    assert (other.size, other.fit, other.mean) == ((32, 40), "crop", SPEC.mean)
    assert resized(bundle, None, None).manifest == bundle.manifest
    with pytest.raises(UsageError, match=r"tiny espnetc_q3 takes sizes .* The nearest is 32x40"):
        resized(bundle, (33, 40), None)
    with pytest.raises(UsageError, match=r"unknown fit 'cropp'\. Did you mean 'crop'\?"):
        resized(bundle, None, "cropp")


def test_a_checkpoint_without_a_size_asks_for_one(tmp_path):
    spec = dataclasses.replace(SPEC, size=None)
    bundle = checkpoint(tmp_path / "model", spec=spec)
    with pytest.raises(UsageError, match=r"model names no input size; give --size HEIGHTxWIDTH"):
        resized(bundle, None, None)
    assert resized(bundle, (64, 96), None).manifest.input.size == (64, 96)


OPTIONS = EngineOptions(threads=1)


def test_a_checkpoint_opens_in_torch(networks):
    with open_model(
        str(networks.checkpoint("espnetc_q3")), size=(32, 48), fit=None, options=OPTIONS
    ) as segmenter:
        assert type(segmenter.engine).__name__ == "TorchEngine"
        labels = segmenter.segment(np.zeros((50, 60, 3), np.uint8))
        assert labels.shape == (50, 60)
        assert labels.max() <= 10


def test_an_engine_folder_opens_at_its_own_size_only(tmp_path):
    onnxruntime_folder(tmp_path / "engine")
    folder = str(tmp_path / "engine")
    with open_model(folder, size=(8, 16), fit="pad", options=OPTIONS) as segmenter:
        assert segmenter.input.size == (8, 16)
    with pytest.raises(UsageError) as error:
        open_model(folder, size=(16, 32), fit=None, options=OPTIONS)
    assert str(error.value) == (
        f"{folder} was exported at 8x16 and can't run at 16x32; export it at that size"
    )
    with pytest.raises(UsageError, match="was exported with fit 'pad', not 'crop'"):
        open_model(folder, size=None, fit="crop", options=OPTIONS)


def test_an_onnx_file_is_exported_first(tmp_path):
    path = foreign(tmp_path / "net.onnx")
    with pytest.raises(UsageError, match=r"export the ONNX file first: edgeseg export .*net\.onnx"):
        open_model(str(path), size=None, fit=None, options=OPTIONS)


def test_an_engine_folder_is_not_exported_again(tmp_path):
    fake_folder(tmp_path / "engine")
    with pytest.raises(BundleError, match="is an engine folder already; export the checkpoint"):
        make_float(Source(str(tmp_path / "engine")), frames(), silent)


# Frames


def test_calibration_and_gate_do_not_share_a_frame():
    for source, count in (("synthetic:size=64x96,count=300", 40), ("synthetic:count=60", 100)):
        chosen = choose_frames(source, None, calibration=count)
        assert len(chosen.gate) == GATE_FRAMES == 24
        total = int(source.rpartition("=")[2])
        assert len(chosen.calibration) == min(count, total - 24)
        assert not set(chosen.calibration.names) & set(chosen.gate.names)
        assert chosen.calibration.split == chosen.gate.split == "train"


def test_frames_are_spread_over_the_set():
    _, gate = split_frames("synthetic:count=240", 40)
    numbers = [int(name.rpartition("-")[2]) for name in gate.names]
    assert numbers == [5 + 10 * i for i in range(24)]


def test_a_gate_of_its_own():
    chosen = choose_frames("synthetic:count=50", "synthetic:count=70,seed=3", calibration=10)
    assert {name.split("-")[1] for name in chosen.calibration.names} == {"0"}
    assert {name.split("-")[1] for name in chosen.gate.names} == {"3"}
    assert len(chosen.gate) == 24


def test_the_gate_alone_is_disjoint_too():
    chosen = choose_frames(None, "synthetic:count=60")
    assert not set(chosen.calibration.names) & set(chosen.gate.names)


def test_a_gate_of_too_few_frames(networks):
    manifest = networks.get().manifest
    with pytest.raises(UsageError) as error:
        gate_inputs(frames(19), manifest)
    assert str(error.value) == (
        "blobs:memory (train) has 19 frames for the gate; it needs at least 20"
    )


def test_padding_is_left_out_of_gate_and_truth(networks):
    """Frames of 64x64 in an input of 64x96: 16 columns at each side are padding."""
    manifest = networks.get().manifest
    images, truth, padding = gate_inputs(frames(20, size=(64, 64)), manifest)
    assert images.shape == (20, *SIZE, 3)
    assert (images[:, :, :16] == SPEC.fill).all()
    assert (images[:, :, -16:] == SPEC.fill).all()
    assert padding[:, :, :16].all()
    assert not padding[:, :, 16:-16].any()
    assert (truth[padding] == IGNORE).all()
    assert (truth[:, 4:, 16:-16] != IGNORE).all()


def test_truth_of_other_classes_is_no_truth(networks):
    manifest = networks.get().manifest
    other = dataclasses.replace(frames(), classes=dataclasses.replace(
        frames().classes, names=("x", *frames().classes.names[1:])))  # fmt: skip
    assert gate_inputs(other, manifest)[1] is None


# The exported graph is compared with its origin


def test_an_export_that_departs_from_torch_is_our_fault(networks, monkeypatch):
    monkeypatch.setattr(
        "edgeseg.pipeline.floats._torch_labels", lambda _, images: np.zeros(images.shape[:3], "u1")
    )
    with pytest.raises(GraphError, match=r"agrees with torch on \d+\.\d+ % of labels only; expec"):
        make_float(Source(str(networks.checkpoint("espnetc_q3"))), frames(), silent)


# Layers that return to float


@pytest.fixture(scope="module")
def usual_drop(judged, tmp_path_factory) -> float:
    """What INT8 costs this network when no range is broken, in points of mIoU."""
    out = tmp_path_factory.mktemp("usual") / "out"
    plan = Plan("onnxruntime", "int8", budget=Budget(100, 100))
    gate = export_network(judged.network, judged, plan, out, silent).manifest.gate
    return gate.miou_float - gate.miou_engine


def broken(quantiser: Quantiser, *layers: str) -> Quantiser:
    """The ranges of what these layers read, a hundred times too small."""
    read = {p.activation for p in quantiser.places() if p.layer in layers}
    ranges = {n: v / 100 if n in read else v for n, v in quantiser.table.ranges.items()}
    return Quantiser(quantiser.network, dataclasses.replace(quantiser.table, ranges=ranges))


LAYER = "encoder.stage3.0.reduce"
OTHER = "encoder.down3.reduce"


def test_the_broken_layer_alone_returns_to_float(judged, usual_drop, tmp_path):
    plan = Plan("onnxruntime", "int8", budget=Budget(usual_drop + 2, 100))
    said: list[str] = []
    bundle = export_network(
        judged.network, broken(judged, LAYER), plan, tmp_path / "out", said.append
    )
    quantisation = bundle.manifest.quantisation
    assert quantisation.float_layers == (LAYER,)
    assert quantisation.float_why[LAYER].startswith("alone in INT8 it changes ")
    assert quantisation.convolutions == len(judged.places())
    assert bundle.manifest.gate.state == "passed"
    assert f"leaving 1 layers in float: {LAYER}" in said
    assert sum(s.startswith("gate failed") for s in said) >= 1
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    labels = labels_of(tmp_path / "out", judged.network.gate.images[:2])
    assert labels.shape == (2, *SIZE)


def test_as_many_as_needed(judged, usual_drop, tmp_path):
    plan = Plan("onnxruntime", "int8", budget=Budget(usual_drop + 2, 100))
    both = broken(judged, LAYER, OTHER)
    bundle = export_network(judged.network, both, plan, tmp_path / "out", silent)
    assert set(bundle.manifest.quantisation.float_layers) == {LAYER, OTHER}


def test_the_share_is_a_limit(judged, usual_drop, tmp_path):
    count = len(judged.places())
    both = broken(judged, LAYER, OTHER)
    share = 1.5 / count  # one layer may return, two are broken
    plan = Plan(
        "onnxruntime", "int8", budget=Budget(usual_drop + 2, 100), max_float_share=share
    )  # fmt: skip
    with pytest.raises(GateError) as error:
        export_network(judged.network, both, plan, tmp_path / "out", silent)
    assert f"with 1 of {count} convolutions in float; first to depart: tensor '" in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_the_ranking_puts_the_broken_layers_first(judged):
    both = broken(judged, LAYER, OTHER)
    ranking = [layer.layer for layer in ranked_layers(both, "onnxruntime", silent)]
    assert set(ranking[:2]) == {LAYER, OTHER}
    assert sorted(ranking) == sorted(p.layer for p in both.places())


@pytest.mark.parametrize("needed", range(6))
def test_the_fewest_layers_that_pass_stay_in_float(judged, monkeypatch, tmp_path, needed):
    """A gate that wants `needed` layers in float: 0, 1, 2, 4 are tried, then what lies between."""
    tried: list[int] = []

    def trial(network, quantiser, plan, out, say, kept):
        tried.append(len(kept))
        if len(kept) < needed:
            raise GateError("gate failed")
        return [layer.layer for layer in kept]

    ranking = [Layer(p.layer, 1.0, 9.0, 0.0, 0.1) for p in judged.places()[:8]]
    monkeypatch.setattr("edgeseg.pipeline.export._with_float", trial)
    monkeypatch.setattr("edgeseg.pipeline.export.ranked_layers", lambda *_: ranking)
    plan = Plan("onnxruntime", "int8", max_float_share=1.0)
    kept = export_network(judged.network, judged, plan, tmp_path / "out", silent)
    assert kept == [layer.layer for layer in ranking[:needed]]
    assert tried == {
        0: [0], 1: [0, 1], 2: [0, 1, 2], 3: [0, 1, 2, 4, 3], 4: [0, 1, 2, 4, 3],
        5: [0, 1, 2, 4, 8, 6, 5],
    }[needed]  # fmt: skip


def test_the_first_departure_is_behind_the_broken_layer(judged):
    """What reads the clipped tensor departs first; with that layer in float, nothing does."""
    one = broken(judged, OTHER)
    assert first_departure(one, ()).startswith(f"tensor '{OTHER}/scaled' (relative error 0.9")
    assert f"'{OTHER}/" not in first_departure(one, (OTHER,))


def test_int8_without_a_table(networks, tmp_path):
    with pytest.raises(UsageError, match="int8 needs a range table"):
        export_network(
            networks.get(), None, Plan("onnxruntime", "int8"), tmp_path / "out", silent
        )  # fmt: skip


def test_memory_does_not_grow_with_the_calibration_frames(networks):
    network, peaks = networks.get(), []
    for count in (10, 20, 200):  # the first also fills what is kept between runs
        tracemalloc.start()
        calibrate(network, frames(count, seed=300), "mse", silent)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < peaks[1] + 100_000


def test_the_order_of_calibration_frames_does_not_matter(networks):
    network, few = networks.get(), frames(12, seed=300)
    tables = [
        calibrate(network, few.subset(order), "auto", silent)
        for order in (range(12), range(11, -1, -1), (5, 3, 9, 0, 11, 1, 2, 4, 10, 8, 7, 6))
    ]
    assert tables[0] == tables[1] == tables[2]


def test_calibration_frames_of_one_colour_are_refused(networks):
    grey = np.full((*SIZE, 3), 90, np.uint8)
    blank = dataclasses.replace(
        frames(12), read=lambda i: Sample(f"{i}", grey, np.zeros(SIZE, np.uint8))
    )
    with pytest.raises(DataError, match="all 12 calibration frames are of one colour"):
        calibrate(networks.get(), blank, "mse", silent)


def test_calibration_warns_of_few_frames_by_the_log(networks):
    said: list[str] = []
    calibrate(networks.get(), frames(3, seed=300), "mse", said.append)
    assert any("warning: " in line and "ranges come from 3 frames only" in line for line in said)


def test_weights_with_nan_are_refused_by_name(networks):
    network = networks.get()
    broken = onnx.ModelProto()
    broken.CopyFrom(network.single)
    [weight] = [t for t in broken.graph.initializer
                if t.name == placement(network.single)[3].weight]  # fmt: skip
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.nan, weight.name))
    nan = dataclasses.replace(network, graph=broken, single=broken)
    with pytest.raises(GraphError, match=f"weights '{weight.name}' of '.*' hold .* nan"):
        calibrate(nan, frames(3, seed=300), "mse", silent)


def test_a_table_is_bound_to_its_network_and_preprocessing(networks, quantiser, tmp_path):
    where = tmp_path / "ranges.json"
    assert check_table(networks.get(), quantiser.table, where) is quantiser.table
    spec = InputSpec("rgb", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), size=SIZE)
    manifest = dataclasses.replace(networks.get().manifest, input=spec)
    other = dataclasses.replace(networks.get(), manifest=manifest)
    with pytest.raises(BundleError, match="made for another preprocessing"):
        check_table(other, quantiser.table, where)
    scores = networks.get(scores=True)
    with pytest.raises(BundleError, match="made for another network"):
        check_table(scores, quantiser.table, where)


def test_the_input_is_known_before_the_graph_is_made(networks):
    """(120, 110, 100) of red, green and blue is (100, 110, 120) of blue, green and red."""
    model = str(networks.checkpoint("espnetc_q3"))
    assert input_of(Source(model)) == networks.get().spec
    other = input_of(Source(model, (32, 48), "crop", "bgr"))
    assert (other.size, other.fit, other.order) == ((32, 48), "crop", "bgr")
    assert (other.mean, other.std) == ((100.0, 110.0, 120.0), (72.0, 71.0, 70.0))


# `export`


def test_int8_wants_frames_of_the_models_own_kind(networks, tmp_path):
    model = str(networks.checkpoint("espnetc_q3"))
    plan = Plan("onnxruntime", "int8")
    with pytest.raises(UsageError) as error:
        export(Source(model), plan, tmp_path / "out", calib=None, gate=None, say=silent)
    assert str(error.value) == (
        "int8 needs frames to calibrate on: give --calib KIND:PATH (such as camvid:PATH) or a "
        "range table made by 'edgeseg calibrate'"
    )
    with pytest.raises(UsageError, match="a range table holds no frames for the gate: give --gate"):
        export(Source(model), plan, tmp_path / "out", calib="r.json", gate=None, say=silent)


def test_a_model_of_synthetic_streets_needs_no_data(networks, tmp_path, monkeypatch):
    """Its calibration and gate are streets; they are small here to be quick."""
    monkeypatch.setattr("edgeseg.pipeline.export.SYNTHETIC", "synthetic:size=64x96,count=40")
    checkpoint(tmp_path / "model", data="synthetic train")
    plan = Plan("onnxruntime", "int8", budget=Budget(100, 100))
    out = tmp_path / "out"
    source = Source(str(tmp_path / "model"))
    export(source, plan, out, calib=None, gate=None, say=silent)
    manifest = read_manifest(out)
    assert manifest.quantisation.source == "synthetic train"
    assert manifest.quantisation.frames == 16
    assert (manifest.gate.source, manifest.gate.frames) == ("synthetic train", 24)
    assert manifest.gate.against == "float labels"  # the table is camvid11's


def test_a_folder_that_names_no_target_is_not_opened(tmp_path):
    from edgeseg.pipeline.gating import open_segmenter

    bundle = fake_folder(tmp_path / "fake")
    bare = Bundle(bundle.folder, dataclasses.replace(bundle.manifest, target=None))
    with pytest.raises(EngineError, match="fake names no target"):
        open_segmenter(bare)
