"""Importance sampling of a density of one's own: a normalising flow fitted under LearnedOptimizer, nothing tuned.

    python -m scripts.examples.density.importance_sampling

Needs no network. The density is a banana in the plane, known but for a constant; printed are the effective sample size
and the estimate of its integral, beside the true one.
"""

import math

import torch
from torch import Tensor

from l2l_opt import LearnedOptimizer
from l2l_opt.tasks.synthetic.flow_sampler import FlowSampler, effective_sample_size, log_normaliser


class Banana:
    """``p~(x, y) = exp(-x^2 / 2 - (2 y - x^2)^2 / 2)``; its integral is pi."""

    dim = 2

    def sample(self, generator: torch.Generator) -> dict[str, Tensor]:
        return {}

    def log_density(self, points: Tensor, data: dict[str, Tensor]) -> Tensor:
        x, y = points.unbind(-1)
        return -(x.square() + (2 * y - x.square()).square()) / 2


def train(*, steps: int, batch_size: int = 256, seed: int = 0) -> list[tuple[float, float]]:
    """Fit the flow.

    Args:
        steps: updates.
        batch_size: points of an update. Weights are largest where points are rarest: in small batches a run hangs on
            the few that fall there.
        seed: of first weights and noise.

    Returns:
        Effective sample size, in [0, 1], and estimated integral, before and after.
    """
    family = FlowSampler(Banana(), batch_size=batch_size)
    generator = torch.Generator().manual_seed(seed)
    params = family.init_params({}, generator)
    # torch.optim.Adam(params.values(), lr=1e-2) could stand here.
    optimizer = LearnedOptimizer([value.requires_grad_() for value in params.values()], num_steps=steps)

    def measures() -> tuple[float, float]:
        log_weights = family.draw_log_weights(params, {}, torch.Generator().manual_seed(seed + 1))
        return float(effective_sample_size(log_weights)), float(log_normaliser(log_weights).exp())

    before = measures()
    for _ in range(steps):
        optimizer.zero_grad()
        family.loss(params, {}, family.sample_batch({}, generator)).backward()
        optimizer.step()
    return [before, measures()]


def main() -> None:
    for title, (sample_size, integral) in zip(("before", "after"), train(steps=1000), strict=True):
        print(f"{title:7} effective sample size {sample_size:.3f}, integral {integral:.4f} (truly {math.pi:.4f})")


if __name__ == "__main__":
    main()
