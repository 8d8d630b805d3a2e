"""Which layer is at fault where a module cannot be run, and the sentence that names it and what to use instead."""

import contextlib
import re
import traceback
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

CHECKPOINT = "torch.utils.checkpoint"

FOR_MANY = {
    "sparse": "must have dense gradients; got {layer}, use sparse=False",
    ".item()": "must not read the values of tensors in Python; got {layer}, use torch.where",
    "control flow": "must not branch on the values of tensors; got {layer}, use torch.where",
    "random": "must draw no random numbers but by nn.Dropout; got {layer}, use nn.Dropout, or noise as an input",
    "rrelu": "must draw no random numbers but by nn.Dropout; got {layer}, use nn.LeakyReLU or .eval()",
    "inplace": "must not write into a tensor in place; got {layer}, use torch.stack, torch.cat or torch.where",
    "dynamic shape": "must not have shapes that depend on values; got {layer}, use masks",
    "does not require grad": "must depend on its weights; got a loss that does not, in {layer}: do not detach",
    "derivative for": "must have second derivatives where they are asked for; got {layer}, use plain operations in it",
    CHECKPOINT: "must keep its activations; got " + CHECKPOINT + " at {layer}, leave it out: --gradient-checkpointing "
    "of l2l-opt meta-train saves memory instead",
    "setup_context": "must be of autograd.Functions that run for many students; got {layer}, give its Function a "
    "setup_context and generate_vmap_rule = True, or use plain operations",
}
OTHERWISE = "must be of operations that run for many students at once; got {layer}, use other ones"
"""PyTorch's message where a module cannot run for many students at once -> the rule that it breaks, and the fix."""

FOR_ONE = {
    "expected more than 1 value per channel": "batch norm must be given two examples or more; got {layer} with a "
    "batch of one, use a larger batch, or nn.LayerNorm or nn.GroupNorm",
    "expected more than 1 spatial element": "instance norm must be given two places or more; got {layer} with "
    "{inputs}, use nn.LayerNorm, or larger inputs",
    "index out of range": "an embedding must have a row for each index; got {layer} with indices {values}, use a "
    "larger num_embeddings",
    "dtype": "a layer must take the dtype that it is given; got {layer} with {inputs} of {dtype}, use .float(), or "
    ".long() for what an embedding reads",
}
"""Likewise where it cannot run at all."""

SIZES = {"in_features": -1, "in_channels": 1, "num_features": 1, "input_size": -1}
"""A layer's attribute -> the axis of its inputs whose size it is."""


class Calls:
    """What a module's layers were given and gave, in the order in which they ended.

    Attributes:
        module: the whole.
        outputs: layers that ran, with their outputs.
        running: those within which it is, with their inputs, the innermost last.
    """

    def __init__(self, module: nn.Module):
        self.module = module
        self.outputs: list[tuple[nn.Module, Any]] = []
        self.running: list[tuple[nn.Module, Any]] = []

    def _begin(self, part: nn.Module, inputs: Any) -> None:
        self.running.append((part, inputs))

    def _end(self, part: nn.Module, _: Any, output: Any) -> None:
        self.running.pop()
        self.outputs.append((part, output))

    @contextlib.contextmanager
    def recorded(self) -> Iterator["Calls"]:
        """Record calls, of the last pass of the module alone."""
        hooks: list[Any] = []
        for part in self.module.modules():
            hooks += [part.register_forward_pre_hook(self._begin), part.register_forward_hook(self._end)]
        hooks.append(self.module.register_forward_pre_hook(lambda *_: self.outputs.clear(), prepend=True))
        try:
            yield self
        finally:
            for hook in hooks:
                hook.remove()

    def source(self, value: Any) -> nn.Module:
        """The innermost layer that a value came out of; the module where it came out of none."""
        return next((part for part, output in self.outputs if output is value), self.module)

    def named(self, part: nn.Module) -> str:
        """A layer by name and class."""
        name = next(name for name, own in self.module.named_modules() if own is part)
        return f"{name!r} ({type(part).__name__})" if name else type(part).__name__

    @property
    def innermost(self) -> nn.Module:
        """The layer within which an error was raised; the module where that was outside of it."""
        return self.running[-1][0] if self.running else self.module


@contextlib.contextmanager
def faults_named(module: nn.Module) -> Iterator[Calls]:
    """Run a module and the loss of its outputs for one student.

    Raises:
        ValueError: instead of whatever they raise, by name of the layer.
    """
    calls = Calls(module)
    with calls.recorded(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield calls
        except torch.OutOfMemoryError:
            raise
        # A user's own layers raise whatever they like.
        except Exception as error:
            if _is_ours(error):
                raise
            raise ValueError(_in_layer(calls, error) if calls.running else _in_loss(calls, error)) from error


def _is_ours(error: BaseException) -> bool:
    """Whether an error is a sentence of this package already, and not torch's as a mode passed it through."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    in_package = str(frame.f_globals.get("__name__", "")).startswith("l2l_opt.")
    return in_package and frame.f_code.co_name != "__torch_function__"


def _in_layer(calls: Calls, error: BaseException) -> str:
    part, inputs = calls.running[-1]
    layer, words = calls.named(part), _first_line(error)
    if isinstance(error, (TypeError, AttributeError)) and inputs and not isinstance(inputs[0], Tensor):
        return (
            f"a layer must be given a tensor; got {_kind(inputs[0])} from {calls.named(calls.source(inputs[0]))} in "
            f"{layer}, use one of its elements, or return a tensor there"
        )
    tensors = [given for given in inputs if isinstance(given, Tensor)]
    found = _known(FOR_ONE, words)
    if found and tensors:
        first = tensors[0]
        values = f"from {first.min().item():g} to {first.max().item():g}" if first.numel() else "of none"
        dtype = str(first.dtype).removeprefix("torch.")
        return found.format(layer=layer, inputs=_shapes(tensors), values=values, dtype=dtype)
    return f"a layer must run on what it is given; got {layer} with {_shapes(tensors)}: {words}, {_fix(part, tensors)}"


def _fix(part: nn.Module, tensors: list[Tensor]) -> str:
    for key, axis in SIZES.items():
        size = getattr(part, key, None)
        if isinstance(size, int) and tensors and tensors[0].dim() > 1 and tensors[0].shape[axis] != size:
            return f"use {key}={tensors[0].shape[axis]} instead of {size}, or other inputs"
    return "change the layer or its inputs"


def _in_loss(calls: Calls, error: BaseException) -> str:
    words, output = _first_line(error), calls.outputs[-1][1] if calls.outputs else None
    layer = calls.named(calls.source(output))
    if not isinstance(output, Tensor):
        return (
            f"a student's forward must return what loss_fn takes; got {_kind(output)} from {layer}, return one "
            "tensor, or take it apart in loss_fn"
        )
    label = re.search(r"target (-?\d+) is out of bounds", words, re.IGNORECASE)
    if label:
        num_classes = output.shape[1 if output.dim() > 1 else 0]
        return (
            f"labels must be classes from 0 to {num_classes - 1}, since {layer} has {num_classes} outputs; got "
            f"{label[1]}, number them from 0, or give it as many outputs as there are classes"
        )
    return (
        f"loss_fn must take the outputs and targets of a batch; got outputs of {_shapes([output])} from {layer}: "
        f"{words}, change loss_fn, the last layer or the targets"
    )


def reason_for_many(error: BaseException) -> str:
    """What a module does that cannot run for many students at once, and the fix; with a place for ``{layer}``."""
    frames = (frame.f_code.co_filename.replace("\\", "/") for frame, _ in traceback.walk_tb(error.__traceback__))
    if any(name.endswith("torch/utils/checkpoint.py") for name in frames):
        return FOR_MANY[CHECKPOINT]
    return _known(FOR_MANY, _first_line(error)) or OTHERWISE


def _known(reasons: dict[str, str], words: str) -> str | None:
    return next((reasons[known] for known in reasons if known in words.lower()), None)


def _first_line(error: BaseException) -> str:
    words = (str(error).splitlines() or [""])[0].rstrip(".")
    return words if isinstance(error, (RuntimeError, ValueError)) and words else f"{type(error).__name__}: {words}"


def _kind(value: Any) -> str:
    if isinstance(value, (tuple, list, dict)):
        return f"a {type(value).__name__} of {len(tree_leaves(value))}"
    return "None" if value is None else f"type {type(value).__name__}"


def _shapes(tensors: list[Tensor]) -> str:
    return "shape " + " and ".join(str(tuple(each.shape)) for each in tensors) if tensors else "no tensor"
