"""Damaged tables and pictures: one sentence of an error that is ours, or a model whose columns keep their kind."""

import pytest

from scripts.experiments.few_shot.fuzz_inputs import fuzz, image_case, table_case

# A damaged picture is a damaged number too, which numpy and Pillow warn of.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.mark.parametrize("case", [table_case, image_case])
def test_damaged_inputs_are_refused_in_a_sentence_or_read_without_silent_changes(case):
    found = fuzz(case, 50, seed=1)
    assert found["failures"] == []
    outcomes = [outcome for counts in found["outcomes"].values() for outcome in counts.elements()]
    assert len(outcomes) == 50
    assert sum("refused" in outcome for outcome in outcomes) > 5
    assert sum("done" in outcome for outcome in outcomes) > 5
