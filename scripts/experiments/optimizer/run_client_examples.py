"""Run the examples of other training loops as they stand; needs the extra [frameworks].

    python -m scripts.experiments.optimizer.run_client_examples

Each is a process of its own. Writes results/optimizer/client-examples.json, with what each printed last, and from it
the table of results/optimizer/README.md. Ends with 1 where one fails.
"""

import json
import os
import re
import subprocess
import sys
from importlib import metadata
from typing import Any

import click

from scripts.experiments import records

FOLDER = records.RESULTS / "optimizer"
PAGE = FOLDER / "README.md"
EXAMPLES = {
    "hugging_face_training": "transformers",
    "lightning_training": "lightning",
    "accelerate_training": "accelerate",
    "skorch_training": "skorch",
    "ignite_training": "pytorch-ignite",
    "timm_training": "timm",
    "peft_training": "peft",
}
"""Modules of scripts/examples/training_loops, and the package that each is of."""


def run(module: str, package: str) -> dict[str, Any]:
    """Run one: what it printed last, or the error that ended it."""
    command = [sys.executable, "-m", f"scripts.examples.training_loops.{module}"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "HF_HUB_OFFLINE": "1"}
    )
    lines = (done.stderr if done.returncode else done.stdout).strip().splitlines()
    row = {"example": module, "package": package, "version": metadata.version(package), "ran": done.returncode == 0}
    return row | {"last_line": lines[-1] if lines else ""}


def page(text: str, rows: list[dict[str, Any]]) -> str:
    """The page with its table as the results have it."""
    lines = ["| example | client | it ends with |", "| --- | --- | --- |"]
    for row in rows:
        link = f"[{row['example']}](../../scripts/examples/training_loops/{row['example']}.py)"
        lines.append(
            f"| {link} | {row['package']} {row['version']} | {'' if row['ran'] else 'fails: '}{row['last_line']} |"
        )
    table = "\n".join(lines)
    return re.sub(
        r"(<!-- examples -->\n).*?(<!-- end -->)", lambda found: f"{found[1]}{table}\n{found[2]}", text, flags=re.S
    )


@click.command()
def main() -> None:
    rows = []
    for module, package in EXAMPLES.items():
        rows.append(run(module, package))
        click.echo(json.dumps(rows[-1]))
    records.write(FOLDER / "client-examples.json", {"examples": rows})
    PAGE.write_text(page(PAGE.read_text(), rows))
    sys.exit(not all(row["ran"] for row in rows))


if __name__ == "__main__":
    main()
