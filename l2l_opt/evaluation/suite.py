"""A rule on a whole suite: task by task, in several processes where asked, then timed in this one."""

import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from multiprocessing import get_context
from typing import Any

import torch

from l2l_opt.evaluation.results import TaskEvaluation
from l2l_opt.evaluation.suites import Suite
from l2l_opt.evaluation.task import Say, SuiteConfig, TaskEvaluator
from l2l_opt.rules.base import RULES, UpdateRule
from l2l_opt.types import Params


def evaluate_suite(
    rule: UpdateRule,
    suite: Suite,
    config: SuiteConfig,
    *,
    settings: Mapping[str, Any],
    num_processes: int = 1,
    initializer: Callable[..., Any] | None = None,
    initargs: tuple[Any, ...] = (),
    say: Say = lambda message: None,
) -> list[TaskEvaluation]:
    """Evaluate a rule on every task of a suite at every horizon; a single task is a suite of one.

    All is cached as soon as it is known, so that a run that is killed and started again loses what was under way.

    Args:
        rule: on the config's device and in its dtype; nothing of it is tuned.
        suite: the tasks.
        config: how they are evaluated.
        settings: of the rule, for the record.
        num_processes: tasks that are run at a time, each in a process of its own with one thread.
        initializer: called first in each process, e.g. to register a user's own tasks.
        initargs: its arguments.
        say: given progress.

    Returns:
        For each task, in the suite's order, one evaluation a horizon.

    Raises:
        ValueError: an unknown task, option or baseline; with several processes, a rule that is not registered.
        FileNotFoundError: data that are not on this machine.
    """
    # Wrong names fail here, before any work.
    configs = configs_of(suite, config)
    evaluators = [TaskEvaluator(task, own, say=say) for task, own in configs.items()]
    if min(num_processes, len(evaluators)) == 1:
        run = ((own.task, _at_all_horizons(own, rule, settings)) for own in evaluators)
    else:
        run = _in_processes(rule, configs, settings, num_processes, (initializer, initargs))
    found: dict[str, list[TaskEvaluation]] = {}
    for task, evaluations in run:
        found[task] = evaluations
        say(f"{len(found)} of {len(evaluators)} tasks: {task} done")
    evaluations = []
    for own in evaluators:
        # Timed when no other process of ours runs.
        times = own.timed(rule) if found[own.task][0].speed_ups else {}
        evaluations += [replace(evaluation, seconds_per_step=times) for evaluation in found[own.task]]
    return evaluations


def configs_of(suite: Suite, config: SuiteConfig) -> dict[str, SuiteConfig]:
    """How each task is evaluated: at those of the config's horizons that it is meant for; others are left out.

    Raises:
        ValueError: no task is meant for any of the horizons.
    """
    found = {task: suite.horizons_of(task, config.horizons) for task in suite.tasks}
    if not any(found.values()):
        raise ValueError(
            f"a horizon must be one that some task of {suite.name} is meant for; got {list(config.horizons)}, use "
            f"{', '.join(map(str, suite.own_horizons))}"
        )
    return {task: replace(config, horizons=own) for task, own in found.items() if own}


def _at_all_horizons(own: TaskEvaluator, rule: UpdateRule, settings: Mapping[str, Any]) -> list[TaskEvaluation]:
    return [own.evaluate(rule, horizon, settings) for horizon in own.config.horizons]


def _in_processes(
    rule: UpdateRule,
    configs: Mapping[str, SuiteConfig],
    settings: Mapping[str, Any],
    count: int,
    begin: tuple[Any, ...],
) -> Iterator[tuple[str, list[TaskEvaluation]]]:
    """Tasks and their evaluations, as they are done."""
    RULES.factory(rule.registry_name)
    phi = {name: weight.detach().cpu() for name, weight in rule.named_parameters()}
    parts = (rule.registry_name, rule.config, phi)
    with ProcessPoolExecutor(min(count, len(configs)), get_context("spawn"), _begin, begin) as pool:
        waiting = {pool.submit(_evaluate, parts, task, own, dict(settings)): task for task, own in configs.items()}
        try:
            for done in as_completed(waiting):
                yield waiting[done], done.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _begin(initializer: Callable[..., Any] | None, initargs: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    if initializer is not None:
        initializer(*initargs)


def _evaluate(
    parts: tuple[str, dict[str, Any], Params], task: str, config: SuiteConfig, settings: dict[str, Any]
) -> list[TaskEvaluation]:
    name, options, phi = parts
    rule = RULES.make(name, **options).to(device=config.device, dtype=config.dtype)
    for key, weight in rule.named_parameters():
        weight.data = phi[key].to(config.device)
    own = TaskEvaluator(task, config, say=lambda message: print(message, file=sys.stderr, flush=True))
    return _at_all_horizons(own, rule, settings)
