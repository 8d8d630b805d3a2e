"""Parts of an inner step of students of one architecture, compiled once and called at every step."""

from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor
from torch._inductor import compile as inductor_compile
from torch.func import grad_and_value, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from l2l_opt.tasks.base import TaskFamily
from l2l_opt.types import Batch, Params, TaskData


class CompiledSteps:
    """Functions of students by torch.compile, one for each of their subjects (a family, a rule) and set of shapes.

    A student's loss is a hundred small operators, and a rule's step several hundreds, whose calls cost more than what
    they compute; compiled they are a few loops. Compiling takes 10 to 90 seconds, so it pays where one architecture is
    trained for many steps. Numbers differ from those that are not compiled by rounding.

    Raises:
        ValueError: there is no compiler (a C++ compiler, or Triton on a GPU); later, what cannot be compiled.
    """

    def __init__(self) -> None:
        self._functions: dict[Hashable, tuple[object, Callable[..., Any]]] = {}
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
        """Return what a function makes of trees of tensors; differentiable where gradients are enabled.

        Args:
            subject: what the function is of, which must be all that it depends on beside its arguments.
            what: it is, in an error.
            function: that is called.
            arguments: of it.

        Raises:
            ValueError: it cannot be compiled.
        """
        leaves, structure = tree_flatten(tree_map(torch.Tensor.contiguous, arguments))
        if torch.is_grad_enabled() and any(leaf.requires_grad for leaf in leaves):
            # The first step of a window begins at what is not differentiated, and would be compiled by itself.
            leaves = [
                leaf if leaf.requires_grad or not leaf.is_floating_point() else leaf.detach().requires_grad_()
                for leaf in leaves
            ]
        # The subject is kept, so that no other one has its number for as long as its function is here.
        key = (
            id(subject),
            what,
            structure,
            tuple((leaf.shape, leaf.dtype, leaf.device, leaf.requires_grad) for leaf in leaves),
            torch.is_grad_enabled(),
        )
        if key not in self._functions:
            self._functions[key] = subject, _compiled(what, function, leaves, structure)
        return self._functions[key][1](*leaves)


def _compiled(what: str, function: Callable[..., Any], leaves: list[Tensor], structure: Any) -> Callable[..., Any]:
    """Compile a function for one set of shapes: of leaves, to a tree."""
    result_structure: Any = None

    def flat(*leaves: Tensor) -> list[Tensor]:
        nonlocal result_structure
        results, result_structure = tree_flatten(function(*tree_unflatten(leaves, structure)))
        return results

    try:
        with torch.no_grad():
            graph = make_fx(flat)(*(leaf.detach() for leaf in leaves))
        examples: list[Any] = [leaf.detach().requires_grad_(leaf.requires_grad) for leaf in leaves]
        run: Any = inductor_compile(graph, examples)
    except Exception as error:
        raise ValueError(
            f"{what} must be of operators that torch.compile takes; got {_first_line(error)!r}, do not compile"
        ) from error
    return lambda *leaves: tree_unflatten(run(*leaves), result_structure)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
