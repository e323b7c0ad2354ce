"""The command line: verbs, exit codes, one line for what the user can mend."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import types

import pytest

import edgeseg
from edgeseg.cli import VERBS, main, verb_module
from edgeseg.disk import check_replaceable
from edgeseg.errors import ComparisonError, EdgesegError, FrameError, GateError, UsageError, guess

pytestmark = pytest.mark.unit


@pytest.fixture
def verb(monkeypatch):
    """`verb(function)` makes `edgeseg test ...` call it."""

    def define(function):
        module = types.ModuleType("edgeseg.cli.test")
        module.EXAMPLE = "edgeseg test --level 3"
        module.add_arguments = lambda parser: parser.add_argument("--level", type=int)
        module.run = function
        monkeypatch.setitem(sys.modules, "edgeseg.cli.test", module)
        monkeypatch.setitem(VERBS, "test", "a verb for tests")

    return define


def raising(error: BaseException):
    def run(args):
        raise error

    return run


# What is typed


@pytest.mark.parametrize("typed", [[], ["-h"], ["--help"]])
def test_the_overview_names_every_verb(typed, capsys):
    assert main(typed) == 0
    shown = capsys.readouterr().out
    for name, text in VERBS.items():
        assert f"  {name}" in shown
        assert text in shown
    assert "exit codes: 0 done, 1 a gate or comparison failed, 2 refused, 70 our bug" in shown


def test_the_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"edgeseg {edgeseg.__version__}\n"


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("exprot", "edgeseg: unknown verb 'exprot'. Did you mean 'export'?\n"),
        ("--json", "edgeseg: unknown verb '--json'. Known: "),
    ],
)
def test_an_unknown_verb(typed, said, capsys):
    assert main([typed]) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith(said)
    assert shown.err.count("\n") == 1
    assert shown.out == ""


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_has_help_with_an_example(name, capsys):
    with pytest.raises(SystemExit) as left:
        main([name, "--help"])
    assert left.value.code == 0
    shown = capsys.readouterr().out
    module = verb_module(name)
    assert module.EXAMPLE in shown
    assert module.EXAMPLE.startswith(f"edgeseg {name}")
    assert VERBS[name] in " ".join(shown.split())


@pytest.mark.parametrize("typed", [["--level", "x"], ["--unknown"], ["extra"]])
def test_what_argparse_refuses_is_one_line_and_2(typed, verb, capsys):
    verb(lambda args: 0)
    with pytest.raises(SystemExit) as left:
        main(["test", *typed])
    assert left.value.code == 2
    shown = capsys.readouterr().err
    assert shown.startswith("edgeseg test: ")
    assert shown.endswith("See 'edgeseg test --help'\n")
    assert shown.count("\n") == 1


def test_arguments_and_the_exit_code_pass_through(verb):
    verb(lambda args: args.level)
    assert main(["test", "--level", "1"]) == 1


# What goes wrong


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (UsageError("no such thing"), 2, "edgeseg: no such thing\n"),
        (FrameError("frame is a list"), 2, "edgeseg: frame is a list\n"),
        (GateError("lost 3 mIoU"), 1, "edgeseg: lost 3 mIoU\n"),
        (ComparisonError("slower"), 1, "edgeseg: slower\n"),
        (EdgesegError("of a library:\n  two\n  lines"), 2, "edgeseg: of a library: two lines\n"),
        (
            OSError(errno.ENOSPC, "No space left on device", "out/network.onnx"),
            2,
            "edgeseg: out/network.onnx: No space left on device\n",
        ),
        (PermissionError(errno.EACCES, "Permission denied", "/out"), 2,
         "edgeseg: /out: Permission denied\n"),
        (OSError("plain"), 2, "edgeseg: plain\n"),
        (MemoryError("Unable to allocate 9 TiB"), 2,
         "edgeseg: not enough memory. Unable to allocate 9 TiB\n"),
        (KeyboardInterrupt(), 130, "edgeseg: interrupted\n"),
    ],
)  # fmt: skip
def test_what_the_user_can_mend_is_one_line(error, code, said, verb, capsys):
    verb(raising(error))
    assert main(["test"]) == code
    shown = capsys.readouterr()
    assert shown.err == said
    assert shown.out == ""


def test_a_full_disk(verb, tmp_path, monkeypatch, capsys):
    """No space left while a file is written: one line, 2, and nothing half-written."""
    from edgeseg.disk import write_text

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    verb(lambda args: write_text(tmp_path / "out.json", "content"))
    assert main(["test"]) == 2
    assert capsys.readouterr().err == f"edgeseg: {tmp_path}/out.json: No space left on device\n"
    assert not list(tmp_path.iterdir())


def test_a_place_that_can_not_be_written_to_is_refused_before_the_work(
    tmp_path, monkeypatch, capsys
):
    """Every file that a verb writes goes through the same door."""
    (tmp_path / "file").write_text("mine")
    monkeypatch.setattr("os.access", lambda path, mode: path != tmp_path / "locked")
    (tmp_path / "locked").mkdir()
    for place, said in (
        (tmp_path, f"{tmp_path} is a folder; give the path of a file"),
        (tmp_path / "file" / "x", f"{tmp_path}/file is a file, so nothing can be written below it"),
        (tmp_path / "locked" / "a" / "x", f"no permission to write in {tmp_path}/locked; give ano"),
    ):
        for line in (
            ["models", "--json", str(place)],
            ["calibrate", "espnet_q3", "--data", "synthetic:", "--out", str(place)],
            ["data", "show", "synthetic:", "--out", str(place)],
        ):
            with pytest.raises(SystemExit) as left:
                main(line)
            assert left.value.code == 2
            assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    "line",
    [
        ["sensitivity", "espnet_q3", "--data", "synthetic:"],
        ["debug-parity", "a", "b"],
    ],
    ids=lambda line: line[0],
)
def test_a_file_where_a_folder_is_due_is_refused_before_the_work(line, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    assert main([*line, "--out", str(tmp_path / "file")]) == 2
    assert capsys.readouterr().err.endswith("/file is a file; --out expects a folder\n")


def test_a_folder_is_not_made_below_a_file(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UsageError, match=r"/file is a file, so nothing can be written below it"):
        check_replaceable(tmp_path / "file" / "folder")


def test_our_bug_keeps_its_traceback(verb, capsys):
    verb(lambda args: 1 // 0)
    assert main(["test"]) == 70
    shown = capsys.readouterr().err
    assert "ZeroDivisionError" in shown
    assert "Traceback" in shown
    assert shown.endswith("Please report the lines above with what you typed\n")


@pytest.mark.parametrize(
    ("module", "install"),
    [("torch.nn", "edgeseg[export]"), ("av", "edgeseg[video]"), ("PIL", "edgeseg")],
)
def test_a_missing_library_says_what_to_type(module, install, verb, capsys):
    verb(raising(ModuleNotFoundError(f"No module named '{module}'", name=module)))
    assert main(["test"]) == 2
    library = module.partition(".")[0]
    said = f"edgeseg: 'test' needs '{library}'. Install it: pip install '{install}'\n"
    assert capsys.readouterr().err == said


def test_a_missing_module_of_ours_is_our_bug(verb, capsys):
    verb(raising(ModuleNotFoundError("No module named 'edgeseg.x'", name="edgeseg.x")))
    assert main(["test"]) == 70
    assert "Traceback" in capsys.readouterr().err


# As a process


def run(*typed: str, **options) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgeseg", *typed]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, **options
    )


def test_the_process_has_the_exit_code():
    done = run("nothing")
    assert done.returncode == 2
    assert done.stderr.startswith("edgeseg: unknown verb 'nothing'.")
    assert run("--version").stdout == f"edgeseg {edgeseg.__version__}\n"


def test_a_reader_who_leaves_early_is_no_error():
    command = f"{sys.executable} -m edgeseg --help | true; exit ${{PIPESTATUS[0]}}"
    for unbuffered in ("", "1"):
        done = subprocess.run(
            ["bash", "-c", command],
            capture_output=True, text=True, timeout=60, check=False,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        )  # fmt: skip
        assert done.returncode == 0
        assert done.stderr == ""


# Guesses


def test_guesses():
    assert guess("expotr", VERBS) == " Did you mean 'export'?"
    assert guess("zzz", ["a", "b"]) == " Known: a, b."
    assert guess("zzz", []) == ""


def test_errors_are_a_tree_of_one_root():
    import edgeseg.errors as errors

    tree = errors.__doc__ or ""
    classes = [
        c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, BaseException)
    ]
    assert len(classes) > 8
    for error in classes:
        assert issubclass(error, EdgesegError)
        assert error.__name__ in tree
        assert error.exit_code == (1 if error in (GateError, ComparisonError) else 2)


HELP = """
import contextlib, io, sys
from edgeseg.cli import VERBS, main, verb_module
heavy = {"torch", "onnx", "onnxruntime", "onnxslim", "openvino", "fvcore", "safetensors", "av"}
for verb in VERBS:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        main([verb, "--help"])
    print(verb, *sorted(heavy & set(sys.modules)))
"""


def test_help_of_no_verb_loads_an_engine_or_torch():
    done = subprocess.run(
        [sys.executable, "-c", HELP], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.splitlines() == list(VERBS)


def test_importing_the_command_line_is_light():
    """Typing `edgeseg --help` loads no engine, no torch, no Pillow."""
    program = "import sys, edgeseg.cli; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    heavy = {"torch", "onnx", "onnxruntime", "openvino", "PIL", "av"}
    assert not heavy & set(done.stdout.split())
