"""A specialisation in a folder: planned, meta-trained stage by stage, chosen and compared; resumed anywhere.

DIR/rule.safetensors    the specialised rule, or the one it began from where nothing was gained
DIR/run.json            options, plan, scores; the plan is there before the first step
DIR/stage-1/ ...        a meta-training run each
DIR/specialised.json    the comparison on fresh students
DIR/specialised.html    the same as a page
DIR/events/             TensorBoard's, before and after
"""

import contextlib
import copy
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from l2l_opt.evaluation.baselines.entries import entries_named
from l2l_opt.evaluation.provenance import fingerprint
from l2l_opt.inspection.tensorboard.meta_training import MetaTrainingLog
from l2l_opt.meta_training.run import MetaTrainingRun, changed_options, refuse_unusable_folder
from l2l_opt.meta_training.trainer import MetaTrainer
from l2l_opt.pretrained import DEFAULT
from l2l_opt.rules.base import UpdateRule
from l2l_opt.specialising.comparison import BEFORE, RESIZED, SPECIALISED, Comparing, Comparison, changed, tuned_for
from l2l_opt.specialising.events import write_events
from l2l_opt.specialising.options import SpecialiseOptions
from l2l_opt.specialising.page import called, nothing_gained, page, sentence
from l2l_opt.specialising.plan import Objective, PlannedStage, make_plan
from l2l_opt.specialising.selection import Selection, best_size, resized, select
from l2l_opt.storage.files import write_atomically
from l2l_opt.storage.finite_json import json_text
from l2l_opt.storage.named_rule import read_rule
from l2l_opt.storage.rule_file import save_rule
from l2l_opt.tasks.base import TaskFamily
from l2l_opt.tasks.data_files import data_digests
from l2l_opt.tasks.held_out import hold_out
from l2l_opt.tasks.mixture import TaskMixture, Tasks, make_tasks
from l2l_opt.types import DTYPES


@dataclass(frozen=True)
class Specialised:
    """What a specialisation came to.

    Attributes:
        rule: the specialised rule, or the one it began from where nothing was gained.
        gained: whether it is better than the one it began from, by an interval on students it was not chosen by.
        sentence: the result in words.
        folder: where all of it lies.
        comparison: on fresh students; None where nothing was gained.
    """

    rule: UpdateRule
    gained: bool
    sentence: str
    folder: Path
    comparison: Comparison | None = None


class StoppedBySignalError(RuntimeError):
    """A signal ended a specialisation; its checkpoint is written."""


@dataclass
class Specialisation:
    """A specialisation under way.

    Args:
        folder: of the run; made if need be.
        options: that determine it.
        tasks: the task itself, where it is not registered.
        rule: the rule itself, where it is not in a file.
        resume: go on from what lies in the folder.
        say: given progress in lines.
        watch: makes observers of a stage's trainer, in a context, e.g. a progress bar.
        plugins: digests of files that registered rules or tasks, by path.
        command: that the run was started with, for its page; a call from Python where there is none.

    Raises:
        ValueError: an option that cannot be; a folder that holds a run already, or one of other options.
        OSError: the folder cannot be written.
    """

    folder: Path
    options: SpecialiseOptions
    tasks: Tasks | None = None
    rule: UpdateRule | None = None
    resume: bool = False
    say: Callable[[str], Any] = lambda message: None
    watch: Callable[[MetaTrainer], Any] = lambda trainer: contextlib.nullcontext(())
    plugins: Mapping[str, str] = field(default_factory=dict[str, str])
    command: str = ""
    record: dict[str, Any] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        own = self.options
        self.registered = self.tasks is None
        self.place = {"device": torch.device(own.device), "dtype": DTYPES[own.dtype]}
        self.objective = Objective(own.horizon, own.loss_on, own.seed)
        if self.tasks is not None and not isinstance(self.tasks, (TaskFamily, TaskMixture)):
            raise ValueError(
                f"a task must be a notation or a task family; got {type(self.tasks).__name__}, "
                "use e.g. ModuleTask(module, loss_fn, dataset)"
            )
        known: Tasks = make_tasks(own.task, **self.place) if self.tasks is None else self.tasks
        self.learned_on = hold_out(known) if own.loss_on == "test" else known
        self.data = data_digests(own.task) if self.registered else {own.task: " ".join(fingerprint(known, seed=0))}
        self.data |= self.plugins
        before = read_rule(own.rule, seed=own.seed) if self.rule is None else copy.deepcopy(self.rule)
        self.before = before.to(**self.place)
        resized(self.before, 1.0)
        entries_named(tuned_for(own.baselines, own.loss_on), classical=True)
        for check in own.checks:
            changed(own.task, own.horizon, check)
        refuse_unusable_folder(self.folder, resume=self.resume)
        self._read_record()

    def go(self) -> Specialised:
        """Take it to its end.

        Raises:
            StoppedBySignalError: a signal ended it.
        """
        if "plan" not in self.record:
            self.say("measuring this machine on the task")
            self.objective = self.objective.suited_to(self.before, self.learned_on)
            planned = make_plan(
                self.before, self.learned_on, self.objective, minutes=self.options.minutes, say=self.say
            )
            self._note(
                plan=[stage.record() for stage in planned], seconds=0.0, normalisation=self.objective.normalisation
            )
        self.objective = replace(self.objective, normalisation=self.record.get("normalisation", "log"))
        plan = [PlannedStage(**stage) for stage in self.record["plan"]]
        candidates = self._meta_train(plan)
        rule, selection = self._select(candidates)
        gained = selection.kept != BEFORE
        self._save(rule, selection)
        if gained:
            comparison = self._compare(rule)
            text = sentence(comparison, selection, seconds=self.record["seconds"], test=self.options.loss_on == "test")
            self._publish(comparison, selection, rule, text)
        else:
            comparison, text = None, nothing_gained(selection)
        self._note(finished=True, sentence=text)
        return Specialised(rule, gained, text, self.folder, comparison)

    def _meta_train(self, plan: Sequence[PlannedStage]) -> dict[str, UpdateRule]:
        """All stages, one after the other; the rules that came of them, the first the one they began from."""
        candidates, start = {BEFORE: self.before}, self.before
        for number, stage in enumerate(plan, start=1):
            folder = self.folder / f"stage-{number}"
            trainer = self.objective.trainer(copy.deepcopy(start), self.learned_on, stage)
            options = self._determining() | stage.record() | {"stage": number}
            card = {"task": self.options.task, "horizon": self.options.horizon}
            run = MetaTrainingRun(folder, trainer, options=options, card=card, resume=self.resume, say=self.say)
            spent = self.record["stages"].get(str(number), 0.0)
            left = 60 * self.options.minutes * stage.share - spent
            if trainer.outer_steps_done < stage.outer_steps and left > 0:
                began = time.monotonic()
                log = MetaTrainingLog(folder / "events", start=trainer.outer_steps_done)
                with contextlib.closing(log), self.watch(trainer) as observers:
                    ending = run.go(minutes=left / 60, checkpoint_every=None, observers=[*observers, log])
                spent += time.monotonic() - began
                self._note(stages=self.record["stages"] | {str(number): spent})
                if ending.startswith("SIG"):
                    raise StoppedBySignalError(ending)
                if trainer.outer_steps_done < stage.outer_steps:
                    done = trainer.outer_steps_done
                    self.say(f"stage {number} ended with its minutes, after {done} of {stage.outer_steps} outer steps")
            candidates[f"stage {number}, best"] = start = trainer.best_rule()
            candidates[f"stage {number}, last"] = trainer.rule_with(trainer.averaged_phi)
        return candidates

    def _select(self, candidates: Mapping[str, UpdateRule]) -> tuple[UpdateRule, Selection]:
        began = time.monotonic()
        self.say("choosing a rule on fresh students")
        size = best_size(self.before, self.learned_on, self.objective)
        self._note(best_size=size)
        # What was learned must buy more than one number does, which is kept where it buys as much.
        candidates = dict(candidates) | ({RESIZED: resized(self.before, size)} if size != 1 else {})
        selection = select(candidates, self.learned_on, self.objective)
        seconds = sum(self.record["stages"].values()) + time.monotonic() - began
        self._note(selection=selection.record(), seconds=seconds)
        return candidates[selection.kept], selection

    def _save(self, rule: UpdateRule, selection: Selection) -> None:
        old, horizon = self.before.card or {}, str(self.options.horizon)
        score = selection.scores[selection.best]
        card = {
            "task": self.options.task,
            "horizon": f"{old['horizon']}, then {horizon}" if old.get("horizon") else horizon,
            "provenance": {"began_from": self.options.rule, "options": self.options.plain(), **self.record},
            "figures": {
                "kept": selection.kept,
                "log_loss_ratio_of_the_best": score.change,
                "interval": list(score.interval),
            },
        } | ({"licence": old["licence"]} if old.get("licence") else {})
        digest = save_rule(rule, self.folder / "rule.safetensors", card=json.loads(json_text(card)))
        self._note(digest=digest)

    def _compare(self, rule: UpdateRule) -> Comparison:
        rules = {SPECIALISED: rule, BEFORE: self.before, RESIZED: resized(self.before, self.record["best_size"])}
        return self.comparing.compare(
            rules,
            self.options.task,
            self.options.horizon,
            tasks=None if self.registered else self.tasks,
            timed=True,
        )

    @property
    def comparing(self) -> Comparing:
        """How rules are compared, with what is kept in the folder."""
        own = self.options
        return Comparing(
            num_seeds=own.seeds,
            tuning_seeds=own.tuning_seeds,
            baselines=tuned_for(own.baselines, own.loss_on),
            seed=own.seed,
            folder=self.folder / "cache",
            place=self.place,
            plugins=tuple(self.plugins.values()),
            say=self.say,
        )

    def _publish(self, comparison: Comparison, selection: Selection, rule: UpdateRule, text: str) -> None:
        own = self.options
        rules = {SPECIALISED: rule, BEFORE: self.before}
        checks = [
            self.comparing.compare(rules, *changed(own.task, own.horizon, check), baselines=()) for check in own.checks
        ]
        content = {
            "options": own.plain(),
            "data": self.data,
            "sentence": text,
            "plan": self.record["plan"],
            "selection": selection.record(),
            "seconds": self.record["seconds"],
            "best_size": self.record["best_size"],
            "break_even": comparison.break_even(self.record["seconds"]),
            "comparison": comparison.record(),
            "checks": [check.record() for check in checks],
            "command": self.command or called(own),
        }
        write_atomically(self.folder / "specialised.json", json_text(content).encode())
        write_atomically(self.folder / "specialised.html", page(content, comparison, checks, rules).encode())
        write_events(
            self.folder / "events",
            rules,
            self.learned_on,
            task=own.task,
            horizon=own.horizon,
            seed=own.seed,
            selection=selection,
        )

    def _determining(self) -> dict[str, Any]:
        return {key: value for key, value in self.options.plain().items() if key not in SpecialiseOptions.CHANGEABLE}

    def _read_record(self) -> None:
        path = self.folder / "run.json"
        self.record = {"options": self.options.plain(), "data": self.data, "stages": {}}
        if not path.exists():
            return
        found = json.loads(path.read_text(encoding="utf-8"))
        mine = self._determining()
        theirs = {key: found["options"].get(key) for key in mine}
        others, listed = changed_options(theirs | found.get("data", self.data), mine | self.data)
        if others:
            raise ValueError(
                "a run must be resumed with the options and the data it was started with; got others "
                f"({listed}), use those"
            )
        self.record = found | {"options": self.options.plain(), "data": self.data}

    def _note(self, **values: Any) -> None:
        self.record |= values
        write_atomically(self.folder / "run.json", json_text(self.record).encode())


def specialise(
    task: str | Tasks,
    *,
    rule: str | UpdateRule = DEFAULT,
    minutes: float = 10.0,
    out: str | Path = "runs/specialised",
    resume: bool = False,
    say: Callable[[str], Any] = print,
    **options: Any,
) -> Specialised:
    """Make a rule better on your own kind of task, where you train such a model again and again.

    The rule is meta-trained on trainings of the task, from where it stands; students, windows and outer steps are
    decided once, from the speed of this machine. What is kept is better by a 95 % interval on students that it was not
    chosen by; otherwise the old rule is. It is then compared with the old one, with the best change of its step size,
    and with baselines tuned on the same task.

    Args:
        task: a task's notation, a family of your own (``ModuleTask(module, loss_fn, dataset)``) or a mixture.
        rule: a shipped name, a path, a registered name (fresh weights), or a rule.
        minutes: of meta-training, on this machine.
        out: a folder for all that is written.
        resume: go on from what lies there.
        say: given progress.
        options: others of ``SpecialiseOptions``: ``horizon``, ``loss_on``, ``seed``, ``baselines``, ``checks``, ...

    Raises:
        ValueError: an option that cannot be; a folder that holds a run already.
        OSError: the folder cannot be written.

    Example:
        >>> mine = l2l_opt.specialise(ModuleTask(model, cross_entropy, (x, y)), minutes=10)
        >>> optimizer = LearnedOptimizer(model.parameters(), rule=mine.rule, num_steps=1000)
    """
    named = {"task": task if isinstance(task, str) else type(task).__name__}
    named["rule"] = rule if isinstance(rule, str) else rule.registry_name or type(rule).__name__
    given: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
    return Specialisation(
        Path(out),
        SpecialiseOptions(**named, minutes=minutes, **given),
        tasks=None if isinstance(task, str) else task,
        rule=None if isinstance(rule, str) else rule,
        resume=resume,
        say=say,
    ).go()
