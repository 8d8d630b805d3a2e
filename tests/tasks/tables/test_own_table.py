"""A table of one's own: what is learned is seen, rows are held out, and what cannot be is refused in a sentence."""

from pathlib import Path

import numpy as np
import pytest
import torch

from l2l_opt.tasks import make_task
from l2l_opt.tasks.tables.own_rows import read_rows
from tests.own_data import write_rows


@pytest.fixture
def rows(tmp_path):
    return str(write_rows(tmp_path / "rows.csv"))


@pytest.mark.parametrize(
    ("target", "kind", "outputs", "loss"),
    [
        ("price", "auto", 1, "mse_loss"),
        ("kind", "auto", 2, "cross_entropy"),
        ("rooms", "auto", 3, "cross_entropy"),
        ("rooms", "numbers", 1, "mse_loss"),
        ("town", "classes", 3, "cross_entropy"),
    ],
)
def test_classes_and_numbers_are_recognised(rows, target, kind, outputs, loss):
    family = make_task("table-mlp", data=rows, target=target, kind=kind, hidden=5, layers=1)
    assert family.loss_fn.__name__ == loss
    assert family.module[-1].out_features == outputs
    assert family.module[0].out_features == 5


def test_inputs_and_numbers_are_standardised_on_training_rows_alone(rows):
    found = read_rows(rows, target="price", roles={"kind": "ignore", "rooms": "ignore", "town": "ignore"})
    first, border = found.examples.ranges["train"]
    assert (first, border, *found.examples.ranges["test"]) == (0, 96, 96, 120)
    assert found.examples.inputs.shape == (120, 3)
    for values in (found.examples.inputs.double(), found.examples.targets):
        torch.testing.assert_close(values[:border].mean(0), torch.zeros(values.shape[1]).double(), rtol=0, atol=1e-6)
        assert (values[border:].mean(0).abs() > 1e-3).all()
        assert values[:border].std(0).sub(1).abs().max() < 0.02


def test_other_test_rows_change_no_training_row(rows, tmp_path):
    """The last row in the order drawn is a test row: making it extreme leaves the training rows as they are."""
    lines = Path(rows).read_text().splitlines()
    last = int(torch.randperm(120, generator=torch.Generator().manual_seed(0))[-1])
    cells = lines[1 + last].split(",")
    lines[1 + last] = ",".join(["1000", *cells[1:4], "99999", *cells[5:]])
    (tmp_path / "other.csv").write_text("\n".join(lines))
    one, other = (read_rows(str(path), target="price").examples for path in (rows, tmp_path / "other.csv"))
    assert torch.equal(one.inputs[:96], other.inputs[:96])
    assert torch.equal(one.targets[:96], other.targets[:96])
    assert not torch.equal(one.inputs[96:], other.inputs[96:])


def test_rows_that_are_numbered_are_noted_and_left_out(tmp_path):
    lines = "".join(f"{1000 + row},{row % 7 + 0.5},{row % 2}\n" for row in range(30))
    (tmp_path / "t.csv").write_text("id,a,b\n" + lines)
    with pytest.warns(UserWarning, match="left out, unless named as numbers or words: 'id' .it numbers the rows."):
        assert make_task("table-mlp", data=str(tmp_path / "t.csv"), target="b").module[0].in_features == 1


def test_a_missing_cell_is_the_mean(rows, tmp_path):
    text = Path(rows).read_text().splitlines()
    cells = text[5].split(",")
    (tmp_path / "gap.csv").write_text("\n".join([*text[:5], ",".join(["", *cells[1:]]), *text[6:]]))
    with pytest.warns(UserWarning, match="without a value, taken as the mean"):
        found = read_rows(str(tmp_path / "gap.csv"), target="kind", roles={"price": "ignore"})
    assert found.examples.inputs.isfinite().all()
    assert (found.examples.inputs[:, 0] == 0).sum() == 1


def test_arrays_of_an_npz_file(tmp_path):
    random = np.random.default_rng(0)
    x = random.normal(3, 2, size=(50, 2, 3))
    x[:, 0, 0] = 7.0
    for name, y, outputs in (
        ("classes", x[:, 1, 1] > 3, 2),
        ("words", np.where(x[:, 1, 1] > 3, "much", "little"), 2),
        ("numbers", x[:, 1, 1], 1),
        ("several", x[:, 1], 3),
    ):
        np.savez(tmp_path / f"{name}.npz", x=x, y=y)
        found = read_rows(str(tmp_path / f"{name}.npz"))
        assert found.num_outputs == outputs
        assert found.examples.inputs.shape == (50, 6)
        assert found.examples.inputs[:, 0].abs().max() == 0


def write(path, text):
    path.write_text(text)
    return path


def few(count, target=lambda row: row % 2):
    return "a,b\n" + "".join(f"{row % 7 + 0.5},{target(row)}\n" for row in range(count))


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (few(3), {"target": "b"}, "a table must have at least 10 rows, of which a fifth is held out; got 3"),
        (few(20), {}, "target must name the column that is learned; got none .* use one of a, b"),
        (few(20), {"target": "c"}, "must be in the table; got 'c', use one of a, b"),
        (few(20, lambda row: 1), {"target": "b"}, "at least two classes to learn; got 1 alone"),
        (few(20, lambda row: 1), {"target": "b", "kind": "numbers"}, "must differ from each other; got 1 alone"),
        (few(20, "word{}".format), {"target": "b"}, "classes must occur again; got 20 different ones in 20 rows"),
        (few(20, "word{}".format), {"target": "b", "kind": "numbers"}, "numbers to learn must be numbers; got 'word0'"),
        (few(20, lambda row: "" if row == 4 else row % 2), {"target": "b"}, "must have a value .* line 6, column 'b'"),
        (few(20, lambda row: "nan" if row == 4 else row), {"target": "b"}, "must have a value .* got 'nan' in line 6"),
        (few(20), {"target": "b", "kind": "colours"}, "kind must be one of auto, classes, numbers; got 'colours'"),
        (few(20), {"target": "b", "dropout": 1.0}, r"dropout must lie in \[0, 1\); got 1.0"),
        (few(20), {"target": "b", "words": "z"}, "a column must be in the table; got 'z' to be words, use one of a"),
        ("", {"target": "b"}, "a header and rows"),
    ],
)
def test_a_table_that_cannot_be_learned_is_refused(text, options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        make_task("table-mlp", data=str(write(tmp_path / "t.csv", text)), **options)


@pytest.mark.parametrize(
    ("arrays", "options", "message"),
    [
        ({"x": np.zeros((20, 2))}, {}, "must hold the arrays x and y; got x"),
        ({"x": np.zeros((20, 2)), "y": np.zeros(19)}, {}, "x must be numbers .* got float64 .20, 2. and float64 .19."),
        (
            {"x": np.full((20, 2), np.nan), "y": np.arange(20.0)},
            {},
            "x must be finite; got NaN or infinity in 20 of 20",
        ),
        ({"x": np.ones((20, 2)), "y": np.full(20, np.nan)}, {}, "must be finite; got NaN or infinity in 20 of 20 rows"),
        ({"x": np.ones((20, 2)), "y": np.arange(20.0)}, {"target": "y"}, "columns have names in a CSV file alone"),
        ({"x": np.ones((20, 2)), "y": np.array([{}] * 20)}, {}, "an npz file must hold arrays of numbers or text"),
    ],
)
def test_arrays_that_cannot_be_learned_are_refused(arrays, options, message, tmp_path):
    np.savez(tmp_path / "t.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        make_task("table-mlp", data=str(tmp_path / "t.npz"), **options)


def test_what_is_no_file_of_rows_is_refused(tmp_path):
    (tmp_path / "t.npz").write_bytes(b"no zip")
    with pytest.raises(ValueError, match="an npz file must hold arrays"):
        make_task("table-mlp", data=str(tmp_path / "t.npz"))
    with pytest.raises(ValueError, match="must be a CSV or an npz file; got the folder"):
        make_task("table-mlp", data=str(tmp_path), target="a")


def test_a_file_that_has_changed_is_read_again(rows):
    one = make_task("table-mlp", data=rows, target="kind").examples
    text = Path(rows).read_text()
    Path(rows).write_text(text.replace("north", "far north"))
    assert torch.equal(one.targets, make_task("table-mlp", data=rows, target="kind").examples.targets)
    Path(rows).write_text(text + text.splitlines()[1] + "\n")
    assert len(make_task("table-mlp", data=rows, target="kind").examples.targets) == 121
