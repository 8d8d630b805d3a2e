"""Muon as a rule, equal to torch.optim.Muon, so that it is tuned in the batched unroll like the others."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from l2l_opt.rules.hand_designed import AdamW, schedule_factor
from l2l_opt.types import Params, RuleState

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
NUM_ITERATIONS = 5
SMALLEST_NORM = 1e-7


class Muon(AdamW):
    """Hidden matrices by Muon, all else by AdamW, at one learning rate.

        b <- momentum * b + (1 - momentum) * g;   n = momentum * b + (1 - momentum) * g
        update = -lr * schedule * (0.2 sqrt(max(A, B)) NewtonSchulz(n) + weight_decay * theta),   theta [A, B]

    Step for step ``torch.optim.Muon(lr=lr, weight_decay=weight_decay, momentum=momentum,
    adjust_lr_fn="match_rms_adamw")`` beside ``torch.optim.AdamW(lr=lr, weight_decay=weight_decay)``. That adjustment is
    made for sharing AdamW's rate, so there is one to tune. It is not coordinatewise and no rule of the registry.

    Args:
        lr: learning rate of both, positive.
        momentum: in [0, 1).
        weight_decay: in [0, 1).
        schedule: ``"constant"``, ``"cosine"`` or ``"warmup-cosine"``.
        without: names of matrices that are left to AdamW, besides those that ``hidden_matrices`` leaves out.

    Source: torch.optim.Muon; arXiv 2502.16982 for the adjustment.
    """

    def __init__(
        self,
        *,
        lr: float = 0.001,
        momentum: float = 0.95,
        weight_decay: float = 0.01,
        schedule: str = "constant",
        without: tuple[str, ...] = (),
    ):
        super().__init__(lr=lr, weight_decay=weight_decay, schedule=schedule)
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must lie in [0, 1); got {momentum!r}, use e.g. 0.95")
        self.config |= {"momentum": momentum, "without": list(without)}

    def init_state(self, params: Params) -> RuleState:
        matrices = hidden_matrices(params, self.config["without"])
        state = super().init_state(params)
        for name in matrices:
            buffer = torch.zeros_like(params[name]).unsqueeze(0)
            state[name] = {"step": state[name]["step"], "momentum_buffer": buffer}
        return state

    def forward(
        self, grads: Params, state: RuleState, params: Params, *, num_steps: Tensor | None = None
    ) -> tuple[Params, RuleState]:
        matrices = hidden_matrices(params, self.config["without"])
        rest = {name: gradient for name, gradient in grads.items() if name not in matrices}
        updates, next_state = super().forward(rest, state, params, num_steps=num_steps)
        momentum, decay = self.config["momentum"], self.config["weight_decay"]
        for name in matrices:
            step, param, gradient = state[name]["step"], params[name], grads[name]
            buffer = torch.lerp(state[name]["momentum_buffer"].squeeze(0), gradient, 1 - momentum)
            direction = newton_schulz(torch.lerp(gradient, buffer, momentum)).to(gradient.dtype)
            scale = -self.log_lr.exp()
            factor = schedule_factor(self.config["schedule"], step, num_steps, dtype=gradient.dtype)
            scale = scale if factor is None else scale * factor
            size = 0.2 * math.sqrt(max(param.shape))
            updates[name] = scale.to(gradient.dtype) * (size * direction + decay * param)
            next_state[name] = {"step": step + 1, "momentum_buffer": buffer.unsqueeze(0)}
        return {name: updates[name] for name in grads}, {name: next_state[name] for name in grads}


def hidden_matrices(params: Params, without: tuple[str, ...] | list[str] = ()) -> list[str]:
    """Which parameters Muon is for: 2-d, both sides above 1, neither the last such (the output layer) nor an embedding.

    Args:
        params: in the order of the module.
        without: names that are left out; and any with ``embed`` in it is.
    """
    matrices = [name for name, param in params.items() if param.dim() == 2 and min(param.shape) > 1]
    return [name for name in matrices[:-1] if name not in without and "embed" not in name.lower()]


def embeddings_of(family: Any) -> tuple[str, ...]:
    """Names of the weights of a family's ``nn.Embedding`` modules, where it has a module to ask."""
    module = getattr(family, "module", None)
    if not isinstance(module, nn.Module):
        return ()
    return tuple(f"{name}.weight" for name, part in module.named_modules() if isinstance(part, nn.Embedding))


def newton_schulz(matrix: Tensor) -> Tensor:
    """Five quintic iterations in bfloat16 towards the nearest orthogonal matrix, as torch.optim.Muon does them.

    Args:
        matrix: ``[A, B]``.

    Returns:
        ``[A, B]``, bfloat16; not differentiable.
    """
    result = _NewtonSchulz.apply(matrix)
    assert isinstance(result, Tensor)
    return result


class _NewtonSchulz(torch.autograd.Function):
    """vmap would take a multiply-add in bfloat16 apart and round in between; a batched one gives the same bits."""

    @staticmethod
    def forward(matrix: Tensor) -> Tensor:
        return _iterate(matrix.unsqueeze(0)).squeeze(0)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.mark_non_differentiable(output)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None], matrix: Tensor) -> tuple[Tensor, int]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (dim,) = in_dims
        assert dim is not None
        return _iterate(matrix.movedim(dim, 0)), 0


def _iterate(matrices: Tensor) -> Tensor:
    a, b, c = COEFFICIENTS
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.bfloat16()
    x = x.mT if tall else x
    x = x / torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True).clamp(min=SMALLEST_NORM)
    for _ in range(NUM_ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x
