"""Damages artefacts, checkpoints and state dicts at random, and loads them: refused, or equal to what they state.

    python -m scripts.experiments.optimizer.fuzz_files --cases 2000

Of every case it must hold that loading ends within seconds, in a documented exception of one line or in what was
asked for; that nothing is executed (an audit hook watches for code, processes, sockets, pickles and new modules); and
that what loads is what was saved or, where somebody has made the digests fit again, what the file then states, able to
take a step. A state dict that is refused must leave the optimizer as it was. Writes results/optimizer/fuzz.json.
"""

import argparse
import collections
import copy
import faulthandler
import json
import random
import re
import resource
import struct
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load
from torch import nn

from l2l_opt import LearnedOptimizer, load_rule, save_rule
from l2l_opt.pretrained import DEFAULT, find_artefact
from l2l_opt.rules import RULES, make_rule
from l2l_opt.rules.base import UpdateRule
from l2l_opt.storage.checkpoint_file import load_tree, save_tree
from l2l_opt.storage.safetensors_file import METADATA_KEY
from scripts.experiments import records
from scripts.experiments.optimizer import mutations

SLOWEST = 10.0
"""Seconds that a case may take on a busy core."""
EXECUTION = ("exec", "os.system", "os.exec", "os.posix_spawn", "subprocess", "pickle", "marshal", "socket", "import",
             "os.mkdir", "ctypes", "shutil", "os.remove", "os.rename", "builtins.input")  # fmt: skip
"""Beginnings of the names of audit events that loading may not raise."""


class Watch:
    """Notes what is executed while it is on."""

    def __init__(self) -> None:
        self.on = False
        self.seen: list[str] = []
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.on and event.startswith(EXECUTION):
            self.seen.append(f"{event} {arguments!r}"[:200])

    def __enter__(self) -> None:
        self.on = True

    def __exit__(self, *_: object) -> None:
        self.on = False


class Tally:
    """What became of the cases of one kind."""

    def __init__(self, watch: Watch):
        self.watch = watch
        self.outcomes: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
        self.messages: collections.Counter[str] = collections.Counter()
        self.failures: list[str] = []
        self.slowest = 0.0

    def run(self, about: str, mutation: str, action: Callable[[], Any], check: Callable[[Any], str]) -> None:
        """Load one case and check it; ``check`` returns what it loaded as, or raises AssertionError."""
        self.watch.seen.clear()
        faulthandler.dump_traceback_later(60, exit=True)
        start = time.perf_counter()
        try:
            try:
                with self.watch:
                    loaded = action()
            except ValueError as error:
                message = str(error)
                outcome = "refused"
                self.messages[re.sub(r"'[^']*'|\(.*?\)", "...", message.partition("; got")[0])] += 1
                assert "\n" not in message, f"several lines: {message[:900]!r}"
                assert len(message) < 700, f"no sentence: {message[:900]!r}"
                assert "; got" in message, f"names no rule: {message!r}"
            else:
                outcome = check(loaded)
            assert not self.watch.seen, f"executed: {self.watch.seen}"
        except Exception as error:  # noqa: BLE001 - whatever else a case does is what is looked for
            outcome = "failed"
            self.failures.append(f"{about}: {type(error).__name__}: {error}"[:400])
        seconds = time.perf_counter() - start
        faulthandler.cancel_dump_traceback_later()
        if seconds > SLOWEST:
            self.failures.append(f"{about}: took {seconds:.1f} s")
        self.slowest = max(self.slowest, seconds)
        self.outcomes[mutation][outcome] += 1

    def summary(self, cases: int) -> dict[str, Any]:
        return {
            "cases": cases,
            "failures": self.failures,
            "slowest_seconds": round(self.slowest, 3),
            "outcomes": {name: dict(counter) for name, counter in sorted(self.outcomes.items())},
            "refusals": dict(self.messages.most_common()),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--cases", type=int, default=2000, help="Of artefacts, and as many state dicts, and checkpoints."
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=records.RESULTS / "optimizer" / "fuzz.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    watch = Watch()
    content: dict[str, Any] = {"seed": options.seed, "limit_seconds": SLOWEST, "watched": list(EXECUTION)}
    with tempfile.TemporaryDirectory() as folder:
        for name, fuzz in (
            ("artefacts", fuzz_artefacts),
            ("checkpoints", fuzz_checkpoints),
            ("state_dicts", fuzz_states),
        ):
            before = _peak_mebibytes()
            tally = Tally(watch)
            start = time.perf_counter()
            fuzz(tally, options.cases, random.Random(f"{options.seed} {name}"), Path(folder))
            content[name] = tally.summary(options.cases) | {
                "seconds": round(time.perf_counter() - start, 1),
                "peak_memory_growth_mib": round(_peak_mebibytes() - before, 1),
            }
            counts = sum(tally.outcomes.values(), collections.Counter())
            print(f"{name}: {options.cases} cases, {dict(counts)}, slowest {tally.slowest:.2f} s")
            for failure in tally.failures[:20]:
                print(f"  FAILED {failure}")
    records.write(options.out, content)
    sys.exit(any(content[name]["failures"] for name in ("artefacts", "checkpoints", "state_dicts")))


def small_rules() -> dict[str, UpdateRule]:
    """One rule of each registered kind, small where its size is free."""
    parts = [{"rule": "lstm", "config": {"hidden_size": 3}, "name": "weight"}, {"rule": "adam"}]
    sizes = {"lstm": {"hidden_size": 4}, "rnnprop": {"hidden_size": 4}, "composed": {"parts": parts}}
    return {name: make_rule(name, **sizes.get(name, {})) for name in RULES.names()}


def fuzz_artefacts(tally: Tally, cases: int, rng: random.Random, folder: Path) -> None:
    path = folder / "rule.safetensors"
    originals = {DEFAULT: find_artefact(DEFAULT).read_bytes()}
    for name, rule in small_rules().items():
        save_rule(rule, path, card={"task": "digits-mlp", "horizon": 100, "figures": {"validation": [0.5, 0.6]}})
        originals[name] = path.read_bytes()
    step = lambda rule: train(LearnedOptimizer(student().named_parameters(), rule), steps=1)  # noqa: E731
    fuzz_files(tally, cases, rng, path, originals, read=load_rule, plain=plain_rule, use=step)


def fuzz_checkpoints(tally: Tally, cases: int, rng: random.Random, folder: Path) -> None:
    path = folder / "checkpoint.safetensors"
    tree = {
        "options": {"seed": 3, "horizon": "100"},
        "trainer": {
            "phi": {"a": torch.randn(4, 3)},
            "students": [{"step": torch.tensor(7)}, None],
            "rng": torch.arange(9),
        },
        "curve": [0.5, float("nan"), 1],
    }
    save_tree(tree, path)
    originals = {"tree": path.read_bytes()}
    fuzz_files(tally, cases, rng, path, originals, read=load_tree, plain=plain_tree, use=lambda tree: None)


def fuzz_files(
    tally: Tally,
    cases: int,
    rng: random.Random,
    path: Path,
    originals: dict[str, bytes],
    *,
    read: Callable[[Path], Any],
    plain: Callable[[Any], Any],
    use: Callable[[Any], None],
) -> None:
    """Damage files and read them.

    Args:
        tally: what became of them.
        cases: how many.
        rng: decides which damage.
        path: where to put them.
        originals: sound files, by name.
        read: the loader.
        plain: what was loaded, as values that can be compared.
        use: must work with whatever was loaded.
    """
    expected = {}
    for name, content in originals.items():
        path.write_bytes(content)
        loaded = read(path)
        expected[name] = plain(loaded)
        use(loaded)
    for number in range(cases):
        name = rng.choice(sorted(originals))
        kind = rng.choice(sorted([*mutations.BYTES, *mutations.RESIGNED, "foreign"]))
        witness = path.parent / "witness"
        if kind in mutations.BYTES:
            content = mutations.BYTES[kind](rng, originals[name])
        elif kind == "foreign":
            content = mutations.foreign(rng, originals[name], str(witness))
        else:
            content = mutations.resigned(rng, originals[name], mutations.RESIGNED[kind])
        path.write_bytes(content)

        def check(loaded: Any, name: str = name, kind: str = kind, content: bytes = content) -> str:
            use(loaded)
            if plain(loaded) == expected[name]:
                return "equal to the original"
            assert kind in mutations.RESIGNED, "loaded, and differs from the original"
            assert plain(loaded) == plain(content), "loaded, and differs from what the file states"
            return "as the file states"

        tally.run(f"case {number}, {name}, {kind}", kind, lambda: read(path), check)
        assert not witness.exists(), f"case {number} executed a payload"


def plain_rule(rule: UpdateRule | bytes) -> Any:
    """Card and weights, of a rule that was loaded or of a file read in the plainest way."""
    weights = load(rule) if isinstance(rule, bytes) else dict(rule.named_parameters())
    card = described(rule) if isinstance(rule, bytes) else rule.card
    assert card is not None
    if isinstance(rule, UpdateRule):
        assert card["rule"]["name"] == rule.registry_name
    return json.dumps(card, sort_keys=True), values(weights)


def plain_tree(tree: Any) -> Any:
    """A checkpoint's content, of a tree that was loaded or of a file read in the plainest way."""
    if not isinstance(tree, bytes):
        return values(tree)
    tensors = load(tree)

    def build(node: dict[str, Any]) -> Any:
        if "dict" in node:
            return {key: build(item) for key, item in node["dict"]}
        if "list" in node:
            return [build(item) for item in node["list"]]
        return tensors[node["tensor"]] if "tensor" in node else node["value"]

    return values(build(described(tree)["tree"]))


def described(content: bytes) -> dict[str, Any]:
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(json.loads(content[8 : 8 + length])["__metadata__"][METADATA_KEY])


def values(tree: Any) -> Any:
    """Tensors as dtype, shape and bytes, so that == compares bit for bit, not-a-numbers too."""
    if isinstance(tree, torch.Tensor):
        plain = tree.detach().contiguous()
        return str(plain.dtype), tuple(plain.shape), plain.reshape(-1).view(torch.uint8).numpy().tobytes()
    if isinstance(tree, dict):
        return {key: values(item) for key, item in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [values(item) for item in tree]
    return repr(tree) if isinstance(tree, float) else tree


def numbers(state_dict: Any) -> Any:
    """A state dict with tensors as shape and numbers, whatever their dtype; a number is a tensor of one."""
    if isinstance(state_dict, (int, float)) and not isinstance(state_dict, bool) and abs(state_dict) < 1e300:
        return (), repr(float(state_dict))
    if isinstance(state_dict, torch.Tensor):
        plain = state_dict.detach()
        return tuple(plain.shape), repr((plain if plain.is_complex() else plain.double()).tolist())
    if isinstance(state_dict, dict):
        return {key: numbers(item) for key, item in state_dict.items()}
    return [numbers(item) for item in state_dict] if isinstance(state_dict, (list, tuple)) else values(state_dict)


def holds(found: Any, given: Any) -> bool:
    """Whether all that was given is found; what was left out of a dict may have been filled in."""
    if isinstance(found, dict) and isinstance(given, dict):
        return all(key in found and holds(found[key], item) for key, item in given.items())
    if isinstance(found, list) and isinstance(given, list):
        return len(found) == len(given) and all(map(holds, found, given))
    return found == given


def fuzz_states(tally: Tally, cases: int, rng: random.Random, _folder: Path) -> None:
    rules = small_rules()
    saved = {name: train(optimizer(rule), steps=3).state_dict() for name, rule in rules.items()}
    for name, rule in rules.items():
        optimizer(rule).load_state_dict(saved[name])
    # What torch imports on first use is not what loading executes: printing a tensor is one such use.
    repr(torch.zeros(1))
    for number in range(cases):
        name, kind = rng.choice(sorted(rules)), rng.choice(sorted(mutations.STATE_DICTS))
        given = mutations.STATE_DICTS[kind](rng, copy.deepcopy(saved[name]))
        tested = train(optimizer(rules[name]), steps=1)
        before = numbers(tested.state_dict())

        def action(tested: LearnedOptimizer = tested, given: Any = given, before: Any = before) -> LearnedOptimizer:
            try:
                tested.load_state_dict(copy.deepcopy(given))
            except ValueError:
                assert numbers(tested.state_dict()) == before, "refused, and the optimizer has changed"
                raise
            return tested

        def check(tested: LearnedOptimizer, given: Any = given, name: str = name) -> str:
            found = numbers(tested.state_dict())
            assert holds(found, numbers(renumbered(given))), "loaded, and differs from what was given"
            train(tested, steps=1)
            return "equal to the original" if found == numbers(saved[name]) else "as given"

        tally.run(f"case {number}, {name}, {kind}", kind, action, check)


def renumbered(state_dict: dict[str, Any]) -> dict[str, Any]:
    """With parameters counted in the order of the groups, as ``state_dict()`` counts them."""
    keys = [key for group in state_dict["param_groups"] for key in group["params"]]
    number = {key: index for index, key in enumerate(keys)}
    groups = [{**group, "params": [number[key] for key in group["params"]]} for group in state_dict["param_groups"]]
    return {"state": {number[key]: own for key, own in state_dict["state"].items()}, "param_groups": groups}


def student() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def optimizer(rule: UpdateRule) -> LearnedOptimizer:
    """Of a small network, in two groups."""
    first, _, last = student()
    groups = [
        {"params": list(first.named_parameters(prefix="first"))},
        {"params": list(last.named_parameters(prefix="last")), "lr": 0.5, "num_steps": 20},
    ]
    return LearnedOptimizer(groups, rule)


def train(optimizer: LearnedOptimizer, *, steps: int) -> LearnedOptimizer:
    for _ in range(steps):
        for group in optimizer.param_groups:
            for p in group["params"]:
                p.grad = torch.randn_like(p)
        optimizer.step()
    return optimizer


def _peak_mebibytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
