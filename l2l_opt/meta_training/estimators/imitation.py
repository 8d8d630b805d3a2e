"""Imitation of a hand-designed rule: the learned rule reads what the other sees, and is to write what it writes."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from l2l_opt.inner_loop.students import Students
from l2l_opt.inner_loop.unroll import unroll
from l2l_opt.meta_training.estimators.base import MetaGradient, MetaGradientEstimator
from l2l_opt.rules.base import UpdateRule, call_rule
from l2l_opt.rules.sharded_sums import tensor_sum
from l2l_opt.tasks.mixture import Tasks
from l2l_opt.types import Params, RuleState

PREFIX = "imitated_"
ERROR = "imitation_error"
TINY = 1e-30


class _Beside(UpdateRule):
    """Takes the steps of one rule, and notes how far another's updates would have been from them.

    Args:
        learner: the rule that imitates; its weights are this rule's only ones.
        model: the rule that is imitated and moves the student.

    State of a parameter:
        that of the learner; that of the model with a prefix; imitation_error: 0-dim, the squared distance of the two
        updates over the squared length of the model's, summed over steps.
    """

    def __init__(self, learner: UpdateRule, model: UpdateRule):
        super().__init__()
        self.learner = learner
        self.reads_loss = learner.reads_loss or model.reads_loss
        self._model = [model.requires_grad_(False)]  # In a list, so that its weights are not weights of this rule.

    def init_state(self, params: Params) -> RuleState:
        learner, model = self.learner.init_state(params), self._model[0].init_state(params)
        return {
            name: learner[name]
            | {PREFIX + key: value for key, value in model[name].items()}
            | {ERROR: param.new_zeros(())}
            for name, param in params.items()
        }

    def forward(
        self,
        grads: Params,
        state: RuleState,
        params: Params,
        *,
        num_steps: Tensor | None = None,
        loss: Tensor | None = None,
    ) -> tuple[Params, RuleState]:
        of_model = {
            name: {key.removeprefix(PREFIX): value for key, value in own.items() if key.startswith(PREFIX)}
            for name, own in state.items()
        }
        updates, model_state = call_rule(self._model[0], grads, of_model, params, num_steps=num_steps, loss=loss)
        # The student's path is the model's, whatever the learner's updates: no gradient runs along it.
        attempts, learner_state = call_rule(self.learner, grads, state, params, num_steps=num_steps, loss=loss)
        next_state: RuleState = {}
        for name, update in updates.items():
            miss = attempts[name] - update
            error = tensor_sum(miss * miss) / (tensor_sum(update * update) + TINY)
            next_state[name] = (
                learner_state[name]
                | {PREFIX + key: value for key, value in model_state[name].items()}
                | {ERROR: state[name][ERROR] + error}
            )
        return updates, next_state


@dataclass(kw_only=True, eq=False)
class Imitation(MetaGradientEstimator):
    """Meta-gradient of ``mean over steps and tensors of ||u_phi - u_model||^2 / ||u_model||^2`` on the model's path.

    Attributes:
        model: the rule to imitate, e.g. ``make_rule("adam", lr=0.001)``.
        horizon, truncation_length, staggered, group_size: as of every estimator; there is no meta-loss.

    Source: arXiv 2010.09089, section 4 (imitation of analytical optimizers, off-policy).
    Differs from source: a phase of its own before meta-training, with the relative error of each tensor.
    """

    model: UpdateRule = field(kw_only=False)

    def init(
        self, rule: UpdateRule, family: Tasks, *, num_students: int, seed: int, numbers: Sequence[int] | None = None
    ) -> Students:
        beside = _Beside(rule, self.model)
        return super().init(beside, family, num_students=num_students, seed=seed, numbers=numbers)

    def estimate(self, rule: UpdateRule, students: Students) -> tuple[MetaGradient, Students]:
        beside = students.rule
        phi = dict(beside.named_parameters())
        total = torch.zeros((), dtype=torch.float64)
        gradients = [torch.zeros_like(weight) for weight in phi.values()]
        all_losses = torch.empty(self.truncation_length + 1, len(students), dtype=torch.float64)
        for window in students.windows(self.truncation_length):
            with torch.enable_grad():
                place = (window.family, window.data, window.inner, window.batches)
                inner, losses = unroll(beside, *place, phi=phi, compiled=self.compiled)
                new = sum(
                    ((own[ERROR] - old[ERROR].detach()).sum() / len(inner.state))
                    for own, old in zip(inner.state.values(), window.inner.state.values(), strict=True)
                )
                assert isinstance(new, Tensor)
                error = new / (self.truncation_length * len(students))
                own = torch.autograd.grad(error, list(phi.values()), materialize_grads=True)
            for gradient, part in zip(gradients, own, strict=True):
                gradient += part
            total += error.detach().double().cpu()
            students.advance(window, inner, losses)
            all_losses[:, window.indices] = losses.detach().double().cpu()
        students.restart(all_losses)
        names = [name for name, _ in rule.named_parameters()]
        return MetaGradient(dict(zip(names, gradients, strict=True)), total, all_losses), students
