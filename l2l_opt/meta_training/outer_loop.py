"""An outer loop: steps on what is learned, validation on the way, the best kept; stopped and continued anywhere."""

import abc
import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from l2l_opt.meta_training.options import OuterOptions, meta_learning_rate
from l2l_opt.meta_training.ranks import ALONE, Ranks
from l2l_opt.rules.base import UpdateRule
from l2l_opt.types import Params

IN_VAIN = 20
"""First outer steps after which a run ends that has skipped them all: no student's luck, but its tasks or its rule."""


Options = TypeVar("Options", bound=OuterOptions)


@dataclass(frozen=True)
class OuterStep:
    """What one outer step did.

    Attributes:
        number: outer steps done, this one included.
        meta_loss: the objective.
        meta_gradient_norm: Euclidean norm before clipping.
        meta_lr: the meta-learning rate it took.
        skipped: whether the meta-gradient was not finite, and nothing was changed.
        seconds: wall-clock seconds.
        coordinate_steps: updates of single coordinates of students, in this process.
        norms: weight name -> Euclidean norm of its part of the meta-gradient, before clipping.
    """

    number: int
    meta_loss: float
    meta_gradient_norm: float
    meta_lr: float
    skipped: bool
    seconds: float
    coordinate_steps: int
    norms: dict[str, float]

    @property
    def coordinates_per_second(self) -> float:
        """Throughput of this process, its share of everything that an outer step does included."""
        return self.coordinate_steps / self.seconds


@dataclass(frozen=True)
class Validation:
    """How good what is learned was at one outer step, on students that meta-training never sees.

    Attributes:
        outer_step: outer steps done.
        metric: mean final loss over the validation students (of log(final / initial loss) where the meta-loss is
            normalised by log); infinite where one diverged.
        curve: ``[horizon]``, the mean training loss at each inner step.
        metrics: ``[students]``, what the metric is the mean of; None where a checkpoint has not kept them.
    """

    outer_step: int
    metric: float
    curve: Tensor
    metrics: Tensor | None = None

    def record(self) -> dict[str, Any]:
        """As checkpoints have kept it since 0.1."""
        return {"outer_step": self.outer_step, "figure": self.metric, "curve": self.curve}


class OuterLoop(abc.ABC, Generic[Options]):
    """What ``MetaTrainer`` and ``few_shot.MetaLearner`` share: AdamW on what is learned, and the best of it.

    Args:
        rule: the update rule; its weights are changed in place.
        options: numbers of the loop.
        weights: all tensors that make up what is meta-trained, in named sets (``"phi"``, ``"theta"``).
        learned: those among them that the meta-gradient is of, by the names that events have.
        ranks: the processes that share this work.

    Attributes:
        outer_steps: planned outer steps.
        outer_steps_done: taken so far.
        num_skipped: those among them whose meta-gradient was not finite.
        first_skipped: what was not finite at the first of them, in words; empty where there was none.
        seconds: that they took.
        last_validated: outer steps done at the last validation.
        best: the best validation so far, None where none was finite.
        best_weights: ``weights`` at that point, averaged.
        optimizer: of what is learned.
    """

    def __init__(
        self,
        rule: UpdateRule,
        options: Options,
        *,
        weights: dict[str, Params],
        learned: Params,
        ranks: Ranks = ALONE,
    ):
        self.rule, self.options, self.weights, self.learned, self.ranks = rule, options, weights, learned, ranks
        self.outer_steps, self.seed = options.outer_steps, options.seed
        self.optimizer = torch.optim.AdamW(learned.values(), lr=options.meta_lr, weight_decay=options.meta_weight_decay)
        self.outer_steps_done = self.num_skipped = 0
        self.first_skipped = ""
        self.seconds, self.last_validated = 0.0, -1
        self.best: Validation | None = None
        self.best_weights, self._averages = copy_weights(weights), copy_weights(weights)

    @property
    def kept_weights(self) -> dict[str, Params]:
        """What validation evaluates and what is kept as the best: ``weights``, or their average."""
        return self._averages if self.options.average_phi else self.weights

    @property
    def averaged_phi(self) -> Params:
        """The average of the rule's weights so far."""
        return self.kept_weights["phi"]

    @property
    def best_phi(self) -> Params:
        """The rule's weights at the best validation."""
        return self.best_weights["phi"]

    @abc.abstractmethod
    def differentiate(self) -> tuple[float, int]:
        """Write the meta-gradient into the ``grad`` of what is learned; NaN where no student's loss was finite.

        Returns:
            The meta-loss, and the coordinate steps taken in this process.
        """

    @abc.abstractmethod
    def evaluate(self) -> tuple[Tensor, Tensor]:
        """Return the metric of each student and the curve of a validation, of the weights as they stand."""

    def outer_step(self) -> OuterStep:
        """Take one outer step. A meta-gradient that is not finite is counted, and changes nothing."""
        start = time.perf_counter()
        meta_loss, coordinate_steps = self.differentiate()
        norm, meta_lr, skipped, norms = self._descend()
        self._average()
        self.outer_steps_done += 1
        if skipped and self.num_skipped == 1:
            infinite = (
                f"norm of the meta-gradient of {norm}" if math.isfinite(meta_loss) else f"meta-loss of {meta_loss}"
            )
            self.first_skipped = f"a {infinite} at outer step {self.outer_steps_done}"
        seconds = time.perf_counter() - start
        self.seconds += seconds
        return OuterStep(self.outer_steps_done, meta_loss, norm, meta_lr, skipped, seconds, coordinate_steps, norms)

    def _descend(self) -> tuple[float, float, bool, dict[str, float]]:
        """Step along the gradients of what is learned, clipped, and clear them.

        Returns:
            The gradient's Euclidean norm before clipping, the meta-learning rate, whether the step was skipped, and
            the norm of each tensor's part.
        """
        norms = [
            torch.zeros((), dtype=torch.float64)
            if weight.grad is None
            else torch.linalg.vector_norm(weight.grad).double().cpu()
            for weight in self.learned.values()
        ]
        by_weight = dict(zip(self.learned, torch.stack(norms).tolist(), strict=True))
        own = self.options
        norm = float(torch.nn.utils.clip_grad_norm_(self.learned.values(), own.clip_norm))
        meta_lr = meta_learning_rate(own.meta_lr, self.outer_steps_done, own.outer_steps, schedule=own.meta_lr_schedule)
        skipped = not math.isfinite(norm)
        if skipped:
            self.num_skipped += 1
        else:
            self.optimizer.param_groups[0]["lr"] = meta_lr
            self.optimizer.step()
        self.optimizer.zero_grad()
        return norm, meta_lr, skipped, by_weight

    def _disregard_gradients(self) -> None:
        """Of losses that are not finite gradients may be, and mean nothing: make them NaN, which skips the step."""
        for weight in self.learned.values():
            weight.grad = torch.full_like(weight, torch.nan)

    def _average(self) -> None:
        if not self.options.average_phi:
            return
        # A short average at first, so that it does not dwell on where the weights began.
        decay = min(self.options.average_phi, (1 + self.outer_steps_done) / (10 + self.outer_steps_done))
        for name, own in copy_weights(self.weights).items():
            averages = self._averages[name]
            self._averages[name] = {key: new + decay * (averages[key] - new) for key, new in own.items()}

    def validate(self) -> Validation:
        """Evaluate what is learned as it is, or its average; does not change the loop."""
        with self._kept_in_place():
            metrics, curve = self.evaluate()
        metric = float(metrics.mean())
        return Validation(self.outer_steps_done, metric if math.isfinite(metric) else math.inf, curve, metrics)

    @contextlib.contextmanager
    def _kept_in_place(self) -> Iterator[None]:
        if not self.options.average_phi:
            yield
            return
        current = copy_weights(self.weights)
        self._write(self._averages)
        try:
            yield
        finally:
            self._write(current)

    @torch.no_grad()
    def _write(self, values: Mapping[str, Params]) -> None:
        for name, own in self.weights.items():
            for key, weight in own.items():
                weight.copy_(values[name][key])

    def consider(self, validation: Validation) -> None:
        """Keep what is learned as the best if this validation of it beats the best so far."""
        if self.is_better(validation):
            self.best, self.best_weights = validation, copy_weights(self.kept_weights)

    def is_better(self, validation: Validation) -> bool:
        """Whether a validation is finite and beats the best so far."""
        return validation.metric < (math.inf if self.best is None else self.best.metric)

    @property
    def all_skipped(self) -> bool:
        """Whether every outer step was skipped, so that the weights are those it began with."""
        return 0 < self.outer_steps_done == self.num_skipped

    @property
    def is_in_vain(self) -> bool:
        """Whether the first outer steps were all skipped, so many that those to come would be too."""
        return self.all_skipped and self.outer_steps_done >= IN_VAIN

    @property
    def has_learned(self) -> bool:
        """Whether there are weights worth keeping: a finite validation, and an outer step that was not skipped."""
        return self.best is not None and not self.all_skipped

    @property
    def why_nothing_was_learned(self) -> str:
        """The sentence for a run that ends without weights worth keeping."""
        if self.all_skipped:
            return (
                f"meta-gradients must be finite; got {self.num_skipped} of {self.outer_steps_done} outer steps "
                f"skipped, the first for {self.first_skipped}, use a task whose loss and gradients are finite, or "
                "fewer inner steps (--truncation-length, --inner-steps)"
            )
        return (
            "a validation must be finite; got infinity or NaN at every one, use a task whose loss is finite, a shorter "
            "horizon, or a smaller --meta-lr"
        )

    def state_dict(self) -> dict[str, Any]:
        """All that a killed run needs to go on bit for bit: tensors and plain values."""
        sets = {"": self.weights, "best_": self.best_weights, "averaged_": self.kept_weights}
        return {
            "outer_steps_done": self.outer_steps_done,
            "num_skipped": self.num_skipped,
            "first_skipped": self.first_skipped,
            "last_validated": self.last_validated,
            "seconds": self.seconds,
            "best": None if self.best is None else self.best.record(),
            "optimizer": self.optimizer.state_dict(),
            **{prefix + name: own for prefix, each in sets.items() for name, own in copy_weights(each).items()},
        }

    def load_state_dict(self, state: Mapping[str, Any], *, with_students: bool = True) -> None:
        """Go on from a saved state.

        Args:
            state: as ``state_dict`` returned it.
            with_students: whether students that outlive an outer step go on too.
        """
        self.outer_steps_done, self.num_skipped = state["outer_steps_done"], state["num_skipped"]
        self.last_validated, self.seconds = state["last_validated"], state["seconds"]
        self.first_skipped = state.get("first_skipped", "one that an earlier version did not record")
        best = state["best"]
        if best is not None and math.isfinite(best["figure"]):
            self.best = Validation(best["outer_step"], best["figure"], best["curve"])
        else:
            self.best = None
        self._write({name: state[name] for name in self.weights})
        device = next(iter(self.learned.values())).device
        self.best_weights, self._averages = (
            {
                name: {key: value.to(device) for key, value in state.get(prefix + name, state[name]).items()}
                for name in self.weights
            }
            for prefix in ("best_", "averaged_")
        )
        self.optimizer.load_state_dict(state["optimizer"])

    def run(
        self,
        *,
        should_stop: Callable[[], bool] = lambda: False,
        on_outer_step: Callable[[OuterStep], Any] = lambda step: None,
        on_validation: Callable[[Validation], Any] = lambda validation: None,
    ) -> bool:
        """Take outer steps until all are done, ``should_stop()``, or they are in vain, validating on the way.

        Returns:
            Whether all planned outer steps are done.
        """
        every = self.options.validate_every
        while not should_stop():
            done = self.outer_steps_done
            last = done == self.outer_steps
            due = last or (every > 0 and done % every == 0)
            if due and self.last_validated != done:
                validation = self.validate()
                self.consider(validation)
                self.last_validated = done
                on_validation(validation)
            if last:
                return True
            on_outer_step(self.outer_step())
            if self.is_in_vain and self.outer_steps_done < self.outer_steps:
                return False
        return False


def copy_weights(weights: Mapping[str, Params]) -> dict[str, Params]:
    """Copy sets of tensors by value."""
    return {name: {key: weight.detach().clone() for key, weight in own.items()} for name, own in weights.items()}
