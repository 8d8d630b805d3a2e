"""What users have: tables, folders of images, Omniglot on disk."""

import numpy as np
import pytest
import torch
from PIL import Image

from l2l_opt.few_shot.classifier.image_folder import read_image_folder, read_images
from l2l_opt.few_shot.classifier.table import TableEncoder, read_table
from l2l_opt.few_shot.omniglot import load_omniglot
from l2l_opt.few_shot.sources import make_episodes

CSV = "amount,kind,age,fraud\n1.5,a,30,no\n2,b,40,yes\n-3e2,a,50,no\n"


def write(path, text):
    path.write_text(text)
    return path


def test_a_table_is_read_by_column(tmp_path):
    table = read_table(write(tmp_path / "t.csv", CSV), label="fraud")
    assert table.columns == {"amount": [1.5, 2.0, -300.0], "kind": ["a", "b", "a"], "age": [30.0, 40.0, 50.0]}
    assert table.classes == ["no", "yes"]
    assert table.targets().tolist() == [0, 1, 0]
    assert table.num_rows == 3


def test_other_separators_and_numbered_classes(tmp_path):
    table = read_table(write(tmp_path / "t.csv", "a;b\n1;10\n2;9\n"), label="b")
    assert table.classes == ["9", "10"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,b\n1,\n", ["every cell must have a value", "''", "line 2", "'b'"]),
        ("a,b\n1,2\nnan,3\n", ["every cell must have a value", "'nan'", "line 3", "'a'"]),
        ("a,b\n1,inf\n", ["'inf'"]),
        ("a,b\n1,2,3\n", ["as many cells as the header", "got 3 in line 2", "has 2"]),
        ("a,b\n", ["a header and rows", "0 rows"]),
        ("", ["a header and rows"]),
        ("a,a\n1,2\n", ["names of their own"]),
        ("b\n1\n", ["other columns than its label"]),
        ('a,b\n"1,2\n', ["must be CSV text"]),
    ],
)
def test_bad_tables_are_told_in_a_sentence(tmp_path, text, words):
    with pytest.raises(ValueError, match=" ") as caught:
        read_table(write(tmp_path / "t.csv", text), label="b")
    assert all(word in str(caught.value) for word in words), caught.value


def test_a_missing_column_or_file_is_named(tmp_path):
    with pytest.raises(ValueError, match="got 'fraude', use one of amount, kind, age, fraud"):
        read_table(write(tmp_path / "t.csv", CSV), label="fraude")
    with pytest.raises(FileNotFoundError, match="a table must exist"):
        read_table(tmp_path / "none.csv", label="x")
    (tmp_path / "b.csv").write_bytes(b"a,b\n\xff\xfe,1\n")
    with pytest.raises(ValueError, match="UTF-8"):
        read_table(tmp_path / "b.csv", label="b")


def test_columns_are_standardised_and_words_are_inputs(tmp_path):
    table = read_table(write(tmp_path / "t.csv", CSV), label="fraud")
    encoder = TableEncoder.fit(table.columns)
    inputs = encoder.encode(table.columns)
    assert inputs.shape == (3, encoder.num_inputs) == (3, 4)
    torch.testing.assert_close(inputs[:, :2].mean(0), torch.zeros(2), atol=1e-6, rtol=0)
    torch.testing.assert_close(inputs[:, :2].std(0, correction=0), torch.ones(2))
    assert inputs[:, 2:].tolist() == [[1, 0], [0, 1], [1, 0]]
    unseen = encoder.encode({"amount": [0.0], "kind": ["c"], "age": [1.0]})
    assert unseen[0, 2:].tolist() == [0, 0]


def test_far_values_are_compressed_and_constant_columns_are_zero():
    encoder = TableEncoder.fit({"a": [*map(float, range(20)), 1e9], "b": [3.0] * 21})
    inputs = encoder.encode({"a": [1e12], "b": [3.0]})
    assert inputs[0, 0].abs() < 20
    assert inputs[0, 1] == 0


def test_encoding_refuses_what_does_not_fit():
    encoder = TableEncoder.fit({"a": [1.0, 2.0], "k": ["x", "y"]})
    with pytest.raises(ValueError, match="got none named 'k'"):
        encoder.encode({"a": [1.0]})
    with pytest.raises(ValueError, match="column 'a' must hold numbers, as it did at first; got 'word'"):
        encoder.encode({"a": ["1", "word"], "k": ["x", "y"]})
    with pytest.raises(ValueError, match="at most 50 different ones; got 60 in 'k'"):
        TableEncoder.fit({"k": [str(n) + "x" for n in range(60)]})


def image_folder(root, counts, side=10):
    generator = np.random.default_rng(0)
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            pixels = generator.integers(0, 255, (side, side, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return root


def test_images_are_read_by_class(tmp_path):
    data = read_image_folder(image_folder(tmp_path / "photos", {"b": 2, "a": 3}), side=6, colour=True)
    assert data.images.shape == (5, 3, 6, 6)
    assert data.images.dtype == torch.uint8
    assert data.classes == ["a", "b"]
    assert data.labels.tolist() == [0, 0, 0, 1, 1]
    grey, files = read_images(tmp_path / "photos", side=6, colour=False)
    assert grey.shape == (5, 6, 6)
    assert [file.parent.name for file in files] == ["a", "a", "a", "b", "b"]


def test_bad_image_folders_are_told_in_a_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match="a folder of images must exist"):
        read_image_folder(tmp_path / "none")
    (tmp_path / "flat").mkdir()
    with pytest.raises(ValueError, match="a folder for each class; got none"):
        read_image_folder(tmp_path / "flat")
    root = image_folder(tmp_path / "photos", {"a": 2})
    (root / "empty").mkdir()
    with pytest.raises(ValueError, match="every class must have images; got none in .*empty"):
        read_image_folder(root)
    (root / "empty" / "x.png").write_bytes(b"not an image")
    with pytest.raises(ValueError, match="every image must be readable; got .*x.png"):
        read_image_folder(root)
    with pytest.raises(ValueError, match="there must be images"):
        read_images(tmp_path / "flat", side=4, colour=False)


def test_episodes_of_images_and_of_tables(tmp_path):
    root = image_folder(tmp_path / "photos", {str(n): 3 for n in range(10)})
    source = make_episodes(f"images:folder={root},side=8,ways=2,shots=1,queries=2", phase="meta-train")
    assert source.input_shape == (8, 8)
    assert source.sample(torch.Generator().manual_seed(0))["query_inputs"].shape == (4, 8, 8)
    rows = "\n".join(f"{n % 7},{n},{'abcdefghij'[n % 10]}" for n in range(60))
    file = write(tmp_path / "t.csv", f"x,y,kind\n{rows}\n")
    found = {
        phase: set(make_episodes(f"table:file={file},label=kind,ways=2,shots=2,queries=3", phase=phase).names)
        for phase in ("meta-train", "validation", "test")
    }
    assert [len(own) for own in found.values()] == [6, 2, 2]
    assert len(set.union(*found.values())) == 10
    few = make_episodes(f"table:file={file},label=kind,ways=2,shots=5,queries=1", phase="test")
    assert few.num_support == 10
    with pytest.raises(ValueError, match="at least shots \\+ queries = 8 examples; got 6"):
        make_episodes(f"table:file={file},label=kind,ways=2,shots=5,queries=3", phase="test")


def test_imbalanced_episodes_of_a_table(tmp_path):
    rows = "\n".join(f"{n},{n % 3},{'bad' if n % 8 == 0 else 'good'}" for n in range(400))
    file = write(tmp_path / "t.csv", f"x,y,kind\n{rows}\n")
    source = make_episodes(f"imbalanced:file={file},label=kind,support=12,queries=20", phase="test")
    episode = source.sample(torch.Generator().manual_seed(0))
    assert int(episode["support_targets"].sum()) == 3
    many = write(tmp_path / "m.csv", "x,kind\n" + "".join(f"{n},{n % 3}\n" for n in range(30)))
    with pytest.raises(ValueError, match="need two classes; got 3 in column 'kind'"):
        make_episodes(f"imbalanced:file={many},label=kind", phase="test")


def omniglot_npz(folder, characters=12):
    images = np.random.default_rng(0).integers(0, 255, (characters, 20, 28, 28), dtype=np.uint8)
    split = np.array(
        ["images_background"] * (characters * 2 // 3) + ["images_evaluation"] * (characters - characters * 2 // 3)
    )
    np.savez(folder / "omniglot28.npz", x=images, split=split)


def test_omniglot_is_found_as_one_file(tmp_path, monkeypatch):
    omniglot_npz(tmp_path)
    monkeypatch.setenv("L2L_OPT_DATA", str(tmp_path))
    load_omniglot.cache_clear()
    data = load_omniglot()
    assert data.images.shape == (12, 20, 28, 28)
    assert data.background.tolist() == [True] * 8 + [False] * 4
    source = make_episodes("omniglot:ways=2,split=background,queries=3", phase="test")
    assert set(source.names) == {8, 9, 10, 11}
    phases = [
        set(make_episodes(f"omniglot:ways=2,split=random,queries=3,root={tmp_path}", phase=phase).names)
        for phase in ("meta-train", "test")
    ]
    assert not phases[0] & phases[1]


def test_omniglot_is_found_as_torchvision_unpacks_it(tmp_path):
    for part, alphabet in (("images_background", "Greek"), ("images_evaluation", "Tengwar")):
        for character in range(2):
            folder = tmp_path / "omniglot" / "omniglot-py" / part / alphabet / f"character{character:02}"
            folder.mkdir(parents=True)
            for number in range(3):
                pixels = np.full((105, 105), 255, np.uint8)
                pixels[40:60] = 0
                Image.fromarray(pixels).convert("1").save(folder / f"{number}.png")
    data = load_omniglot(str(tmp_path))
    assert data.images.shape == (4, 3, 28, 28)
    assert int(data.images.max()) == 255
    assert data.images[0, 0, 0, 0] == 0
    assert data.background.tolist() == [True, True, False, False]


def test_omniglot_that_is_not_there_or_broken(tmp_path, monkeypatch):
    monkeypatch.delenv("L2L_OPT_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(FileNotFoundError, match="Omniglot must lie on this machine .*\\$L2L_OPT_DATA"):
        load_omniglot(str(tmp_path))
    np.savez(tmp_path / "omniglot28.npz", x=np.zeros((3, 4)))
    with pytest.raises(ValueError, match="must hold arrays x and split"):
        load_omniglot(str(tmp_path))
    np.savez(tmp_path / "omniglot28.npz", x=np.zeros((3, 4)), split=np.zeros(3))
    with pytest.raises(ValueError, match="must hold bytes"):
        load_omniglot(str(tmp_path))
