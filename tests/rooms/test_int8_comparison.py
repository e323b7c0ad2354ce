"""The INT8 comparison on a small network: rows of every kind, written, merged and refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from networks import camvid, checkpoint, frames, one_cpu, silent

from edgeseg.benchmarks.int8_table import page
from edgeseg.bundle import Bundle, read_manifest
from edgeseg.calibration.placement import placement
from edgeseg.calibration.qdq import write_qdq
from edgeseg.errors import BundleError, ComparisonError
from edgeseg.export.gate import Budget
from edgeseg.graph import read_graph
from edgeseg.pipeline import int8_comparison as room
from edgeseg.pipeline.int8_comparison_ours import float_layers, take_finished
from edgeseg.pipeline.int8_comparison_run import Stage, int8_convolutions, make_stage
from edgeseg.pipeline.int8_comparison_suite import Suite
from edgeseg.pipeline.learned import Learned, write_learned
from edgeseg.pipeline.plan import Plan
from edgeseg.pipeline.quantise import Quantiser, calibrate
from edgeseg.recipe import read_recipe

pytestmark = [pytest.mark.rooms, pytest.mark.usefixtures("one_thread")]

COPIES = """
import argparse, json, pathlib, shutil
import numpy as np
parser = argparse.ArgumentParser()
for name in ("network", "frames", "gate", "out"):
    parser.add_argument(f"--{name}", type=pathlib.Path, required=True)
parser.add_argument("--levels")
args = parser.parse_args()
images = np.load(args.frames)
assert images.shape == (6, 64, 96, 3) and images.dtype == np.uint8 and args.levels == "7"
assert np.load(args.gate)["truth"].shape[1:] == (64, 96)
shutil.copy(args.network, args.out)
args.out.with_suffix(".json").write_text(json.dumps({"versions": {"copier": "1.0"}}))
"""

SUITE = """
title = "Small"
folder = "work"
results = "int8.json"
calibration_frames = 6
memory_cap_mib = 2000
[environments.missing]
packages = ["none==1"]
[models.small]
model = "net"
size = [64, 96]
data = "camvid:data"
[methods.ours]
title = "ours"
kind = "edgeseg"
options.method = "minmax"
[methods.copy]
title = "copy"
kind = "script"
script = "copies.py"
options.levels = 7
[methods.again]
title = "again"
kind = "folder"
folder = "work/{model}/ours/onnxruntime"
[methods.absent]
title = "absent"
kind = "script"
script = "copies.py"
environment = "missing"
[methods.ir]
title = "ir"
kind = "script"
script = "ir.py"
out = "network.xml"
"""

IR = """
import shutil, sys
words = dict(zip(sys.argv[1::2], sys.argv[2::2]))
import openvino
openvino.save_model(openvino.convert_model(words["--network"]), words["--out"])
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, Stage]:
    """A folder with a checkpoint, frames, scripts, suite and its result without latency."""
    folder: Path = tmp_path_factory.mktemp("comparison")
    stages: list[Stage] = []

    def remember(*arguments: Any) -> Stage:
        stages.append(make_stage(*arguments))
        return stages[-1]

    camvid(folder / "data")
    checkpoint(folder / "net")
    for file, text in (("copies.py", COPIES), ("ir.py", IR), ("suite.toml", SUITE)):
        (folder / file).write_text(text)
    with one_cpu(), pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(room, "make_stage", remember)
        assert room.main(["suite.toml", "--no-latency"]) == 0
    return folder, stages[0]


@pytest.fixture
def place(made) -> Path:
    folder: Path = made[0]
    return folder


@pytest.fixture
def result(made, place, monkeypatch) -> dict[str, Any]:
    """The result; what runs again has the same float network, and does not export it again."""
    monkeypatch.chdir(place)
    monkeypatch.setattr(room, "make_stage", lambda *_: made[1])
    content: dict[str, Any] = json.loads((place / "int8.json").read_text())
    return content


def rows(content: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["method"]: row for row in content["rows"]}


def test_the_float_model_is_described(result):
    about = result["models"]["small"]
    assert (about["size"], about["frames"], about["data"]) == ([64, 96], 4, "camvid val")
    assert about["calibration"] == {"frames": 6, "data": "camvid train"}
    assert about["engines"]["onnxruntime"]["miou"] == pytest.approx(
        about["engines"]["openvino"]["miou"], abs=0.5
    )
    assert result["command"] == "python -m edgeseg.pipeline.int8_comparison suite.toml"


def test_ours_is_int8_and_close(result):
    row = rows(result)["ours"]
    assert (row["state"], row["reason"], row["versions"]) == ("done", "", {})
    assert row["int8_convolutions"] > 0
    assert 0 < row["file_mib"] < result["models"]["small"]["file_mib"]
    assert row["seconds"] > 0
    assert row["cpu_seconds"] > 0
    assert 20 < row["peak_mib"] < 2000
    for engine in ("onnxruntime", "openvino"):
        found = row["engines"][engine]
        assert 90 < found["same"] < 100
        assert found["latency"] is None
    assert row["parity"]["miou_apart"] < 5


def test_calibration_frames_are_those_of_the_export(result, place):
    images = np.load(place / "work" / "small" / "calibration.npy")
    labels = np.load(place / "work" / "small" / "labels.npy")
    assert (images.shape, labels.shape) == ((6, 64, 96, 3), (6, 64, 96))
    assert len({image.tobytes() for image in images}) == 6


def test_a_script_gets_what_ours_gets(result):
    row = rows(result)["copy"]
    assert row["versions"] == {"copier": "1.0"}
    assert row["int8_convolutions"] == 0
    exact, half = row["engines"]["onnxruntime"], row["engines"]["openvino"]
    assert (exact["same"], exact["drop"]["value"]) == (100.0, 0.0)
    assert half["same"] > 98  # OpenVINO computes what is float in an int8 folder in bf16, if it can
    assert abs(half["drop"]["value"]) < 0.5


def test_a_folder_is_judged_as_it_is(result):
    ours, again = rows(result)["ours"], rows(result)["again"]
    assert again["engines"] == ours["engines"]
    assert (again["seconds"], again["cpu_seconds"], again["peak_mib"]) == (None, None, None)


def test_what_can_not_be_run_says_why(result):
    row = rows(result)["absent"]
    assert (row["state"], row["engines"]) == ("failed", {})
    assert row["reason"] == "no environment 'missing'; --prepare makes it"


def test_openvino_s_own_form_runs_there_only(result, place):
    row = rows(result)["ir"]
    assert row["engines"]["onnxruntime"] == {
        "failed": "the method gives OpenVINO's form of the network only"
    }
    assert row["engines"]["openvino"]["same"] > 99
    assert "parity" not in row
    manifest = read_manifest(place / "work" / "small" / "ir" / "openvino")
    assert (manifest.precision, manifest.target.name) == ("int8", "openvino")


def test_the_page_has_every_row(result):
    said = page(result)
    for title in ("ours", "copy", "again", "absent", "ir"):
        assert f"\n| {title} |" in said
    assert "- absent: failed: no environment 'missing'; --prepare makes it" in said


def test_one_method_again_replaces_its_row(result, place, capsys):
    before = rows(result)
    assert room.main(["suite.toml", "--only", "small,copy", "--no-latency"]) == 0
    after = rows(json.loads((place / "int8.json").read_text()))
    assert list(after) == list(before)
    assert after["ours"] == before["ours"]
    assert "small: copy: onnxruntime mIoU" in capsys.readouterr().err


def test_times_alone_are_taken_again(result, place, capsys):
    before = rows(json.loads((place / "int8.json").read_text()))
    assert room.main(["suite.toml", "--only", "ir", "--only-latency"]) == 0
    after = rows(json.loads((place / "int8.json").read_text()))
    times = after["ir"]["engines"]["openvino"].pop("latency")
    assert 0 < times["ratio"][0] <= times["ratio"][1] <= times["ratio"][2]
    assert times["n"] == 96
    assert before["ir"]["engines"]["openvino"].pop("latency") is None
    assert after == before
    assert f"small: ir: openvino: {times['p50_ms']} ms, " in capsys.readouterr().err


def test_another_float_network_is_not_mixed_in(result, place, tmp_path):
    for path, said in (
        ("network_sha256", "'small' is not what it was (network_sha256); run its other methods "
         "again too: --only small,copy,ours,again,absent,ir"),
        ("machine", "was made with another machine: other, now "),
    ):  # fmt: skip
        content = json.loads(json.dumps(result))
        if path == "machine":
            content["machine"]["fingerprint"] = "other"
        else:
            content["models"]["small"][path] = "other"
        out = tmp_path / "old.json"
        out.write_text(json.dumps(content))
        suite = read_recipe(Suite, Path("suite.toml"))
        with pytest.raises(ComparisonError) as error:
            room.compare(Path("suite.toml"), suite, out, only=["copy"], latency=False, say=silent)
        assert said in str(error.value)


def test_what_qat_has_trained_is_written_with_its_ranges(made, tmp_path):
    """Its ranges are twice those of the frames."""
    network = made[1].network
    table = calibrate(network, frames(3, seed=1), "minmax", silent)
    ranges = {tensor: 2 * top for tensor, top in table.ranges.items()}
    learned = dataclasses.replace(table, ranges=ranges, factors={}, offsets={})
    single = Quantiser(network, table).single
    write_learned(tmp_path / "qat", Learned(single, single, learned, {}), network.manifest)
    take_finished(tmp_path / "qat", network, tmp_path / "out.onnx")
    doubled = write_qdq(single, placement(single), ranges)
    assert read_graph(tmp_path / "out.onnx") == doubled


def test_a_folder_of_another_kind_is_refused(made, place, tmp_path):
    network, small = made[1].network, place / "work" / "small"
    larger = dataclasses.replace(network.spec, size=(128, 96))
    other = dataclasses.replace(
        network, manifest=dataclasses.replace(network.manifest, input=larger)
    )
    for folder, asked, said in (
        (small / "float" / "openvino", network,
         "is fp32 for openvino; give an int8 folder for onnxruntime, or what 'edgeseg train "
         "--qat' has trained"),
        (small / "ours" / "openvino", network, "is int8 for openvino; give"),
        (small / "ours" / "onnxruntime", other, ": its input size is (64, 96); expected (128, 96)"),
        (small / "nowhere", network, ": no such model folder"),
    ):  # fmt: skip
        with pytest.raises(BundleError) as error:
            take_finished(folder, asked, tmp_path / "out.onnx")
        assert str(error.value).startswith(f"{folder}")
        assert said in str(error.value)


def test_layers_that_any_engine_needs_in_float_stay(quantiser, monkeypatch):
    """One graph for both engines: what OpenVINO needs beside what ONNX Runtime needs."""
    needs = {"onnxruntime": ("b", "a"), "openvino": ("a", "c")}
    asked: list[Plan] = []

    def export(network, _, plan, out, say) -> Bundle:
        asked.append(plan)
        record = dataclasses.replace(quantiser.record(), float_layers=needs[plan.target])
        return Bundle(out, dataclasses.replace(network.manifest, quantisation=record))

    monkeypatch.setattr("edgeseg.pipeline.int8_comparison_ours.export_network", export)
    assert float_layers(quantiser, Budget(0.2, 1.0)) == ("b", "a", "c")
    assert {(p.precision, p.method, p.budget) for p in asked} == {("int8", "mse", Budget(0.2, 1.0))}


def test_a_trial_needs_a_result_of_its_own(result, capsys):
    assert room.main(["suite.toml", "--limit-frames", "2"]) == 2
    assert capsys.readouterr().err == (
        "edgeseg: --limit-frames N (1 or more) is a trial; give it an --out of its own\n"
    )


def test_int8_convolutions_have_both_inputs_quantised(result, place):
    graph = read_graph(place / "work" / "small" / "ours" / "network.onnx")
    count = int8_convolutions(graph)
    first = next(n for n in graph.graph.node if n.op_type == "Conv")
    half = onnx.ModelProto()
    half.CopyFrom(graph)
    next(n for n in half.graph.node if n.name == first.name).input[0] = "image"
    assert int8_convolutions(half) == count - 1
