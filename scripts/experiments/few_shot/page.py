"""Writes the tables of docs/few-shot.md anew from results/few_shot/*.json.

python -m scripts.experiments.few_shot.page
"""

import json
import re
from pathlib import Path
from typing import Any

import click

from scripts.experiments import records

RESULTS = records.RESULTS / "few_shot"
PAGE = records.ROOT / "docs" / "few-shot.md"
PAPER = {
    (name, steps): score
    for name in ("sinusoid-maml", "sinusoid-maml-3")
    for steps, score in {1: ".67", 5: ".38", 10: ".35"}.items()
}
"""Mean squared errors of MAML in its paper, section 5.1, after 5 shots."""


def adapted(content: dict[str, Any]) -> str:
    """Table of PR-AUC on a user's few rows."""
    others = ["logistic regression", "gradient boosting"]
    lines = ["| data | examples | `adapt` | " + " | ".join(f"{name}; `adapt` less it" for name in others) + " |"]
    lines.append("|---" * (3 + len(others)) + "|")
    for row in content["rows"]:
        own = row["methods"]["adapted"]
        cells = [row["data"], str(row["examples"]), _with(own["pr_auc"], own["interval"])]
        for name in others:
            other = row["methods"][name]
            less = _with(other["adapted_less_this"], other["interval_of_that"], signed=True)
            cells.append(f"{other['pr_auc']:.3f}; {less}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def evaluated(content: dict[str, Any]) -> str:
    """Table of learners on test episodes."""
    base = Path(content["results"][0]["learner"]).name
    lines = [
        f"| learner | inner steps | score | less {base.partition('-')[2]} | outer steps, minutes |",
        "|---" * 5 + "|",
    ]
    apart = {(row["learner"], row["inner_steps"]): row for row in content["differences"]}
    for row in content["results"]:
        name = Path(row["learner"]).name
        run = content["learners"][name]
        less = apart.get((row["learner"], row["inner_steps"]))
        shown = _with(row["mean"], row["interval"])
        if (name, row["inner_steps"]) in PAPER:
            shown += f"; paper {PAPER[name, row['inner_steps']]}"
        cells = [name, str(row["inner_steps"]), shown]
        cells.append("" if less is None else _with(less["mean"], less["interval"], signed=True))
        cells.append(f"{run['outer_steps']:,}, {run['minutes']:.0f}")
        lines.append(f"| {' | '.join(cells)} |")
    if "costs" in content:
        lines += ["", "| learner | seconds an outer step | MiB |", "|---|---|---|"]
        for name, cost in content["costs"].items():
            lines.append(f"| {name} | {cost['seconds_an_outer_step']:.3g} | {cost['peak_mebibytes']:.0f} |")
    return "\n".join(lines)


def _with(mean: float | None, interval: list[float], *, signed: bool = False) -> str:
    if mean is None:
        return "diverges"
    sign = "+" if signed else ""
    return f"{mean:{sign}.3f} ({interval[0]:{sign}.3f} to {interval[1]:{sign}.3f})"


def page() -> str:
    """The page with its tables as the results have them."""
    text = PAGE.read_text()
    for name in re.findall(r"<!-- (?!end )(\S+) -->", text):
        content = json.loads((RESULTS / f"{name}.json").read_text())
        table = adapted(content) if name == "adapt" else evaluated(content)
        marked = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.S)
        text = marked.sub(lambda found, table=table: f"{found[1]}{table}\n{found[2]}", text)
    return text


@click.command()
def main() -> None:
    """Write the page."""
    PAGE.write_text(page())


if __name__ == "__main__":
    main()
