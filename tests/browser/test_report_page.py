"""The report in a browser: nothing off the page, nothing cut off, nothing that keeps anybody out."""

import io

import numpy as np
import pytest
from PIL import Image

from tests.cli.test_journeys import SMALL, l2l_opt

pytestmark = pytest.mark.slow

NARROW = {"width": 400, "height": 800}
PHONE, DESK = {"width": 390, "height": 844}, {"width": 1280, "height": 900}


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Of a meta-training run, with an evaluation: a page with all of its sections."""
    folder = tmp_path_factory.mktemp("report")
    task = ["--task", "digits-mlp:hidden=8"]
    l2l_opt("meta-train", *SMALL, "--outer-steps", 12, "--validate-every", 4, "--out", folder / "run")
    counts = ["--seeds", 2, "--tuning-seeds", 1]
    l2l_opt("evaluate", folder / "run" / "rule.safetensors", *task, "--horizon", 10, *counts, "--out", folder / "run")
    page, cache = folder / "page" / "report.html", folder / "cache"
    l2l_opt("report", folder / "run", *task, "--horizon", 20, *counts, "--cache", cache, "--out", page)
    return page


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
def test_the_report_is_whole_and_open_to_everyone(chromium, axe, report, size, scheme):
    context = chromium.new_context(viewport=size, color_scheme=scheme)
    page = context.new_page()
    requests, complaints = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(report.as_uri())
    assert requests == [report.as_uri()]
    assert complaints == []

    wide = "document.documentElement.scrollWidth"
    assert page.evaluate(wide) <= size["width"]
    for details in page.locator("details").all():
        details.locator("summary").click()
    assert page.evaluate(wide) <= size["width"]

    headings = page.locator("h2").all_inner_texts()
    assert headings == [
        "Against tuned baselines",
        "Response to gradients",
        "Inside a training run",
        "Evaluations",
        "Meta-training",
        "Model card",
    ]
    page.evaluate(axe)
    found = page.evaluate("axe.run(document)")
    assert found["violations"] == []
    assert len(found["passes"]) > 20

    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") == (scheme == "light")
    charts = page.locator("svg.chart").all()
    assert len(charts) >= 10
    for chart in charts:
        assert page.evaluate("element => element.querySelector('title').textContent.length", chart.element_handle())
        pixels = np.asarray(Image.open(io.BytesIO(chart.screenshot())).convert("L"), dtype=float)
        # Not empty: a good share of it is of another brightness than its background.
        assert (np.abs(pixels - np.median(pixels)) > 40).mean() > 0.005
    context.close()


def test_the_first_words_are_the_metric_and_the_rule(chromium, report):
    page = chromium.new_page()
    page.goto(report.as_uri())
    title = "Final training loss of rnnprop of run and of tuned baselines"
    assert (page.title(), page.locator("h1").inner_text()) == (title, title)
    first = page.locator("header p").inner_text()
    start = "After 20 steps of digits-mlp:hidden=8, the final training loss (lower is better) of rnnprop of run is "
    assert first.startswith(start)
    page.close()


CLIPPED = """table => [...table.querySelectorAll("th, td")]
    .filter(cell => cell.scrollWidth > cell.clientWidth + 1 || cell.getBoundingClientRect().width < 24)
    .map(cell => cell.textContent)"""
BROKEN = """table => [...table.querySelectorAll("td")].filter(cell => {
    const range = document.createRange();
    range.selectNodeContents(cell);
    return range.getClientRects().length > 1;
}).map(cell => cell.textContent)"""


SPLIT = """table => [...table.querySelectorAll("thead th")].filter(cell => {
    const range = document.createRange();
    range.selectNodeContents(cell);
    return range.getClientRects().length > cell.textContent.split(/[ -]/).length;
}).map(cell => cell.textContent)"""


def test_tables_are_readable_on_a_narrow_screen(chromium, report):
    page = chromium.new_page(viewport=NARROW)
    page.goto(report.as_uri())
    for details in page.locator("details").all():
        details.locator("summary").click()
    tables = page.locator(".wide").all()
    assert len(tables) >= 4
    scrolled = 0
    for table in tables:
        assert table.evaluate(CLIPPED) == []
        assert table.evaluate(BROKEN) == []
        assert table.evaluate(SPLIT) == []
        assert table.locator("caption span").bounding_box()["width"] <= NARROW["width"]
        scrolled += table.evaluate("table => { table.scrollLeft = table.scrollWidth; return table.scrollLeft > 0; }")
        # What a row is of is in sight beside its last number, and leaves it room.
        for row in table.locator("tbody tr").all():
            heading, last = row.locator("th").bounding_box(), row.locator("td").last.bounding_box()
            assert heading["x"] >= 0
            assert heading["width"] <= 0.4 * NARROW["width"]
            assert heading["x"] + heading["width"] <= last["x"] + 1
            assert last["x"] + last["width"] <= NARROW["width"]
    assert scrolled
    assert page.evaluate("document.documentElement.scrollWidth") <= NARROW["width"]
    page.close()


def test_the_report_prints_on_paper_in_light_colours(chromium, report):
    context = chromium.new_context(color_scheme="dark")
    page = context.new_page()
    page.goto(report.as_uri())
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not page.locator("nav").is_visible()
    assert page.pdf()[:5] == b"%PDF-"
    context.close()


def test_a_reader_without_eyes_gets_names_descriptions_and_numbers(chromium, report):
    page = chromium.new_page()
    page.goto(report.as_uri())
    snapshot = page.locator("main").aria_snapshot()
    assert 'img "digits-mlp:hidden=8, 20 steps"' in snapshot
    assert 'columnheader "95 % interval"' in snapshot
    assert 'rowheader "learned"' in snapshot
    page.close()
