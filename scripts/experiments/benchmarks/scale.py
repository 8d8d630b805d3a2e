"""Writes docs/scale.md (text: scale.txt here): what a learned rule costs at any size, from measured constants.

python -m scripts.experiments.benchmarks.scale measure   # results/benchmarks/models.json: the default's step on models
python -m scripts.experiments.benchmarks.scale           # the page
"""

import json
import math
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from l2l_opt import LearnedOptimizer
from l2l_opt.kernels import native
from l2l_opt.optimizer.cost import adamw, muon
from l2l_opt.pretrained import DEFAULT
from l2l_opt.rules import make_rule
from l2l_opt.rules.base import UpdateRule
from scripts.experiments import records
from scripts.experiments.benchmarks.launches import Shape, resnet18_shapes

TEMPLATE = Path(__file__).with_suffix(".txt")
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


ROUNDS = 7


def gpt_shapes(width: int, layers: int, tokens: int, context: int) -> list[Shape]:
    """Parameters of a transformer like GPT-2."""
    block = [(width,), (width,), (3 * width, width), (3 * width,), (width, width), (width,)]
    block += [(width,), (width,), (4 * width, width), (4 * width,), (width, 4 * width), (width,)]
    return [(tokens, width), (context, width), *(block * layers), (width,), (width,)]


def mlp_shapes(*widths: int) -> list[Shape]:
    """Parameters of a multilayer perceptron."""
    return [shape for a, b in pairwise(widths) for shape in ((b, a), (b,))]


MODELS: dict[str, list[Shape]] = {
    "perceptron, 0.2 M": mlp_shapes(784, 256, 128, 10),
    "perceptron, 6 M": mlp_shapes(1024, 2048, 1024, 1024, 512),
    "GPT, 1 M": gpt_shapes(128, 4, 1024, 128),
    "GPT, 10 M": gpt_shapes(384, 5, 4096, 256),
    "ResNet-18": resnet18_shapes(),
    "GPT, 50 M": gpt_shapes(640, 8, 16384, 512),
}


def parameters(shapes: list[Shape], dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Random parameters with gradients."""
    generator = torch.Generator().manual_seed(0)
    params = [(0.05 * torch.randn(shape, generator=generator)).to(dtype).requires_grad_() for shape in shapes]
    for p in params:
        p.grad = (0.01 * torch.randn(p.shape, generator=generator)).to(dtype)
    return params


def processor_times(peers: dict[str, Callable[[], Any]]) -> dict[str, list[float]]:
    """Seconds of the processor, of each peer in each round; a round before them warms up and is thrown away."""
    seconds: dict[str, list[float]] = {name: [] for name in peers}
    for round_number in range(ROUNDS + 1):
        for name, run in peers.items():
            start = time.process_time()
            run()
            if round_number:
                seconds[name].append(time.process_time() - start)
    return seconds


def ratio(seconds: dict[str, list[float]], above: str, below: str) -> float:
    """Median of the ratios within a round."""
    return statistics.median(a / b for a, b in zip(seconds[above], seconds[below], strict=True))


def model_row(name: str, shapes: list[Shape]) -> dict[str, Any]:
    """The default's step beside others' on one model, and what ``LearnedOptimizer.cost`` predicts of them."""
    ours = LearnedOptimizer(parameters(shapes), num_steps=1000)
    predicted = ours.cost()
    peers: dict[str, Callable[[], Any]] = {
        "default": ours.step,
        "default, bfloat16 parameters": LearnedOptimizer(parameters(shapes, torch.bfloat16), num_steps=1000).step,
        "default, whitening in bfloat16": LearnedOptimizer(
            parameters(shapes), num_steps=1000, whitening_dtype=torch.bfloat16
        ).step,
        "AdamW": adamw(parameters(shapes)),
        "Muon and AdamW": muon(parameters(shapes)),
    }
    seconds = processor_times(peers)
    count = sum(math.prod(shape) for shape in shapes)
    measured = [statistics.median(seconds[key]) for key in ("default", "AdamW", "Muon and AdamW")]
    return {
        "model": name,
        "parameters": count,
        "ns": {key: statistics.median(own) / count * 1e9 for key, own in seconds.items()},
        "over AdamW": ratio(seconds, "default", "AdamW"),
        "over Muon and AdamW": ratio(seconds, "default", "Muon and AdamW"),
        "bfloat16 over float32": ratio(seconds, "default, bfloat16 parameters", "default"),
        "whitening over float32": ratio(seconds, "default, whitening in bfloat16", "default"),
        "predicted over measured": [cost.seconds / own for cost, own in zip(predicted, measured, strict=True)],
        "state_bytes": [cost.state_bytes for cost in predicted],
        "seconds": seconds,
    }


class Block(nn.Module):
    """A transformer's block, attention and perceptron."""

    def __init__(self, width: int):
        super().__init__()
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        heads = [part.unflatten(-1, (-1, 64)).transpose(1, 2) for part in self.qkv(self.first(x)).chunk(3, -1)]
        mixed = nn.functional.scaled_dot_product_attention(*heads, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.down(nn.functional.gelu(self.up(self.second(x))))


def perceptron(*sizes: int) -> tuple[nn.Module, Callable[[nn.Module], Tensor]]:
    """A perceptron, and its loss on a batch of 64."""
    layers = [layer for pair in pairwise(sizes) for layer in (nn.Linear(*pair), nn.ReLU())]
    inputs, targets = torch.randn(64, sizes[0]), torch.randint(sizes[-1], (64,))
    return nn.Sequential(*layers[:-1]), lambda model: nn.functional.cross_entropy(model(inputs), targets)


def gpt() -> tuple[nn.Module, Callable[[nn.Module], Tensor]]:
    """A GPT of 10 million parameters, and its loss on a batch of 8 x 256 tokens."""
    model = nn.Sequential(nn.Embedding(4096, 384), *(Block(384) for _ in range(5)), nn.LayerNorm(384))
    tokens = torch.randint(4096, (8, 257))

    def loss(model: Any) -> Tensor:
        logits = model(tokens[:, :-1]) @ model[0].weight.T
        return nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())

    return model, loss


TRAININGS: dict[str, Callable[[], tuple[nn.Module, Callable[[nn.Module], Tensor]]]] = {
    "perceptron 784-32-32-10, batches of 64": partial(perceptron, 784, 32, 32, 10),
    "perceptron 784-128-128-10, batches of 64": partial(perceptron, 784, 128, 128, 10),
    "perceptron 784-256-256-10, batches of 64": partial(perceptron, 784, 256, 256, 10),
    "GPT, 10 M, batches of 8 x 256 tokens": gpt,
}


def training_row(name: str) -> dict[str, Any]:
    """Forward, backward and step of a model under the default, in both precisions of whitening, and AdamW."""
    peers: dict[str, Callable[[], Any]] = {}
    for kind in ("default", "default, whitening in bfloat16", "AdamW"):
        torch.manual_seed(0)
        model, loss = TRAININGS[name]()
        params = list(model.parameters())
        dtype = torch.bfloat16 if kind.endswith("bfloat16") else torch.float32
        made = (
            torch.optim.AdamW(params, fused=True)
            if kind == "AdamW"
            else LearnedOptimizer(params, num_steps=1000, whitening_dtype=dtype)
        )

        def run(
            model: nn.Module = model,
            loss: Callable[[nn.Module], Tensor] = loss,
            optimizer: torch.optim.Optimizer = made,
        ) -> None:
            for _ in range(1 if name.startswith("GPT") else 20):
                optimizer.zero_grad()
                loss(model).backward()
                optimizer.step()

        peers[kind] = run
    seconds = processor_times(peers)
    over = {f"{kind} over AdamW": ratio(seconds, kind, "AdamW") for kind in seconds if kind != "AdamW"}
    count = sum(p.numel() for p in TRAININGS[name]()[0].parameters())
    return {"training step": name, "parameters": count, **over, "seconds": seconds}


def measure(only: list[str]) -> None:
    """Write results/benchmarks/models.json; with names of models or training steps, these rows anew."""
    torch.set_num_threads(1)
    path = records.RESULTS / "benchmarks" / "models.json"
    before = json.loads(path.read_text()) if path.exists() else {"rows": [], "training": []}
    rows = {row["model"]: row for row in before["rows"]}
    trainings = {row["training step"]: row for row in before["training"]}
    for name in only or [*MODELS, *TRAININGS]:
        found = model_row(name, MODELS[name]) if name in MODELS else training_row(name)
        (rows if name in MODELS else trainings)[name] = found
        print({key: value for key, value in found.items() if key != "seconds"}, flush=True)
    content = {"rule": DEFAULT, "kernels": native.describe(), "rows": [rows[name] for name in MODELS if name in rows]}
    records.write(path, content | {"training": [trainings[name] for name in TRAININGS if name in trainings]})


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
    models = read("benchmarks/models")
    lstm, compact = costs["lstm"], costs["compact"]
    fits = {name: DEVICE_BYTES / (costs[name]["state"] + 8) for name in ("lstm", "compact", "adam")}
    return TEMPLATE.read_text().format(
        steps=table(
            ["rule", "state, B", "traffic, B", "operations", "operations a byte", "measured, ns"],
            [step_row(title, costs[name]) for name, title in {**RULES, "adam": "Adam, fused"}.items()],
        ),
        models=table(
            [
                *("model", "parameters", "default, ns", "AdamW, ns", "Muon, ns", "over AdamW", "over Muon"),
                *(
                    "bfloat16 parameters over float32",
                    "bfloat16 whitening over float32",
                    "predicted over measured: default",
                    "AdamW",
                    "Muon",
                ),
            ],
            [models_row(row) for row in models["rows"]],
        ),
        models_rule=models["rule"],
        models_processor=models["machine"]["processor"],
        trainings=table(
            ["training step", "parameters", "over AdamW", "with bfloat16 whitening"],
            [trainings_row(row) for row in models["training"]],
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


def models_row(row: dict[str, Any]) -> list[Any]:
    ns, ratios = row["ns"], ("over AdamW", "over Muon and AdamW", "bfloat16 over float32", "whitening over float32")
    return [
        row["model"],
        f"{row['parameters']:,}",
        *(f"{ns[key]:.3g}" for key in ("default", "AdamW", "Muon and AdamW")),
        *(f"{row[key]:.3g}" for key in ratios),
        *(f"{value:.2f}" for value in row["predicted over measured"]),
    ]


def trainings_row(row: dict[str, Any]) -> list[Any]:
    kinds = ("default", "default, whitening in bfloat16")
    ratios = (f"{row[f'{kind} over AdamW']:.2f}" for kind in kinds)
    return [row["training step"], f"{row['parameters']:,}", *ratios]


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
    if sys.argv[1:2] == ["measure"]:
        measure(sys.argv[2:])
    else:
        PAGE.write_text(page())
