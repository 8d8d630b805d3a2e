"""What users read: progress, and what a command that they stop leaves behind."""

import shlex

import click


def say(message: str) -> None:
    """Print progress, out of the way of results."""
    click.echo(message, err=True)


class Stopped(Exception):  # noqa: N818 - a user's wish is no error
    """Ends a command that a signal has stopped: exit code 1, and a sentence that does not begin with "Error:"."""


def command_line(*more: str) -> str:
    """Return the command as it was given, with further options where it lacks them, to be copied or kept."""
    arguments = click.get_current_context().obj["arguments"]
    return shlex.join(["l2l-opt", *arguments, *(word for word in more if word not in arguments)])


def note_kept(what: str, *more: str) -> None:
    """Note what Ctrl-C leaves behind from here on, and with which further options the same command goes on from it."""
    click.get_current_context().obj["kept"] = f"{what}; go on with: {command_line(*more)}"
