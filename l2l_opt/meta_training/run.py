"""A meta-training run on disk: a folder that can be killed at any moment and resumed, bit for bit.

DIR/rule.safetensors   best on the validation students; not there where nothing has been learned
DIR/last.safetensors   after the last outer step
DIR/run.json           options, outer_step, metrics, digests
DIR/checkpoint/        the last two checkpoints
DIR/events/            TensorBoard's
"""

import abc
import contextlib
import datetime
import json
import platform
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch

from l2l_opt.meta_training.outer_loop import OuterLoop, OuterStep, Validation, copy_weights
from l2l_opt.meta_training.trainer import MetaTrainer
from l2l_opt.storage.checkpoint_file import load_tree, save_tree
from l2l_opt.storage.files import make_writable_folder, write_atomically
from l2l_opt.storage.rule_file import save_rule
from l2l_opt.storage.safetensors_file import FileFormatError
from l2l_opt.types import Params
from l2l_opt.version import __version__

CHECKPOINT_SECONDS = 180.0
CHECKPOINTS_KEPT = 2
STUDENTS_DEPEND_ON = {
    "task",
    "dtype",
    "horizon",
    "truncation_length",
    "students",
    "group_size",
    "staggered",
    "estimator",
    "judged_on",
    "reparametrise",
    "loss_scale",
    "rule",
    "seed",
    "imitate",
}
"""Options without which a checkpoint's students mean nothing."""


AnyLoop = TypeVar("AnyLoop", bound=OuterLoop)


class Observer(Protocol):
    """Someone who watches a run: a progress bar, TensorBoard."""

    def on_outer_step(self, trainer: Any, step: OuterStep) -> None: ...

    def on_validation(self, trainer: Any, validation: Validation) -> None: ...


class ResumableRun(abc.ABC, Generic[AnyLoop]):
    """Runs an outer loop in a folder.

    Args:
        folder: where everything is written; made if need be.
        trainer: freshly built.
        options: plain JSON values that determine the result; a run is only resumed with the same ones.
        data: digests of a user's own files, those of --plugin and what tasks read, by path; likewise.
        card: what else artefacts hold (task, horizon).
        say: takes one-line messages.

    Attributes:
        students_go_on: whether the trainer's students are those of a checkpoint.
        has_learned: whether there are weights that are written as the best.

    Raises:
        ValueError: the folder holds a run already (without ``resume``), or one of other options.
        OSError: the folder cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        trainer: AnyLoop,
        *,
        options: Mapping[str, Any],
        card: Mapping[str, Any],
        data: Mapping[str, str] | None = None,
        resume: bool = False,
        allow_changed_options: bool = False,
        say: Callable[[str], Any] = lambda message: None,
    ):
        self.folder, self.trainer, self.card, self.options = folder, trainer, dict(card), dict(options)
        self.data = {} if data is None else dict(data)
        self.ranks = trainer.ranks
        self.say = say if self.ranks.is_first else lambda message: None
        self.students_go_on = self._has_checkpoint = self.has_learned = False

        def prepare_folder() -> None:
            refuse_unusable_folder(folder, resume=resume)
            self.checkpoints.mkdir(parents=True, exist_ok=True)

        self.ranks.first(prepare_folder)
        if resume:
            self._restore(allow_changed_options)

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoint"

    def go(self, *, minutes: float | None, checkpoint_every: int | None, observers: list[Observer]) -> str:
        """Take outer steps until all are done, the time is over, a signal comes or they are in vain; then a checkpoint.

        Args:
            minutes: wall-clock minutes for this call, None for no limit.
            checkpoint_every: outer steps between checkpoints; every three minutes where None.
            observers: called after every outer step and validation.

        Returns:
            ``"finished"``, ``"out of time"``, the name of the signal, or ``"ended early"`` where the first outer steps
            were all skipped.
        """
        started = last_saved = time.monotonic()
        saved_at = self.trainer.outer_steps_done

        def observe_step(step: OuterStep) -> None:
            for observer in observers:
                observer.on_outer_step(self.trainer, step)

        def observe_validation(validation: Validation) -> None:
            for observer in observers:
                observer.on_validation(self.trainer, validation)

        with _signals(self.say, repeated_end_it=self.ranks.size == 1) as received:

            def should_stop() -> bool:
                nonlocal last_saved, saved_at
                now, done = time.monotonic(), self.trainer.outer_steps_done
                by_time = checkpoint_every is None and now - last_saved > CHECKPOINT_SECONDS
                by_count = checkpoint_every is not None and done % checkpoint_every == 0
                out_of_time = minutes is not None and now - started > 60 * minutes
                # Clocks and signals differ between ranks; what they all do next must not.
                stop, save = self.ranks.any([bool(received) or out_of_time, by_time or by_count])
                if save and done > saved_at:
                    self.save()
                    last_saved, saved_at = time.monotonic(), done
                return stop

            if not self._has_checkpoint:
                self.save()
            finished = self.trainer.run(
                should_stop=should_stop, on_outer_step=observe_step, on_validation=observe_validation
            )
            self.save(finished=finished)
            signals = [name for names in self.ranks.gather(received) for name in names]
            if finished or signals:
                return "finished" if finished else signals[0]
            if self.trainer.is_in_vain:
                return "ended early"
            self._save_best_of_an_unfinished_run(observe_validation)
        return "out of time"

    def save(self, *, finished: bool = False) -> None:
        """Write the checkpoint of all ranks, then what is derived from it."""
        trainer = self.trainer
        state, self.has_learned = trainer.state_dict(), trainer.has_learned
        if not self.ranks.is_first:
            return
        path = self.checkpoints / f"outer-step-{trainer.outer_steps_done:08d}.safetensors"
        save_tree({"options": self.options, "data": self.data, "trainer": state}, path)
        for old in self._checkpoint_paths()[:-CHECKPOINTS_KEPT]:
            old.unlink()
        self._write_results(trainer.best, trainer.best_weights, finished=finished)

    @abc.abstractmethod
    def save_artefacts(self, card: Mapping[str, Any], best: Mapping[str, Params] | None) -> dict[str, str]:
        """Write the best weights, where there are any, and the latest; returns their digests by name."""

    def _write_results(self, best: Validation | None, weights: Mapping[str, Params], *, finished: bool) -> None:
        trainer = self.trainer
        metrics = {
            "validation": None if best is None else best.metric,
            "validation_outer_step": None if best is None else best.outer_step,
        }
        digests = self.save_artefacts(self._card(metrics), weights if self.has_learned else None)
        record = {
            "options": self.options,
            "data": self.data,
            "outer_step": trainer.outer_steps_done,
            "finished": finished,
            "figures": metrics,
            "skipped_outer_steps": trainer.num_skipped,
            "minutes": trainer.seconds / 60,
            "digests": digests,
        }
        write_atomically(self.folder / "run.json", (json.dumps(record, indent=2) + "\n").encode())

    def _save_best_of_an_unfinished_run(self, observe_validation: Callable[[Validation], None]) -> None:
        # Not part of the checkpoint: an uninterrupted run would not validate here, and resuming must equal it.
        trainer = self.trainer
        if trainer.last_validated == trainer.outer_steps_done:
            return
        validation = trainer.validate()
        observe_validation(validation)
        if trainer.is_better(validation):
            self.has_learned = not trainer.all_skipped
            if self.ranks.is_first:
                self._write_results(validation, copy_weights(trainer.kept_weights), finished=False)

    def _card(self, metrics: Mapping[str, Any]) -> dict[str, Any]:
        return self.card | {
            "figures": dict(metrics),
            "licence": "Apache-2.0",
            "provenance": {
                "command": shlex.join(["l2l-opt", *sys.argv[1:]]),
                "options": self.options,
                "data": self.data,
                "seed": self.trainer.seed,
                "outer_steps": self.trainer.outer_steps_done,
                "minutes": round(self.trainer.seconds / 60, 2),
                "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
                "versions": {
                    "l2l_opt": __version__,
                    "torch": torch.__version__,
                    "numpy": np.__version__,
                    "python": platform.python_version(),
                },
            },
        }

    def _checkpoint_paths(self) -> list[Path]:
        return sorted(self.checkpoints.glob("outer-step-*.safetensors"))

    def _restore(self, allow_changed_options: bool) -> None:
        tree = self.ranks.first(self._newest_good_checkpoint)
        if tree is None:
            self.say("no checkpoint there yet: starting from the beginning")
            return
        changed, listed = changed_options(tree["options"] | tree.get("data", {}), self.options | self.data)
        if changed and not allow_changed_options:
            raise ValueError(
                f"a run must be resumed with the options it was started with; got others ({listed}), "
                "use the old ones or --allow-changed-options"
            )
        self.students_go_on = not changed & (STUDENTS_DEPEND_ON | self.data.keys())
        self.trainer.load_state_dict(tree["trainer"], with_students=self.students_go_on)
        self._has_checkpoint = True
        self.say(f"going on from outer step {self.trainer.outer_steps_done}")
        if changed:
            self.say(f"with changed options ({listed})" + ("" if self.students_go_on else "; students are reset"))

    def _newest_good_checkpoint(self) -> dict[str, Any] | None:
        for path in reversed(self._checkpoint_paths()):
            try:
                return load_tree(path)
            except FileFormatError as error:
                self.say(f"passing over a checkpoint: {error}")
        return None


class MetaTrainingRun(ResumableRun[MetaTrainer]):
    """Runs a ``MetaTrainer`` in a folder: ``rule.safetensors`` is its best rule, ``last.safetensors`` its latest."""

    def save_artefacts(self, card: Mapping[str, Any], best: Mapping[str, Params] | None) -> dict[str, str]:
        rules = {} if best is None else {"rule": self.trainer.rule_with(best["phi"])}
        return {
            name: save_rule(rule, self.folder / f"{name}.safetensors", card=card)
            for name, rule in (rules | {"last": self.trainer.rule}).items()
        }


def changed_options(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[set[str], str]:
    """Compare the options of a run with those that it is to go on with: keys that differ, and a list in words."""
    keys = {key for key in old.keys() | new.keys() if old.get(key) != new.get(key)}
    return keys, "; ".join(f"{key} was {old.get(key)!r}, is {new.get(key)!r}" for key in sorted(keys))


def refuse_unusable_folder(folder: Path, *, resume: bool) -> None:
    """Say at once, before any work, that a run cannot be written to a folder.

    Raises:
        ValueError: it holds a run, and this is not to go on from it; or it is a file.
        OSError: it cannot be made or written.
    """
    if not resume and ((folder / "run.json").exists() or (folder / "checkpoint").exists()):
        raise ValueError(
            f"a run's folder must not hold a run already; got {str(folder)!r}, use another or go on with --resume"
        )
    make_writable_folder(folder)


@contextlib.contextmanager
def _signals(say: Callable[[str], Any], *, repeated_end_it: bool) -> Iterator[list[str]]:
    """Collect the names of SIGINT and SIGTERM received meanwhile.

    Args:
        say: is given what comes of the first one.
        repeated_end_it: whether a second one has its usual effect. Not so among ranks, where both the terminal and
            the launcher send what a user has sent once.
    """
    received: list[str] = []
    usual = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, _: FrameType | None) -> None:
        name = signal.Signals(number).name
        received.append(name)
        if repeated_end_it:
            signal.signal(number, usual[signal.Signals(number)])
        if len(received) == 1:
            again = "; a second one ends it at once" * repeated_end_it
            with contextlib.suppress(RuntimeError):  # The stream is being written to at this very moment.
                say(f"{name}: the run ends after this outer step, with a checkpoint{again}")

    try:
        for number in usual:
            signal.signal(number, note)
    except ValueError:  # Not the main thread: signals are somebody else's.
        usual = {}
    try:
        yield received
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)
