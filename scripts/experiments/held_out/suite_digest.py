"""What the held-out suite is made of: its tasks, horizons and seeds, and a fingerprint of its data and first losses.

    python -m scripts.experiments.held_out.suite_digest            # writes results/held_out/digest.json
    python -m scripts.experiments.held_out.suite_digest --check    # compares with it; exits with 1 where it differs

Numbers are compared to a thousandth, since processors round differently; tasks and counts exactly.
"""

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import click
import torch
from torch.utils._pytree import tree_leaves

from l2l_opt.evaluation.suites import Suite, load_suite
from l2l_opt.evaluation.task import SuiteConfig
from l2l_opt.inner_loop.fresh_student import FreshStudent, fresh_student
from l2l_opt.randomness import Stream
from l2l_opt.tasks import make_task
from scripts.experiments import records

OUT = records.RESULTS / "held_out" / "digest.json"
TOLERANCE = 1e-3
"""Relative, of a number that rounds."""


def rounded(value: float) -> float:
    return float(f"{value:.6g}")


def of_student(student: FreshStudent) -> dict[str, Any]:
    """Sizes and first losses of a student, and what its first test batch holds."""
    with torch.no_grad():
        train, test = student.batch("train"), student.batch("test")
        losses = [rounded(float(student.loss(student.params, batch))) for batch in (train, test)]
    size = sum(float(p.double().square().sum()) for p in student.params.values()) ** 0.5
    return {"first_losses": losses, "norm_of_first_weights": rounded(size)}


def of_data(family: Any) -> dict[str, Any]:
    """Splits, and mean and root mean square of inputs and targets, where the family has examples."""
    examples = getattr(family, "examples", None)
    if examples is None:
        return {}
    found: dict[str, Any] = {"ranges": {split: list(ends) for split, ends in examples.ranges.items()}}
    for key in ("inputs", "targets"):
        values = getattr(examples, key).double()
        found[key] = [rounded(float(values.mean())), rounded(float(values.square().mean().sqrt()))]
    return found


def of_task(task: str, suite: Suite) -> dict[str, Any]:
    """A task's entry: how it is named and run, and its fingerprint."""
    family = make_task(task)
    students = {stream.name.lower(): fresh_student(family, seed=0, stream=stream) for stream in STREAMS}
    first = next(iter(students.values()))
    return {
        "task": task,
        "horizons": list(suite.horizons[task]),
        "parameters": sum(p.numel() for p in first.params.values()),
        "batch": sum(leaf.numel() for leaf in tree_leaves(first.batch())),
        "data": of_data(family),
        **{name: of_student(student) for name, student in students.items()},
    }


STREAMS = (Stream.TUNING, Stream.REPORTING)


def digest_of(suite: Suite) -> dict[str, Any]:
    """The whole content of digest.json; ``sha256`` is of all else in it."""
    config = SuiteConfig()
    content = {
        "suite": suite.name,
        "seeds": {"seed": config.seed, "reported": config.num_seeds, "tuning": config.tuning_seeds},
        "tasks": [of_task(task, suite) for task in suite.tasks],
    }
    return content | {"sha256": sha256(content)}


def sha256(content: dict[str, Any]) -> str:
    """Of a content without its own digest."""
    own = {key: value for key, value in content.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()


def differences(known: Any, found: Any, where: str = "") -> list[str]:
    """Places in which two contents differ, numbers by more than ``TOLERANCE``."""
    if isinstance(known, dict) and isinstance(found, dict) and known.keys() == found.keys():
        keys = [key for key in known if key != "sha256"]
        return [text for key in keys for text in differences(known[key], found[key], f"{where}/{key}")]
    if isinstance(known, list) and isinstance(found, list) and len(known) == len(found):
        pairs = enumerate(zip(known, found, strict=True))
        return [text for place, pair in pairs for text in differences(*pair, f"{where}/{place}")]
    if isinstance(known, float) and isinstance(found, float):
        same = math.isclose(known, found, rel_tol=TOLERANCE, abs_tol=1e-6)
    else:
        same = known == found
    return [] if same else [f"{where}: {known!r} became {found!r}"]


@click.command()
@click.option("--check", is_flag=True, help="Compare with what is committed, and write nothing.")
@click.option("--out", type=click.Path(path_type=Path), default=OUT, show_default="results/held_out/digest.json")
def main(check: bool, out: Path) -> None:
    """Write the digest, or compare with it."""
    found = digest_of(load_suite("held-out"))
    if not check:
        out.write_text(json.dumps(found, indent=1) + "\n")
        click.echo(f"{found['sha256']}  {out}")
        return
    known = json.loads(out.read_text())
    apart = differences(known, found)
    if sha256(known) != known["sha256"]:
        apart.insert(0, "its sha256 is not that of its content")
    for text in apart:
        click.echo(text)
    if apart:
        raise SystemExit(1)
    click.echo(f"the suite is that of {known['sha256']}")


if __name__ == "__main__":
    main()
