"""The model cards of docs/model-cards are what the artefacts and their evaluations have."""

import pytest

from l2l_opt.pretrained import list_pretrained
from l2l_opt.storage.card import card_of
from l2l_opt.storage.rule_file import load_rule
from scripts.house import model_cards


def test_there_is_one_for_each_shipped_rule():
    assert {page.stem for page in model_cards.PAGES.glob("*.md")} == set(list_pretrained())
    assert set(model_cards.EVALUATIONS) <= set(list_pretrained())


@pytest.mark.parametrize("name", list_pretrained())
def test_a_page_is_what_its_script_writes(name):
    page = (model_cards.PAGES / f"{name}.md").read_text()
    card = card_of(load_rule(name).float())
    assert page == model_cards.fill(page, name)
    assert card["digest"] in page
    assert f"| learned weights | {card['weights']:,} |" in page
    assert ("test loss, AdamW" in page) == (name in model_cards.EVALUATIONS)
    assert (model_cards.UNMEASURED in page) == (name not in model_cards.EVALUATIONS)
