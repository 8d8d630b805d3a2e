"""What several commands share: options, plugins, and wrong usage distinguished from other failures."""

import contextlib
import dataclasses
import hashlib
import importlib.util
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import torch

from l2l_opt.pretrained import list_pretrained
from l2l_opt.randomness import Stream, make_generator
from l2l_opt.registry import parse_spec
from l2l_opt.rules import RULES, UpdateRule, make_rule
from l2l_opt.rules.check import check_rule
from l2l_opt.storage.rule_file import load_rule
from l2l_opt.storage.safetensors_file import FileFormatError
from l2l_opt.tasks.mixture import Tasks, make_tasks

DTYPES = {"float32": torch.float32, "float64": torch.float64}


@contextlib.contextmanager
def wrong_usage() -> Iterator[None]:
    """Turn the ValueErrors of reading options into exit code 2; files that are broken keep their own."""
    try:
        yield
    except FileFormatError:
        raise
    except ValueError as error:
        raise click.UsageError(str(error)) from error


PLUGINS = "l2l_opt.plugins"


def load_plugins(context: click.Context, parameter: click.Parameter, paths: tuple[Path, ...]) -> tuple[Path, ...]:
    """Run a user's own files, which register rules and tasks."""
    register_plugins(paths)
    context.meta[PLUGINS] = paths
    return paths


def plugin_files() -> tuple[Path, ...]:
    """Return the files of --plugin, for processes that must load them too."""
    return click.get_current_context().meta.get(PLUGINS, ())


def plugin_digests() -> tuple[str, ...]:
    """SHA-256 of the files of --plugin, which results depend on."""
    return tuple(hashlib.sha256(path.read_bytes()).hexdigest() for path in plugin_files())


def register_plugins(paths: tuple[Path, ...]) -> None:
    """Run files that register rules and tasks, in this process.

    Raises:
        click.UsageError: a file that is not Python or fails.
    """
    for number, path in enumerate(paths):
        spec = importlib.util.spec_from_file_location(f"l2l_opt_plugin_{number}_{path.stem}", path)
        if spec is None or spec.loader is None:
            raise click.UsageError(f"a plugin must be a Python file; got {str(path)!r}, use FILE.py")
        module = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except (Exception, SystemExit) as error:
            message = (
                f"a plugin must run without error; got {type(error).__name__}: {error} from {str(path)!r}, mend it"
            )
            raise click.UsageError(message) from error


Command = Callable[..., Any]
COUNT, FROM_ZERO = click.IntRange(min=1), click.IntRange(min=0)


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
            if (record := parameter.get_help_record(ctx)) is not None:
                groups.setdefault(getattr(parameter, "group", "Other"), []).append(record)
        for group, records in groups.items():
            with formatter.section(f"{group} options"):
                formatter.write_dl(records)


Declared = Callable[[str], Callable[[Command], Command]]


def option(names: str, default: Any, text: str, **attributes: Any) -> Declared:
    """Declare an option whose default --help shows, for an ``option_group`` or a group of its own: ``option(...)("")``.

    Args:
        names: the option, and after a blank the name of its parameter where that is another.
        default: its type too, where no other is given.
        text: of --help.
        attributes: of ``click.option``, e.g. ``show_default`` where words say more than the default.
    """
    given = {"cls": GroupedOption, "default": default, "help": text, "show_default": True} | attributes
    return lambda group: click.option(*names.split(), group=group, **given)


def switch(names: str, text: str) -> Declared:
    """Declare an option that is on or off."""
    return option(names, False, text, is_flag=True, show_default="off")


def option_group(title: str, *declared: Declared) -> Callable[[Command], Command]:
    """Give a command some options, under a heading of --help where it is a ``GroupedCommand``."""

    def decorate(command: Command) -> Command:
        for declare in reversed(declared):
            command = declare(title)(command)
        return command

    return decorate


SEED = option("--seed", 0, "Of everything random.", type=FROM_ZERO)
JSON = switch("--json as_json", "Print JSON, for a machine to read.")
PLUGIN = option(
    "--plugin plugins",
    None,
    "A Python file that registers rules, tasks and models; repeatable. [default: none]",
    show_default=False,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    multiple=True,
    is_eager=True,
    callback=load_plugins,
    expose_value=False,
)
plugin_option = PLUGIN("Machine")
"""--plugin."""
device_options = option_group(
    "Machine",
    option("--device", "cpu", "cpu, cuda, cuda:1, ..."),
    option("--threads", 1, "Threads of torch.", type=COUNT),
    option("--dtype", "float32", "Of students and rule.", type=click.Choice(list(DTYPES))),
    PLUGIN,
)
"""--device, --threads, --dtype, --plugin."""


def fields_of(options_class: type, options: Mapping[str, Any]) -> dict[str, Any]:
    """Those among the options of a command that are fields of a dataclass."""
    return {field.name: options[field.name] for field in dataclasses.fields(options_class) if field.name in options}


def read_device(name: str) -> torch.device:
    """Return a device of this machine.

    Raises:
        ValueError: torch does not know it, or the machine has none.
    """
    try:
        device = torch.device(name)
        torch.zeros((), device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device must be one that this machine has; got {name!r} ({reason}), use cpu") from error
    return device


def read_tasks(spec: str, *, device: torch.device, dtype: str) -> Tasks:
    """Return a task family, or a mixture of them, from its notation on the command line."""
    with wrong_usage():
        return make_tasks(spec, device=device, dtype=DTYPES[dtype])


def read_rule(rule: str, *, seed: int) -> UpdateRule:
    """Return a fresh rule by its registered name, or the one that an artefact holds.

    Raises:
        ValueError: neither.
    """
    name, _ = parse_spec(rule)
    if name in RULES.names():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(make_generator(seed, Stream.RULE).initial_seed())
            return check_rule(make_rule(rule))
    if Path(rule).exists() or rule in list_pretrained():
        return load_rule(rule)
    RULES.factory(name)  # Raises, with the names that there are.
    raise AssertionError(rule)
