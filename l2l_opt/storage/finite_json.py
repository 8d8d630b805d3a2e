"""JSON as every reader takes it: it has no numbers that are not finite."""

import json
import math
from collections.abc import Sequence
from typing import Any


def finite(value: Any) -> Any:
    """Replace numbers that are not finite by None, in nested dicts, lists and tuples; tuples become lists."""
    if isinstance(value, dict):
        own: dict[Any, Any] = value
        return {key: finite(item) for key, item in own.items()}
    if isinstance(value, (list, tuple)):
        items: Sequence[Any] = value
        return [finite(item) for item in items]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def json_text(value: Any, *, indent: int = 2) -> str:
    """Write a value as the text of a file, null for numbers that are not finite."""
    return json.dumps(finite(value), indent=indent, allow_nan=False) + "\n"
