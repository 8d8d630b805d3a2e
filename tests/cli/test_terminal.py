"""What somebody at a terminal meets: help, names mistyped, lines of 80 columns, progress, Ctrl-C."""

import os
import re
import shlex
import signal
import subprocess
import sys

import click
import pytest
import torch

from l2l_opt.cli.main import COMMANDS, FEW_SHOT, few_shot, group
from tests.cli.test_errors import error_line, run  # noqa: F401
from tests.cli.test_journeys import SMALL

ALL = [[name] for name in COMMANDS if name != "few-shot"] + [["few-shot", name] for name in FEW_SHOT]
COMMAND = [sys.executable, "-m", "l2l_opt.cli"]


def command_of(words):
    parent = few_shot if words[0] == "few-shot" else group
    return parent.get_command(click.Context(parent), words[-1])


@pytest.mark.parametrize("words", [[], ["few-shot"]])
def test_a_group_alone_shows_its_help_and_succeeds(run, words):  # noqa: F811
    code, out, err = run(*words)
    assert (code, err) == (0, "")
    assert out == run(*words, "--help")[1]
    assert "meta-train" in out


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["meta-trian"], "got 'meta-trian', did you mean 'meta-train'?"),
        (["few-shot", "adpat"], "got 'adpat', did you mean 'adapt'?"),
        (["few-shot", "dance"], "use one of meta-train, evaluate, adapt, predict"),
        (["meta-train", "--outer-stps", "3"], "'--outer-steps'"),
        (["few-shot", "adapt", "--lable", "y"], "'--label'"),
    ],
)
def test_what_is_mistyped_gets_a_suggestion(run, arguments, hint):  # noqa: F811
    code, _, err = run(*arguments)
    assert code == 2
    assert hint in error_line(err)


@pytest.mark.parametrize(
    ("arguments", "missing"),
    [
        (["evaluate"], "'RULE'"),
        (["few-shot", "adapt", "--out", "model"], "'--data'"),
        (["few-shot", "adapt", "--data", "x.csv"], "'--out'"),
        (["few-shot", "predict", "--model", "model", "--data", "x.csv"], "'--out'"),
    ],
)
def test_what_must_be_given_is_asked_for(run, arguments, missing):  # noqa: F811
    code, _, err = run(*arguments)
    assert code == 2
    assert missing in error_line(err)


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_help_fits_80_columns_and_has_each_option_in_a_sentence(words):
    command = command_of(words)
    text = command.get_help(click.Context(command, info_name=words[-1], terminal_width=80))
    assert max(map(len, text.splitlines())) <= 80
    for option in command.params:
        if isinstance(option, click.Option):
            assert len(option.help) <= 90, option.help
            assert option.help.endswith(".")
            assert not re.search(r"[^.]\. [A-Z]", option.help), option.help


@pytest.mark.parametrize("device", ["mps", "cuda", "cuda:9", "quantum"])
@pytest.mark.parametrize("words", [words for words in ALL if words[-1] not in ("adapt", "predict")], ids=" ".join)
def test_a_device_that_is_not_here_is_refused_by_every_command(run, monkeypatch, words, device):  # noqa: F811
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: None)
    code, _, err = run(*words, "--device", device)
    assert code == 2
    assert error_line(err) == f"Error: device must be one that this machine has; got {device!r}, use cpu"


def test_devices_that_are_here_are_named(run, monkeypatch):  # noqa: F811
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    assert "use cpu or cuda or cuda:0 or cuda:1" in run("list", "rules", "--device", "cuda:2")[2]
    assert run("list", "rules", "--device", "cuda:1")[0] == 0


@pytest.mark.parametrize("what", ["pretrained", "tasks", "rules", "estimators", "episodes", "methods", "models"])
def test_lists_fit_80_columns(run, monkeypatch, what):  # noqa: F811
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = run("list", what)
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    if what == "pretrained":
        assert "default-3: scale-free, meta-trained on 13 tasks" in out
        assert "l2l-opt show NAME" in out


def on_terminal(columns, *arguments):
    """What a command shows on a terminal of so many columns, line by line and frame by frame."""
    import fcntl
    import pty
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    words = [*COMMAND, *map(str, arguments)]
    shown = b""
    with subprocess.Popen(
        words, stdin=theirs, stdout=theirs, stderr=theirs, env=environment | {"TERM": "xterm"}
    ) as process:
        os.close(theirs)
        # Linux reports the end as an error.
        try:
            while piece := os.read(ours, 1 << 16):
                shown += piece
        except OSError:
            pass
    os.close(ours)
    assert process.returncode == 0, shown
    return re.split(r"[\r\n]+", re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", shown.decode()))


@pytest.mark.slow
@pytest.mark.parametrize("columns", [80, 40])
def test_progress_keeps_outer_step_and_time_left_on_a_narrow_terminal(columns, tmp_path):
    options = [*SMALL, "--outer-steps", 120, "--validate-every", 40, "--students", 2, "--out", tmp_path / "run"]
    frames = [line for line in on_terminal(columns, "meta-train", *options) if line.startswith("outer step")]
    assert frames[-1].startswith("outer step 120/120 0:00:00 left")
    assert len(frames) > 3
    for frame in frames:
        assert re.match(r"outer step +\d+/120 (\d:\d\d:\d\d|-:--:--) left ", frame), frame
        assert len(frame) <= columns
    assert ("validation" in frames[-1]) == (columns == 80)


def interrupted(arguments, *marks, number=signal.SIGINT, **options):
    """Sends Ctrl-C, or another signal, whenever the next mark is read on standard error; gives what was said there."""
    words = [*COMMAND, *map(str, arguments)]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, **options) as process:
        said, marks = "", list(marks)
        for line in process.stderr:
            said += line
            if marks and marks[0] in line:
                marks.pop(0)
                process.send_signal(number)
    assert process.returncode == 1, said
    assert not marks
    for word in ("Error", "Aborted", "Traceback"):
        assert word not in said
    return said


def resume_command(said):
    """The command in the last line, as a user would copy it."""
    command = shlex.split(said.splitlines()[-1].partition("go on with: ")[2])
    assert command[0] == "l2l-opt", said
    return command[1:]


SLOW_TASK = """
import time
from l2l_opt import register_task
from l2l_opt.tasks.synthetic.quadratics import Quadratics

class Slow(Quadratics):
    def sample_batch(self, *arguments):
        time.sleep(0.02)
        return super().sample_batch(*arguments)

@register_task("slow")
def slow():
    return Slow(dim=2)
"""
NO_VALIDATION = ["--validation-students", 1, "--validation-horizon", 5]


@pytest.mark.slow
def test_ctrl_c_tells_that_the_run_ends_and_a_second_one_ends_it_at_once(tmp_path):
    (tmp_path / "slow.py").write_text(SLOW_TASK)
    command = ["meta-train", *SMALL, "--task", "slow", "--plugin", tmp_path / "slow.py", "--outer-steps", 4]
    command += ["--students", 4, *NO_VALIDATION, "--validate-every", 1, "--out", tmp_path / "run"]
    said = interrupted(command, "outer step 1 of 4")
    assert "SIGINT: the run ends after this outer step, with a checkpoint; a second one ends it at once" in said
    assert "stopped by SIGINT after outer step 2; go on with: " in said
    again = resume_command(said)
    assert again == [*map(str, command), "--resume"]
    said = interrupted(again, "outer step 3 of 4", "SIGINT: the run ends")
    assert "stopped by Ctrl-C; the run's last checkpoint is kept; go on with: " in said
    assert "going on from outer step 2" in said
    assert resume_command(said) == again


@pytest.mark.slow
def test_ctrl_c_ends_few_shot_meta_training_as_any_run(tmp_path):
    command = ["few-shot", "meta-train", "--outer-steps", 100000, "--validate-every", 5, "--validation-episodes", 2]
    said = interrupted([*command, "--out", tmp_path / "run"], "outer step 5 of")
    assert "stopped by SIGINT after outer step" in said
    assert resume_command(said)[-1] == "--resume"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "mark"),
    [
        (["evaluate", "default-1", "--task", "quadratics:dim=2", "--horizon", 2000], "tuning momentum"),
        (["inspect", "default-1", "--task", "quadratics:dim=2", "--horizon", 2000], "tuning momentum"),
    ],
    ids=["evaluate", "inspect"],
)
def test_ctrl_c_tells_what_is_kept(tmp_path, command, mark):
    said = interrupted([*command, "--cache", tmp_path / "cache"], mark, cwd=tmp_path)
    assert f"stopped by Ctrl-C; what was tuned and run is kept in {tmp_path / 'cache'}; go on with: " in said
    assert resume_command(said) == [*map(str, command), "--cache", str(tmp_path / "cache")]
    assert list((tmp_path / "cache").rglob("*"))


@pytest.mark.slow
def test_ctrl_c_tells_that_adapting_keeps_nothing(tmp_path):
    rows = "".join(f"K{number},{number % 7},{'xz'[number % 2]}\n" for number in range(60))
    (tmp_path / "t.csv").write_text(f"key,a,y\n{rows}")
    command = ["few-shot", "adapt", "--data", "t.csv", "--label", "y", "--out", "model", "--steps", 100000]
    said = interrupted(command, "note: ", cwd=tmp_path)
    assert said.splitlines()[-1] == "stopped by Ctrl-C; nothing was kept"
    assert not (tmp_path / "model").exists()
