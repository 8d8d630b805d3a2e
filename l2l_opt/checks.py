"""Options of tasks: whether a value can be used, and the sentence that says why not."""

from collections.abc import Collection
from typing import Any


def check_positive_integers(**values: Any) -> None:
    """Sizes.

    Raises:
        ValueError: one that is not a whole number above zero.
    """
    for key, value in values.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{key} must be a positive integer; got {value!r}, use e.g. {key}=2")


def check_choices(choices: Collection[str], **values: Any) -> None:
    """Words.

    Raises:
        ValueError: one that is not among the choices.
    """
    for key, value in values.items():
        if value not in choices:
            names = list(choices)
            raise ValueError(f"{key} must be one of {', '.join(names)}; got {value!r}, use e.g. {key}={names[0]}")


def check_numbers(low: float, *, exclusive: bool = False, **values: Any) -> None:
    """Numbers with a lower bound.

    Raises:
        ValueError: one that is not a finite number, or too small.
    """
    for key, value in values.items():
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number or not (low < value if exclusive else low <= value) or value == float("inf"):
            bound = f"above {low:g}" if exclusive else f"of {low:g} or more"
            raise ValueError(f"{key} must be a number {bound}; got {value!r}, use e.g. {key}={low + 1:g}")
