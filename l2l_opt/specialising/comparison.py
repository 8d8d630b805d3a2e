"""What a specialisation has bought: on students that nothing was learned, tuned or chosen by."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from l2l_opt.evaluation.baselines.entries import ENTRIES, VALIDATED
from l2l_opt.evaluation.results import Result, TaskEvaluation
from l2l_opt.evaluation.speed_up import steps_to_reach
from l2l_opt.evaluation.statistics import mean_and_interval
from l2l_opt.evaluation.task import SuiteConfig, TaskEvaluator
from l2l_opt.inner_loop.training import tail_length
from l2l_opt.registry import format_spec, parse_spec
from l2l_opt.rules.base import UpdateRule
from l2l_opt.specialising.selection import log_ratios
from l2l_opt.tasks.base import Split
from l2l_opt.tasks.mixture import Tasks, components_of, make_tasks

SPECIALISED, BEFORE, RESIZED = "specialised", "before", "resized"
"""Names of the three rules that are compared."""


@dataclass(frozen=True)
class Comparison:
    """Rules and tuned baselines on one task at one horizon.

    Attributes:
        task: its name.
        horizon: inner steps.
        evaluations: of each rule, by name; the baselines are the same in all.
        seconds_per_step: of a step of the specialised rule, with the student's gradient, in a plain loop.
    """

    task: str
    horizon: int
    evaluations: dict[str, TaskEvaluation]
    seconds_per_step: float = math.nan

    def results(self) -> list[Result]:
        """All optimizers, the rules under their own names."""
        rules = [replace(own.results[0], optimizer=name) for name, own in self.evaluations.items()]
        return rules + next(iter(self.evaluations.values())).results[1:]

    def against(self, other: str, *, test: bool = False) -> tuple[float, tuple[float, float]]:
        """Compare final losses: the mean of log(specialised / other) and its interval; below 0 is better."""
        losses = {own.optimizer: own.test_losses if test else own.final_losses for own in self.results()}
        first = np.asarray(self.evaluations[SPECIALISED].first_losses)
        ours, theirs = (np.asarray(losses[name], dtype=np.float64) for name in (SPECIALISED, other))
        return mean_and_interval(log_ratios((ours, first), (theirs, first)).tolist())

    @property
    def falls_below_zero(self) -> bool:
        """Whether some loss is negative, so that ratios are of progress."""
        return any(own.falls_below_zero for own in self.evaluations.values())

    def steps_saved(self) -> float:
        """Mean steps that the specialised rule needs fewer to the final loss of the rule it began from."""
        ours, before = (self.evaluations[name].results[0] for name in (SPECIALISED, BEFORE))
        needed = steps_to_reach(ours.curves[:, None], np.asarray(before.final_losses), tail_length(self.horizon))
        return float((self.horizon - np.minimum(needed, self.horizon)).mean())

    def break_even(self, seconds: float) -> int | None:
        """Count the trainings from which on a specialisation of so many seconds has paid; None for never."""
        saved = self.steps_saved() * self.seconds_per_step
        return math.ceil(seconds / saved) if saved > 0 and self.against(BEFORE)[0] < 0 else None

    def record(self) -> dict[str, Any]:
        """Plain values, for ``specialised.json``."""
        return {
            "task": self.task,
            "horizon": self.horizon,
            "seconds_per_step": self.seconds_per_step,
            "results": [own.record() for own in self.results()],
            "log_ratio": {
                own.optimizer: {"train": self.against(own.optimizer), "test": self.against(own.optimizer, test=True)}
                for own in self.results()
                if own.optimizer != SPECIALISED
            },
            "speed_ups": {name: own.speed_ups for name, own in self.evaluations.items() if own.speed_ups},
            "steps_saved": self.steps_saved(),
        }


@dataclass(frozen=True)
class Comparing:
    """How specialisations are compared.

    Attributes:
        num_seeds: students reported on.
        tuning_seeds: others, that baselines are tuned on.
        baselines: names of entries of ``evaluate``.
        seed: of all students.
        folder: where results are kept, so that a comparison that is killed goes on.
        place: device and dtype.
        plugins: digests of files that registered rules or tasks.
        say: given progress.
    """

    num_seeds: int
    tuning_seeds: int
    baselines: tuple[str, ...]
    seed: int
    folder: Path
    place: Mapping[str, Any]
    plugins: tuple[str, ...] = ()
    say: Callable[[str], Any] = lambda message: None

    def compare(
        self,
        rules: Mapping[str, UpdateRule],
        task: str,
        horizon: int,
        *,
        tasks: Tasks | None = None,
        baselines: Sequence[str] | None = None,
        timed: bool = False,
    ) -> Comparison:
        """Run rules and baselines on the same students.

        Args:
            rules: by name; ``SPECIALISED`` and ``BEFORE`` are among them.
            task: its notation, or a name of the user's own.
            horizon: inner steps.
            tasks: the task itself, where it is not registered.
            baselines: instead of those of all comparisons.
            timed: also take the time of a step.
        """
        names = self.baselines if baselines is None else tuple(baselines)
        config = SuiteConfig(
            horizons=(horizon,),
            num_seeds=self.num_seeds,
            tuning_seeds=self.tuning_seeds,
            seed=self.seed,
            baselines=names,
            # Those that are named and no others.
            classical=True,
            device=str(self.place["device"]),
            dtype=self.place["dtype"],
            cache=self.folder,
            plugins=self.plugins,
        )
        evaluator = TaskEvaluator(task, config, tasks=tasks, say=self.say)
        found = {name: evaluator.evaluate(rule, horizon, {"rule": name}) for name, rule in rules.items()}
        seconds = float(evaluator.timed(rules[SPECIALISED])["learned"]) if timed else math.nan
        return Comparison(task, horizon, found, seconds)


def tuned_for(baselines: Sequence[str], loss_on: Split) -> tuple[str, ...]:
    """Name the entries that are tuned for the losses that count: of test losses those that validation losses tune."""
    if loss_on == "train":
        return tuple(baselines)
    return tuple(name + VALIDATED if name + VALIDATED in ENTRIES else name for name in baselines)


def changed(task: str, horizon: int, check: str) -> tuple[str, int]:
    """Another task of the kind, or another length, for a rule to be tried on without having seen it.

    Args:
        task: its notation: one family.
        horizon: inner steps.
        check: ``horizon=1000``, ``task=NAME:OPTION=VALUE,...``, or an option of the task with another value.

    Returns:
        The task's notation, and its horizon.

    Raises:
        ValueError: none of these; an option for a mixture.
    """
    key, sign, value = check.partition("=")
    if not (key and sign and value):
        raise ValueError(
            f"a check must read OPTION=VALUE, horizon=STEPS or task=TASK; got {check!r}, use e.g. hidden=128"
        )
    if key == "task":
        make_tasks(value)
        return value, horizon
    if key == "horizon":
        if not value.isdigit() or int(value) < 2:
            raise ValueError(f"the horizon of a check must be 2 steps or more; got {value!r}, use e.g. {4 * horizon}")
        return task, int(value)
    if len(components_of(task)) > 1:
        raise ValueError(f"a check of a mixture must be horizon=STEPS or task=TASK; got {check!r}, use one of these")
    name, given = parse_spec(task)
    other = format_spec(name, given | parse_spec(f"{name}:{check}")[1])
    make_tasks(other)
    return other, horizon
