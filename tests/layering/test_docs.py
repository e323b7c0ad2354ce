"""What the documents promise: links, commands, numbers, versions."""

from __future__ import annotations

import argparse
import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tomllib
from engine_folders import onnxruntime_folder, refiner_folder

import edgeseg
from edgeseg.benchmarks import int8_table, study_table, tables
from edgeseg.cli import VERBS, Parser, main, verb_module
from edgeseg.dataset.folder import FolderRecipe
from edgeseg.labels import CLASS_TABLES
from edgeseg.pipeline.int8_comparison_suite import Suite
from edgeseg.pipeline.race import Rivals
from edgeseg.pipeline.study import read_study
from edgeseg.recipe import read_recipe
from edgeseg.runtime.segmenter import Segmenter

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.layering


def tracked(*patterns: str) -> list[Path]:
    """Files under version control or about to be."""
    command = ("git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *patterns)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return [p for line in sorted(set(done.stdout.splitlines())) if (p := ROOT / line).is_file()]


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


DOCUMENTS = tracked("*.md")
SCRIPTS = tracked("export/*.sh", "calibration/*.sh", "benchmarks/*.sh")


# Links


def links(text: str) -> list[str]:
    """Targets of [text](target) and ![text](target), outside of code."""
    text = re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)
    return re.findall(r"\]\(([^)\s]+)\)", text)


def anchors(text: str) -> set[str]:
    """What a heading can be linked by."""
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


def test_links_are_found():
    assert links("a [b](c.md#d) `[x](y)` ![e](f.png)\n```\n[no](no)\n```") == ["c.md#d", "f.png"]
    assert anchors("# The walk\n## What `x` is, 2.0") == {"the-walk", "what-x-is-20"}


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_every_relative_link_exists(document: Path):
    text = document.read_text(encoding="utf-8")
    for link in links(text):
        if re.match(r"\w+://", link):
            continue
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), f"{name(document)} links {link}"
        assert target.is_relative_to(ROOT), f"{name(document)} links {link}, outside the project"
        if anchor:
            assert anchor in anchors(target.read_text(encoding="utf-8")), f"{link}: no such heading"


def test_every_document_is_linked():
    linked = {
        (d.parent / link.partition("#")[0]).resolve()
        for d in DOCUMENTS
        for link in links(d.read_text(encoding="utf-8"))
    }
    alone = [d for d in DOCUMENTS if d not in linked and d != ROOT / "README.md"]
    assert [name(d) for d in alone if not name(d).startswith("edgeseg/")] == []


# Commands


def fenced(text: str, *languages: str) -> list[str]:
    """The fenced blocks of a Markdown text in one of these languages ("" for none)."""
    found = re.findall(r"^```([^\n]*)\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    return [body for language, body in found if language.strip() in languages]


def commands(shell: str) -> Iterator[list[str]]:
    """Every `edgeseg ...` of a shell text as words, also inside "$(...)"."""
    shell = shell.replace("\\\n", " ")
    for found in re.findall(r"(?:^\s*|\$\()edgeseg ([^|)\n]*)", shell, flags=re.MULTILINE):
        yield shlex.split(found, comments=True)


def parse(words: list[str]) -> None:
    """Build the verb's parser as the command line does and parse."""
    if words[0] in ("--help", "--version"):
        return
    assert words[0] in VERBS, f"edgeseg {shlex.join(words)}: unknown verb"
    module = verb_module(words[0])
    parser = Parser(prog=f"edgeseg {words[0]}")
    module.add_arguments(parser)
    parser.parse_args([w for w in words[1:] if w not in ("[--resume]",)])


def documented() -> list[tuple[str, list[str]]]:
    found = []
    for document in DOCUMENTS:
        for block in fenced(document.read_text(encoding="utf-8"), "sh", ""):
            found += [(name(document), words) for words in commands(block)]
    return found


VARIABLES = {
    "model": "espnet_q3", "data": "synthetic:", "size": "256x512", "out": "out", "folder": "f",
    "frames": "4", "method": "mse", "target": "openvino", "precision": "fp32",
}  # fmt: skip


def scripted() -> list[tuple[str, list[str]]]:
    found = []
    for script in SCRIPTS:
        text = re.sub(r"\$(\w+)", lambda m: VARIABLES.get(m[1], m[0]), script.read_text())
        found += [(name(script), words) for words in commands(text)]
    return found


DOCUMENTED = documented()
GRAMMAR = re.compile(r"\[|\.\.\.$|^[A-Z]+$")
"""Words that only a line of grammar has: [--resume], ..., MODEL."""


def test_commands_are_found():
    shell = 'edgeseg a \\\n  b "c d"  # e\nls\necho "x: $(edgeseg f g | head)"\nedgeseg h || x=1\n'
    assert list(commands(shell)) == [["a", "b", "c d"], ["f", "g"], ["h"]]
    assert len(DOCUMENTED) > 20
    assert {"README.md", "export/README.md", "calibration/README.md"} <= {d for d, _ in DOCUMENTED}


def case(case: tuple[str, list[str]]) -> str:
    return f"{case[0]}: {shlex.join(case[1])}"


@pytest.mark.parametrize("documented", DOCUMENTED + scripted(), ids=case)
def test_every_command_parses(documented: tuple[str, list[str]], capsys):
    _, words = documented
    if any(GRAMMAR.search(w) for w in words[1:]):
        words = [w for w in words if not GRAMMAR.search(w) and not w.startswith("key=")]
        options = " ".join(words)
        known = verb_module(words[0])
        parser = argparse.ArgumentParser()
        known.add_arguments(parser)
        help_text = parser.format_help()
        assert all(flag in help_text for flag in re.findall(r"--[\w-]+", options))
        return
    try:
        parse(words)
    except SystemExit as stop:
        pytest.fail(f"edgeseg {shlex.join(words)}: {capsys.readouterr().err} ({stop.code})")


def test_a_wrong_command_does_not_parse(capsys):
    with pytest.raises(SystemExit):
        parse(["eval", "m", "--data", "synthetic:", "--sizes", "256x512"])
    assert "unrecognized arguments: --sizes" in capsys.readouterr().err
    with pytest.raises(AssertionError, match="unknown verb"):
        parse(["evaluate", "m"])


CHEAP = [w for _, w in DOCUMENTED if w[:2] == ["data", "check"] and w[2].startswith("synthetic:")]


@pytest.mark.parametrize("words", CHEAP, ids=shlex.join)
def test_cheap_commands_run(words: list[str], capsys):
    words = [re.sub(r"count=\d+", "count=2", re.sub(r"size=\w+", "size=64x128", w)) for w in words]
    assert main(words) == 0
    assert "no problems found" in capsys.readouterr().out


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example_that_parses(verb: str, capsys):
    with pytest.raises(SystemExit) as stop:
        main([verb, "--help"])
    assert stop.value.code == 0
    said = capsys.readouterr().out
    assert f"example:\n  edgeseg {verb}" in said
    module = verb_module(verb)
    for words in commands(module.EXAMPLE):
        parse(words)


def test_verbs_that_documents_name_exist():
    named = {
        match
        for document in DOCUMENTS
        for match in re.findall(r"`edgeseg ([a-z][a-z-]+)", document.read_text(encoding="utf-8"))
    }
    assert named - set(VERBS) == set()
    assert set(VERBS) - named == set(), "a verb that no document names"


def test_make_targets_that_documents_name_exist():
    makefile = (ROOT / "Makefile").read_text()
    named = {
        target
        for document in DOCUMENTS
        for block in fenced(document.read_text(encoding="utf-8"), "sh")
        for target in re.findall(r"^make ([\w-]+)", block, flags=re.MULTILINE)
    }
    assert {"quickstart", "test"} <= named
    for target in named:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


@pytest.mark.parametrize("script", SCRIPTS, ids=name)
def test_scripts_are_bash(script: Path):
    done = subprocess.run(["bash", "-n", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "set -euo pipefail" in script.read_text()
    assert script.stat().st_mode & 0o111, f"{name(script)} can't be run"


# Python


def python_blocks() -> list[tuple[str, str]]:
    return [
        (f"{name(document)} {i}", block)
        for document in DOCUMENTS
        for i, block in enumerate(fenced(document.read_text(encoding="utf-8"), "python"))
    ]


@pytest.mark.parametrize(("where", "block"), python_blocks(), ids=lambda v: v.split("\n")[0][:40])
def test_python_examples_run(where: str, block: str, tmp_path: Path, monkeypatch):
    pytest.importorskip("onnxruntime", reason="the example folder is for ONNX Runtime")
    onnxruntime_folder(tmp_path / "runs" / "espnet_int8")
    refiner_folder(tmp_path / "runs" / "refine_int8")
    monkeypatch.chdir(tmp_path)
    frame = np.zeros((30, 40, 3), np.uint8)
    driven: list[np.ndarray] = []
    fake = Segmenter.of(edgeseg.FakeEngine(), CLASS_TABLES["camvid11"], size=(64, 128))
    coarse = np.zeros((30, 40), np.uint8)
    names = {"frame": frame, "camera": [frame] * 3, "drive": driven.append, "segmenter": fake,
             "coarse": coarse}  # fmt: skip
    exec(compile(block, where, "exec"), names)
    labels = names["labels"]
    assert isinstance(labels, np.ndarray)
    assert labels.shape == (30, 40)
    assert bool(driven) == ("drive(" in block)


# Results, recipes, versions

INT8 = {
    "INT8.md": ROOT / "benchmarks" / "results" / "int8.json",
    "INT8_AVX2.md": ROOT / "benchmarks" / "results" / "int8_avx2.json",
}


def results() -> list[Path]:
    """Results of `edgeseg bench`; those of the INT8 comparison lie beside them."""
    found = sorted((ROOT / "benchmarks" / "results").glob("*.json"))
    return [path for path in found if path not in INT8.values()]


@pytest.mark.parametrize("path", results() or [None], ids=lambda p: p.name if p else "none")
def test_results_name_their_command_and_machine(path: Path | None):
    if path is None:
        pytest.skip("benchmarks/results holds no result yet")
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["command"].startswith("edgeseg bench ")
    assert content["failed"] == []
    assert all(row["machine"]["cpu"] for row in content["results"])
    assert tables.results_table(content).startswith("| model |")


def test_the_table_of_the_readme_is_that_of_a_result():
    if not results():
        pytest.skip("benchmarks/results holds no result yet")
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    made = [
        tables.with_table(text, tables.results_table(json.loads(p.read_text())), "README.md")
        for p in results()
    ]
    assert text in made, (
        "the README's table is that of no file in benchmarks/results; run "
        "python -m edgeseg.benchmarks.tables README.md benchmarks/results/FILE.json"
    )


def studies() -> list[Path]:
    """Those of RESULTS.md: other seeds come last."""
    results = ROOT / "benchmarks" / "results"
    return [*sorted(results.glob("*/study.json")), *sorted(results.glob("*/seed*/study.json"))]


def test_the_page_of_results_is_that_of_the_studies():
    assert studies()
    study_table.PAGE.update(ROOT / "benchmarks" / "RESULTS.md", studies(), check=True)


@pytest.mark.parametrize("path", studies(), ids=name)
def test_a_study_can_be_run_again(path: Path):
    content = study_table.read_study_result(path)
    study, claims, variants = read_study(ROOT / content["recipe"])
    assert content["command"].startswith(f"edgeseg study {content['recipe']}")
    _, _, seed = content["command"].partition(" --seed ")
    assert ROOT / study.results / (f"seed{seed}" if seed else "") == path.parent
    assert {run["variant"] for run in content["runs"]} <= set(variants)
    assert {claim["name"] for claim in content["claims"]} <= set(claims)
    assert (path.parent / "curves.png").exists()
    assert (path.parent / "overlays.jpg").exists()


@pytest.mark.parametrize("page", INT8)
def test_the_page_of_int8_is_that_of_its_result(page: str):
    int8_table.PAGE.update(ROOT / "benchmarks" / page, [INT8[page]], check=True)
    content = int8_table.read_result(INT8[page])
    assert content["limit_frames"] is None
    known = read_recipe(Suite, ROOT / content["suite"]).pairs()
    assert {(row["model"], row["method"]) for row in content["rows"]} <= set(known)


def test_recipes_of_training_parse():
    plan = pytest.importorskip("edgeseg.training.plan", reason="training needs torch")
    suites = sorted((ROOT / "benchmarks" / "suites").glob("*.toml"))
    assert suites
    for suite in suites:
        assert suite.read_text().startswith("#"), f"{name(suite)}: a sentence on top is missing"
        content = tomllib.loads(suite.read_text())
        if "methods" in content:
            continue  # the INT8 comparison's
        if "rivals" in content:
            assert read_recipe(Rivals, suite).rivals
            continue
        variants = content.get("variants", {"": {}})
        for variant in variants:
            assert read_recipe(plan.Recipe, suite, variant=variant).steps > 0


def test_descriptions_of_data_sets_parse():
    descriptions = sorted((ROOT / "calibration" / "datasets").glob("*.toml"))
    assert descriptions
    for path in descriptions:
        assert read_recipe(FolderRecipe, path).name


def test_the_changelog_starts_with_this_version():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## (\S+)", text, flags=re.MULTILINE)
    assert versions[0] == edgeseg.__version__
    assert len(versions) == len(set(versions))
