"""What students are built of: activations, normalisations, ways to draw first weights, stacks of layers."""

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Annotated

import torch
from torch import Tensor, nn

from l2l_opt.checks import check_choices, check_fractions, check_positive_integers
from l2l_opt.tasks.student_module import reset_parameters

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "sigmoid": nn.Sigmoid,
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "elu": nn.ELU,
    "silu": nn.SiLU,
}
Activation = Annotated[str, partial(check_choices, ACTIVATIONS)]
"""Of an option: one of these, as of the annotations below."""

NORMS: dict[str, Callable[[int], nn.Module] | None] = {
    "none": None,
    "layer": nn.LayerNorm,
    "batch": lambda units: nn.BatchNorm1d(units, track_running_stats=False),
    "rms": lambda units: nn.RMSNorm(units, eps=1e-6),
}
"""Of ``[batch, units]``; batch norm uses the statistics of the batch at hand, in training and in tests."""


def perceptron(
    widths: list[int],
    *,
    activation: str = "relu",
    norm: str = "none",
    activate_last: bool = False,
    dropout: float = 0.0,
) -> list[nn.Module]:
    """The layers of a multilayer perceptron: linear, norm, activation, dropout; the last linear alone.

    Args:
        widths: units from the inputs to the outputs, two at least.
        activation: sigmoid, relu, tanh, gelu, elu or silu.
        norm: none, layer, batch or rms.
        activate_last: norm and activation after the last linear layer too.
        dropout: the share of each hidden layer's outputs that a training batch goes without; 0 for no such layer.

    Raises:
        ValueError: a width that is not a positive integer, an unknown activation or norm, a share outside [0, 1).
    """
    check_fractions(0.1, dropout=dropout)
    check_positive_integers(**{f"widths[{place}]": width for place, width in enumerate(widths)})
    check_choices(ACTIVATIONS, activation=activation)
    check_choices(NORMS, norm=norm)
    normalise = NORMS[norm]
    modules: list[nn.Module] = []
    for layer, (num_inputs, num_outputs) in enumerate(pairwise(widths)):
        modules.append(nn.Linear(num_inputs, num_outputs))
        if layer < len(widths) - 2 or activate_last:
            modules += ([] if normalise is None else [normalise(num_outputs)]) + [ACTIVATIONS[activation]()]
            modules += [nn.Dropout(dropout)] if dropout else []
    return modules


class Residual(nn.Module):
    """``x + branch(x)``."""

    def __init__(self, *branch: nn.Module):
        super().__init__()
        self.branch = nn.Sequential(*branch)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


class Averaged(nn.Module):
    """The mean over the axis before the last."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(-2)


def _of_weights(draw: Callable[[Tensor], Tensor]) -> Callable[[nn.Module], None]:
    """Draw the matrices and kernels of linear and convolution layers anew; their biases are zero."""

    def init(module: nn.Module) -> None:
        reset_parameters(module)
        for part in module.modules():
            if isinstance(part, (nn.Linear, nn.Conv1d, nn.Conv2d)):
                draw(part.weight)
                if part.bias is not None:
                    nn.init.zeros_(part.bias)

    return init


INITS: dict[str, Callable[[nn.Module], None]] = {
    "default": reset_parameters,
    "zero-bias": _of_weights(lambda weight: weight),
    "xavier": _of_weights(nn.init.xavier_uniform_),
    "he": _of_weights(lambda weight: nn.init.kaiming_normal_(weight, nonlinearity="relu")),
    "orthogonal": _of_weights(lambda weight: nn.init.orthogonal_(weight, gain=2**0.5)),
    "small": _of_weights(lambda weight: nn.init.trunc_normal_(weight, std=0.01, a=-0.02, b=0.02)),
}
Init = Annotated[str, partial(check_choices, INITS)]
"""How first weights are drawn: PyTorch's own way, that with zero biases, or a scheme with zero biases.

Source: xavier: Glorot and Bengio, 2010; he: arXiv 1502.01852; orthogonal: arXiv 1312.6120; small: the code of arXiv
1703.03400.
"""


def squared_error_of_classes(outputs: Tensor, classes: Tensor) -> Tensor:
    """``sum over classes (outputs - one_hot(classes))^2``, mean over examples."""
    wanted = torch.nn.functional.one_hot(classes, outputs.shape[-1]).to(outputs.dtype)
    return (outputs - wanted).square().sum(-1).mean()


def smoothed_cross_entropy(outputs: Tensor, classes: Tensor) -> Tensor:
    """Cross-entropy with a tenth of the probability spread over all classes."""
    return nn.functional.cross_entropy(outputs, classes, label_smoothing=0.1)


CLASS_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross-entropy": nn.functional.cross_entropy,
    "smoothed": smoothed_cross_entropy,
    "squared": squared_error_of_classes,
}
ClassLoss = Annotated[str, partial(check_choices, CLASS_LOSSES)]
