"""Losses and gradients of students of one architecture, compiled once and called at every inner step."""

from typing import Any

import torch
from torch import Tensor
from torch.func import grad_and_value, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_flatten, tree_unflatten

from l2l_opt.tasks.base import TaskFamily
from l2l_opt.types import Batch, Params, TaskData


class CompiledLosses:
    """``vmap(grad_and_value(loss))`` by torch.compile, a function for each family and set of shapes.

    A student is a hundred small operators, whose calls cost more than what they compute; compiled they are a few loops.
    Compiling takes 10 to 90 seconds, so it pays where one architecture is trained for many steps. Losses differ from
    those that are not compiled by rounding.

    Raises:
        ValueError: there is no compiler (a C++ compiler, or Triton on a GPU); later, a loss that cannot be compiled.
    """

    def __init__(self) -> None:
        self._functions: dict[Any, Any] = {}
        try:
            torch.compile(torch.sin, fullgraph=True)(torch.ones(2))
        except Exception as error:
            raise ValueError(
                f"compiling needs a C++ compiler; got {_first_line(error)!r}, install e.g. g++, or do not compile"
            ) from error

    def __call__(self, family: TaskFamily, params: Params, data: TaskData, batch: Batch) -> tuple[Tensor, Params]:
        """Losses ``[S]`` and their gradients, ``[S, *param.shape]`` each, without a graph."""
        leaves, structure = tree_flatten((params, data, batch))
        leaves = [leaf.detach() for leaf in leaves]
        # The family itself is kept, so that no other one has its number for as long as its function is here.
        key = (id(family), structure, tuple((leaf.shape, leaf.dtype, leaf.device) for leaf in leaves))
        with torch.no_grad():
            if key not in self._functions:
                self._functions[key] = family, _compiled(family, leaves, structure)
            losses, *gradients = self._functions[key][1](*leaves)
        return losses, dict(zip(params, gradients, strict=True))


def _compiled(family: TaskFamily, leaves: list[Tensor], structure: Any) -> Any:
    def losses_and_gradients(*leaves: Tensor) -> list[Tensor]:
        gradients, losses = vmap(grad_and_value(family.loss))(*tree_unflatten(leaves, structure))
        return [losses, *gradients.values()]

    try:
        function = torch.compile(make_fx(losses_and_gradients)(*leaves), dynamic=False, fullgraph=True)
        function(*leaves)
    except Exception as error:
        raise ValueError(
            f"a task's loss must be of operators that torch.compile takes; got {_first_line(error)!r}, do not compile"
        ) from error
    return function


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
