"""Parts of an inner step of students of one architecture, compiled once and called at every step."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import grad_and_value, vmap
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from l2l_opt.rules.products import rounds_products
from l2l_opt.tasks.base import TaskFamily
from l2l_opt.types import Batch, Params, TaskData

MOST_FUNCTIONS = 256
"""That are kept; of more those that were called longest ago are compiled anew."""


class CompiledSteps:
    """Functions of students by Inductor, one for each of their subjects (a family, a rule) and set of shapes.

    A student's loss is a hundred small operators, and a rule's step several hundreds, whose calls cost more than what
    they compute; compiled they are a few loops. Compiling takes 5 to 90 seconds, so it pays where one architecture is
    trained for many steps. Numbers differ from those that are not compiled by rounding.

    Raises:
        ValueError: there is no compiler (a C++ compiler, or Triton on a GPU); later, what cannot be compiled.
    """

    def __init__(self) -> None:
        self._functions: dict[Hashable, tuple[object, _Compiled]] = {}
        try:
            torch.compile(torch.sin, fullgraph=True)(torch.ones(2))
        except Exception as error:
            raise ValueError(
                f"compiling needs a C++ compiler; got {_first_line(error)!r}, install e.g. g++, or do not compile"
            ) from error

    def losses_and_gradients(
        self, family: TaskFamily, params: Params, data: TaskData, batch: Batch
    ) -> tuple[Tensor, Params]:
        """Losses ``[S]`` and their gradients, ``[S, *param.shape]`` each, without a graph."""

        def function(params: Params, data: TaskData, batch: Batch) -> tuple[Tensor, Params]:
            gradients, losses = vmap(grad_and_value(family.loss))(params, data, batch)
            return losses, gradients

        with torch.no_grad():
            return self.call(family, "a task's loss", function, params, data, batch)

    def call(self, subject: object, what: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """Return what a function makes of trees of tensors, differentiable in them.

        Args:
            subject: what the function is of. It may depend on this and on its arguments alone; numbers that the subject
                holds are those of the first call.
            what: the function's name in an error.
            function: the function itself.
            arguments: trees of tensors.

        Raises:
            ValueError: it cannot be compiled.
        """
        leaves, structure = tree_flatten(tree_map(torch.Tensor.contiguous, arguments))
        # The subject is kept, so that no other one has its number for as long as its function is here.
        shapes = tuple((leaf.shape, leaf.dtype, leaf.device) for leaf in leaves)
        key = (id(subject), what, structure, shapes, rounds_products())
        found = self._functions.pop(key, None) or (subject, _Compiled(what, function, leaves, structure))
        self._functions[key] = found
        if len(self._functions) > MOST_FUNCTIONS:
            del self._functions[next(iter(self._functions))]
        results: Any = _Call.apply(found[1], *leaves)
        return tree_unflatten(list(results), found[1].result_structure)


class _Compiled:
    """One function for one set of shapes; its derivatives are compiled when they are first asked for.

    These run the function again, as a graph of their own: whatever it does with gradients, as ``torch.no_grad`` or an
    autograd function of its own, is heeded there, where a graph of the function alone would have lost it.
    """

    def __init__(self, what: str, function: Callable[..., Any], leaves: Sequence[Tensor], structure: Any):
        self.what, self.function, self.structure = what, function, structure
        self.result_structure: Any = None
        self.run: Any = self._compile(self._flat, leaves)
        self._derivatives: Any = None

    def _flat(self, *leaves: Tensor) -> list[Tensor]:
        results, self.result_structure = tree_flatten(self.function(*tree_unflatten(leaves, self.structure)))
        return results

    def derivatives(self, leaves: Sequence[Tensor], d_results: Sequence[Tensor]) -> list[Tensor]:
        """Return d of the floating leaves."""

        def flat(*tensors: Tensor) -> list[Tensor]:
            points = [
                own.detach().requires_grad_() if own.is_floating_point() else own for own in tensors[: len(leaves)]
            ]
            with torch.enable_grad():
                results = self._flat(*points)
            pairs = zip(results, tensors[len(leaves) :], strict=True)
            ours, theirs = zip(*(pair for pair in pairs if pair[0].requires_grad), strict=True)
            wanted = [point for point in points if point.requires_grad]
            return list(torch.autograd.grad(ours, wanted, theirs, allow_unused=True, materialize_grads=True))

        tensors = [*leaves, *(value.contiguous() for value in d_results)]
        if self._derivatives is None:
            self._derivatives = self._compile(flat, tensors)
        return self._derivatives(*tensors)

    def _compile(self, flat: Callable[..., list[Tensor]], leaves: Sequence[Tensor]) -> Any:
        # Here, since importing the compiler takes longer than all else, and most runs do not compile.
        from torch._inductor import compile as inductor_compile
        from torch.fx.experimental.proxy_tensor import make_fx

        try:
            with torch.no_grad():
                examples: list[Any] = [leaf.detach() for leaf in leaves]
                graph = make_fx(flat, tracing_mode="fake", _allow_non_fake_inputs=True)(*examples)
                return inductor_compile(graph, examples)
        except Exception as error:
            raise ValueError(
                f"{self.what} must be of operators that torch.compile takes; got {_first_line(error)!r}, do not compile"
            ) from error


class _Call(torch.autograd.Function):
    """A compiled function and its derivatives."""

    @staticmethod
    def forward(ctx: Any, compiled: _Compiled, *leaves: Tensor) -> tuple[Tensor, ...]:
        ctx.compiled = compiled
        ctx.save_for_backward(*leaves)
        given = set(map(id, leaves))
        return tuple(value.clone() if id(value) in given else value for value in compiled.run(*leaves))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *d_results: Tensor
    ) -> tuple[Tensor | None, ...]:
        leaves: tuple[Tensor, ...] = ctx.saved_tensors
        found = iter(ctx.compiled.derivatives(leaves, d_results))
        return None, *(next(found) if leaf.is_floating_point() else None for leaf in leaves)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
