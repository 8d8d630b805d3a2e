"""What is measured of one tensor in one step; everything that TensorBoard draws of it is defined here."""

import torch
from torch import Tensor

TENSOR_QUANTITIES = (
    "gradient_rms",
    "update_rms",
    "update_over_parameter",
    "cosine_with_descent",
    "effective_lr",
)


def tensor_quantities(gradient: Tensor, update: Tensor, param: Tensor) -> Tensor:
    """Of a gradient g, an update u and the parameter p before it, all of one shape, the five ``TENSOR_QUANTITIES``.

        gradient_rms           sqrt(mean g^2)
        update_rms             sqrt(mean u^2)
        update_over_parameter  rms(u) / rms(p)
        cosine_with_descent    -<g, u> / (|g| |u|): 1 along steepest descent, 0 across, below 0 uphill
        effective_lr           -<g, u> / <g, g>: the learning rate with which SGD's step comes nearest to u

    Quotients by nothing are NaN.

    Returns:
        ``[5]``.
    """
    g, u, p = (
        value.detach().flatten().to(torch.promote_types(value.dtype, torch.float32))
        for value in (gradient, update, param)
    )
    gg, uu, pp, gu = g @ g, u @ u, p @ p, g @ u
    root = gradient.numel() ** 0.5
    norms = torch.stack([gg, uu]).sqrt()
    nothing = torch.full_like(gg, torch.nan)
    return torch.stack(
        [
            *(norms / max(root, 1.0)),
            torch.where(pp > 0, norms[1] / pp.sqrt(), nothing),
            torch.where((gg > 0) & (uu > 0), -gu / (norms[0] * norms[1]), nothing),
            torch.where(gg > 0, -gu / gg, nothing),
        ]
    )


STATE_QUANTITIES = ("mean", "rms", "max")


def state_quantities(value: Tensor) -> Tensor:
    """Mean, root mean square and largest magnitude of a recurrent state of any shape: ``[3]``."""
    value = value.detach().flatten().to(torch.promote_types(value.dtype, torch.float32))
    if not value.numel():
        return value.new_zeros(3)
    return torch.stack([value.mean(), (value @ value / value.numel()).sqrt(), value.abs().amax()])
