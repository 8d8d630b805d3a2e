"""A rule on one task at one horizon, beside tuned baselines on the same students; every part of it is cached."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from l2l_opt.evaluation import provenance
from l2l_opt.evaluation.baselines.entries import ADAMW_CONSTANT, ENTRIES, Entry, entries_for, entries_named
from l2l_opt.evaluation.baselines.torch_optimizers import run_torch_optimizer
from l2l_opt.evaluation.baselines.tuning import Baseline, Tuning, tune
from l2l_opt.evaluation.cache import DEFAULT_FOLDER, Cache
from l2l_opt.evaluation.results import Result, TaskEvaluation
from l2l_opt.evaluation.runs import TEST_BATCHES, PlannedSteps, Run, long_curves, run_rule
from l2l_opt.evaluation.speed_up import CAP, NEIGHBOURS, speed_ups, steps_to_reach
from l2l_opt.evaluation.statistics import FLOOR
from l2l_opt.evaluation.timing import seconds_per_step
from l2l_opt.inner_loop.training import tail_length
from l2l_opt.rules.base import UpdateRule
from l2l_opt.tasks.data_files import data_digests
from l2l_opt.tasks.mixture import Tasks, make_tasks

Say = Callable[[str], Any]
BELOW_ZERO = (
    "{task}: losses fall below zero, where their ratio means nothing; loss ratios are of progress instead, "
    "(first loss - the rule's) / (first loss - the baseline's)."
)
"""A note."""


@dataclass(frozen=True)
class SuiteConfig:
    """How the tasks of a suite are evaluated, all in the same way.

    Attributes:
        horizons: inner steps; baselines are tuned for each.
        num_seeds: students reported on.
        tuning_seeds: other students, that baselines are tuned on.
        seed: of all students.
        baselines: names of entries.
        classical: ``sgd`` is without momentum, and AdamW is run only where it is named; otherwise it always is, with
            speed-ups against it.
        planned_steps: the number of steps that the rule is given: the horizon, another number, or None for unknown.
        speed_ups: over AdamW, where it is among the baselines; they take AdamW's runs of four times the horizon.
        device: of students.
        dtype: of students.
        cache: a folder; None keeps nothing.
        plugins: digests of files that registered rules or tasks.
    """

    horizons: tuple[int, ...] = (500, 2000)
    num_seeds: int = 5
    tuning_seeds: int = 3
    seed: int = 0
    baselines: tuple[str, ...] = tuple(ENTRIES)
    classical: bool = False
    planned_steps: PlannedSteps = "horizon"
    speed_ups: bool = True
    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    cache: Path | None = DEFAULT_FOLDER
    plugins: tuple[str, ...] = ()


class TaskEvaluator:
    """Evaluates rules on one task.

    Args:
        task: its specification.
        config: how.
        tasks: the task itself, where ``task`` is no notation but a name for it.
        say: given what is about to be computed; nothing where it is read from the cache.

    Raises:
        ValueError: an unknown task, option or baseline.
        FileNotFoundError: data that are not on this machine.
    """

    def __init__(self, task: str, config: SuiteConfig, *, tasks: Tasks | None = None, say: Say = lambda message: None):
        self.task, self.config, self.say = task, config, say
        if tasks is None:
            tasks = make_tasks(task, device=config.device, dtype=config.dtype)
            self.task_modules = provenance.task_code(task)
            self.data = data_digests(task)
        else:
            self.data = {}
            self.task_modules = [type(tasks).__module__]
        self.tasks: Tasks = tasks
        self.cache = Cache(config.cache)
        self.students = {"num_seeds": config.num_seeds, "seed": config.seed}
        wanted = entries_named(config.baselines, classical=config.classical)
        self.entries, self.notes = entries_for(self.tasks, task, wanted)
        self.about = {
            "task": task,
            "seed": config.seed,
            "device": config.device,
            "dtype": str(config.dtype),
            "versions": provenance.versions(),
            "plugins": list(config.plugins),
            "fingerprint": provenance.fingerprint(self.tasks, seed=config.seed),
        } | ({"data": self.data} if self.data else {})
        self.of_baselines = self._code("baselines.tuning", "runs", without=provenance.NOT_OF_BASELINES)

    def evaluate(self, rule: UpdateRule, horizon: int, settings: Mapping[str, Any]) -> TaskEvaluation:
        """Run the rule and every entry at one horizon; where AdamW is among them, work out speed-ups if wanted."""
        planned_steps = self.config.planned_steps
        key = {"rule": provenance.rule_identity(rule), "planned_steps": planned_steps, "code": self._code("runs")}
        run = self._run("learned", horizon, key, lambda: self._train(rule, horizon, planned_steps))
        results = [Result.of(run, self.task, horizon, "learned", settings)]
        for entry in self.entries:
            results += self._tuned_entry(entry, horizon) if entry.make is None else [self._as_it_is(entry, horizon)]
        found = TaskEvaluation(self.task, horizon, results, notes=self.notes)
        if found.falls_below_zero:
            found = replace(found, notes=[*self.notes, BELOW_ZERO.format(task=self.task)])
        adamw = found.result_of("adamw") if self.config.speed_ups else None
        if adamw is None:
            return found
        first, final = np.asarray(found.first_losses), np.asarray(results[0].final_losses)
        rates, curves = self.long_run(horizon)
        length = tail_length(horizon)
        steps = steps_to_reach(curves, _target(final, first), length)
        target = _target(np.asarray(adamw.final_losses), first)
        return replace(
            found,
            baseline_rates=rates,
            baseline_steps=steps.tolist(),
            speed_ups=speed_ups(final, first, steps, horizon=horizon).tolist(),
            steps_to_adamw=steps_to_reach(results[0].curves[:, None], target, length).tolist(),
        )

    def tuned(self, baseline: Baseline, horizon: int, *, validated: bool = False) -> Tuning:
        """Try a baseline's learning rates on the tuning students, for training or validation loss (``tune``)."""
        num_seeds, seed = self.config.tuning_seeds, self.config.seed
        key = {"horizon": horizon, "num_seeds": num_seeds, "baseline": _plain(baseline), "code": self.of_baselines}
        key |= {"validated": True} if validated else {}

        def compute() -> dict[str, Any]:
            how = {"num_seeds": num_seeds, "seed": seed, "validated": validated}
            tuning = tune(baseline, self.tasks, horizon=horizon, **how)
            return {"lr": tuning.lr, "losses": [list(trial) for trial in tuning.losses.items()]}

        what = f"{baseline.name} for {'validation' if validated else 'training'} loss"
        stored = self._cached("tuning", key, f", {horizon} steps: tuning {what}", compute)
        return Tuning(stored["lr"], dict(stored["losses"]))

    def long_run(self, horizon: int) -> tuple[list[float], np.ndarray]:
        """AdamW at constant rates around the tuned one, four times as long: rates, losses ``[steps, rates, seeds]``."""
        tuned = self.tuned(ADAMW_CONSTANT, horizon).lr
        rates = [tuned * 10 ** (k / 2) for k in NEIGHBOURS]
        key = {"horizon": CAP * horizon, "num_seeds": self.config.num_seeds, "baseline": _plain(ADAMW_CONSTANT)}
        key |= {"rates": rates, "code": self.of_baselines}

        def compute() -> dict[str, Any]:
            how = {"steps": CAP * horizon, **self.students}
            return {"curves": long_curves(ADAMW_CONSTANT.make, rates, self.tasks, **how)}

        message = f", {CAP * horizon} steps: adamw-constant at {len(rates)} rates, for speed-ups"
        return rates, self._cached("long", key, message, compute)["curves"].double().numpy()

    def timed(self, rule: UpdateRule) -> dict[str, float | str]:
        """Seconds a step of the rule and of AdamW, in a plain loop of this process."""
        horizon = max(self.config.horizons)
        key = {
            "horizon": horizon,
            "rule": provenance.rule_identity(rule),
            "machine": provenance.machine(),
            "code": self._code("timing"),
        }
        compute = lambda: seconds_per_step(rule, self.tasks, horizon=horizon, seed=self.config.seed)  # noqa: E731
        return self._cached("timing", key, ": timing", compute)

    def _as_it_is(self, entry: Entry, horizon: int) -> Result:
        """Return an entry with its defaults."""
        assert entry.make is not None
        make = entry.make
        version = provenance.version_of(entry.package or "torch")
        code = self._code("baselines.torch_optimizers", without=provenance.NOT_OF_BASELINES)
        key = {"baseline": entry.name, "package": version, "code": code}
        compute = lambda: run_torch_optimizer(make, self.tasks, horizon=horizon, **self.students)  # noqa: E731
        run = self._run(entry.name, horizon, key, compute)
        return Result.of(run, self.task, horizon, entry.name, {"defaults_of": version, **run.about})

    def _tuned_entry(self, entry: Entry, horizon: int) -> list[Result]:
        """Return the best of all its trials; of AdamW also the best at a constant rate."""
        trials = [(variant, self.tuned(variant, horizon, validated=entry.validated)) for variant in entry.variants]
        results = [self._best(entry.name, trials, horizon)]
        if ADAMW_CONSTANT in entry.variants and not entry.validated:
            constant = [trial for trial in trials if trial[0] == ADAMW_CONSTANT]
            results.append(self._best(ADAMW_CONSTANT.name, constant, horizon))
        return results

    def _best(self, name: str, trials: list[tuple[Baseline, Tuning]], horizon: int) -> Result:
        best, tuning = min(trials, key=lambda trial: trial[1].losses[trial[1].lr])
        lr = tuning.lr
        key = {"baseline": _plain(best), "lr": lr, "code": self.of_baselines}
        run = self._run(name, horizon, key, lambda: self._train(best.make(lr), horizon, "horizon"))
        tried = {
            variant.name: {f"{rate:.3g}": loss for rate, loss in tuning.losses.items()} for variant, tuning in trials
        }
        settings = {"lr": lr, "schedule": "constant", "rule": best.rule, **best.options, "tried": tried}
        return Result.of(run, self.task, horizon, name, settings)

    def _train(self, rule: UpdateRule, horizon: int, planned_steps: PlannedSteps) -> Run:
        return run_rule(rule, self.tasks, horizon=horizon, planned_steps=planned_steps, **self.students)

    def _run(self, name: str, horizon: int, key: dict[str, Any], compute: Callable[[], Run]) -> Run:
        counts = {"horizon": horizon, "num_seeds": self.config.num_seeds, "test_batches": TEST_BATCHES}
        kept = self._cached("run", counts | key, f", {horizon} steps: {name}", lambda: dict(vars(compute())))
        return Run(**kept)

    def _cached(self, kind: str, key: dict[str, Any], message: str, compute: Callable[[], Any]) -> Any:
        def say_and_compute() -> Any:
            self.say(f"{self.task}{message}")
            return compute()

        return self.cache.get({**self.about, "kind": kind, **key}, say_and_compute)

    def _code(self, *modules: str, without: tuple[str, ...] = ()) -> str:
        """Return a digest of files of this room, of the task's, and of all that they import."""
        names = [f"l2l_opt.evaluation.{name}" for name in modules]
        return provenance.code_digest([*names, *self.task_modules], without=without)


def _target(final: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Return a final loss to be reached: not between zero and the floor; one that is not finite is reached by none."""
    reached = np.where(final < 0, final, np.maximum(final, FLOOR * np.abs(first)))
    return np.where(np.isfinite(final), reached, -np.inf)


def _plain(baseline: Baseline) -> dict[str, Any]:
    return asdict(baseline) | {"half_decades": list(baseline.half_decades)}
