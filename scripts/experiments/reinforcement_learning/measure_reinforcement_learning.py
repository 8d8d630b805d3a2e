"""Policies that adapt in one to three policy gradients, and policies trained by a shipped rule. Extra [rl].

python -m scripts.experiments.reinforcement_learning.measure_reinforcement_learning adaptation TASK | training | picture

Writes results/reinforcement_learning/NAME.json; each run has a seed of its own for first weights, environments and
episodes, and is evaluated in environments that nothing was trained or tuned in. CartPole's returns are of
gymnasium's own environment.
"""

import json
import time
from dataclasses import dataclass
from typing import Any

import click
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from l2l_opt import list_pretrained, load_rule
from l2l_opt.evaluation.statistics import mean_and_interval
from l2l_opt.inner_loop.horizon import Horizon
from l2l_opt.inner_loop.students import Students
from l2l_opt.inner_loop.training import train
from l2l_opt.inner_loop.unroll import unroll
from l2l_opt.pretrained import DEFAULT
from l2l_opt.randomness import Stream, make_generator
from l2l_opt.rules import make_rule
from l2l_opt.rules.base import UpdateRule
from l2l_opt.tasks import make_task
from l2l_opt.tasks.policies.cartpole import CartPole
from l2l_opt.tasks.policies.control import ControlTask
from scripts.examples.reinforcement_learning.gymnasium_play import cartpole_returns
from scripts.experiments import records
from scripts.experiments.reinforcement_learning.side_by_side import Learner, draw, fresh_learner, meta_train, stacked

FOLDER = records.RESULTS / "reinforcement_learning"
INNER_STEPS = 3
SGD_RATES = [1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1]
ADAM_RATES = [1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0]


@dataclass(frozen=True)
class Setting:
    """How a task's learners are meta-trained.

    Attributes:
        task: with options.
        rules: name of a learner -> the rule that it adapts by.
        outer_steps: of each learner that adapts; one policy for all takes twice as many, of one batch each, not four.
        environments: of each run, drawn for an outer step.
        theta_lr: Adam's rate for first weights.
    """

    task: str
    rules: dict[str, str]
    outer_steps: int
    environments: int
    theta_lr: float


RECIPES = {
    "navigation": Setting(
        "navigation:episodes=10,hidden=16",
        {"maml": "sgd:lr=0.0003", "learned rule": "rnnprop:hidden_size=8,num_layers=1,output_scale=0.3"},
        outer_steps=60,
        environments=4,
        theta_lr=1e-2,
    ),
    "cartpole": Setting(
        "cartpole:episodes=10,hidden=16",
        {"maml": "sgd:lr=0.01", "learned rule": "rnnprop:hidden_size=8,num_layers=1,output_scale=0.3"},
        outer_steps=50,
        environments=3,
        theta_lr=5e-3,
    ),
}


@click.group()
def group() -> None:
    torch.set_num_threads(1)


def returns_while_adapting(learner: Learner, family: ControlTask, *, stream: Stream, environments: int) -> Tensor:
    """``[INNER_STEPS + 1, R, environments]``: returns of the episodes that are learned from, and of as many more."""
    generators = [make_generator(0, stream, run) for run in range(learner.num_runs)]
    data, batches = draw(family, generators, environments=environments, batches=INNER_STEPS + 1)
    inner, phi = learner.start(environments)
    with torch.no_grad():
        _, losses = unroll(learner.rule, family, data, inner, batches, phi=phi)
    return family.best_return - losses.unflatten(1, (learner.num_runs, environments))


def returns_in_gymnasium(
    learner: Learner, family: CartPole, *, stream: Stream, environments: int, episodes: int = 10
) -> Tensor:
    """The same environments and steps, but the returns are of fresh episodes in gymnasium's own."""
    generators = [make_generator(0, stream, run) for run in range(learner.num_runs)]
    data, batches = draw(family, generators, environments=environments, batches=INNER_STEPS + 1)
    inner, phi = learner.start(environments)
    generator, returns = make_generator(1, stream), []
    with torch.no_grad():
        for step in range(INNER_STEPS + 1):
            played = cartpole_returns(family, inner.params, data, episodes=episodes, generator=generator).mean(1)
            returns.append(played.unflatten(0, (learner.num_runs, environments)))
            if step < INNER_STEPS:
                inner, _ = unroll(learner.rule, family, data, inner, batches[step : step + 2], phi=phi)
    return torch.stack(returns)


def reported_returns(learner: Learner, family: ControlTask, environments: int) -> Tensor:
    """``[INNER_STEPS + 1, R, environments]``, in environments that nothing else has seen."""
    play = returns_in_gymnasium if isinstance(family, CartPole) else returns_while_adapting
    return play(learner, family, stream=Stream.REPORTING, environments=environments)  # type: ignore[arg-type]


def with_rule(learner: Learner, rule: str, family: ControlTask) -> Learner:
    """The same first weights, to be adapted by another rule."""
    return Learner((fresh := fresh_learner(rule, family, runs=learner.num_runs)).rule, learner.theta, fresh.phi)


def tuned(learner: Learner, family: ControlTask, specs: list[str], environments: int) -> tuple[list[str], Tensor]:
    """The best of some rules for each number of steps, chosen in environments of their own; and its returns."""

    trials: dict[str, Tensor] = {}
    for spec in specs:
        own = with_rule(learner, spec, family)
        returns = returns_while_adapting(own, family, stream=Stream.TUNING, environments=5)
        trials[spec] = returns.mean((1, 2)).nan_to_num(nan=-torch.inf)
    best = [max(specs, key=lambda spec, step=step: float(trials[spec][step])) for step in range(INNER_STEPS + 1)]
    found = {spec: reported_returns(with_rule(learner, spec, family), family, environments) for spec in set(best)}
    return best, torch.stack([found[spec][step] for step, spec in enumerate(best)])


def row(name: str, rules: list[str], returns: Tensor) -> dict[str, Any]:
    """What is written of one learner: means over environments, and an interval over runs."""
    by_run = returns.mean(-1).double()
    summary = [mean_and_interval(step.tolist()) for step in by_run]
    shown = "  ".join(f"{mean:8.1f} [{low:.1f}, {high:.1f}]" for mean, (low, high) in summary)
    print(f"{name:14} {shown}", flush=True)
    return {
        "learner": name,
        "rules": rules,
        "mean": [mean for mean, _ in summary],
        "interval": [list(interval) for _, interval in summary],
        "runs": by_run.T.tolist(),
    }


@group.command()
@click.argument("task", type=click.Choice(list(RECIPES)))
@click.option("--runs", default=10, show_default=True, help="Independent meta-training runs, side by side.")
@click.option("--environments", default=20, show_default=True, help="Held-out environments of each run.")
@click.option("--learner", "only", multiple=True, help="Measure these alone and keep the others as they were.")
def adaptation(task: str, runs: int, environments: int, only: tuple[str, ...]) -> None:
    """Returns after 0, 1, 2, 3 steps: maml, learned rule, from scratch, one policy (trained for all)."""
    recipe = RECIPES[task]
    family = make_task(recipe.task)
    assert isinstance(family, ControlTask)
    plain = [f"sgd:lr={rate}" for rate in SGD_RATES] + [f"adam:lr={rate}" for rate in ADAM_RATES]
    # Outer steps and inner steps of each; what does not learn to adapt has its rule and rate tuned afterwards.
    learners = {name: (rule, recipe.outer_steps, INNER_STEPS) for name, rule in recipe.rules.items()}
    learners |= {"from scratch": ("sgd", 0, 0), "one policy": ("sgd", 2 * recipe.outer_steps, 0)}
    path = FOLDER / f"{task}.json"
    before = json.loads(path.read_text())["results"] if only and path.exists() else []
    rows: list[dict[str, Any]] = [own for own in before if own["learner"] not in only]
    for name, (rule, outer_steps, inner_steps) in learners.items():
        if only and name not in only:
            continue
        learner, began = fresh_learner(rule, family, runs=runs), time.process_time()
        outer_returns: list[list[float]] = []
        for own in meta_train(
            learner,
            family,
            outer_steps=outer_steps,
            inner_steps=inner_steps,
            environments=recipe.environments,
            theta_lr=recipe.theta_lr,
        ):
            outer_returns.append(own.mean(1).tolist())
            if len(outer_returns) % 10 == 0:
                shown = "  ".join(f"{value:.1f}" for value in outer_returns[-1])
                print(f"{name}, {len(outer_returns)}: {time.process_time() - began:.0f} s, {shown}", flush=True)
        seconds = time.process_time() - began
        if inner_steps:
            rules, returns = [rule] * (INNER_STEPS + 1), reported_returns(learner, family, environments)
        else:
            rules, returns = tuned(learner, family, plain, environments)
        trained = {"outer_steps": outer_steps, "seconds_on_one_core": seconds, "returns": outer_returns}
        rows.append(row(name, rules, returns) | {"meta_training": trained})
        content = {
            "task": recipe.task,
            "played_in": "gymnasium CartPole-v1" if isinstance(family, CartPole) else "l2l_opt's environment",
            "runs": runs,
            "environments_of_a_run": environments,
            "environments_of_an_outer_step": recipe.environments,
            "steps_of_adaptation": list(range(INNER_STEPS + 1)),
            "results": rows,
        }
        records.write(path, content)


FROM_NOTHING = {
    "cartpole": "cartpole:spread=1,swapped=False,episodes=10",
    "navigation": "navigation:episodes=10,steps=50",
}


@group.command()
@click.argument("name", type=click.Choice(list(FROM_NOTHING)), default="cartpole")
@click.option("--updates", default=150, show_default=True)
@click.option("--seeds", default=10, show_default=True)
def training(name: str, updates: int, seeds: int) -> None:
    """A policy from fresh weights: shipped rules, with nothing set, beside Adam tuned over seven rates.

    On CartPole also in gymnasium's own environment.
    """
    task = FROM_NOTHING[name]
    family = make_task(task)
    assert isinstance(family, ControlTask)

    def students_of(rule: UpdateRule, numbers: list[int], stream: Stream) -> Students:
        horizon = Horizon(updates, updates)
        return Students(rule, family, numbers=numbers, horizon=horizon, seed=0, stream=stream)

    # Four students at every rate, all in one batch.
    rates = torch.tensor(ADAM_RATES, dtype=torch.float64).log().repeat_interleave(4)
    students = students_of(make_rule("adam"), [*range(4)] * len(ADAM_RATES), Stream.TUNING)
    tried = (family.best_return - train(students, phi={"log_lr": rates})).unflatten(1, (len(ADAM_RATES), 4)).mean(-1)
    scores = {"mean over training": tried.mean(0), "mean of the last tenth": tried[-updates // 10 :].mean(0)}
    chosen = {name: f"adam:lr={ADAM_RATES[int(score.argmax())]}" for name, score in scores.items()}

    results = []
    for spec in dict.fromkeys([DEFAULT, "default-1", *chosen.values()]):
        rule = load_rule(spec) if spec in list_pretrained() else make_rule(spec)
        students = students_of(rule, list(range(seeds)), Stream.REPORTING)
        curves = family.best_return - train(students)
        metrics = {"mean over training": curves.mean(0), "mean of the last tenth": curves[-updates // 10 :].mean(0)}
        if isinstance(family, CartPole):
            # A student's own tensors have an axis of one particle in front.
            params = tree_map(lambda *leaves: torch.cat(leaves), *(own.inner.params for own in students.members))
            physics = stacked([own.data for own in students.members])
            played = cartpole_returns(
                family, params, physics, episodes=20, generator=make_generator(1, Stream.REPORTING)
            )
            metrics["gymnasium after training"] = played.mean(1)
        summary = {name: mean_and_interval(value.double().tolist()) for name, value in metrics.items()}
        print(spec, {name: f"{mean:.1f} [{low:.1f}, {high:.1f}]" for name, (mean, (low, high)) in summary.items()})
        results.append(
            {
                "rule": spec,
                "tuned_for": [name for name, best in chosen.items() if best == spec],
                "figures": {name: {"mean": mean, "interval": [*bounds]} for name, (mean, bounds) in summary.items()},
                "curve": curves.mean(1).tolist(),
            }
        )
    content = {
        "task": task,
        "updates": updates,
        "seeds": seeds,
        "results": results,
        "adam_tuning": {"rates": ADAM_RATES} | {name: score.tolist() for name, score in scores.items()},
    }
    records.write(FOLDER / f"training-{name}.json", content)


@group.command()
def picture() -> None:
    """results/reinforcement_learning/curves.png of what has been measured."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(15, 4.4))
    for axis, task in zip(axes, RECIPES, strict=False):
        content = json.loads((FOLDER / f"{task}.json").read_text())
        for index, own in enumerate(content["results"]):
            low, high = zip(*own["interval"], strict=True)
            axis.plot(content["steps_of_adaptation"], own["mean"], "o-", color=f"C{index}", label=own["learner"])
            axis.fill_between(content["steps_of_adaptation"], low, high, color=f"C{index}", alpha=0.15, linewidth=0)
        axis.set_title(f"{task}: new environments, {content['played_in']}")
        axis.set_xlabel("policy gradients of adaptation")
        axis.set_xticks(content["steps_of_adaptation"])
    content = json.loads((FOLDER / "training-cartpole.json").read_text())
    for own in content["results"]:
        axes[2].plot(own["curve"], label=own["rule"])
    axes[2].set_title("CartPole-v1 from a fresh policy")
    axes[2].set_xlabel("update")
    for axis in axes:
        axis.set_ylabel("mean return (95 % interval over runs)" if axis is not axes[2] else "mean return")
        axis.grid(alpha=0.25)
        axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(FOLDER / "curves.png", dpi=110)


if __name__ == "__main__":
    group()
