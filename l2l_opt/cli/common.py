"""What several commands share: options, plugins, and wrong usage told from other failures."""

import contextlib
import hashlib
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import torch

from l2l_opt.pretrained import list_pretrained
from l2l_opt.randomness import Stream, make_generator
from l2l_opt.registry import parse_spec
from l2l_opt.rules import RULES, UpdateRule, make_rule
from l2l_opt.storage.files import make_writable_folder
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
    """The files of --plugin, for processes that must load them too."""
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
        except Exception as error:
            message = (
                f"a plugin must run without error; got {type(error).__name__}: {error} from {str(path)!r}, mend it"
            )
            raise click.UsageError(message) from error


Command = Callable[..., Any]


plugin_option = click.option(
    "--plugin",
    "plugins",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    multiple=True,
    is_eager=True,
    callback=load_plugins,
    expose_value=False,
    help="A Python file that registers rules, tasks and models; repeatable. [default: none]",
)
"""--plugin."""


def run_options(command: Command) -> Command:
    """--out, --resume, --allow-changed-options, --minutes, --checkpoint-every, --json: of a run to be gone on from."""
    for option in (
        click.option("--json", "as_json", is_flag=True, default=False, show_default="off", help="Print run.json."),
        click.option(
            "--checkpoint-every",
            type=click.IntRange(min=1),
            default=None,
            show_default="3 minutes",
            help="Outer steps.",
        ),
        click.option(
            "--minutes",
            type=click.FloatRange(min=0, min_open=True),
            default=None,
            show_default="no limit",
            help="Stop after.",
        ),
        click.option("--allow-changed-options", is_flag=True, default=False, show_default="off", help="With --resume."),
        click.option("--resume", is_flag=True, default=False, show_default="off", help="Go on from its checkpoint."),
        click.option(
            "--out",
            type=click.Path(path_type=Path),
            default="runs/meta-train",
            show_default=True,
            help="The run's folder.",
        ),
    ):
        command = option(command)
    return command


def device_options(command: Command) -> Command:
    """--device, --threads, --dtype, --plugin."""
    for option in (
        plugin_option,
        click.option(
            "--dtype",
            type=click.Choice(list(DTYPES)),
            default="float32",
            show_default=True,
            help="Of students and rule.",
        ),
        click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Threads of torch."),
        click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:1, ..."),
    ):
        command = option(command)
    return command


def read_device(name: str) -> torch.device:
    """A device of this machine.

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
    """A task family, or a mixture of them, from its notation on the command line."""
    with wrong_usage():
        return make_tasks(spec, device=device, dtype=DTYPES[dtype])


def prepare(rule: str, task: str, folder: Path, *, device: str, threads: int, dtype: str) -> tuple[UpdateRule, Tasks]:
    """What running a saved rule on a task begins with; fails before any work if the folder cannot be written.

    Returns:
        The rule and the task family, on the device and in the dtype.
    """
    torch.set_num_threads(threads)
    with wrong_usage():
        place = read_device(device)
    teacher = load_rule(rule).to(device=place, dtype=DTYPES[dtype])
    family = read_tasks(task, device=place, dtype=dtype)
    make_writable_folder(folder)
    return teacher, family


def read_rule(rule: str, *, seed: int) -> UpdateRule:
    """A fresh rule by its registered name, or the one that an artefact holds.

    Raises:
        ValueError: neither.
    """
    name, _ = parse_spec(rule)
    if name in RULES.names():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(make_generator(seed, Stream.RULE).initial_seed())
            return make_rule(rule)
    if Path(rule).exists() or rule in list_pretrained():
        return load_rule(rule)
    RULES.factory(name)  # Raises, and says which names there are.
    raise AssertionError(rule)
