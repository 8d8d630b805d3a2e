"""Results that are kept on disk, under everything that determines them."""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from l2l_opt.storage.checkpoint_file import load_tree, save_tree

DEFAULT_FOLDER = Path("~/.cache/l2l_opt/baselines")


class Cache:
    """A folder of results; safe for several processes, since files are put in place whole.

    A file holds its own key and a digest of its content. One that is damaged, or of another key, is not used: the
    result is computed anew.

    Args:
        folder: where to; None keeps nothing.

    Raises:
        OSError: the folder cannot be made.
    """

    def __init__(self, folder: str | os.PathLike[str] | None):
        self.folder = None if folder is None else Path(folder).expanduser()
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)

    def path(self, key: Mapping[str, Any]) -> Path | None:
        """Where the result of a key lies, whether or not it does yet."""
        if self.folder is None:
            return None
        return self.folder / f"{key['kind']}-{hashlib.sha256(_text(key).encode()).hexdigest()[:40]}.safetensors"

    def get(self, key: Mapping[str, Any], compute: Callable[[], Any]) -> Any:
        """Return the result of a key, from disk or computed and kept.

        Args:
            key: plain JSON values: all that determines the result; ``key["kind"]`` begins the file's name.
            compute: returns nested dicts and lists of tensors and plain values.
        """
        path = self.path(key)
        if path is None:
            return compute()
        try:
            stored = load_tree(path)
            if stored["key"] == _text(key):
                return stored["value"]
        except (OSError, ValueError, LookupError, TypeError):
            pass
        value = compute()
        save_tree({"key": _text(key), "value": value}, path)
        return value


def _text(key: Mapping[str, Any]) -> str:
    return json.dumps(key, sort_keys=True)
