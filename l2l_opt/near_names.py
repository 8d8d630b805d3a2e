"""What to say of a name that there is not; no torch, since the command starts with it."""

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Give the fix for a name that there is not: the one that is most like it, or all that there are."""
    near = difflib.get_close_matches(name, known := list(names), n=1)
    return f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(known)}"
