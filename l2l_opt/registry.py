"""Names for rules, tasks and estimators, and the ``name:option=value,...`` notation of the command line."""

import ast
import inspect
import os
import re
from collections.abc import Callable, Iterable, Mapping
from types import NoneType
from typing import Any, Generic, TypeVar, get_args

from l2l_opt.checks import refuse_exits
from l2l_opt.near_names import did_you_mean

T = TypeVar("T")

QUOTED = r"""=(?:'[^']*'|"[^"]*")(?=\s*(?:,|\+|$))"""
"""A value in quotes, which may hold what otherwise parts options and tasks."""


def parse_spec(spec: str) -> tuple[str, dict[str, Any]]:
    """Split ``mnist-mlp:hidden=40,activation=relu`` into its name and its options.

    Values are Python literals where they look like one and strings otherwise; one with a comma is in brackets or
    quotes.

    Raises:
        ValueError: an option without ``=`` or without a name, or what is no text at all.
    """
    if not isinstance(spec, str):
        raise ValueError(f"what is to be made must be named by a text; got {spec!r}, use e.g. 'name:option=value'")
    name, _, tail = spec.partition(":")
    options: dict[str, Any] = {}
    for item in _items(tail):
        key, equals, text = item.partition("=")
        if not equals or not key.isidentifier():
            raise ValueError(
                f"an option must read key=value; got {item!r} in {spec!r}, use e.g. {name}:key=value, and quotes "
                "around a value that holds a comma"
            )
        options[key] = read_value(text)
    return name, options


def _items(text: str) -> list[str]:
    """Split at commas, but for those in quotes and in a value that begins with a bracket."""
    items: list[str] = []
    for found in re.finditer(rf"[^,=]*{QUOTED}|[^,]+", text):
        last = items[-1] if items else ""
        if re.match(r"[^=]*=[\[{(]", last) and _depth(last) > 0:
            items[-1] += f",{found[0]}"
        else:
            items.append(found[0])
    return items


def _depth(text: str) -> int:
    return sum(text.count(bracket) for bracket in "[{(") - sum(text.count(bracket) for bracket in "]})")


def read_value(text: str) -> Any:
    """Read a value of an option: a Python literal where it looks like one, the text itself otherwise."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return text


def format_spec(name: str, options: Mapping[str, Any]) -> str:
    """Write the notation that ``parse_spec`` reads as this name and these options."""

    def written(value: Any) -> str:
        plain = parse_spec(f"{name}:key={value}") if "," not in str(value) else None
        return str(value) if plain == (name, {"key": value}) else repr(value)

    return f"{name}:{','.join(f'{key}={written(value)}' for key, value in options.items())}".rstrip(":")


class Registry(Generic[T]):
    """A table of named factories of one kind of thing.

    Args:
        kind: what is registered, as it should read in messages (``"rule"``).
        beside: parameters of factories that no notation gives, such as the device.
    """

    def __init__(self, kind: str, *, beside: tuple[str, ...] = ()):
        self.kind, self.beside = kind, beside
        self._factories: dict[str, Callable[..., T]] = {}

    def register(self, name: str, factory: Callable[..., T]) -> None:
        """Enter ``factory`` under ``name``.

        Raises:
            ValueError: the name is taken by another factory, or holds a character that the notation needs.
        """
        if not name or set(name) & set(":,= /\\"):
            raise ValueError(f"a {self.kind}'s name must be a word of letters, digits, '-' and '.'; got {name!r}")
        if self._factories.get(name, factory) is not factory:
            raise ValueError(f"a {self.kind}'s name must be new; got {name!r}, which is taken: use another name")
        self._factories[name] = factory

    def names(self) -> list[str]:
        return sorted(self._factories)

    def summary(self, name: str) -> str:
        """Return the first docstring line of what is registered under ``name``."""
        return (inspect.getdoc(self.factory(name)) or "").split("\n")[0]

    def parameters(self, name: str) -> dict[str, inspect.Parameter]:
        """Return all that ``name`` takes, with defaults."""
        parameters = inspect.signature(self.factory(name)).parameters
        return {key: value for key, value in parameters.items() if value.kind is not inspect.Parameter.VAR_KEYWORD}

    def options(self, name: str) -> dict[str, inspect.Parameter]:
        """Return what ``name`` takes in its notation, with defaults."""
        return {key: value for key, value in self.parameters(name).items() if key not in self.beside}

    def check_names(self, name: str, options: Iterable[str]) -> None:
        """Refuse options that the notation of ``name`` does not take.

        Raises:
            ValueError: unknown name or unknown option.
        """
        known = self.options(name)
        for key in options:
            if key not in known:
                passed = ", which is passed beside its notation" if key in self.parameters(name) else ""
                raise ValueError(
                    f"an option of {self.kind} {name!r} must be one it has; got {key!r}{passed}, "
                    f"use one of {', '.join(known) or '(it has none)'}"
                )

    def factory(self, name: str) -> Callable[..., T]:
        if name not in self._factories:
            fix = did_you_mean(name, self.names())
            raise ValueError(f"a {self.kind} must be a registered name; got {name!r}, {fix}")
        return self._factories[name]

    def make(self, name: str, **options: Any) -> T:
        """Build what is registered under ``name``.

        Raises:
            ValueError: unknown name or unknown option.
        """
        factory, known, passed = self.factory(name), self.options(name), self.parameters(name)
        self.check_names(name, [key for key in options if not (key in self.beside and key in passed)])
        for key, value in passed.items():
            if value.default is inspect.Parameter.empty and key not in options:
                raise ValueError(
                    f"an option of {self.kind} {name!r} must be given; got no {key!r}, use {name}:{key}=VALUE"
                )
        for key in options.keys() & known.keys():
            _check_kind(f"{key} of {self.kind} {name!r}", key, options[key], known[key])
        with refuse_exits(f"{self.kind} {name!r}"):
            return factory(**options)


_KINDS = {int: "an integer", float: "a number", bool: "True or False", str: "a text"}
_EXAMPLES = {int: 2, float: 0.1, bool: True, str: "word"}


def _check_kind(what: str, key: str, value: Any, parameter: inspect.Parameter) -> None:
    """Refuse an option of another type than its annotation, or where there is none than its default.

    Raises:
        ValueError: a number, a truth value or a text was to be given, and is not.
    """
    kind, default = parameter.annotation, parameter.default
    kind = type(default) if kind is inspect.Parameter.empty else kind
    if NoneType in get_args(kind):
        others = [each for each in get_args(kind) if each is not NoneType]
        if value is None or len(others) > 1:
            return
        kind = others[0]
    kind = getattr(kind, "__origin__", kind) if hasattr(kind, "__metadata__") else kind
    kind = next((each for each in _KINDS if kind in (each, each.__name__)), None)
    if kind is None or type(value) is kind or (kind is float and type(value) is int):
        return
    if kind is str and isinstance(value, (int, float, os.PathLike)):  # ``target=2024`` is read as a number
        return
    example = default if type(default) is kind else _EXAMPLES[kind]
    raise ValueError(f"{what} must be {_KINDS[kind]}; got {value!r}, use e.g. {key}={example}")
