"""Ratings from a file or generated, and their factorisation."""

import gzip

import pytest
import torch
from torch.utils._pytree import tree_leaves

from l2l_opt.checks import DataNote
from l2l_opt.tasks import make_task
from l2l_opt.tasks.generated import GeneratedTask
from l2l_opt.tasks.tables.recommendation import generate_ratings, rating_error, read_ratings, write_ratings

ROWS = [f"anna,{item},{item % 5 + 1}" for item in range(8)] + [f"Bo,{item},{(item + 2) % 5 + 1}" for item in range(8)]


def write(folder, *lines):
    path = folder / "ratings.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def draw(family, seed=0):
    generator = torch.Generator().manual_seed(seed)
    data = family.sample(generator)
    return family.init_params(data, generator), data, family.sample_batch(data, generator)


def test_a_file_comes_back_as_it_was_written(tmp_path):
    pairs, stars = generate_ratings(torch.Generator().manual_seed(0), 500)
    write_ratings(tmp_path / "ratings.csv", pairs, stars)
    ratings = read_ratings(tmp_path / "ratings.csv")
    users, items = ({row: int(name) for name, row in ids.items()} for ids in (ratings.users, ratings.items))
    values = ratings.values * ratings.deviation + ratings.mean
    again = sorted(
        (users[user], items[item], round(value, 6))
        for (user, item), value in zip(ratings.pairs.tolist(), values.tolist(), strict=True)
    )
    assert again == sorted((*pair, star) for pair, star in zip(pairs.tolist(), stars.tolist(), strict=True))
    assert set(stars.tolist()) == {1, 2, 3, 4, 5}


def test_the_split_is_the_same_every_time_and_training_ratings_have_deviation_one(tmp_path):
    path = write(tmp_path, "user,item,rating", *ROWS)
    first = make_task("recommendation", file=path)
    path.touch()
    again = make_task(f"recommendation:file={path}")
    assert first.examples.ranges == {"train": (0, 12), "test": (12, 16)}
    assert torch.equal(first.examples.inputs, again.examples.inputs)
    known = first.examples.targets[:12]
    assert float(known.mean()) == pytest.approx(0, abs=1e-6)
    assert float(known.std()) == pytest.approx(1, abs=1e-6)


def test_ids_are_any_texts_columns_any_names_and_other_columns_are_ignored(tmp_path):
    lines = [f'{100 * k},"Smith, J. {k % 3}",ø{k % 4} , {k / 2}' for k in range(20)]
    path = tmp_path / "log.csv"
    path.write_text("\ufefftime,who,what, stars\r\n" + "\r\n".join(lines) + "\r\n\r\n", encoding="utf-8")
    ratings = read_ratings(path, user="who", item="what", rating="stars")
    assert list(ratings.users) == ["Smith, J. 0", "Smith, J. 1", "Smith, J. 2"]
    assert list(ratings.items) == ["ø0", "ø1", "ø2", "ø3"]
    family = make_task(f"recommendation:file={path},user=who,item=what,rating=stars,rank=2")
    assert {name: tuple(p.shape) for name, p in draw(family)[0].items()} == {
        "factorisation.people.weight": (3, 3),
        "factorisation.works.weight": (4, 3),
    }


def test_a_file_that_has_changed_is_read_again(tmp_path):
    path = write(tmp_path, "user,item,rating", *ROWS)
    assert len(read_ratings(path).users) == 2
    write(tmp_path, "user,item,rating", *ROWS, "Cy,1,4")
    assert len(read_ratings(path).users) == 3


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([""], r"first line .* must name the columns user, item, rating; got no 'user' among none"),
        (ROWS, r"got no 'user' among anna, 0, 1 .* add the line or name your own columns with user="),
        (["user,item,stars", *ROWS], r"got no 'rating' among user, item, stars"),
        (["user,item,rating", *ROWS, "Cy,3"], r"got no rating on line 18 of '.*ratings.csv', fill it in"),
        (["user,item,rating", ",3,4", *ROWS], r"got no user on line 2 of"),
        (["user,item,rating", *ROWS, "Cy,3,good"], r"a rating must be a finite number; got 'good' in column rating on"),
        (["user,item,rating", *ROWS, "Cy,3,NaN"], r"got 'NaN' in column rating on line 18 of .* mend it or remove"),
        (["user,item,rating", *ROWS, "Cy,3,1e999"], r"got '1e999' in column rating on line 18"),
        (["user,item,rating", *ROWS[:9]], r"must have at least 10 ratings; got 9 in '.*ratings.csv', add more"),
        (["user,item,rating", *ROWS[:8], *ROWS[:8]], r"at least two values of user; got only 'anna' in"),
        (["user,item,rating", *[f"{k},x,{k}" for k in range(12)]], r"at least two values of item; got only 'x' in"),
        (["user,item,rating", *[f"{k},{k},3" for k in range(12)]], r"ratings must differ .* deviation of 0 around 3"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_in_a_sentence(lines, message, tmp_path):
    with pytest.raises(ValueError, match=message) as caught:
        make_task("recommendation", file=write(tmp_path, *lines))
    assert "\n" not in str(caught.value)


def test_a_file_that_is_missing_or_not_text_is_named(tmp_path):
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(FileNotFoundError, match=r"a ratings file must exist; got '.*', use the path of a CSV file"):
            read_ratings(path)
    (tmp_path / "bytes.csv").write_bytes(b"user,item,rating\nJos\x00,1,2\n")
    with pytest.raises(ValueError, match=r"must be CSV text; got other bytes in '.*bytes.csv', save it as CSV"):
        read_ratings(tmp_path / "bytes.csv")


def test_a_file_of_another_country_is_the_same_file(tmp_path):
    expected = read_ratings(write(tmp_path, "user,item,rating", *[f"José {k % 3},{k % 4},{k / 2}" for k in range(12)]))
    rows = "".join(f"José {k % 3};{k % 4};{k / 2}\n".replace(".", ",") for k in range(12))
    path = tmp_path / "ratings.csv.gz"
    path.write_bytes(gzip.compress(("user;item;rating\n" + rows).encode("latin-1")))
    with pytest.warns(DataNote, match="is not UTF-8 and was read as cp1252"):
        ratings = read_ratings(path)
    assert torch.equal(ratings.values, expected.values)
    assert (ratings.users, ratings.items) == (expected.users, expected.items)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("recommendation:rank=0", "rank must be a positive integer; got 0"),
        ("recommendation:examples=0", "examples must be a positive integer; got 0"),
        ("recommendation:penalty=-1", "penalty must be a number of 0 or more; got -1"),
    ],
)
def test_bad_options_are_named(spec, message):
    with pytest.raises(ValueError, match=message):
        make_task(spec)


def test_the_loss_is_the_equation(tmp_path):
    family = make_task(
        "recommendation", file=write(tmp_path, "user,item,rating", *ROWS), rank=3, penalty=0.5, dtype=torch.float64
    )
    params, data, batch = draw(family)
    expected = 0.0
    users, items = params["factorisation.people.weight"], params["factorisation.works.weight"]
    for index in batch["index"].tolist():
        user, item = family.examples.inputs[index].tolist()
        u, v = users[user], items[item]
        error = family.examples.targets[index] - (u[:3] @ v[:3] + u[3] + v[3])
        expected += error**2 + 0.5 * (u @ u + v @ v)
    torch.testing.assert_close(family.loss(params, data, batch), expected / len(batch["index"]))


@pytest.mark.parametrize("from_file", [False, True])
def test_the_error_is_of_all_ratings_of_a_split_without_the_penalty(from_file, tmp_path):
    path = write(tmp_path, "user,item,rating", *ROWS) if from_file else None
    family = make_task("recommendation", file=path, examples=400, rank=2, dtype=torch.float64)
    params, data, _ = draw(family)
    nothing = {name: torch.zeros_like(value) for name, value in params.items()}
    # Where all is predicted to be the mean, the error is the deviation.
    ratings = data["targets"] if data else family.examples.targets
    for split, rows in family.examples.ranges.items():
        expected = ratings[slice(*rows)].square().mean().sqrt()
        torch.testing.assert_close(rating_error(family, nothing, data, split=split), expected)
        assert rating_error(family, params, data, split=split) != expected


def test_generated_ratings_are_each_students_own_and_learned():
    family = make_task("recommendation:rank=4")
    assert isinstance(family, GeneratedTask)
    params, data, _ = draw(family, 1)
    assert not torch.equal(data["inputs"], draw(family, 2)[1]["inputs"])
    assert float(data["targets"][:6000].std()) == pytest.approx(1, abs=1e-5)
    points = {name: value.requires_grad_() for name, value in params.items()}
    before = float(rating_error(family, points, data))
    optimizer, generator = torch.optim.Adam(points.values(), lr=0.03), torch.Generator().manual_seed(0)
    for _ in range(300):
        optimizer.zero_grad()
        family.loss(points, data, family.sample_batch(data, generator)).backward()
        optimizer.step()
    assert float(rating_error(family, points, data)) < 0.9 * before


def test_the_held_out_ratings_are_what_they_were():
    """Published results depend on them; torch's normal numbers end in other bits on other processors."""
    family = make_task("ratings-factorisation")
    params, data, batch = draw(family)
    assert list(params) == ["people.weight", "works.weight"]
    assert sum(float(leaf.double().sum()) for leaf in tree_leaves(params)) == pytest.approx(-3.86464, rel=1e-4)
    assert float(family.loss(params, data, batch)) == pytest.approx(1.148334, rel=1e-4)
