"""Writes docs/scale.md (text: scale.md here): what a learned rule costs at any size, from measured constants.

python -m scripts.experiments.benchmarks.scale
"""

import json
import math
from pathlib import Path
from typing import Any

import torch

from l2l_opt.rules import make_rule
from l2l_opt.rules.base import UpdateRule
from scripts.experiments import records

TEMPLATE = Path(__file__).with_suffix(".md")
PAGE = records.ROOT / "docs" / "scale.md"
RULES = {"lstm": "`lstm` 2x20", "rnnprop": "`rnnprop` 2x20", "compact": "`compact`"}
ADAM = {"state": 8, "operations": 14}
"""Bytes of two moments; additions, products and a root and a quotient of the textbook step, counted once each."""
DEVICE_BYTES = 80e9
STUDENTS = tuple(10.0**power for power in range(6, 12))
WORKERS = (1, 10, 100, 1000)
NETWORK_BYTES, LATENCY = 10e9 / 8, 50e-6
"""A second, and seconds a hop: 10 Gbit/s Ethernet."""
TOKENS = (4e3, 4e6)
WIDTH_OVER_DEPTH = 128
STATISTICS = 4
"""Sums over a tensor that ``compact`` asks for in a step."""


def page() -> str:
    """The whole page: the text of ``TEMPLATE`` with its numbers and tables."""
    sizes, meta_training, plans = (
        read(name) for name in ("benchmarks/sizes", "benchmarks/meta-training", "long_horizons/plans")
    )
    measured = min(sizes["results"], key=lambda result: abs(result["parameters"] - 1e6))
    ns = {row["peer"]: row["ns"] for row in measured["rows"]}
    costs = {name: {**cost(make_rule(name)), "ns": ns[name]} for name in RULES}
    costs["adam"] = {**ADAM, "traffic": 2 * ADAM["state"] + 12, "ns": ns["adam"]}
    outer = next(row for row in plans["rows"] if "nres" in row["options"])
    lstm, compact = costs["lstm"], costs["compact"]
    fits = {name: DEVICE_BYTES / (costs[name]["state"] + 8) for name in ("lstm", "compact", "adam")}
    return TEMPLATE.read_text().format(
        steps=table(
            ["rule", "state, B", "traffic, B", "operations", "operations a byte", "measured, ns"],
            [step_row(title, costs[name]) for name, title in {**RULES, "adam": "Adam, fused"}.items()],
        ),
        processor=sizes["machine"]["processor"],
        kernels=sizes["kernels"],
        measured_on=f"{measured['parameters']:,}",
        students=table(
            [
                *("parameters", "state: lstm", "compact", "Adam", "80 GB devices: lstm", "compact", "Adam"),
                *("one core's step: lstm", "compact"),
            ],
            [students_row(count, costs) for count in STUDENTS],
        ),
        lstm_fits=billions(fits["lstm"]),
        compact_fits=billions(fits["compact"]),
        adam_fits=billions(fits["adam"]),
        statistics=STATISTICS,
        network=table(
            ["parameters", "tensors", "bytes all-reduced a step"],
            [[power_of_ten(n), f"{tensors(n):,}", amount(4 * STATISTICS * tensors(n))] for n in STUDENTS],
        ),
        width_over_depth=WIDTH_OVER_DEPTH,
        few_tokens=power_of_ten(TOKENS[0]),
        many_tokens=power_of_ten(TOKENS[1]),
        share_of_few=f"{lstm['operations'] / (6 * TOKENS[0]):.2g}",
        share_of_many=f"{lstm['operations'] / (6 * TOKENS[1]):.2g}",
        state_over_adam=lstm["state"] // ADAM["state"],
        window_ns=f"{meta_training['rows_by_students']['1'][0]['ns']:.0f}",
        window_bytes=amount(1e6 * (8 * 20 + 3 * lstm["state"])),
        outer_options=outer["options"],
        outer_seconds=f"{outer['measured_seconds']:.2f}",
        workers=table(
            [
                "workers",
                "bytes a worker: compact",
                "lstm",
                "seconds: compact",
                "lstm",
                "of that outer step",
                "checkpoint",
            ],
            [workers_row(count, outer) for count in WORKERS],
        ),
        compact_state=compact["state"],
        compact_half_state=compact["state"] - 32,
    )


def step_row(title: str, of: dict[str, Any]) -> list[Any]:
    intensity = f"{of['operations'] / of['traffic']:.1f}"
    return [title, of["state"], of["traffic"], f"{of['operations']:,}", intensity, f"{of['ns']:.3g}"]


def students_row(count: float, costs: dict[str, dict[str, Any]]) -> list[Any]:
    names = ("lstm", "compact", "adam")
    devices = [math.ceil(count * (costs[name]["state"] + 8) / DEVICE_BYTES) for name in names]
    steps = [duration(count * costs[name]["ns"] * 1e-9) for name in names[:2]]
    return [power_of_ten(count), *(amount(count * costs[name]["state"]) for name in names), *devices, *steps]


def workers_row(count: int, outer: dict[str, Any]) -> list[Any]:
    sizes = [weights(name) for name in ("compact", "lstm")]
    seconds = [ring_seconds(count, size) for size in sizes]
    gathered = count * outer["checkpoint_predicted_bytes"]
    return [
        f"{count:,}",
        *(amount(ring_bytes(count, size)) for size in sizes),
        *(f"{each:.2g}" for each in seconds),
        f"{seconds[0] / outer['measured_seconds']:.1%}",
        f"{amount(gathered)}, {duration(gathered / NETWORK_BYTES)}",
    ]


def cost(rule: UpdateRule) -> dict[str, int]:
    """State, traffic and operations of one parameter and step."""
    state = rule.init_state({"p": torch.zeros(1000)})["p"]
    size = sum(value.numel() * value.element_size() for value in state.values() if value.dim()) // 1000
    compiled = rule.compiled_step()
    assert compiled is not None
    return {
        "state": size,
        "traffic": 2 * size + 12,
        "operations": 2 * sum(weight.numel() for weight in compiled.weights),
    }


def weights(name: str) -> int:
    return sum(weight.numel() for weight in make_rule(name).parameters())


def ring_bytes(workers: int, count: int) -> float:
    return 2 * (workers - 1) / workers * 4 * count


def ring_seconds(workers: int, count: int) -> float:
    return ring_bytes(workers, count) / NETWORK_BYTES + 2 * (workers - 1) * LATENCY


def tensors(parameters: float) -> int:
    """Of a transformer of that size, 12 tensors and 12 width^2 parameters a layer."""
    return 12 * max(round((parameters / (12 * WIDTH_OVER_DEPTH**2)) ** (1 / 3)), 1)


def table(head: list[str], rows: list[list[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def amount(count: float) -> str:
    for unit, size in {"TB": 1e12, "GB": 1e9, "MB": 1e6, "kB": 1e3}.items():
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.3g} B"


def duration(seconds: float) -> str:
    for unit, size in {"h": 3600.0, "min": 60.0, "s": 1.0}.items():
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e3:.3g} ms"


def power_of_ten(count: float) -> str:
    exponent = math.floor(math.log10(count))
    return f"{count / 10**exponent:.0f}e{exponent}"


def billions(count: float) -> str:
    return f"{count / 1e9:.2g}"


def read(name: str) -> dict[str, Any]:
    return json.loads((records.RESULTS / f"{name}.json").read_text())


if __name__ == "__main__":
    PAGE.write_text(page())
