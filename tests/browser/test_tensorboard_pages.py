"""What inspect and meta-train write, as a real TensorBoard server shows it in a real browser."""

import io
import time

import numpy as np
import pytest
from PIL import Image

from l2l_opt.inspection.tensorboard.layout import meta_training_layout, unroll_layout
from tests.browser.serving import SECONDS, fetched, tensorboard
from tests.cli.test_few_shot import SMALL as SMALL_FEW_SHOT
from tests.cli.test_journeys import SMALL, l2l_opt

pytestmark = pytest.mark.slow

SIZE = {"width": 1400, "height": 4000}
"""Tall, since TensorBoard draws what is in view."""
QUANTITIES = ["Loss", "gradient_rms", "update_rms", "update_over_parameter", "effective_lr", "cosine_with_descent"]
QUANTITIES += ["cosine_with_adam", "hparam"]
STATE = ["state_hidden_rms", "state_hidden_mean", "state_hidden_max", "state_cell_rms", "gate_input_closed"]
STATE += ["gate_input_open", "gate_forget_closed", "gate_forget_open", "gate_output_closed", "gate_output_open"]


def has_scalars(address):
    return fetched(f"{address}/data/plugin/scalars/tags") not in (b"{}", b"")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return tmp_path_factory.mktemp("events")


@pytest.fixture(scope="module")
def inspection(folders):
    """Address of a server of one inspection, of the rule and of two baselines."""
    l2l_opt(
        "inspect", "default-1", "--task", "digits-mlp:hidden=6", "--horizon", 25, "--baselines", "sgd,adam",
        "--tuning-seeds", 1, "--cache-dir", folders / "cache", "--logdir", folders / "inspection",
    )  # fmt: skip
    with tensorboard(folders / "inspection", ready=has_scalars) as address:
        yield address


@pytest.fixture(scope="module")
def meta_training(folders):
    """Address of a server of a meta-training run."""
    l2l_opt("meta-train", *SMALL, "--outer-steps", 12, "--validate-every", 4, "--out", folders / "run")
    with tensorboard(folders / "run" / "events", ready=has_scalars) as address:
        yield address


@pytest.fixture(scope="module")
def few_shot(folders):
    """Address of a server of a few-shot meta-training run."""
    l2l_opt("few-shot", "meta-train", *SMALL_FEW_SHOT, "--outer-steps", 40, "--out", folders / "few-shot")
    with tensorboard(folders / "few-shot" / "events", ready=has_scalars) as address:
        yield address


class Dashboard:
    """One of TensorBoard's tabs."""

    def __init__(self, page, address, tab):
        self.page = page
        # Another fragment alone would not load the page anew.
        page.goto("about:blank")
        page.goto(f"{address}/#{tab}")
        page.locator("tf-category-paginated-view:visible, tf-hparams-table-view:visible").first.wait_for()

    def open_all(self):
        """Open every pane, and return their names."""
        panes = self.page.locator("tf-category-paginated-view:visible").all()
        names = []
        for pane in panes:
            heading = pane.locator("button.heading")
            names.append(heading.inner_text().partition("\n")[0].strip())
            if not pane.evaluate("element => element.opened"):
                heading.click()
        return names

    def assert_shown(self, texts):
        for text in texts:
            self.page.get_by_text(text, exact=True).first.wait_for(state="attached")

    def assert_drawn(self, element, *, least):
        """So many cards of a kind are there, and none of them is empty."""
        cards = self.page.locator(element)
        cards.nth(least - 1).wait_for()
        for card in cards.all():
            card.scroll_into_view_if_needed()
            end = time.monotonic() + SECONDS
            while coloured(card.screenshot()) < 20:
                assert time.monotonic() < end, f"{element} stays empty"
                time.sleep(0.2)


def coloured(picture):
    """Pixels of a screenshot that are of a colour, as lines and heat maps are and text is not."""
    pixels = np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"), dtype=int)
    return int((pixels.max(axis=2) - pixels.min(axis=2) > 60).sum())


@pytest.fixture
def page(chromium):
    context = chromium.new_context(viewport=SIZE)
    context.set_default_timeout(SECONDS * 1000)
    yield context.new_page()
    context.close()


def assert_opens_on(page, address, layout):
    """The custom-scalars tab shows every chart of a layout, each in its place and none of them empty."""
    dashboard = Dashboard(page, address, "custom_scalars")
    assert dashboard.open_all() == list(layout)
    titles = [title for charts in layout.values() for title in charts]
    dashboard.assert_shown(titles)
    cards = "tf-custom-scalar-multi-line-chart-card, tf-custom-scalar-margin-chart-card"
    dashboard.assert_drawn(cards, least=len(titles))


def assert_first_card_is_the_loss(page, address):
    """Without a tab asked for, TensorBoard opens on all cards in the order of their tags."""
    page.goto("about:blank")
    page.goto(address)
    page.locator("card-view").nth(1).wait_for()
    assert page.locator("card-view").first.inner_text().split()[:2] == ["Loss", "/student"]


def test_an_inspection_opens_on_the_loss(page, inspection):
    assert_first_card_is_the_loss(page, inspection)


def test_a_meta_training_run_opens_on_the_loss(page, meta_training):
    assert_first_card_is_the_loss(page, meta_training)


def test_a_few_shot_run_opens_on_the_loss(page, few_shot):
    assert_first_card_is_the_loss(page, few_shot)


def test_an_inspection_opens_on_a_readable_dashboard(page, inspection):
    assert_opens_on(page, inspection, unroll_layout())


def test_an_inspection_has_a_chart_a_quantity(page, inspection):
    dashboard = Dashboard(page, inspection, "scalars")
    assert set(dashboard.open_all()) >= {*QUANTITIES, *STATE}
    dashboard.assert_drawn("tf-scalar-card", least=len(QUANTITIES) + len(STATE))
    for run in ("learned", "sgd", "adam"):
        dashboard.assert_shown([run])


def test_an_inspection_has_pictures_histograms_the_card_and_hparams(page, inspection):
    dashboard = Dashboard(page, inspection, "images")
    assert set(dashboard.open_all()) == {"hidden", "rule", "student", "trajectory"}
    dashboard.assert_drawn("tf-image-loader", least=6)

    dashboard = Dashboard(page, inspection, "histograms")
    assert set(dashboard.open_all()) == {"gradient", "update", "hidden", "cell"}
    dashboard.assert_drawn("tf-histogram-loader", least=16)

    dashboard = Dashboard(page, inspection, "text")
    card = page.locator("tf-text-loader")
    card.first.wait_for()
    assert '"digest"' in card.locator("code").first.inner_text()

    dashboard = Dashboard(page, inspection, "hparams")
    dashboard.assert_shown(["optimizer", "horizon", "hparam/final_loss", "learned", "sgd", "adam"])


def test_a_meta_training_run_opens_on_a_readable_dashboard(page, meta_training):
    assert_opens_on(page, meta_training, meta_training_layout())


def test_a_meta_training_run_shows_the_rule_as_it_changes(page, meta_training):
    dashboard = Dashboard(page, meta_training, "images")
    assert set(dashboard.open_all()) == {"hidden", "meta_gradient", "rule", "student", "trajectory"}
    dashboard.assert_shown(["student/before_and_after", "rule/response", "hidden/over_time"])
    dashboard.assert_drawn("tf-image-loader", least=5)
