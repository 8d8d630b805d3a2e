"""How commands declare their options, and those that several of them share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import torch

from l2l_opt.cli.plugins import load_plugins
from l2l_opt.types import DTYPES

Command = Callable[..., Any]


class GroupedOption(click.Option):
    """An option that --help lists under the heading of its group."""

    def __init__(self, *names: Any, group: str, **attributes: Any):
        super().__init__(*names, **attributes)
        self.group = group


class GroupedCommand(click.Command):
    """A command of many options, which --help lists by group."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and isinstance(parameter, click.Option):
                groups.setdefault(getattr(parameter, "group", "Other"), []).append(record)
        for group, records in groups.items():
            with formatter.section(f"{group} options"):
                formatter.write_dl(records)


Declared = Callable[[str], Callable[[Command], Command]]


def option(names: str, default: Any, text: str, **attributes: Any) -> Declared:
    """Declare an option whose default --help shows, for an ``option_group``.

    Args:
        names: the option, and after a blank the name of its parameter where that is another.
        default: its type too, where no other is given.
        text: of --help.
        attributes: of ``click.option``, e.g. ``show_default`` where words say more than the default.
    """
    # To click a default of None is a value, which a required option then has.
    given = {} if default is None else {"default": default}
    given |= {"cls": GroupedOption, "help": text, "show_default": True} | attributes
    return lambda group: click.option(*names.split(), group=group, **given)


def count(names: str, default: int | None, text: str, *, least: int = 1, **attributes: Any) -> Declared:
    """Declare an option that is a whole number of ``least`` or more."""
    return option(names, default, text, type=click.IntRange(min=least), metavar="N", **attributes)


def names_option(names: str, default: str | None, text: str, **attributes: Any) -> Declared:
    """Declare an option of names with commas between them, which may also be given several times."""

    def together(context: click.Context, parameter: click.Parameter, given: tuple[str, ...]) -> str | None:
        return ",".join(given) if given else None

    several = None if default is None else (default,)
    return option(names, several, f"{text}; repeatable.", multiple=True, callback=together, **attributes)


def path_option(names: str, default: str | None, text: str, **attributes: Any) -> Declared:
    """Declare an option that is a path to write to."""
    return option(names, default, text, type=click.Path(path_type=Path), **attributes)


def switch(names: str, text: str) -> Declared:
    """Declare an option that is on or off."""
    return option(names, False, text, is_flag=True, show_default="off")


def option_group(title: str, *declared: Declared) -> Callable[[Command], Command]:
    """Give a ``GroupedCommand`` some options, under a heading of --help."""

    def decorate(command: Command) -> Command:
        for declare in reversed(declared):
            command = declare(title)(command)
        return command

    return decorate


def usable_device(context: click.Context, parameter: click.Parameter, name: str) -> str:
    """Pass the name of a device that this machine has.

    Raises:
        click.UsageError: another.
    """
    here, accelerator = ["cpu"], torch.accelerator.current_accelerator(check_available=True)
    if accelerator is not None:
        numbered = [f"{accelerator.type}:{index}" for index in range(torch.accelerator.device_count())]
        here += [accelerator.type, *numbered]
    if name not in here:
        raise click.UsageError(f"device must be one that this machine has; got {name!r}, use {' or '.join(here)}")
    return name


SEED = count("--seed", 0, "Seed of everything random.", least=0)
JSON = switch("--json as_json", "Print JSON, for a machine to read.")
DEVICE = option("--device", "cpu", "Device, e.g. cpu or cuda:1.", callback=usable_device)
THREADS = count("--threads", 1, "Threads of torch.")
DTYPE = option("--dtype", "float32", "Precision of students and rule.", type=click.Choice(list(DTYPES)))
PLUGIN = option(
    "--plugin plugins",
    None,
    "Python file that registers rules, tasks or models; repeatable.",
    show_default="none",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    multiple=True,
    is_eager=True,
    callback=load_plugins,
    expose_value=False,
)
cpu_options = option_group("Machine", THREADS, PLUGIN)
device_options = option_group("Machine", DEVICE, THREADS, DTYPE, PLUGIN)
