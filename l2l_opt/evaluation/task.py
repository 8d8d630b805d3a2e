"""A rule on one task at one horizon, beside tuned baselines on the same students; every part of it is cached."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from l2l_opt.evaluation import provenance
from l2l_opt.evaluation.baselines.entries import ADAMW_CONSTANT, ENTRIES, Entry, entries_for, entries_named
from l2l_opt.evaluation.baselines.torch_optimizers import run_torch_optimizer
from l2l_opt.evaluation.baselines.tuning import Baseline, Tuning, tune
from l2l_opt.evaluation.cache import DEFAULT_FOLDER, Cache
from l2l_opt.evaluation.results import Result
from l2l_opt.evaluation.runs import TEST_BATCHES, PlannedSteps, Run, long_curves, run_of, run_rule
from l2l_opt.evaluation.speed_up import CAP, NEIGHBOURS, speed_ups, steps_to_reach
from l2l_opt.evaluation.statistics import FLOOR, mean_and_interval
from l2l_opt.evaluation.timing import seconds_per_step
from l2l_opt.inner_loop.training import tail_length
from l2l_opt.rules.base import UpdateRule
from l2l_opt.tasks.mixture import Tasks, make_tasks

Say = Callable[[str], Any]


@dataclass(frozen=True)
class Protocol:
    """How a suite is judged; the same for every task.

    Attributes:
        horizons: inner steps; baselines are tuned for each.
        num_seeds: students reported on.
        tuning_seeds: other students, that baselines are tuned on.
        seed: of all students.
        baselines: names of entries; ``adamw`` is always among them.
        planned_steps: the number of steps that the rule is told: the horizon, another number, or None for unknown.
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
    planned_steps: PlannedSteps = "horizon"
    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    cache: Path | None = DEFAULT_FOLDER
    plugins: tuple[str, ...] = ()


@dataclass(frozen=True)
class TaskJudgement:
    """One task at one horizon.

    Attributes:
        task: as the command line names it.
        horizon: inner steps.
        results: the learned rule, then each baseline.
        first_losses: ``[seeds]``, before the first step, the same for all.
        baseline_rates: learning rates whose lower envelope speed-ups are measured against.
        baseline_steps: ``[seeds]``, steps that it needs to the rule's final loss; infinite beyond 4 times the horizon.
        speed_ups: ``[seeds]``, in steps.
        steps_to_adamw: ``[seeds]``, steps that the rule needs to tuned AdamW's final loss; infinite where it has not
            got there by its horizon.
        seconds_per_step: ``learned`` and ``adamw``, and ``adamw_kind``; empty until it is timed.
        notes: what was left out and why.
    """

    task: str
    horizon: int
    results: list[Result]
    first_losses: list[float]
    baseline_rates: list[float]
    baseline_steps: list[float]
    speed_ups: list[float]
    steps_to_adamw: list[float]
    seconds_per_step: dict[str, float | str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


class TaskJudge:
    """Judges rules on one task.

    Args:
        task: its specification.
        protocol: how.
        say: told what is about to be computed; nothing where it is read from the cache.

    Raises:
        ValueError: an unknown task, option or baseline.
        FileNotFoundError: data that are not on this machine.
    """

    def __init__(self, task: str, protocol: Protocol, *, say: Say = lambda message: None):
        self.task, self.protocol, self.say = task, protocol, say
        self.tasks: Tasks = make_tasks(task, device=protocol.device, dtype=protocol.dtype)
        self.cache = Cache(protocol.cache)
        self.entries, self.notes = entries_for(self.tasks, task, entries_named(protocol.baselines))
        self.code = provenance.task_code(task)
        self.about = {
            "task": task,
            "seed": protocol.seed,
            "device": protocol.device,
            "dtype": str(protocol.dtype),
            "versions": provenance.versions(),
            "plugins": list(protocol.plugins),
            "fingerprint": provenance.fingerprint(self.tasks, seed=protocol.seed),
        }
        self.of_baselines = provenance.code_digest(
            ["l2l_opt.evaluation.baselines.tuning", "l2l_opt.evaluation.runs", *self.code],
            without=provenance.NOT_OF_BASELINES,
        )

    def judge(self, rule: UpdateRule, horizon: int, settings: Mapping[str, Any]) -> TaskJudgement:
        """The rule and every entry at one horizon, and the rule's speed-up in steps."""
        learned = self.learned(rule, horizon)
        results = [self._result("learned", horizon, dict(settings), learned)]
        for entry in self.entries:
            results += self._entry(entry, horizon)
        first = learned.curves[0].double().numpy()
        rates, curves = self.long_run(horizon)
        length = tail_length(horizon)
        final = np.asarray(results[0].final_losses)
        steps = steps_to_reach(curves, _target(final, first), length)
        adamw = np.asarray(results[1].final_losses)
        return TaskJudgement(
            task=self.task,
            horizon=horizon,
            results=results,
            first_losses=first.tolist(),
            baseline_rates=rates,
            baseline_steps=steps.tolist(),
            speed_ups=speed_ups(final, first, steps, horizon=horizon).tolist(),
            steps_to_adamw=steps_to_reach(results[0].curves[:, None], _target(adamw, first), length).tolist(),
            notes=self.notes,
        )

    def learned(self, rule: UpdateRule, horizon: int) -> Run:
        """The rule under judgement on the reporting students."""
        key = {
            "rule": provenance.rule_identity(rule),
            "planned_steps": self.protocol.planned_steps,
            "code": provenance.code_digest(["l2l_opt.evaluation.runs", *self.code]),
        }
        return self._run("learned", horizon, key, lambda: self._run_rule(rule, horizon, self.protocol.planned_steps))

    def tuned(self, baseline: Baseline, horizon: int) -> Tuning:
        """A baseline's trials on the tuning students."""
        key = {
            **self.about,
            "kind": "tuning",
            "horizon": horizon,
            "num_seeds": self.protocol.tuning_seeds,
            "baseline": _plain(baseline),
            "code": self.of_baselines,
        }

        def compute() -> dict[str, Any]:
            self.say(f"{self.task}, {horizon} steps: tuning {baseline.name}")
            tuning = tune(
                baseline, self.tasks, horizon=horizon, num_seeds=self.protocol.tuning_seeds, seed=self.protocol.seed
            )
            return {"lr": tuning.lr, "figures": [[lr, figure] for lr, figure in tuning.figures.items()]}

        stored = self.cache.get(key, compute)
        return Tuning(stored["lr"], dict(stored["figures"]))

    def long_run(self, horizon: int) -> tuple[list[float], np.ndarray]:
        """AdamW at constant rates around the tuned one, four times as long: rates, losses ``[steps, rates, seeds]``."""
        tuned = self.tuned(ADAMW_CONSTANT, horizon).lr
        rates = [tuned * 10 ** (k / 2) for k in NEIGHBOURS]
        key = {
            **self.about,
            "kind": "long",
            "horizon": CAP * horizon,
            "num_seeds": self.protocol.num_seeds,
            "baseline": _plain(ADAMW_CONSTANT),
            "rates": rates,
            "code": self.of_baselines,
        }

        def compute() -> dict[str, Any]:
            self.say(f"{self.task}, {CAP * horizon} steps: adamw-constant at {len(rates)} rates, for speed-ups")
            curves = long_curves(
                ADAMW_CONSTANT.make,
                rates,
                self.tasks,
                steps=CAP * horizon,
                num_seeds=self.protocol.num_seeds,
                seed=self.protocol.seed,
            )
            return {"curves": curves}

        return rates, self.cache.get(key, compute)["curves"].double().numpy()

    def timed(self, rule: UpdateRule) -> dict[str, float | str]:
        """Seconds a step of the rule and of AdamW, in a plain loop of this process."""
        horizon = max(self.protocol.horizons)
        key = {
            **self.about,
            "kind": "timing",
            "horizon": horizon,
            "rule": provenance.rule_identity(rule),
            "machine": provenance.machine(),
            "code": provenance.code_digest(["l2l_opt.evaluation.timing", *self.code]),
        }

        def compute() -> dict[str, float | str]:
            self.say(f"{self.task}: timing")
            return seconds_per_step(rule, self.tasks, horizon=horizon, seed=self.protocol.seed)

        return self.cache.get(key, compute)

    def _entry(self, entry: Entry, horizon: int) -> list[Result]:
        if entry.make is not None:
            make = entry.make
            code = provenance.code_digest(
                ["l2l_opt.evaluation.baselines.torch_optimizers", *self.code], without=provenance.NOT_OF_BASELINES
            )
            version = provenance.version_of(entry.package or "torch")
            key = {"baseline": entry.name, "package": version, "code": code}
            run = self._run(
                entry.name,
                horizon,
                key,
                lambda: run_torch_optimizer(
                    make, self.tasks, horizon=horizon, num_seeds=self.protocol.num_seeds, seed=self.protocol.seed
                ),
            )
            return [self._result(entry.name, horizon, {"defaults_of": version, **run.about}, run)]
        trials = [(variant, self.tuned(variant, horizon)) for variant in entry.variants]
        results = [self._tuned_result(entry.name, trials, horizon)]
        constant = [trial for trial in trials if trial[0] == ADAMW_CONSTANT]
        if constant:
            results.append(self._tuned_result(ADAMW_CONSTANT.name, constant, horizon))
        return results

    def _tuned_result(self, name: str, trials: list[tuple[Baseline, Tuning]], horizon: int) -> Result:
        best, tuning = min(trials, key=lambda trial: trial[1].figures[trial[1].lr])
        lr = tuning.lr
        key = {"baseline": _plain(best), "lr": lr, "code": self.of_baselines}
        run = self._run(name, horizon, key, lambda: self._run_rule(best.make(lr), horizon, "horizon"))
        tried = {
            variant.name: {f"{rate:.3g}": figure for rate, figure in tuning.figures.items()}
            for variant, tuning in trials
        }
        settings = {"lr": lr, "schedule": "constant", "rule": best.rule, **best.options, "tried": tried}
        return self._result(name, horizon, settings, run)

    def _run_rule(self, rule: UpdateRule, horizon: int, planned_steps: PlannedSteps) -> Run:
        return run_rule(
            rule,
            self.tasks,
            horizon=horizon,
            num_seeds=self.protocol.num_seeds,
            seed=self.protocol.seed,
            planned_steps=planned_steps,
        )

    def _run(self, name: str, horizon: int, key: dict[str, Any], compute: Callable[[], Run]) -> Run:
        counts = {"horizon": horizon, "num_seeds": self.protocol.num_seeds, "test_batches": TEST_BATCHES}

        def run() -> dict[str, Any]:
            self.say(f"{self.task}, {horizon} steps: {name}")
            return compute().tree()

        return run_of(self.cache.get({**self.about, "kind": "run", **counts, **key}, run))

    def _result(self, name: str, horizon: int, settings: dict[str, Any], run: Run) -> Result:
        losses, tests = run.final_losses.double().tolist(), run.test_losses.double().tolist()
        mean, interval = mean_and_interval(losses)
        curves = run.curves.double().numpy()
        return Result(self.task, horizon, name, settings, losses, mean, interval, run.seconds, curves, tests)


def _target(final: np.ndarray, first: np.ndarray) -> np.ndarray:
    """A final loss that is to be reached: no lower than the floor; one that is not finite is reached by none."""
    return np.where(np.isfinite(final), np.maximum(final, FLOOR * np.abs(first)), -np.inf)


def _plain(baseline: Baseline) -> dict[str, Any]:
    return asdict(baseline) | {"half_decades": list(baseline.half_decades)}
