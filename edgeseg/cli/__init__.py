"""The command line: parse, call one function, print. One module per verb.

A verb's module has `EXAMPLE`, `add_arguments(parser)` and `run(args) -> int`
(the exit code). It is imported only when its verb is typed.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import traceback
from types import ModuleType

from edgeseg.errors import EdgesegError, guess

# fmt: off
VERBS = {
    "quickstart": "the main job in minutes: model -> INT8 -> engines -> gate -> report",
    "models":     "list the models: params, MACs, source, shipped weights",
    "data":       "check a data set or show a contact sheet of it",
    "train":      "train a model by a recipe",
    "study":      "train and compare the variants of a recipe, with intervals",
    "convert":    "published weights -> checkpoint folder",
    "calibrate":  "frames -> range table for the INT8 writer",
    "sensitivity": "which layers lose the most as INT8, by labels and mIoU",
    "export":     "MODEL -> engine folder for a target, checked by the accuracy gate",
    "build":      "on the board: a folder's ONNX graph -> TensorRT engine, gated there",
    "eval":       "mIoU and IoU per class of any MODEL on a data set",
    "bench":      "MACs, params, latency, memory and mIoU of models; JSON and HTML report",
    "refine":     "coarse labels -> finer ones, class by class, by a trained refiner",
    "race":       "ours and others from the same frames to labels, as ratios of one run",
    "debug-parity": "the first tensor at which two engines part",
    "compare":    "compare two bench results of one machine; fail on a regression",
    "run":        "frames from images, video or camera -> labels and overlay",
    "inspect":    "what a model folder holds",
    "doctor":     "which engines this machine can run, and what is missing",
}
# fmt: on

# fmt: off
EXTRAS = {
    # library      what brings it
    "PIL":          "edgeseg",
    "av":           "edgeseg[video]",
    "fvcore":       "edgeseg[export]",
    "matplotlib":   "edgeseg[train]",
    "onnx":         "edgeseg[export]",
    "onnxruntime":  "edgeseg[onnxruntime]",
    "onnxscript":   "edgeseg[export]",
    "onnxslim":     "edgeseg[export]",
    "openvino":     "edgeseg[openvino]",
    "safetensors":  "edgeseg[export]",
    "tensorboard":  "edgeseg[train]",
    "tensorrt_rtx": "edgeseg[tensorrt-rtx]",
    "torch":        "edgeseg[export]",
}
# fmt: on


class Parser(argparse.ArgumentParser):
    """argparse, with errors in our own form."""

    def error(self, message: str) -> None:  # type: ignore[override]
        """One line on standard error, exit code 2."""
        self.exit(2, f"{self.prog}: {message}. See '{self.prog} --help'\n")


def main(argv: list[str] | None = None) -> int:
    """Run one command line; returns the exit code (0, 1, 2, 70 or 130)."""
    arguments = sys.argv[1:] if argv is None else argv
    try:
        code = _dispatch(arguments)
        sys.stdout.flush()
        return code
    except EdgesegError as error:
        print(f"edgeseg: {' '.join(str(error).split())}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # `edgeseg models | head`: nobody reads on, and Python flushes at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"edgeseg: {where}{error.strerror or error}", file=sys.stderr)
        return 2
    except MemoryError as error:
        print(f"edgeseg: not enough memory. {error}".strip(), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("edgeseg: interrupted", file=sys.stderr)
        return 130
    except ModuleNotFoundError as error:
        library = (error.name or "").partition(".")[0]
        if library not in EXTRAS:
            return _our_bug()
        print(
            f"edgeseg: '{arguments[0]}' needs '{library}'. Install it: "
            f"pip install '{EXTRAS[library]}'",
            file=sys.stderr,
        )
        return 2
    except Exception:
        return _our_bug()


def _our_bug() -> int:
    traceback.print_exc()
    print(
        "edgeseg: this is our bug. Please report the lines above with what you typed",
        file=sys.stderr,
    )
    return 70


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview())
        return 0
    if arguments[0] == "--version":
        from edgeseg import __version__

        print(f"edgeseg {__version__}")
        return 0
    verb = arguments[0]
    if verb not in VERBS:
        print(f"edgeseg: unknown verb '{verb}'.{guess(verb, VERBS)}", file=sys.stderr)
        return 2
    module = verb_module(verb)
    parser = Parser(
        prog=f"edgeseg {verb}",
        description=VERBS[verb],
        epilog=f"example:\n  {module.EXAMPLE}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(parser)
    code: int = module.run(parser.parse_args(arguments[1:]))
    return code


def verb_module(verb: str) -> ModuleType:
    """The module of a verb: dashes become underscores."""
    return importlib.import_module(f"edgeseg.cli.{verb.replace('-', '_')}")


def _overview() -> str:
    width = max(map(len, VERBS))
    lines = [f"  {verb:<{width}}  {text}" for verb, text in VERBS.items()]
    return (
        "usage: edgeseg VERB ... ('edgeseg VERB --help' tells more)\n\n" + "\n".join(lines) + "\n\n"
        "exit codes: 0 done, 1 a gate or comparison failed, 2 refused, 70 our bug, 130 interrupted"
    )
