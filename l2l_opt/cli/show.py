"""l2l-opt show."""

import json
from typing import Any

import click
import torch

from l2l_opt.checkpoint import load_rule
from l2l_opt.cli.common import device_options


@click.command()
@click.argument("rule")
@click.option("--json", "as_json", is_flag=True, default=False, show_default="off", help="For a machine to read.")
@device_options
def show(rule: str, as_json: bool, device: str, threads: int, dtype: str) -> None:
    """Print the card of RULE (a shipped name or a path): what it is, where it comes from, what it costs.

    Example: l2l-opt show default-1
    """
    loaded = load_rule(rule)
    params = {"weight": torch.zeros(100, 10)}
    state = loaded.init_state(params)["weight"]
    card: dict[str, Any] = dict(loaded.card or {}) | {
        "weights": sum(weight.numel() for weight in loaded.parameters()),
        "state_bytes_per_parameter": sum(
            value.numel() * value.element_size() for value in state.values() if value.dim()
        )
        // 1000,
    }
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
