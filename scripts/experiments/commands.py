"""Modules run as commands of their own."""

import subprocess
import sys


def run(module: str, *arguments: str) -> None:
    """Run a module, and end with its exit status where it fails.

    An interruption from the keyboard reaches it too: it is waited for, so that it writes its checkpoint.
    """
    with subprocess.Popen([sys.executable, "-m", module, *arguments]) as process:
        try:
            status = process.wait()
        except KeyboardInterrupt:
            raise SystemExit(process.wait() or 130) from None
    if status:
        raise SystemExit(status)
