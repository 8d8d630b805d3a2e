"""--config: the options of a command from a file."""

import json
import tomllib
from typing import Any

import click

from l2l_opt.cli.options import option
from l2l_opt.near_names import did_you_mean
from l2l_opt.pretrained import find_recipe, list_recipes


def read_recipe(source: str) -> dict[str, Any]:
    """Return the options that a recipe gives, as they are written there.

    Args:
        source: a TOML file, a run's run.json or its folder, or the name of a shipped recipe.

    Raises:
        click.UsageError: none of these, or one that cannot be read.
    """
    path = find_recipe(source)
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text)["options"] if path.suffix == ".json" else tomllib.loads(text)
        return dict(content.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
        raise click.UsageError(
            f"a recipe must be a TOML file of options, a run's run.json or the name of one that ships; got {source!r} "
            f"({reason}), use e.g. one of {', '.join(list_recipes())}"
        ) from error


def defaults_of(command: click.Command, source: str) -> dict[str, Any]:
    """Return what a recipe gives to the parameters of a command, as text for their types to read.

    Raises:
        click.UsageError: an option that the command does not have, or what is no value of one.
    """
    known: dict[str, click.Parameter] = {}
    for parameter in command.params:
        if isinstance(parameter, click.Option) and parameter.name not in (None, "config"):
            # A run.json has the names of parameters, which are not those of the options everywhere.
            known |= {_plain(name): parameter for name in (parameter.name, *parameter.opts) if name is not None}
    values: dict[str, Any] = {}
    for key, value in read_recipe(source).items():
        if _plain(key) not in known:
            hint = did_you_mean(_plain(key), sorted(known))
            raise click.UsageError(f"a recipe must give options of the command; got {key!r} in {source!r}, {hint}")
        parameter = known[_plain(key)]
        if isinstance(value, dict) or (isinstance(value, list) and not parameter.multiple):
            raise click.UsageError(f"an option in a recipe must be a single value; got {key} = {value!r} in {source!r}")
        if value is not None and parameter.name is not None:
            values[parameter.name] = [str(item) for item in value] if isinstance(value, list) else str(value)
    return values


def _plain(name: str) -> str:
    return name.lstrip("-").replace("-", "_")


def _use(context: click.Context, parameter: click.Parameter, source: str | None) -> None:
    if source is not None:
        context.default_map = defaults_of(context.command, source)


CONFIG = option(
    "--config",
    None,
    "Options of a TOML file, a run or a shipped recipe; those given besides override them.",
    show_default="none",
    metavar="FILE",
    is_eager=True,
    expose_value=False,
    callback=_use,
)
"""--config."""
