"""l2l-opt show."""

import json
import platform
from typing import Any

import click
import torch
from torch.utils._triton import has_triton

from l2l_opt import __version__
from l2l_opt.checkpoint import load_rule
from l2l_opt.cli.common import device_options
from l2l_opt.kernels import native


@click.command()
@click.argument("rule", required=False)
@click.option("--runtime", is_flag=True, default=False, show_default="off", help="Instead: what computes here.")
@click.option("--json", "as_json", is_flag=True, default=False, show_default="off", help="For a machine to read.")
@device_options
def show(rule: str | None, runtime: bool, as_json: bool, device: str, threads: int, dtype: str) -> None:
    """Print the card of RULE (a shipped name or a path): what it is, where it comes from, what it costs.

    With --runtime: versions, devices, and which kernels compute the rules' step on this machine.

    Example: l2l-opt show default-1
    """
    if (rule is None) != runtime:
        raise click.UsageError(
            f"show takes either RULE or --runtime; got {'both' if runtime else 'neither'}, use e.g. "
            "l2l-opt show default-1"
        )
    _print(_runtime() if rule is None else _card(rule), as_json=as_json)


def _runtime() -> dict[str, Any]:
    by = "Triton" if has_triton() else "PyTorch"
    devices = [f"{torch.cuda.get_device_name(index)} ({by})" for index in range(torch.cuda.device_count())]
    return {
        "versions": {"l2l_opt": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "kernels": native.describe(),
        "threads": torch.get_num_threads(),
        "devices": {"cpu": platform.machine()} | {f"cuda:{index}": name for index, name in enumerate(devices)},
    }


def _card(rule: str) -> dict[str, Any]:
    loaded = load_rule(rule)
    params = {"weight": torch.zeros(100, 10)}
    state = loaded.init_state(params)["weight"]
    return dict(loaded.card or {}) | {
        "weights": sum(weight.numel() for weight in loaded.parameters()),
        "state_bytes_per_parameter": sum(
            value.numel() * value.element_size() for value in state.values() if value.dim()
        )
        // 1000,
    }


def _print(card: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(card, indent=2))
        return
    for key, value in card.items():
        if isinstance(value, dict):
            click.echo(f"{key.replace('_', ' ')}:")
            for name, item in value.items():
                shown = ", ".join(f"{k}={v}" for k, v in item.items()) if isinstance(item, dict) else item
                click.echo(f"  {name.replace('_', ' ')}: {shown}")
        else:
            click.echo(f"{key.replace('_', ' ')}: {value}")
