"""Scores at low resolution -> labels: the last linear upsampling and argmax, natively or in numpy.

decode_numpy.py says what is computed, decode.c computes it fast, and this module is the door to
both. Native decode needs the library that `pip install` compiles where there is a C compiler; where
there was none, numpy decodes, and `Decoder.name` says so.
"""

from __future__ import annotations

import os

import numpy as np

from edgeseg.bundle import WEIGHTED, OutputSpec
from edgeseg.errors import EngineError, UsageError, guess
from edgeseg.runtime import decode_native, decode_numpy
from edgeseg.runtime.decode_native import KINDS, Layer
from edgeseg.runtime.decode_numpy import AXES, MEASURES, Labels

Nearest = tuple[np.ndarray, np.ndarray]
"""Which label row (column) each row (column) of the output takes; whole numbers, rows in order."""
MOST_CLASSES = 256


class Decoder:
    """The decode of one network. Safe to call from several threads.

    `by` is "numpy" or an instruction set of `decode_native.ISAS`; by default the environment's
    EDGESEG_DECODE, else the fastest there is. `threads` (None: all cores) share a frame's rows in
    native decode; numpy uses as many as its own library does.
    """

    def __init__(
        self,
        output: OutputSpec,
        weight: np.ndarray | None = None,
        bias: np.ndarray | None = None,
        *,
        threads: int | None = None,
        by: str | None = None,
    ) -> None:
        if output.decode not in KINDS:
            known = ", ".join(KINDS)
            raise EngineError(f"unknown decode '{output.decode}'; expected one of {known}")
        if output.decode in WEIGHTED and (weight is None or bias is None):
            raise EngineError(f"decode '{output.decode}' needs its weight and bias (decode.npz)")
        self.output = output
        self.threads = threads or len(os.sched_getaffinity(0))
        self.by = decode_native.choose(by)
        self._weight, self._bias, self._layer = _arrays(output, weight, bias)

    @property
    def name(self) -> str:
        """For reports: "native avx512, 2 threads" or "numpy"."""
        return decode_native.name_of(self.by, self.threads)

    def size(self, scores: np.ndarray) -> tuple[int, int]:
        """(height, width) of the labels of (N, C, h, w) scores."""
        return scores.shape[2] * self._layer.factor, scores.shape[3] * self._layer.factor

    def __call__(
        self, scores: np.ndarray, out: np.ndarray | None = None, nearest: Nearest | None = None
    ) -> np.ndarray:
        """(N, C, h, w) scores -> (N, h * factor, w * factor) uint8 labels.

        Scores are float32, float16, int8 (whole numbers: fold a scale into the weight) or uint16,
        the bits of bfloat16, in any layout (`transpose` a channels-last array). With `nearest`,
        label (rows[y], columns[x]) at each (y, x). `out`, if given, is written and returned.
        """
        return self._run(scores, out, nearest, None)[0]

    def with_confidence(
        self, scores: np.ndarray, measure: str, nearest: Nearest | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Labels as above, and how sure they are, uint8 of the same shape.

        `measure` is "softmax" (255 times the label's softmax) or "margin" (that less the softmax of
        the second class). Several times as long as labels alone: every pixel needs every class.
        """
        labels, confidence = self._run(scores, None, nearest, check_measure(measure))
        assert confidence is not None
        return labels, confidence

    def _run(
        self, scores: np.ndarray, out: np.ndarray | None, nearest: Nearest | None, how: str | None
    ) -> Labels:
        scores = self._checked(scores)
        full = self.size(scores)
        if nearest is not None:
            nearest = _checked_nearest(nearest, full)
        size = full if nearest is None else (len(nearest[0]), len(nearest[1]))
        out = _checked_out(out, (len(scores), *size))
        if self.by == "numpy":
            labels, confidence = self._in_numpy(scores, how)
            if nearest is not None:
                labels = _taken(labels, nearest)
                confidence = None if confidence is None else _taken(confidence, nearest)
            out[...] = labels
            return out, confidence
        labels = out if out.strides[2] == 1 else np.empty(out.shape, np.uint8)
        confidence = None if how is None else np.empty(out.shape, np.uint8)
        decode_native.run(
            self._layer, scores, labels, confidence,
            isa=self.by, threads=self.threads, measure=how or MEASURES[0], nearest=nearest,
        )  # fmt: skip
        if labels is not out:
            out[...] = labels
        return out, confidence

    def _in_numpy(self, scores: np.ndarray, measure: str | None) -> Labels:
        kind = self._layer.decode
        if kind in AXES:
            return decode_numpy.bilinear(scores, self._layer.factor, kind, measure)
        if self._weight is None or self._bias is None:
            return decode_numpy.pixel_shuffle(scores, self._layer.factor, measure)
        return decode_numpy.deconvolution(scores, self._weight, self._bias, measure)

    def _checked(self, scores: np.ndarray) -> np.ndarray:
        """`scores` if this decode can take them; ml_dtypes' bfloat16 as its bits."""
        if scores.dtype.name == "bfloat16":
            scores = scores.view(np.uint16)
        if scores.dtype not in decode_native.TYPES:
            decode_numpy.floats(scores)  # says which types there are
        if scores.ndim != 4 or 0 in scores.shape:
            raise EngineError(f"scores are of shape {scores.shape}; expected (N, C, h, w)")
        channels, kind = scores.shape[1], self._layer.decode
        if self._weight is not None and channels != self._weight.shape[0]:
            raise EngineError(
                f"scores have {channels} channels; the weight of decode '{kind}' takes "
                f"{self._weight.shape[0]}"
            )
        places = self._layer.factor**2 if kind == "pixel_shuffle" else 1
        if channels % places:
            raise EngineError(
                f"scores have {channels} channels; pixel shuffle x{self._layer.factor} takes a "
                f"multiple of {places}"
            )
        classes = channels // places if self._bias is None else len(self._bias)
        if classes > MOST_CLASSES:
            raise EngineError(f"scores have {classes} classes; uint8 labels hold {MOST_CLASSES}")
        return scores


def check_measure(name: str) -> str:
    """`name` itself if it is a measure of confidence."""
    if name not in MEASURES:
        raise UsageError(f"unknown confidence '{name}'.{guess(name, MEASURES)}")
    return name


def decode(
    scores: np.ndarray,
    output: OutputSpec,
    weight: np.ndarray | None = None,
    bias: np.ndarray | None = None,
) -> np.ndarray:
    """(N, C, h, w) scores -> (N, h * factor, w * factor) uint8 labels; a Decoder used once."""
    return Decoder(output, weight, bias)(scores)


def describe() -> str:
    """One line on the decode of this machine, and one on what to do where something is wrong."""
    found = decode_native.examine()
    if found.why:
        return f"decode: {found.by or 'broken'}: {found.why}\n  -> {found.advice}"
    others = f" (also {', '.join(found.available[1:])})" if found.available[1:] else ""
    return f"decode: native {found.available[0]}{others}, compiled by {found.compiler}"


def _arrays(
    output: OutputSpec, weight: np.ndarray | None, bias: np.ndarray | None
) -> tuple[np.ndarray | None, np.ndarray | None, Layer]:
    """Weight and bias as numpy takes them, and the layer as decode.c takes it."""
    kind = str(output.decode)
    if output.decode not in WEIGHTED or weight is None or bias is None:
        return None, None, Layer(kind, output.factor)
    if weight.ndim != 4 or weight.shape[2] != weight.shape[3] or bias.shape != weight.shape[1:2]:
        raise EngineError(
            f"weight is of shape {weight.shape} and bias of {bias.shape}; "
            f"decode '{kind}' expects (C, classes, r, r) and (classes,)"
        )
    weight, bias = weight.astype(np.float32), np.ascontiguousarray(bias, np.float32)
    channels, classes, r, _ = weight.shape
    by_place = weight.transpose(2, 3, 0, 1).reshape(r * r, channels, classes)
    return weight, bias, Layer(kind, r, np.ascontiguousarray(by_place), bias)


def _checked_nearest(nearest: Nearest, full: tuple[int, int]) -> Nearest:
    rows, columns = (np.ascontiguousarray(index, np.int32) for index in nearest)
    for index, side in ((rows, full[0]), (columns, full[1])):
        if index.ndim != 1 or not len(index) or index.min() < 0 or index.max() >= side:
            raise UsageError(f"nearest has indexes outside of {full[0]}x{full[1]} labels")
    if (np.diff(rows) < 0).any():
        raise UsageError("nearest has rows out of order; expected rows that never decrease")
    return rows, columns


def _checked_out(out: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray:
    if out is None:
        return np.empty(shape, np.uint8)
    if out.dtype != np.uint8 or out.shape != shape:
        raise UsageError(f"out is {out.dtype} of shape {out.shape}; expected uint8 of {shape}")
    return out


def _taken(labels: np.ndarray, nearest: Nearest) -> np.ndarray:
    return np.take(np.take(labels, nearest[0], 1), nearest[1], 2)
