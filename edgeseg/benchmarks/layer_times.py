"""Where OpenVINO spends its time: the kinds of nodes of one or more engine folders, side by side.

`python -m edgeseg.benchmarks.layer_times FOLDER...` prints a Markdown table. The times are those of
OpenVINO's own counters, which make it a little slower; compare them with each other.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from edgeseg.benchmarks.pages import table
from edgeseg.bundle import Bundle, read_bundle
from edgeseg.errors import UsageError, exit_code
from edgeseg.runtime.engine import EngineOptions
from edgeseg.runtime.engine_openvino import OpenVinoEngine

RUNS = 20
ROUNDS = 3
"""Of all folders in turn, so that what disturbs the machine disturbs them alike."""


class CountingEngine(OpenVinoEngine):
    """Keeps the time of each node."""

    SETTINGS: ClassVar[dict[str, object]] = {**OpenVinoEngine.SETTINGS, "PERF_COUNT": True}

    def node_times(self) -> list[tuple[str, str, float]]:
        """(kind, name, milliseconds) of each node that ran in the last `infer` of this thread.

        The kind is the operator and the type that it computes in: `Convolution i8`.
        """
        return [
            (f"{n.node_type} {_type(n.exec_type)}", n.node_name, 1000 * n.real_time.total_seconds())
            for n in self._request("own").get_profiling_info()
            if n.real_time.total_seconds() > 0  # one that takes less than a microsecond is missing
        ]


@dataclass(frozen=True)
class Times:
    """Milliseconds of one frame (medians) and nodes, by kind, of one folder."""

    title: str
    ms: dict[str, float]
    nodes: dict[str, int]


def _type(implementation: str) -> str:
    """`brgconv_avx512_1x1_I8` -> `i8`."""
    return implementation.rpartition("_")[2].lower()


def measure(folders: list[Path], options: EngineOptions, runs: int = RUNS) -> list[Times]:
    """The times of each folder; UsageError for one that OpenVINO does not run."""
    bundles = [_checked(read_bundle(folder)) for folder in folders]
    engines = [CountingEngine(bundle, options) for bundle in bundles]
    frames = [_frames(bundle) for bundle in bundles]
    samples: list[list[dict[str, float]]] = [[] for _ in folders]
    nodes: list[Counter[str]] = [Counter() for _ in folders]
    for _ in range(ROUNDS):
        for i, (engine, images) in enumerate(zip(engines, frames, strict=True)):
            for at in range(-2, max(1, runs // ROUNDS)):  # the first two warm up
                engine.infer(images)
                if at >= 0:
                    times = engine.node_times()
                    samples[i].append(_sums(times))
                    nodes[i] |= Counter(kind for kind, _, _ in times)
    return [
        Times(_title(bundle, engine), _medians(found), count)
        for bundle, engine, found, count in zip(bundles, engines, samples, nodes, strict=True)
    ]


def _checked(bundle: Bundle) -> Bundle:
    target = bundle.manifest.target
    if target is None or target.name != "openvino":
        raise UsageError(
            f"{bundle.folder} is no engine folder for OpenVINO; make one with "
            "'edgeseg export MODEL --target openvino --out FOLDER'"
        )
    return bundle


def _frames(bundle: Bundle) -> np.ndarray:
    spec = bundle.manifest.input
    assert spec.size is not None
    shape = (spec.batch, *spec.size, 3)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def _sums(times: list[tuple[str, str, float]]) -> dict[str, float]:
    sums: dict[str, float] = {}
    for kind, _, ms in times:
        sums[kind] = sums.get(kind, 0.0) + ms
    return sums


def _medians(samples: list[dict[str, float]]) -> dict[str, float]:
    kinds = {kind for sample in samples for kind in sample}
    return {k: float(np.median([sample.get(k, 0.0) for sample in samples])) for k in kinds}


def _title(bundle: Bundle, engine: OpenVinoEngine) -> str:
    manifest = bundle.manifest
    return f"{manifest.name} {manifest.precision} ({engine.inference_precision})"


def page(found: list[Times], least: float = 0.1) -> str:
    """Kinds from the slowest on, each with its milliseconds and nodes; small ones are summed up."""
    every = {kind for times in found for kind in times.ms}
    totals = {kind: sum(times.ms.get(kind, 0.0) for times in found) for kind in every}
    ranked = sorted(every, key=totals.__getitem__, reverse=True)
    kinds = [kind for kind in ranked if totals[kind] >= least * len(found)]
    rows = [[kind, *(_cell(times, [kind]) for times in found)] for kind in kinds]
    rest = [kind for kind in ranked if kind not in kinds]
    rows.append(["all others", *(_cell(times, rest) for times in found)])
    rows.append(["**sum**", *(_cell(times, ranked) for times in found)])
    return table(["ms (nodes)", *(times.title for times in found)], rows, words=1)


def _cell(times: Times, kinds: list[str]) -> str:
    nodes = sum(times.nodes.get(kind, 0) for kind in kinds)
    ms = sum(times.ms.get(kind, 0.0) for kind in kinds)
    return f"{ms:.1f} ({nodes})" if nodes else "\N{EN DASH}"


def main(words: list[str]) -> int:
    """Run one command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m edgeseg.benchmarks.layer_times", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER")
    parser.add_argument("--threads", type=int, help="CPU threads (default: all cores)")
    args = parser.parse_args(words)
    options = EngineOptions(args.threads)
    return exit_code(lambda: print(page(measure(args.folders, options))))  # noqa: T201


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
