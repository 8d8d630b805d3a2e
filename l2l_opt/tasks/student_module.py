"""A module as a student: a function of its weights that unrolls run for many students at once."""

import contextlib
import copy
import warnings
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.parameter import is_lazy

from l2l_opt.checks import DataNote, check_choices
from l2l_opt.memory import available_bytes, gibibytes, resident_bytes
from l2l_opt.tasks.substitutes import plain_attention, substitute
from l2l_opt.types import Params

Init = Literal["fresh", "module"]
INITS: tuple[Init, ...] = ("fresh", "module")
COPIES = 8
"""Of a module's weights, that it takes to make a student of it and to try it out."""
MANY_WEIGHTS = 50_000_000
"""From which on that takes a while, and is said."""


class StudentModule:
    """``outputs = module_theta(inputs)``, theta being the module's weights that require gradients.

    All its other weights and its buffers take part as constants. Layers that cannot run for many students at once get a
    forward of plain operations (``substitutes``).

    Args:
        module: its own weights are not touched.
        init: where students start: ``"fresh"``, weights drawn by ``init_fn``, or ``"module"``, the module's own.
        init_fn: ``init_fn(module)`` draws fresh weights in place with torch's global generator, which is seeded for
            the call; by default ``reset_parameters()`` of every submodule with weights to train.
        device: of the tensors.
        dtype: of weights and buffers.

    Attributes:
        module: the copy that runs.
        constants: frozen weights and buffers, by name.
        attends: whether it needs attention of plain operations, which ``check_student`` finds out.
        has_second_derivatives: whether ``check_second_derivatives`` has found it so.

    Raises:
        ValueError: a module without weights to train, or of which students cannot be made (``check_weights``); an
            ``init_fn`` beside ``init="module"``.
        TypeError: what is not an nn.Module.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        init: Init = "fresh",
        init_fn: Callable[[nn.Module], Any] | None = None,
        device: torch.device,
        dtype: torch.dtype,
    ):
        if not isinstance(module, nn.Module):
            raise TypeError(f"module must be an nn.Module; got {type(module).__name__}, use e.g. nn.Linear(10, 2)")
        check_weights(module, device=device, dtype=dtype)
        check_choices(INITS, init=init)
        if init == "module" and init_fn is not None:
            raise ValueError("init_fn must be None where students start from the module's weights; got one, remove it")
        self.module = copy.deepcopy(module).to(device=device, dtype=dtype)
        self.init: Init = init
        self.init_fn = reset_parameters if init_fn is None else init_fn
        self.device, self.attends, self.has_second_derivatives = device, False, False
        named = list(self.module.named_parameters())
        if not any(p.requires_grad for _, p in named):
            got = f"{len(named)} tensors, all frozen, use requires_grad_()" if named else "none, use e.g. nn.Linear"
            raise ValueError(f"a student must have weights to train; got {got}")
        frozen = {name: p.detach() for name, p in named if not p.requires_grad}
        self.constants: Params = dict(self.module.named_buffers()) | frozen
        self.current = substitute(self.module)

    @property
    def differs_in_training(self) -> bool:
        """Whether passes of training and evaluation differ, so that the first need a seed."""
        return self.current.differs

    def first_weights(self, generator: torch.Generator) -> Params:
        """Where one student starts."""
        if self.init == "module":
            return {name: p.detach().clone() for name, p in self.module.named_parameters() if p.requires_grad}
        return fresh_parameters(self.module, self.init_fn, generator, self.device)

    def __call__(
        self, params: Params, *inputs: Tensor, seed: Tensor | None = None, statistics: Params | None = None
    ) -> Any:
        """Outputs of one student.

        Args:
            params: its weights.
            inputs: the module's arguments.
            seed: of a pass of training; None for evaluation.
            statistics: the student's own running statistics, by name; the module's where None.
        """
        return self._run(params, inputs, seed, statistics)[0]

    def next_statistics(self, params: Params, *inputs: Tensor, seed: Tensor, statistics: Params) -> Params:
        """A student's running statistics after a pass of training."""
        return self._run(params, inputs, seed, statistics)[1]

    def _run(
        self, params: Params, inputs: tuple[Tensor, ...], seed: Tensor | None, statistics: Params | None
    ) -> tuple[Any, Params]:
        constants = self.constants | statistics if statistics else self.constants
        with plain_attention() if self.attends else contextlib.nullcontext(), self.current.seeded(seed):
            return functional_call(self.module, (params, constants), inputs), self.current.statistics


def check_weights(module: nn.Module, *, device: torch.device, dtype: torch.dtype) -> None:
    """Refuse what students cannot be made of, before it is copied; say so where trying it out takes a while.

    Raises:
        ValueError: TorchScript; weights that are complex, on the meta device or not initialised; more weights than can
            be tried out in the memory there is.
    """
    for name, part in module.named_modules():
        if isinstance(part, torch.jit.ScriptModule):
            raise ValueError(
                f"a student must be of plain modules; got TorchScript in {repr(name) if name else 'its root'}, "
                "pass the module that it was scripted or traced from"
            )
    count = 0
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if is_lazy(tensor) or tensor.is_meta:
            kind = "a lazy one without a shape" if is_lazy(tensor) else "one on the meta device"
            raise ValueError(
                f"a student's weights must have values; got {name!r}, {kind}, call the module on a batch first, or "
                "module.to_empty(device='cpu') and its reset_parameters()"
            )
        if tensor.is_complex():
            raise ValueError(
                f"a student's weights must be real; got {name!r} of {tensor.dtype}, use real ones, and torch.complex "
                "in the forward"
            )
        count += tensor.numel()
    needed, available = COPIES * count * dtype.itemsize, available_bytes(device)
    free = None if available is None else available - resident_bytes(device)
    if free is not None and needed > free:
        raise ValueError(
            f"a student must fit into memory {COPIES} times, as often as trying it out with two takes; got {count:,} "
            f"weights, which need {gibibytes(needed)}, with {gibibytes(free)} free, use a smaller module"
        )
    if count >= MANY_WEIGHTS:
        warnings.warn(
            f"a module of {count:,} weights is tried out with two students first, which takes a while and "
            f"{gibibytes(needed)}",
            DataNote,
            stacklevel=4,
        )


def fresh_parameters(
    module: nn.Module, init_fn: Callable[[nn.Module], Any], generator: torch.Generator, device: torch.device
) -> Params:
    """A module's weights that are trained, drawn anew by ``init_fn``; the module's own are not touched."""
    seed = int(torch.randint(2**63 - 1, (), generator=generator))
    template = copy.deepcopy(module).cpu()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        init_fn(template)
    return {name: param.detach().to(device) for name, param in template.named_parameters() if param.requires_grad}


def reset_parameters(module: nn.Module) -> None:
    """Draw the weights of every submodule anew by its own ``reset_parameters()``; what is frozen alone is left.

    Raises:
        ValueError: a submodule with weights that has none.
    """
    for name, part in module.named_modules():
        own = list(part.parameters(recurse=False))
        if own and not any(p.requires_grad for p in own):
            continue
        reset = getattr(part, "reset_parameters", None) or getattr(part, "_reset_parameters", None)
        if reset is not None:
            reset()
        elif own:
            raise ValueError(
                f"every submodule with weights must have reset_parameters(); got {name or 'the module'!r} "
                f"({type(part).__name__}), which has none: pass init_fn, or init='module' to start from its own"
            )
