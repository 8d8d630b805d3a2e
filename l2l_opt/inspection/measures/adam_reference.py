"""Where Adam would have gone on an optimizer's gradients, on a sample of each tensor's coordinates."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

BETA1, BETA2, EPS = 0.9, 0.999, 1e-8
"""torch.optim.Adam's defaults."""


class AdamReference:
    """Follows Adam's moments along another optimizer's run.

        m = .9 m + .1 g;   v = .999 v + .001 g^2;   direction = -m_hat / (sqrt(v_hat) + 1e-8)

    Given every gradient, this is Adam exactly. Given some stretches alone, with ``begin_stretch`` before each, m is
    that of the last stretch, corrected for its shortness, and v that of all gradients observed.

    Args:
        params: name -> parameter.
        coordinates: of each tensor, how many are followed, evenly spread.

    Source: arXiv 1412.6980, algorithm 1.
    """

    def __init__(self, params: Mapping[str, Tensor], *, coordinates: int):
        self.strides = {name: max(1, -(-p.numel() // coordinates)) for name, p in params.items()}
        self.moments: dict[str, Tensor] = {}
        self.steps = dict.fromkeys(params, 0)
        self.steps_of_stretch = dict.fromkeys(params, 0)
        self._together: tuple[tuple[str, ...], Tensor] | None = None

    def sample(self, name: str, tensor: Tensor) -> Tensor:
        """Return the coordinates of a tensor that are followed."""
        stride = self.strides[name]
        if tensor.is_contiguous():
            # One call where flatten and slice are two; this is paid at every step of the monitored run.
            return tensor.as_strided((-(-tensor.numel() // stride),), (stride,))
        return tensor.reshape(-1)[::stride]

    def begin_stretch(self) -> None:
        """Start means from zero, since some gradients have been missed; mean squares go on."""
        for name, (m, _) in self.moments.items():
            m.zero_()
            self.steps_of_stretch[name] = 0

    def observe(self, gradients: Mapping[str, Tensor]) -> None:
        """See the gradients of one step; tensors without one stay as they are."""
        names = tuple(gradients)
        if not names:
            return
        if self._together is None or self._together[0] != names:
            self._regroup(names, gradients)
        assert self._together is not None
        seen = torch.cat([self.sample(name, gradient) for name, gradient in gradients.items()])
        moments = self._together[1]
        moments[0].lerp_(seen, 1 - BETA1)
        moments[1].mul_(BETA2).addcmul_(seen, seen, value=1 - BETA2)
        for name in names:
            self.steps[name] += 1
            self.steps_of_stretch[name] += 1

    def direction(self, name: str) -> Tensor:
        """Adam's next update of the followed coordinates at a learning rate of one, after what it has seen: ``[n]``."""
        m, v = self.moments[name]
        m_hat, v_hat = m / (1 - BETA1 ** self.steps_of_stretch[name]), v / (1 - BETA2 ** self.steps[name])
        return -m_hat / (v_hat.sqrt() + EPS)

    def cosine(self, name: str, update: Tensor) -> Tensor:
        """Of an update of the whole tensor with Adam's, over the followed coordinates; NaN where one is nothing."""
        own, adam = self.sample(name, update), self.direction(name).to(update)
        norms = torch.linalg.vector_norm(own) * torch.linalg.vector_norm(adam)
        return torch.where(norms > 0, own @ adam / norms, torch.nan)

    def _regroup(self, names: Sequence[str], gradients: Mapping[str, Tensor]) -> None:
        """Lay the moments of these tensors beside one another, so that a step is a few operations for all of them."""
        lengths = []
        pieces = []
        for name in names:
            sampled = self.sample(name, gradients[name])
            fresh = sampled.new_zeros(2, sampled.numel())
            pieces.append(self.moments.get(name, fresh))
            lengths.append(sampled.numel())
        together = torch.cat(pieces, dim=1)
        # Other tensors keep memory of their own, since together's is about to be written.
        self.moments |= dict(zip(names, together.split(lengths, dim=1), strict=True))
        self._together = tuple(names), together
