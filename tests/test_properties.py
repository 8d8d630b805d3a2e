"""What holds of notations, horizons, shares of ranks and encoded tables whatever they are given."""

import contextlib
import math
import string

import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st

from l2l_opt.inner_loop.horizon import Horizon
from l2l_opt.meta_training.ranks import Ranks
from l2l_opt.registry import format_spec, parse_spec
from l2l_opt.tasks.mixture import Choice, Range, TaskMixture, make_tasks
from l2l_opt.tasks.tables.encoder import TableEncoder

NAMES = st.text("abc-19", min_size=1, max_size=6)
OPTIONS = st.text("abc_", min_size=1, max_size=6)
WORDS = st.text("abc", min_size=1, max_size=6).map("word-{}".format)
VALUES = st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.booleans(), st.none(), WORDS)
GENERATORS = st.integers(0, 2**32).map(lambda seed: torch.Generator().manual_seed(seed))


@given(NAMES, st.dictionaries(OPTIONS, VALUES))
def test_a_notation_is_read_as_it_was_written(name, options):
    written = ",".join(f"{key}={value}" for key, value in options.items())
    assert parse_spec(f"{name}:{written}" if options else name) == (name, options)


@given(NAMES, st.dictionaries(OPTIONS, st.one_of(VALUES, st.text("a'=,+ ;1"))))
def test_whatever_options_hold_they_are_read_as_they_were_formatted(name, options):
    assert parse_spec(format_spec(name, options)) == (name, options)


@given(st.text(string.printable) | st.text())
@example("task:option={[]:1}")
@example("task:option={{}}")
def test_any_text_is_a_notation_or_refused_in_a_sentence(text):
    with contextlib.suppress(ValueError):
        name, options = parse_spec(text)
        assert text.startswith(name)
        assert all(key.isidentifier() for key in options)


@given(st.integers(1, 6), st.integers(0, 6), st.sampled_from(["fixed", "range", "growing"]), GENERATORS)
def test_a_horizon_is_a_multiple_within_its_bounds(multiple, more, kind, generator):
    shortest, longest = 3 * multiple, (3 + (0 if kind == "fixed" else more)) * multiple
    text = {"fixed": f"{shortest}", "range": f"{shortest}..{longest}", "growing": f"{shortest}..{longest}:growing"}[
        kind
    ]
    horizon = Horizon.parse(text, truncation_length=multiple)
    assert Horizon.parse(str(horizon), truncation_length=multiple) == horizon
    drawn = [horizon.draw(generator, progress=progress / 10) for progress in range(11)]
    assert all(shortest <= steps <= longest and steps % multiple == 0 for steps in drawn)
    if kind == "growing":
        assert drawn == sorted(drawn)
        assert (drawn[0], drawn[-1]) == (shortest, longest)


@given(st.integers(-5, 200), st.integers(-5, 200), st.integers(-2, 30))
def test_a_horizon_is_good_or_refused_with_what_would_do(low, high, truncation_length):
    good = 0 < low <= high and truncation_length >= 1 and low % truncation_length == high % truncation_length == 0
    with contextlib.nullcontext() if good else pytest.raises(ValueError, match="; got .*, use "):
        Horizon.parse(f"{low}..{high}", truncation_length=truncation_length)


@given(st.integers(1, 40), st.integers(0, 200))
def test_shares_of_ranks_are_all_there_is_in_order_and_balanced(size, spare):
    numbers = list(range(size + spare))
    shares = [Ranks(rank, size).share(numbers) for rank in range(size)]
    assert [number for share in shares for number in share] == numbers
    lengths = {len(share) for share in shares}
    assert max(lengths) - min(lengths) <= 1
    with pytest.raises(ValueError, match=f"got {size - 1} for {size}"):
        Ranks(0, size).share(range(size - 1))


@given(st.integers(1, 50), st.integers(0, 50), GENERATORS)
def test_a_whole_range_draws_whole_numbers_within_it(low, more, generator):
    drawn = [Range(low, low + more).draw(generator) for _ in range(10)]
    assert all(isinstance(number, int) and low <= number <= low + more for number in drawn)


@given(st.floats(1e-6, 1e6), st.floats(1, 1e6), GENERATORS)
def test_a_range_draws_within_it(low, factor, generator):
    for _ in range(5):
        assert low * (1 - 1e-12) <= Range(low, low * factor).draw(generator) <= low * factor * (1 + 1e-12)


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 4), st.integers(0, 3)), min_size=1, max_size=3), GENERATORS)
def test_a_mixture_is_what_its_notation_states(parts, generator):
    text = " + ".join(f"{weight}*quadratics:dim={low}..{low + more}" for weight, low, more in parts)
    mixture = make_tasks(text)
    assert isinstance(mixture, TaskMixture)
    assert [(c.weight, c.options["dim"]) for c in mixture.components] == [
        (weight, Range(low, low + more)) for weight, low, more in parts
    ]
    dim = mixture.draw(generator).init_params({}, torch.Generator())["theta"].numel()
    assert any(low <= dim <= low + more for _, low, more in parts)


@given(st.lists(st.sampled_from(["relu", "tanh", "gelu", "elu"]), min_size=2, unique=True), GENERATORS)
def test_a_choice_is_one_of_its_values(names, generator):
    mixture = make_tasks(f"digits-mlp:hidden=2,activation={'|'.join(names)}")
    assert isinstance(mixture, TaskMixture)
    choice = mixture.components[0].options["activation"]
    assert choice == Choice(tuple(names))
    assert choice.draw(generator) in names


NUMBERS = st.floats(-1e30, 1e30)
TABLES = st.integers(1, 9).flatmap(
    lambda rows: st.fixed_dictionaries(
        {
            "amount": st.lists(NUMBERS, min_size=rows, max_size=rows),
            "count": st.lists(st.integers(-3, 3).map(float), min_size=rows, max_size=rows),
            "kind": st.lists(st.sampled_from(["a", "b", "red", "1"]), min_size=rows, max_size=rows),
        }
    )
)
KINDS = {"amount": "numbers", "count": "numbers", "kind": "words"}
notes_are_expected = pytest.mark.filterwarnings("ignore::l2l_opt.checks.DataNote")


def picked(table, places):
    return {name: [cells[place] for place in places] for name, cells in table.items()}


@notes_are_expected
@given(TABLES, st.randoms(use_true_random=False))
def test_a_row_is_encoded_whatever_its_neighbours(table, random):
    encoder = TableEncoder.fit(table, KINDS)
    inputs = encoder.encode(table)
    rows = len(table["kind"])
    assert inputs.shape == (rows, encoder.num_inputs) == (rows, 2 + len(set(table["kind"])))
    assert bool(inputs.isfinite().all())
    order = random.sample(range(rows), rows)
    assert torch.equal(encoder.encode(picked(table, order)), inputs[order])
    for place in range(rows):
        assert torch.equal(encoder.encode(picked(table, [place])), inputs[place : place + 1])
    # Learned from the same rows in another order: the same but for the rounding of sums.
    again = TableEncoder.fit(picked(table, order), KINDS).encode(table)
    torch.testing.assert_close(again, inputs, rtol=1e-5, atol=1e-5)


@notes_are_expected
@given(TABLES, NUMBERS, st.sampled_from(["z", "A", "", "3"]))
def test_what_was_never_seen_is_finite_and_of_no_known_kind(table, number, word):
    encoder = TableEncoder.fit(table, KINDS)
    new = encoder.encode({"amount": [number], "count": [number], "kind": [word]})
    assert bool(new.isfinite().all())
    assert not new[:, 2:].any()


@notes_are_expected
@given(st.lists(st.sampled_from(["1", "20", "-3"]), min_size=1), st.data())
def test_words_that_are_numbers_are_known_among_numbers_alone(words, data):
    """A column of a table with a word in it is one of words; the same column of new rows may hold numbers alone."""
    encoder = TableEncoder.fit({"kind": [*words, "word"]}, {"kind": "words"})
    word = data.draw(st.sampled_from(words))
    assert torch.equal(encoder.encode({"kind": [float(word)]}), encoder.encode({"kind": [word]}))


@given(st.floats(1e-3, 1e3), st.floats(-1e3, 1e3), st.lists(st.integers(-50, 50), min_size=4, max_size=20))
def test_units_do_not_matter(scale, shift, numbers):
    assume(len(set(numbers)) > 2)
    here = {"amount": [float(number) for number in numbers]}
    there = {"amount": [scale * number + shift for number in numbers]}
    encoders = TableEncoder.fit(here), TableEncoder.fit(there)
    # At the edge of what is compressed, rounding decides.
    assume(encoders[0].numbers["amount"][2] == encoders[1].numbers["amount"][2])
    one, other = (encoder.encode(table) for encoder, table in zip(encoders, (here, there), strict=True))
    torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)
    assert math.isclose(float(one.double().mean()), 0, abs_tol=1e-5)
