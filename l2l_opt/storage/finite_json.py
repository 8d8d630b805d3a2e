"""JSON as every reader takes it: it has no numbers that are not finite."""

import json
import math
from collections.abc import Sequence
from typing import Any, cast


def finite(value: Any) -> Any:
    """Replace numbers that are not finite by None, in nested dicts, lists and tuples; tuples become lists."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in cast(dict[Any, Any], value).items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in cast(Sequence[Any], value)]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def json_text(value: Any, *, indent: int = 2) -> str:
    """Write a value as the text of a file, null for numbers that are not finite."""
    return json.dumps(finite(value), indent=indent, allow_nan=False) + "\n"
