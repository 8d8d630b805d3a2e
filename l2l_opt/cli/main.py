"""The command group, and what becomes of errors: one sentence and an exit code."""

import importlib
import os
import sys
import threading
from typing import NoReturn

import click

from l2l_opt.version import __version__

COMMANDS = {
    "meta-train": ("l2l_opt.cli.meta_train:meta_train", "Meta-train a rule."),
    "evaluate": ("l2l_opt.cli.evaluate:evaluate", "Evaluate a rule against tuned baselines."),
    "specialise": ("l2l_opt.cli.specialise:specialise", "Make a rule better on your own kind of task."),
    "inspect": ("l2l_opt.cli.inspect:inspect", "Write one instrumented unroll to TensorBoard."),
    "report": ("l2l_opt.cli.report:report", "Write one page about a rule or a meta-training run."),
    "few-shot": ("l2l_opt.cli.few_shot:few_shot", "Learn from a handful of examples."),
    "show": ("l2l_opt.cli.show:show", "Print an artefact's model card."),
    "list": ("l2l_opt.cli.list:list_names", "List tasks, rules, estimators or shipped artefacts."),
}


class LazyGroup(click.Group):
    """Imports a command's module only when the command runs, so that --help needs no torch."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        return getattr(importlib.import_module(module), attribute)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["--help", "-h"]})
@click.version_option(__version__, prog_name="l2l-opt")
@click.option("--debug", is_flag=True, default=False, show_default="off", help="Show tracebacks; goes anywhere.")
def group(debug: bool) -> None:
    """Learned optimizers: meta-train, evaluate, inspect.

    Example: l2l-opt meta-train --rule rnnprop --task digits-mlp --out runs/first
    """


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0 on success, 2 for wrong usage, 1 otherwise."""
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    if not debug:
        threading.excepthook = _leave_to_the_main_thread
    try:
        result = group.main(args=arguments, prog_name="l2l-opt", standalone_mode=False, obj={"arguments": arguments})
        _exit(result if isinstance(result, int) else 0)
    except click.ClickException as error:
        if debug and error.__cause__ is not None:
            raise
        _say_and_exit(error.format_message(), error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        _say_and_exit("interrupted", 1)
    except Exception as error:
        if debug:
            raise
        message = str(error)
        if isinstance(error, OSError) and error.strerror:
            message = (
                f"a file must be readable and writable; got {error.filename!r}: {error.strerror}, use another place"
            )
        elif not isinstance(error, (ValueError, TypeError, OSError)):
            message = f"{type(error).__name__}: {message} (add --debug for the traceback)"
        _say_and_exit(message, 1)


def _leave_to_the_main_thread(error: threading.ExceptHookArgs) -> None:
    """TensorBoard writes in a thread, whose errors of files are raised anew where the next event is added."""
    if not isinstance(error.exc_value, OSError):
        threading.__excepthook__(error)


def _say_and_exit(message: str, code: int) -> NoReturn:
    # Wrong usage is the same on all ranks of a distributed run: one reports it.
    if code != 2 or os.environ.get("RANK", "0") == "0":
        click.echo(f"Error: {' '.join(message.split())}", err=True)
    _exit(code)


def _exit(code: int) -> NoReturn:
    if "RANK" in os.environ:
        # Threads of torch.distributed may abort while the interpreter is taken down, and with it the exit code.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
