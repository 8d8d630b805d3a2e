"""A report: it shows what was measured, and nothing in it can break out of the page."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch.utils.tensorboard import SummaryWriter

from l2l_opt.evaluation.results import Result, TaskEvaluation
from l2l_opt.evaluation.statistics import interval_of_mean
from l2l_opt.inspection.pictures import figures
from l2l_opt.inspection.pictures.watched_run import watch
from l2l_opt.inspection.report.page import render
from l2l_opt.inspection.report.parts import Chart, Section, Table
from l2l_opt.inspection.report.sections import (
    card_section,
    curves_section,
    evaluation_section,
    headline,
    history_section,
    response_section,
    unroll_section,
)
from l2l_opt.inspection.report.vector_graphics import COLOURS, inline_svg
from tests.conftest import small_family, small_rule

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]
HOSTILE = "<script>alert('x')</script> & \"quoted\""


def evaluation(**means):
    generator = np.random.default_rng(0)
    results = []
    for name, mean in means.items():
        curves = mean * (1 + 0.1 * generator.random((20, 3)))
        final = curves[-10:].mean(0)
        settings = {} if name == "learned" else {"lr": 0.1, "schedule": "cosine"}
        interval = (float(final.min()), float(final.max()))
        results.append(Result("small", 20, name, settings, final.tolist(), float(final.mean()), interval, 0.1, curves))
    return TaskEvaluation("small", 20, results, speed_ups=[1.0] * 3)


class Outline(HTMLParser):
    def __init__(self):
        super().__init__()
        self.ids, self.tags, self.links = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.ids += [value for name, value in attrs if name == "id"]
        self.links += [value for name, value in attrs if name in ("href", "src", "xlink:href")]


def outline(page):
    parser = Outline()
    parser.feed(page)
    return parser


def a_chart(title="a title", description="a description"):
    figure = Figure(figsize=(3, 2))
    axis = figure.subplots()
    axis.plot([1, 2], color=figures.LEARNED)
    axis.plot([2, 1], color=figures.OTHERS[0])
    axis.grid(color=figures.GRID)
    return Chart(title, description, figure)


def test_curves_and_tables_hold_the_numbers_that_were_measured():
    own = evaluation(learned=0.1, adamw=0.3)
    section = curves_section([own], rule="mine", tuning_seeds=2)
    (final,) = section.tables
    assert [row[0] for row in final.rows] == ["learned", "adamw"]
    for row, result in zip(final.rows, own.results, strict=True):
        assert row[final.headings.index("final loss")] == f"{np.mean(result.curves[-10:]):.4g}"
    (chart,) = section.charts
    assert chart.table is not None
    last = chart.table.rows[-1]
    assert last == ["19", *(f"{result.curves[19].mean():.4g}" for result in own.results)]
    assert "Lowest at the end: learned" in chart.description
    assert f"{own.results[0].mean:.3g}" in headline([own], rule="first")


def test_the_lines_that_are_drawn_are_means_within_their_intervals():
    own = evaluation(learned=0.1, adamw=0.3)
    (axis,) = figures.interval_curves(own.results, title="").axes
    for line, result in zip(axis.lines, own.results, strict=True):
        np.testing.assert_allclose(line.get_ydata(), result.curves.mean(axis=1))
        low, high = interval_of_mean(result.curves)
        assert (low <= line.get_ydata()).all()
        assert (line.get_ydata() <= high).all()
        assert (low < high).all()


def test_response_surfaces_unrolls_and_cards_are_of_the_rule():
    torch.manual_seed(0)
    rule, family = small_rule("lstm").float(), small_family(torch.float32)
    response = response_section(rule)
    assert len(response.charts) == 2
    run = watch("learned", rule, family, horizon=12, seed=3)
    unroll = unroll_section([("small", run)])
    assert unroll.charts[0].title == "Hidden state over 12 steps of small"
    hidden = run.trace.hidden["hidden"]
    assert f"to {np.abs(hidden[-1]).mean():.2g}" in unroll.charts[0].description
    facts = dict(card_section(rule).facts)
    assert facts["weights"] == str(sum(weight.numel() for weight in rule.parameters()))
    assert facts["rule: name"] == "lstm"


def test_the_history_of_a_run_is_what_its_events_hold(tmp_path):
    with SummaryWriter(str(tmp_path)) as writer:
        for step in range(1, 201):
            writer.add_scalar("meta/loss", 5.0 - step / 100, step)
            writer.add_scalar("meta/gradient_norm", step, step)
            writer.add_scalar("meta_gradient_norm/readout.weight", step, step)
    section = history_section(tmp_path)
    assert [chart.title for chart in section.charts] == ["Meta-loss", "Norm of the meta-gradient"]
    assert section.charts[0].description == "Loss: 4.99 at outer step 1, 3 at 200, between 3 and 4.99."
    (table,) = section.tables
    assert table.rows == [["readout.weight", "50.8", "100", "150"]]


def test_tables_of_an_evaluation_say_what_diverged_and_what_was_not_run():
    record = {"task": "a", "horizon": 10, "optimizer": "learned", "mean": None, "interval": [None, None]}
    (table,) = evaluation_section([("one.json", {"results": [record]})]).tables
    assert table.caption == "a, 10 steps: final training loss (one.json)"
    assert [list(row) for row in table.rows] == [["learned", "diverged", "diverged to diverged"]]


def test_a_page_is_whole_and_refers_to_nothing_else():
    table = Table("caption", ["name", "value"], [[HOSTILE, "1"]])
    chart = a_chart(HOSTILE, HOSTILE)
    charts = [chart, Chart(chart.title, chart.description, chart.figure, table)]
    sections = [Section("one", HOSTILE, HOSTILE, [(HOSTILE, HOSTILE)], charts, [table])]
    page = render(HOSTILE, HOSTILE, sections, command=HOSTILE)
    found = outline(page)
    assert "script" not in found.tags
    assert len(found.ids) == len(set(found.ids))
    assert all(link.startswith(("#", "data:")) for link in found.links)
    assert not re.search(r"url\((?!#)", page)
    assert {link[1:] for link in found.links if link.startswith("#")} <= set(found.ids)
    assert found.tags.count("svg") == 2
    assert page.rstrip().endswith("</html>")


def test_pictures_take_the_pages_colours():
    chart = a_chart()
    drawn = inline_svg(chart.figure, key="k", title=chart.title, description=chart.description)
    assert "var(--ink)" in drawn
    assert "var(--line-1)" in drawn
    assert not any(colour in drawn for colour in COLOURS)
    again = inline_svg(chart.figure, key="k", title=chart.title, description=chart.description)
    assert drawn == again
