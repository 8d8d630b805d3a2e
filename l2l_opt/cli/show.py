"""l2l-opt show."""

import json
import platform
from typing import Any

import click
import torch
from torch import nn

from l2l_opt.cli.options import JSON, GroupedCommand, device_options, option, option_group, switch
from l2l_opt.cli.plugins import make_model
from l2l_opt.kernels import native, triton
from l2l_opt.optimizer.learned_optimizer import LearnedOptimizer
from l2l_opt.storage.card import card_of, facts_of
from l2l_opt.storage.rule_file import load_rule
from l2l_opt.version import __version__


@click.command(cls=GroupedCommand)
@click.argument("rule", required=False)
@option_group(
    "Output",
    option(
        "--model",
        None,
        "Print what a step costs on the model that a function makes.",
        metavar="FILE.py:FUNCTION",
        show_default="none",
    ),
    switch("--runtime", "Print what computes here instead."),
    JSON,
)
@device_options
def show(rule: str | None, model: str | None, runtime: bool, as_json: bool, **unused: Any) -> None:
    """Print the model card of RULE (a shipped name or a path): what it is, where it comes from, what it costs.

    With --model: bytes of state and seconds of a step on the parameters of that model, on the CPU, beside fused AdamW
    and torch's Muon; seconds are predicted from a measurement of this machine, a second or so for each width of matrix.
    With --runtime: versions, devices, and which kernels compute the rules' step on this machine.

    Example: l2l-opt show default-4
    """
    if (rule is None) != runtime:
        raise click.UsageError(
            f"show takes either RULE or --runtime; got {'both' if runtime else 'neither'}, use e.g. "
            "l2l-opt show default-4"
        )
    if rule is None:
        _print(_runtime(), as_json=as_json)
    elif model is None:
        _print(card_of(load_rule(rule).float()), as_json=as_json)
    else:
        _print_costs(rule, make_model(model), as_json=as_json)


def _runtime() -> dict[str, Any]:
    devices = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "versions": {"l2l_opt": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "kernels": native.describe(),
        "gpu_kernels": triton.describe(),
        "threads": torch.get_num_threads(),
        "devices": {"cpu": platform.machine()} | {f"cuda:{index}": name for index, name in enumerate(devices)},
    }


def _print_costs(rule: str, model: nn.Module, *, as_json: bool) -> None:
    params = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not params:
        raise click.UsageError("a model must have parameters to train; got none, return one that has")
    costs, count = LearnedOptimizer(params.items(), rule).cost(), sum(p.numel() for p in params.values())
    if as_json:
        click.echo(json.dumps({"parameters": count, "costs": [cost._asdict() for cost in costs]}, indent=2))
        return
    threads = torch.get_num_threads()
    click.echo(f"{count:,} parameters in {len(params)} tensors, {threads} thread{'s' * (threads > 1)}")
    for cost in costs:
        scale, unit = (1e6, "MB") if cost.state_bytes >= 1e5 else (1e3, "kB")
        state = f"{cost.state_bytes / scale:10.3f} {unit} of state"
        click.echo(f"{cost.optimizer:<24} {state} {1e3 * cost.seconds:10.3f} ms a step")


def _print(card: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(card, indent=2))
        return
    for label, value in facts_of(card):
        if isinstance(value, str):
            click.echo(f"{label}: {value}")
            continue
        click.echo(f"{label}:")
        for name, item in value:
            click.echo(f"  {name}: {item}")
