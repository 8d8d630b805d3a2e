"""What an inner step of meta-training would launch on a GPU, counted without one.

    python -m scripts.experiments.benchmarks.unroll_launches

Of 64 students of a perceptron, in windows of 20 steps. As operators one by one they are counted on the meta device.
Compiled (``--compile``), they are the kernels that Inductor makes for a CPU without our own, and products that it
leaves to libraries; for a GPU it may make some more or fewer. Writes results/benchmarks/unroll-launches.json.
"""

import copy
import json
from collections.abc import Callable
from typing import Any
from unittest import mock

import click
import torch
from torch import Tensor
from torch._inductor import metrics
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from l2l_opt.inner_loop.compiled import CompiledSteps
from l2l_opt.inner_loop.horizon import Horizon
from l2l_opt.inner_loop.student import Window
from l2l_opt.inner_loop.students import Students
from l2l_opt.inner_loop.unroll import unroll
from l2l_opt.kernels import native
from l2l_opt.randomness import Stream
from l2l_opt.rules import UpdateRule, make_rule
from l2l_opt.tasks.base import TaskFamily, make_task
from scripts.experiments import records

TASK, STUDENTS, STEPS = "digits-mlp", 64, 20
CASES = (("lstm", "tbptt"), ("scale-free", "tbptt"), ("scale-free", "nres"))


class Launches(TorchDispatchMode):
    """Count operations on tensors of a device, copies to it, and waits for it."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device = device
        self.launches = self.copies = self.waits = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        tensors = [value for value in tree_leaves((args, kwargs, result)) if isinstance(value, Tensor)]
        name = func._schema.name.split("::")[1]
        if not any(tensor.device.type == self.device for tensor in tensors):
            return result
        if name == "_local_scalar_dense":
            self.waits += 1
        elif name in ("_to_copy", "copy_") and len({tensor.device.type for tensor in tensors}) > 1:
            self.copies += 1
        elif not func.is_view and not name.startswith(("empty", "new_empty", "detach", "_unsafe_view")):
            self.launches += 1
        return result


def on_meta(family: TaskFamily) -> TaskFamily:
    """A family of images whose examples and students lie on the meta device; its first weights are drawn elsewhere."""
    own: Any = copy.copy(family)
    own.device = torch.device("meta")
    own.student, own.examples = copy.copy(own.student), copy.copy(own.examples)
    own.student.device = own.device
    for key, value in vars(own.examples).items():
        if isinstance(value, tuple):
            value = tuple(part.to(own.device) if isinstance(part, Tensor) else part for part in value)
        object.__setattr__(own.examples, key, value.to(own.device) if isinstance(value, Tensor) else value)
    return own


Draw, Run = Callable[[], Window], Callable[[Window], None]


def window(rule: UpdateRule, family: TaskFamily, name: str, compiled: CompiledSteps | None) -> tuple[Draw, Run]:
    """Return what draws a window of all students, and what runs it and differentiates it where the estimator does."""
    students = Students(
        rule,
        family,
        numbers=range(STUDENTS),
        horizon=Horizon.parse(5 * STEPS, truncation_length=STEPS),
        seed=0,
        stream=Stream.META_TRAINING,
    )

    def run(own: Window) -> None:
        with torch.set_grad_enabled(name == "tbptt"):
            inner, losses = unroll(rule, own.family, own.data, own.inner, own.batches, compiled=compiled)
            if losses.requires_grad:
                torch.autograd.grad(losses[1:].mean(), list(rule.parameters()), allow_unused=True)
            students.advance(own, inner, losses)

    return lambda: next(students.windows(STEPS)), run


def one_by_one(spec: str, name: str) -> dict[str, float]:
    """Count operators of a window, a step."""
    draw, run = window(make_rule(spec).to("meta"), on_meta(make_task(TASK)), name, None)
    with Launches("meta") as drawing:
        drawn = draw()
    with Launches("meta") as found:
        run(drawn)
    found.copies += drawing.copies
    return {key: getattr(found, key) / STEPS for key in ("launches", "copies", "waits")}


def compiled(spec: str, name: str) -> dict[str, float]:
    """Count kernels of a window's compiled functions, which each step calls once, and operators around them."""
    draw, run = window(make_rule(spec), make_task(TASK), name, CompiledSteps())
    metrics.reset()
    run(draw())
    drawn = draw()
    with Launches("cpu") as found:
        run(drawn)
    return {
        "kernels": metrics.generated_kernel_count,
        "launches": metrics.generated_kernel_count + found.launches / STEPS,
    }


@click.command()
def main() -> None:
    """Count, and write the JSON."""
    rows: list[dict[str, Any]] = []
    for spec, name in CASES:
        with mock.patch.object(native, "library", None):
            row = {
                "rule": spec,
                "estimator": name,
                "one by one": one_by_one(spec, name),
                "compiled": compiled(spec, name),
            }
        click.echo(json.dumps(row))
        rows.append(row)
    content = {"task": TASK, "students": STUDENTS, "steps of a window": STEPS, "an inner step": rows}
    records.write(records.RESULTS / "benchmarks" / "unroll-launches.json", content)


if __name__ == "__main__":
    main()
