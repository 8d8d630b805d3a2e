"""Regressions of three kinds: quantiles by gated layers, pieces by experts, series by linear recurrences; held out."""

import math
from functools import lru_cache, partial

import torch
from torch import Tensor, nn

from l2l_opt.tasks.base import register_module_task
from l2l_opt.tasks.examples import Examples
from l2l_opt.tasks.module_task import ModuleTask

QUANTILES = (0.1, 0.5, 0.9)
NUMBER = 4000


@lru_cache(1)
def skewed_examples() -> Examples:
    """Six numbers, and one whose spread and skew hang on them: ``[examples, 6]``, ``[examples, 1]``."""
    generator = torch.Generator().manual_seed(41)
    x = 2 * torch.rand(NUMBER, 6, generator=generator, dtype=torch.float64) - 1
    middle = torch.sin(3 * x[:, 0]) + x[:, 1] * x[:, 2] + 0.5 * x[:, 3]
    spread = 0.1 + 0.5 * torch.sigmoid(4 * x[:, 4])
    noise = -torch.rand(NUMBER, generator=generator, dtype=torch.float64).log() - 1
    return Examples.parted(x, (middle + spread * noise * torch.sign(x[:, 5]))[:, None])


def pinball_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """``max(q e, (q - 1) e)`` with e = target - output, of outputs ``[batch, quantiles]``; mean over all.

    Source: Koenker and Bassett, "Regression quantiles", 1978.
    """
    missed = targets - outputs
    wanted = torch.tensor(QUANTILES, dtype=outputs.dtype, device=outputs.device)
    return torch.maximum(wanted * missed, (wanted - 1) * missed).mean()


class GatedLayer(nn.Module):
    """``x + W_3 (silu(W_1 n) * W_2 n)`` with n = RMSNorm(x).

    Source: arXiv 2002.05202.
    """

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.RMSNorm(width, eps=1e-6)
        self.gate, self.value = nn.Linear(width, 2 * width, bias=False), nn.Linear(width, 2 * width, bias=False)
        self.leave = nn.Linear(2 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        seen = self.norm(x)
        return x + self.leave(nn.functional.silu(self.gate(seen)) * self.value(seen))


@register_module_task("skewed-quantiles", batch_size=64)
def skewed_quantiles(*, width: int = 24, layers: int = 2) -> partial[ModuleTask]:
    """Gated residual layers with RMS norm that learn three quantiles of a skewed, generated quantity; pinball loss.

    Args:
        width: features throughout.
        layers: how many.

    Raises:
        ValueError: a size that is not a positive integer.
    """
    body = (GatedLayer(width) for _ in range(layers))
    module = nn.Sequential(nn.Linear(6, width), *body, nn.RMSNorm(width, eps=1e-6), nn.Linear(width, len(QUANTILES)))
    return partial(ModuleTask, module, pinball_loss, skewed_examples())


PIECES = 5


@lru_cache(1)
def piecewise_examples() -> Examples:
    """Four numbers, ``[examples, 4]``, and a linear function of them in each of five regions, ``[examples, 1]``."""
    generator = torch.Generator().manual_seed(42)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x, centres = normal(NUMBER, 4), normal(PIECES, 4)
    slopes, heights = normal(PIECES, 4), normal(PIECES)
    region = (x[:, None] - centres).square().sum(-1).argmin(-1)
    found = (slopes[region] * x).sum(-1) / 2 + heights[region] + 0.1 * normal(NUMBER)
    return Examples.parted(x, ((found - found.mean()) / found.std())[:, None])


class Experts(nn.Module):
    """``sum_k softmax(G x)_k E_k(x)``, each E_k a perceptron of one hidden layer: ``[batch, 4] -> [batch, 1]``.

    Args:
        experts: how many.
        hidden: units of each.

    Source: Jacobs, Jordan, Nowlan and Hinton, "Adaptive mixtures of local experts", 1991.
    """

    def __init__(self, experts: int, hidden: int):
        super().__init__()
        self.router = nn.Sequential(nn.Linear(4, hidden), nn.Tanh(), nn.Linear(hidden, experts))
        self.inward = nn.Parameter(torch.empty(experts, hidden, 4))
        self.middle = nn.Parameter(torch.empty(experts, hidden))
        self.outward = nn.Parameter(torch.empty(experts, hidden))

    def reset_parameters(self) -> None:
        nn.init.normal_(self.inward, std=0.5)
        nn.init.zeros_(self.middle)
        nn.init.normal_(self.outward, std=self.outward.shape[-1] ** -0.5)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(torch.einsum("khi,bi->bkh", self.inward, x) + self.middle)
        found = (hidden * self.outward).sum(-1)
        return (self.router(x).softmax(-1) * found).sum(-1, keepdim=True)


@register_module_task("pieces-experts", batch_size=64)
def pieces_experts(*, experts: int = 6, hidden: int = 16) -> partial[ModuleTask]:
    """Mixture of experts with a soft router on a generated function that is linear in each of five regions.

    Args:
        experts: how many.
        hidden: units of each, and of the router.

    Raises:
        ValueError: a size that is not a positive integer.
    """
    return partial(ModuleTask, Experts(experts, hidden), nn.functional.mse_loss, piecewise_examples())


LENGTH = 24


@lru_cache(1)
def series_examples() -> Examples:
    """Two channels of three damped oscillations, struck at random times, ``[series, 24, 2]``, and what follows."""
    generator = torch.Generator().manual_seed(43)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(NUMBER, *shape, generator=generator, dtype=torch.float64)

    time = torch.arange(LENGTH + 1, dtype=torch.float64)
    struck = time - uniform(-12, 18, 3, 1)
    damping = torch.tensor([0.05, 0.12, 0.25], dtype=torch.float64)[:, None]
    frequency = torch.tensor([0.35, 0.8, 1.7], dtype=torch.float64)[:, None]
    waves = (
        uniform(0.5, 1.5, 3, 1) * (-damping * struck.clamp(min=0)).exp() * torch.sin(frequency * struck) * (struck > 0)
    )
    mixing = torch.tensor([[1.0, 0.6, -0.5], [-0.4, 1.0, 0.8]], dtype=torch.float64)
    seen = (mixing @ waves).mT
    seen = seen + 0.05 * torch.randn(seen.shape, generator=generator, dtype=torch.float64)
    return Examples.parted(seen[:, :-1], seen[:, 1:])


class LinearRecurrence(nn.Module):
    """``y = W Re(h)``, ``h_t = a h_{t-1} + B x_t``, a complex and diagonal, then a gated layer; run as a convolution.

    ``[batch, length, width]`` to the same.

    Args:
        width: features of x.
        states: of h.

    Source: arXiv 2303.06349, section 3.
    """

    def __init__(self, width: int, states: int):
        super().__init__()
        self.enter, self.leave = nn.Linear(width, states, bias=False), nn.Linear(states, width)
        self.decay, self.frequency = nn.Parameter(torch.empty(states)), nn.Parameter(torch.empty(states))
        self.gate = nn.Linear(width, 2 * width)

    def reset_parameters(self) -> None:
        """Decays from .05 to .5 a step, at frequencies up to a period of four steps."""
        nn.init.uniform_(self.decay, math.log(0.05), math.log(0.5))
        nn.init.uniform_(self.frequency, 0, math.pi / 2)

    def forward(self, x: Tensor) -> Tensor:
        time = torch.arange(x.shape[1], device=x.device, dtype=x.dtype)
        ago = (time[:, None] - time).clamp(min=0).unsqueeze(-1)
        kernel = (-ago * self.decay.exp()).exp() * torch.cos(ago * self.frequency)
        kernel = kernel * (time[:, None] >= time).to(x.dtype).unsqueeze(-1)
        found = self.leave(torch.einsum("tsn,bsn->btn", kernel, self.enter(x)))
        value, gate = self.gate(nn.functional.gelu(found)).chunk(2, -1)
        return x + value * torch.sigmoid(gate)


@register_module_task("series-recurrence", batch_size=16)
def series_recurrence(*, width: int = 16, states: int = 24, layers: int = 2) -> partial[ModuleTask]:
    """Diagonal linear recurrences that predict the next value of generated series of damped oscillations.

    Args:
        width: features of a time.
        states: of each layer's recurrence.
        layers: how many.

    Raises:
        ValueError: a size that is not a positive integer.
    """
    layers_of = (LinearRecurrence(width, states) for _ in range(layers))
    module = nn.Sequential(nn.Linear(2, width), *layers_of, nn.Linear(width, 2))
    return partial(ModuleTask, module, nn.functional.mse_loss, series_examples())
