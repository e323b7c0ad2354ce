"""A finished run -> shipped weights: what is dropped, what is measured, what is refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from edgeseg.benchmarks.accuracy import evaluate
from edgeseg.bundle import Bundle, InputSpec, Manifest, ModelSpec, WeightsSpec, read_manifest
from edgeseg.cli import main as edgeseg
from edgeseg.dataset import open_dataset
from edgeseg.disk import write_json, write_text
from edgeseg.errors import BundleError, UsageError
from edgeseg.labels import CLASS_TABLES
from edgeseg.metrics import Scores
from edgeseg.models.checkpoint import load_checkpoint, save_checkpoint
from edgeseg.models.network import build_exportable, build_model
from edgeseg.pipeline import ship as shipping
from edgeseg.pipeline.card import card
from edgeseg.pipeline.model import open_model
from edgeseg.pipeline.origin import Run, check_terms, find_recipe, find_starts, read_run
from edgeseg.pipeline.ship import check_name, choose, lean, main, ship
from edgeseg.pipeline.ship_compare import Compared, Found, compare, compare_refiners
from edgeseg.runtime.engine import EngineOptions
from edgeseg.weights import SHIPPED

pytestmark = pytest.mark.torch

DATA = "synthetic:size=64x128,count=3"
RECIPE = f"""# A tiny run.
data = "{DATA}"
size = [64, 128]
steps = 5
batch = 2

[weights]
licence = "CC-BY-NC-4.0"

[variants.whole]
model = "espnet_q3+dsrl"
options.dsrl = {{ stage = "sssr+sisr+fa", affinity = "level2", upsampling = "bilinear" }}
"""
SPEC = ModelSpec(
    "espnet_q3+dsrl",
    {"dsrl": {"stage": "sssr+sisr+fa", "affinity": "level2", "upsampling": "bilinear"}},
)


def checkpoint(folder: Path, seed: int = 0, spec: ModelSpec = SPEC, **changes) -> Bundle:
    torch.manual_seed(seed)
    network = build_exportable(spec, 19).eval()
    inputs = InputSpec("rgb", (123.0, 116.0, 103.0), (58.0, 57.0, 57.0), size=(64, 128))
    manifest = Manifest(
        "checkpoint", spec.name, CLASS_TABLES["cityscapes19"].to_dict(), inputs, model=spec,
        weights=WeightsSpec("synthetic train", "CC-BY-NC-4.0", "edgeseg train"),
        history=("edgeseg train: recipe 0123456789abcdef, step 5 of 5",),
    )  # fmt: skip
    return save_checkpoint(folder, network, dataclasses.replace(manifest, **changes))


@pytest.fixture
def suites(tmp_path) -> Path:
    write_text(tmp_path / "suites" / "tiny.toml", RECIPE)
    write_text(tmp_path / "suites" / "another.toml", RECIPE.replace("batch = 2", "batch = 3"))
    return tmp_path / "suites"


@pytest.fixture
def run(tmp_path) -> Run:
    folder = tmp_path / "tiny_run"
    checkpoint(folder / "checkpoint")
    write_text(folder / "recipe.toml", f"{RECIPE}\n# --variant whole\n# --set seed=3")
    write_json(folder / "eval.json", {"recipe": "0123456789abcdef", "step": 5, "seconds": 90.0})
    return read_run(folder)


@pytest.fixture
def data():
    return open_dataset(DATA, "val")


def test_a_run_becomes_weights_with_a_card(run, suites, data, tmp_path, monkeypatch, capsys):
    into = tmp_path / "weights"
    monkeypatch.setattr(Compared, "same", property(lambda _: True))
    facts = ship(run, "tiny", data, suites=suites, into=into)
    assert {p.name for p in into.iterdir()} == {"tiny", "tiny.md", "tiny.json"}
    assert json.loads((into / "tiny.json").read_text()) == facts
    text = (into / "tiny.md").read_text()
    assert text == card(facts)
    command = f"edgeseg train {suites}/tiny.toml --variant whole --set seed=3 --out runs/tiny_run"
    for words in (
        "# tiny: espnet_q3+dsrl for 19 classes (cityscapes19)",
        "| licence | **Non-commercial use only.** CC-BY-NC-4.0 |",
        f"| command | `{command}` |",
        "| training | 5 steps of 2 crops of 64x128, sgd, poly, EMA 0.999, seed 3, 2 minutes |",
        "| options | `dsrl.stage sssr, dsrl.upsampling bilinear` |",
        "labels at 2x the input |",
        f"| 64x128 | synthetic val | 3 | {facts['miou']:.2f} |",
        "These streets are drawn",
        "without commercial purpose",
    ):
        assert words in text, words
    # It loads without branches, holds halves, gives the scores of the card and is a MODEL.
    manifest = read_manifest(into / "tiny")
    assert manifest.model == ModelSpec(
        SPEC.name, {"dsrl": {"stage": "sssr", "upsampling": "bilinear"}}
    )
    assert manifest.name == "tiny"
    assert manifest.history[-1] == "shipped as tiny: kernels as float16"
    stored = load_file(into / "tiny" / "weights.safetensors")
    kinds = {(v.ndim > 1, v.dtype) for v in stored.values() if v.is_floating_point()}
    assert kinds == {(True, torch.float16), (False, torch.float32)}
    monkeypatch.setattr("edgeseg.weights.SHIPPED", into)
    result = tmp_path / "eval.json"
    assert edgeseg(["eval", "tiny", "--data", DATA, "--json", str(result)]) == 0
    content = json.loads(result.read_text())
    assert round(content["miou"], 2) == facts["miou"]
    assert content["weights"] == facts["weights"]
    assert capsys.readouterr().out.splitlines()[-1] == (
        "weights of tiny: trained on synthetic train; licence CC-BY-NC-4.0 -- NON-COMMERCIAL use "
        "only"
    )
    assert edgeseg(["inspect", "tiny"]) == 0
    assert "licence CC-BY-NC-4.0 -- NON-COMMERCIAL use only" in capsys.readouterr().out


def test_what_is_dropped_does_not_change_the_labels(run, tmp_path):
    shipping.store(run, "tiny", None, tmp_path / "out", half=False)
    image = torch.rand(1, 3, 64, 128)
    before, _ = load_checkpoint(run.checkpoint)
    after, bundle = load_checkpoint(tmp_path / "out")
    assert bundle.manifest.params < read_manifest(run.checkpoint).params
    with torch.inference_mode():
        assert torch.equal(before(image), after(image))


def test_another_size_is_that_of_the_weights(run, tmp_path):
    bundle = shipping.store(run, "tiny", (32, 64), tmp_path / "out", half=False)
    assert bundle.manifest.input.size == (32, 64)
    with pytest.raises(UsageError, match=r"tiny takes sizes .* multiples of 8; 30x64 is not"):
        shipping.store(run, "tiny", (30, 64), tmp_path / "out", half=False)


def test_only_dsrl_loses_options():
    plain = ModelSpec("espnet_q8+dupsample", {"dupsample": {"stride": 32}})
    assert lean(plain) is plain
    both = ModelSpec("espnet_q8+dupsample+dsrl", {"dupsample": {"stride": 32}}, 1)
    assert lean(both).options == {"dupsample": {"stride": 32}, "dsrl": {"stage": "sssr"}}
    assert lean(both).void_outputs == 1


def test_both_are_scored_on_every_frame(data, tmp_path):
    one, other = checkpoint(tmp_path / "a").folder, checkpoint(tmp_path / "b", seed=1).folder
    same = compare(one, one, data)
    assert same.agreement == 100
    assert same.same
    found = compare(one, other, data)
    labels, miou = [], []
    for folder in (one, other):
        with open_model(str(folder), size=None, fit=None, options=EngineOptions()) as segmenter:
            labels.append(np.stack([segmenter.segment(s.image) for s in data]))
            miou.append(evaluate(segmenter, data).miou)
    assert [found.single.scores.miou, found.half.scores.miou] == miou
    assert found.agreement == pytest.approx(100 * float(np.mean(labels[0] == labels[1])))
    assert not found.same


def compared(single: float, half: float, agreement: float) -> Compared:
    return Compared(Found(Scores(single, 0, {})), Found(Scores(half, 0, {})), agreement)


@pytest.mark.parametrize(
    ("single", "half", "agreement", "same"),
    [
        (56.4301, 56.4349, 99.9, True),
        (56.434, 56.436, 99.99, False),
        (56.43, 56.43, 99.89, False),
    ],
)
def test_float16_must_change_nothing(single, half, agreement, same):
    assert compared(single, half, agreement).same is same


@pytest.mark.parametrize(
    ("agreement", "accuracy", "form"),
    [(99.95, 81.0, "kernels as float16"), (99.8, 80.0, "float32")],
)
def test_the_card_has_the_scores_of_what_is_shipped(
    agreement, accuracy, form, run, suites, data, tmp_path, monkeypatch
):
    single, half = (Found(Scores(50, pixels, {"road": 50})) for pixels in (80.0, 81.0))
    found = Compared(single, half, agreement)
    monkeypatch.setattr(shipping, "compare", lambda *_: found)
    facts = ship(run, "tiny", data, suites=suites, into=tmp_path / "weights")
    assert facts["pixel_accuracy"] == accuracy
    assert read_manifest(tmp_path / "weights" / "tiny").history[-1] == f"shipped as tiny: {form}"


def test_matrices_are_halved_and_what_is_few_is_not(tmp_path):
    model = ModelSpec("dfanet_b")
    bundle = checkpoint(tmp_path / "whole", name=model.name)
    manifest = dataclasses.replace(bundle.manifest, model=model)
    save_checkpoint(tmp_path / "half", build_model(model, 19), manifest, half=True)
    stored = load_file(tmp_path / "half" / "weights.safetensors")
    fc = next(key for key in stored if key.endswith("fc.weight"))
    assert stored[fc].dtype == torch.float16
    assert stored[fc.replace("weight", "bias")].dtype == torch.float32


def test_what_is_too_large_is_refused(tmp_path, monkeypatch):
    single, half = checkpoint(tmp_path / "single"), checkpoint(tmp_path / "half")
    (half.folder / "weights.safetensors").write_bytes(bytes(2_000_000))
    (single.folder / "weights.safetensors").write_bytes(bytes(5_000_000))
    fits = compared(56.43, 56.43, 99.95)
    assert choose(single, half, fits) == (
        half,
        "float16 kernels, the rest float32, 2.00 MB: mIoU 56.43 in float32, 56.43 with float16 "
        "kernels, 99.950 % of the labels agree",
    )
    with pytest.raises(UsageError) as error:
        choose(single, half, compared(56.43, 56.41, 99.95))
    assert str(error.value) == (
        "the weights are 5.0 MB; what is shipped stays below 5 MB. float16 would change the "
        "labels: mIoU 56.43 in float32, 56.41 with float16 kernels, 99.950 % of the labels agree. "
        "Train a smaller model"
    )
    with pytest.raises(UsageError, match=r"stays below 5 MB\. Train a smaller model"):
        choose(half, single, fits)
    (single.folder / "weights.safetensors").write_bytes(bytes(4_999_999))
    chosen, why = choose(single, half, compared(56.43, 56.41, 99.95))
    assert chosen is single
    assert why.startswith("float32, 5.00 MB: mIoU 56.43 in float32, 56.41 with float16")


# Refiners

REFINER = f"""model = "cascadepsp_r18"
options = {{ width = 0.125 }}
data = "{DATA}"
size = [64, 128]
steps = 5
batch = 2
[refine]
[weights]
licence = "CC-BY-NC-4.0"
"""
LABELLER = "espnet_q3"


@pytest.fixture
def refiner(tmp_path) -> Run:
    """A run of a refiner that nobody trained, and its recipe in suites/."""
    write_text(tmp_path / "suites" / "refine.toml", REFINER)
    folder = tmp_path / "refiner_run"
    spec = ModelSpec("cascadepsp_r18", {"width": 0.125})
    checkpoint(folder / "checkpoint", spec=spec)
    write_text(folder / "recipe.toml", REFINER)
    write_json(folder / "eval.json", {"recipe": "0123456789abcdef", "step": 5, "seconds": 90.0})
    return read_run(folder)


def test_a_refiner_is_shipped_with_what_it_gains(refiner, data, tmp_path, monkeypatch, capsys):
    into = tmp_path / "weights"
    facts = ship(refiner, "finer", data, labels_of=LABELLER, suites=tmp_path / "suites", into=into)
    refined = facts["refined"]
    assert refined["labels_of"] == LABELLER
    gain = refined["gain"]["miou"]
    assert gain["value"] == pytest.approx(facts["miou"] - refined["before"]["miou"], abs=0.011)
    assert gain["low"] <= gain["value"] <= gain["high"]
    assert set(facts["macs"]) == {"64x128", "256x512", "512x1024"}
    text = (into / "finer.md").read_text()
    assert text == card(json.loads((into / "finer.json").read_text()))
    mba = refined["mba"]
    for words in (
        "# finer: cascadepsp_r18 for masks of one class (trained on those of cityscapes19)",
        "| options | `width 0.125` |",
        "; a coarse mask as fourth channel |",
        "Labels of `espnet_q3`, refined in torch, on 3 frames of synthetic val; brackets: 95 %",
        f"| mIoU | {refined['before']['miou']:.2f} | {facts['miou']:.2f} | {gain['value']:+.2f} [",
        f"| mBA | {mba[0]:.2f} | {mba[1]:.2f} | ",
        "mBA: share of right labels",
        "| class | IoU before | after |",
        "- What is not in the coarse mask is not found",
    ):
        assert words in text, words
    # Its name is taken by `edgeseg refine`, which finds the same, and refused as a labeller.
    monkeypatch.setattr("edgeseg.weights.SHIPPED", into)
    shutil.copytree(SHIPPED / LABELLER, into / LABELLER)
    result = tmp_path / "refine.json"
    line = ["refine", "finer", "--data", DATA, "--model", LABELLER, "--json", str(result)]
    assert edgeseg(line) == 0
    content = json.loads(result.read_text())
    assert round(content["after"]["miou"], 2) == facts["miou"]
    assert round(content["after"]["mba"], 2) == mba[1]
    capsys.readouterr()
    assert edgeseg(["eval", "finer", "--data", DATA]) == 2
    assert "finer holds 'finer', which labels no frames" in capsys.readouterr().err
    assert edgeseg(["refine", "fimer", *line[2:]]) == 2
    assert "Did you mean 'finer'?" in capsys.readouterr().err


def test_refiners_that_differ_are_seen(refiner, data, tmp_path):
    """With other weights in place of float16: the labels do not all agree."""
    single = shipping.store(refiner, "finer", None, tmp_path / "single", half=False)
    network, _ = load_checkpoint(single.folder, build_exportable)
    with torch.no_grad():
        for value in network.parameters():
            value.neg_()
    other = save_checkpoint(tmp_path / "other", network, single.manifest)
    assert compare_refiners(single.folder, single.folder, data, LABELLER).agreement == 100
    assert compare_refiners(single.folder, other.folder, data, LABELLER).agreement < 100


def test_whose_labels_is_said_of_refiners_alone(refiner, run, data, suites, tmp_path):
    into = tmp_path / "weights"
    with pytest.raises(UsageError, match=r"refiner_run is a refiner's; --labels-of says whose"):
        ship(refiner, "finer", data, suites=suites, into=into)
    with pytest.raises(UsageError, match=r"tiny_run is no refiner's; leave --labels-of away"):
        ship(run, "tiny", data, labels_of=LABELLER, suites=suites, into=into)
    with pytest.raises(BundleError, match="which labels no frames"):
        ship(refiner, "finer", data, labels_of=str(refiner.checkpoint), suites=suites, into=into)
    assert not into.exists()


# Refusals


def test_names_and_what_is_there(tmp_path):
    for name in ("Big", "../up", "a b", "", ".hidden"):
        with pytest.raises(UsageError, match="is no name for weights; take small letters"):
            check_name(name, tmp_path, force=True)
    (tmp_path / "there").mkdir()
    with pytest.raises(UsageError, match="named 'there' are shipped already; --force replaces"):
        check_name("there", tmp_path, force=False)
    check_name("there", tmp_path, force=True)


def test_a_run_that_is_not_finished(run):
    (run.folder / "eval.json").unlink()
    with pytest.raises(UsageError, match=r"tiny_run has no eval\.json; expected the folder of a"):
        read_run(run.folder)


def test_a_recipe_that_is_not_in_the_repository(run, suites):
    assert find_recipe(run, suites) == suites / "tiny.toml"
    (suites / "tiny.toml").unlink()
    with pytest.raises(UsageError, match=r"no recipe in .*suites is that of .*\(variant whole\); "):
        find_recipe(run, suites)


def test_starting_weights_are_followed_to_the_first(run, tmp_path):
    assert find_starts("") == {}
    assert find_starts("espnet_q3")["espnet_q3"].licence == "Apache-2.0"
    first = checkpoint(tmp_path / "first", weights=WeightsSpec("a", "b", "c")).folder
    toml = run.folder / "recipe.toml"
    toml.write_text(f"init = '{first}'\n{toml.read_text()}")
    assert list(find_starts(str(run.checkpoint))) == [str(first), str(run.checkpoint)]
    with pytest.raises(UsageError, match=r"from encoder\.pth, a file that names no licence; what"):
        find_starts("encoder.pth")
    with pytest.raises(UsageError, match=r"started from gone/x, which is gone: its licence can't"):
        find_starts("gone/x")


def test_licences_are_said_and_inherited():
    free = WeightsSpec("synthetic train", "MIT", "edgeseg train")
    bound = WeightsSpec("Cityscapes", "MIT; for non-commercial research", "sacmehta/ESPNet")
    with pytest.raises(UsageError, match="licence of the weights is unknown; say it in the rec"):
        check_terms(dataclasses.replace(free, licence="unknown"), {})
    with pytest.raises(UsageError, match=r"under 'MIT; for non-.* and calls its own 'MIT'; the "):
        check_terms(free, {"x": bound})
    with pytest.raises(UsageError, match=r"nobody to thank is known for 'my own'; add to THANKS"):
        check_terms(dataclasses.replace(free, data="my own"), {})
    assert check_terms(free, {}) == []
    thanked = check_terms(dataclasses.replace(free, licence="non-commercial"), {"x": bound})
    assert [t.split()[0] for t in thanked] == ["Cityscapes", "ESPNet's"]


def test_a_refusal_writes_nothing(run, suites, data, tmp_path, monkeypatch):
    monkeypatch.setattr(shipping, "LIMIT", 10)
    with pytest.raises(UsageError, match="the weights are"):
        ship(run, "tiny", data, suites=suites, into=tmp_path / "weights")
    assert not (tmp_path / "weights").exists()


def test_a_fault_while_writing_leaves_nothing(run, suites, data, tmp_path, monkeypatch):
    monkeypatch.setattr(shipping, "card", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        ship(run, "tiny", data, suites=suites, into=tmp_path / "weights")
    assert list((tmp_path / "weights").iterdir()) == []


def test_the_command_says_one_line(tmp_path, capsys):
    assert main([str(tmp_path), "tiny"]) == 2
    assert capsys.readouterr().err == (
        f"edgeseg: {tmp_path} has no checkpoint; expected the folder of a finished "
        "'edgeseg train'\n"
    )


def test_a_failing_git_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(shipping, "__file__", str(tmp_path / "ship.py"))
    with pytest.raises(UsageError, match=r"git status: .*; ship from a git checkout"):
        shipping._commit()
