"""What a specialisation has bought, in words and as one HTML page."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from l2l_opt.evaluation.baselines.entries import VALIDATED
from l2l_opt.evaluation.speed_up import CAP
from l2l_opt.evaluation.statistics import CAP_OF_LOG_RATIO, EVEN_FLOOR
from l2l_opt.evaluation.tables import Table, interval_text, loss_text
from l2l_opt.inspection.pictures import figures
from l2l_opt.inspection.report.page import render
from l2l_opt.inspection.report.parts import Chart, Section
from l2l_opt.inspection.report.sections import response_section
from l2l_opt.rules.base import UpdateRule
from l2l_opt.specialising.comparison import BEFORE, RESIZED, SPECIALISED, Comparison
from l2l_opt.specialising.options import SpecialiseOptions
from l2l_opt.specialising.selection import Selection

NAMES = {BEFORE: "the rule it began from", RESIZED: "that rule with its best step size"}
"""Of optimizers, in sentences."""


def percent(change: float) -> str:
    """Put a mean of logarithms of loss ratios into words: ``8.1 % lower``; no more is known of one at its bound."""
    ratio = math.exp(change) - 1
    bound = "at least " if abs(change) >= CAP_OF_LOG_RATIO * (1 - 1e-6) else ""
    return f"{bound}{100 * abs(ratio):.1f} % {'lower' if ratio < 0 else 'higher'}"


def progress_percent(change: float) -> str:
    """Put a mean of logarithms of ratios of progress, the old over the new, into words: ``8.1 % more``."""
    ratio = math.exp(-change) - 1
    return f"{100 * abs(ratio):.1f} % {'more' if ratio > 0 else 'less'}"


def sentence(comparison: Comparison, selection: Selection, *, seconds: float, test: bool = False) -> str:
    """Give the result in a sentence, the first thing to know.

    Args:
        comparison: on the task itself.
        selection: how the rule was chosen.
        seconds: that specialising has taken.
        test: whether the rule was specialised on test losses, which are then what is said.
    """
    change, interval = comparison.against(BEFORE, test=test)
    below = comparison.falls_below_zero
    words = progress_percent if below else percent
    low, high = (words(edge) for edge in interval)
    # AdamW at its best constant rate is among the trials of adamw.
    mentioned = (SPECIALISED, BEFORE, "adamw-constant", selection.kept)
    others = [own.optimizer for own in comparison.results() if own.optimizer not in mentioned]
    names = NAMES | {name: f"tuned {name.removesuffix(VALIDATED)}" for name in others if name not in NAMES}
    beside = "; ".join(f"{words(comparison.against(name, test=test)[0])} than {names[name]}" for name in others)
    kind = "test loss is" if test else "training loss is"
    count = comparison.break_even(seconds)
    if interval[1] >= 0:
        worth = f"{len(comparison.results()[0].final_losses)} students are too few for certainty"
    elif count is None:
        worth = "it does not reach the old rule's training loss sooner"
    else:
        worth = f"worth it from training {count} on"
    if selection.kept == RESIZED:
        worth += "; it is the old rule with its best step size, beyond which nothing was gained by learning"
    return (
        f"After {comparison.horizon} steps of {comparison.task} the "
        f"{'loss has come down by' if below else kind} {words(change)} than with the "
        f"rule it began from (95 % interval: {low} to {high}){'; ' if beside else ''}{beside}; {worth}."
    )


def nothing_gained(selection: Selection) -> str:
    """Give the result where the old rule stays."""
    score = selection.scores[selection.best]
    low, high = (percent(edge) for edge in score.interval)
    best = "that rule with its best step size" if selection.best == RESIZED else "the best that was learned"
    return (
        f"Nothing was gained for certain, so the rule is the one that it began from: {best} has a "
        f"final loss {percent(score.change)} (95 % interval: {low} to {high}) on students that it was not chosen by."
    )


def comparison_table(comparison: Comparison) -> Table:
    """Every optimizer beside the specialised rule, training and test."""
    speed_ups = {name: own.speed_ups for name, own in comparison.evaluations.items()}
    rows = []
    for own in sorted(comparison.results(), key=lambda result: result.mean):
        record = own.record()
        cells = [own.optimizer, loss_text(record["mean"]), interval_text(record["interval"])]
        cells.append(loss_text(record.get("test_mean")))
        for test in (False, True):
            change = None if own.optimizer == SPECIALISED else comparison.against(own.optimizer, test=test)
            cells.append("" if change is None else _ratio_text(*change))
        faster = speed_ups.get(own.optimizer)
        cells.append(_speed_up_text(faster) if faster else "")
        rows.append(cells)
    headings = [
        "optimizer",
        "final training loss",
        "95 % interval",
        "test loss",
        "specialised over it",
        "of test losses",
        "speed-up over AdamW",
    ]
    caption = (
        f"{comparison.task}, {comparison.horizon} steps; ratios below 1: the specialised rule is better. Losses below "
        f"{EVEN_FLOOR:g} of the first count as that, and no student for more than a factor of "
        f"{math.exp(CAP_OF_LOG_RATIO):.1f}. Speed-up: times as many steps AdamW at its best constant rate needs to the "
        f"same loss; it takes {CAP} times as many at most"
    )
    return Table(caption, headings, rows)


def _speed_up_text(faster: Sequence[float]) -> str:
    """Their mean, of which no more is known where AdamW did not come to a student's loss."""
    bound = "at least " if max(faster) >= CAP else ""
    return f"{bound}{sum(faster) / len(faster):.2f}"


def check_table(checks: Sequence[Comparison]) -> Table:
    """Sizes, lengths and data that it was not meta-trained on."""
    rows = []
    for own in checks:
        ours, before = (own.evaluations[name].results[0].mean for name in (SPECIALISED, BEFORE))
        ratios = [_ratio_text(*own.against(BEFORE, test=test)) for test in (False, True)]
        rows.append([own.task, str(own.horizon), loss_text(before), loss_text(ours), *ratios])
    headings = ["task", "steps", "before", "specialised", "specialised over before", "of test losses"]
    return Table("Not meta-trained on; ratios below 1: the specialised rule is better", headings, rows)


def page(
    content: Mapping[str, Any], comparison: Comparison, checks: Sequence[Comparison], rules: Mapping[str, UpdateRule]
) -> str:
    """Make the whole page.

    Args:
        content: of ``specialised.json``.
        comparison: on the task itself.
        checks: on others.
        rules: specialised and before, whose responses are drawn.
    """
    picture = Chart(
        f"{comparison.task}, {comparison.horizon} steps",
        "Training loss at each step, mean of the students. Shaded: 95 % intervals of the mean.",
        figures.interval_curves(comparison.results(), title=""),
    )
    sections = [
        Section(
            "comparison",
            "On fresh students",
            "Nothing was learned, tuned or chosen on these students. Baselines have the learning rate and schedule "
            "that were best for this task. The rule it began from with its best step size is the control: what "
            "learning buys is what it buys beyond that.",
            charts=[picture],
            tables=[comparison_table(comparison)],
        )
    ]
    if checks:
        sections.append(Section("checks", "On others of the kind", tables=[check_table(checks)]))
    sections.append(_learning_section(content, comparison))
    for name, rule in rules.items():
        own = response_section(rule)
        sections.append(
            Section(f"response-{name}", f"What it answers to gradients: {name}", own.lead, charts=own.charts)
        )
    options = content["options"]
    title = f"{options['rule']} specialised on {options['task']}"
    return render(title, content["sentence"], sections, command=content["command"])


def called(options: SpecialiseOptions) -> str:
    """Write the call from Python that a run was begun with."""
    own = [repr(options.task), f"rule={options.rule!r}", f"minutes={options.minutes:g}"]
    others = [field.name for field in fields(options) if field.name not in ("task", "rule", "minutes")]
    default = SpecialiseOptions(options.task)
    own += [f"{n}={getattr(options, n)!r}" for n in others if getattr(options, n) != getattr(default, n)]
    return f"l2l_opt.specialise({', '.join(own)})"


def _learning_section(content: Mapping[str, Any], comparison: Comparison) -> Section:
    plan = [
        [
            stage["estimator"],
            *(f"{stage[key]:g}" for key in ("students", "truncation_length", "outer_steps", "meta_lr")),
        ]
        for stage in content["plan"]
    ]
    scores = [
        [name, _ratio_text(score["change"], score["interval"])]
        for name, score in content["selection"]["scores"].items()
    ]
    count = content["break_even"]
    facts = [
        ("kept", content["selection"]["kept"]),
        ("seconds of learning", f"{content['seconds']:.0f}"),
        ("steps that a training saves to the old rule's final loss", f"{comparison.steps_saved():.0f}"),
        ("seconds a step", f"{comparison.seconds_per_step:.3g}"),
        ("worth it from training number", "never" if count is None else str(count)),
        ("best factor of the old rule's steps", f"{content['best_size']:.3g}"),
    ]
    return Section(
        "learning",
        "What was learned",
        "Rules are chosen on one half of the validation students and scored on the other.",
        facts=facts,
        tables=[
            Table("Stages", ["estimator", "students", "window", "outer steps", "meta-learning rate"], plan),
            Table("Final loss over that of the rule it began from, validation students", ["rule", "ratio"], scores),
        ],
    )


def _ratio_text(change: float, interval: Sequence[float]) -> str:
    low, high = (math.exp(edge) for edge in interval)
    return f"{math.exp(change):.3f} ({low:.3f} to {high:.3f})"
