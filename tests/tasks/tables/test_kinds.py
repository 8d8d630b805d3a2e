"""What kind a column is of."""

import pytest
import torch

from l2l_opt.checks import DataNote
from l2l_opt.tasks.tables.encoder import TableEncoder
from l2l_opt.tasks.tables.table import read_table
from tests.tasks.tables.tables import fitted, write


@pytest.mark.parametrize("cells", [["02", "10", "11"], ["007", "12", "007"], ["01234", "90210", "10001"]])
def test_codes_stay_text_with_a_note(cells):
    encoder, notes = fitted({"code": cells * 5})
    assert encoder.words == {"code": sorted(set(cells))}
    assert f"'{cells[0]}'" in notes
    with pytest.warns(DataNote, match="unknown words: 1"):
        assert encoder.encode({"code": [cells[0].lstrip("0")]}).sum() == 0


@pytest.mark.parametrize("cells", [["12kg", "13kg"], ["1_000", "2_000"], ["2020-01-05", "2020-01-06"]])
def test_words_that_begin_like_numbers_are_noted(cells):
    encoder, notes = fitted({"x": cells * 5})
    assert encoder.words == {"x": cells}
    assert f"column 'x' has '{cells[0]}' and is read as words, not numbers" in notes


def test_a_code_among_measured_numbers_is_refused():
    with pytest.raises(ValueError, match="got '05' in row 3, column 'age', mend it"):
        fitted({"age": [*map(str, range(20, 23)), "05", *(f"{row}.5" for row in range(20))]})


@pytest.mark.parametrize("name", ["zip", "ZIP code", "post_code"])
def test_postal_codes_are_no_numbers(name):
    encoder, _ = fitted({name: ["90210", "10001", "60601"] * 5})
    assert not encoder.numbers


@pytest.mark.parametrize("odd", ["12a", "1.5.2", "inf", "3,5", "about 7"])
def test_an_odd_cell_among_measured_numbers_is_refused_with_its_line(tmp_path, odd):
    rows = [f"{20 + 1.5 * row},{row % 2}" for row in range(30)]
    rows[6] = f'"{odd}",0'
    table = read_table(write(tmp_path / "t.csv", "\n".join(["age,y", *rows])), label="y")
    with pytest.raises(
        ValueError, match=f"got '{odd}' in line 8, column 'age', mend it, leave .* by --ignore or --words"
    ):
        TableEncoder.fit(table.columns)


@pytest.mark.parametrize(
    ("cells", "odd"), [(["5%", "6", "7%"], "6"), (["1,5", "2.5", "3,5"], "2.5"), (["$5", "€5", "$6"], "€5")]
)
def test_numbers_written_in_several_ways_are_refused(cells, odd):
    with pytest.raises(ValueError, match=f"must hold numbers written in one way; got '{odd}' in row 1"):
        fitted({"x": cells})


@pytest.mark.parametrize("first", [0, 1, 1000])
def test_rows_that_are_numbered_and_shuffled_are_ids(first):
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0)) + first
    encoder, note = fitted({"row": order.tolist(), "x": [number % 5 for number in range(24)]})
    assert encoder.ids == ["row"]
    assert "'row' (it numbers the rows)" in note
    # With gaps they may well be measured.
    encoder, _ = fitted({"row": (2 * order).tolist(), "x": [number % 5 for number in range(24)]})
    assert list(encoder.numbers) == ["row", "x"]
