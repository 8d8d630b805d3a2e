"""Records keep what they are given."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from l2l_opt.inspection.unrolls_tab.recorder import choose_weights
from l2l_opt.inspection.unrolls_tab.records import (
    VERSION,
    Header,
    TensorEntry,
    from_halves,
    parse_tag,
    tag_of,
    to_halves,
)

HEADER = Header("adam", 10, (TensorEntry("w", (3, 4), (0, 5, 11), (1,), 1),), 2)
FLOATS = st.floats(-(2.0**100), 2.0**100, width=32) | st.sampled_from([0.0, float("nan"), float("inf"), -float("inf")])


@given(arrays(np.float64, (3, 5), elements=FLOATS))
def test_halves_keep_three_digits_of_numbers_of_any_size(values):
    back = from_halves(to_halves(values))
    finite = np.isfinite(values)
    np.testing.assert_array_equal(np.isnan(values), np.isnan(back))
    np.testing.assert_array_equal(values[~finite], back[~finite])
    largest = np.where(finite, np.abs(values), 0).max(axis=1, keepdims=True)
    error = np.abs(np.where(finite, values, 0) - np.where(finite, back, 0))
    assert (error <= np.maximum(2.0**-11 * np.abs(np.where(finite, values, 0)), 2.0**-38 * largest + 1e-45)).all()


def test_a_row_takes_two_bytes_a_number():
    packed = to_halves(np.full((2, 64), 1e-20))
    assert packed.nbytes == 2 * 65 * 2
    np.testing.assert_allclose(from_halves(packed), 1e-20, rtol=1e-3)


def test_a_header_is_read_as_it_was_written():
    assert Header.read(HEADER.text()) == HEADER


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "damaged"),
        ("[]", "damaged"),
        ("{}", "damaged"),
        (json.dumps(json.loads(HEADER.text()) | {"tensors": [{"name": "w"}]}), "damaged"),
        (HEADER.text().replace('"probe": 1', '"probe": 9'), "damaged"),
        (json.dumps({"version": VERSION + 1}), f"format {VERSION + 1}.*up to {VERSION}"),
    ],
)
def test_a_header_that_cannot_be_read_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        Header.read(text)


def test_tags_are_parsed_back():
    assert parse_tag(tag_of(40, "table", 3)) == (40, "table", 3)
    assert parse_tag(tag_of(0, "about")) == (0, "about", -1)
    for foreign in ("loss", "unroll/x/about", "unroll/1/table/x", "unroll/1/a/2/b"):
        with pytest.raises(ValueError, match=r"no tag|invalid literal"):
            parse_tag(foreign)


@pytest.mark.parametrize(("tensors", "units"), [(1, 0), (20, 40), (300, 40), (3, 4)])
def test_weights_are_spread_over_each_tensor_and_bounded_in_all(tensors, units):
    shapes = {f"{index}": (64, 30) for index in range(tensors)}
    entries = choose_weights(shapes, dict.fromkeys(shapes, 8), units)
    assert sum(len(entry.sampled) for entry in entries) <= max(200, 4 * tensors)
    assert sum(len(entry.followed) for entry in entries) * units <= 2048
    for entry in entries:
        assert entry.sampled[0] == 0
        assert entry.sampled[-1] >= 64 * 30 - 16
        assert all(place % 8 == 0 for place in entry.sampled)
    assert bool(entries[0].followed) == bool(units)


def test_scalars_and_empty_tensors_are_recorded_as_far_as_they_go():
    scalar, empty = choose_weights({"s": (), "e": (0, 3)}, {"s": 1, "e": 1}, 4)
    assert (scalar.sampled, scalar.followed) == ((0,), (0,))
    assert (empty.sampled, empty.followed) == ((), ())
