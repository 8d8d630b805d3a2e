"""The step on a GPU without one: in Triton's interpreter, compiled for two generations, counted on the meta device."""

import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from l2l_opt import LearnedOptimizer
from l2l_opt.kernels import triton as triton_steps
from l2l_opt.optimizer.watch import READ_EVERY
from l2l_opt.pretrained import DEFAULT
from l2l_opt.rules.base import make_rule
from scripts.experiments.benchmarks import launches
from tests.kernels.test_step import gradients
from tests.kernels.test_step import make_rule as strong_rule

triton = pytest.importorskip("triton", reason="triton is not installed")

ROOT = Path(__file__).parents[2]
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.slow
def test_in_the_interpreter():
    arguments = ("-q", "-p", "no:xdist", "-p", "no:cacheprovider", "tests/kernels/triton_interpreted.py")
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]
    assert re.search(r"\d{2} passed", run.stdout)


COMPILE = """
import re, subprocess, sys, tempfile
from pathlib import Path
import torch, triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from l2l_opt.kernels.triton import MixedStep
from l2l_opt.kernels.triton.tables import Update
from l2l_opt.pretrained import DEFAULT
from l2l_opt.rules.base import make_rule

TOOL = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"

class Generation:
    def __init__(self, name):
        self.target = GPUTarget("cuda", int(name), 32) if name.isdigit() else GPUTarget("hip", name, 64)
    get_current_target = lambda self: self.target
    get_current_device = get_current_stream = lambda self, *_: 0

def usage(compiled):
    if "amdgcn" in compiled.asm:
        counts = dict(re.findall(r"\\.(\\w+): +(\\d+)", compiled.asm["amdgcn"].partition("amdhsa.kernels")[2]))
        return [counts[key] for key in ("vgpr_count", "vgpr_spill_count", "private_segment_fixed_size")]
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        found = subprocess.run([TOOL, "--dump-resource-usage", file.name], capture_output=True, text=True).stdout
    return re.findall(r"REG:(\\d+) STACK:(\\d+) SHARED:\\d+ LOCAL:(\\d+)", found)[0]

spec, generation, dtype, state_dtype = *sys.argv[1:3], *(getattr(torch, name) for name in sys.argv[3:])
torch.version.hip = None if generation.isdigit() else "7"
driver.set_active(Generation(generation))
rule, update = make_rule(spec), Update(1.0, 0.0, 1.0, torch.ones(()))
params = {"matrix": torch.zeros(7, 5), "vector": torch.zeros(30)}
states = [
    {key: value.to(rule.dtype_between_steps(key, state_dtype) or value.dtype) for key, value in state.items()}
    | {"skipped": torch.zeros((), dtype=torch.int64)}
    for state in rule.init_state(params).values()
]
values = [param.to(dtype) for param in params.values()]
(_, step), = MixedStep(rule.compiled_step(), values, states, num_steps=10).parts
launches = step.launches(update, guarded=True)
for shapes in getattr(step, "batches", {}).values():
    launches.append(step.apply(shapes[0], shapes[0].directions, update, guarded=True))
for launch in launches:
    compiled = launch.kernel.warmup(**launch.arguments, **launch.constants, **launch.options, grid=(1,))
    print(launch.kernel.__name__, *usage(compiled))
"""
"""With a driver that only names its target, Triton takes real arguments all the way to machine code."""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ptxas comes with Triton's wheels for Linux")
@pytest.mark.parametrize(
    ("spec", "generation", "dtypes", "kernels"),
    [
        ("scale-free", "80", ("float32", "float32"), 6),
        ("scale-free:recurrent=True", "90", ("bfloat16", "bfloat16"), 6),
        ("scale-free", "gfx942", ("float32", "bfloat16"), 6),
        ("rnnprop", "80", ("float32", "float32"), 3),
        ("lstm", "90", ("float16", "bfloat16"), 3),
        ("lstm", "gfx942", ("float32", "float32"), 3),
        ("mlp", "80", ("float32", "float32"), 5),
        ("mlp", "gfx942", ("float16", "float32"), 5),
        ("mlp:hidden_size=32,num_layers=3", "90", ("bfloat16", "float32"), 5),
        ("celo2", "80", ("bfloat16", "float32"), 7),
        ("celo2", "90", ("float32", "float32"), 7),
        ("celo2", "gfx942", ("float32", "float32"), 7),
    ],
)
def test_compiled_without_spills(spec, generation, dtypes, kernels, tmp_path):
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    run = subprocess.run(
        [sys.executable, "-c", COMPILE, spec, generation, *dtypes],
        cwd=ROOT,
        env=environment | {"TRITON_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-4000:]
    lines = [line.split() for line in run.stdout.splitlines()]
    assert len(lines) == kernels
    for name, registers, stack, local in lines:
        assert 0 < int(registers) <= 128, name
        assert int(stack) == int(local) == 0, name


@pytest.mark.parametrize(
    ("options", "most"),
    [
        ({}, (50, 149)),
        ({"num_steps": None}, (50, 149)),
        ({"whitening_dtype": torch.bfloat16}, (63, 177)),
        ({"guard": "fallback"}, (51, 150)),
    ],
)
def test_launches_of_the_default_are_few(options, most):
    gpt2 = launches.count(DEFAULT, launches.gpt2_shapes(), **options)
    resnet = launches.count(DEFAULT, launches.resnet18_shapes(), **options)
    assert 5 < gpt2["launches"] <= most[0]
    assert 5 < resnet["launches"] <= most[1]
    for found in (gpt2, resnet):
        assert found["host_syncs"] == found["host_to_device_copies"] == 0
    assert gpt2["temporary_bytes"] + gpt2["persistent_bytes"] <= 1e9


def test_measuring_an_update_for_the_fallback_takes_launches_that_do_not_grow(monkeypatch):
    monkeypatch.setattr("l2l_opt.optimizer.watch.READ_EVERY", 3)
    for dtype in (torch.float32, torch.bfloat16):
        for shapes in ([(8,)], launches.gpt2_shapes()):
            options = {"dtype": dtype, "shapes": shapes}
            without, measured = (launches.count(DEFAULT, **options, guard=guard) for guard in ("skip", "fallback"))
            assert 0 < measured["launches"] - without["launches"] <= 20
            assert measured["host_syncs"] == measured["host_to_device_copies"] == 0


def test_channels_last_takes_what_other_weights_do():
    shapes = launches.resnet18_shapes()
    for rule in (DEFAULT, "lstm"):
        counts = [launches.count(rule, shapes, memory_format=form) for form in (None, torch.channels_last)]
        assert counts[0] == counts[1]


@pytest.mark.parametrize("shapes", [launches.gpt2_shapes(), launches.resnet18_shapes(), [(8,)]])
def test_rows_on_eight_devices_take_few_reductions(shapes):
    ours = launches.count(DEFAULT, shapes, devices=8)
    whole = launches.count(DEFAULT, shapes)
    assert ours["reductions"] <= 4
    assert ours["reduced_bytes"] <= 2 * 4 * sum(map(math.prod, shapes))
    assert ours["host_syncs"] == ours["host_to_device_copies"] == 0
    # Of all launches two more, which add up, and what clears the room of wide matrices.
    assert whole["launches"] <= ours["launches"] <= whole["launches"] + 3
    assert launches.count("lstm", shapes, devices=8)["reductions"] == 1


@pytest.mark.parametrize(("rule", "most"), [("lstm", 3), ("rnnprop", 3), ("mlp", 5), ("celo2", 7)])
def test_launches_of_other_rules_do_not_grow(rule, most):
    for shapes in ([(3, 2)], launches.gpt2_shapes(), launches.resnet18_shapes()):
        found = launches.count(rule, shapes)
        assert found["launches"] == most
        assert found["host_syncs"] == found["host_to_device_copies"] == found["temporary_bytes"] == 0


def test_what_steps_on_a_gpu_is_said(monkeypatch):
    assert triton_steps.describe() == f"Triton {triton.__version__}"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install triton" in triton_steps.describe()


def test_a_cpu_is_never_stepped_so():
    assert not triton_steps.computes(make_rule("lstm").compiled_step(), torch.device("cpu"))
    assert not triton_steps.computes(None, torch.device("cuda"))


@pytest.mark.parametrize("name", ["mlp", "celo2"])
def test_perceptrons_of_divided_tensors_are_left_to_the_forward_pass(name, monkeypatch):
    monkeypatch.setattr(triton_steps, "DEVICES", {"meta"})
    compiled, device = make_rule(name).compiled_step(), torch.device("meta")
    assert triton_steps.computes(compiled, device)
    assert not triton_steps.computes(compiled, device, is_divided=True)
    assert triton_steps.computes(make_rule("lstm").compiled_step(), device, is_divided=True)


@needs_cuda
@pytest.mark.parametrize("name", ["lstm", "rnnprop", "scale-free", "mlp", "celo2"])
def test_cuda_takes_the_cpus_steps_and_goes_on_with_its_state(name):
    def optimizer_on(device, state=None, values=None):
        params = [torch.nn.Parameter(value.to(device)) for value in values or gradients(99)]
        optimizer = LearnedOptimizer(params, strong_rule(name, purely=False), num_steps=20, weight_decay=0.1)
        if state is not None:
            optimizer.load_state_dict(state)
        return params, optimizer

    def step(params, optimizer, index):
        for param, gradient in zip(params, gradients(index), strict=True):
            param.grad = gradient.to(param.device)
        optimizer.step()

    here, there = optimizer_on("cpu"), optimizer_on("cuda")
    for index in range(3):
        for pair in (here, there):
            step(*pair, index)
    crossed = optimizer_on("cuda", here[1].state_dict(), [param.detach() for param in here[0]])
    for pair in (here, there, crossed):
        step(*pair, 3)
    for other in (there, crossed):
        for p, q in zip(here[0], other[0], strict=True):
            assert torch.allclose(p, q.cpu(), rtol=1e-4, atol=1e-6)


@needs_cuda
@pytest.mark.parametrize("name", ["lstm", "rnnprop", "scale-free", "mlp", "celo2"])
def test_a_step_in_a_cuda_graph_reads_the_rate_anew(name):
    def made(lr):
        params = [torch.nn.Parameter(value.cuda()) for value in gradients(99)]
        for param, gradient in zip(params, gradients(0), strict=True):
            param.grad = gradient.cuda()
        return params, LearnedOptimizer(params, strong_rule(name, purely=False), lr=lr)

    rate = torch.ones((), device="cuda")
    (params, captured), (others, plain) = made(rate), made(1.0)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        captured.step()
    torch.cuda.current_stream().wait_stream(side)
    plain.step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured.step()
    for lr in (1.0, 0.5, 0.1):
        rate.fill_(lr)
        graph.replay()
        plain.param_groups[0]["lr"] = lr
        plain.step()
    for p, q in zip(params, others, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-7)


@needs_cuda
def test_steps_that_are_watched_wait_for_a_gpu_once_in_ten():
    param = torch.nn.Parameter(torch.ones(8, 8, device="cuda"))
    optimizer = LearnedOptimizer([param], strong_rule("scale-free", purely=False), guard="fallback")
    loss = torch.ones((), device="cuda")
    for step in range(3 * READ_EVERY):
        param.grad = torch.ones_like(param)
        mode = "default" if step < READ_EVERY or (step + 1) % READ_EVERY == 0 else "error"
        torch.cuda.set_sync_debug_mode(mode)
        try:
            optimizer.step(loss=loss)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert optimizer.state_dict()["param_groups"][0]["watch"]["num_losses"] == 3 * READ_EVERY
