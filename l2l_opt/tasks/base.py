"""The contract of a task family, and the registry of tasks."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, Literal, Protocol, TypeVar, cast, runtime_checkable

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from l2l_opt.checks import check_options, refuse_exits
from l2l_opt.registry import Registry, parse_spec
from l2l_opt.tasks.probe import take_step
from l2l_opt.types import Batch, Params, TaskData

Split = Literal["train", "test"]


@runtime_checkable
class TaskFamily(Protocol):
    """Draw tasks from a distribution; implement it for a kind of task of one's own.

    It is static code for one architecture, written for one student; what varies between students is data. All
    randomness comes from the (CPU) generator that is passed in; tensors are returned on the family's own device, those
    of batches by ``drawing.placed`` if many are to go to a GPU in one copy.

    Three more methods are optional. ``update_data(params, data, batch) -> data`` is called after a step on a training
    batch, with the params before it: what a student keeps beside its weights, as batch norm's running statistics, which
    later test batches are evaluated with. It has the same keys, shapes and dtypes, and losses on training batches must
    not depend on it. ``check_second_derivatives()`` raises a ValueError where the loss has none.
    ``accuracy(params, data, batch)`` is a share in 0 to 1, 0-dim, NaN where there are no classes.
    """

    def sample(self, generator: torch.Generator) -> TaskData:
        """Draw what is particular to one student: a dict of tensors, empty where students differ by init only."""
        ...

    def init_params(self, data: TaskData, generator: torch.Generator) -> Params:
        """Draw fresh weights for one student: parameter name -> tensor."""
        ...

    def sample_batch(self, data: TaskData, generator: torch.Generator, split: Split = "train") -> Batch:
        """Draw one batch: a pytree of tensors, perhaps indices that ``loss`` gathers."""
        ...

    def loss(self, params: Params, data: TaskData, batch: Batch) -> Tensor:
        """The student's loss: a deterministic scalar, differentiable in params."""
        ...


def updated_data(family: TaskFamily, params: Params, data: TaskData, batch: Batch) -> TaskData:
    """What a student's data are after a step on a batch, for loops over single students; mostly the same."""
    update = getattr(family, "update_data", None)
    if update is None:
        return data
    with torch.no_grad():
        return update(params, data, batch)


def check_second_derivatives(family: TaskFamily) -> None:
    """Let a family that has a method of this name refuse second derivatives, before they are asked of it.

    Raises:
        ValueError: it has none.
    """
    getattr(family, "check_second_derivatives", lambda: None)()


TASKS: Registry[TaskFamily] = Registry("task", beside=("device", "dtype"))

Factory = TypeVar("Factory", bound=Callable[..., Any])


def register_task(name: str) -> Callable[[Factory], Factory]:
    """Enter a task family (a class, or a function that returns one) in the registry under ``name``; a decorator.

    Its keyword arguments become options of ``--task name:option=value``. If ``device`` and ``dtype`` are among them,
    the run's own are passed in.

    Example:
        >>> @register_task("my-task")
        ... def my_task(*, hidden: int = 20, device="cpu", dtype=torch.float32) -> TaskFamily: ...

    Raises:
        ValueError: the name is taken.
    """

    def enter(factory: Factory) -> Factory:
        TASKS.register(name, factory)
        return factory

    return enter


Build = TypeVar("Build", bound=Callable[..., Callable[..., TaskFamily]])


def register_module_task(
    name: str, *bound: Any, batch_size: int, summary: str | None = None, **defaults: Any
) -> Callable[[Build], Build]:
    """Decorator that enters a function of options under ``name``; batch_size, device and dtype become options of it.

    The function returns a family that lacks these three, e.g. ``partial(ModuleTask, module, loss_fn, examples)``.
    Options are checked by their annotations (``checks.check_options``) before it is called. It may be entered under
    several names.

    Args:
        name: in the registry.
        bound: the function's positional arguments, which are no options.
        batch_size: its default.
        summary: the line that ``l2l-opt list tasks`` shows; the function's own where None.
        defaults: of options, where they differ from the function's.

    Raises:
        ValueError: the name is taken.
    """

    def enter(build: Build) -> Build:
        def factory(
            *,
            batch_size: int = batch_size,
            device: torch.device | str = "cpu",
            dtype: torch.dtype = torch.float32,
            **options: Any,
        ) -> TaskFamily:
            check_options(build, **options)
            return own(**options)(batch_size=batch_size, device=device, dtype=dtype)

        own = functools.partial(build, *bound, **defaults)
        shared = [each for each in inspect.signature(factory).parameters.values() if each.kind is each.KEYWORD_ONLY]
        functools.update_wrapper(factory, build)
        factory.__doc__ = summary or build.__doc__
        factory.__signature__ = inspect.Signature([*inspect.signature(own).parameters.values(), *shared])  # pyright: ignore[reportFunctionMemberAccess]
        TASKS.register(name, factory)
        return build

    return enter


def make_task(
    spec: str, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32, **options: Any
) -> TaskFamily:
    """Make a task family from ``name`` or ``name:option=value,...``, to whose options keyword options are added.

    Raises:
        ValueError: unknown task, unknown option or bad value; a device or dtype that the task does not take, or in
            its notation.
        FileNotFoundError: its data are not on this machine.
    """
    name, spec_options = parse_spec(spec)
    TASKS.check_names(name, spec_options)
    known = TASKS.parameters(name)
    if not isinstance(dtype, torch.dtype):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError(f"dtype must be one of PyTorch's; got {dtype!r}, use e.g. torch.float32")
    for key, value, default in (("device", torch.device(device), torch.device("cpu")), ("dtype", dtype, torch.float32)):
        if key in known:
            options.setdefault(key, value)
        elif value != default:
            raise ValueError(f"task {name!r} must take {key} to run with another; got {value}, use {default}")
    family = TASKS.make(name, **{**options, **spec_options})
    if not type(family).__module__.startswith("l2l_opt."):
        check_family(name, family)
    return family


def check_family(name: str, family: Any) -> None:
    """Refuse what a user's own task returned, by one inner step of two students, unless it is a task family.

    Raises:
        ValueError: another object; a method that returns anything but tensors, or exits; a loss that cannot run for
            many students at once.
    """

    def check(what: str, right: bool, got: Any, rule: str) -> None:
        if not right:
            others = [leaf for leaf in tree_leaves(got) if not isinstance(leaf, Tensor)]
            found = type(others[0] if others else got).__name__
            raise ValueError(f"{what} of task {name!r} must return {rule}; got {found}, see TaskFamily's docstring")

    if not isinstance(family, TaskFamily):
        raise ValueError(
            f"a registered task must return a task family; got {type(family).__name__} from {name!r}, "
            "return e.g. ModuleTask(module, loss_fn, dataset)"
        )
    with refuse_exits(f"task {name!r}"):
        generator = torch.Generator().manual_seed(0)
        data = family.sample(generator)
        check("sample", _of_tensors(data), data, "a dict of tensors, {} where students have no data of their own")
        params = family.init_params(data, generator)
        check("init_params", _of_tensors(params) and bool(params), params, "a dict of tensors, one at least")
        batch = family.sample_batch(data, generator)
        check("sample_batch", all(isinstance(leaf, Tensor) for leaf in tree_leaves(batch)), batch, "tensors")
        with torch.no_grad():
            loss: Any = family.loss(params, data, batch)
        check("loss", isinstance(loss, Tensor) and loss.dim() == 0, loss, "a scalar tensor")
        take_step(family.loss, params, data, batch, name=f"task {name!r}")


def _of_tensors(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(own, Tensor) for own in cast(dict[Any, Any], value).values())
