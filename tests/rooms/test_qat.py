"""QAT from a checkpoint to an engine folder: what travels along, what is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from networks import SIZE, Networks, blobs, camvid, checkpoint, labels_of, one_cpu, silent

from edgeseg.bundle import ModelSpec, WeightsSpec, read_bundle, read_manifest, write_bundle
from edgeseg.calibration.observe import Observer
from edgeseg.calibration.pixels import is_pixels
from edgeseg.calibration.placement import placement
from edgeseg.calibration.prepare import prepare
from edgeseg.calibration.qdq import write_qdq
from edgeseg.calibration.ranges import network_sha256, read_table
from edgeseg.cli import main
from edgeseg.dataset import open_dataset
from edgeseg.errors import BundleError, EdgesegError, RecipeError, TrainingError, UsageError
from edgeseg.export.gate import Budget
from edgeseg.graph import initializers, read_graph
from edgeseg.models.network import build_model
from edgeseg.pipeline import qat
from edgeseg.pipeline.export import export
from edgeseg.pipeline.floats import make_float, scores_of, split_frames
from edgeseg.pipeline.learned import FLOAT, RANGES, batched
from edgeseg.pipeline.model import open_model
from edgeseg.pipeline.plan import Plan, Source
from edgeseg.pipeline.quantise import Quantiser, calibrate
from edgeseg.recipe import read_recipe
from edgeseg.runtime.engine import EngineOptions
from edgeseg.training.batches import Batch
from edgeseg.training.fake_quant import QuantisedModule
from edgeseg.training.plan import Recipe
from edgeseg.training.qat import open_calibrated
from edgeseg.training.step import Stepper

pytestmark = [pytest.mark.rooms, pytest.mark.usefixtures("one_thread", "remembered")]

RECIPE = """
model = "espnetc_q3"
data = "camvid:{data}"
size = [64, 96]
steps = 4
batch = 2
save_every = 2
log_every = 1
seed = 3
ema = 0.5
[input]
mean = [120, 110, 100]
std = [70, 71, 72]
[optimizer]
name = "adamw"
lr = 0.01
[qat]
frames = 4
range_lr = 5.0
"""
LOOSE = Budget(100.0, 100.0)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return camvid(tmp_path_factory.mktemp("qat") / "camvid", train=24, val=2)


@pytest.fixture(scope="module")
def recipe(data) -> Path:
    path = data.parent / "recipe.toml"
    path.write_text(RECIPE.format(data=data))
    return path


@pytest.fixture(scope="module")
def start(networks: Networks) -> Path:
    return networks.checkpoint("espnetc_q3")


def train(recipe: Path, start: Path, out: Path, *words: str) -> int:
    return main(["train", str(recipe), "--qat", str(start), "--out", str(out), *words])


@pytest.fixture(scope="module")
def made(recipe, start, tmp_path_factory) -> Path:
    """The folder of a whole run."""
    out = tmp_path_factory.mktemp("made") / "run"
    with one_cpu():
        assert train(recipe, start, out) == 0
    return out


@pytest.fixture(scope="module")
def folder(made) -> Path:
    return made / "checkpoint"


def exported(folder: Path, data: Path, out: Path, precision: str, **asked: object) -> list[str]:
    """Export to ONNX Runtime; what was said."""
    said: list[str] = []
    plan = Plan("onnxruntime", precision, budget=LOOSE)
    source = Source(str(folder), **asked)  # type: ignore[arg-type]
    export(source, plan, out, calib=f"camvid:{data}", gate=None, say=said.append)
    return said


# What a run leaves


def test_class_table_input_data_and_origin_travel_along(folder, start, made):
    before, manifest = read_manifest(start), read_manifest(folder)
    assert (manifest.kind, manifest.precision, manifest.name) == ("network", "fp32", before.name)
    assert manifest.classes == before.classes
    assert manifest.input == before.input
    assert manifest.model == before.model
    assert manifest.weights == WeightsSpec("camvid train", "none", "fresh; edgeseg train --qat")
    assert manifest.history[-1].endswith("step 4 of 4")
    assert set(manifest.files) == {"network.onnx", FLOAT, RANGES}
    result = json.loads((made / "eval.json").read_text())
    assert (result["step"], result["frames"]) == (4, 2)


def test_the_table_is_bound_to_the_trained_graph(folder):
    graph, before = read_graph(folder / "network.onnx"), read_graph(folder / FLOAT)
    table = read_table(folder / RANGES)
    assert (table.method, table.frames, table.source) == ("qat", 4, "camvid train")
    assert table.network_sha256 == network_sha256(graph)
    assert not table.factors and not table.offsets
    assert set(table.ranges) == {p.activation for p in placement(graph)}
    assert [r for t, r in table.ranges.items() if is_pixels(t)] == [127.0]
    names = [n.name for n in before.graph.node if n.op_type == "Conv"]
    assert [p.layer for p in placement(graph)] == names
    trained, floats = initializers(graph), initializers(before)
    last = next(n for n in reversed(graph.graph.node) if n.op_type == "Conv")
    assert not np.array_equal(trained[last.input[1]], floats[last.input[1]])


def test_preparing_the_trained_graph_again_changes_nothing(folder):
    graph = read_graph(folder / "network.onnx")
    assert prepare(graph, {}).graph == graph.graph


def test_what_was_evaluated_is_what_the_engine_gives(folder, data, tmp_path):
    """The fake-quantised network in torch, and the exported Q/DQ graph: labels but for ties."""
    said = exported(folder, data, tmp_path / "int8", "int8")
    count = len(read_table(folder / RANGES).ranges)
    assert f"tiny espnetc_q3: taking the {count} ranges of its QAT" in said
    graph, table = read_graph(folder / "network.onnx"), read_table(folder / RANGES)
    expected = write_qdq(graph, placement(graph), table.ranges)
    assert read_graph(tmp_path / "int8" / "network.onnx").graph == expected.graph
    frames = np.stack([blobs(900 + i)[0] for i in range(4)])
    module = QuantisedModule(graph, scores_of(graph), placement(graph), table.ranges)
    with torch.no_grad():
        scores = module(torch.from_numpy(frames).float()).numpy()
    found = labels_of(tmp_path / "int8", frames)
    assert len(np.unique(found)) > 3
    assert (scores.argmax(1) == found).mean() > 0.985
    observer = Observer(expected, [scores_of(graph)])
    wanted = np.concatenate([observer.run(f[None])[scores_of(graph)] for f in frames])
    assert np.abs(scores - wanted).mean() < 0.01 * np.abs(wanted).mean()


def test_training_starts_where_calibration_ends(recipe, start, data):
    """Ranges, rescaled weights and corrected means are those of PTQ's Q/DQ graph."""
    begun = qat.prepare(read_recipe(Recipe, recipe, (f'qat.model="{start}"',)), silent)
    network = make_float(Source(str(start)), split_frames(f"camvid:{data}", 4, 20)[1], silent)
    frames = open_dataset(f"camvid:{data}", "train").spread(4)
    table = calibrate(network, frames, "mse", silent)
    quantiser = Quantiser(network, table)
    assert begun.ranges == table.ranges
    assert begun.places == quantiser.places()
    mine, written = initializers(begun.graph), initializers(quantiser.write(begun.places))
    prepared = initializers(quantiser.single)
    assert set(table.offsets) == {p.layer for p in begun.places}
    for place in begun.places:
        bias = f"{place.layer}/bias"
        np.testing.assert_array_equal(mine[bias], written[bias])
        np.testing.assert_array_equal(mine[place.weight], prepared[place.weight])


def test_the_manifest_of_int8_says_qat(folder, data, tmp_path):
    exported(folder, data, tmp_path / "int8", "int8")
    quantisation = read_manifest(tmp_path / "int8").quantisation
    assert (quantisation.method, quantisation.frames) == ("qat", 4)
    assert quantisation.network_sha256 == read_table(folder / RANGES).network_sha256


def test_the_gate_compares_with_the_network_before_training(folder, start, data):
    """Not with its own float form, which training has changed."""
    _, gate = split_frames(f"camvid:{data}", 4, 20)
    network = make_float(Source(str(folder)), gate, silent)
    before = make_float(Source(str(start)), gate, silent)
    assert np.array_equal(network.gate.labels, before.gate.labels)
    assert network_sha256(network.single) != network_sha256(before.single)


def test_it_is_evaluated_and_exported_in_float_too(folder, data, tmp_path):
    frame = blobs(901)[0]
    with open_model(str(folder), size=None, fit=None, options=EngineOptions(1)) as segmenter:
        labels = segmenter.segment(frame)
    assert labels.shape == SIZE
    exported(folder, data, tmp_path / "fp32", "fp32")
    assert np.array_equal(labels_of(tmp_path / "fp32", frame[None])[0], labels)
    assert main(["eval", str(folder), "--data", f"camvid:{data}", "--threads", "1"]) == 0


def test_more_frames_at_once_give_the_same_labels(folder, data, tmp_path):
    frames = np.stack([blobs(900 + i)[0] for i in range(4)])
    exported(folder, data, tmp_path / "one", "int8")
    exported(folder, data, tmp_path / "two", "int8", batch=2)
    one, two = (labels_of(tmp_path / n, frames, b) for n, b in (("one", 1), ("two", 2)))
    assert (one == two).mean() > 0.999


def test_constant_shapes_take_the_number_of_frames():
    """(1, 4, 6, 3) -> transposed, channels in two groups, back."""
    helper = onnx.helper
    arrays = {"a": np.array([1, 1, 3, 4, 6]), "b": np.array([1, 3, 4, 6])}
    nodes = [
        helper.make_node("Transpose", ["image"], ["x"], perm=[0, 3, 1, 2]),
        helper.make_node("Reshape", ["x", "a"], ["y"]),
        helper.make_node("Reshape", ["y", "b"], ["scores"]),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "tiny", [value("image", 1, [1, 4, 6, 3])], [value("scores", 1, [1, 3, 4, 6])],
        [onnx.numpy_helper.from_array(v, n) for n, v in arrays.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    images = np.random.default_rng(0).normal(size=(3, 4, 6, 3)).astype(np.float32)
    found = Observer(batched(model, 3), ["scores"]).run(images)["scores"]
    assert np.array_equal(found, images.transpose(0, 3, 1, 2))


def test_scores_are_decoded_outside_as_they_were_in_training(recipe, start, data, tmp_path):
    words = ("--set", "qat.output=scores", "--set", "steps=1")
    assert train(recipe, start, tmp_path / "run", *words) == 0
    folder = tmp_path / "run" / "checkpoint"
    output = read_manifest(folder).output
    assert (output.kind, output.decode, output.factor) == ("scores", "bilinear", 8)
    exported(folder, data, tmp_path / "int8", "int8", scores=True)
    assert read_manifest(tmp_path / "int8").output == output
    labels = labels_of(tmp_path / "int8", blobs(900)[0][None])
    assert labels.shape == (1, *SIZE)
    with pytest.raises(UsageError) as error:
        exported(folder, data, tmp_path / "labels", "int8")
    assert "with --output scores and can't be exported with labels" in str(error.value)


@pytest.mark.parametrize(
    ("name", "scale", "options"),
    [
        ("espnetc_q3+dsrl", 2, {"p": 1, "dsrl": {"stage": "sssr"}}),
        ("espnetc_q3+dupsample", 1, {"p": 1}),
    ],
)
def test_wrapped_networks_are_trained_too(name, scale, options, recipe, data, tmp_path):
    """In the form that is exported: without SISR, with labels twice as large; with W as a layer."""
    torch.manual_seed(0)
    spec = ModelSpec(name, options, void_outputs=1)
    network = build_model(spec, 12)
    checkpoint(tmp_path / "start", name, model=network, **options)
    words = ("--set", f"model={name}", "--set", "steps=1")
    assert train(recipe, tmp_path / "start", tmp_path / "run", *words) == 0
    folder = tmp_path / "run" / "checkpoint"
    assert read_manifest(folder).output.scale == scale
    exported(folder, data, tmp_path / "int8", "int8")
    labels = labels_of(tmp_path / "int8", blobs(900)[0][None])
    assert labels.shape == (1, scale * SIZE[0], scale * SIZE[1])


# Going on


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(
    recipe, start, made, tmp_path, monkeypatch, capsys
):
    whole = Stepper.train

    def interrupted(self: Stepper, step: int, crops: object) -> object:
        if step == 2:
            self.stopping = True
        return whole(self, step, crops)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Stepper, "train", interrupted)
        assert train(recipe, start, tmp_path / "run") == 130
    assert f"--resume --qat {start}" in capsys.readouterr().err
    assert train(recipe, start, tmp_path / "run", "--resume") == 0
    for name in ("network.onnx", RANGES):
        found = (tmp_path / "run" / "checkpoint" / name).read_bytes()
        assert found == (made / "checkpoint" / name).read_bytes()


# What is refused


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"size": (32, 48)}, "--size 64x96 and can't be exported with 32x48"),
        ({"fit": "crop"}, "--fit pad and can't be exported with crop"),
        ({"order": "bgr"}, "--input-order rgb and can't be exported with bgr"),
        ({"scores": True}, "--output labels and can't be exported with scores"),
    ],
)
def test_another_input_or_output_than_the_trained_one(folder, data, tmp_path, asked, words):
    with pytest.raises(UsageError) as error:
        exported(folder, data, tmp_path / "out", "int8", **asked)
    assert str(error.value) == (
        f"{folder} was trained in INT8 with {words}; train it so ('edgeseg train --qat')"
    )
    assert not (tmp_path / "out").exists()


def test_a_table_of_another_graph(folder, data, tmp_path):
    """A folder put together by hand, with hashes that fit."""
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    for name in ("network.onnx", RANGES, FLOAT):
        (mixed / name).write_bytes((folder / name).read_bytes())
    (mixed / "network.onnx").write_bytes((folder / FLOAT).read_bytes())
    write_bundle(mixed, read_manifest(folder))
    with pytest.raises(
        BundleError, match=r"ranges\.json: the range table was made for another net"
    ):
        exported(mixed, data, tmp_path / "out", "int8")
    assert read_bundle(mixed)


def refused(recipe: Path, start: str | Path, *changes: str, kind: type[EdgesegError]) -> str:
    asked = read_recipe(Recipe, recipe, (f'qat.model="{start}"', *changes))
    with pytest.raises(kind) as error:
        qat.prepare(asked, silent)
    return str(error.value)


def test_a_start_that_is_no_checkpoint(recipe, folder, tmp_path):
    said = refused(recipe, folder, kind=BundleError)
    assert said == (
        f"--qat {folder} is no checkpoint folder; give one made by 'edgeseg train' or 'convert'"
    )


def test_a_recipe_of_another_model_or_input(recipe, start):
    said = refused(recipe, start, "model=espnet_q3", kind=RecipeError)
    assert said == (f"model is 'espnet_q3', and {start} holds 'espnetc_q3'; they must be the same")
    said = refused(recipe, start, "input.mean=[1, 2, 3]", kind=RecipeError)
    assert said == (
        f"{start} expects order 'rgb', mean [120.0, 110.0, 100.0], std [70.0, 71.0, 72.0]; put "
        "these into the recipe's [input]"
    )


def test_data_of_other_classes(recipe, start):
    said = refused(recipe, start, "data=synthetic:size=64x96,count=24", kind=RecipeError)
    assert said == (
        f"data has class table 'cityscapes19', {start} 'camvid11'; they must be the same"
    )


def test_a_licence_can_not_be_lost(recipe, start, tmp_path):
    checkpoint(tmp_path / "start", "espnetc_q3")
    manifest = read_manifest(tmp_path / "start")
    bound = dataclasses.replace(manifest, weights=WeightsSpec("camvid train", "CC-BY-NC-4.0"))
    write_bundle(tmp_path / "start", bound)
    said = refused(recipe, tmp_path / "start", 'weights.licence="MIT"', kind=RecipeError)
    assert said == (
        f"{tmp_path / 'start'} is under 'CC-BY-NC-4.0' and [weights] says 'MIT'; it must say that "
        "the weights are non-commercial"
    )


def test_a_recipe_with_its_table_and_no_start_does_not_train_in_float(recipe, tmp_path, capsys):
    assert main(["train", str(recipe), "--out", str(tmp_path / "run")]) == 2
    assert "[qat] names no checkpoint to start from: give --qat CHECKPOINT" in (
        capsys.readouterr().err
    )


def test_the_size_is_the_exported_one(recipe, start):
    asked = read_recipe(Recipe, recipe, (f'qat.model="{start}"', "size=[60, 96]"))
    with pytest.raises(UsageError, match="multiples of 8; 60x96 is not"):
        qat.prepare(asked, silent)


def test_a_teacher_teaches_a_tensor_of_the_graph(recipe, start, data):
    """By its ONNX name; what stands before it learns, what stands behind it does not."""
    asked = (f'qat.model="{start}"', "qat.distil=0.0", 'teacher.model="espnet_q8_camvid"',
             "teacher.weight=0.0", "teacher.features.weight=1.0")  # fmt: skip
    wrong = read_recipe(Recipe, recipe, (*asked, 'teacher.features.student="level3"'))
    calibrated = qat.prepare(wrong, silent)
    convolutions = [node for node in calibrated.graph.graph.node if node.op_type == "Conv"]
    name = convolutions[3].output[0]
    taught = read_recipe(Recipe, recipe, (*asked, f'teacher.features.student="{name}"'))
    said: list[str] = []
    classes = open_dataset(taught.data, "train").classes
    opened = open_calibrated(calibrated, taught, classes, said.append)
    assert f"its map 'level3' teaches '{name}'" in said[0]
    images = torch.randn(2, 3, 64, 96)
    batch = Batch(images, torch.zeros(2, 64, 96).long(), ("a", "b"))
    (teach,) = opened.beside
    terms = teach(opened.model.train()(images), batch)
    assert list(terms) == ["features"]
    terms["features"].total.backward()
    learnt = {n for n, p in opened.model.named_parameters() if p.grad is not None and p.grad.any()}
    first, last = (
        "body.constant|" + node.input[1].replace(".", "|")
        for node in (convolutions[0], convolutions[-1])
    )
    assert first in learnt
    assert last not in learnt
    with pytest.raises(TrainingError, match=r"student is 'level3', which is no map of the student"):
        open_calibrated(calibrated, wrong, classes, silent)
