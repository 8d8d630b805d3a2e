"""A rule on a whole suite: task by task, in several processes where asked, then timed in this one."""

import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from multiprocessing import get_context
from typing import Any

import torch
from torch import Tensor

from l2l_opt.evaluation.suites import Suite
from l2l_opt.evaluation.task import Protocol, Say, TaskJudge, TaskJudgement
from l2l_opt.rules.base import RULES, UpdateRule


@dataclass(frozen=True)
class RuleParts:
    """A rule as it is sent to another process."""

    name: str
    config: dict[str, Any]
    phi: dict[str, Tensor]

    @classmethod
    def of(cls, rule: UpdateRule) -> "RuleParts":
        RULES.factory(rule.registry_name)
        return cls(rule.registry_name, rule.config, {name: p.detach().cpu() for name, p in rule.named_parameters()})

    def make(self, protocol: Protocol) -> UpdateRule:
        rule = RULES.make(self.name, **self.config).to(device=protocol.device, dtype=protocol.dtype)
        for name, p in rule.named_parameters():
            p.data = self.phi[name].to(protocol.device)
        return rule


def evaluate_suite(
    rule: UpdateRule,
    suite: Suite,
    protocol: Protocol,
    *,
    settings: Mapping[str, Any],
    num_processes: int = 1,
    initializer: Callable[..., Any] | None = None,
    initargs: tuple[Any, ...] = (),
    say: Say = lambda message: None,
) -> list[TaskJudgement]:
    """Judge a rule on every task of a suite at every horizon.

    All is cached as soon as it is known, so that a run that is killed and started again loses what was under way.

    Args:
        rule: under judgement, on the protocol's device and in its dtype; nothing of it is tuned.
        suite: the tasks.
        protocol: how they are judged.
        settings: of the rule, for the record.
        num_processes: tasks that are run at a time, each in a process of its own with one thread.
        initializer: called first in each process, e.g. to register a user's own tasks.
        initargs: its arguments.
        say: told of progress.

    Returns:
        For each task, in the suite's order, one judgement a horizon.

    Raises:
        ValueError: an unknown task, option or baseline; with several processes, a rule that is not registered.
        FileNotFoundError: data that are not on this machine.
    """
    # Wrong names fail here, before any work.
    judges = [TaskJudge(task, protocol, say=say) for task in suite.tasks]
    total = len(judges)
    found: dict[str, list[TaskJudgement]] = {}
    if num_processes == 1:
        for judge in judges:
            found[judge.task] = [judge.judge(rule, horizon, settings) for horizon in protocol.horizons]
            say(f"{len(found)} of {total} tasks: {judge.task} done")
    else:
        parts = RuleParts.of(rule)
        with ProcessPoolExecutor(
            min(num_processes, total), get_context("spawn"), initializer=_begin, initargs=(initializer, initargs)
        ) as pool:
            waiting = {
                pool.submit(_judge_task, parts, judge.task, protocol, dict(settings)): judge.task for judge in judges
            }
            try:
                for done in as_completed(waiting):
                    found[waiting[done]] = done.result()
                    say(f"{len(found)} of {total} tasks: {waiting[done]} done")
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    judgements = []
    for judge in judges:
        # Timed when no other process of ours runs.
        times = judge.timed(rule)
        judgements += [replace(judgement, seconds_per_step=times) for judgement in found[judge.task]]
    return judgements


def _begin(initializer: Callable[..., Any] | None, initargs: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    if initializer is not None:
        initializer(*initargs)


def _judge_task(parts: RuleParts, task: str, protocol: Protocol, settings: dict[str, Any]) -> list[TaskJudgement]:
    judge = TaskJudge(task, protocol, say=lambda message: print(message, file=sys.stderr, flush=True))
    rule = parts.make(protocol)
    return [judge.judge(rule, horizon, settings) for horizon in protocol.horizons]
