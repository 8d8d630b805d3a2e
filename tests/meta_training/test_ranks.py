"""Several ranks: the same phi as one, a run that may change their number, and the death of one."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from l2l_opt import load_rule
from l2l_opt.meta_training.ranks import ALONE, Ranks, local_device

pytestmark = pytest.mark.slow

SMALL = [
    "meta-train", "--rule", "rnnprop:hidden_size=4", "--task", "quadratics:dim=3", "--horizon", "20",
    "--truncation-length", "5", "--students", "5", "--dtype", "float64", "--validate-every", "4",
    "--validation-students", "3", "--meta-lr", "0.01",
]  # fmt: skip
L2L_OPT = [sys.executable, "-m", "l2l_opt.cli"]


def run(*arguments, code=0, command=L2L_OPT):
    result = subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=300)
    assert result.returncode == code, result.stderr
    return result


def phi(folder):
    return {key: value.detach() for key, value in load_rule(folder / "last.safetensors").named_parameters()}


def record(folder):
    return json.loads((folder / "run.json").read_text())


def test_shares_are_contiguous_disjoint_and_whole():
    for size in (1, 2, 3, 7):
        shares = [list(Ranks(rank, size).share(range(7))) for rank in range(size)]
        assert [number for share in shares for number in share] == list(range(7))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
    with pytest.raises(ValueError, match="a student for every rank; got 1 for 2"):
        Ranks(0, 2).share([0])


def test_alone_nothing_is_sent():
    tensors = [torch.ones(2), torch.ones(1, dtype=torch.float64)]
    assert ALONE.sum(tensors) == tensors
    assert ALONE.any([True, False]) == [True, False]
    assert ALONE.gather("a") == ["a"]
    assert ALONE.first(lambda: 3) == 3
    assert local_device(torch.device("cpu")) == torch.device("cpu")


def test_two_ranks_are_one_and_a_run_may_change_their_number(tmp_path):
    """Once with --nproc, once with torchrun; the second half of each on another number of ranks."""
    run(*SMALL, "--outer-steps", 12, "--out", tmp_path / "one")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    run(*SMALL, "--outer-steps", 12, "--out", tmp_path / "two", command=[*torchrun, "l2l_opt.cli"])
    result = run(*SMALL, "--outer-steps", 12, "--nproc", 2, "--out", tmp_path / "half", "--minutes", 1e-6)
    assert result.stdout.count("out of time") == 1
    assert record(tmp_path / "half")["outer_step"] < 12
    run(*SMALL, "--outer-steps", 12, "--out", tmp_path / "half", "--resume")
    for name in ("two", "half"):
        assert record(tmp_path / name)["outer_step"] == 12
        for key, value in phi(tmp_path / "one").items():
            other = phi(tmp_path / name)[key]
            assert (value - other).abs().max() <= 1e-9 * max(1.0, float(value.abs().max())), key
        one, other = (record(tmp_path / each)["figures"]["validation"] for each in ("one", name))
        assert one == pytest.approx(other, rel=1e-9)


def ranks_of(parent):
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return {
        int(environment["RANK"]): int(pid)
        for pid in children
        for environment in [
            dict(
                entry.split("=", 1)
                for entry in Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
                if "=" in entry
            )
        ]
        if "RANK" in environment
    }


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")
@pytest.mark.parametrize("rank", [0, 1])
def test_the_death_of_a_rank_ends_the_job_with_a_good_checkpoint(rank, tmp_path):
    arguments = [*SMALL, "--nproc", "2", "--outer-steps", "100000", "--checkpoint-every", "2", "--out"]
    with subprocess.Popen(
        [*L2L_OPT, *arguments, str(tmp_path / "run")], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        deadline = time.monotonic() + 120
        while not (tmp_path / "run" / "run.json").exists() or record(tmp_path / "run")["outer_step"] < 4:
            assert time.monotonic() < deadline
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.05)
        os.kill(ranks_of(process.pid)[rank], signal.SIGKILL)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "Traceback" not in err
    assert f"got SIGKILL in rank {rank}, go on with --resume" in err
    done = record(tmp_path / "run")["outer_step"]
    if rank == 0:  # either death leaves the same files
        result = run(*arguments, tmp_path / "run", "--resume", "--minutes", 1e-6)
        assert f"going on from outer step {done}" in result.stderr


def test_bad_options_are_said_once_and_end_all_ranks(tmp_path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "run.json").write_text("{}")
    result = run(*SMALL, "--nproc", 2, "--out", tmp_path / "taken", code=2)
    assert result.stderr.count("must not hold a run already") == 1
    result = run(*SMALL, "--nproc", 6, "--out", tmp_path / "many", code=2)
    assert result.stderr.count("a student for every rank; got 5 for 6") == 1
