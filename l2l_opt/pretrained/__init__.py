"""Artefacts that ship with the package, by name."""

import os
from pathlib import Path

FOLDER = Path(__file__).parent
DEFAULT = "default-4"


def list_pretrained() -> list[str]:
    """Return the names of the shipped artefacts; each works wherever a rule's path does."""
    return sorted(path.stem for path in FOLDER.glob("*.safetensors"))


def list_recipes() -> list[str]:
    """Return the names of the shipped rules whose options of ``meta-train`` are known."""
    return sorted(path.stem for path in FOLDER.glob("recipes/*.toml"))


def find_recipe(source: str) -> Path:
    """Return the file of options behind a shipped rule's name, a run's folder or a path."""
    if source in list_recipes():
        return FOLDER / "recipes" / f"{source}.toml"
    return Path(source) / "run.json" if Path(source).is_dir() else Path(source)


def find_artefact(source: str | os.PathLike[str]) -> Path:
    """Return the file behind a shipped name or a path.

    Raises:
        FileNotFoundError: neither.
    """
    shipped = FOLDER / f"{source}.safetensors"
    if str(source) in list_pretrained():
        return shipped
    path = Path(source)
    if path.is_dir() and (path / "rule.safetensors").is_file():
        return path / "rule.safetensors"
    if not path.is_file():
        raise FileNotFoundError(
            f"a rule must be a shipped name or the path of an artefact; got {str(source)!r}, "
            f"use one of {', '.join(list_pretrained()) or '(none ships)'} or an existing file"
        )
    return path
