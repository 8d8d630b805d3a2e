"""Speed-ups of specialised rules beyond the factor of 4 that their runs stop at: AdamW trains 16 times as long.

    python -m scripts.experiments.specialise.measure_speed_ups

Takes losses of specialised rules and of those they began from as `measure_specialise` has left them, and trains the
same students with AdamW at constant rates, six half-decades around the best for the rules' own steps. A speed-up is the
steps that the lower envelope of these runs needs to a student's loss over the steps of the rule. Writes
results/specialise/speed-ups.json, and README.md anew.
"""

import json
from collections.abc import Mapping
from typing import Any

import click
import numpy as np
import torch

from l2l_opt.evaluation.baselines.entries import ADAMW_CONSTANT
from l2l_opt.evaluation.runs import long_curves
from l2l_opt.evaluation.speed_up import steps_to_reach
from l2l_opt.inner_loop.training import tail_length
from l2l_opt.specialising.comparison import BEFORE, SPECIALISED
from l2l_opt.tasks.mixture import make_tasks
from scripts.experiments import records
from scripts.experiments.specialise import measure_specialise

TIMES = 16
HALF_DECADES = range(-4, 2)
"""A run that is 16 times as long wants a smaller rate."""


def measure(content: Mapping[str, Any], known: dict[tuple[str, int], np.ndarray]) -> dict[str, list[float]]:
    """Return the speed-ups of both rules of a run, a student each, at most ``TIMES``.

    Args:
        content: of the run.
        known: curves of AdamW by task and seed, ``[steps, rates, students]``, added to.
    """
    options, comparison = content["options"], content["comparison"]
    results = {own["optimizer"]: own for own in comparison["results"]}
    key, horizon = (options["task"], options["seed"]), options["horizon"]
    if key not in known:
        rates = [results["adamw-constant"]["settings"]["lr"] * 10 ** (k / 2) for k in HALF_DECADES]
        how = {"steps": TIMES * horizon, "num_seeds": options["seeds"], "seed": options["seed"]}
        known[key] = long_curves(ADAMW_CONSTANT.make, rates, make_tasks(options["task"]), **how).double().numpy()
    found = {}
    for name in (BEFORE, SPECIALISED):
        steps = steps_to_reach(known[key], np.asarray(results[name]["final_losses"]), tail_length(horizon))
        found[name] = np.minimum(steps / horizon, TIMES).tolist()
    return found


@click.command()
def main() -> None:
    """Measure speed-ups that are above 4."""
    torch.set_num_threads(1)
    known = dict[tuple[str, int], np.ndarray]()
    found = {}
    for path in sorted(measure_specialise.FOLDER.glob("*-default-*-8-[0-9].json")):
        content = json.loads(path.read_text())
        if "comparison" in content:
            found[path.stem] = measure(content, known)
            click.echo(f"{path.stem}: {[float(np.mean(own)) for own in found[path.stem].values()]}")
    records.write(measure_specialise.FOLDER / "speed-ups.json", {"times": TIMES, "speed_ups": found})
    measure_specialise.publish()


if __name__ == "__main__":
    main()
