"""The learning rate as a pure function of the step."""

from __future__ import annotations

import math

from edgeseg.training.plan import Schedule


def share(plan: Schedule, step: int, steps: int) -> float:
    """Learning rate at `step` (0 is the first) of `steps`, as a share of the peak."""
    if plan.name == "onecycle":
        return _onecycle(plan, step, steps)
    return _poly(plan, step, steps)


def _poly(plan: Schedule, step: int, steps: int) -> float:
    """Linear warm-up, then (1 - t)^power (Chen et al. 2017, DeepLab, 4.1)."""
    if step < plan.warmup:
        return plan.start + (1 - plan.start) * step / plan.warmup
    t = (step - plan.warmup) / (steps - plan.warmup)
    return plan.end + (1 - plan.end) * float((1 - t) ** plan.power)


def _onecycle(plan: Schedule, step: int, steps: int) -> float:
    """One rise and one longer fall (Smith and Topin 2017), both along a cosine."""
    top = plan.rise * (steps - 1)
    if step < top:
        return _cosine(plan.start, 1.0, step / top)
    return _cosine(1.0, plan.end, (step - top) / max(steps - 1 - top, 1))


def _cosine(start: float, end: float, t: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * t)) / 2
