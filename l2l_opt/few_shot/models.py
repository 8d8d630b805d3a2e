"""Students of few-shot learning by name: ``mlp:hidden=256x128,norm=batch``."""

from collections.abc import Callable

import torch
from torch import nn

from l2l_opt.checks import check_choices, check_positive_integers
from l2l_opt.registry import Registry, parse_spec
from l2l_opt.tasks.layers.basic import NORMS, perceptron

MODELS: Registry[nn.Module] = Registry("model", beside=("input_shape", "num_outputs"))
"""Factories that take ``input_shape`` and ``num_outputs``; options follow."""


def register_model(name: str) -> Callable[[Callable[..., nn.Module]], Callable[..., nn.Module]]:
    """Decorator that enters a model under ``name``: a function of ``input_shape``, ``num_outputs`` and options.

    Raises:
        ValueError: the name is taken.
    """

    def enter(factory: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
        MODELS.register(name, factory)
        return factory

    return enter


def make_model(spec: str, *, input_shape: tuple[int, ...], num_outputs: int) -> nn.Module:
    """A fresh model from ``name`` or ``name:option=value,...``; weights that it draws and freezes are always the same.

    Raises:
        ValueError: unknown model, unknown option or bad value.
    """
    name, options = parse_spec(spec)
    MODELS.check_names(name, options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = MODELS.make(name, **{**options, "input_shape": input_shape, "num_outputs": num_outputs})
    if not isinstance(model, nn.Module):
        raise ValueError(
            f"a registered model must return an nn.Module; got {type(model).__name__} from {name!r}, return the module"
        )
    return model


def read_widths(text: str | int) -> list[int]:
    """``"256x128x64"`` as a list of layer widths.

    Raises:
        ValueError: not positive integers joined by x.
    """
    parts = str(text).split("x")
    if not all(part.isdigit() and int(part) > 0 for part in parts):
        raise ValueError(f"widths of layers must be positive integers joined by x; got {text!r}, use e.g. 256x128")
    return [int(part) for part in parts]


@register_model("mlp")
def mlp(
    *,
    input_shape: tuple[int, ...],
    num_outputs: int,
    hidden: str | int = "40x40",
    activation: str = "relu",
    norm: str = "none",
) -> nn.Module:
    """Multilayer perceptron.

    Args:
        input_shape: of one example.
        num_outputs: units of the last layer.
        hidden: widths of the hidden layers, joined by x.
        activation: sigmoid, relu, tanh, gelu, elu or silu.
        norm: none, layer, batch or rms, before each activation.

    Raises:
        ValueError: a width that is not a positive integer, an unknown word.

    Source: the one for Omniglot, 256x128x64x64 with batch norm: arXiv 1703.03400, section 5.2.
    """
    widths = [torch.Size(input_shape).numel(), *read_widths(hidden), num_outputs]
    return nn.Sequential(nn.Flatten(), *perceptron(widths, activation=activation, norm=norm))


@register_model("conv")
def conv(
    *,
    input_shape: tuple[int, ...],
    num_outputs: int,
    channels: int = 64,
    layers: int = 4,
    norm: str = "batch",
) -> nn.Module:
    """Convolutions of 3 x 3 with stride 2, then the mean over places.

    Args:
        input_shape: ``(height, width)`` or ``(channels, height, width)``.
        num_outputs: units of the last layer.
        channels: of each convolution.
        layers: convolutions.
        norm: batch or none.

    Raises:
        ValueError: a size that is not a positive integer, an unknown norm, inputs that are not images.

    Source: arXiv 1703.03400, section 5.2.
    """
    check_positive_integers(channels=channels, layers=layers)
    check_choices({name: None for name in NORMS if name in ("none", "batch")}, norm=norm)
    if len(input_shape) not in (2, 3):
        raise ValueError(f"convolutions need images; got examples of shape {input_shape}, use mlp")
    parts: list[nn.Module] = [] if len(input_shape) == 3 else [nn.Unflatten(1, (1, input_shape[0]))]
    before = input_shape[0] if len(input_shape) == 3 else 1
    for _ in range(layers):
        parts.append(nn.Conv2d(before, channels, 3, stride=2, padding=1))
        parts += ([nn.BatchNorm2d(channels, track_running_stats=False)] if norm == "batch" else []) + [nn.ReLU()]
        before = channels
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_outputs))
