"""The loop: batches -> steps -> log, state and checkpoint folder.

What is trained and how it is judged comes in as `Network` and `Loss`; the loop knows neither.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from edgeseg.errors import TrainingError
from edgeseg.frame import format_size
from edgeseg.training import folder as run_folder
from edgeseg.training import start
from edgeseg.training.allocator import keep_freed_memory
from edgeseg.training.batches import Order, load
from edgeseg.training.branches import asked_of_crops, build_loss
from edgeseg.training.curves import CURVES, draw_curves
from edgeseg.training.distributed import World, join, leave, restarts, together
from edgeseg.training.evaluation import judge
from edgeseg.training.journal import Journal, Progress, Row, read_log
from edgeseg.training.plan import Recipe
from edgeseg.training.state import STATE, State, load_state, save_state
from edgeseg.training.step import Measured, Stepper


@dataclass(frozen=True)
class Outcome:
    """How a run ended: `result` is eval.json's content, None for a run that was interrupted."""

    step: int
    leads: bool
    result: dict[str, Any] | None


def train(
    recipe: Recipe,
    folder: Path,
    *,
    resume: bool = False,
    source: str = "",
    opener: start.Opener = start.open_model,
) -> Outcome:
    """Train what `opener` opens by `recipe` into `folder`; `source` is the recipe's text.

    On a CPU the process keeps the memory that it frees from then on.
    """
    world = join(recipe.device)
    if world.device.type == "cpu":
        keep_freed_memory()
    try:
        start.check_machine(recipe, world)
        resume = resume or (restarts() > 0 and (folder / STATE).exists())
        state = load_state(folder, recipe) if resume else None
        if world.leads:
            run_folder.claim(folder, resume=resume)
        run = Run(recipe, folder, world, state, opener)
        if world.leads:
            if state is None:
                run.save(0.0)
            run_folder.keep_recipe(folder, source)
        with together(world):
            return run.go()
    finally:
        leave()


class Run:
    """One run: model, average, optimizer and the step reached."""

    def __init__(
        self,
        recipe: Recipe,
        folder: Path,
        world: World,
        state: State | None,
        opener: start.Opener = start.open_model,
    ) -> None:
        self.recipe, self.folder, self.world = recipe, folder, world
        self.step = state.step if state else 0
        self.before = state.seconds if state else 0.0
        self.progress = Progress(recipe.steps)
        self.data = start.open_data(recipe, self._say)
        self.classes = self.data.train.classes
        opened = opener(recipe, self.classes, self._note)
        model, self.spec, self.keep = opened.model, opened.spec, opened.keep
        start.check_batch(recipe, model, world)
        known = state.constants.get("class_weights") if state else None
        weights = start.loss_weights(recipe, self.data.train, known, self._say)
        known = state.constants.get("dupsample") if state else None
        self.basis = start.settle_basis(recipe, opened, self.data, known, self._say)
        constants = {"class_weights": weights, "dupsample": self.basis}
        self.constants = {k: v for k, v in constants.items() if v is not None}
        weights = None if weights is None else weights.to(world.device)
        loss = build_loss(recipe, model, len(self.classes), weights, opened.beside)
        self.stepper = Stepper(recipe, world, model, loss, opened.lr_shares)
        if state:
            self._take(state)
        self.stepper.connect()

    def _say(self, text: str) -> None:
        if self.world.leads:
            self.progress.say(text)

    def _note(self, text: str) -> None:
        if self.world.leads:
            self.progress.note(text)

    def _take(self, state: State) -> None:
        own = {name: tuple(value.shape) for name, value in self.stepper.model.state_dict().items()}
        theirs = {name: tuple(value.shape) for name, value in state.model.items()}
        odd = next((n for n in (*own, *theirs) if own.get(n) != theirs.get(n)), None)
        if odd:
            raise TrainingError(
                f"{self.folder / STATE} is of another network: '{odd}' has shape "
                f"{theirs.get(odd, 'none')} there, {own.get(odd, 'none')} in this recipe's. What "
                "it starts from has changed, or edgeseg has; train anew in another folder"
            )
        self.stepper.model.load_state_dict(state.model)
        self.stepper.average.load_state_dict(state.average)
        self.stepper.optimizer.load_state_dict(state.optimizer)
        if state.scaler:
            self.stepper.scaler.load_state_dict(state.scaler)

    def go(self) -> Outcome:
        """Train from the step reached to the last one."""
        journal = None
        if self.world.leads:
            journal = Journal(self.folder, self.step, self.recipe.metric)
        with self._catch_signals():
            try:
                finished = self._train(journal)
            finally:
                self.progress.end()
                if journal:
                    journal.close()
        result = None
        if self.world.leads:
            self._draw()
            if finished:
                result = run_folder.read_result(self.folder)
        return Outcome(self.step, self.world.leads, result)

    def _train(self, journal: Journal | None) -> bool:
        """Whether the last step was reached."""
        recipe = self.recipe
        order = Order(
            len(self.data.train), recipe.batch, recipe.seed, self.world.rank, self.world.size
        )
        pin = self.world.device.type == "cuda"
        began = mark = time.monotonic()
        losses: list[Measured] = []
        asked = asked_of_crops(self.stepper.model)
        for crops in load(self.data.train, recipe, order, self.step, pin=pin, asked=asked):
            measured = self.stepper.train(self.step, crops)
            losses.append(measured)
            self.step += 1
            last = self.step == recipe.steps
            seconds = self.before + time.monotonic() - began
            rate = len(losses) / max(time.monotonic() - mark, 1e-9)
            self._show(measured, rate)
            due = recipe.eval_every and self.step % recipe.eval_every == 0
            score = self._evaluate(last=last, seconds=seconds) if last or due else None
            if last or due or self.step % recipe.log_every == 0:
                if journal:
                    journal.add(*self._row(losses, seconds, rate, score))
                losses, mark = [], time.monotonic()
            if self.world.leads and (last or measured.stop or self.step % recipe.save_every == 0):
                self.save(self.before + time.monotonic() - began)
            if measured.stop and not last:
                return False
        return True

    def _show(self, measured: Measured, rate: float) -> None:
        if self.world.leads:
            frames = rate * self.recipe.batch
            self.progress.show(self.step, measured.loss, frames, 1 / rate)

    def _row(
        self, losses: list[Measured], seconds: float, rate: float, score: float | None
    ) -> tuple[Row, dict[str, float]]:
        """The means since the last row."""
        n = len(losses)
        terms = {name: sum(m.terms[name] for m in losses) / n for name in losses[0].terms}
        loss, norm = sum(m.loss for m in losses) / n, sum(m.grad_norm for m in losses) / n
        frames = rate * self.recipe.batch
        return Row(self.step, seconds, loss, losses[-1].lr, norm, frames, score), terms

    def _evaluate(self, *, last: bool, seconds: float) -> float:
        """The average's score at the first size; after the last step at every size (eval.json)."""
        self.world.follow(self.stepper.average.model.state_dict().values())
        sizes = self.recipe.evaluated if last else self.recipe.evaluated[:1]
        judged = {}
        for size in sizes:
            self._say(f"evaluating at {format_size(size)}")
            model = self.stepper.average.model
            found = judge(self.recipe, model, self.data.evaluation, size, self.world)
            judged[format_size(size)] = found
        if last and self.world.leads:
            frames = len(self.data.evaluation)
            run_folder.write_result(self.folder, self.recipe, seconds, frames, judged, self.basis)
        return next(iter(judged.values())).value

    def save(self, seconds: float) -> None:
        """The state, and the average as a checkpoint folder."""
        state = State(
            step=self.step,
            seconds=seconds,
            recipe=self.recipe.what_matters(),
            model=self.stepper.model.state_dict(),
            optimizer=self.stepper.optimizer.state_dict(),
            average=self.stepper.average.state_dict(),
            scaler=self.stepper.scaler.state_dict(),
            constants=self.constants,
        )
        save_state(self.folder, state)
        manifest = start.describe(self.recipe, self.classes, self.spec, self.step)
        self.keep(self.folder / run_folder.CHECKPOINT, self.stepper.average.model, manifest)

    def _draw(self) -> None:
        rows = read_log(self.folder / "log.csv")
        if rows:
            draw_curves(self.folder / CURVES, rows, self.recipe.headline(), self.recipe.metric)

    @contextlib.contextmanager
    def _catch_signals(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM end the run after the step; a second one ends it at once."""

        def ask(number: int, frame: FrameType | None) -> None:
            self.stepper.stopping = True
            signal.signal(number, old[signal.Signals(number)])

        old = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
        for number in old:
            signal.signal(number, ask)
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)
