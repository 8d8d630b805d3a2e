"""A learning rate of its own for every weight of one student."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from l2l_opt.checks import check_positive_numbers
from l2l_opt.rules.base import UpdateRule, initial_step
from l2l_opt.types import Params, RuleState


class MetaSGD(UpdateRule):
    """``update = -alpha * g``, alpha a learned tensor of the student's own shape, of either sign.

    It belongs to the student whose parameters it was made for, so it is in no registry and cannot be shipped.

    Args:
        params: the student's parameters, for their names and shapes.
        lr: every rate at first.

    Raises:
        ValueError: a rate that is not a positive number.

    Source: arXiv 1707.09835, section 2.2, which draws first rates from [.005, .1].
    """

    reads_whole_tensors = False

    def __init__(self, params: Mapping[str, Tensor], *, lr: float = 0.01):
        super().__init__(lr=lr)
        check_positive_numbers(0.01, lr=lr)
        self.names = list(params)
        self.rates = nn.ParameterList(torch.full_like(p.detach(), lr) for p in params.values())

    def init_state(self, params: Params) -> RuleState:
        return {name: {"step": initial_step(param)} for name, param in params.items()}

    def forward(
        self, grads: Params, state: RuleState, params: Params, *, num_steps: Tensor | None = None
    ) -> tuple[Params, RuleState]:
        rates = dict(zip(self.names, self.rates, strict=True))
        updates = {name: -rates[name].to(gradient.dtype) * gradient for name, gradient in grads.items()}
        return updates, {name: {"step": state[name]["step"] + 1} for name in grads}
