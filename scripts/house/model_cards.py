"""Fill the pages docs/model-cards: facts and tasks from each artefact's own card, scores from its evaluation.

    python -m scripts.house.model_cards       # writes the pages here; the site fills its copies

What a rule is for and where it fails is written by hand, between the marks.
"""

import json
import re
from pathlib import Path
from typing import Any

from l2l_opt.pretrained import list_pretrained, list_recipes
from l2l_opt.storage.card import card_of
from l2l_opt.storage.rule_file import load_rule

ROOT = Path(__file__).resolve().parents[2]
PAGES = ROOT / "docs" / "model-cards"
EVALUATIONS = {
    "default-4": {
        "held_out/default-4": "Tasks that nothing was learned or chosen by (`held-out`), after",
        "held_out/default-4-2000": "Those of the same that are meant for longer runs, after",
        "default/seen": "Tasks that nine rules have been evaluated on (`seen`), after",
    },
    "default-3": {"pretrained/default-3": "After"},
    "default-2": {"default/held-out": "After"},
    "default-1": {"pretrained/default-1": "After"},
    "lstm-2": {"pretrained/lstm-2": "After"},
    "lstm-digits-1": {"pretrained/lstm-digits-1": "After"},
}
"""Folders of results, and how the title of each begins."""
UNMEASURED = "Nothing is measured yet, but for what the text above names."
OPTIMIZERS = {"learned": "the rule", "adamw": "AdamW", "muon": "Muon"}


def facts(card: dict[str, Any]) -> str:
    """What a rule is and costs, as a table."""
    config = ", ".join(f"{key}={value}" for key, value in card["rule"]["config"].items())
    provenance = card["provenance"]
    stages = provenance.get("stages", [])
    last = ", last stage" if len(stages) > 1 else ""
    same = [own for own in list_recipes() if card_of(load_rule(own))["digest"] == card["digest"]]
    if same:
        recipe = f"`--config {same[0]}`: [{same[0]}.toml](../../l2l_opt/pretrained/recipes/{same[0]}.toml)"
    elif len(stages) > 1:
        minutes = ", ".join(f"`{stage['stage']}` {stage['minutes']:.0f}" for stage in stages)
        recipe = f"`{provenance['command']}`; core-minutes of its stages: {minutes}"
    else:
        recipe = f"`{provenance['command'].removeprefix('l2l-opt meta-train ')}`"
    return _table(
        ["what", "value"],
        [
            ["rule", f"`{card['rule']['name']}`: {config}"],
            ["learned weights", f"{card['weights']:,}"],
            ["state, bytes a parameter", state_bytes(card)],
            ["floating-point operations a parameter and step", f"{card['operations_per_parameter_and_step']:,}"],
            [f"runs of meta-training{last}", f"{str(card['horizon']).replace('..', ' to ')} steps"],
            [f"meta-gradients{last}", f"`{card['estimator']}`, {windows(card)}"],
            ["options of `meta-train`", recipe],
            ["changed since meta-training", card.get("since_meta_training") or "nothing"],
            ["made with", ", ".join(f"{key} {value}" for key, value in sorted(provenance["versions"].items()))],
            ["licence", card["licence"]],
            ["digest of the weights", f"`{card['digest']}`"],
        ],
    )


def windows(card: dict[str, Any]) -> str:
    """How much of a run a meta-gradient sees."""
    length = card["truncation_length"]
    return "over whole runs" if str(length) == card["horizon"] else f"truncation windows of {length} steps"


def state_bytes(card: dict[str, Any]) -> str:
    """Bytes a parameter, and those with recurrent state in half precision where there is any."""
    single, half = card["state_bytes_per_parameter"], card["state_bytes_per_parameter_bfloat16"]
    return str(single) if half == single else f"{single}, or {half} with `state_dtype=torch.bfloat16`"


def tasks(card: dict[str, Any]) -> str:
    """The tasks of meta-training, one a line, with their weights in the mixture."""
    lines = []
    for term in card["task"].split(" + "):
        weight, star, task = term.rpartition("*")
        lines.append(f"- {f'{weight} times ' if star else ''}`{task}`")
    return "\n".join(lines)


def scores(name: str) -> str:
    """Training and test losses of the rule and of tuned baselines, a table a horizon."""
    if name not in EVALUATIONS:
        return UNMEASURED
    return "\n\n".join(_scores_of(ROOT / "results" / folder, lead) for folder, lead in EVALUATIONS[name].items())


def _scores_of(folder: Path, lead: str) -> str:
    results = json.loads((folder / "evaluation.json").read_text())["results"]
    header = ["task", *(f"{split} loss, {title}" for split in ("training", "test") for title in OPTIMIZERS.values())]
    parts = []
    for horizon in sorted({result["horizon"] for result in results}):
        of = {(result["task"], result["optimizer"]): result for result in results if result["horizon"] == horizon}
        rows = [
            [
                _title(task),
                *(_number(of.get((task, key)), kind) for kind in ("mean", "test_mean") for key in OPTIMIZERS),
            ]
            for task in dict.fromkeys(task for task, _ in of)
        ]
        parts.append(f"{lead} {horizon} steps:\n\n{_table(header, rows)}")
    link = f"[evaluation.json](../../{folder.relative_to(ROOT)}/evaluation.json)"
    return "\n\n".join([*parts, f"From {link}, which has every seed and 95 % intervals."])


def _title(task: str) -> str:
    """A task's name and its options, which may go over several lines in a narrow column."""
    name, _, options = task.partition(":")
    return f"`{name}` {options.replace(',', ', ')}".strip()


def _number(result: dict[str, Any] | None, kind: str) -> str:
    return "" if result is None or result.get(kind) is None else f"{result[kind]:.3g}"


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def fill(text: str, name: str) -> str:
    """The page of a shipped rule with what stands between its marks made anew."""
    card = card_of(load_rule(name).float())
    made = {"facts": facts(card), "tasks": tasks(card), "scores": scores(name)}
    for mark, content in made.items():
        marked = re.compile(rf"(<!-- {mark} -->\n).*?(<!-- end -->)", re.S)
        text = marked.sub(lambda found, content=content: f"{found[1]}\n{content}\n\n{found[2]}", text)
    return text


def fill_all(folder: Path) -> None:
    """Fill the pages of all shipped rules.

    Args:
        folder: that has ``NAME.md`` of each.
    """
    for name in list_pretrained():
        page = folder / f"{name}.md"
        page.write_text(fill(page.read_text(), name))


if __name__ == "__main__":
    fill_all(PAGES)
