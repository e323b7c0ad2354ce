"""The training recipe: one frozen dataclass, read from TOML by `edgeseg.recipe.read_recipe`."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from edgeseg.dataset import SPLITS
from edgeseg.frame import FITS, ORDERS, Size, format_size
from edgeseg.models import CLASSIFIERS, REFINERS, WRAPPERS
from edgeseg.training.plan_losses import (
    DsrlPlan,
    DupsamplePlan,
    FeaturePlan,
    QatPlan,
    RefinePlan,
    TeacherPlan,
    among,
    least,
    within,
)

RUN_KEYS = (
    "workers", "cache", "device", "save_every", "log_every", "eval_every", "eval_data",
    "eval_split", "eval_sizes", "eval_frames", "weights",
)  # fmt: skip
"""Keys that say how the run is carried out or reported; the weights do not depend on them."""


@dataclass(frozen=True)
class Input:
    """Normalisation (pixel - mean) / std in uint8 units and channel order; how frames fit."""

    order: str = "rgb"
    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    std: tuple[float, float, float] = (58.395, 57.12, 57.375)
    fit: str = "pad"

    def __post_init__(self) -> None:
        if min(self.std) <= 0:
            raise ValueError(f"std is {list(self.std)}; expected positive numbers, in uint8 units")
        among("fit", self.fit, tuple(FITS))
        among("order", self.order, ORDERS)

    @property
    def fill(self) -> tuple[int, int, int]:
        """The rounded mean colour in `order`, for the pixels around a frame."""
        first, second, third = (min(255, max(0, round(m))) for m in self.mean)
        return first, second, third

    @property
    def fill_rgb(self) -> tuple[int, int, int]:
        """The same colour as RGB."""
        return self.fill if self.order == "rgb" else self.fill[::-1]


@dataclass(frozen=True)
class Optimizer:
    """`lr` is the peak; `clip` bounds the norm of the whole gradient (0: off).

    What is behind the encoder learns at `head_lr` times `lr` (10 in PSPNet and ESPNetv2).
    `weight_decay` touches matrices and kernels only: never a norm, bias or PReLU.
    """

    name: str = "sgd"
    lr: float = 0.01
    head_lr: float = 1.0
    weight_decay: float = 1e-4
    momentum: float = 0.9
    nesterov: bool = False
    betas: tuple[float, float] = (0.9, 0.999)
    clip: float = 0.0

    def __post_init__(self) -> None:
        among("name", self.name, ("sgd", "adamw"))
        if not self.lr > 0:
            raise ValueError(f"lr is {self.lr}; expected a positive number")
        if not self.head_lr > 0:
            raise ValueError(f"head_lr is {self.head_lr}; expected a positive number, times lr")
        least("weight_decay", self.weight_decay, 0)
        least("clip", self.clip, 0)
        within("momentum", self.momentum, 0, 1)
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs a momentum above 0")


@dataclass(frozen=True)
class Schedule:
    """Learning rate over the steps, as shares of the peak.

    poly: linear from `start` over `warmup` steps, then (1 - t)^power down to `end`.
    onecycle: cosine from `start` over the share `rise` of all steps, then cosine down to `end`
    (Smith and Topin 2017); `warmup` is not used.
    """

    name: str = "poly"
    power: float = 0.9
    warmup: int = 0
    rise: float = 0.3
    start: float = 0.04
    end: float = 0.0

    def __post_init__(self) -> None:
        among("name", self.name, ("poly", "onecycle"))
        least("power", self.power, 0)
        least("warmup", self.warmup, 0)
        for key in ("rise", "start", "end"):
            within(key, getattr(self, key), 0, 1)


@dataclass(frozen=True)
class LossPlan:
    """Cross-entropy with class weights "none", "enet" or "list" (then `weight_list`).

    `ohem_threshold` above 0 keeps only pixels whose true class has a probability below it, and at
    least `ohem_min_kept` of each frame (Shrivastava et al. 2016, per pixel).

    `auxiliary` multiplies the weights that a network's paper gives its auxiliary heads (0.4 of
    PSPNet's, for one); 0 leaves them untrained.
    """

    weights: str = "none"
    weight_list: tuple[float, ...] = ()
    label_smoothing: float = 0.0
    ohem_threshold: float = 0.0
    ohem_min_kept: int = 0
    auxiliary: float = 1.0

    def __post_init__(self) -> None:
        among("weights", self.weights, ("none", "enet", "list"))
        if (self.weights == "list") != bool(self.weight_list):
            raise ValueError('weights = "list" and weight_list = [...] belong together')
        if self.weight_list and min(self.weight_list) < 0:
            raise ValueError(f"weight_list holds {min(self.weight_list)}; expected 0 or more")
        within("label_smoothing", self.label_smoothing, 0, 0.999)
        within("ohem_threshold", self.ohem_threshold, 0, 1)
        least("ohem_min_kept", self.ohem_min_kept, 0)
        least("auxiliary", self.auxiliary, 0)


@dataclass(frozen=True)
class AugmentPlan:
    """Random changes of a frame.

    `scale` is the range of sizes of the labels relative to the frame (log-uniform; the network's
    input is half as large with `+dsrl`), `flip` the probability of a mirror image; brightness,
    contrast and saturation change by at most that share.

    For classifiers, in place of `scale`: the crop has a share of the image in `area` and a width
    over height in `ratio` (Szegedy et al. 2015; the defaults are those of ImageNet's practice).
    """

    scale: tuple[float, float] = (1.0, 1.0)
    area: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (0.75, 4 / 3)
    flip: float = 0.5
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"scale is {list(self.scale)}; expected [low, high] above 0")
        if not 0 < self.area[0] <= self.area[1] <= 1:
            raise ValueError(f"area is {list(self.area)}; expected [low, high] in 0 to 1")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"ratio is {list(self.ratio)}; expected [low, high] above 0")
        for key in ("flip", "brightness", "contrast", "saturation"):
            within(key, getattr(self, key), 0, 1)


@dataclass(frozen=True)
class WeightsPlan:
    """What the manifest says about the weights: training data, licence, origin."""

    data: str = ""
    licence: str = "unknown"
    source: str = "edgeseg train"


@dataclass(frozen=True)
class Recipe:
    """All that decides a training run. `batch` is the batch of all processes together.

    `model` is a model, one of CLASSIFIERS on whole images (`data = "imagefolder:ROOT"`), or one of
    REFINERS, which learn the masks of single classes.

    `init` is a checkpoint folder: of the same model and classes, to go on from; else its encoder is
    taken, and what fits of the head. A classifier's starts the backbones of its DFANet. A .pth file
    is torchvision's of the encoder.

    `eval_data` (left empty: `data`) and `eval_split` are measured on, every `eval_every` steps (0:
    at the end only), `eval_frames` of them evenly spread (0: all).
    """

    model: str
    data: str
    size: Size
    steps: int
    batch: int
    options: dict[str, Any] = field(default_factory=dict)
    split: str = "train"
    exclude_tune: bool = False
    init: str = ""
    freeze_bn: bool = False
    seed: int = 0
    ema: float = 0.999
    amp: str = "off"
    channels_last: bool = False
    sync_bn: bool = False
    device: str = "auto"
    workers: int = 0
    cache: bool = False
    save_every: int = 200
    log_every: int = 20
    eval_every: int = 0
    eval_data: str = ""
    eval_split: str = "val"
    eval_sizes: tuple[Size, ...] = ()
    eval_frames: int = 0
    input: Input = Input()
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    loss: LossPlan = LossPlan()
    dsrl: DsrlPlan = DsrlPlan()
    dupsample: DupsamplePlan = DupsamplePlan()
    qat: QatPlan = QatPlan()
    teacher: TeacherPlan = TeacherPlan()
    refine: RefinePlan = RefinePlan()
    augment: AugmentPlan = AugmentPlan()
    weights: WeightsPlan = WeightsPlan()

    def __post_init__(self) -> None:
        for key in ("steps", "batch", "save_every", "log_every"):
            least(key, getattr(self, key), 1)
        for key in ("workers", "eval_every", "eval_frames", "seed"):
            least(key, getattr(self, key), 0)
        for height, width in (self.size, *self.eval_sizes):
            least("a size", min(height, width), 1)
        within("ema", self.ema, 0, 0.99999)
        among("amp", self.amp, ("off", "bf16", "fp16"))
        among("device", self.device, ("auto", "cpu", "cuda"))
        among("split", self.split, SPLITS)
        among("eval_split", self.eval_split, SPLITS)
        for key in WRAPPERS:
            given = getattr(self, key) != type(getattr(self, key))()
            if given and key not in self._wrappers:
                raise ValueError(f"[{key}] belongs to models '...+{key}'; model is '{self.model}'")
        self._check_augment()
        self._check_qat()
        self._check_teacher()
        self._check_refine()
        if self.schedule.warmup >= self.steps:
            raise ValueError(f"warmup is {self.schedule.warmup} of {self.steps} steps")

    def _check_augment(self) -> None:
        """Crops of frames and of whole images are told by different keys."""
        idle = ("scale",) if self.classifies else ("area", "ratio")
        for key in idle:
            if getattr(self.augment, key) != getattr(AugmentPlan(), key):
                other = "segmentation models" if self.classifies else "classifiers"
                raise ValueError(f"[augment] {key} belongs to {other}; model is '{self.model}'")
        if self.classifies and self.input.fit != "crop":
            raise ValueError(
                f"fit is '{self.input.fit}'; '{self.model}' sees the middle of an image: give "
                '[input] fit = "crop"'
            )
        if self.classifies and self.loss.ohem_threshold:
            raise ValueError(f"ohem_threshold chooses pixels; '{self.model}' has none to choose")

    def _check_qat(self) -> None:
        """The graph that is trained has one size, and its weights are those of its checkpoint."""
        if not self.qat.model:
            if self.qat != QatPlan():
                raise ValueError("[qat] names no checkpoint to start from: give --qat CHECKPOINT")
            return
        if self.classifies:
            raise ValueError(f"[qat] trains segmentation models; model is '{self.model}'")
        for key, idle in (("init", self.init), ("options", self.options),
                          ("freeze_bn", self.freeze_bn), ("sync_bn", self.sync_bn)):  # fmt: skip
            if idle:
                raise ValueError(
                    f"{key} does nothing with [qat], which trains the folded graph of its "
                    "checkpoint; leave it away"
                )
        if self.amp != "off":
            raise ValueError(f"amp is '{self.amp}'; [qat] trains in float32: leave it away")
        other = [size for size in self.eval_sizes if size != self.size]
        if other:
            raise ValueError(
                f"eval_sizes has {format_size(other[0])}; with [qat] the graph has one size, "
                f"which is size ({format_size(self.size)})"
            )

    def _check_teacher(self) -> None:
        if not self.teacher.model and self.teacher != TeacherPlan():
            raise ValueError("[teacher] names no checkpoint: give --teacher CHECKPOINT")
        if self.teacher.model and self.classifies:
            raise ValueError(f"[teacher] teaches pixels; model is '{self.model}'")
        if self.qat.model and self.teacher.features.weight and not self.teacher.features.student:
            raise ValueError(
                "[teacher.features] names no student; with [qat] give a tensor of the graph"
            )

    def _check_refine(self) -> None:
        """A refiner learns masks, by losses of its own."""
        if not self.refines:
            if self.refine != RefinePlan():
                known = ", ".join(REFINERS)
                raise ValueError(f"[refine] belongs to {known}; model is '{self.model}'")
            return
        plain = {"qat": QatPlan(), "teacher": TeacherPlan(), "loss": LossPlan()}
        for key, untouched in plain.items():
            if getattr(self, key) != untouched:
                raise ValueError(
                    f"[{key}] trains what labels pixels; '{self.model}' refines masks, by the "
                    "losses of its paper: leave the table away"
                )

    @property
    def refines(self) -> bool:
        """Whether masks of single classes are learned."""
        return self.model in REFINERS

    @property
    def classifies(self) -> bool:
        """Whether whole images are named, and no pixels."""
        return self.model in CLASSIFIERS

    @property
    def metric(self) -> str:
        """The name under which the first score goes into the log."""
        return "top1" if self.classifies else "iou" if self.refines else "miou"

    @property
    def evaluated(self) -> tuple[Size, ...]:
        """The network sizes at which it is measured; the first one goes into the log."""
        return self.eval_sizes or (self.size,)

    @property
    def _wrappers(self) -> list[str]:
        return self.model.split("+")[1:]

    def what_matters(self) -> dict[str, Any]:
        """`key.subkey` -> value of all that the weights depend on, as JSON would hold it."""
        content = json.loads(json.dumps(dataclasses.asdict(self)))
        idle = {key for key in WRAPPERS if key not in self._wrappers}
        idle |= {key for key in ("qat", "teacher") if not getattr(self, key).model}
        idle |= set() if self.refines else {"refine"}
        kept = {key: value for key, value in content.items() if key not in idle.union(RUN_KEYS)}
        for key in ("scale",) if self.classifies else ("area", "ratio"):
            del kept["augment"][key]
        for table, key in (("optimizer", "head_lr"), ("loss", "auxiliary")):
            if kept[table][key] == 1.0:  # as before there was such a key
                del kept[table][key]
        if self.teacher.model and self.teacher.features == FeaturePlan():
            del kept["teacher"]["features"]
        return _flatten(kept, "")

    def digest(self) -> str:
        """Sixteen hex digits that change when anything that matters changes."""
        text = json.dumps(self.what_matters(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def headline(self) -> str:
        """One line: what is trained on what, for how long."""
        return (
            f"{self.model} on {self.data} ({self.split}), crops {format_size(self.size)}, "
            f"{self.steps} steps of {self.batch} frames"
        )


def _flatten(table: dict[str, Any], prefix: str) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, dict) and value:
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
