"""The whole step of an optimizer on a GPU, in place, in a number of launches that does not grow with its tensors.

Triton is imported with the first step there: elsewhere, and where it is not installed, nothing needs it.
"""

import importlib.util
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from l2l_opt.kernels.compiled_step import RECURRENT, CompiledStep
from l2l_opt.kernels.native_perceptron import CompiledPerceptron
from l2l_opt.kernels.spread import Spread

if TYPE_CHECKING:
    from l2l_opt.kernels.triton.device_step import DeviceStep

DEVICES = {"cuda"}
"""Types of devices that kernels here step on; tests add others: the CPU, where Triton's interpreter runs them,
and meta, where they are counted."""
KINDS = {"log_sign", "ratios", "scale_free"}
"""Of rules, by ``CompiledStep.kind``."""
MOST_UNITS = 16
"""Of scale-free's coordinates, all of which one thread keeps; with more it is stepped by its forward pass."""
PERCEPTRONS = {"mlp", "celo2"}
"""Of rules, by ``CompiledPerceptron.kind``."""
MOST_PERCEPTRON_UNITS, MOST_PERCEPTRON_LAYERS = 32, 4
"""Of a perceptron's hidden layers, and these, as for ``MOST_UNITS``."""
PARAM_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
STATE_DTYPES = (torch.float32, torch.bfloat16)


def describe() -> str:
    """One line for people: what computes the rules' step on a GPU, and why."""
    if importlib.util.find_spec("triton") is None:
        return "PyTorch (triton is not installed: pip install triton)"
    import triton

    return f"Triton {triton.__version__}"


def computes(compiled: object, device: torch.device, *, is_divided: bool = False) -> bool:
    """Whether there are kernels here for a rule on a device; tensors divided over devices are beyond a perceptron's."""
    known = _computes_recurrent(compiled) or (_computes_perceptron(compiled) and not is_divided)
    if not known or device.type not in DEVICES:
        return False
    if device.type != "cuda":
        return True
    from torch.utils._triton import has_triton

    return has_triton()


def _computes_recurrent(compiled: object) -> bool:
    if not isinstance(compiled, CompiledStep) or compiled.kind not in KINDS:
        return False
    return compiled.kind != "scale_free" or compiled.weights[-1].shape[-1] <= MOST_UNITS


def _computes_perceptron(compiled: object) -> bool:
    if not isinstance(compiled, CompiledPerceptron) or compiled.kind not in PERCEPTRONS:
        return False
    units, layers = compiled.weights[0].shape[0], len(compiled.weights) // 2 - 1
    return units <= MOST_PERCEPTRON_UNITS and layers <= MOST_PERCEPTRON_LAYERS


def is_captured(device: torch.device) -> bool:
    """Whether what is launched on a device now becomes part of a CUDA graph, to be replayed as it is."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def serves(rule: CompiledStep | CompiledPerceptron, param: Tensor, grad: Tensor, state: dict[str, Tensor]) -> bool:
    """Whether kernels here can take this parameter: plain and contiguous, its state in float32 or bfloat16.

    A perceptron's is in float32.
    """
    names = (RECURRENT, rule.moments or () if isinstance(rule, CompiledStep) else ())
    recurrent, moments = ([state[key] for key in keys if key in state] for keys in names)
    others = [value for key, value in state.items() if not any(key in keys for keys in names)]
    return (
        type(param) in (Tensor, torch.nn.Parameter)
        and type(grad) is Tensor
        and param.dtype == grad.dtype
        and param.dtype in PARAM_DTYPES
        and all(len({value.dtype for value in kept}) <= 1 for kept in (recurrent, moments))
        and all(value.dtype in STATE_DTYPES for value in (*recurrent, *moments))
        and all(value.dtype == torch.float32 for value in others)
        and all(
            value.device == param.device and value.is_contiguous()
            for value in (param, grad, *recurrent, *moments, *others)
        )
    )


class MixedStep:
    """A step in place of tensors that ``serves`` accepts: those of one dtype together, one group after the other.

    Args:
        rule: what to compute.
        params: the parameters, which a step changes.
        states: their states, with ``skipped``, the steps that were left out; a step changes all of it.
        num_steps: planned steps; None where unknown.
        spread: how tensors are divided over devices, which then all take part in each step; None where each lies here
            alone.
    """

    def __init__(
        self,
        rule: CompiledStep | CompiledPerceptron,
        params: Sequence[Tensor],
        states: Sequence[dict[str, Tensor]],
        *,
        num_steps: int | None,
        spread: Spread | None = None,
    ):
        places: dict[tuple[torch.dtype, ...], list[int]] = {}
        keys = ("hidden", *(rule.moments or ()))
        for index, (param, state) in enumerate(zip(params, states, strict=True)):
            dtypes = (state[key].dtype for key in keys if key in state)
            places.setdefault((param.dtype, *dtypes), []).append(index)
        self.parts: list[tuple[list[int], DeviceStep]] = []
        for own in places.values():
            lying, kept = [params[index] for index in own], [states[index] for index in own]
            step = _step_of(rule, lying, kept, num_steps, None if spread is None else spread.of(own))
            self.parts.append((own, step))

    def tables(self) -> list[Any]:
        """Return where the gradients' addresses lie, which are others once gradients are."""
        return [step.tensors for _, step in self.parts]

    def __call__(self, grads: Sequence[Tensor], **options: Any) -> list[int]:
        """Take a step, as ``PreparedStep``; what is left out is counted on the device, so nothing is returned of it."""
        for places, step in self.parts:
            step([grads[index] for index in places], **options)
        return []


def _step_of(
    rule: CompiledStep | CompiledPerceptron,
    params: Sequence[Tensor],
    states: Sequence[dict[str, Tensor]],
    num_steps: int | None,
    spread: Spread | None,
) -> "DeviceStep":
    if isinstance(rule, CompiledPerceptron):
        from l2l_opt.kernels.triton.perceptron_step import PerceptronStep

        return PerceptronStep(rule, params, states, num_steps)
    if rule.kind == "scale_free":
        from l2l_opt.kernels.triton.scale_free_step import ScaleFreeStep

        return ScaleFreeStep(rule, params, states, num_steps, spread)
    from l2l_opt.kernels.triton.recurrent_step import RecurrentStep

    return RecurrentStep(rule, params, states, spread)
