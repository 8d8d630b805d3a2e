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
from l2l_opt.rule_costs import rule_costs

SAID = ("rule", "task", "horizon", "figures", "licence")
LABELS = {
    "task": "task of meta-training",
    "horizon": "horizon of meta-training",
    "figures": "figures of meta-training",
    "held_out_figures": "held-out figures",
    "state_bytes_per_parameter": "bytes of state per parameter, float32",
    "state_bytes_per_parameter_bfloat16": "bytes of state per parameter, hidden state in bfloat16",
    "operations_per_parameter_and_step": "floating-point operations per parameter and step",
}
ABSENT = {
    "task": "none stated",
    "horizon": "none stated",
    "licence": "none stated",
    "held_out_figures": "none measured",
}


@click.command()
@click.argument("rule", required=False)
@click.option("--runtime", is_flag=True, default=False, show_default="off", help="Instead: what computes here.")
@click.option("--json", "as_json", is_flag=True, default=False, show_default="off", help="For a machine to read.")
@device_options
def show(rule: str | None, runtime: bool, as_json: bool, device: str, threads: int, dtype: str) -> None:
    """Print the card of RULE (a shipped name or a path): what it is, where it comes from, what it costs.

    With --runtime: versions, devices, and which kernels compute the rules' step on this machine.

    Example: l2l-opt show default-2
    """
    if (rule is None) != runtime:
        raise click.UsageError(
            f"show takes either RULE or --runtime; got {'both' if runtime else 'neither'}, use e.g. "
            "l2l-opt show default-2"
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
    """What the artefact says of itself, None for what it does not say, and what was counted on the rule here."""
    loaded = load_rule(rule)
    card = dict(loaded.card or {})
    figures = card.get("figures")
    costs = rule_costs(loaded.float())
    return (
        {key: card.pop(key, None) for key in SAID}
        | {
            # Validation chooses a rule: what it measured is no evidence about tasks that the rule has not seen.
            "held_out_figures": figures.get("held_out") if isinstance(figures, dict) else None,
            "weights": sum(weight.numel() for weight in loaded.parameters()),
            "state_bytes_per_parameter": costs.state_bytes,
            "state_bytes_per_parameter_bfloat16": costs.state_bytes_bfloat16,
            "operations_per_parameter_and_step": costs.operations,
        }
        | card
    )


def _print(card: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(card, indent=2))
        return
    for key, value in card.items():
        label = _plain(LABELS.get(key, key.replace("_", " ")))
        if isinstance(value, dict):
            click.echo(f"{label}:")
            for name, item in value.items():
                shown = ", ".join(f"{k}={v}" for k, v in item.items()) if isinstance(item, dict) else item
                click.echo(f"  {_plain(name.replace('_', ' '))}: {_plain(shown)}")
        else:
            click.echo(f"{label}: {_plain(ABSENT.get(key, 'none') if value is None else value)}")


def _plain(value: Any) -> str:
    """A file's text, without the control characters that a terminal would obey."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(value))
