"""Tables of a recipe for what is minimised beside cross-entropy, and how values are checked."""

from __future__ import annotations

from dataclasses import dataclass

from edgeseg.errors import guess


def among(key: str, value: str, known: tuple[str, ...]) -> None:
    """ValueError unless `value` is one of `known`."""
    if value not in known:
        raise ValueError(f"{key} is '{value}'; expected {', '.join(known)}.{guess(value, known)}")


def least(key: str, value: float, bound: float) -> None:
    """ValueError for less than `bound`, and for nan."""
    if not value >= bound:
        raise ValueError(f"{key} is {value}; expected {bound} or more")


def within(key: str, value: float, low: float, high: float) -> None:
    """ValueError unless `low` <= `value` <= `high`."""
    if not low <= value <= high:
        raise ValueError(f"{key} is {value}; expected {low} to {high}")


@dataclass(frozen=True)
class DsrlPlan:
    """Weights of the terms beside cross-entropy: `mse` of the image, `fa` of the affinities.

    The defaults are the paper's (Wang et al. 2020). `subsample` is the side, in pixels of the
    input, of the cells between which affinities are taken.
    """

    mse: float = 0.1
    fa: float = 1.0
    subsample: int = 8

    def __post_init__(self) -> None:
        for key in ("mse", "fa"):
            least(key, getattr(self, key), 0)
        least("subsample", self.subsample, 1)


@dataclass(frozen=True)
class DupsamplePlan:
    """W is found from at most `patches` patches of training labels, spread over all frames.

    `compressed` weighs |F - Y'|^2, scores against compressed labels (Tian et al. 2019),
    beside `cross_entropy`; 1 and 0 pre-train, to be followed by a run with `init`.
    """

    patches: int = 16384
    compressed: float = 0.0
    cross_entropy: float = 1.0

    def __post_init__(self) -> None:
        least("patches", self.patches, 1)
        for key in ("compressed", "cross_entropy"):
            least(key, getattr(self, key), 0)
        if not self.compressed + self.cross_entropy:
            raise ValueError("compressed and cross_entropy are both 0; nothing would be learned")


@dataclass(frozen=True)
class RefinePlan:
    """Masks of the truth are spoilt until their IoU with it is one drawn from `iou`.

    `gradient` weighs the distance between the masks' gradients. The defaults are CascadePSP's
    (Cheng et al. 2020).
    """

    iou: tuple[float, float] = (0.8, 1.0)
    gradient: float = 5.0

    def __post_init__(self) -> None:
        if not 0 < self.iou[0] <= self.iou[1] <= 1:
            raise ValueError(f"iou is {list(self.iou)}; expected [low, high] in 0 to 1")
        least("gradient", self.gradient, 0)


@dataclass(frozen=True)
class QatPlan:
    """INT8 while training, from the checkpoint folder `model` (empty: a float run).

    Ranges start where the calibrator `method` puts them on `frames` frames, and learn at `range_lr`
    times the learning rate, as logarithms. `distil` weighs the KL divergence from the float
    network's scores, softened by `temperature`, beside `cross_entropy`. With `output = "scores"`
    the last upsampling stays outside of the graph, as `edgeseg export --output scores` has it.
    """

    model: str = ""
    method: str = "mse"
    frames: int = 100
    output: str = "labels"
    range_lr: float = 1.0
    distil: float = 1.0
    temperature: float = 1.0
    cross_entropy: float = 1.0

    def __post_init__(self) -> None:
        least("frames", self.frames, 1)
        among("output", self.output, ("labels", "scores"))
        for key in ("range_lr", "distil", "cross_entropy"):
            least(key, getattr(self, key), 0)
        if not self.distil + self.cross_entropy:
            raise ValueError("distil and cross_entropy are both 0; nothing would be learned")
        if not self.temperature > 0:
            raise ValueError(f"temperature is {self.temperature}; expected a positive number")


@dataclass(frozen=True)
class FeaturePlan:
    """One inner map of the student drawn to one of the teacher's, of whatever widths.

    `kind` is "affinity", the cosines of every two cells (Liu et al. 2019), or "attention", where
    the map is strong (Zagoruyko and Komodakis 2017). `student` and `teacher` name features, or
    "scores" (empty: the deepest); with [qat] `student` has to name a tensor of the graph.
    """

    weight: float = 0.0
    kind: str = "affinity"
    student: str = ""
    teacher: str = ""

    def __post_init__(self) -> None:
        least("weight", self.weight, 0)
        among("kind", self.kind, ("affinity", "attention"))
        if not self.weight and (self.kind, self.student, self.teacher) != ("affinity", "", ""):
            raise ValueError("weight is 0; give [teacher.features] a weight, or leave it away")


@dataclass(frozen=True)
class TeacherPlan:
    """A trained checkpoint, `model` (empty: none), whose scores are learned beside the labels.

    `weight` of the KL divergence from its scores, softened by `temperature` (Hinton et al. 2015),
    and of `pairs`: the likeness of every two cells of 8 x 8 pixels (Liu et al. 2019). `features`
    are learned beside its scores, or alone.
    """

    model: str = ""
    weight: float = 1.0
    temperature: float = 1.0
    pairs: float = 0.0
    features: FeaturePlan = FeaturePlan()

    def __post_init__(self) -> None:
        for key in ("weight", "pairs"):
            least(key, getattr(self, key), 0)
        if not self.weight + self.pairs + self.features.weight:
            raise ValueError(
                "weight, pairs and features.weight are all 0; the teacher would teach nothing"
            )
        if not self.temperature > 0:
            raise ValueError(f"temperature is {self.temperature}; expected a positive number")
