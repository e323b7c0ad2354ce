"""`edgeseg study`: variants of one recipe are trained, scored frame by frame and compared."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import RECIPE
from PIL import Image

from edgeseg.benchmarks.study_table import PAGE
from edgeseg.cli import main
from edgeseg.pipeline.study import plan, read_study, run_folder

pytestmark = pytest.mark.torch

STUDY = """
[study]
title = "Two and one"
folder = "runs"
results = "results"
[study.claims.more]
better = "second"
than = "first"
target = 100.0
source = "nobody"
[variants.second]
init = "runs/first/checkpoint"
[variants.first]
[variants.wide]
model = "espnetc_q3+dupsample"
options.dupsample = {channels = 4, width = 8}
dupsample.patches = 40
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory, request) -> Path:
    """A folder with a study that was run."""
    streets = request.getfixturevalue("streets")
    folder = tmp_path_factory.mktemp("study")
    path = folder / "study.toml"
    path.write_text(RECIPE.format(data=streets, steps=2) + STUDY)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["study", "study.toml", "--jobs", "2", "--json", "out.json"]) == 0
    return folder


@pytest.fixture
def here(finished, tmp_path, monkeypatch) -> Path:
    """A copy of that folder, as the current one."""
    copy = tmp_path / "study"
    shutil.copytree(finished, copy)
    monkeypatch.chdir(copy)
    return copy


def test_every_run_is_scored_and_compared(here):
    result = json.loads((here / "results" / "study.json").read_text())
    assert json.loads((here / "out.json").read_text()) == result
    assert [run["variant"] for run in result["runs"]] == ["second", "first", "wide"]
    for run in result["runs"]:
        trained = json.loads((here / "runs" / run["variant"] / "eval.json").read_text())
        assert run["miou"]["value"] == pytest.approx(trained["miou"], abs=1e-3)
        assert run["miou"]["low"] <= run["miou"]["value"] <= run["miou"]["high"]
        assert run["frames"] == 5
        assert run["steps"] == 2
    (claim,) = result["claims"]
    first, second = (
        next(run["miou"]["value"] for run in result["runs"] if run["variant"] == name)
        for name in ("first", "second")
    )
    assert claim["difference"]["value"] == pytest.approx(second - first, abs=2e-3)
    assert claim["met"] is False
    assert result["runs"][2]["dupsample"]["channels"] == 4
    assert result["missing"] == []
    with Image.open(here / "results" / "overlays.jpg") as overlays:
        assert overlays.size[0] > 4 * 24  # the frame, its labels and the first networks across
    assert (here / "results" / "curves.png").stat().st_size > 10_000


def test_the_second_started_from_the_first(here):
    text = (here / "runs" / "second.log").read_text()
    assert "mIoU" in text
    with np.load(here / "runs" / "second" / "frames.npz") as kept:
        assert kept["counts"].shape == (5, 11, 12)
        assert len(kept["names"]) == 5


def test_what_is_finished_is_not_trained_again(here, capsys):
    before = {path: path.stat().st_mtime_ns for path in (here / "runs").rglob("weights.*")}
    assert main(["study", "study.toml"]) == 0
    said = capsys.readouterr()
    assert "training into" not in said.err
    assert {path: path.stat().st_mtime_ns for path in (here / "runs").rglob("weights.*")} == before
    assert "more: second less first: " in said.out
    assert "target +100.0: missed" in said.out


def test_a_run_that_fails_is_named_and_those_behind_it_wait(here, capsys):
    shutil.rmtree(here / "runs")
    text = (
        (here / "study.toml")
        .read_text()
        .replace("[variants.first]", "[variants.first]\nsize = [30, 64]")
    )
    (here / "study.toml").write_text(text)
    assert main(["study", "study.toml"]) == 1
    said = capsys.readouterr()
    assert "first: failed" in said.err
    assert "edgeseg: not trained: first, second; each run's log" in said.err
    assert "size 30x64 does not fit" in (here / "runs" / "first.log").read_text()
    result = json.loads((here / "results" / "study.json").read_text())
    assert [run["variant"] for run in result["runs"]] == ["wide"]
    assert result["missing"] == ["second", "first"]
    assert result["claims"] == []


def test_another_seed_has_its_own_folders_and_starts(here):
    study, _, variants = read_study(Path("study.toml"))
    assert run_folder(study, "first", None) == Path("runs/first")
    second, first, _ = plan(Path("study.toml"), study, variants, 7)
    assert first.folder == Path("runs/seed7/first")
    assert first.words[-2:] == ("--set", "seed=7")
    assert second.init == "runs/seed7/first/checkpoint"
    assert second.words[-2:] == ("--init", "runs/seed7/first/checkpoint")


def test_another_seed_is_compared_in_its_own_folder(here, capsys):
    shutil.copytree("runs/wide", "runs/seed7/wide")
    assert main(["study", "study.toml", "--only", "wide", "--compare-only", "--seed", "7"]) == 0
    assert "results: results/seed7" in capsys.readouterr().out
    result = json.loads((here / "results" / "seed7" / "study.json").read_text())
    assert result["title"] == "Two and one, seed 7"
    assert result["command"] == "edgeseg study study.toml --seed 7"
    assert [run["variant"] for run in result["runs"]] == ["wide"]


def test_the_page_is_what_the_results_say(here, capsys):
    words = ["RESULTS.md", "results/study.json"]
    assert PAGE.main(words) == 0
    text = (here / "RESULTS.md").read_text()
    assert "## Two and one" in text
    assert "| second | espnetc_q3 | first | 32x64 | 32x64 |" in text
    assert "| nobody | second | first |" in text
    assert "| +100.0 | **no** |" in text
    assert "| wide | 8x8 | 4 |" in text
    assert "results/curves.png" in text
    assert PAGE.main([*words, "--check"]) == 0
    (here / "RESULTS.md").write_text(text.replace("espnetc_q3", "espnet_q8"))
    assert PAGE.main([*words, "--check"]) == 1
    assert "RESULTS.md is not what the results say; run 'python -m" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("[variants.", "[others.", "a study needs a table [study] and [variants.NAME]"),
        ('better = "second"', 'better = "secand"', "no variant 'secand'. Did you mean 'second'"),
        ("target = 100.0", "", "[study.claims.more]: key 'target' is missing"),
        ('folder = "runs"', 'folder = "runs"\nprepare = ["rm -rf x"]', "expected 'edgeseg VERB"),
        (
            'folder = "runs"',
            'folder = "runs"\nprepare = ["edgeseg convert --model x --weights y --out z"]',
            "the study needs what 'edgeseg convert --model x --weights y --out z' makes",
        ),
    ],
)
def test_studies_that_are_refused(here, capsys, old, new, words):
    text = (here / "study.toml").read_text()
    (here / "study.toml").write_text(text.replace(old, new))
    assert main(["study", "study.toml"]) == 2
    assert words in capsys.readouterr().err


def test_words_that_are_refused(here, capsys):
    assert main(["study", "study.toml", "--only", "firsd"]) == 2
    assert "study.toml has no variant 'firsd'. Did you mean 'first'" in capsys.readouterr().err
    shutil.rmtree(here / "runs")
    assert main(["study", "study.toml", "--compare-only"]) == 2
    assert "no run of study.toml is finished in runs" in capsys.readouterr().err
    assert PAGE.main(["RESULTS.md", "nothing.json"]) == 2
    assert "nothing.json: no such file; 'edgeseg study' writes it" in capsys.readouterr().err
    (here / "other.json").write_text("{}")
    assert PAGE.main(["RESULTS.md", "other.json"]) == 2
    assert "is no result of 'edgeseg study': 'title' is missing" in capsys.readouterr().err
