"""Users' own files, which register rules, tasks and models, or make a model."""

import importlib.util
from pathlib import Path
from types import ModuleType

import click
from torch import nn

from l2l_opt.tasks.data_files import digest_of

PLUGINS = "l2l_opt.plugins"


def load_plugins(context: click.Context, parameter: click.Parameter, paths: tuple[Path, ...]) -> tuple[Path, ...]:
    """Run a user's own files, which register rules and tasks."""
    register_plugins(paths)
    context.meta[PLUGINS] = paths
    return paths


def plugin_files() -> tuple[Path, ...]:
    """Return the files of --plugin, for processes that must load them too."""
    return click.get_current_context().meta.get(PLUGINS, ())


def plugin_digests() -> dict[str, str]:
    """SHA-256 of the files of --plugin, by path: results depend on them."""
    return {str(path): digest_of(path) for path in plugin_files()}


def register_plugins(paths: tuple[Path, ...]) -> None:
    """Run files that register rules and tasks, in this process.

    Raises:
        click.UsageError: a file that is not Python or fails.
    """
    for number, path in enumerate(paths):
        _run(path, f"l2l_opt_plugin_{number}_{path.stem}")


def make_model(given: str) -> nn.Module:
    """Call a function in a user's own file that makes a model.

    Args:
        given: ``FILE.py:function``.

    Raises:
        click.UsageError: a file that is not there or fails, no such function, one that fails or makes no module.
    """
    name, _, function = given.rpartition(":")
    path = Path(name)
    if not name or not path.is_file():
        raise click.UsageError(f"--model must name a file and a function in it; got {given!r}, use FILE.py:make")
    make = getattr(_run(path, f"l2l_opt_model_{path.stem}"), function, None)
    if not callable(make):
        raise click.UsageError(f"--model must name a function of {name!r}; got {function!r}, define it there")
    try:
        model = make()
    except Exception as error:
        message = f"{given} must make a model; got {type(error).__name__}: {error}, mend it"
        raise click.UsageError(message) from error
    if not isinstance(model, nn.Module):
        raise click.UsageError(f"{given} must make a torch.nn.Module; got {type(model).__name__}, return the model")
    return model


def _run(path: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise click.UsageError(f"a plugin must be a Python file; got {str(path)!r}, use FILE.py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        message = f"a plugin must run without error; got {type(error).__name__}: {error} from {str(path)!r}, mend it"
        raise click.UsageError(message) from error
    return module
