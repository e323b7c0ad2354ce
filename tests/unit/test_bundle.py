"""The model folder and the ways in which it can be wrong; writing aside, then renaming."""

from __future__ import annotations

import dataclasses
import json
import stat
from pathlib import Path

import pytest
from engine_folders import MANIFEST

from edgeseg.bundle import (
    Bundle,
    Gate,
    InputSpec,
    ModelSpec,
    OutputSpec,
    Quantisation,
    Target,
    WeightsSpec,
    read_bundle,
    read_manifest,
    sha256,
    write_bundle,
)
from edgeseg.disk import check_replaceable, write_json, write_text, writing_file, writing_folder
from edgeseg.errors import BundleError

pytestmark = pytest.mark.unit

EMPTY_SHA = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two files."""
    path = tmp_path / "model"
    with writing_folder(path) as aside:
        (aside / "network.onnx").write_bytes(b"")
        (aside / "gate").mkdir()
        (aside / "gate" / "frames.npz").write_bytes(b"frames")
        write_bundle(aside, dataclasses.replace(MANIFEST, network_file="network.onnx"))
    return path


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def change(folder: Path, **changes: object) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_there_and_back(tmp_path: Path):
    manifest = dataclasses.replace(
        MANIFEST,
        model=ModelSpec("espnet", {"q": 8}),
        output=OutputSpec("scores", 8, "bilinear", 8),
        precision="int8",
        target=Target("openvino", "2026.4", "a CPU"),
        quantisation=Quantisation("minmax", "affine", 9, "a", "b", "camvid:x", ("conv",), 61),
        gate=Gate("passed", 20, "camvid:x", "truth", 99.0, 99.5, 57.0, 56.9, "pole", 1.0, 0.5),
        params=5,
        macs=7,
        uncounted={"Resize": 2},
        weights=WeightsSpec("CamVid", "MIT", "somewhere"),
        history=("one", "two"),
    )
    written = write_bundle(tmp_path, manifest)
    assert written.manifest == manifest  # no file, so no hash
    assert read_bundle(tmp_path) == Bundle(tmp_path, manifest)


def test_every_file_is_hashed(folder: Path):
    bundle = read_bundle(folder)
    assert set(bundle.manifest.files) == {"network.onnx", "gate/frames.npz"}
    assert bundle.manifest.files["network.onnx"] == EMPTY_SHA
    assert bundle.network == folder / "network.onnx"
    assert bundle.path("gate/frames.npz").read_bytes() == b"frames"


def test_sha256_of_more_than_one_block(tmp_path: Path):
    path = tmp_path / "million"
    path.write_bytes(b"a" * 1_000_000 + b"")
    # FIPS 180-2, appendix B.3
    assert sha256(path) == "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"
    path.write_bytes(bytes((1 << 20) + 1))
    assert sha256(path) != sha256(folder_of(tmp_path, bytes(1 << 20)))


def folder_of(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "other"
    path.write_bytes(content)
    return path


def test_a_tampered_file(folder: Path):
    (folder / "gate" / "frames.npz").write_bytes(b"framez")
    with pytest.raises(BundleError, match=r"'gate/frames.npz' was changed after export"):
        read_bundle(folder)


def test_a_missing_file(folder: Path):
    (folder / "network.onnx").unlink()
    with pytest.raises(BundleError, match=r"file 'network.onnx' is missing; copy or export"):
        read_bundle(folder)


def test_a_file_outside_the_folder(folder: Path):
    (folder.parent / "secret").write_bytes(b"")
    for name in ("../secret", str(folder.parent / "secret")):
        change(folder, files={name: EMPTY_SHA})
        with pytest.raises(BundleError, match="which is outside the folder"):
            read_bundle(folder)


def test_what_the_manifest_does_not_list(folder: Path):
    bundle = read_bundle(folder)
    with pytest.raises(BundleError, match=r"the manifest lists no file 'decode.npz'"):
        bundle.path("decode.npz")
    checkpoint = Bundle(folder, dataclasses.replace(bundle.manifest, network_file=None))
    with pytest.raises(BundleError, match="is a checkpoint folder; an engine needs a folder made"):
        _ = checkpoint.network


def test_folders_that_are_none(tmp_path: Path):
    with pytest.raises(BundleError, match=r"\.py is a file; give the model folder, such as .*unit"):
        read_manifest(Path(__file__))
    with pytest.raises(BundleError, match="nowhere: no such model folder"):
        read_manifest(tmp_path / "nowhere")
    with pytest.raises(BundleError, match=r"is no model folder: it has no manifest.json"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"{'schema': 1}"])
def test_a_manifest_that_is_no_json(folder: Path, content: bytes):
    (folder / "manifest.json").write_bytes(content)
    with pytest.raises(BundleError, match=r"manifest.json: is not valid JSON .*copy the folder"):
        read_manifest(folder)


@pytest.mark.parametrize(
    ("content", "found"), [("[]", "None"), ("{}", "None"), ('{"schema": 99}', "99")]
)
def test_another_schema(folder: Path, content: str, found: str):
    (folder / "manifest.json").write_text(content)
    with pytest.raises(BundleError, match=f"schema is {found}; this edgeseg reads schema 1"):
        read_manifest(folder)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"kind": "engine"}, "kind is 'engine'; expected checkpoint or network"),
        ({"precision": "int4"}, "precision is 'int4'; expected fp32, fp16, int8"),
        ({"colour": 1}, "unknown key 'colour'"),
        ({"input": 3}, "'input' is 3; expected a table"),
        ({"input": {"order": "rgb"}}, "key 'mean' is missing"),
        ({"classes": {}}, "manifest is damaged"),
        (
            {"classes": {"name": "x", "names": ["a"], "palette": [[1, 2]]}},
            "expected three integers",
        ),
        ({"classes": {"name": "x", "names": ["a"], "palette": 3}}, "manifest is damaged"),
        ({"params": "many"}, "'params' is 'many'; expected int"),
        ({"gate": {"state": "good"}}, "gate state is 'good'; expected passed, failed or not run"),
    ],
)
def test_a_damaged_manifest(folder: Path, changes: dict[str, object], said: str):
    change(folder, **changes)
    with pytest.raises(BundleError, match=r"manifest is damaged: .*") as raised:
        read_manifest(folder)
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"order": "grb"}, "order is 'grb'; expected one of rgb, bgr"),
        ({"fit": "zoom"}, "fit is 'zoom'; expected one of pad, crop, stretch"),
        ({"std": (1.0, 0.0, 1.0)}, r"std is \[1.0, 0.0, 1.0\]; expected positive"),
        ({"batch": 0}, "batch is 0; expected 1 or more"),
    ],
)
def test_an_input_that_can_not_be(changes: dict[str, object], said: str):
    values: dict[str, object] = {"order": "rgb", "mean": (0.0,) * 3, "std": (1.0,) * 3, **changes}
    with pytest.raises(ValueError, match=said):
        InputSpec(**values)  # type: ignore[arg-type]


def test_an_output_that_can_not_be():
    with pytest.raises(ValueError, match="output kind is 'boxes'; expected labels or scores"):
        OutputSpec("boxes")
    with pytest.raises(ValueError, match="decode belongs to kind 'scores' and to no other"):
        OutputSpec("labels", decode="bilinear")
    with pytest.raises(ValueError, match="decode belongs to kind 'scores'"):
        OutputSpec("scores")


# Writing aside


def interrupted_after(path: Path, text: str) -> None:
    path.write_text(text)
    raise KeyboardInterrupt


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path):
    path = tmp_path / "deep" / "a.txt"
    with writing_file(path) as aside:
        aside.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    with pytest.raises(KeyboardInterrupt), writing_file(path) as aside:
        interrupted_after(aside, "half")
    assert path.read_text() == "new"
    assert names(path.parent) == ["a.txt"]


def test_text_and_json(tmp_path: Path):
    write_text(tmp_path / "a.txt", "häuser")
    assert (tmp_path / "a.txt").read_bytes() == "häuser".encode()
    write_json(tmp_path / "a.json", {"x": [1, (2.5, None)]})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": [1, [2.5, None]]}
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "b.json", float("nan"))
    assert not (tmp_path / "b.json").exists()


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path):
    path = tmp_path / "model"
    with pytest.raises(KeyboardInterrupt), writing_folder(path) as aside:
        interrupted_after(aside / "half", "x")
    assert names(tmp_path) == []
    with writing_folder(path) as aside:
        (aside / "manifest.json").write_text("1")
        assert not path.exists()
    assert names(path) == ["manifest.json"]


def test_an_old_model_folder_is_replaced_only_by_a_whole_one(folder: Path):
    with pytest.raises(OSError, match="full"), writing_folder(folder):
        raise OSError("full")
    read_bundle(folder)
    with writing_folder(folder) as aside:
        (aside / "manifest.json").write_text("new")
    assert names(folder) == ["manifest.json"]
    assert names(folder.parent) == ["model"]


def test_other_peoples_things_are_not_replaced(tmp_path: Path):
    (tmp_path / "thesis.tex").write_text("...")
    with pytest.raises(BundleError, match="is a folder with other things in it; give --out a new"):
        check_replaceable(tmp_path)
    with pytest.raises(BundleError, match="is a file; --out expects a folder"):
        check_replaceable(tmp_path / "thesis.tex")
    check_replaceable(tmp_path / "new")
    (tmp_path / "empty").mkdir()
    check_replaceable(tmp_path / "empty")


def test_a_rename_that_fails_gives_the_old_folder_back(folder: Path, monkeypatch):
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if target == folder and not self.name.endswith(".old"):
            raise OSError("no")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(OSError, match="no"), writing_folder(folder) as aside:
        (aside / "manifest.json").write_text("new")
    read_bundle(folder)
    assert names(folder.parent) == ["model"]
