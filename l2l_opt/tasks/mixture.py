"""Distributions over architectures: families mixed by weight, and options that vary between students.

    2*digits-mlp:hidden=8..64,activation=relu|tanh + quadratics:dim=5..20

draws digits-mlp twice as often as quadratics, its width log-uniform in 8 to 64, its activation one of two.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

from l2l_opt.registry import QUOTED, parse_spec, read_value
from l2l_opt.tasks.base import TASKS, TaskFamily, make_task

Options = tuple[tuple[str, Any], ...]

FAMILIES_KEPT = 64
"""Families that a mixture keeps built; more are built anew when drawn again."""


@dataclass(frozen=True)
class Component:
    """One family of a mixture.

    Attributes:
        weight: relative frequency.
        name: in the registry of tasks.
        options: option -> its value, or a ``Range`` or ``Choice`` to draw it from.
    """

    weight: float
    name: str
    options: Mapping[str, Any]

    @property
    def varies(self) -> bool:
        return any(isinstance(value, (Range, Choice)) for value in self.options.values())

    @property
    def has_range(self) -> bool:
        return any(isinstance(value, Range) for value in self.options.values())

    def realise(self, of_range: Callable[["Range"], Any], of_choice: Callable[["Choice"], Any]) -> "Options":
        """Its options with a value in place of each range and choice."""
        values = {
            key: of_range(value)
            if isinstance(value, Range)
            else of_choice(value)
            if isinstance(value, Choice)
            else value
            for key, value in sorted(self.options.items())
        }
        return tuple(values.items())

    def corners(self) -> list["Options"]:
        """Options in which every bound and every choice comes once at least."""
        choices = max((len(value.values) for value in self.options.values() if isinstance(value, Choice)), default=1)
        low = [
            self.realise(lambda value: value.low, lambda value, place=place: value.values[place % len(value.values)])
            for place in range(choices)
        ]
        return [*low, self.realise(lambda value: value.high, lambda value: value.values[0])]


@dataclass(frozen=True)
class Range:
    """Log-uniform between two positive bounds, inclusive; whole numbers if both bounds are."""

    low: float
    high: float

    def draw(self, generator: torch.Generator) -> float | int:
        uniform = float(torch.rand((), generator=generator, dtype=torch.float64))
        if isinstance(self.low, int) and isinstance(self.high, int):
            # Half a unit more on both sides, so that the bounds are as frequent as what lies between.
            low, high = self.low - 0.5, self.high + 0.5
            return min(max(round(low * (high / low) ** uniform), self.low), self.high)
        return self.low * (self.high / self.low) ** uniform


@dataclass(frozen=True)
class Choice:
    """One of several values, all equally likely."""

    values: tuple[Any, ...]

    def draw(self, generator: torch.Generator) -> Any:
        return self.values[int(torch.randint(len(self.values), (), generator=generator))]


class TaskMixture:
    """What the architecture of a group of students is drawn from: families with weights, whose options may vary.

    Args:
        components: the families.
        device: of the tensors.
        dtype: of all tensors.
        transform: applied to every family drawn, e.g. an augmentation.

    Raises:
        ValueError: no components, a weight that is not positive, a family that cannot be built.
    """

    def __init__(
        self,
        components: list[Component],
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        transform: Callable[[TaskFamily], TaskFamily] | None = None,
    ):
        if not components or not all(0 < component.weight < math.inf for component in components):
            weights = [component.weight for component in components]
            raise ValueError(f"a mixture's weights must be positive numbers; got {weights}, use e.g. 2*digits-mlp")
        self.components, self.device, self.dtype = components, device, dtype
        self.weights = torch.tensor([component.weight for component in components], dtype=torch.float64)
        self._names: dict[int, str] = {}

        @lru_cache(FAMILIES_KEPT)
        def build(name: str, options: Options) -> TaskFamily:
            family = make_task(name, device=device, dtype=dtype, **dict(options))
            family = family if transform is None else transform(family)
            self._names[id(family)] = name
            return family

        self._build = build
        for component in components:
            TASKS.check_names(component.name, component.options)
            # Fails now, and not in the middle of a run, where a value is wrong or data are missing.
            for options in component.corners():
                build(component.name, options)

    def draw(self, generator: torch.Generator) -> TaskFamily:
        """One family; the same object for the same options."""
        index = int(torch.multinomial(self.weights, 1, generator=generator))
        component = self.components[index]
        options = component.realise(lambda value: value.draw(generator), lambda value: value.draw(generator))
        return self._build(component.name, options)

    def name_of(self, family: TaskFamily) -> str:
        """The task's name in the registry, of a family that was drawn here."""
        return self._names[id(family)]

    def transformed(self, transform: Callable[[TaskFamily], TaskFamily]) -> "TaskMixture":
        """The same mixture with every family drawn passed through ``transform``."""
        return TaskMixture(self.components, device=self.device, dtype=self.dtype, transform=transform)

    def largest(self) -> list[TaskFamily]:
        """Of each component the family with every range at its upper bound, and the first of each choice."""
        return [self._build(component.name, component.corners()[-1]) for component in self.components]

    def smallest(self) -> list[TaskFamily]:
        """Of each component the family with every range at its lower bound, and the first of each choice."""
        return [self._build(component.name, component.corners()[0]) for component in self.components]


Tasks = TaskFamily | TaskMixture
"""What students come from: one family, or a mixture of them."""


def draw_family(tasks: Tasks, generator: torch.Generator) -> TaskFamily:
    """A family of the mixture, or the one there is."""
    return tasks.draw(generator) if isinstance(tasks, TaskMixture) else tasks


def make_tasks(spec: str, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Tasks:
    """A family or a mixture from its notation, e.g. ``2*digits-mlp:hidden=8..64 + quadratics``.

    Raises:
        ValueError: a weight, range or choice that cannot be read; unknown task, unknown option or bad value.
        FileNotFoundError: data that are not on this machine.
    """
    components = components_of(spec)
    if len(components) == 1 and not components[0].varies:
        TASKS.check_names(components[0].name, components[0].options)
        return make_task(components[0].name, device=device, dtype=dtype, **components[0].options)
    return TaskMixture(components, device=device, dtype=dtype)


def components_of(spec: str) -> list[Component]:
    """The families of the notation; a ``+`` parts them where it has blanks around it, or a task's name after it.

    Any other belongs to a value, such as ``lr=1e+3``, ``file=a+b.csv`` or ``file='a + b.csv'``.

    Raises:
        ValueError: a weight, range or choice that cannot be read.
    """
    names = "|".join(map(re.escape, TASKS.names()))
    between = rf"\s\+(?:\s|$)|(?<!\d[eE])\+(?=\s*(?:[^+*:,=]+\*)?\s*(?:{names})\s*(?:[:+]|$))"
    parts = re.sub(rf"({QUOTED})|{between}", lambda found: found[1] or "\0", spec).split("\0")
    return [_parse_component(part.strip(), spec) for part in parts]


def _parse_component(part: str, spec: str) -> Component:
    head, colon, tail = part.partition(":")
    weight, star, name = head.rpartition("*")
    try:
        number = float(weight) if star else 1.0
    except ValueError:
        raise ValueError(f"a weight must be a number; got {weight!r} in {spec!r}, use e.g. 2*digits-mlp") from None
    name, options = parse_spec(name.strip() + colon + tail)
    return Component(number, name, {key: _parse_varying(value, spec) for key, value in options.items()})


def _parse_varying(value: Any, spec: str) -> Any:
    if not isinstance(value, str):
        return value
    if "|" in value:
        return Choice(tuple(read_value(item) for item in value.split("|")))
    low, dots, high = value.partition("..")
    bounds = read_value(low), read_value(high)
    if not dots or not all(isinstance(bound, (int, float)) for bound in bounds):
        return value
    if not 0 < bounds[0] <= bounds[1]:
        raise ValueError(f"a range must be positive and in order; got {value!r} in {spec!r}, use e.g. 8..64")
    return Range(*bounds)
