"""Whether a value can be used, and the sentence that states why not."""

import contextlib
import difflib
import inspect
import math
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial
from types import NoneType
from typing import Annotated, Any, get_args

import torch
from torch import Tensor


def check_positive_integers(example: int = 2, /, **values: Any) -> None:
    """Refuse sizes that are not whole numbers above zero; ``example`` is what the message suggests.

    Raises:
        ValueError: one that is not.
    """
    for key, value in values.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{key} must be a positive integer; got {value!r}, use e.g. {key}={example}")


def check_choices(choices: Collection[str], /, **values: Any) -> None:
    """Refuse words that are not among the choices.

    Raises:
        ValueError: one that is not.
    """
    for key, value in values.items():
        names = list(choices)  # a table's own test would want a value that can be hashed
        if value not in names:
            raise ValueError(f"{key} must be one of {', '.join(names)}; got {value!r}, use e.g. {key}={names[0]}")


def nearest_first(name: str, names: Iterable[str]) -> list[str]:
    """Return names in the order in which they are like another, for a message about one that is not among them."""
    return sorted(names, key=lambda each: -difflib.SequenceMatcher(None, name.casefold(), each.casefold()).ratio())


def check_numbers(low: float, high: float = math.inf, /, **values: Any) -> None:
    """Refuse what is not a finite number, or too small, or too great.

    Raises:
        ValueError: one that is not a number from ``low`` to ``high``.
    """
    bounds = f"of {low:g} or more" if high == math.inf else f"from {low:g} to {high:g}"
    example = low + 1 if high == math.inf else (low + high) / 2
    for key, value in values.items():
        if not (_is_finite(value) and low <= value <= high):
            raise ValueError(f"{key} must be a number {bounds}; got {value!r}, use e.g. {key}={example:g}")


def check_positive_numbers(example: float = 1, /, **values: Any) -> None:
    """Refuse what is not a finite number above zero; ``example`` is what the message suggests.

    Raises:
        ValueError: one that is not.
    """
    for key, value in values.items():
        if not (_is_finite(value) and value > 0):
            raise ValueError(f"{key} must be a positive number; got {value!r}, use e.g. {key}={example:g}")


def check_fractions(example: float, /, **values: Any) -> None:
    """Refuse what is not a number from 0 to below 1; ``example`` is what the message suggests.

    Raises:
        ValueError: one that is not.
    """
    for key, value in values.items():
        if not (_is_finite(value) and 0 <= value < 1):
            raise ValueError(f"{key} must lie in [0, 1); got {value!r}, use e.g. {example:g}")


def _is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -math.inf < value < math.inf


def check_finite(**tensors: Tensor) -> None:
    """Refuse data with gaps, of which every loss would be NaN.

    Raises:
        ValueError: NaN or infinity in a row; the message counts such rows and names the first.
    """
    for key, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            rows = (~torch.isfinite(tensor)).reshape(len(tensor), -1).any(1).nonzero().flatten()
            raise ValueError(
                f"{key} must be finite; got NaN or infinity in {len(rows)} of {len(tensor)} rows, the first being "
                f"row {int(rows[0])}, remove these rows or fill them in"
            )


@contextlib.contextmanager
def refuse_exits(what: str) -> Iterator[None]:
    """Run a user's code, which must not end the program; any other exception is noted to be of it.

    Raises:
        ValueError: it calls ``sys.exit``.
    """
    try:
        yield
    except SystemExit as error:
        raise ValueError(
            f"{what} must not end the program; got sys.exit({error.code!r}), raise an exception instead"
        ) from error
    except Exception as error:
        error.add_note(f"in {what}")
        raise


Positive = Annotated[float, check_positive_numbers]
"""Of an option: a number above zero."""

NotNegative = Annotated[float, partial(check_numbers, 0)]
"""Of an option: a number of zero or more."""


def check_options(function: Callable[..., Any], **options: Any) -> None:
    """Check options by a function's annotations: int is a positive integer, ``Annotated[type, check]`` what passes it.

    ``None`` passes where it is one of the types.

    Raises:
        ValueError: an option that a check refuses.
    """
    for key, value in options.items():
        kind = inspect.signature(function).parameters[key].annotation
        if value is None and NoneType in get_args(kind):
            continue
        if kind is int or int in get_args(kind):
            check_positive_integers(**{key: value})
        for part in (kind, *get_args(kind)):
            for check in getattr(part, "__metadata__", ()):
                check(**{key: value})


class DataNote(UserWarning):
    """Warn in a sentence of what was done with a user's data that they may want done otherwise."""
