"""Commands as a shell starts them, each in a process of its own, forked from one that has imported torch already.

The imports take three seconds of a core, and a hundred commands would take them a hundred times.
"""

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(
    [
        "torch._dynamo",  # which torch's optimizers import when the first one is made
        "torch.utils.tensorboard",
        "matplotlib.backends.backend_agg",
        "sklearn.ensemble",
        "l2l_opt.cli.evaluate",
        "l2l_opt.cli.adapt",
        "l2l_opt.cli.few_shot_evaluate",
        "l2l_opt.cli.few_shot_meta_train",
        "l2l_opt.cli.inspect",
        "l2l_opt.cli.meta_train",
        "l2l_opt.cli.report",
    ]
)


def run_python(*arguments, folder=None, **variables):
    """``python -m MODULE ...`` or ``python FILE ...`` in a folder, with further environment variables."""
    words, environment = [str(word) for word in arguments], {**os.environ, **variables}
    with tempfile.TemporaryDirectory() as report:
        process = PROCESSES.Process(target=_become, args=(words, folder or os.getcwd(), environment, report))
        process.start()
        process.join()
        out, err = (Path(report, name).read_text() for name in ("out", "err"))
    return subprocess.CompletedProcess(words, process.exitcode, out, err)


def _become(words, folder, environment, report):
    for descriptor, name in ((1, "out"), (2, "err")):
        with open(Path(report, name), "w") as file:
            os.dup2(file.fileno(), descriptor)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    if words[0] == "-m":
        sys.argv, sys.path[0:0] = words[1:], [str(folder)]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[0:0] = words, [str(Path(words[0]).parent)]
        runpy.run_path(words[0], run_name="__main__")
