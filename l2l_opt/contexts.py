"""Values that hold for the code within a ``with`` block, in its thread alone."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import TypeVar

Value = TypeVar("Value")


@contextlib.contextmanager
def holding(variable: ContextVar[Value], value: Value) -> Iterator[None]:
    """While it lasts, a variable has this value."""
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)
