"""Density estimation with importance sampling: a normalising flow fitted to a density known but for a constant."""

import math
from collections.abc import Callable
from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn

from l2l_opt.checks import check_choices, check_positive_integers
from l2l_opt.tasks.base import Split, register_module_task
from l2l_opt.tasks.drawing import placed
from l2l_opt.tasks.layers.basic import perceptron
from l2l_opt.tasks.student_module import fresh_parameters, reset_parameters
from l2l_opt.types import Batch, Params, TaskData

GROUP = 4
"""Points whose weights are averaged in the importance-weighted loss."""


class Target(Protocol):
    """A distribution of densities ``p~(x)``, known but for a constant factor.

    Attributes:
        dim: of the points, two at least.
    """

    dim: int

    def sample(self, generator: torch.Generator) -> TaskData:
        """Draw one density: CPU tensors in float64, none where there is but one density."""
        ...

    def log_density(self, points: Tensor, data: TaskData) -> Tensor:
        """``log p~`` of points ``[batch, dim]``: ``[batch]``, differentiable in the points."""
        ...


class GaussianMixture:
    """Overlapping Gaussians, ``p(x) = sum_k pi_k N(x; m_k, S_k)``, drawn anew for every student.

    Centres have deviation 1, the axes of each Gaussian any direction and deviations of 0.5 to 1, log-uniform. The
    density is normalised; no loss makes use of that.

    Args:
        dim: of the points.
        modes: Gaussians.
    """

    def __init__(self, dim: int, modes: int):
        self.dim, self.modes = dim, modes

    def sample(self, generator: torch.Generator) -> TaskData:
        """``centres [modes, dim]``, ``whitening [modes, dim, dim]`` and ``log_heights [modes]``."""
        centres, axes, weights = (
            torch.randn(*shape, generator=generator, dtype=torch.float64)
            for shape in ((self.modes, self.dim), (self.modes, self.dim, self.dim), (self.modes,))
        )
        uniform = torch.rand(self.modes, self.dim, generator=generator, dtype=torch.float64)
        log_deviations = math.log(0.5) * uniform
        rotations = torch.linalg.qr(axes).Q
        return {
            "centres": centres,
            "whitening": (-log_deviations).exp().unsqueeze(-1) * rotations,
            "log_heights": (weights / 2).log_softmax(0) - log_deviations.sum(-1) - self.dim * math.log(2 * math.pi) / 2,
        }

    def log_density(self, points: Tensor, data: TaskData) -> Tensor:
        apart = points.unsqueeze(-2) - data["centres"]
        white = torch.einsum("kij,...kj->...ki", data["whitening"], apart)
        return torch.logsumexp(data["log_heights"] - white.square().sum(-1) / 2, dim=-1)


class CouplingFlow(nn.Module):
    """Points x from standard Gaussian noise z, and the log-density of each: ``log q(x) = log N(z) - log |dx / dz|``.

    A coupling leaves the first half a of the coordinates and makes ``exp(s(a)) b + t(a)`` of the others, s within
    (-1, 1); then the halves change places.

    Args:
        dim: of the points, two at least.
        couplings: how many.
        hidden: units of the hidden layer of each.

    Source: arXiv 1605.08803, section 3.
    """

    def __init__(self, dim: int, couplings: int, hidden: int):
        super().__init__()
        self.dim, self.num_kept = dim, dim // 2
        self.couplings = nn.ModuleList(
            nn.Sequential(*perceptron([self.num_kept, hidden, 2 * (dim - self.num_kept)], activation="tanh"))
            for _ in range(couplings)
        )

    def forward(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Points ``[batch, dim]`` and their log-densities ``[batch]`` from noise ``[batch, dim]``."""
        points, log_density = noise, self._log_normal(noise)
        for coupling in self.couplings:
            kept, changed = points[..., : self.num_kept], points[..., self.num_kept :]
            log_scale, shift = self._affine(coupling, kept)
            points = torch.cat([changed * log_scale.exp() + shift, kept], -1)
            log_density = log_density - log_scale.sum(-1)
        return points, log_density

    def log_density(self, points: Tensor) -> Tensor:
        """``log q`` of any points, through the inverse: ``[batch, dim] -> [batch]``."""
        log_volume = torch.zeros_like(points[..., 0])
        for coupling in reversed(self.couplings):
            changed, kept = points[..., : self.dim - self.num_kept], points[..., self.dim - self.num_kept :]
            log_scale, shift = self._affine(coupling, kept)
            points = torch.cat([kept, (changed - shift) * (-log_scale).exp()], -1)
            log_volume = log_volume - log_scale.sum(-1)
        return self._log_normal(points) + log_volume

    def _affine(self, coupling: nn.Module, kept: Tensor) -> tuple[Tensor, Tensor]:
        log_scale, shift = coupling(kept).chunk(2, -1)
        return torch.tanh(log_scale), shift

    def _log_normal(self, noise: Tensor) -> Tensor:
        return -noise.square().sum(-1) / 2 - self.dim * math.log(2 * math.pi) / 2


def effective_sample_size(log_weights: Tensor) -> Tensor:
    """``(sum w)^2 / (n sum w^2)``, the fraction of n draws that n weighted ones are worth: 0-dim, in [0, 1].

    Args:
        log_weights: ``[n]``; a constant added to all changes nothing.

    Returns:
        1 where all weights are the same; 0 where one is not a number or infinite, or all are zero.

    Source: arXiv 1809.04129.
    """
    return (-chi_square_loss(log_weights)).exp().nan_to_num(nan=0.0).clamp(max=1)


def log_normaliser(log_weights: Tensor) -> Tensor:
    """``log mean w``, the estimate of the log of the target's integral: 0-dim.

    Where the integral is known this shows what the effective sample size cannot: mass that the flow never visits.
    """
    return torch.logsumexp(log_weights, 0) - math.log(len(log_weights))


def chi_square_loss(log_weights: Tensor) -> Tensor:
    """``log(n sum w^2 / (sum w)^2)``, in [0, log n]: minus the log of the batch's effective sample size.

    Its limit is ``log(1 + chi^2(p, q))``, the Renyi divergence of order 2 of p from q.

    Source: arXiv 1808.03856 (the chi-square divergence of flows); arXiv 1602.02311 (Renyi's).
    Differs from source: self-normalised, so that the target's constant does not matter.
    """
    return torch.logsumexp(2 * log_weights, 0) - 2 * torch.logsumexp(log_weights, 0) + math.log(log_weights.shape[0])


def reverse_kl_loss(log_weights: Tensor) -> Tensor:
    """``-mean log w``, in nats: the Kullback-Leibler divergence of q from p, but for the log of the target's constant.

    Source: arXiv 1505.05770.
    """
    return -log_weights.mean()


def importance_weighted_loss(log_weights: Tensor) -> Tensor:
    """``-mean over groups log(mean over a group w)``, groups of four, in nats: never below -log Z in the mean.

    Z is the target's integral. Large groups are above it by half the variance of w / Z over their size; groups of one
    give ``reverse_kl_loss``. Unlike ``chi_square_loss`` it rises where a part of the target is missed.

    Source: arXiv 1509.00519, section 3; arXiv 1808.09034 (the variance).
    """
    groups = log_weights.unflatten(0, (-1, GROUP))
    return math.log(GROUP) - torch.logsumexp(groups, -1).mean()


LOSSES: dict[str, Callable[[Tensor], Tensor]] = {
    "importance-weighted": importance_weighted_loss,
    "reverse-kl": reverse_kl_loss,
    "chi-square": chi_square_loss,
}


class FlowSampler:
    """A normalising flow q that learns a density p~ from its own draws, so that weights ``w = p~ / q`` vary little.

    A batch is noise: ``f(theta) = loss(log p~(x) - log q(x))``, x the flow's points from it. Points come from q alone,
    so that with the chi-square loss a part of p~ that q does not visit goes unnoticed.

    Args:
        target: what is learned.
        couplings: of the flow.
        hidden: units of the hidden layer of each.
        loss: importance-weighted, reverse-kl or chi-square.
        batch_size: points a batch, a multiple of four.
        device: of the tensors.
        dtype: of all tensors.

    Raises:
        ValueError: a size that is not a positive integer, points of fewer than two coordinates, batches that are not of
            whole groups, an unknown loss.

    Source: arXiv 1808.03856.
    """

    def __init__(
        self,
        target: Target,
        *,
        couplings: int = 6,
        hidden: int = 32,
        loss: str = "importance-weighted",
        batch_size: int = 128,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ):
        check_positive_integers(dim=target.dim, couplings=couplings, hidden=hidden, batch_size=batch_size)
        if target.dim < 2:
            raise ValueError(f"dim must be 2 or more, since coordinates change each other; got {target.dim}, use dim=2")
        if batch_size % GROUP:
            raise ValueError(
                f"batch_size must be a multiple of {GROUP}; got {batch_size}, use e.g. batch_size={GROUP * 32}"
            )
        check_choices(LOSSES, loss=loss)
        self.target, self.loss_fn, self.batch_size = target, LOSSES[loss], batch_size
        self.flow = CouplingFlow(target.dim, couplings, hidden).to(dtype=dtype)
        self.device, self.dtype = torch.device(device), dtype

    def sample(self, generator: torch.Generator) -> TaskData:
        """The target's own data."""
        return {key: value.to(self.device, self.dtype) for key, value in self.target.sample(generator).items()}

    def init_params(self, data: TaskData, generator: torch.Generator) -> Params:
        return fresh_parameters(self.flow, reset_parameters, generator, self.device)

    def sample_batch(self, data: TaskData, generator: torch.Generator, split: Split = "train") -> Batch:
        """``noise [batch_size, dim]``, fresh in both splits."""
        return {"noise": self._noise(generator, self.batch_size)}

    def loss(self, params: Params, data: TaskData, batch: Batch) -> Tensor:
        return self.loss_fn(self.log_weights(params, data, batch["noise"]))

    def log_weights(self, params: Params, data: TaskData, noise: Tensor) -> Tensor:
        """``log p~(x) - log q(x)`` of the flow's points from noise: ``[batch, dim] -> [batch]``."""
        points, log_density = torch.func.functional_call(self.flow, params, (noise,))
        return self.target.log_density(points, data) - log_density

    def draw_log_weights(
        self, params: Params, data: TaskData, generator: torch.Generator, *, number: int = 10_000
    ) -> Tensor:
        """``log_weights`` on fresh noise, for ``effective_sample_size`` and ``log_normaliser``: ``[number]``."""
        with torch.no_grad():
            return self.log_weights(params, data, self._noise(generator, number))

    def _noise(self, generator: torch.Generator, number: int) -> Tensor:
        return placed(torch.randn(number, self.target.dim, generator=generator, dtype=self.dtype), self.device)


@register_module_task("flow-sampler", batch_size=128)
def flow_sampler(
    *, dim: int = 2, modes: int = 3, couplings: int = 6, hidden: int = 32, loss: str = "importance-weighted"
) -> partial[FlowSampler]:
    """Normalising flow for importance sampling of a mixture of Gaussians, one for each student.

    Args:
        dim: of the points.
        modes: Gaussians of the mixture.
        couplings: of the flow.
        hidden: units of the hidden layer of each.
        loss: of the importance weights: importance-weighted, reverse-kl or chi-square (minus the log of their effective
            sample size).

    Raises:
        ValueError: a size that is not a positive integer, a single coordinate, batches that are not of whole groups, an
            unknown loss.

    Source: arXiv 1808.03856.
    """
    return partial(FlowSampler, GaussianMixture(dim, modes), couplings=couplings, hidden=hidden, loss=loss)
