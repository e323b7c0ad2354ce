"""What a call of ours adds to the engine's own time, and the start to the engine's own loading.

`python -m edgeseg.benchmarks.call_overhead FOLDER`. The engine alone and the whole call take turns
on a frame of the network's size, so that both see the same machine.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np

from edgeseg.bundle import Bundle, read_bundle
from edgeseg.errors import BundleError, UsageError
from edgeseg.runtime.engine import EngineOptions, open_engine
from edgeseg.runtime.segmenter import Segmenter, load

SHARE, MILLISECONDS = 0.03, 0.3
"""A call may add the larger of these: a share of the engine's time, or milliseconds."""
START = 50.0
"""Milliseconds that the first label may come after the engine's own loading and first answer."""


@dataclass(frozen=True)
class Overhead:
    """Milliseconds, medians: the engine alone, what the call adds in the same round, and decode.

    `decode` is 0 where the graph ends with labels; elsewhere it is the graph's own work, done
    outside of it, and not in `added`.
    """

    engine: float
    added: float
    decode: float = 0.0

    @property
    def allowed(self) -> float:
        """The target."""
        return max(SHARE * self.engine, MILLISECONDS)


def measure(
    segmenter: Segmenter, rounds: int, clock: Callable[[], float] = perf_counter
) -> Overhead:
    """Engine and whole call in turns, the first of each unmeasured."""
    size = segmenter.input.size
    if size is None:
        raise UsageError("this network takes any size; give a folder of one size")
    frame = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)
    image, out = frame[None].copy(), np.empty(size, np.uint8)
    engine = segmenter.engine
    result = engine.infer(image)
    segmenter.segment(frame, out)
    alone, added, decodes = [], [], []
    for turn in range(rounds):
        times, decode = {}, 0.0
        for which in ("engine", "call") if turn % 2 else ("call", "engine"):
            start = clock()
            if which == "engine":
                engine.infer_into(image, result)
            else:
                stages = segmenter.timed(frame, out)[1]
                decode = stages.decode if segmenter.output.kind == "scores" else 0.0
            times[which] = (clock() - start) * 1e3
        alone.append(times["engine"])
        added.append(times["call"] - decode - times["engine"])
        decodes.append(decode)
    return Overhead(median(alone), median(added), median(decodes))


def measure_start(
    bundle: Bundle, options: EngineOptions, frames: str, rounds: int = 3
) -> tuple[float, float]:
    """Milliseconds from nothing to a first answer: the engine alone, and what ours adds.

    Of several turns the medians; the engine's library is there already.
    """
    manifest = bundle.manifest
    if manifest.target is None or manifest.input.size is None:
        raise BundleError(f"{bundle.folder} has no engine of one size; see 'edgeseg export'")
    frame = np.zeros((*manifest.input.size, 3), np.uint8)
    open_engine(manifest.target.name, bundle, options).infer(frame[None])
    alone, ours = [], []
    for _ in range(rounds):
        start = perf_counter()
        open_engine(manifest.target.name, bundle, options).infer(frame[None])
        alone.append((perf_counter() - start) * 1e3)
        start = perf_counter()
        load(
            bundle.folder, frames=frames, threads=options.threads,
            inference_precision=options.inference_precision, allow_ungated=True,
        ).segment(frame)  # fmt: skip
        ours.append((perf_counter() - start) * 1e3)
    return median(alone), median(ours) - median(alone)


def main(words: list[str]) -> int:
    """Measure and print; 1 where a call adds more than it may."""
    parser = argparse.ArgumentParser(prog="python -m edgeseg.benchmarks.call_overhead")
    parser.add_argument("folder", type=Path, help="engine folder")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--threads", type=int)
    args = parser.parse_args(words)
    bundle = read_bundle(args.folder)
    order, options = bundle.manifest.input.order, EngineOptions(args.threads)
    with load(args.folder, frames=order, threads=args.threads, allow_ungated=True) as segmenter:
        found = measure(segmenter, args.rounds)
        threads, decode = segmenter.engine.threads, segmenter.decode_name
    first, later = measure_start(bundle, options, order)
    fits = found.added <= found.allowed
    sys.stdout.write(
        f"{args.folder}: {threads} threads, decode {decode}: {found.decode:.3f} ms\n"
        f"engine {found.engine:.3f} ms; a call adds {found.added:.3f} ms "
        f"({found.added / found.engine:.1%}); allowed {found.allowed:.3f} ms: "
        f"{'held' if fits else 'MISSED'}\n"
        f"first answer of the engine alone after {first:.0f} ms; ours {later:+.0f} ms "
        f"(allowed {START:+.0f}): {'held' if later <= START else 'MISSED'}\n"
    )
    return 0 if fits and later <= START else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
