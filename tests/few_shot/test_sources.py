"""Episodes of what users have: tables, folders of images, Omniglot on disk."""

import numpy as np
import pytest
import torch
from PIL import Image

from l2l_opt.checks import DataNote
from l2l_opt.few_shot.omniglot import load_omniglot
from l2l_opt.few_shot.sources import make_episodes


def write(path, text):
    path.write_text(text)
    return path


def image_folder(root, counts, side=10):
    generator = np.random.default_rng(0)
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            pixels = generator.integers(0, 255, (side, side, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return root


@pytest.mark.filterwarnings("ignore::l2l_opt.checks.DataNote")
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


@pytest.mark.filterwarnings("ignore::l2l_opt.checks.DataNote")
def test_imbalanced_episodes_of_a_table(tmp_path):
    rows = "\n".join(f"{n},{n % 3},{'bad' if n % 8 == 0 else 'good'}" for n in range(400))
    file = write(tmp_path / "t.csv", f"x,y,kind\n{rows}\n")
    source = make_episodes(f"imbalanced:file={file},label=kind,support=12,queries=20", phase="test")
    episode = source.sample(torch.Generator().manual_seed(0))
    assert int(episode["support_targets"].sum()) == 3
    many = write(tmp_path / "m.csv", "x,kind\n" + "".join(f"{n},{n % 3}\n" for n in range(30)))
    with pytest.raises(ValueError, match="need two classes; got 3 in column 'kind'"):
        make_episodes(f"imbalanced:file={many},label=kind", phase="test")


def test_what_a_table_leaves_out_is_noted(tmp_path):
    rows = "".join(f"{n},{n % 7},{n % 5}\n" for n in range(60))
    file = write(tmp_path / "t.csv", f"id,x,kind\n{rows}")
    with pytest.warns(DataNote, match="left out, .* 'id' \\(it numbers the rows\\)"):
        source = make_episodes(f"table:file={file},label=kind,ways=2,shots=2,queries=3", phase="meta-train")
    assert source.input_shape == (1,)


def test_too_few_classes_are_refused_with_their_names_and_what_changes_it(tmp_path):
    """Three fifths of seven folders are four: the others are for validation and test."""
    root = image_folder(tmp_path / "photos", dict.fromkeys("abcdefg", 3))
    spec = f"images:folder={root},ways=5,queries=2"
    with pytest.raises(
        ValueError, match="got ways=5 and, of the 7 classes of '.*photos' that split=3x1x1 parts"
    ) as caught:
        make_episodes(spec, phase="meta-train")
    for words in ("4 for meta-train, 2 for validation, 1 for test", "use fewer ways, another split, or add classes"):
        assert words in str(caught.value)
    assert len(make_episodes(f"{spec},split=5x1x1", phase="meta-train").names) == 5
    with pytest.raises(ValueError, match="got 3 of '[a-g]' in '.*photos', which is for meta-train"):
        make_episodes(f"images:folder={root},ways=2,queries=3", phase="meta-train")
    for split in ("3x1", "3x0x1", "half"):
        with pytest.raises(ValueError, match=f"split must be three positive integers .* got '{split}', use 3x1x1"):
            make_episodes(f"{spec},split={split}", phase="test")


@pytest.mark.parametrize("source", ["table", "clusters"])
def test_too_few_classes_of_other_sources(tmp_path, source):
    file = write(tmp_path / "t.csv", "x,kind\n" + "".join(f"{n % 9},{n % 5}\n" for n in range(60)))
    spec = f"table:file={file},label=kind,ways=2,queries=2" if source == "table" else "clusters:ways=30"
    with pytest.raises(ValueError, match="split=3x1x1 parts into (3|60) for meta-train, (1|20) for validation"):
        make_episodes(spec, phase="validation")


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
