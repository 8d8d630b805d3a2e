"""Pieces of photographs, noise in batches, tables."""

import pytest
import torch

from l2l_opt.tasks import make_task
from l2l_opt.tasks.images.photographs import load_pictures, tiles
from l2l_opt.tasks.images.siren import pixels
from l2l_opt.tasks.images.variational import evidence_loss
from l2l_opt.tasks.tables.small_tables import table_examples


def test_tiles_cover_the_pictures_once():
    pictures = torch.arange(2 * 2 * 4 * 6.0).reshape(2, 2, 4, 6)
    pieces, quarter = tiles(pictures, 2)
    assert pieces.shape == (12, 2, 2, 2)
    assert pieces.flatten().sort().values.tolist() == list(range(96))
    assert torch.bincount(quarter, minlength=8).tolist() == [2, 1] * 4
    first = next(index for index, piece in enumerate(pieces) if piece[0, 0, 0] == 0)
    assert quarter[first] == 0
    assert pieces[first, 1].tolist() == [[24, 25], [30, 31]]


def test_pictures_are_photographs():
    pictures = load_pictures()
    assert pictures.shape == (2, 3, 427, 640)
    assert 0 <= float(pictures.min()) < 0.1 < 0.9 < float(pictures.max()) <= 1


def test_pixels_are_places_and_colours_of_one_picture():
    examples = pixels()
    assert examples.inputs.shape == (64 * 96, 2)
    assert examples.targets.shape == (64 * 96, 3)
    assert examples.inputs.abs().max() == 1
    # The sky of the temple is brighter than its ground.
    top, bottom = examples.inputs[:, 0] < -0.8, examples.inputs[:, 0] > 0.8
    assert examples.targets[top].mean() > examples.targets[bottom].mean() + 0.2


@pytest.mark.parametrize("name", ["picture-vae", "picture-denoising"])
def test_noise_comes_with_the_batch(name):
    family = make_task(name)
    generator = torch.Generator().manual_seed(0)
    params = family.init_params({}, generator)
    batch, other = family.sample_batch({}, generator), family.sample_batch({}, generator)
    assert batch["noise"].shape[0] == batch["index"].shape[0]
    assert float(batch["noise"].std()) == pytest.approx(1, abs=0.1)
    mixed = {"index": batch["index"], "noise": other["noise"]}
    assert family.loss(params, {}, batch) == family.loss(params, {}, batch)
    assert family.loss(params, {}, batch) != family.loss(params, {}, mixed)


def test_the_evidence_of_a_perfect_guess_is_the_divergence():
    images = torch.rand(3, 8, 8, dtype=torch.float64)
    mean = torch.full((3, 2), 0.5, dtype=torch.float64)
    log_variance = torch.full((3, 2), -1.0, dtype=torch.float64)
    normal = torch.distributions.Normal
    divergence = torch.distributions.kl_divergence(normal(mean, (log_variance / 2).exp()), normal(0.0, 1.0)).sum(-1)
    torch.testing.assert_close(evidence_loss((images, mean, log_variance), images), divergence.mean() / 64)
    moved = evidence_loss((images + 0.1, mean, log_variance), images)
    torch.testing.assert_close(moved, divergence.mean() / 64 + 0.5)


def test_a_sine_network_starts_with_spread_outputs():
    family = make_task("picture-siren:hidden=256,layers=4")
    params = family.init_params({}, torch.Generator().manual_seed(0))
    hidden = torch.func.functional_call(family.module, params, (family.examples.inputs,))
    assert hidden.shape == (64 * 96, 3)
    x = family.examples.inputs
    for layer in range(4):
        x = torch.sin(30 * (x @ params[f"{layer}.weight"].T + params[f"{layer}.bias"]))
        assert float(x.std()) == pytest.approx(0.7, abs=0.1)


@pytest.mark.parametrize(
    ("name", "rows", "columns", "classes"),
    [("iris", 150, 4, 3), ("wine", 178, 13, 3), ("breast_cancer", 569, 30, 2), ("diabetes", 442, 10, 0)],
)
def test_tables_are_standardised_and_split(name, rows, columns, classes):
    examples, num_classes = table_examples(name)
    known = examples.inputs[: examples.ranges["train"][1]]
    assert examples.inputs.shape == (rows, columns)
    assert num_classes == classes
    assert examples.ranges["test"] == (rows * 4 // 5, rows)
    torch.testing.assert_close(known.std(0), torch.ones(columns, dtype=torch.float64))
    assert known.mean(0).abs().max() < 1e-9
    if classes:
        assert torch.bincount(examples.targets).min() > 40
    else:
        assert examples.targets.shape == (rows, 1)
