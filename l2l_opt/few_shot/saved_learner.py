"""A meta-learned model on disk: where it starts, how it adapts, and how to build both."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from l2l_opt.checks import check_choices
from l2l_opt.few_shot.episodes import EpisodeSource
from l2l_opt.few_shot.methods import METHODS, Method, is_bound_to_student, make_method
from l2l_opt.few_shot.models import make_model
from l2l_opt.few_shot.task import BatchNorm, EpisodeTask
from l2l_opt.randomness import Stream, make_generator
from l2l_opt.registry import parse_spec
from l2l_opt.rules import UpdateRule, make_rule
from l2l_opt.storage.checkpoint_file import load_tree, save_tree
from l2l_opt.storage.safetensors_file import FileFormatError, digest
from l2l_opt.tasks.layers.basic import INITS
from l2l_opt.types import Params

FORMAT_VERSION = 1


@dataclass(frozen=True)
class LearnerConfig:
    """What a learner is built from, plain values.

    Attributes:
        model: ``name:option=value,...`` of ``few_shot.models``.
        method: ``name:option=value,...`` of ``few_shot.methods``.
        rule: name and config of a registered rule, of the method ``learned-rule`` alone.
        batch_norm: ``"transductive"`` or ``"support"``.
        inner_steps: updates by a support set in meta-training.
        init: how first weights are drawn, of ``tasks.layers.INITS``, or ``"module"`` for the model's own.
    """

    model: str
    method: str
    rule: Mapping[str, Any] | None
    batch_norm: BatchNorm
    inner_steps: int
    init: str = "default"

    def family(self, episodes: EpisodeSource, *, device: torch.device | str = "cpu", dtype: torch.dtype) -> EpisodeTask:
        """Episodes as tasks of this model."""
        model = self.make_model(episodes)
        check_choices([*INITS, "module"], init=self.init)
        first: dict[str, Any] = {"init": "module"} if self.init == "module" else {"init_fn": INITS[self.init]}
        return EpisodeTask(model, episodes, batch_norm=self.batch_norm, device=device, dtype=dtype, **first)

    def make_model(self, episodes: EpisodeSource) -> nn.Module:
        return make_model(self.model, input_shape=episodes.input_shape, num_outputs=episodes.num_outputs)

    def make_method(self, params: Params) -> Method:
        """Return the method for these parameters, its rule on their device and in their dtype."""
        name, options = parse_spec(self.method)
        METHODS.check_names(name, options)
        rule = None if self.rule is None else make_rule(self.rule["name"], **self.rule["config"])
        method = make_method(name, params, rule=rule, **options)
        like = next(iter(params.values()))
        method.rule.to(device=like.device, dtype=like.dtype)
        return method

    def fresh(self, family: EpisodeTask, *, seed: int) -> tuple[Params, Method]:
        """Where meta-training begins."""
        generator = make_generator(seed, Stream.RULE)
        params = family.init_params({}, generator)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(2**63 - 1, (), generator=generator)))
            return params, self.make_method(params)


@dataclass(frozen=True)
class Learner:
    """What meta-training made: theta, and a method whose rule has the weights phi.

    Attributes:
        config: how it is built.
        theta: where students start.
        method: how they adapt.
        card: what is known of it.
    """

    config: LearnerConfig
    theta: Params
    method: Method
    card: Mapping[str, Any]


def save_learner(
    path: str | os.PathLike[str], config: LearnerConfig, *, theta: Params, phi: Params, card: Mapping[str, Any]
) -> str:
    """Write a learner to one file, atomically; returns the digest of theta and phi.

    Raises:
        OSError: the place cannot be written.
    """
    tensors = {f"theta.{name}": p for name, p in theta.items()} | {f"phi.{name}": p for name, p in phi.items()}
    of_weights = digest(tensors)
    tree = {
        "learner": FORMAT_VERSION,
        "recipe": {  # The config, by the name that files have had since 0.1.
            "model": config.model,
            "method": config.method,
            "rule": None if config.rule is None else dict(config.rule),
            "batch_norm": config.batch_norm,
            "inner_steps": config.inner_steps,
            "init": config.init,
        },
        "card": dict(card) | {"digest": of_weights},
        "theta": dict(theta),
        "phi": dict(phi),
    }
    save_tree(tree, path)
    return of_weights


def load_learner(path: str | os.PathLike[str], *, device: torch.device | str = "cpu") -> Learner:
    """Read what ``save_learner`` wrote. Nothing in the file is executed.

    Args:
        path: of ``learner.safetensors``, or of the folder of the run that wrote it.
        device: of its tensors.

    Raises:
        FileNotFoundError: no such file.
        FileFormatError: another kind of file, or a damaged one.
        ValueError: a model, method or rule that is not registered in this process.
    """
    place = Path(path)
    place = place / "learner.safetensors" if place.is_dir() else place
    if not place.is_file():
        raise FileNotFoundError(f"a learner must exist; got {str(place)!r}, meta-train one with few-shot meta-train")
    tree = load_tree(place)
    if not isinstance(tree, dict) or tree.get("learner") != FORMAT_VERSION:
        raise FileFormatError(
            f"a learner must be written by few-shot meta-train, format {FORMAT_VERSION}; got {str(place)!r}"
        )
    config = LearnerConfig(**tree["recipe"])
    theta = {name: p.to(device) for name, p in tree["theta"].items()}
    method = config.make_method(theta)
    load_weights(method.rule, tree["phi"])
    return Learner(config, theta, method, tree["card"])


def load_weights(rule: UpdateRule, phi: Mapping[str, torch.Tensor]) -> None:
    """Copy phi into a rule, in place."""
    with torch.no_grad():
        for name, weight in rule.named_parameters():
            weight.copy_(phi[name])


def ships_rule(method: Method) -> bool:
    """Whether the rule was learned and is of use to other students."""
    return method.learns_rule and not is_bound_to_student(method)
