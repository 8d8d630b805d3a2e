"""What a process pays for its first LearnedOptimizer."""

import json
import subprocess
import sys

import pytest
from torch import nn

from l2l_opt import LearnedOptimizer
from tests.conftest import small_rule

CPU_SECONDS = 0.2
SCRIPT = """
import json, sys, time, torch
model = torch.nn.Linear(3, 2)
before = set(sys.modules)
start = time.process_time()
from l2l_opt import LearnedOptimizer
optimizer = LearnedOptimizer(model.parameters())
seconds = time.process_time() - start
for _ in range(2):
    optimizer.zero_grad()
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
optimizer.state_dict()
print(json.dumps({"seconds": seconds, "modules": sorted(set(sys.modules) - before)}))
"""


@pytest.mark.slow
def test_the_first_optimizer_of_a_process_costs_little_and_training_imports_no_compiler():
    runs = [
        json.loads(subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True).stdout)
        for _ in range(3)
    ]
    loaded = {name for run in runs for name in run["modules"]}
    assert "l2l_opt.optimizer.learned_optimizer" in loaded
    heavy = ("torch._dynamo", "torch._inductor", "torch.distributed.tensor", "sympy", "scipy", "click", "tensorboard")
    assert not loaded & set(heavy)
    assert min(run["seconds"] for run in runs) < CPU_SECONDS


@pytest.mark.parametrize("imported", [True, False])
def test_methods_are_kept_from_the_compiler_where_it_is_imported(imported, monkeypatch):
    import torch._dynamo

    if not imported:
        monkeypatch.delitem(sys.modules, "torch._dynamo")
    used = []
    monkeypatch.setattr(torch._dynamo, "disable", lambda method, *_, **__: used.append(method) or method)
    optimizer = LearnedOptimizer([nn.Parameter(torch.ones(2))], small_rule("sgd"))
    # Torch keeps what it has disabled once.
    for method in ("step", "state_dict", "zero_grad"):
        plain = getattr(LearnedOptimizer, method).__wrapped__
        monkeypatch.delattr(plain, "__dynamo_disable", raising=False)
        getattr(optimizer, method)()
    assert bool(used) == imported
