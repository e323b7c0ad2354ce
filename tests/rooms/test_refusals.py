"""Bad input by the command line: one clear line, its exit code, and nothing left behind."""

from __future__ import annotations

import contextlib
import errno
import json
import re
import resource
import shutil
import tempfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from engine_folders import tiny_onnx
from networks import Networks, camvid, checkpoint
from PIL import Image
from test_foreign import foreign

from edgeseg.bundle import MANIFEST, read_manifest, write_bundle
from edgeseg.cli import main

pytestmark = [pytest.mark.rooms, pytest.mark.usefixtures("one_thread", "remembered")]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    return f"camvid:{camvid(tmp_path_factory.mktemp('data') / 'camvid')}"


@pytest.fixture(scope="module")
def model(networks: Networks) -> str:
    return str(networks.checkpoint("espnetc_q3"))


@pytest.fixture
def copied(model, tmp_path) -> Path:
    """A checkpoint folder that may be spoilt."""
    shutil.copytree(model, tmp_path / "in" / "model")
    return tmp_path / "in" / "model"


@pytest.fixture
def own_data(data, tmp_path) -> Path:
    """A data set that may be spoilt."""
    shutil.copytree(data.partition(":")[2], tmp_path / "in" / "camvid")
    return tmp_path / "in" / "camvid"


def inventory(root: Path) -> dict[str, int]:
    """Every file and folder below, hidden ones too, with its size."""
    return {
        str(p.relative_to(root)): p.stat().st_size if p.is_file() else -1 for p in root.rglob("*")
    }


@pytest.fixture
def refused(tmp_path, capsys, monkeypatch):
    """A function: types a command, and asserts one line of refusal and no traces.

    `early` says that nothing else was said before: no work was done in vain.
    """
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))

    def type_(*typed: object, code: int = 2, early: bool = True) -> str:
        before = inventory(tmp_path)
        found = 0
        try:
            found = main([str(t) for t in typed])
        except SystemExit as left:  # argparse
            found = int(left.code or 0)
        shown = capsys.readouterr()
        assert found == code, shown.err
        assert "Traceback" not in shown.err
        assert shown.out == ""
        assert inventory(tmp_path) == before
        lines = shown.err.splitlines()
        assert lines[-1].startswith("edgeseg")
        if early:
            assert len(lines) == 1, shown.err
        return lines[-1].removeprefix("edgeseg: ")

    return type_


def typed_for(verb: str, model: object, data: str, out: Path) -> list[str]:
    """A command line of that verb that would do its work."""
    lines = {
        "eval": [model, "--data", data, "--split", "val"],
        "export": [model, "--target", "onnxruntime", "--calib", data, "--out", out],
        "calibrate": [model, "--data", data, "--out", out],
        "bench": [model, "--data", data, "--sizes", "64x96", "--out", out],
    }
    return [verb, *map(str, lines[verb])]


VERBS = ("eval", "export", "calibrate", "bench")


# What is typed


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("espnet_q33", "'espnet_q33' is no model folder, no .onnx file and no model name. Did you"),
        ("espnetc_q8", "no weights are shipped for 'espnetc_q8'. Train it (edgeseg train RECIPE"),
        ("no/such/folder", "'no/such/folder' is no model folder, no .onnx file and no model name."),
    ],
)
def test_an_unknown_model(verb, model, said, data, tmp_path, refused):
    assert refused(*typed_for(verb, model, data, tmp_path / "out")).startswith(said)


@pytest.mark.parametrize("verb", VERBS)
def test_a_file_that_is_no_model(verb, data, tmp_path, refused):
    (tmp_path / "weights.pth").write_bytes(b"x")
    said = refused(*typed_for(verb, tmp_path / "weights.pth", data, tmp_path / "out"))
    assert said.startswith(f"{tmp_path}/weights.pth is a file, and no .onnx file; give a model")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--target", "openvivo"], "unknown target 'openvivo'. Did you mean 'openvino'?"),
        (["--target", "coreml"], "unknown target 'coreml'. Known: onnxruntime, openvino, tensorrt"),
        (["--precision", "int4"], "unknown precision 'int4'. Did you mean 'int8'?"),
        (["--size", "64"], "size '64' is not HEIGHTxWIDTH, such as 512x1024"),
        (["--size", "63x96"], "tiny espnetc_q3 takes sizes whose height and width are multiples "
         "of 8; 63x96 is not. The nearest is 64x96"),
        (["--size", "0x96"], "size '0x96' is not HEIGHTxWIDTH, such as 512x1024"),
        (["--batch", "0"], "export: argument --batch: '0' is no positive integer. See 'edgeseg"),
        (["--method", "kl"], "export: argument --method: invalid choice: 'kl' (choose"),
        (["--max-miou-drop", "nan"], "export: argument --max-miou-drop: 'nan' is no number of at "),
        (["--max-float-share", "2"], "--max-float-share is 2.0; expected 0 to 1"),
        (["--calibrate", "x"], "export: unrecognized arguments: --calibrate x. See 'edgeseg exp"),
        (["--calib", "camvit:x"], "--data 'camvit:x' is not KIND:PATH with a known kind. Did you "),
        (["--calib", "camvid:"], "--data 'camvid:' has no path; expected camvid:PATH"),
        (["--calib", "camvid:no/where"], "no/where: no such folder"),
        (["--calib", "ranges.json"], "a range table holds no frames for the gate: give --gate KIN"),
        (["--calib", "synthetic:sise=64x64"], "synthetic: unknown setting 'sise=64x64'. Did you "),
    ],
)  # fmt: skip
def test_what_export_can_not_do(more, said, model, data, tmp_path, refused):
    line = refused(*typed_for("export", model, data, tmp_path / "out"), *more)
    assert line.removeprefix("edgeseg ").startswith(said)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--targets", "onnxruntime,openvivo"], "unknown target 'openvivo'. Did you mean 'openv"),
        (["--targets", "torch", "--precisions", "int8"], "target 'torch' runs the checkpoint in "
         "fp32, and --precisions is int8; add fp32 to it, or leave torch away"),
        (["--precisions", "fp32,int4"], "unknown precision 'int4'. Did you mean 'int8'?"),
        (["--sizes", "64x96,512"], "size '512' is not HEIGHTxWIDTH, such as 512x1024"),
        (["--samples", "0"], "argument --samples: '0' is no positive integer."),
        (["--seconds", "-1"], "argument --seconds: '-1' is no number of at least 0."),
        (["--seconds", "9", "--max-seconds", "5"], "timing for at least 9 s and at most 5 s: "),
        (["--split", "validation"], "argument --split: invalid choice: 'validation' (choose from"),
        (["--split", "test"], "has no split 'test'"),
    ],
)  # fmt: skip
def test_what_bench_can_not_do(more, said, model, data, tmp_path, refused):
    assert said in refused(*typed_for("bench", model, data, tmp_path / "out"), *more)


def test_a_size_that_no_model_takes(model, data, tmp_path, refused):
    line = typed_for("bench", model, data, tmp_path / "out")
    said = refused(*line, "--sizes", "63x96,10x10", early=False)
    assert said.startswith("nothing could be measured: tiny espnetc_q3 takes sizes whose height")
    assert refused(*typed_for("eval", model, data, tmp_path), "--size", "64x100") == (
        "tiny espnetc_q3 takes sizes whose height and width are multiples of 8; 64x100 is not. "
        "The nearest is 64x96"
    )


def test_two_models_of_one_name(model, data, tmp_path, refused):
    shutil.copytree(model, tmp_path / "in" / Path(model).name)
    line = typed_for("bench", model, data, tmp_path / "out")
    said = refused(*line[:2], str(tmp_path / "in" / Path(model).name), *line[2:])
    assert said == "two models are named 'espnetc_q3', and so would their engines be"


def test_eval_of_other_classes(model, tmp_path, refused):
    said = refused("eval", model, "--data", "synthetic:size=64x96,count=1")
    assert said.startswith("the model's classes are camvid11 (11: sky, building, pole, ...), the ")


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("camvid12", "unknown class table 'camvid12'. Did you mean 'camvid11'?"),
        ("no.toml", "no.toml: no such file"),
        ("{broken}", "is not valid TOML"),
        ("{keys}", "expected one [[classes]] entry with name and colour per class"),
        ("{few}", "expected logits (N, C, h, w) with C of at least 14 (the class table)"),
    ],
)
def test_class_tables(table, said, data, tmp_path, refused):
    path = foreign(tmp_path / "net.onnx")
    made = {"broken": "name = ", "keys": "[[classes]]\ntitle = 'x'\ncolour = [1, 2, 3]\n"}
    made["few"] = "".join(f"[[classes]]\nname='{i}'\ncolour=[{i},0,0]\n" for i in range(14))
    for name, text in made.items():
        (tmp_path / f"{name}.toml").write_text(text)
        table = table.replace(f"{{{name}}}", str(tmp_path / f"{name}.toml"))
    line = typed_for("export", path, data, tmp_path / "out")
    more = ["--mean", "1,1,1", "--std", "1,1,1", "--input-order", "rgb", "--size", "16x24"]
    assert said in refused(*line, *more, "--classes", table)


@pytest.mark.parametrize("verb", ["export", "calibrate", "bench"])
def test_a_foreign_file_that_is_not_described(verb, data, tmp_path, refused):
    path = foreign(tmp_path / "net.onnx")
    said = refused(*typed_for(verb, path, data, tmp_path / "out"), early=False)
    missing = "--classes, --mean, --std, --input-order" + ("" if verb == "bench" else ", --size")
    assert f"a foreign ONNX file needs {missing} too" in said
    assert "export the ONNX file first" in refused("eval", path, "--data", data)


# Files


def spoil_manifest(folder: Path, change) -> None:
    content = json.loads((folder / MANIFEST).read_text())
    change(content)
    (folder / MANIFEST).write_text(json.dumps(content))


SPOILT = {
    "no manifest": (lambda f: (f / MANIFEST).unlink(), "is no model folder: it has no manifest"),
    "truncated manifest": (
        lambda f: (f / MANIFEST).write_bytes((f / MANIFEST).read_bytes()[:200]),
        "is not valid JSON",
    ),
    "another schema": (
        lambda f: spoil_manifest(f, lambda c: c.update(schema=9)), "schema is 9; this edgeseg "
    ),
    "unknown key": (
        lambda f: spoil_manifest(f, lambda c: c.update(sizes=3)), "unknown key 'sizes'"
    ),
    "another order": (
        lambda f: spoil_manifest(f, lambda c: c["input"].update(order="rbg")),
        "manifest is damaged: ",
    ),
    "tampered weights": (
        lambda f: (f / "weights.safetensors").write_bytes(b"x"), "was changed after export"
    ),
    "no weights": (lambda f: (f / "weights.safetensors").unlink(), "is missing; copy or export "),
}  # fmt: skip


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("kind", SPOILT)
def test_a_spoilt_checkpoint(verb, kind, copied, data, tmp_path, refused):
    spoil, said = SPOILT[kind]
    spoil(copied)
    # bench tries the other models and sizes, and says why nothing was left
    early = verb != "bench"
    assert said in refused(*typed_for(verb, copied, data, tmp_path / "out"), early=early)


@pytest.mark.parametrize("verb", ["eval", "export"])
def test_a_checkpoint_with_the_weights_of_another(verb, copied, data, tmp_path, refused):
    from safetensors.torch import save

    (copied / "weights.safetensors").write_bytes(save({"a": torch.zeros(3)}))
    write_bundle(copied, read_manifest(copied))
    said = refused(*typed_for(verb, copied, data, tmp_path / "out"))
    assert re.search(r"weights do not fit the model: \d+ missing \(first: '.*1 unknown", said)


def test_a_checkpoint_of_an_unknown_network(copied, data, refused):
    spoil_manifest(copied, lambda c: c["model"].update(name="espnetc_q4"))
    said = refused("eval", copied, "--data", data)
    assert said.startswith("unknown model 'espnetc_q4'. Did you mean 'espnetc_q")


@pytest.mark.parametrize("verb", ["export", "calibrate", "bench"])
@pytest.mark.parametrize("content", [b"", b"text", None])
def test_a_broken_onnx_file(verb, content, data, tmp_path, refused):
    path = foreign(tmp_path / "net.onnx")
    path.write_bytes(path.read_bytes()[:100] if content is None else content)
    more = ["--classes", "camvid11", "--mean", "1,1,1", "--std", "1,1,1", "--input-order", "rgb"]
    more += [] if verb == "bench" else ["--size", "16x24"]
    said = refused(*typed_for(verb, path, data, tmp_path / "out"), *more, early=False)
    assert "net.onnx: truncated or no valid ONNX file (" in said


def test_a_tampered_engine_folder(networks, data, tmp_path, refused, capsys):
    out = tmp_path / "engine"
    line = typed_for("export", networks.checkpoint("espnetc_q3"), data, out)
    assert main([*line, "--precision", "fp32"]) == 0
    capsys.readouterr()
    network = onnx.load(out / "network.onnx")
    network.doc_string = "changed"
    onnx.save(network, out / "network.onnx")
    said = refused("eval", out, "--data", data)
    assert said.startswith(f"{out}: file 'network.onnx' was changed after export")
    said = refused(*typed_for("bench", out, data, tmp_path / "bench"), early=False)
    assert "file 'network.onnx' was changed after export" in said


# Data


@pytest.mark.parametrize("verb", VERBS)
def test_data_without_images(verb, own_data, model, tmp_path, refused):
    for path in own_data.rglob("*.png"):
        path.unlink()
    said = refused(*typed_for(verb, model, f"camvid:{own_data}", tmp_path / "out"), early=False)
    assert "no .png images" in said


@pytest.mark.parametrize("verb", ["export", "calibrate"])
def test_too_few_frames(verb, model, tmp_path, refused):
    few = camvid(tmp_path / "few", train=19, val=1)
    said = refused(*typed_for(verb, model, f"camvid:{few}", tmp_path / "out"), early=False)
    assert "19 frames for the gate; it needs at least 20" in said


def test_no_frames_are_left_to_calibrate_on(model, tmp_path, refused):
    """All 20 go to the gate."""
    few = camvid(tmp_path / "few", train=20, val=1)
    said = refused(*typed_for("calibrate", model, f"camvid:{few}", tmp_path / "o"), early=False)
    assert said == "no calibration frames; give --calib a data set with images"


@pytest.mark.parametrize("verb", VERBS)
def test_a_truncated_image(verb, own_data, model, tmp_path, refused):
    for path in [*(own_data / "train").iterdir(), *(own_data / "val").iterdir()]:
        path.write_bytes(path.read_bytes()[:500])
    said = refused(*typed_for(verb, model, f"camvid:{own_data}", tmp_path / "out"), early=False)
    assert re.search(r"/camvid/(train|val)/\d+\.png: broken or unknown image \(", said)


@pytest.mark.parametrize("verb", VERBS)
def test_labels_outside_the_table(verb, own_data, model, tmp_path, refused):
    for path in own_data.rglob("*annot/*.png"):
        Image.fromarray(np.full((64, 96), 40, np.uint8)).save(path)
    said = refused(*typed_for(verb, model, f"camvid:{own_data}", tmp_path / "out"), early=False)
    assert re.search(r"annot/\d+\.png: holds label id 40", said)


@pytest.mark.parametrize("verb", VERBS)
def test_an_image_without_labels(verb, own_data, model, tmp_path, refused):
    for split in ("train", "val"):
        (own_data / f"{split}annot" / "001.png").unlink()
    said = refused(*typed_for(verb, model, f"camvid:{own_data}", tmp_path / "out"), early=False)
    assert re.search(r"/camvid/(train|val)/001\.png: ", said)


# Range tables


def test_range_tables(networks, model, data, tmp_path, refused, capsys):
    table = tmp_path / "ranges.json"
    assert main(typed_for("calibrate", model, data, table)) == 0
    assert capsys.readouterr().out == f"{table}: ranges of 15 tensors, 16 frames\n"

    def export(*more: object, early: bool = True) -> str:
        line = typed_for("export", model, str(table), tmp_path / "out")
        return refused(*line, "--gate", data, *more, early=early)

    good = json.loads(table.read_text())
    assert "made for another preprocessing: size, fit" in export("--fit", "crop")
    assert "made for another preprocessing: size, fit" in export("--size", "32x48")
    assert "made for another network" in export("--output", "scores", early=False)
    assert export("--precision", "fp32") == (
        f"--calib {table} is a range table, and fp32 takes none; leave it away (--gate KIND:PATH "
        "names the frames of the gate)"
    )
    table.write_text(json.dumps(good | {"ranges": {}}))
    said = export(early=False)
    assert re.search(r"the range table has no tensor '.*'; calibrate this network again", said)
    table.write_text(table.read_text()[:50])
    assert f"{table}: is no range table (" in export()
    table.unlink()
    assert f"{table}: no such range table" in export()


# Disk


@contextlib.contextmanager
def little_disk(limit: int):
    """No file may grow beyond `limit` bytes: a write fails in every library, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def published(path: Path) -> Path:
    from edgeseg.bundle import ModelSpec
    from edgeseg.models.network import build_model

    torch.save(build_model(ModelSpec("espnetc_q3"), 12).state_dict(), path)
    return path


CONVERT = ["convert", "--model", "espnetc_q3", "--preset", "espnet-camvid"]


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("limit", [20_000, 400_000])
def test_a_disk_that_fills_up_while_an_engine_is_written(
    target, limit, model, data, tmp_path, refused
):
    """The limit is reached by the network file, or by the gate's frames behind it."""
    line = typed_for("export", model, data, tmp_path / "out")
    with little_disk(limit):
        said = refused(*line, "--target", target, "--precision", "fp32", early=False)
    assert "File too large" in said


def test_a_disk_that_fills_up_while_openvino_writes(tmp_path):
    from edgeseg.errors import EngineError
    from edgeseg.export.targets import find_exporter

    tiny_onnx(tmp_path / "net.onnx")
    with (
        little_disk(500),
        pytest.raises(
            EngineError, match=r"openvino can't write .*/network\.xml \(.*is the disk ful"
        ),
    ):
        find_exporter("openvino")(tmp_path / "net.onnx", tmp_path)


def test_a_disk_that_fills_up_while_a_checkpoint_is_written(tmp_path, refused):
    path = published(tmp_path / "net.pth")
    with little_disk(20_000):
        said = refused(*CONVERT, "--weights", path, "--out", tmp_path / "out")
    assert "File too large" in said


def test_a_disk_that_fills_up_while_a_table_is_written(model, data, tmp_path, refused):
    with little_disk(500):
        said = refused(*typed_for("calibrate", model, data, tmp_path / "r.json"), early=False)
    assert "File too large" in said


@pytest.fixture
def forbidden(monkeypatch, tmp_path):
    """Nothing may be made in tmp_path/out and beside it (root ignores modes)."""

    def deny(prefix: str = "", **more: str):
        if prefix.startswith(".out"):
            raise PermissionError(errno.EACCES, "Permission denied", f"{more['dir']}/{prefix}")
        return real(prefix=prefix, **more)

    real = tempfile.mkdtemp
    monkeypatch.setattr("tempfile.mkdtemp", deny)
    monkeypatch.setattr("tempfile.mkstemp", deny)


@pytest.mark.usefixtures("forbidden")
def test_no_permission(model, data, tmp_path, refused):
    path = published(tmp_path / "net.pth")
    out = tmp_path / "out"
    said = f"{tmp_path}/out: Permission denied"
    assert refused(*CONVERT, "--weights", path, "--out", out) == said
    line = typed_for("export", model, data, out)
    assert refused(*line, "--precision", "fp32", early=False) == said
    said = said.replace("/out:", "/out.json:")
    assert refused(*typed_for("calibrate", model, data, tmp_path / "out.json"), early=False) == said


@pytest.mark.parametrize("verb", ["convert", "export", "bench"])
def test_out_is_a_file_or_holds_other_things(verb, model, data, tmp_path, refused):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes").write_text("mine")
    for out, said in (
        (tmp_path / "file", "file is a file; --out expects a folder"),
        (tmp_path / "folder", "is a folder with other things in it; give --out a new or empty "),
    ):
        if verb == "convert":
            path = tmp_path / "net.pth"
            line = [*CONVERT, "--weights", str(path if path.exists() else published(path))]
            line += ["--out", str(out)]
        else:
            line = typed_for(verb, model, data, out)
        if verb == "bench" and out.is_dir():
            continue  # results go beside what is there
        assert said in refused(*line)


# Ctrl-C

INTERRUPTED = {
    "eval": "edgeseg.runtime.segmenter.Segmenter.prepare",
    "export": "edgeseg.pipeline.gating.judge",
    "calibrate": "edgeseg.pipeline.quantise.find_ranges",
    "bench": "edgeseg.pipeline.floats.prepare",
}


@pytest.mark.parametrize("verb", INTERRUPTED)
def test_interrupted(verb, model, data, tmp_path, refused, monkeypatch):
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(INTERRUPTED[verb], interrupt)
    line = typed_for(verb, model, data, tmp_path / "out")
    assert refused(*line, code=130, early=False) == "interrupted"


def test_interrupted_while_weights_are_converted(tmp_path, refused, monkeypatch):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    path = published(tmp_path / "net.pth")
    monkeypatch.setattr("edgeseg.models.checkpoint.write_bundle", interrupt)
    said = refused(*CONVERT, "--weights", path, "--out", tmp_path / "out", code=130)
    assert said == "interrupted"


# The gate


def test_a_gate_that_fails_by_the_command_line(copied, data, tmp_path, refused):
    """No frames of training, no budget: INT8 of a random network departs."""
    line = typed_for("export", copied, data, tmp_path / "out")
    more = ["--max-miou-drop", "0", "--max-class-drop", "0", "--max-float-share", "0"]
    said = refused(*line, *more, code=1, early=False)
    assert re.match(
        r"gate failed: mIoU \d+\.\d+ against \d+\.\d+ in float \(allowed drop 0\.0\), worst class "
        r"\w+ lost \d+\.\d+ \(allowed 0\.0\) with 0 of \d+ convolutions in float; first to depart: "
        r"tensor '.+' \(relative error \d\.\d+\)\. Nothing was written\.",
        said,
    )


def test_a_broken_checkpoint_that_gives_nan(tmp_path, data, refused):
    """Weights that overflow: refused by the tensor's name, not exported."""
    from networks import seeded

    from edgeseg.bundle import ModelSpec

    net = seeded(ModelSpec("espnetc_q3", {"p": 1}, 1))
    with torch.no_grad():
        net.encoder.stem[0].weight.mul_(1e38)
    checkpoint(tmp_path / "model", model=net)
    said = refused(*typed_for("export", tmp_path / "model", data, tmp_path / "out"), early=False)
    assert re.search(r"calibration frame 0: tensor '.*' holds nan or infinity", said)
