"""The command group, and what becomes of errors: one sentence and an exit code."""

import importlib
import os
import re
import sys
import threading
from collections.abc import Mapping
from typing import Any, NoReturn

import click

from l2l_opt.cli.messages import Stopped
from l2l_opt.near_names import did_you_mean
from l2l_opt.version import __version__

COMMANDS = {
    "meta-train": ("l2l_opt.cli.meta_train:meta_train", "Meta-train a rule."),
    "evaluate": ("l2l_opt.cli.evaluate:evaluate", "Evaluate a rule against tuned baselines."),
    "specialise": ("l2l_opt.cli.specialise:specialise", "Make a rule better on your own kind of task."),
    "inspect": ("l2l_opt.cli.inspect:inspect", "Write one instrumented unroll to TensorBoard."),
    "report": ("l2l_opt.cli.report:report", "Write one page about a rule or a meta-training run."),
    "few-shot": ("l2l_opt.cli.main:few_shot", "Learn from a handful of examples."),
    "show": ("l2l_opt.cli.show:show", "Print an artefact's model card."),
    "list": ("l2l_opt.cli.list:list_names", "List tasks, rules, estimators or shipped artefacts."),
}
FEW_SHOT = {
    "meta-train": ("l2l_opt.cli.few_shot_meta_train:meta_train", "Meta-train a learner on episodes."),
    "evaluate": ("l2l_opt.cli.few_shot_evaluate:evaluate", "Evaluate learners on test episodes."),
    "adapt": ("l2l_opt.cli.adapt:adapt", "Make a model of 10 to 100 labelled rows or images."),
    "predict": ("l2l_opt.cli.adapt:predict", "Classify new rows or images by such a model."),
}


class LazyGroup(click.Group):
    """Imports a command's module only when the command runs, so that --help needs no torch.

    Args:
        table: of each command its place, and its line of --help.
    """

    def __init__(self, *arguments: Any, table: Mapping[str, tuple[str, str]], **attributes: Any):
        super().__init__(*arguments, **attributes)
        self.table = table

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        # Who asks for nothing is shown what there is.
        return super().parse_args(ctx, args or ["--help"])

    def invoke(self, ctx: click.Context) -> Any:
        from l2l_opt.cli.notes import notes_said

        with notes_said():
            return super().invoke(ctx)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.table:
            if cmd_name.startswith("-") or ctx.resilient_parsing:
                return None
            hint = did_you_mean(cmd_name, self.table)
            raise click.UsageError(f"a command must be one that {ctx.command_path} has; got {cmd_name!r}, {hint}", ctx)
        module, _, attribute = self.table[cmd_name][0].partition(":")
        return getattr(importlib.import_module(module), attribute)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in self.table.items()])


@click.group(cls=LazyGroup, table=COMMANDS, context_settings={"help_option_names": ["--help", "-h"]})
@click.version_option(__version__, prog_name="l2l-opt")
@click.option("--debug", is_flag=True, default=False, show_default="off", help="Show tracebacks; goes anywhere.")
def group(debug: bool) -> None:
    """Learned optimizers: meta-train, evaluate, inspect.

    Example: l2l-opt meta-train --rule rnnprop --task digits-mlp --out runs/first
    """


@click.group(cls=LazyGroup, table=FEW_SHOT)
def few_shot() -> None:
    """Learn from a handful of examples: a model that adapts to a support set, and a rule that teaches it.

    Example: l2l-opt few-shot meta-train --episodes sinusoids --method maml --out runs/sines
    """


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0 on success, 2 for wrong usage, 1 otherwise."""
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    if not debug:
        threading.excepthook = _leave_to_the_main_thread
    own = {"arguments": arguments, "kept": "nothing was kept"}
    try:
        result = _run(arguments, own)
        _exit(result if isinstance(result, int) else 0)
    except (Stopped, click.Abort, KeyboardInterrupt) as error:
        click.echo(error if isinstance(error, Stopped) else f"stopped by Ctrl-C; {own['kept']}", err=True)
        _exit(1)
    except click.ClickException as error:
        if debug and error.__cause__ is not None:
            raise
        _say_and_exit(error.format_message(), error.exit_code)
    except Exception as error:
        if debug:
            raise
        message = str(error)
        if isinstance(error, OSError) and error.strerror:
            message = (
                f"a file must be readable and writable; got {error.filename!r}: {error.strerror}, use another place"
            )
        elif beyond := re.search(r"tried to allocate ([\d.]+ \w+)", message, re.I):
            message = (
                f"memory must hold all that is asked for; got no room for {beyond[1]} more, use smaller or fewer "
                "students (add --debug for the traceback)"
            )
        elif not isinstance(error, (ValueError, TypeError, OSError)):
            where = "".join(f" {note}" for note in getattr(error, "__notes__", [])[:1])
            message = f"{type(error).__name__}{where}: {message} (add --debug for the traceback)"
        _say_and_exit(message, 1)


def _run(arguments: list[str], own: dict[str, Any]) -> Any:
    """Run the command; no code of a user's that it calls makes an unfinished one look like a success.

    Raises:
        ValueError: such code calls ``sys.exit``.
    """
    try:
        return group.main(args=arguments, prog_name="l2l-opt", standalone_mode=False, obj=own)
    except SystemExit as error:
        # Launchers of ranks end with the exit code of a rank that failed.
        if error.code not in (0, None):
            raise
        raise ValueError(
            f"a task, rule or plugin must not end the program; got sys.exit({error.code!r}), raise an exception instead"
        ) from error


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
