"""A small network trained in one process, under DDP and under FSDP2, on ranks of one machine, with checkpoints by DCP.

    python -m scripts.experiments.optimizer.sharded_training JOBS.json

JOBS.json is ``{"ranks": 2, "jobs": [...]}``; every rank does the jobs one after the other. A job is

    {"kind": "alone" | "ddp" | "fsdp", "rule": name or registry spec, "dtype": "float64", "steps": 50, "out": FILE,
     "load": FOLDER, "save": FOLDER, "spoil": 3, "options": {"guard": "fallback"}, "triton": true}

of which the last five may be left out; at step ``spoil`` the last row of one gradient is not finite; ``triton`` takes
the CPU for a GPU, in Triton's interpreter (TRITON_INTERPRET=1). FILE gets whole parameters after the first and the
last step, the optimizer's whole state, and the number of reductions of the last step. Under ``alone`` every rank trains
on the whole batch by itself, otherwise on its share, so that gradients are the same but for rounding.
"""

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from l2l_opt import LearnedOptimizer, UpdateRule, list_pretrained, load_rule
from l2l_opt.kernels import triton
from l2l_opt.rules import make_rule

BATCH = 24


class Network(nn.Module):
    """Tensors that two ranks share unevenly, and one, ``scale``, of which the second rank gets nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.scale * self.body(inputs)


def rule_of(spec: str) -> UpdateRule:
    if spec in list_pretrained():
        return load_rule(spec)
    with torch.random.fork_rng():
        torch.manual_seed(11)
        rule = make_rule(spec)
        for weight in rule.parameters():
            # A fresh rule's outputs are hardly those of its network.
            weight.data += 0.1 * torch.randn_like(weight)
    return rule


def whole(value: Any) -> Any:
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def train(job: dict[str, Any], rank: int, ranks: int) -> None:
    dtype = getattr(torch, job["dtype"])
    torch.manual_seed(0)
    model = Network().to(dtype)
    inputs, targets = torch.randn(BATCH, 5, dtype=dtype), torch.arange(BATCH) % 3
    run: nn.Module = model
    share = slice(None) if job["kind"] == "alone" else slice(rank * BATCH // ranks, (rank + 1) * BATCH // ranks)
    if job["kind"] == "fsdp":
        fully_shard(model.body, mesh=init_device_mesh("cpu", (ranks,)))
        fully_shard(model, mesh=init_device_mesh("cpu", (ranks,)))
    elif job["kind"] == "ddp":
        run = DistributedDataParallel(model)
    options = dict(job.get("options", {}))
    if "state_dtype" in options:
        options["state_dtype"] = getattr(torch, options["state_dtype"])
    optimizer = LearnedOptimizer(model.named_parameters(), rule_of(job["rule"]), num_steps=100, **options)
    if job.get("load"):
        found, own = get_state_dict(model, optimizer)
        dcp.load({"model": found, "optimizer": own}, checkpoint_id=job["load"], no_dist=job["kind"] == "alone")
        set_state_dict(model, optimizer, model_state_dict=found, optim_state_dict=own)
    first, reductions = None, 0
    for step in range(job["steps"]):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(run(inputs[share]), targets[share])
        loss.backward()
        if step == job.get("spoil"):
            gradient = model.body[0].weight.grad
            gradient = gradient.to_local() if hasattr(gradient, "to_local") else gradient
            if rank == ranks - 1 or job["kind"] == "alone":
                gradient[-1] = torch.nan
        with mock.patch.object(dist, "all_reduce", wraps=dist.all_reduce) as counted:
            optimizer.step(loss=loss if "guard" in options else None)
        reductions = counted.call_count
        if first is None:
            first = {name: whole(p.detach()).clone() for name, p in model.named_parameters()}
    last = {name: whole(p.detach()).clone() for name, p in model.named_parameters()}
    state = {
        name: {key: whole(value).clone() for key, value in optimizer.state[p].items()}
        for name, p in model.named_parameters()
    }
    kinds = {type(value).__name__ for p in model.parameters() for value in optimizer.state[p].values() if value.dim()}
    if job.get("save") and (job["kind"] != "alone" or rank == 0):
        found, own = get_state_dict(model, optimizer)
        dcp.save({"model": found, "optimizer": own}, checkpoint_id=job["save"], no_dist=job["kind"] == "alone")
    if rank == 0 and job.get("out"):
        found = {"first": first, "last": last, "state": state, "kinds": sorted(kinds), "reductions": reductions}
        torch.save(found, job["out"])


def work(rank: int, ranks: int, jobs: list[dict[str, Any]], meeting: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=ranks)
    for job in jobs:
        with mock.patch.object(triton, "DEVICES", triton.DEVICES | ({"cpu"} if job.get("triton") else set())):
            train(job, rank, ranks)
        dist.barrier()
    dist.destroy_process_group()


def run_jobs(ranks: int, jobs: list[dict[str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(work, (ranks, jobs, os.path.join(folder, "meeting")), nprocs=ranks)


if __name__ == "__main__":
    content = json.loads(Path(sys.argv[1]).read_text())
    run_jobs(content["ranks"], content["jobs"])
