"""What every registered task family must do; a new one is covered by being registered."""

import contextlib
import gzip
import itertools
import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch.func import vmap
from torch.utils._pytree import tree_leaves, tree_map

from l2l_opt.inner_loop.training import training_losses
from l2l_opt.randomness import Stream
from l2l_opt.rules import make_rule
from l2l_opt.tasks import TASKS, TaskFamily, make_task
from l2l_opt.tasks.images.datasets import IDX_FILES
from tests.conftest import ODD_VALUES
from tests.own_data import options_of_own_data

NAMES = TASKS.names()


def write_idx(path, array):
    header = b"\x00\x00\x08" + bytes([array.ndim]) + b"".join(int(n).to_bytes(4, "big") for n in array.shape)
    content = header + array.astype(np.uint8).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory):
    """Small data sets in MNIST's format, where the loader will look."""
    root = tmp_path_factory.mktemp("data")
    generator = np.random.default_rng(0)
    templates = 200 * (generator.random((10, 28, 28)) < 0.2)
    for name in ("mnist", "fashion-mnist"):
        for split, size in (("train", 300), ("test", 60)):
            labels = np.arange(size) % 10
            images = templates[labels] + generator.integers(0, 50, (size, 28, 28))
            write_idx(root / name / IDX_FILES[split][0], images)
            write_idx(root / name / f"{IDX_FILES[split][1]}.gz", labels)
    write_cifar(root / "cifar10", size=20, templates=generator.integers(0, 256, (10, 3, 32, 32)))
    return root


def write_cifar(folder, *, size, templates, suffix=".bin"):
    """CIFAR-10 in its binary version, or as one image a row of PNG files; the labels go round."""
    folder.mkdir(parents=True, exist_ok=True)
    labels = np.arange(size) % 10
    images = templates[labels].astype(np.uint8)
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        if suffix == ".bin":
            records = np.concatenate([labels[:, None].astype(np.uint8), images.reshape(size, -1)], axis=1)
            (folder / f"{name}.bin").write_bytes(records.tobytes())
        else:
            Image.fromarray(images.transpose(0, 2, 3, 1).reshape(size, 1024, 3)).save(folder / f"{name}.png")
    if suffix != ".bin":
        (folder / "train_lables.json").write_text(json.dumps(labels.tolist() * 5))
        (folder / "test_lables.json").write_text(json.dumps(labels.tolist()))


@pytest.fixture(scope="session")
def own_data(tmp_path_factory):
    return options_of_own_data(tmp_path_factory.mktemp("own"))


@pytest.fixture
def make(data_folder, own_data, monkeypatch):
    monkeypatch.setenv("L2L_OPT_DATA", str(data_folder))
    return lambda name, **options: make_task(name, **own_data.get(name, {}), **options)


def draw(family, seed=0):
    generator = torch.Generator().manual_seed(seed)
    data = family.sample(generator)
    params = family.init_params(data, generator)
    return data, params, family.sample_batch(data, generator), family.sample_batch(data, generator, "test")


@pytest.mark.parametrize("name", NAMES)
def test_fulfils_the_protocol_and_describes_itself(name, make):
    assert isinstance(make(name), TaskFamily)
    assert len(TASKS.summary(name)) > 10


@pytest.mark.parametrize("name", NAMES)
def test_values_of_no_known_kind_are_refused_in_a_sentence(name, own_data, make):
    for option, value in itertools.product(TASKS.options(name), ODD_VALUES):
        own = own_data.get(name, {})
        if option == "device" or option in own:  # paths and columns of a file, and what PyTorch itself refuses
            continue
        with pytest.raises((ValueError, FileNotFoundError), match=r"must .*; got .*, use"):
            make(name, **{option: value})


@pytest.mark.parametrize("name", NAMES)
def test_whole_numbers_pass_for_numbers(name, make):
    for option, parameter in TASKS.options(name).items():
        if isinstance(parameter.default, float):
            with contextlib.suppress(ValueError):  # where 1 is too much
                assert all(value.isfinite().all() for value in draw(make(name, **{option: 1}))[1].values())


@pytest.mark.parametrize("name", NAMES)
def test_loss_is_a_deterministic_scalar_with_gradients(name, make):
    family = make(name)
    data, params, batch, test_batch = draw(family)
    # What starts at exactly zero hides others' gradients: the point is beside the first weights.
    noise = torch.Generator().manual_seed(1)
    points = {
        key: (value + 1e-3 * torch.randn(value.shape, generator=noise, dtype=value.dtype)).requires_grad_()
        for key, value in params.items()
    }
    loss = family.loss(points, data, batch)
    assert loss.dim() == 0
    assert torch.equal(loss, family.loss(points, data, batch))
    assert torch.isfinite(family.loss(points, data, test_batch))
    for key, gradient in zip(points, torch.autograd.grad(loss, list(points.values())), strict=True):
        assert gradient.abs().sum() > 0, key


@pytest.mark.parametrize("name", NAMES)
def test_all_randomness_comes_from_the_generator(name, make):
    family = make(name)
    torch.manual_seed(1)
    first = draw(family, seed=5)
    torch.manual_seed(2)
    state = torch.random.get_rng_state()
    second = draw(family, seed=5)
    assert torch.equal(state, torch.random.get_rng_state())
    for a, b in zip(tree_leaves(first), tree_leaves(second), strict=True):
        assert torch.equal(a, b)
    third = draw(family, seed=6)
    assert any(not torch.equal(a, b) for a, b in zip(tree_leaves(first[1]), tree_leaves(third[1]), strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", NAMES)
def test_keeps_the_dtype(name, dtype, make):
    family = make(name, dtype=dtype)
    data, params, batch, _ = draw(family)
    assert all(param.dtype == dtype for param in params.values())
    assert family.loss(params, data, batch).dtype == dtype


@pytest.mark.parametrize("name", NAMES)
def test_vmap_over_students_equals_a_loop(name, make):
    family = make(name, dtype=torch.float64)
    students = [draw(family, seed) for seed in range(3)]
    stacked = [tree_map(lambda *leaves: torch.stack(leaves), *(s[part] for s in students)) for part in range(3)]
    losses = vmap(family.loss)(stacked[1], stacked[0], stacked[2])
    alone = torch.stack([family.loss(s[1], s[0], s[2]) for s in students])
    torch.testing.assert_close(losses, alone, rtol=1e-12, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_students_learn_with_adam(name, make):
    curves = training_losses(
        make_rule("adam", lr=0.03), make(name), numbers=range(3), horizon=60, seed=0, stream=Stream.TUNING
    )
    assert curves[-5:].mean() < 0.9 * curves[:5].mean()
