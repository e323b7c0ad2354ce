"""Frames -> network input and scores -> labels on the GPU, by the two kernels of pixels.cu.

They give the bytes that edgeseg/frame.py and native decode give. What a size of frames needs is
made when the first one comes, and used again for those that follow.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeseg.bundle import WEIGHTED, Bundle
from edgeseg.frame import Placement, nearest, taps
from edgeseg.runtime.cuda import Buffer, DeviceMemory, Gpu, Kernels
from edgeseg.runtime.decode_native import KINDS, TYPES
from edgeseg.runtime.decode_numpy import AXES, MEASURES
from edgeseg.runtime.pixel_jobs import DECODE, LABELS, PREPARE, SIZES, DecodeJob, PrepareJob
from edgeseg.runtime.prepare_native import FORMATS

MOST_FITS = 4
"""Sizes of frames that are kept ready."""


@dataclass(frozen=True)
class View:
    """How frames are seen: format, placement, whether their channels are reversed.

    With `whole`, labels are wanted at the network's own size, and not at the frame's.
    """

    format: str
    placement: Placement
    swap: bool
    whole: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a frame's array."""
        height, width = self.placement.frame
        if self.format == "nv12":
            return height * 3 // 2, width
        return (height, width, *{"yuyv": (2,), "grey": ()}.get(self.format, (3,)))


class Pixels:
    """What one engine prepares and decodes with. Inside `Gpu.using`, by one thread at a time."""

    def __init__(self, gpu: Gpu, cubin: Path, bundle: Bundle, shapes: Shapes) -> None:
        self._gpu, self._spec = gpu, bundle.manifest.input
        self._output, self._shapes = bundle.manifest.output, shapes
        self._kernels = Kernels(gpu, cubin, SIZES)
        self.image = DeviceMemory(gpu, int(np.prod(shapes.image)))
        size = int(np.prod(shapes.result)) * shapes.dtype.itemsize
        self.result = DeviceMemory(gpu, size)
        self._fits: dict[View, _Fit] = {}
        self._decode = self._decode_job(bundle)

    def load(self, frame: np.ndarray, view: View) -> _Fit:
        """Copy a frame into pinned memory; what its view needs is made the first time."""
        fit = self._fits.pop(view, None)
        if fit is None:
            while len(self._fits) >= MOST_FITS:
                self._fits.pop(next(iter(self._fits))).free()
            fit = _Fit(self._gpu, view, self._prepare_job(view), self._decode)
        self._fits[view] = fit
        fit.frame.host[...] = frame
        return fit

    def prepare(self, fit: _Fit) -> None:
        """Put onto the stream: frame -> network input."""
        fit.frame.upload()
        job = fit.prepare
        self._kernels.launch(PREPARE, job, (job.network_width, job.network_height, 1))

    def decode(self, fit: _Fit, measure: str | None) -> None:
        """Put onto the stream: what the network returned -> labels, and their confidence."""
        job, sure = fit.decode, None
        if measure is not None:
            sure = fit.confidence()
            job.measure = MEASURES.index(measure)
        job.confidence = None if sure is None else sure.address
        self._kernels.launch(DECODE, job, (job.out_width, job.out_height, 1))
        fit.labels.download()
        if sure is not None:
            sure.download()

    def _prepare_job(self, view: View) -> PrepareJob:
        place = view.placement
        return PrepareJob(
            image=self.image.address, format=FORMATS[view.format], swap=view.swap,
            source_top=place.source.top, source_left=place.source.left,
            top=place.target.top, left=place.target.left,
            height=place.target.size[0], width=place.target.size[1],
            network_height=place.network[0], network_width=place.network[1],
            fill=(*self._spec.fill, 0),
        )  # fmt: skip

    def _decode_job(self, bundle: Bundle) -> DecodeJob:
        """What is the same for every frame."""
        output, (_, *shape) = self._output, self._shapes.result
        job = DecodeJob(scores=self.result.address, height=shape[-2], width=shape[-1])
        if output.kind == "labels":
            job.kind = LABELS
            return job
        kind, channels, r = str(output.decode), shape[0], output.factor
        job.kind, job.type, job.factor = KINDS[kind], TYPES[self._shapes.dtype], r
        job.channels = job.classes = channels
        if output.decode in WEIGHTED:
            with np.load(bundle.path("decode.npz")) as arrays:
                weight = arrays["weight"].astype(np.float32).transpose(2, 3, 0, 1)
                bias = arrays["bias"].astype(np.float32)
            job.weight, job.bias = self._kept(weight), self._kept(bias)
            job.classes = len(bias)
        elif kind == "pixel_shuffle":
            job.classes = channels // r**2
        else:
            rows, columns = AXES[kind](shape[1], r), AXES[kind](shape[2], r)
            job.row_low, job.column_low = (
                self._kept(axis.low.astype(np.int32)) for axis in (rows, columns)
            )
            job.row_share, job.column_share = (
                self._kept(axis.share.astype(np.float32)) for axis in (rows, columns)
            )
        return job

    def _kept(self, array: np.ndarray) -> int:
        return DeviceMemory.holding(self._gpu, array).address


@dataclass(frozen=True)
class Shapes:
    """Of the network's tensors: `image` (1, H, W, 3), `result` of `dtype`."""

    image: tuple[int, ...]
    result: tuple[int, ...]
    dtype: np.dtype


class _Fit:
    """Memory and jobs for one view of frames."""

    def __init__(self, gpu: Gpu, view: View, prepare: PrepareJob, decode: DecodeJob) -> None:
        self._gpu = gpu
        self._made: list[Buffer | DeviceMemory] = []
        self.prepare, self.decode = prepare, DecodeJob.from_buffer_copy(decode)
        self.sure: Buffer | None = None
        try:
            self.frame = self._buffer(view.shape)
            self._read(view.placement)
            self.labels = self._buffer(self._aim(view))
        except BaseException:
            self.free()
            raise
        self.decode.labels = self.labels.address

    def confidence(self) -> Buffer:
        """Memory for confidence, made when it is first asked for."""
        if self.sure is None:
            self.sure = self._buffer(self.labels.host.shape)
        return self.sure

    def free(self) -> None:
        """Another size of frames takes its place."""
        while self._made:
            self._gpu.free(self._made.pop())

    def _read(self, place: Placement) -> None:
        """Where frames lie, and the taps of their pixels."""
        job, stride = self.prepare, self.frame.host.strides[0]
        job.frame, job.frame_stride = self.frame.address, stride
        if job.format == FORMATS["nv12"]:
            job.chroma, job.chroma_stride = job.frame + place.frame[0] * stride, stride
        rows = taps(place.source.size[0], place.target.size[0])
        columns = taps(place.source.size[1], place.target.size[1])
        job.row_first, job.row_weight = self._table(rows.first), self._table(rows.weights)
        job.column_first = self._table(columns.first)
        job.column_weight = self._table(columns.weights)
        job.row_taps, job.column_taps = rows.weights.shape[1], columns.weights.shape[1]

    def _aim(self, view: View) -> tuple[int, int]:
        """Say which labels are wanted; their (height, width)."""
        job = self.decode
        r = max(1, job.factor)
        full = job.height * r, job.width * r
        where = None if view.whole else nearest(view.placement, full)
        size = full if view.whole else view.placement.source.size
        if where is not None:
            job.rows, job.columns = (self._table(index.astype(np.int32)) for index in where)
        job.out_height, job.out_width = size
        return size

    def _buffer(self, shape: tuple[int, ...]) -> Buffer:
        self._made.append(made := Buffer(self._gpu, shape, np.uint8))
        return made

    def _table(self, array: np.ndarray) -> int:
        self._made.append(made := DeviceMemory.holding(self._gpu, array))
        return made.address
